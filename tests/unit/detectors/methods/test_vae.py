"""The variational autoencoder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.distributions import Normal, kl_divergence

from assay.detectors.methods.vae import VariationalAutoencoder, divergence, negative_elbo
from assay.detectors.training.loop import member_streams
from assay.evaluation.metrics import auroc
from assay.networks.mlp import initialise

Floats = NDArray[np.float32]


def independent(n: int, seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)


def one_direction(n: int, variance: float) -> tuple[Floats, Floats]:
    """Return rows with that variance along one unit vector and little else, and the vector."""
    rng = np.random.default_rng(0)
    vector = np.full(8, 8**-0.5)
    t = rng.normal(size=(n, 1))
    rows = np.sqrt(variance) * (t - t.mean()) / t.std() * vector + 0.05 * rng.normal(size=(n, 8))
    return rows.astype(np.float32), vector.astype(np.float32)


def test_the_terms_of_the_elbo_have_their_closed_form() -> None:
    rng = np.random.default_rng(0)
    mean, log_variance = (torch.tensor(rng.normal(size=(2, 5, 3))) for _ in range(2))
    posterior = Normal(mean, (0.5 * log_variance).exp())
    prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    torch.testing.assert_close(divergence(mean, log_variance), kl_divergence(posterior, prior))

    network = VariationalAutoencoder(latent_dim=3, members=2)._build(7)
    initialise(network, member_streams(0, 2))
    x = torch.tensor(rng.normal(size=(2, 5, 7)).astype(np.float32))
    noise = torch.tensor(rng.normal(size=(2, 5, 3)).astype(np.float32))
    mean, log_variance = network.posterior(x)
    posterior = Normal(mean, (0.5 * log_variance).exp())
    decoded = network.decode(mean + posterior.scale * noise)
    likelihood = Normal(decoded, 1.0).log_prob(x).sum(dim=2)  # type: ignore[no-untyped-call]
    without_constant = likelihood + 7 / 2 * np.log(2 * np.pi)
    rate = kl_divergence(posterior, Normal(torch.zeros_like(mean), 1.0)).sum(dim=2)
    torch.testing.assert_close(negative_elbo(network, x, noise, beta=0.3), -without_constant + 0.3 * rate)


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_a_linear_one_shrinks_as_probabilistic_pca_does(beta: float) -> None:
    """Its optimum is known: of a direction of variance v the mean code keeps the share 1 - beta / v.

    An error averaged over the columns instead of summed would act as eight times the beta.
    """
    rows, vector = one_direction(1500, variance=5.0)
    detector = VariationalAutoencoder(
        beta=beta, hidden=(), latent_dim=1, epochs=100, learning_rate=1e-2, members=2, device="cpu"
    ).fit(rows)
    kept = detector.reconstruct(rows) @ vector
    slopes = [np.polyfit(rows @ vector, member, 1)[0] for member in kept]
    np.testing.assert_allclose(slopes, 1 - beta / 5.0, atol=0.08)
    assert detector.notes_ == ()


def test_a_collapsed_posterior_is_noted_and_scores_by_the_distance_from_the_mean() -> None:
    """No direction of these rows has a variance above 1, that of the decoder."""
    rows = 0.7 * independent(400, seed=0)
    detector = VariationalAutoencoder(members=2, epochs=60, device="cpu").fit(rows)
    assert "posterior collapse in members [0, 1] of 2" in " ".join(detector.notes_)
    others = 0.7 * independent(200, seed=1)
    distances = np.square(others - rows.mean(axis=0)).mean(axis=1)
    assert np.corrcoef(detector.decision_function(others), distances)[0, 1] > 0.98
    assert VariationalAutoencoder.from_part(detector.to_part()).notes_ == detector.notes_


def test_a_row_has_one_score_that_of_its_mean_code() -> None:
    rows, _ = one_direction(200, variance=5.0)
    detector = VariationalAutoencoder(epochs=10, members=3, latent_dim=4, device="cpu").fit(rows)
    scores = detector.decision_function(rows)
    np.testing.assert_array_equal(scores, detector.decision_function(rows))
    expected = np.square(detector.reconstruct(rows).astype(np.float64) - rows).mean(axis=(0, 2))
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert detector.embed(rows).shape == (3, 200, 4)


def test_a_training_with_another_beta_is_not_gone_on_from(tmp_path: Path) -> None:
    rows, common = independent(100, seed=0), {"epochs": 3, "members": 1, "device": "cpu"}
    VariationalAutoencoder(beta=1.0, **common).fit(rows, checkpoint=tmp_path / "state")  # type: ignore[arg-type]
    other, fresh = (VariationalAutoencoder(beta=0.01, **common) for _ in range(2))  # type: ignore[arg-type]
    other.fit(rows, checkpoint=tmp_path / "state")
    np.testing.assert_array_equal(other.decision_function(rows), fresh.fit(rows).decision_function(rows))


def test_a_member_is_what_it_would_be_alone() -> None:
    rows = independent(200, seed=0)
    one, two = (VariationalAutoencoder(epochs=4, members=m, device="cpu").fit(rows) for m in (1, 2))
    for name, array in one.to_part().arrays.items():
        np.testing.assert_allclose(two.to_part().arrays[name][:1], array, atol=1e-5)


def test_images_get_convolutions() -> None:
    images = np.zeros((160, 8, 8), dtype=np.float32)
    images[np.arange(160), np.arange(160) % 8] = 2.0
    rows = images.reshape(160, 64)
    detector = VariationalAutoencoder(members=1, image_shape=(8, 8), epochs=40, batch_size=16, device="cpu").fit(rows)
    turned = images.transpose(0, 2, 1).reshape(160, 64)
    assert detector.notes_ == ()
    assert detector.decision_function(turned).mean() > 1.5 * detector.decision_function(rows).mean()


def test_small_images_do_not_make_posteriors_collapse() -> None:
    from sklearn.datasets import load_digits

    pixels, digit = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32)
    train, test = images[digit != 0][:1000], np.concatenate([images[digit != 0][1000:], images[digit == 0]])
    truth = (np.arange(len(test)) >= len(test) - (digit == 0).sum()).astype(np.int8)
    detector = VariationalAutoencoder(epochs=100, members=2, image_shape=(8, 8), device="cpu").fit(train)
    assert detector.notes_ == ()
    assert auroc(truth, detector.decision_function(test)) > 0.9
