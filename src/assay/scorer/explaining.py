"""Why a row has its score: what each column adds to that of the normal rows nearest to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from assay.arrays import Doubles, Flags, Integers, Singles
from assay.calibration.hardness import HoldingStrata, NeighbourhoodStrata, Strata
from assay.errors import InputError

NEAREST = 3
ORDERS = 2  # and each of them backwards
TILES_A_SIDE, MOST_PIECES = 8, 64  # of an image along a side, of a channel, and in all
MOST_VALUES = 2**22  # of rows that are scored at once
Normals = NeighbourhoodStrata | HoldingStrata


@dataclass(frozen=True, slots=True)
class Explanation:
    """Contributions of columns to the scores of n rows.

    Attributes
    ----------
    contributions : ndarray of float64, shape (n, d)
        In units of the score. A row's add up to its score less the mean score of the normal rows nearest to it. The
        pixels of a tile of an image, the steps of a span of a channel (`pieces_of`) and the places of a word in a text
        share its contribution alike.
    p_without : ndarray of float64, shape (n,)
        The p-value that the row would have if the column, tile or span that contributes most had typical values: those
        of the nearest normal row. That of a text without the word that contributes most.
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


def normal_rows(strata: Strata) -> Normals:
    """Return the strata that hold normal rows; raise `InputError` where a scorer has none."""
    if not isinstance(strata, Normals):
        raise InputError(
            "this scorer holds no normal rows to explain others by: an earlier version of Assay packaged it; "
            "`assay run` packages one that does"
        )
    return strata


def pieces_of(head: Mapping[str, Any]) -> Integers:
    """Return the piece of each raw column of a scorer, by its scorer.json, shape (d,), from 0.

    A column of a table is a piece. An image has up to 8 x 8 tiles, of all colours, and a channel of a window of series
    up to 8 spans, fewer where there are more than 8 channels.
    """
    if head.get("image_shape"):
        height, width, *colours = head["image_shape"]
        cut = _spans(height, TILES_A_SIDE)[:, None] * TILES_A_SIDE + _spans(width, TILES_A_SIDE)
        cut = np.repeat(cut, math.prod(colours))  # those of a pixel stand together
    elif head.get("series_shape"):
        length, channels = head["series_shape"]
        spans = _spans(length, min(max(MOST_PIECES // channels, 1), TILES_A_SIDE))
        cut = spans[:, None] * channels + np.arange(channels)
    else:
        cut = np.arange(len(head["columns"]))
    return np.asarray(np.unique(cut, return_inverse=True)[1].reshape(-1), dtype=np.int64)


def _spans(length: int, most: int) -> Integers:
    return np.asarray(np.arange(length) * min(length, most) // length)


def contributions(score: Callable[[Singles], Singles], normals: Normals, scaled: Singles, origins: Integers) -> Doubles:
    """Return what each piece of a row contributes to the scores of scaled rows (n, k), float64 of shape (n, d).

    Shapley values of the game in which a coalition of pieces has the values of the row and all others those of a
    normal row (Strumbelj and Kononenko 2014), estimated along two orders of the pieces and their reverses (antithetic,
    Mitchell, Cooper, Frank, Holmes 2022), which are the same for all rows, and averaged over the three nearest normal
    rows. It takes 12 (d + 1) scores of rows of d pieces for each row.

    Parameters
    ----------
    score : callable
        Scores of scaled rows (m, d), shape (m,).
    normals : NeighbourhoodStrata or HoldingStrata
    scaled : ndarray of float32, shape (n, k)
    origins : ndarray of int, shape (k,)
        The piece that each scaled column belongs to; 0 to d - 1.
    """
    total, typical = np.zeros((len(scaled), int(origins.max()) + 1)), normals.nearest(scaled, NEAREST)
    for row, own in enumerate(scaled):

        def mix(near: Singles, taken: Flags, own: Singles = own) -> Singles:
            return np.where(taken[:, origins], own, near)

        total[row] = of_walks(score, mix, typical[row], total.shape[1])
    return total


def of_walks(
    score: Callable[[Singles], Singles], mix: Callable[[Singles, Flags], Singles], typical: Singles, d: int
) -> Doubles:
    """Return what each of d pieces of a row contributes on the way from typical rows (t, k), shape (d,).

    ``mix(near, taken)`` returns the rows that have the row's own pieces where `taken` (m, d) says so, and else those of
    the typical row `near`.
    """
    rng, total = np.random.default_rng(0), np.zeros(d)
    orders = [order for _ in range(ORDERS) for drawn in [rng.permutation(d)] for order in (drawn, drawn[::-1])]
    walks = [(near, order) for near in typical for order in orders]
    at_once = max(1, MOST_VALUES // (typical.shape[1] * (d + 1)))
    for start in range(0, len(walks), at_once):
        some = walks[start : start + at_once]
        rows = [mix(near, np.arange(d + 1)[:, None] > np.argsort(order)) for near, order in some]
        steps = np.diff(np.asarray(score(np.concatenate(rows)), dtype=np.float64).reshape(-1, d + 1), axis=1)
        for (_, order), of_path in zip(some, steps, strict=True):
            total[order] += of_path
    return np.asarray(total / len(walks))
