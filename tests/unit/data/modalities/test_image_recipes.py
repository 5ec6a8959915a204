"""Synthetic anomalies of images are what they are called, in grey and in colour."""

from __future__ import annotations

import numpy as np
import pytest

from assay.arrays import Doubles
from assay.data.modalities.image import Image
from assay.data.modalities.image_recipes import CORRUPTIONS
from assay.data.recipes import synthesize

SHAPES = [(20, 24), (20, 24, 3)]


def waves(shape: tuple[int, ...], n: int = 40) -> Doubles:
    """Return images of slanted waves of any phase, 50 to 200, in colour with a third channel of half the size."""
    phase = np.random.default_rng(0).uniform(0, 6, size=(n, 1, 1))
    down, right = np.mgrid[: shape[0], : shape[1]] / 4
    grey = 125 + 75 * np.sin(down + right + phase)
    images = grey if len(shape) == 2 else np.stack([grey, grey, grey / 2], axis=-1)
    return images.reshape(n, -1)


def made(recipe: str, shape: tuple[int, ...], n: int = 60) -> tuple[Doubles, Doubles]:
    """Return anomalies and the images that they were made from, of shape (n, height, width, colours)."""
    rows, sources = synthesize(recipe, waves(shape), n, seed=3, modality=Image(shape))
    return rows.reshape(n, *shape[:2], -1), waves(shape)[sources].reshape(n, *shape[:2], -1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("recipe", CORRUPTIONS)
def test_every_anomaly_is_visible_and_within_the_range(recipe: str, shape: tuple[int, ...]) -> None:
    odd, usual = made(recipe, shape)
    assert (np.abs(odd - usual).max(axis=(1, 2, 3)) > 5).all()
    assert odd.min() >= waves(shape).min()
    assert odd.max() <= waves(shape).max()
    few, _ = made(recipe, shape, 20)
    np.testing.assert_array_equal(few, odd[:20])


@pytest.mark.parametrize("shape", SHAPES)
def test_patches_are_squares_and_lines_go_through(shape: tuple[int, ...]) -> None:
    odd, usual = made("patch", shape)
    for changed in (odd != usual).any(axis=3):
        rows, columns = (np.flatnonzero(changed.any(axis=axis)) for axis in (1, 0))
        assert 2 <= len(rows) <= 8
        assert len(columns) == len(rows) or np.ptp(columns) < 8
    odd, usual = made("line", shape)
    changed = (odd != usual).any(axis=3)
    assert (changed.any(axis=2).mean(axis=1) + changed.any(axis=1).mean(axis=1) > 0.9).all()
    assert changed.mean() < 0.15
