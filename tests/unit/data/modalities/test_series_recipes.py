"""Synthetic anomalies of series are what they are called."""

from __future__ import annotations

import numpy as np
import pytest

from assay.arrays import Doubles
from assay.data.modalities.series import Series
from assay.data.recipes import synthesize

SHAPE = (30, 3)


def waves(n: int = 80) -> Doubles:
    """Return windows of sines of three channels of deviations .7, 7 and 0."""
    phase = np.random.default_rng(0).uniform(0, 6, size=(n, 1, 1)) + np.arange(SHAPE[0])[None, :, None] / 4
    return (np.sin(phase) * [1.0, 10.0, 0.0] + [0.0, 50.0, 3.0]).reshape(n, -1)


def made(recipe: str, n: int = 200) -> tuple[Doubles, Doubles]:
    """Return anomalies and the windows that they were made from, of shape (n, 30, 3)."""
    rows, sources = synthesize(recipe, waves(), n, seed=3, modality=Series(SHAPE))
    return rows.reshape(n, *SHAPE), waves()[sources].reshape(n, *SHAPE)


@pytest.mark.parametrize("recipe", ["shift", "spike", "stuck", "noise"])
def test_a_fault_changes_a_piece_of_one_channel(recipe: str) -> None:
    odd, usual = made(recipe)
    changed = odd != usual
    assert (changed.any(axis=1).sum(axis=1) == 1).all()
    assert set(changed.any(axis=1).argmax(axis=1)) == {0, 1}
    spans = [np.ptp(np.flatnonzero(of_row)) + 1 for of_row in changed.any(axis=2)]
    assert max(spans) <= (3 if recipe == "spike" else 15)


def test_the_sizes_of_faults_are_those_stated() -> None:
    deviation = waves().reshape(-1, 3).std(axis=0)
    odd, usual = made("shift")
    sizes = (np.abs(odd - usual).max(axis=1)[:, :2] / deviation[:2]).max(axis=1)
    assert 1 <= sizes.min() < sizes.max() <= 3
    odd, usual = made("stuck")
    for window, source in zip(odd, usual, strict=True):
        channel = (window != source).any(axis=0).argmax()
        held = np.flatnonzero(window[:, channel] != source[:, channel])
        assert len(set(window[held, channel])) == 1


def test_warps_keep_the_ends_and_the_values_of_windows() -> None:
    odd, usual = made("warp")
    assert np.allclose(odd[:, [0, -1]], usual[:, [0, -1]])
    assert (odd <= usual.max(axis=1, keepdims=True) + 1e-9).all()
    assert (odd >= usual.min(axis=1, keepdims=True) - 1e-9).all()
    assert (np.abs(odd - usual)[:, :, 0].max(axis=1) > 0.1).mean() > 0.9


def test_more_anomalies_begin_with_the_same_ones() -> None:
    for recipe in Series(SHAPE).recipes:
        few, _ = made(recipe, 20)
        many, _ = made(recipe, 50)
        assert np.array_equal(few, many[:20])
