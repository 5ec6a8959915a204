"""The denoising autoencoder."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from assay.detectors.methods.autoencoder import Autoencoder
from assay.detectors.methods.denoising import DenoisingAutoencoder
from assay.errors import ConfigError

Floats = NDArray[np.float32]


def line(n: int, seed: int) -> Floats:
    """Rows on a curve in six dimensions."""
    t = np.random.default_rng(seed).uniform(-2, 2, size=n)
    columns = [t, -t, 0.5 * t, np.sin(2 * t), np.cos(2 * t), 0.5 * t**2 - 1]
    return np.stack(columns, axis=1).astype(np.float32)


def left_over(detector: Autoencoder) -> float:
    """Return how much of noise on rows is left after reconstruction."""
    clean = line(500, seed=1)
    noise = 0.3 * np.random.default_rng(2).normal(size=clean.shape).astype(np.float32)
    found = detector.reconstruct(clean + noise)[0]
    return float(np.square(found - clean).mean() / np.square(noise).mean())


def test_it_takes_noise_out_where_a_plain_autoencoder_copies_it() -> None:
    """With a code wider than the rows nothing but the noise in training keeps it from copying."""
    common: dict[str, Any] = {"hidden": [32], "latent_dim": 8, "members": 1, "device": "cpu"}
    common |= {"learning_rate": 1e-2, "batch_size": 32, "epochs": 40}
    assert left_over(DenoisingAutoencoder(noise_scale=0.3, **common).fit(line(400, seed=0))) < 0.3
    assert left_over(Autoencoder(**common).fit(line(400, seed=0))) > 0.4


def test_rows_are_scored_as_they_are() -> None:
    detector = DenoisingAutoencoder(epochs=5, members=3, device="cpu").fit(line(200, seed=0))
    rows = line(50, seed=1)
    expected = np.square(detector.reconstruct(rows).astype(np.float64) - rows).mean(axis=(0, 2))
    np.testing.assert_allclose(detector.decision_function(rows), expected, rtol=1e-4)


def test_a_member_is_what_it_would_be_alone() -> None:
    one, two = (DenoisingAutoencoder(epochs=4, members=m, device="cpu").fit(line(200, seed=0)) for m in (1, 2))
    for name, array in one.to_part().arrays.items():
        np.testing.assert_allclose(two.to_part().arrays[name][:1], array, atol=1e-5)


def test_images_get_convolutions() -> None:
    images = np.zeros((80, 8, 8), dtype=np.float32)
    images[np.arange(80), np.arange(80) % 8] = 1.0
    rows = images.reshape(80, 64)
    detector = DenoisingAutoencoder(members=1, image_shape=(8, 8), epochs=50, batch_size=16, device="cpu").fit(rows)
    turned = images.transpose(0, 2, 1).reshape(80, 64)
    assert detector.decision_function(turned).min() > 2 * detector.decision_function(rows).max()


def test_no_noise_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"noise_scale is 0\.0; it must be a finite number > 0"):
        DenoisingAutoencoder(noise_scale=0.0).fit(line(20, seed=0))
