"""DAGMM: a mixture of Gaussians on code and reconstruction error."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture

from assay.detectors.methods.dagmm import DAGMM
from assay.errors import TrainingError
from assay.networks.mixture import COVARIANCE_RIDGE, Mixture, energy, moments

Floats = NDArray[np.float32]


def two_planes(n: int, seed: int, *, off: float = 0.0) -> Floats:
    """Rows near two clusters, each flat in its own way; `off` moves them away at random."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(n, 2)) @ [[1, 0, 1, 0, 1, 0], [0, 1, 0, -1, 0, 1]] * 0.4 + 1
    second = rng.normal(size=(n, 2)) @ [[1, 1, 0, 0, -1, 0], [0, 0, 1, 1, 0, -1]] * 0.4 - 1
    rows = np.where(rng.random((n, 1)) < 0.5, first, second) + 0.1 * rng.normal(size=(n, 6))
    return (rows + off * rng.normal(size=(n, 6))).astype(np.float32)


def test_a_training_that_explodes_is_reported() -> None:
    with pytest.raises(TrainingError, match="learning_rate"):
        DAGMM(learning_rate=1e30, epochs=3, members=2, device="cpu").fit(two_planes(100, 0))


def test_the_energy_is_that_of_scikit_learns_mixture() -> None:
    rng = np.random.default_rng(0)
    mixture = GaussianMixture(3, random_state=0).fit(rng.normal(size=(200, 4)) * [1, 2, 0.1, 1])
    x = 2 * rng.normal(size=(50, 4))
    given = [torch.tensor(a[None]) for a in (x, mixture.weights_, mixture.means_, mixture.covariances_)]
    np.testing.assert_allclose(energy(*given)[0].numpy(), -mixture.score_samples(x), rtol=1e-6)


def test_moments_are_weighted_means_and_covariances() -> None:
    rng = np.random.default_rng(0)
    x, shares = rng.normal(size=(2, 30, 3)), rng.dirichlet([1, 1], size=(2, 30))
    weights, means, covariances = (m.numpy() for m in moments(torch.tensor(x), torch.tensor(shares)))
    for s in range(2):
        np.testing.assert_allclose(weights[s], shares[s].mean(axis=0))
        for k in range(2):
            np.testing.assert_allclose(means[s, k], np.average(x[s], axis=0, weights=shares[s, :, k]))
            expected = np.cov(x[s].T, aweights=shares[s, :, k], ddof=0)
            expected += COVARIANCE_RIDGE * np.diag(1 + np.diag(expected))
            np.testing.assert_allclose(covariances[s, k], expected)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_no_mixture_is_singular_in_float32(scale: float) -> None:
    """Collinear or constant features, and a component without rows."""
    line = torch.linspace(0, scale, 40).reshape(1, 40, 1).repeat(1, 1, 5)
    shares = torch.tensor([[1.0, 0.0]]).expand(1, 40, 2)
    mixture = Mixture(1, 2, 5)
    mixture.settle(line, shares)
    found = mixture(line)
    assert torch.isfinite(found).all()
    assert found.min() >= 0.5 * 5 * np.log(2 * np.pi * COVARIANCE_RIDGE) - 1e-3


def test_the_score_is_the_energy_under_the_moments_of_all_training_rows() -> None:
    train, test = two_planes(300, 0), two_planes(40, 1)
    detector = DAGMM(epochs=10, members=2, device="cpu").fit(train)
    network = detector.network_
    with torch.inference_mode():
        features = network.features(torch.tensor(train, dtype=torch.float64).expand(2, -1, -1))[0]
        expected = moments(features, network.shares(features))
        asked = network.features(torch.tensor(test, dtype=torch.float64).expand(2, -1, -1))[0]
    for name, value in zip(("weights", "means", "covariances"), expected, strict=True):
        np.testing.assert_allclose(detector.to_part().arrays[f"mixture.{name}"], value.numpy(), atol=1e-4)
    scores = energy(asked, *expected).mean(dim=0).numpy()
    np.testing.assert_allclose(detector.decision_function(test), scores, atol=1e-2)


def test_it_finds_rows_off_both_planes_and_none_at_the_mean() -> None:
    train = two_planes(500, 0)
    test = np.concatenate([two_planes(200, 1), two_planes(200, 2, off=1.0)])
    detector = DAGMM(epochs=40, members=2, device="cpu").fit(train)
    assert roc_auc_score(np.repeat([0, 1], 200), detector.decision_function(test)) > 0.9


def test_rows_near_the_mean_of_one_cluster_are_normal() -> None:
    """The paper's error relative to the norm of the row would be huge there."""
    rng = np.random.default_rng(0)
    train = (rng.normal(size=(400, 2)) @ rng.normal(size=(2, 6)) + 0.1 * rng.normal(size=(400, 6))).astype(np.float32)
    detector = DAGMM(epochs=40, members=2, device="cpu").fit(train)
    near = 0.05 * rng.normal(size=(100, 6)).astype(np.float32)
    assert np.median(detector.decision_function(near)) < np.quantile(detector.decision_function(train), 0.8)


def test_a_code_that_shrinks_to_a_point_is_reported() -> None:
    with pytest.raises(TrainingError, match="the code of member 0 collapsed"):
        DAGMM(lambda_energy=1e4, lambda_covariance=0.0, epochs=40, members=1, learning_rate=1e-2, device="cpu").fit(
            two_planes(300, 0)
        )


def test_a_member_is_what_it_would_be_alone() -> None:
    one, two = (DAGMM(epochs=4, members=m, device="cpu").fit(two_planes(200, 0)) for m in (1, 2))
    for name, array in one.to_part().arrays.items():
        np.testing.assert_allclose(two.to_part().arrays[name][:1], array, atol=1e-4)


def test_images_get_convolutions() -> None:
    images = np.zeros((80, 8, 8), dtype=np.float32)
    images[np.arange(80), np.arange(80) % 8] = 1.0
    rows, noise = images.reshape(80, 64), np.random.default_rng(0).random((50, 64), dtype=np.float32)
    detector = DAGMM(members=1, image_shape=(8, 8), epochs=40, batch_size=16, device="cpu").fit(rows)
    assert detector.embed(rows).shape == (1, 80, 2)
    assert detector.decision_function(noise).mean() > 2 + detector.decision_function(rows).max()
