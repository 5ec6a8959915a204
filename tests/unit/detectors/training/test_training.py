"""The one training loop: members that do not know of each other, early stopping, and loud failures."""

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from assay.detectors.training import checkpoints
from assay.detectors.training.batches import Batches
from assay.detectors.training.loop import Compute, member_streams, pick_device, pinned_threads, train_network
from assay.detectors.training.updates import Schedule, Step
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
    train_network(network, errors_of(network), [data], schedule, streams, compute=Compute(CPU), **how)
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
    train_network(
        network,
        spoiling,
        [rows()],
        long,
        streams,
        compute=Compute(CPU),
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

    train_network(
        network,
        worse_and_worse,
        [rows()],
        Schedule(200, 32, 1e-3, 0.0),
        streams,
        compute=Compute(CPU),
        progress=lambda epoch, _, __: seen.append(epoch),
    )
    assert len(seen) == 21


def test_progress_is_told_every_epoch() -> None:
    told: list[tuple[int, int, float]] = []
    trained(member_streams(0, 2), rows(), progress=lambda *now: told.append(now))
    assert [now[:2] for now in told] == [(epoch, 15) for epoch in range(1, 16)]
    assert told[-1][2] < told[0][2]


@pytest.mark.parametrize(("most", "epochs"), [(None, 15), (60, 15), (59, 15), (57, 15), (56, 14), (9, 3), (1, 1)])
def test_steps_end_a_training_that_epochs_would_let_go_on(most: int | None, epochs: int) -> None:
    seen: list[tuple[int, int]] = []
    schedule = replace(SCHEDULE, max_steps=most)  # 108 rows, of which a batch is 32: four steps
    bounded = trained(member_streams(0, 2), rows(), schedule, progress=lambda *now: seen.append(now[:2]))
    assert seen == [(epoch, epochs) for epoch in range(1, epochs + 1)]
    as_many = trained(member_streams(0, 2), rows(), replace(SCHEDULE, epochs=epochs))
    assert all(torch.equal(bounded[name], as_many[name]) for name in as_many)


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

    train_network(
        network, loss, [data, np.arange(len(data))], Schedule(2, 50, 1e-3, 0.0), streams, compute=Compute(CPU)
    )


@pytest.mark.parametrize("n", [2, 3, 11])
def test_few_rows_and_large_batches(n: int) -> None:
    state = trained(member_streams(0, 2), rows(n), Schedule(3, 10_000, 1e-3, 0.0))
    assert all(bool(torch.isfinite(value).all()) for value in state.values())


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_rows_are_refused(n: int) -> None:
    with pytest.raises(TrainingError, match=f"{n} training rows"):
        trained(member_streams(0, 1), rows(n))


def test_companions_alone_are_too_few_rows() -> None:
    marked = np.arange(10) > 0
    with pytest.raises(TrainingError, match="1 training rows that are not labelled anomalies \\(9 are\\); at least 2"):
        trained(member_streams(0, 1), rows(10), companions=(marked, 4))


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
        train_network(network, loss, [rows()], SCHEDULE, streams, compute=Compute(CPU))


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
        train_network(network, deaf, [rows()], SCHEDULE, streams, compute=Compute(CPU))


def test_the_learning_rate_falls_from_full_to_nothing() -> None:
    rates = [SCHEDULE.share(epoch) for epoch in range(15)]
    assert rates[0] == 1
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
        train_network(network, errors_of(network), [rows()], SCHEDULE, streams, compute=Compute(torch.device(device)))
        states[device] = network.state_dict()
    np.testing.assert_allclose(loss_of(states["cuda"], rows()), loss_of(states["cpu"], rows()), rtol=0.05)


class StopError(Exception):
    """An interruption."""


def stop_at(epoch: int, seen: list[int]) -> Any:
    def progress(now: int, _: int, __: float) -> None:
        seen.append(now)
        if now == epoch:
            raise StopError

    return progress


@pytest.mark.parametrize("patience", [20, 3, None])
def test_an_interrupted_training_goes_on_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int | None
) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
    schedule = Schedule(epochs=15, batch_size=32, learning_rate=1e-2, weight_decay=1e-6, patience=patience)
    whole = trained(member_streams(0, 2), rows(), schedule)
    file, seen = tmp_path / "state.safetensors", list[int]()
    with pytest.raises(StopError):
        trained(member_streams(0, 2), rows(), schedule, checkpoint=file, progress=stop_at(7, seen))
    resumed = trained(member_streams(0, 2), rows(), schedule, checkpoint=file, progress=stop_at(99, seen))
    assert seen[:9] == [1, 2, 3, 4, 5, 6, 7, 7, 8]  # the seventh was told, and not saved any more
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    finished = trained(member_streams(0, 2), rows(), schedule, checkpoint=file, progress=stop_at(1, []))
    assert all(torch.equal(whole[name], finished[name]) for name in whole)


@pytest.mark.parametrize("what", ["rows", "seed", "schedule", "loss", "damaged", "layout"])
def test_a_state_of_another_training_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    file = tmp_path / "state.safetensors"
    trained(member_streams(0, 2), rows(), checkpoint=file)
    data = rows() + 1 if what == "rows" else rows()
    streams = member_streams(1 if what == "seed" else 0, 2)
    schedule = Schedule(15, 32, 5e-3, 1e-6) if what == "schedule" else SCHEDULE
    if what == "damaged":
        file.write_bytes(file.read_bytes()[:-100])
    if what == "layout":
        monkeypatch.setattr(checkpoints, "LAYOUT", "another")
    seen: list[int] = []
    settings = "another loss" if what == "loss" else ""
    trained(streams, data, schedule, checkpoint=file, settings=settings, progress=stop_at(99, seen))
    assert seen[0] == 1


def test_parameters_that_no_gradient_reached_do_not_hinder_going_on(tmp_path: Path) -> None:
    def run(epochs: int, seen: list[int]) -> dict[str, Tensor]:
        network, streams = build(1), member_streams(0, 1)
        initialise(network, streams)

        def loss(batch: Tensor) -> Tensor:
            return network.encode(batch).square().mean(dim=2)  # nothing of the decoder

        how: dict[str, Any] = {"checkpoint": tmp_path / "state.safetensors", "progress": stop_at(epochs, seen)}
        train_network(network, loss, [rows()], SCHEDULE, streams, compute=Compute(CPU), **how)
        return network.state_dict()

    whole, again = run(99, []), list[int]()
    resumed = run(99, again)
    assert again == []
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_members_may_have_rates_of_their_own() -> None:
    rates, decays = (1e-2, 3e-3, 1e-3), (0.0, 1e-2, 1e-1)
    together = trained(member_streams(0, 3), rows(), Schedule(15, 32, rates, decays))
    for member in range(3):
        schedule = Schedule(15, 32, rates[member], decays[member])
        alone = trained(member_streams(0, 3)[member : member + 1], rows(), schedule)
        for name, value in alone.items():
            torch.testing.assert_close(together[name][member], value[0], rtol=1e-3, atol=1e-4)


def observe(n_rows: int, **how: Any) -> list[tuple[Tensor, Tensor]]:
    """Train a little with noise of width 3; return the batches of both passes of two members: row numbers, noise."""
    network, seen = build(2), list[tuple[Tensor, Tensor]]()
    streams = member_streams(0, 2)
    initialise(network, streams)

    def loss(x: Tensor, number: Tensor, noise: Tensor) -> Tensor:
        seen.append((number.clone(), noise.clone()))
        return errors(network, x)

    schedule = Schedule(2, 32, 1e-3, 0.0, patience=None)
    numbers = np.arange(n_rows)
    train_network(network, loss, [rows(n_rows), numbers], schedule, streams, compute=Compute(CPU), noise=3, **how)
    return seen


def test_companions_join_every_batch_and_leave_the_passes() -> None:
    marked = np.arange(100) % 20 == 7
    seen = observe(100, companions=(marked, 4))
    for number, noise in seen:
        assert np.isin(number[:, -4:], np.flatnonzero(marked)).all()
        assert noise.shape == (*number.shape, 3)
    one_pass = torch.cat([number[:, :-4] for number, _ in seen[: len(seen) // 2]], dim=1)
    for member in one_pass:
        assert sorted(member.tolist()) == np.flatnonzero(~marked).tolist()
    companions = torch.cat([number[0, -4:] for number, _ in seen]).tolist()
    assert set(companions) == set(np.flatnonzero(marked).tolist())


def test_noise_is_fresh_in_every_batch_and_each_members_own() -> None:
    noise = torch.cat([drawn for _, drawn in observe(500)], dim=1)
    assert noise.mean().abs() < 0.1
    assert (noise.std() - 1).abs() < 0.1
    assert len(noise.flatten().unique()) > 0.99 * noise.numel()


def test_noise_takes_the_memory_of_a_batch_not_of_an_epoch() -> None:
    network, streams = build(2), member_streams(0, 2)
    initialise(network, streams)
    schedule, width = Schedule(1, 20, 1e-3, 0.0, patience=None), 500
    tracemalloc.start()
    try:
        how: dict[str, Any] = {"compute": Compute(CPU), "noise": width}
        train_network(network, lambda x, noise: errors(network, x), [rows(2000)], schedule, streams, **how)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * 2000 * width * 4 / 4


def test_each_step_updates_its_own_parameters() -> None:
    network = build(1)
    streams = member_streams(0, 1)
    initialise(network, streams)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    loss = errors_of(network)
    steps = [Step(loss, list(network.decoder.parameters())), Step(loss, [network.encoder[0].weight])]
    train_network(network, steps, [rows()], SCHEDULE, streams, compute=Compute(CPU))
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("decoder")} | {"encoder.0.weight"}


def test_rows_are_read_where_they_are_and_those_that_cannot_be_are_copied() -> None:
    """On the CPU the batches come from the array itself, a mapped file for instance, and nothing changes it."""
    writable = rows(40)
    before, fixed = writable.copy(), writable.copy()
    fixed.flags.writeable = False
    in_place, copied = (Batches([each], SCHEDULE, member_streams(0, 2), 0, None, CPU) for each in (writable, fixed))
    assert in_place.data[0].data_ptr() == writable.ctypes.data
    assert copied.data[0].data_ptr() != fixed.ctypes.data
    for ours, theirs in zip(in_place.epoch(), copied.epoch(), strict=True):
        assert torch.equal(ours[0], theirs[0])
        ours[0].zero_()
    np.testing.assert_array_equal(writable, before)
