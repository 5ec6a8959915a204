"""The nearest of many columns are those of a k-d tree, to the bit."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.spatial import cKDTree

from assay.detectors.baselines import nearest
from assay.detectors.baselines.nearest import NearestRows


def rows(n: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    loadings = np.random.default_rng(d).normal(size=(5, d))
    made = rng.normal(size=(n, 5)) @ loadings + 0.3 * rng.normal(size=(n, d))
    return made.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("d", [48, 50, 131])
def test_the_answers_are_those_of_a_tree(d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_VALUES_AT_ONCE", 70_000)  # blocks of some rows
    stored, asked = rows(1_500, d, 0), rows(200, d, 1)
    stored[100:130] = stored[7]  # more twins than a search looks at
    asked[:3] = stored[5:8]
    asked[3:6] *= np.array([[1e12], [1e-12], [0.0]])
    tree, ours = cKDTree(stored, nearest.LEAF), NearestRows(stored)
    usual = tree.query(asked, k=[5])[0]
    for k in ([5], np.arange(1, 8), [1, 20], [400]):
        for bound in (np.inf, usual[50, 0], np.nextafter(usual[50, 0], np.inf)):
            for workers in (1, 2):
                expected, places = tree.query(asked, k=k, distance_upper_bound=bound)
                distances, found = ours.query(asked, k=k, distance_upper_bound=bound, workers=workers)
                np.testing.assert_array_equal(distances, expected)
                alike = np.isinf(expected)
                np.testing.assert_array_equal(found[alike], places[alike])
                apart = ~alike & (np.arange(200) > 7)[:, None]
                np.testing.assert_array_equal(found[apart], places[apart])
    alone = np.concatenate([ours.query(row[None], k=[5])[0] for row in asked[:20]])
    np.testing.assert_array_equal(alone, ours.query(asked[:20], k=[5])[0])


def test_no_rows_have_no_neighbours() -> None:
    distances, found = NearestRows(rows(1_000, 60, 0)).query(np.empty((0, 60)), k=[1, 2])
    assert distances.shape == found.shape == (0, 2)


def test_very_wide_rows_are_searched_in_smaller_blocks() -> None:
    stored, asked = rows(1_000, 2_000, 0), rows(3_000, 2_000, 1)
    ours = NearestRows(stored)
    tracemalloc.start()
    ours.query(asked, k=[1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 8 * nearest._VALUES_AT_ONCE, peak
