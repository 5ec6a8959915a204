"""The one training loop: members that do not know of each other, early stopping, and loud failures."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from assay.detectors.training import Schedule, member_streams, pick_device, pinned_threads, train
from assay.errors import ConfigError, TrainingError
from assay.networks.lenet import LeNetAutoencoder
from assay.networks.mlp import MLPAutoencoder, initialise

CPU = torch.device("cpu")
SCHEDULE = Schedule(epochs=15, batch_size=32, learning_rate=1e-2, weight_decay=1e-6)
Network = MLPAutoencoder | LeNetAutoencoder


def rows(n: int = 120, d: int = 16) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(n, 3)) @ rng.normal(size=(3, d))).astype(np.float32)


def build(members: int, *, images: bool = False) -> Network:
    if images:
        return LeNetAutoencoder(members, (4, 4), [8], 2)
    return MLPAutoencoder(members, 16, [8], 2)


def errors(network: torch.nn.Module, batch: Tensor) -> Tensor:
    found: Tensor = (network(batch) - batch).square()
    return found.mean(dim=2)


def errors_of(network: torch.nn.Module) -> Any:
    return lambda batch: errors(network, batch)


def trained(
    streams: list[np.random.Generator], data: NDArray[np.float32], schedule: Schedule = SCHEDULE, **how: Any
) -> dict[str, Tensor]:
    network = build(len(streams), images=how.pop("images", False))
    initialise(network, streams)
    train(network, errors_of(network), [data], schedule, streams, device=CPU, **how)
    return network.state_dict()


def loss_of(state: dict[str, Tensor], data: NDArray[np.float32]) -> NDArray[np.float32]:
    network = build(len(next(iter(state.values()))))
    network.load_state_dict(state)
    with torch.no_grad():
        losses: Tensor = errors_of(network)(torch.tensor(data).expand(len(state["encoder.0.bias"]), -1, -1))
    return losses.mean(dim=1).numpy()


@pytest.mark.parametrize("images", [False, True])
def test_members_equal_separate_trainings(images: bool) -> None:
    together = trained(member_streams(0, 3), rows(), images=images)
    for member in range(3):
        alone = trained(member_streams(0, 3)[member : member + 1], rows(), images=images)
        for name, value in alone.items():
            torch.testing.assert_close(together[name][member], value[0], rtol=1e-3, atol=1e-4)
    first = together["encoder.0.weight"]
    assert not torch.allclose(first[0], first[1], atol=0.05)


def test_training_is_repeatable_to_the_bit_and_lowers_the_loss() -> None:
    first, second = (trained(member_streams(0, 2), rows()) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    untrained = build(2)
    initialise(untrained, member_streams(0, 2))
    assert (loss_of(first, rows()) < 0.7 * loss_of(untrained.state_dict(), rows())).all()


def test_it_leaves_the_global_random_state_and_threads_alone() -> None:
    torch.rand(1)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index] # noqa: NPY002
    threads = torch.get_num_threads()
    with pinned_threads():
        assert torch.get_num_threads() == 1
    trained(member_streams(0, 1), rows())
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()  # type: ignore[index] # noqa: NPY002


def with_noise_after(network: Network, epoch: int, member: int, steps: int) -> Any:
    """Return a loss that, after some epochs, pushes one member away from what it has learned."""
    count = 0

    def loss(batch: Tensor) -> Tensor:
        nonlocal count
        count += network.training
        found = errors(network, batch)
        spoilt = (torch.arange(len(found)) == member) & torch.tensor(count > epoch * steps)
        return torch.where(spoilt[:, None], 10.0 + (network(batch) - 50.0).square().mean(dim=2), found)

    return loss


def test_a_member_keeps_its_best_epoch_and_does_not_touch_the_others() -> None:
    """Member 0 gets worse from epoch 6 on; what is kept is its epoch 5, whatever the others do."""
    long = Schedule(epochs=40, batch_size=32, learning_rate=3e-3, weight_decay=0.0)
    streams = member_streams(0, 2)
    network = build(2)
    initialise(network, streams)
    seen: list[int] = []
    steps = 4
    spoiling = with_noise_after(network, epoch=5, member=0, steps=steps)
    train(
        network,
        spoiling,
        [rows()],
        long,
        streams,
        device=CPU,
        progress=lambda epoch, _, __: seen.append(epoch),
    )
    unspoilt = trained(member_streams(0, 2), rows(), long)
    state = network.state_dict()
    for name, value in unspoilt.items():
        torch.testing.assert_close(state[name][1], value[1], rtol=1e-3, atol=1e-4)
    assert seen == list(range(1, 41))
    initial = build(2)
    initialise(initial, member_streams(0, 2))
    kept, start = loss_of(state, rows())[0], loss_of(initial.state_dict(), rows())[0]
    assert loss_of(unspoilt, rows())[0] < kept < start


def test_it_stops_when_no_member_gets_better() -> None:
    streams = member_streams(0, 2)
    network = build(2)
    initialise(network, streams)
    seen: list[int] = []

    def worse_and_worse(batch: Tensor) -> Tensor:
        return errors(network, batch) + (0.0 if network.training else len(seen))

    train(
        network,
        worse_and_worse,
        [rows()],
        Schedule(200, 32, 1e-3, 0.0),
        streams,
        device=CPU,
        progress=lambda epoch, _, __: seen.append(epoch),
    )
    assert len(seen) == 21


def test_progress_is_told_every_epoch() -> None:
    told: list[tuple[int, int, float]] = []
    trained(member_streams(0, 2), rows(), progress=lambda *now: told.append(now))
    assert [now[:2] for now in told] == [(epoch, 15) for epoch in range(1, 16)]
    assert told[-1][2] < told[0][2]


def test_data_stay_aligned() -> None:
    """Row-aligned arrays of any kind reach the loss together."""
    streams = member_streams(0, 2)
    network = build(2)
    initialise(network, streams)
    data = rows()

    def loss(batch: Tensor, number: Tensor) -> Tensor:
        torch.testing.assert_close(batch, torch.tensor(data)[number])
        assert len(torch.unique(number[0])) == number.shape[1]
        return errors(network, batch)

    train(network, loss, [data, np.arange(len(data))], Schedule(2, 50, 1e-3, 0.0), streams, device=CPU)


@pytest.mark.parametrize("n", [2, 3, 11])
def test_few_rows_and_large_batches(n: int) -> None:
    state = trained(member_streams(0, 2), rows(n), Schedule(3, 10_000, 1e-3, 0.0))
    assert all(bool(torch.isfinite(value).all()) for value in state.values())


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_rows_are_refused(n: int) -> None:
    with pytest.raises(TrainingError, match=f"{n} training rows"):
        trained(member_streams(0, 1), rows(n))


def test_a_loss_that_is_not_finite_names_epoch_and_member() -> None:
    streams = member_streams(0, 3)
    network = build(3)
    initialise(network, streams)
    count = 0

    def loss(batch: Tensor) -> Tensor:
        nonlocal count
        count += network.training
        factor = torch.ones(3, 1)
        factor[1] = float("nan") if count > 8 else 1.0
        return errors(network, batch) * factor

    with pytest.raises(TrainingError, match=r"epoch 3: the loss of member 1 is nan.*learning_rate"):
        train(network, loss, [rows()], SCHEDULE, streams, device=CPU)


def test_a_huge_learning_rate_is_reported_not_returned() -> None:
    wild = Schedule(50, 32, 1e30, 0.0)
    with pytest.raises(TrainingError, match="learning_rate"):
        trained(member_streams(0, 2), rows(), wild)


def test_a_member_without_gradient_is_reported() -> None:
    streams = member_streams(0, 3)
    network = build(3)
    initialise(network, streams)

    def deaf(batch: Tensor) -> Tensor:
        heard = torch.tensor([[1.0], [1.0], [0.0]])
        return errors(network, batch) * heard

    with pytest.raises(TrainingError, match="no gradient reaches member 2"):
        train(network, deaf, [rows()], SCHEDULE, streams, device=CPU)


def test_the_learning_rate_falls_from_full_to_nothing() -> None:
    rates = [SCHEDULE.rate(epoch) for epoch in range(15)]
    assert rates[0] == SCHEDULE.learning_rate
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.05 * rates[0]


def test_devices() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no GPU"):
            pick_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_starts_from_the_same_parameters_and_gets_as_far() -> None:
    states = {}
    for device in ("cpu", "cuda"):
        streams = member_streams(0, 2)
        network = build(2)
        initialise(network, streams)
        train(network, errors_of(network), [rows()], SCHEDULE, streams, device=torch.device(device))
        states[device] = network.state_dict()
    np.testing.assert_allclose(loss_of(states["cuda"], rows()), loss_of(states["cpu"], rows()), rtol=0.05)
