"""Whether one scorer ranks anomalies higher than another: a paired test on the same rows, and its level."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np

from assay.arrays import Doubles, Flags, Floats, Integers
from assay.errors import DataError

FAMILY_LEVEL = 0.15
FIRST_LEVEL = 0.09
LEAST_LEVEL = 1e-4
MARGIN = 0.2  # of a standard deviation; at eps .05 and power .8 a loss of .056
_EXCEEDANCES = 20
_BLOCK_SIZE = 2**18
_ROUNDING = 1e-9  # sums of the same terms in another order are the same


@dataclass(frozen=True, slots=True)
class RowScores:
    """One scorer's scores of the rows of a comparison; higher = more anomalous.

    Attributes
    ----------
    normals : ndarray of float, shape (m,)
    anomalies : ndarray of float, shape (a,)
    """

    normals: Floats
    anomalies: Floats


class ScorerPair:
    """A challenger and a champion on the same rows: how much further out the challenger sees the anomalies.

    The p-value of an anomaly is its rank among the normals by the same scorer, (c + 1) / (m + 2) where c of m normals
    score at least as high, and z its normal score, Phi^-1(1 - p). So scorers of other units compare, and a normal
    distribution of the normals gives z its unit, a standard deviation. The difference is the mean over the anomalies of
    z by the challenger minus z by the champion.

    Its distribution, if neither is better, comes from swaps: for each unit (a row, or rows that belong together) a coin
    decides whether the two scorers change places, normals included, so that the noise of the normals counts that all
    anomalies have in common. Scores are replaced by their ranks among all rows first, which gives both scorers one
    scale. So the level holds for scorers that can change places, also with ten anomalies and with ties. Of equal means
    but very different shapes (spread of the anomalies 1 against .2 or 2.5) .07 to .12 were promoted at level .09.

    Parameters
    ----------
    challenger, champion : RowScores
        Of the same rows, in the same order.
    units : ndarray of int, shape (m + a,), optional
        Of the normals, then of the anomalies; rows of the same unit are swapped together. By default each row alone.

    Raises
    ------
    DataError
        The rows differ, there are none of one kind, or a score is NaN.

    References
    ----------
    E. S. Venkatraman, C. B. Begg, A distribution-free procedure for comparing receiver operating characteristic curves
    from a paired experiment, Biometrika 83, 1996: ranks swapped within rows. Theirs is a two-sided test of the whole
    curve, and breaks ties at random; here the statistic is one-sided, of the mean normal score, and ties count against
    the anomaly for both scorers alike.
    """

    def __init__(self, challenger: RowScores, champion: RowScores, units: Integers | None = None) -> None:
        from scipy.special import ndtri
        from scipy.stats import rankdata

        _check_pair(challenger, champion)
        self._m = m = len(champion.normals)
        n_rows = m + len(champion.anomalies)
        _, self._units = np.unique(np.arange(n_rows) if units is None else units, return_inverse=True)
        if self._units.shape != (n_rows,):
            raise DataError(f"{self._units.size} units of {n_rows} rows; give each row one")
        ranks = [rankdata(np.concatenate([each.normals, each.anomalies])) for each in (challenger, champion)]
        cuts = np.unique([each[m:] for each in ranks])
        self._n_cuts = len(cuts)
        # A normal counts as at least as high as the anomalies at the first `below` cuts.
        self._below = np.stack([np.searchsorted(cuts, each[:m], side="right") for each in ranks])
        self._at = np.stack([np.searchsorted(cuts, each[m:]) for each in ranks])
        totals = np.bincount(self._below.ravel(), minlength=self._n_cuts + 1)
        self._by_both = totals[:0:-1].cumsum()[::-1]
        self._normal_scores: Doubles = -ndtri((np.arange(m + 1) + 1) / (m + 2))
        first, second = self._z(np.zeros((1, n_rows), dtype=np.bool_))
        self.difference = float((first - second).mean())
        self.is_tie = bool(np.array_equal(first, second))

    def _z(self, swapped: Flags) -> tuple[Doubles, Doubles]:
        """Return z of each anomaly by both scorers, shape (b, a), if they change places where `swapped`, (b, m + a)."""
        rows = np.arange(len(swapped))[:, None] * (self._n_cuts + 1)
        normals, anomalies = swapped[:, : self._m], swapped[:, self._m :]
        below = np.where(normals, self._below[1], self._below[0]) + rows
        counts = np.bincount(below.ravel(), minlength=len(swapped) * (self._n_cuts + 1))
        by_first = counts.reshape(len(swapped), -1)[:, :0:-1].cumsum(axis=1)[:, ::-1]
        at_first = np.where(anomalies, self._at[1], self._at[0])
        at_second = np.where(anomalies, self._at[0], self._at[1])
        rows = np.arange(len(swapped))[:, None]
        by_second = self._by_both[at_second] - by_first[rows, at_second]
        return self._normal_scores[by_first[rows, at_first]], self._normal_scores[by_second]

    def swapped_differences(self, n: int, *, seed: int) -> Iterator[Doubles]:
        """Yield the difference after each of `n` random swaps, in blocks."""
        return (self.after(coins) for coins in coin_blocks(n, self.n_units, seed=seed, n_rows=len(self._units)))

    @property
    def n_units(self) -> int:
        """Number of units."""
        return int(self._units.max()) + 1

    def after(self, coins: Flags) -> Doubles:
        """Return the difference after each of b swaps, given by whether each unit is swapped, (b, n_units)."""
        first, second = self._z(coins[:, self._units])
        return np.asarray((first - second).mean(axis=1), dtype=np.float64)

    def p_value(self, level: float, *, seed: int, margin: float = 0.0) -> float:
        """Return the p-value of "the challenger is worse than the champion by at least `margin`" (0: is not better).

        There are as many swaps as `level` takes, so that a p-value at or below it is valid: P(p <= level) <= level if
        the two scorers can change places. They end early once so many reach the difference that p is above `level`;
        then it is an estimate (Besag, Clifford, Sequential Monte Carlo p-values, Biometrika 78, 1991). With a margin
        the distribution of the swaps is moved by it.
        """
        swapped = self.swapped_differences(swaps_needed(level), seed=seed)
        return sequential_p_value(swapped, self.difference + margin)

    def interval(self, *, seed: int, share: float = 0.9) -> tuple[float, float]:
        """Return an interval for the difference: itself, and the central `share` of 2,000 swaps around it."""
        differences = np.concatenate(list(self.swapped_differences(2_000, seed=seed)))
        half_width = float(np.quantile(np.abs(differences), share))
        return self.difference - half_width, self.difference + half_width


def swaps_needed(level: float) -> int:
    """Return how many swaps it takes to tell whether a p-value is at or below `level`."""
    return ceil(_EXCEEDANCES / level)


def coin_blocks(n: int, n_units: int, *, seed: int, n_rows: int) -> Iterator[Flags]:
    """Yield the coins of `n` random swaps of units, in blocks (b, n_units) that suit a comparison of `n_rows` rows."""
    rng, block = np.random.default_rng(seed), max(1, min(64, _BLOCK_SIZE // n_rows))
    for start in range(0, n, block):
        yield rng.integers(0, 2, (min(block, n - start), n_units), dtype=np.bool_)


def sequential_p_value(swapped: Iterable[Doubles], difference: float) -> float:
    """Return the p-value of a difference among those after swaps, in blocks; see `ScorerPair.p_value`."""
    reached = drawn = 0
    for differences in swapped:
        reached += int((differences >= difference - _ROUNDING).sum())
        drawn += len(differences)
        if reached >= _EXCEEDANCES:
            break
    return (1 + reached) / (1 + drawn)


def next_level(spent: float) -> float:
    """Return the level of the next comparison where `spent` has been used up on its rows; 0 where nothing is left.

    ``FIRST_LEVEL`` times the square of the share of ``FAMILY_LEVEL`` that is left: .09, .0144, .0083, ... on rows that
    stay the same. All of them together stay below ``FAMILY_LEVEL``, however many there are (alpha spending, a union
    bound), and they fall no faster than 1 / k^2, so that something is left for later retrainings.
    """
    level = FIRST_LEVEL * max(0.0, 1 - spent / FAMILY_LEVEL) ** 2
    return level if level >= LEAST_LEVEL else 0.0


def spent_level(rows: Collection[str], earlier: Collection[tuple[Collection[str], float]]) -> float:
    """Return the level that earlier comparisons spent on the present rows, as a mean over these.

    A comparison counts by the share of the present rows that it used. Where a third of the rows is new, a third of the
    family's level is fresh: so the expected number of false promotions is at most ``FAMILY_LEVEL`` for each time that
    the rows are renewed.

    Parameters
    ----------
    rows : collection of str
        Keys of the present rows.
    earlier : collection of (keys of rows, level)
    """
    present = set(rows)
    return sum(level * len(present.intersection(used)) / len(present) for used, level in earlier)


def _check_pair(challenger: RowScores, champion: RowScores) -> None:
    shapes = [(each.normals.shape, each.anomalies.shape) for each in (challenger, champion)]
    if shapes[0] != shapes[1] or 0 in (champion.normals.size, champion.anomalies.size):
        raise DataError(f"scores of normals and anomalies have shapes {shapes}; both scorers must score the same rows")
    for each in (challenger, champion):
        if np.isnan(each.normals).any() or np.isnan(each.anomalies).any():
            raise DataError("a score is NaN, so the scorers cannot be compared")
