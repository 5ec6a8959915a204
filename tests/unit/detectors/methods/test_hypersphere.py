"""What the hypersphere detectors share: encoders, centre, the guard against collapse, losses, balanced batches."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from assay.detectors.base import Embeds
from assay.detectors.methods.deep_sad import DeepSAD
from assay.detectors.methods.deep_svdd import DeepSVDD
from assay.detectors.methods.hypersphere import Hypersphere, anomaly_loss, pseudo_huber, require_spread, spread
from assay.detectors.training.balancing import balanced
from assay.errors import ConfigError, TrainingError
from assay.networks.encoders import decoder, encoder
from assay.networks.lenet import StackedNorm
from assay.networks.mlp import initialise, stacked_mlp

Floats = NDArray[np.float32]
BATCH = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 6, 35)).astype(np.float32))


def made(image_shape: tuple[int, int] | None) -> torch.nn.Module:
    network = encoder(2, 35, (6,), 3, image_shape)
    initialise(network, [np.random.default_rng(s) for s in (0, 1)])
    return network


def rows(n: int, seed: int, d: int = 5) -> Floats:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


@pytest.mark.parametrize("pretrain_epochs", [0, 2])
@pytest.mark.parametrize("n", [0, 1, 3])
def test_too_few_rows_are_reported_as_that(pretrain_epochs: int, n: int) -> None:
    detector = DeepSAD(pretrain_epochs=pretrain_epochs, epochs=2, device="cpu")
    known = (np.arange(n) > 0).astype(np.int8)
    with pytest.raises(TrainingError, match=f"{min(n, 1)} training rows that are not labelled anomalies"):
        detector.fit(rows(n, seed=0), known)


@pytest.mark.parametrize("image_shape", [None, (5, 7)])
def test_an_encoder_has_no_bias_and_no_bound(image_shape: tuple[int, int] | None) -> None:
    """Without bias terms and bounded activations the map is homogeneous: f(a x) = a f(x) for a > 0."""
    network = made(image_shape).eval()
    with torch.no_grad():
        codes = network(BATCH)
        torch.testing.assert_close(network(1000 * BATCH), 1000 * codes, rtol=1e-4, atol=1e-2)
        assert not network(0 * BATCH).any()
    assert codes.shape == (2, 6, 3)
    assert codes.std() > 0.01


@pytest.mark.parametrize("image_shape", [None, (5, 7)])
def test_a_decoder_mirrors_its_encoder(image_shape: tuple[int, int] | None) -> None:
    network = decoder(2, 35, (6,), 3, image_shape)
    initialise(network, [np.random.default_rng(s) for s in (0, 1)])
    images = network(torch.ones(2, 6, 3) * torch.arange(6)[:, None])
    assert images.shape == (2, 6, 35)
    assert images.std(dim=1).min() > 0


@pytest.mark.parametrize("image_shape", [None, (5, 7)])
def test_members_are_normalised_apart(image_shape: tuple[int, int] | None) -> None:
    network, other = made(image_shape), BATCH.clone()
    other[1] *= 7
    torch.testing.assert_close(network(other)[0], network(BATCH)[0])


def test_normalisation_is_by_the_batch_in_training_and_by_averages_after() -> None:
    norm, x = StackedNorm(2, 35), 3 * BATCH + 5
    out = norm(x)
    torch.testing.assert_close(out.mean(dim=1), torch.zeros(2, 35), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(dim=1, correction=0), torch.ones(2, 35), atol=1e-3, rtol=0)
    for _ in range(200):
        norm(x)
    norm.eval()
    torch.testing.assert_close(norm(x).mean(dim=1), torch.zeros(2, 35), atol=1e-4, rtol=0)
    torch.testing.assert_close(norm(x[:, :1]), norm(x)[:, :1])
    alone = norm.train()(x[:, :1])
    assert torch.isfinite(alone).all()
    assert all(torch.isfinite(value).all() for value in norm.buffers())


def test_an_image_shape_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="5 x 8, but rows have 35 columns"):
        encoder(2, 35, (6,), 3, (5, 8))


def test_images_score_the_same_alone_and_in_a_batch() -> None:
    given = rows(60, 0, d=35)
    detector = DeepSVDD(members=2, epochs=2, pretrain_epochs=2, image_shape=(5, 7), device="cpu").fit(given)
    scores = detector.decision_function(given)
    np.testing.assert_array_equal(np.concatenate([detector.decision_function(row[None]) for row in given]), scores)
    loaded = DeepSVDD.from_part(detector.to_part())
    np.testing.assert_array_equal(loaded.decision_function(given), scores)
    assert isinstance(detector, Embeds)
    assert detector.embed(given).shape == (2, 60, 8)


@pytest.mark.parametrize("pretrain_epochs", [0, 3])
def test_the_centre_keeps_off_zero_and_stays_where_it_is(pretrain_epochs: int) -> None:
    short, long = (
        DeepSVDD(members=2, epochs=epochs, pretrain_epochs=pretrain_epochs, device="cpu").fit(rows(80, 0))
        for epochs in (1, 4)
    )
    center = short.to_part().arrays["center"]
    assert center.shape == (2, 1, 8)
    assert np.abs(center).min() >= np.float32(0.1)
    np.testing.assert_array_equal(long.to_part().arrays["center"], center)
    np.testing.assert_allclose(
        short.decision_function(rows(9, 1)),
        np.square(short.embed(rows(9, 1)) - center).sum(axis=2).mean(axis=0),
        rtol=1e-5,
    )


def test_a_mean_code_far_from_zero_is_the_centre() -> None:
    network = Hypersphere(torch.nn.Identity(), 1, 2)
    given = np.array([[3, 0.01], [5, -0.03]], dtype=np.float32)
    start = DeepSVDD()._place_center(network, given)
    torch.testing.assert_close(network.center, torch.tensor([[[4.0, -0.1]]]))
    torch.testing.assert_close(start, torch.tensor([1.0004], dtype=torch.float64))


class CentredAtZero(DeepSVDD):
    """Deep SVDD with the centre that zero weights reach (Ruff 2021, proposition 1)."""

    def _place_center(self, network: Hypersphere, rows: Floats) -> Tensor:
        before = super()._place_center(network, rows)
        network.center.zero_()
        return before


class Biased(DeepSVDD):
    """Deep SVDD with bias terms, which alone can reach the centre (proposition 2)."""

    def _build(self, n_features: int) -> Hypersphere:
        encode = stacked_mlp(self.members, [n_features, *self.hidden, self.latent_dim], bias=True)
        return Hypersphere(encode, self.members, self.latent_dim)


@pytest.mark.parametrize("kind", [CentredAtZero, Biased])
def test_a_collapsed_hypersphere_is_reported(kind: type[DeepSVDD]) -> None:
    common: dict[str, Any] = {"hidden": (), "latent_dim": 2, "epochs": 300, "pretrain_epochs": 0}
    common |= {"members": 1, "learning_rate": 0.05, "device": "cpu"}
    with pytest.raises(TrainingError, match=r"member 0 has collapsed.*learning_rate"):
        kind(**common).fit(rows(100, 0))
    assert np.ptp(DeepSVDD(**common).fit(rows(100, 0)).decision_function(rows(100, 0))) > 0


def test_any_collapsed_member_is_named() -> None:
    ones = torch.ones(3, dtype=torch.float64)
    require_spread("x", ones, torch.tensor([1.0, 1e-7, 5.0]))
    for after in (1e-9, 0.0, math.nan):
        with pytest.raises(TrainingError, match="member 1 has collapsed"):
            require_spread("x", ones, torch.tensor([1.0, after, 1.0]))
    with pytest.raises(TrainingError, match="member 2 maps all training rows to one point before"):
        require_spread("x", torch.tensor([1.0, 1.0, 0.0]), ones)
    torch.testing.assert_close(spread(torch.tensor([[[0.0, 1.0], [2.0, 1.0]]])), ones[:1])


def test_rows_all_alike_are_refused() -> None:
    with pytest.raises(TrainingError, match="not all alike"):
        DeepSVDD(members=1, epochs=1, device="cpu", pretrain_epochs=0).fit(np.ones((30, 4), dtype=np.float32))


def test_losses_are_right_and_finite_everywhere() -> None:
    squared = torch.tensor([0.0, 1e-12, 1e-4, 0.3, 2.0, 50.0, 1e6, 1e30], requires_grad=True)
    h = pseudo_huber(squared)
    exact = np.sqrt(np.longdouble(squared.detach().numpy()) + 1) - 1
    np.testing.assert_allclose(h.detach().numpy()[2:], np.asarray(exact[2:], dtype=float), rtol=1e-5)
    assert float(h[1].detach()) == pytest.approx(5e-13)
    loss = anomaly_loss(h)
    wide = np.maximum(h.detach().double().numpy(), 1e-6)
    np.testing.assert_allclose(loss.detach().numpy(), -np.log(-np.expm1(-wide)), rtol=1e-5, atol=1e-30)
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert squared.grad is not None
    assert torch.isfinite(squared.grad).all()
    assert (squared.grad[2:6] < 0).all()


def test_balanced_batches() -> None:
    labels = np.array([0, -1, 1, -1, 1, 0, -1], dtype=np.int8)
    half, (anomalous, joined) = balanced("hsc", labels, 6)
    assert (half, joined) == (3, 3)
    np.testing.assert_array_equal(anomalous, labels == 1)
    assert balanced("hsc", labels, 128)[1][1] == 5
    split = np.where(np.arange(75) < 65, -1, 1).astype(np.int8)  # batches of 33 and 32 other rows
    assert balanced("hsc", split, 128)[1][1] == 33
    assert balanced("hsc", labels, 1)[0] == 1
    with pytest.raises(TrainingError, match=r"none of the 3 training rows has label 1.*deep_svdd"):
        balanced("hsc", labels[[0, 1, 3]], 6)
