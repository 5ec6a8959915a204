"""False-positive rates with exact bands, and whether p-values of normals are uniform, over calibration sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from assay.calibration.calibrators.conformal import check_eps, largest_rank
from assay.errors import DataError

Floats = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]
Strata = NDArray[np.integer[Any]]
Numbers = tuple[float, ...]

COVERAGE = 0.95
EPS = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2)
HISTOGRAM_BINS = 20
TEST_LEVELS = 100
DRAWS = 999


@dataclass(frozen=True, slots=True)
class References:
    """The calibration scores that the p-values of n normals were counted in.

    Given to the functions below as None where there is no exact law of such p-values (weighted and cross
    calibration, groups of rows): then rates have no bands, and there is no test.

    Attributes
    ----------
    sizes : tuple of int
        Calibration scores in each reference: one number for split conformal, one per key for Mondrian.
    of_row : ndarray of int, shape (n,)
        Which reference each p-value comes from, as an index of `sizes`.
    """

    sizes: tuple[int, ...]
    of_row: NDArray[np.integer[Any]]

    @classmethod
    def shared(cls, m: int, n: int) -> Self:
        """Return the one reference of m scores behind n p-values."""
        return cls((m,), np.zeros(n, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Rates:
    """Shares of normals, and the band that each of them (not all together) lies in with probability .95 at least.

    Attributes
    ----------
    at : tuple of float
        What the rate belongs to: an eps, a stratum, or the upper end of a bin of p-values.
    n : tuple of int
        Normals.
    rate, expected, low, high : tuple of float
        What was seen, its mean over calibration sets, and the ends of the band; NaN where there is none.
    """

    at: Numbers
    n: tuple[int, ...]
    rate: Numbers
    expected: Numbers
    low: Numbers
    high: Numbers


@dataclass(frozen=True, slots=True)
class Uniformity:
    """Results of `uniformity`: p-values of a test against small p-values, and against any deviation."""

    too_small: float
    not_uniform: float


def stratum_rates(p_values: Floats, strata: Strata, references: References | None, eps: float) -> Rates:
    """Return the rate of ``p <= eps`` by stratum, with the band it has if hardness has no say in it.

    That is, if scores in each stratum are distributed like all that share its reference. A rate outside
    says that rows of that hardness are flagged more often, or less, than eps says of all together
    (CADET fig. 5, right).
    """
    check_lengths(p_values, strata)
    groups = np.unique(strata).tolist()
    flagged = p_values <= check_eps(eps)
    return _rates([g + 1 for g in groups], [(flagged, strata == g, 0.0, eps) for g in groups], references)


def histogram(p_values: Floats, references: References | None) -> Rates:
    """Return the share of p-values (n,) in 20 bins, or m + 1 where m is less; ``at`` holds their upper ends.

    Bins end at multiples of 1 / (m + 1), m being the size of the largest reference, so that the expected
    share is exact.
    """
    values = 10**6 if references is None else max(references.sizes) + 1
    whole = np.unique(np.linspace(0, values, min(HISTOGRAM_BINS, values) + 1).round())
    ends = (whole / values).tolist()
    everyone = np.ones(len(p_values), dtype=bool)
    inside = [((p_values > a) & (p_values <= b), everyone, a, b) for a, b in pairwise(ends)]
    return _rates(ends[1:], inside, references)


def reliability(p_values: Floats, references: References | None, grid: Sequence[float] = EPS) -> Rates:
    """Return the false-positive rate at each eps of the grid, for the p-values (n,) of normals.

    With one reference the expected rate is ``floor((m + 1) eps) / (m + 1)``, 0 where eps is below 1 / (m + 1).
    """
    everyone = np.ones(len(p_values), dtype=bool)
    return _rates(list(grid), [(p_values <= check_eps(eps), everyone, 0.0, eps) for eps in grid], references)


def uniformity(p_values: Floats, references: References, *, seed: int) -> Uniformity:
    """Test whether n normals have the p-values of rows that are exchangeable with their calibration rows.

    The statistic is the largest difference over some 100 levels t between the share of ``p <= t`` and its
    expectation, both as arcsine of the square root, which gives them about the same variance at all levels.
    Levels are multiples of 1 / (m + 1), half of them as dense as they can be at the small end.

    Its null is drawn 999 times from the exact joint law: ranks of normals among m calibration scores are such
    that the numbers of p-values between levels are Dirichlet-multinomial, independently for each reference. A test
    that takes p-values for independent and uniform (Kolmogorov and Smirnov's) would call the luck of the
    calibration draw a broken p-value. Ties make p-values larger than the null has them: ``too_small`` stays
    valid, ``not_uniform`` notices.
    """
    check_lengths(p_values, references.of_row)
    values = max(references.sizes) + 1
    small, even = np.geomspace(1, values, TEST_LEVELS // 2), np.linspace(1, values, TEST_LEVELS // 2)
    levels = np.unique(np.concatenate([small, even]).round())[:-1] / values
    rng = np.random.default_rng(seed)
    drawn, expected = np.zeros((DRAWS, levels.size)), np.zeros(levels.size)
    for place, m in enumerate(references.sizes):
        n = int((references.of_row == place).sum())
        ranks = [_rank(m, level) for level in levels.tolist()]
        widths = rng.standard_gamma(np.diff([0, *ranks, m + 1]), size=(DRAWS, levels.size + 1))
        counts = rng.multinomial(n, widths / widths.sum(axis=1, keepdims=True))
        drawn += np.cumsum(counts, axis=1)[:, :-1]
        expected += n * np.array(ranks) / (m + 1)
    seen = np.searchsorted(np.sort(p_values), levels, side="right")
    shares = np.vstack([seen, drawn, expected]) / len(p_values)
    scale = np.arcsin(np.sqrt(np.clip(shares, 0, 1)))
    deviations = scale[:-1] - scale[-1]
    return Uniformity(_tail(deviations.max(axis=1)), _tail(np.abs(deviations).max(axis=1)))


def rate_band(counts: Sequence[int], ranks: Sequence[int], sizes: Sequence[int]) -> tuple[float, float]:
    """Return the band that a share of normals lies in with probability .95 at least, over calibration sets too.

    It is the share of p-values that are one of `ranks` of the m + 1 values that each can take (for instance
    ``p <= rank / (m + 1)``). Given the calibration scores such a rate is ``Beta(rank, m + 1 - rank)``, so that the
    number is beta-binomial, and a sum of independent ones over references. This is exact without ties.

    Parameters
    ----------
    counts, ranks, sizes : sequence of int
        For each reference: normals, ranks, and calibration scores m.
    """
    from scipy.signal import fftconvolve
    from scipy.stats import betabinom

    laws = []
    for n, rank, m in zip(counts, ranks, sizes, strict=True):
        if rank in (0, m + 1):
            laws.append(np.eye(1, n + 1, 0 if rank == 0 else n)[0])
        else:
            laws.append(betabinom.pmf(np.arange(n + 1), n, rank, m + 1 - rank))
    cumulated = np.cumsum(reduce(fftconvolve, laws))
    low, high = np.searchsorted(cumulated, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low / sum(counts)), float(min(high, sum(counts)) / sum(counts))


def _rates(
    at: Sequence[float], events: Sequence[tuple[Flags, Flags, float, float]], references: References | None
) -> Rates:
    """Return shares: of which rows p lies between two numbers, among which rows."""
    rows = [_rate(*event, references) for event in events]
    n, *numbers = zip(*rows, strict=True)
    return Rates(tuple(at), tuple(n), *map(floats, numbers))


def _rate(
    hit: Flags, among: Flags, low: float, high: float, references: References | None
) -> tuple[int, float, float, float, float]:
    """Return n, rate, expected rate and band of ``low < p <= high`` among some rows."""
    n = int(among.sum())
    if n == 0:
        raise DataError("diagnostics need at least one normal row with a p-value")
    rate = float(hit[among].mean())
    if references is None:
        return n, rate, high - low, math.nan, math.nan
    check_lengths(hit, references.of_row)
    counts = np.bincount(references.of_row[among], minlength=len(references.sizes))
    used = np.flatnonzero(counts).tolist()
    sizes = [references.sizes[place] for place in used]
    ranks = [_rank(m, high) - _rank(m, low) for m in sizes]
    expected = sum(counts[i] * rank / (m + 1) for i, rank, m in zip(used, ranks, sizes, strict=True)) / n
    return n, rate, float(expected), *rate_band(counts[used].tolist(), ranks, sizes)


def _rank(m: int, level: float) -> int:
    """Return how many of the m + 1 values of p are at most a level from 0 to 1."""
    if level in (0, 1):
        return int(level) * (m + 1)
    return largest_rank(m, level)


def _tail(values: NDArray[np.float64]) -> float:
    """Return the p-value of the first of the values among the others."""
    return float((values >= values[0] - 1e-12).sum() / values.size)


def check_lengths(*columns: NDArray[Any]) -> None:
    """Raise `DataError` unless all columns have one value for each of the same rows, one at least."""
    lengths = [len(column) for column in columns]
    if len(set(lengths)) != 1 or lengths[0] == 0:
        raise DataError(f"columns of normal rows have lengths {lengths}; give one value of each for at least one row")


def floats(values: Any) -> Numbers:
    """Return numbers as a tuple of float."""
    return tuple(float(value) for value in values)
