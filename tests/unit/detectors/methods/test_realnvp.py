"""The normalising flow."""

from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import make_moons

from assay.detectors.methods.realnvp import RealNVP
from assay.detectors.training.loop import member_streams
from assay.errors import TrainingError
from assay.networks.coupling import Coupling, CouplingFlow
from assay.networks.mlp import initialise

Floats = NDArray[np.float32]


def flow(n_features: int, n_couplings: int) -> CouplingFlow:
    """Return two flows with random parameters."""
    network = CouplingFlow(2, n_features, n_couplings, (8,))
    initialise(network, member_streams(0, 2))
    return network.double()


def normal(n: int, width: int, seed: int) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=(2, n, width)))


@pytest.mark.parametrize(("n_features", "n_couplings"), [(2, 2), (5, 3), (4, 5)])
def test_it_knows_its_determinant(n_features: int, n_couplings: int) -> None:
    network = flow(n_features, n_couplings)
    x = normal(3, n_features, seed=1)
    z, log_determinants = network(x)
    assert (z - x).abs().max() > 0.1
    for member in range(2):
        for row in range(3):

            def mapped(one: torch.Tensor, member: int = member) -> torch.Tensor:
                latent: torch.Tensor = network(one.expand(2, 1, -1))[0]
                return latent[member, 0]

            jacobian = torch.func.jacrev(mapped)(x[member, row])
            _, expected = torch.linalg.slogdet(jacobian)
            torch.testing.assert_close(log_determinants[member, row], expected)


def test_it_starts_as_the_identity_and_can_leave_it() -> None:
    network = flow(5, 3)
    network.to_identity()
    x = normal(4, 5, seed=1)
    torch.testing.assert_close(network(x)[0], x)
    network.negative_log_likelihood(x).sum().backward()  # type: ignore[no-untyped-call]
    last = cast(Coupling, network.couplings[0]).net[-1]
    assert all(parameter.grad is not None and parameter.grad.abs().min() > 0 for parameter in last.parameters())


def test_a_trained_density_integrates_to_one() -> None:
    rows = (make_moons(400, noise=0.1, random_state=0)[0] / [0.9, 0.5]).astype(np.float32)
    detector = RealNVP(members=1, n_couplings=4, epochs=60, learning_rate=1e-2, device="cpu").fit(rows)
    side = np.arange(-7, 8, 0.1, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    density = np.exp(-2 * detector.decision_function(grid).astype(np.float64))
    assert density.sum() * 0.1**2 == pytest.approx(1.0, abs=0.02)


def test_it_comes_near_the_entropy_of_a_gaussian() -> None:
    """No density has a lower mean score than the true one, whose mean is the entropy."""
    covariance = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 4.0]])
    rng = np.random.default_rng(0)
    train, test = (rng.multivariate_normal(np.ones(3), covariance, size=n).astype(np.float32) for n in (1000, 4000))
    detector = RealNVP(members=1, n_couplings=4, epochs=60, learning_rate=1e-2, noise_scale=0.0, device="cpu")
    found = detector.fit(train).decision_function(test).mean()
    entropy = 0.5 * np.log(np.linalg.det(2 * np.pi * np.e * covariance)) / 3
    assert entropy - 0.03 < found < entropy + 0.06


def test_columns_without_a_density_do_not_drown_the_others() -> None:
    """The likelihood of a constant column is at most that of the noise."""
    rng = np.random.default_rng(0)
    rows = np.column_stack([np.zeros(300), rng.integers(3, size=300), rng.normal(size=300)]).astype(np.float32)
    detector = RealNVP(members=1, epochs=100, learning_rate=1e-2, noise_scale=0.1, device="cpu").fit(rows)
    least = -np.log(1 / (0.1 * np.sqrt(2 * np.pi)))
    assert detector.decision_function(rows).min() > least


def test_a_member_is_what_it_would_be_alone() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    one, two = (RealNVP(epochs=4, members=m, device="cpu").fit(rows) for m in (1, 2))
    for name, array in one.to_part().arrays.items():
        np.testing.assert_allclose(two.to_part().arrays[name][:1], array, atol=1e-5)


def test_one_column_is_refused() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 1)).astype(np.float32)
    with pytest.raises(TrainingError, match="rows have 1 column; give at least 2, or use kde"):
        RealNVP().fit(rows)


def test_codes_are_the_latent_rows() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    detector = RealNVP(epochs=3, members=2, device="cpu").fit(rows)
    codes = detector.embed(rows)
    latent, _ = detector.network_(torch.tensor(rows, dtype=torch.float64).expand(2, 200, 3))
    np.testing.assert_allclose(codes, latent.detach(), atol=1e-5)
