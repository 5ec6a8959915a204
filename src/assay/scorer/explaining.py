"""Why a row has its score: what each column adds to that of the normal rows nearest to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from assay.arrays import Doubles, Integers, Singles
from assay.calibration.hardness import NeighbourhoodStrata, Strata
from assay.errors import InputError

NEAREST = 3
ORDERS = 2  # and each of them backwards
MOST_VALUES = 2**22  # of rows that are scored at once


@dataclass(frozen=True, slots=True)
class Explanation:
    """Contributions of columns to the scores of n rows.

    Attributes
    ----------
    contributions : ndarray of float64, shape (n, d)
        In units of the score. A row's add up to its score less the mean score of the normal rows nearest to it.
    p_without : ndarray of float64, shape (n,)
        The p-value that the row would have if the column that contributes most had a typical value: that of the
        nearest normal row.
    """

    contributions: Doubles
    p_without: Doubles

    @property
    def first(self) -> Integers:
        """The column that contributes most, shape (n,)."""
        return np.asarray(self.contributions.argmax(axis=1), dtype=np.int64)

    @property
    def shares(self) -> Doubles:
        """The share of each column in what raises the score, shape (n, d); 0 for columns that lower it."""
        rising = np.maximum(self.contributions, 0)
        return np.asarray(rising / np.maximum(rising.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny))


def normal_rows(strata: Strata) -> NeighbourhoodStrata:
    """Return the strata that hold normal rows; raise `InputError` where a scorer has none."""
    if not isinstance(strata, NeighbourhoodStrata):
        raise InputError(
            "this scorer holds no normal rows to explain others by; scorers of tables with at least 20 adapt rows do, "
            "from this version of Assay on: `assay run` packages one (of images, those with the detector fcdd explain)"
        )
    return strata


def contributions(
    score: Callable[[Singles], Singles], normals: NeighbourhoodStrata, scaled: Singles, origins: Integers
) -> Doubles:
    """Return what each raw column contributes to the scores of scaled rows (n, k), float64 of shape (n, d).

    Shapley values of the game in which a coalition of columns has the values of the row and all others those of a
    normal row (Strumbelj and Kononenko 2014), estimated along two orders of the columns and their reverses (antithetic,
    Mitchell, Cooper, Frank, Holmes 2022), which are the same for all rows, and averaged over the three nearest normal
    rows. It takes 12 (d + 1) scores of rows of d columns for each row.

    Parameters
    ----------
    score : callable
        Scores of scaled rows (m, d), shape (m,).
    normals : NeighbourhoodStrata
    scaled : ndarray of float32, shape (n, k)
    origins : ndarray of int, shape (k,)
        The raw column that each scaled one comes from, increasing; 0 to d - 1.
    """
    n, d = len(scaled), int(origins[-1]) + 1
    rng = np.random.default_rng(0)
    orders = [order for _ in range(ORDERS) for drawn in [rng.permutation(d)] for order in (drawn, drawn[::-1])]
    typical = normals.nearest(scaled, NEAREST)
    total = np.zeros((n, d))
    at_once = max(1, MOST_VALUES // (len(origins) * (d + 1)))
    for row in range(n):
        walks = [(near, order) for near in typical[row] for order in orders]
        for start in range(0, len(walks), at_once):
            some = walks[start : start + at_once]
            scores = score(np.concatenate([_path(scaled[row], near, order, origins) for near, order in some]))
            steps = np.diff(np.asarray(scores, dtype=np.float64).reshape(-1, d + 1), axis=1)
            for (_, order), of_path in zip(some, steps, strict=True):
                total[row, order] += of_path
    return np.asarray(total / (NEAREST * len(orders)))


def _path(row: Singles, near: Singles, order: Integers, origins: Integers) -> Singles:
    """Return the rows from a normal one to a row, which takes its values raw column by raw column, (d + 1, k)."""
    path = np.repeat(near[None], len(order) + 1, axis=0)
    for step, column in enumerate(order, start=1):
        own = origins == column
        path[step:, own] = row[own]
    return path
