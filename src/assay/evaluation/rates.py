"""False-positive rates with exact bands, and tests of the uniformity of p-values, over calibration sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Flags, Floats, Integers
from assay.calibration.calibrators.promise import AVERAGE, COVERAGE, Promise
from assay.calibration.calibrators.ranks import check_eps
from assay.errors import DataError

FloatTuple = tuple[float, ...]

EPS_GRID = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2)
HISTOGRAM_BINS = 20
TEST_LEVELS = 100
_DRAWS = 999


@dataclass(frozen=True, slots=True)
class References:
    """The sizes of the references that the p-values of n normals were computed from.

    The functions below take None if such p-values have no known exact distribution (weighted and cross calibration,
    groups of rows): then rates have no bands, and there is no test.

    Attributes
    ----------
    sizes : tuple of int
        Number of calibration scores in each reference: one for split conformal, one per key for Mondrian.
    of_row : ndarray of int, shape (n,)
        Reference of each p-value, as an index of `sizes`.
    promise : Promise
        How ranks among calibration scores became p-values.
    """

    sizes: tuple[int, ...]
    of_row: Integers
    promise: Promise = AVERAGE

    @classmethod
    def shared(cls, m: int, n: int, promise: Promise = AVERAGE) -> Self:
        """Return the one reference of m scores behind n p-values."""
        return cls((m,), np.zeros(n, dtype=np.int64), promise)

    def rank(self, m: int, level: float) -> int:
        """Return how many of the m + 1 possible p-values of a reference of m scores are at most a level from 0 to 1."""
        return int(level) * (m + 1) if level in (0, 1) else self.promise.largest_rank(m, level)


@dataclass(frozen=True, slots=True)
class BandedRates:
    """Shares of normals, each with a band that contains it with probability at least .95 (pointwise).

    Attributes
    ----------
    at : tuple of float
        The eps, the stratum, or the upper end of the bin of p-values of each rate.
    n : tuple of int
        Number of normals.
    rate, expected, low, high : tuple of float
        The observed rate, its mean over calibration sets, and the ends of the band; NaN if there is none.
    """

    at: FloatTuple
    n: tuple[int, ...]
    rate: FloatTuple
    expected: FloatTuple
    low: FloatTuple
    high: FloatTuple


@dataclass(frozen=True, slots=True)
class Uniformity:
    """Results of `uniformity`: p-values of a test for too small p-values, and of one for any deviation."""

    too_small: float
    not_uniform: float


def stratum_rates(p_values: Floats, strata: Integers, references: References | None, eps: float) -> BandedRates:
    """Return the rate of ``p <= eps`` by stratum, with its band under the hypothesis that hardness has no effect.

    Under this hypothesis scores in each stratum are distributed like all scores that share its reference. A rate
    outside its band means that rows of that hardness are flagged more or less often than eps (CADET fig. 5, right).
    """
    check_lengths(p_values, strata)
    groups = np.unique(strata).tolist()
    flagged = p_values <= check_eps(eps)
    return _rates([g + 1 for g in groups], [(flagged, strata == g, 0.0, eps) for g in groups], references)


def histogram(p_values: Floats, references: References | None) -> BandedRates:
    """Return the share of p-values (n,) in 20 bins, or m + 1 if that is less; ``at`` holds their upper ends.

    Bins end at multiples of 1 / (m + 1), where m is the size of the largest reference, so that expected shares are
    exact.
    """
    # Without references the possible p-values are unknown; 10^6 of them do not move the edges of 20 bins visibly.
    values = 10**6 if references is None else max(references.sizes) + 1
    whole = np.unique(np.linspace(0, values, min(HISTOGRAM_BINS, values) + 1).round())
    ends = (whole / values).tolist()
    everyone = np.ones(len(p_values), dtype=bool)
    inside = [((p_values > a) & (p_values <= b), everyone, a, b) for a, b in pairwise(ends)]
    return _rates(ends[1:], inside, references)


def reliability(p_values: Floats, references: References | None, grid: Sequence[float] = EPS_GRID) -> BandedRates:
    """Return the false-positive rate at each eps of the grid, for the p-values (n,) of normals.

    With one reference the expected rate is ``floor((m + 1) eps) / (m + 1)``, 0 if eps is below 1 / (m + 1).
    """
    everyone = np.ones(len(p_values), dtype=bool)
    return _rates(list(grid), [(p_values <= check_eps(eps), everyone, 0.0, eps) for eps in grid], references)


def uniformity(p_values: Floats, references: References, *, seed: int) -> Uniformity:
    """Test whether the p-values of n normals are those of rows exchangeable with their calibration rows.

    The statistic is the largest difference over some 100 levels t between the share of ``p <= t`` and its
    expectation, after the arcsine of the square root, which stabilises the variance over levels. Levels are multiples
    of 1 / (m + 1); half of them are geometrically spaced, dense at the small end.

    The null distribution is simulated 999 times from the exact joint distribution: for normals ranked among m
    calibration scores, the numbers of p-values between levels are Dirichlet-multinomial, independently for each
    reference. A test that assumes independent uniform p-values (Kolmogorov-Smirnov) would mistake the variation between
    calibration sets for invalid p-values. Ties make p-values larger than under the null: ``too_small`` stays valid,
    ``not_uniform`` detects them.
    """
    check_lengths(p_values, references.of_row)
    values = max(references.sizes) + 1
    small, even = np.geomspace(1, values, TEST_LEVELS // 2), np.linspace(1, values, TEST_LEVELS // 2)
    levels = np.unique(np.concatenate([small, even]).round())[:-1] / values
    rng = np.random.default_rng(seed)
    drawn, expected = np.zeros((_DRAWS, levels.size)), np.zeros(levels.size)
    for reference, m in enumerate(references.sizes):
        n = int((references.of_row == reference).sum())
        ranks = [references.rank(m, level) for level in levels.tolist()]
        # Normalised gamma variables are Dirichlet distributed.
        widths = rng.standard_gamma(np.diff([0, *ranks, m + 1]), size=(_DRAWS, levels.size + 1))
        counts = rng.multinomial(n, widths / widths.sum(axis=1, keepdims=True))
        drawn += np.cumsum(counts, axis=1)[:, :-1]
        expected += n * np.array(ranks) / (m + 1)
    observed = np.searchsorted(np.sort(p_values), levels, side="right")
    shares = np.vstack([observed, drawn, expected]) / len(p_values)
    scale = np.arcsin(np.sqrt(np.clip(shares, 0, 1)))
    deviations = scale[:-1] - scale[-1]
    return Uniformity(_tail(deviations.max(axis=1)), _tail(np.abs(deviations).max(axis=1)))


def rate_band(counts: Sequence[int], ranks: Sequence[int], sizes: Sequence[int]) -> tuple[float, float]:
    """Return the band that contains a share of normals with probability at least .95, over calibration sets too.

    It is the share of p-values in a set of `ranks` of their m + 1 possible values (for instance
    ``p <= rank / (m + 1)``). Over calibration sets the rate of one reference is ``Beta(rank, m + 1 - rank)``, so its
    count is beta-binomial; counts of several references are independent and add up. This is exact without ties.

    Parameters
    ----------
    counts, ranks, sizes : sequence of int
        For each reference: the numbers of normals, of ranks, and of calibration scores m.
    """
    from scipy.signal import fftconvolve
    from scipy.stats import betabinom

    distributions = []
    for n, rank, m in zip(counts, ranks, sizes, strict=True):
        if rank in (0, m + 1):  # none or all: the beta distribution degenerates to a point
            distributions.append(np.eye(1, n + 1, 0 if rank == 0 else n)[0])
        else:
            distributions.append(betabinom.pmf(np.arange(n + 1), n, rank, m + 1 - rank))
    cumulated = np.cumsum(reduce(fftconvolve, distributions))
    low, high = np.searchsorted(cumulated, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low / sum(counts)), float(min(high, sum(counts)) / sum(counts))


def _rates(
    at: Sequence[float], events: Sequence[tuple[Flags, Flags, float, float]], references: References | None
) -> BandedRates:
    """Return the rates of events: flags of its rows, flags of the rows to count among, and an interval of p each."""
    rows = [_rate(*event, references) for event in events]
    n, *numbers = zip(*rows, strict=True)
    return BandedRates(tuple(at), tuple(n), *map(float_tuple, numbers))


def _rate(
    hit: Flags, among: Flags, low: float, high: float, references: References | None
) -> tuple[int, float, float, float, float]:
    """Return n, rate, expected rate and band of ``low < p <= high`` among the flagged rows."""
    n = int(among.sum())
    if n == 0:
        raise DataError("diagnostics need at least one normal row with a p-value")
    rate = float(hit[among].mean())
    if references is None:
        return n, rate, high - low, math.nan, math.nan
    check_lengths(hit, references.of_row)
    counts = np.bincount(references.of_row[among], minlength=len(references.sizes))
    used = np.flatnonzero(counts).tolist()
    sizes = [references.sizes[i] for i in used]
    ranks = [references.rank(m, high) - references.rank(m, low) for m in sizes]
    expected = sum(counts[i] * rank / (m + 1) for i, rank, m in zip(used, ranks, sizes, strict=True)) / n
    return n, rate, float(expected), *rate_band(counts[used].tolist(), ranks, sizes)


def _tail(values: Doubles) -> float:
    """Return the p-value of the first value, the observed one, among all."""
    # The tolerance makes draws equal to the observed value count, however they were rounded.
    return float((values >= values[0] - 1e-12).sum() / values.size)


def check_lengths(*columns: NDArray[Any]) -> None:
    """Raise `DataError` unless all columns have the same length, at least 1."""
    lengths = [len(column) for column in columns]
    if len(set(lengths)) != 1 or lengths[0] == 0:
        raise DataError(f"columns of normal rows have lengths {lengths}; give one value of each for at least one row")


def float_tuple(values: Any) -> FloatTuple:
    """Return numbers as a tuple of float."""
    return tuple(float(value) for value in values)
