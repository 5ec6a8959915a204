"""Diagnostics of p-values: the few hundred numbers behind the pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from assay.arrays import Floats, Integers
from assay.calibration.calibrators.ranks import check_eps
from assay.evaluation.rates import (
    EPS_GRID,
    BandedRates,
    FloatTuple,
    References,
    Uniformity,
    check_lengths,
    float_tuple,
    histogram,
    reliability,
    stratum_rates,
    uniformity,
)

HARDNESS_BINS = 10
HARDNESS_LEVELS = (0.1, 0.5, 0.9)
PATH_POINTS = 80


@dataclass(frozen=True, slots=True)
class HardnessTrend:
    """Dependence of a score on hardness (CADET fig. 1 and 5, left): quantiles in bins of equal numbers of rows.

    Attributes
    ----------
    hardness : tuple of float
        Median hardness of each bin.
    low, median, high : tuple of float
        Quantiles .1, .5 and .9 of the scores in each bin.
    spearman : float or None
        Rank correlation of score and hardness; None if one of them is constant.
    """

    hardness: FloatTuple
    low: FloatTuple
    median: FloatTuple
    high: FloatTuple
    spearman: float | None


@dataclass(frozen=True, slots=True)
class PowerCurve:
    """Share of n anomalies flagged at each eps."""

    eps: FloatTuple
    power: FloatTuple
    n: int


@dataclass(frozen=True, slots=True)
class MartingalePath:
    """A test martingale over a stream: the highest value in each of at most 80 blocks of rows.

    Attributes
    ----------
    row : tuple of int
        Rows, counted from 1, that reached the highest values.
    log10_value : tuple of float
    log10_threshold : float
    alarm : int or None
        First row that reached the threshold.
    """

    row: tuple[int, ...]
    log10_value: FloatTuple
    log10_threshold: float
    alarm: int | None


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """Diagnostics of one candidate's p-values on the test rows.

    Attributes
    ----------
    eps : float
        Target false-positive rate of the comparison of strata.
    before, after : HardnessTrend
        Of the detector's score and of the adapted score.
    strata : BandedRates
        False-positive rate by hardness stratum; 1 is the easiest.
    histogram : BandedRates
        Share of p-values in each bin.
    reliability : BandedRates
        False-positive rate at each eps.
    uniformity : Uniformity or None
    power : PowerCurve or None
        None without anomalies.
    path : MartingalePath or None
        None without a stream.
    """

    eps: float
    before: HardnessTrend
    after: HardnessTrend
    strata: BandedRates
    histogram: BandedRates
    reliability: BandedRates
    uniformity: Uniformity | None
    power: PowerCurve | None
    path: MartingalePath | None

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; numbers that are not finite become None."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the diagnostics that `to_json` described, with NaN for numbers that were not finite."""
        restored = {
            name: value and PART_TYPES[name](**_tuples(value)) for name, value in content.items() if name in PART_TYPES
        }
        return cls(**{**content, **restored})


PART_TYPES: dict[str, Any] = {
    "before": HardnessTrend,
    "after": HardnessTrend,
    "strata": BandedRates,
    "histogram": BandedRates,
    "reliability": BandedRates,
    "uniformity": Uniformity,
    "power": PowerCurve,
    "path": MartingalePath,
}


def diagnose(
    p_values: Floats,
    *,
    scores: Floats,
    adapted: Floats,
    hardness: Floats,
    strata: Integers,
    references: References | None,
    eps: float,
    seed: int,
    anomalies: Floats | None = None,
    path: MartingalePath | None = None,
) -> Diagnostics:
    """Return the diagnostics of n normals, which should be exchangeable with the calibration rows.

    Parameters
    ----------
    p_values, scores, adapted, hardness : ndarray of float, shape (n,)
        p-values, detector scores, adapted scores and hardness of the normals.
    strata : ndarray of int, shape (n,)
        From 0, see `assay.calibration.hardness.Strata`.
    references : References or None
    eps : float
    seed : int
        Of the uniformity test.
    anomalies : ndarray of float, shape (k,), optional
        p-values of anomalies.
    path : MartingalePath, optional
        See `thin_path`.

    Raises
    ------
    DataError
        There are no normals, or the arrays differ in length.
    ConfigError
        `eps` is not between 0 and 1.
    """
    return Diagnostics(
        eps=eps,
        before=hardness_trend(scores, hardness),
        after=hardness_trend(adapted, hardness),
        strata=stratum_rates(p_values, strata, references, eps),
        histogram=histogram(p_values, references),
        reliability=reliability(p_values, references),
        uniformity=None if references is None else uniformity(p_values, references, seed=seed),
        power=None if anomalies is None or len(anomalies) == 0 else power_curve(anomalies),
        path=path,
    )


def hardness_trend(scores: Floats, hardness: Floats) -> HardnessTrend:
    """Return the dependence of scores (n,) on hardness (n,) in ten bins, or n bins if n is less.

    Quantiles are observed scores, so that infinite scores are allowed.
    """
    from scipy.stats import rankdata

    check_lengths(scores, hardness)
    bins = np.array_split(np.argsort(hardness, kind="stable"), min(HARDNESS_BINS, len(hardness)))
    bin_quantiles = [np.quantile(scores[rows], HARDNESS_LEVELS, method="inverted_cdf") for rows in bins]
    low, median, high = (float_tuple(values) for values in zip(*bin_quantiles, strict=True))
    middles = float_tuple(np.quantile(hardness[rows], 0.5, method="inverted_cdf") for rows in bins)
    ranks = rankdata(scores), rankdata(hardness)
    varied = all(np.ptp(values) > 0 for values in ranks)
    return HardnessTrend(middles, low, median, high, float(np.corrcoef(*ranks)[0, 1]) if varied else None)


def power_curve(p_values: Floats, grid: Sequence[float] = EPS_GRID) -> PowerCurve:
    """Return the share of anomalies, with p-values (k,), flagged at each eps of the grid."""
    shares = [float((p_values <= check_eps(eps)).mean()) for eps in grid]
    return PowerCurve(tuple(grid), tuple(shares), len(p_values))


def thin_path(log10_values: Floats, threshold: float) -> MartingalePath:
    """Reduce the log10 path (n,) of a test martingale to few points (see `assay.calibration.streams.monitor`)."""
    blocks = np.array_split(np.arange(len(log10_values)), max(min(PATH_POINTS, len(log10_values)), 1))
    rows = [int(block[np.argmax(log10_values[block])]) for block in blocks if block.size]
    limit = math.log10(threshold)
    reached = np.flatnonzero(log10_values >= limit)
    alarm = int(reached[0]) + 1 if reached.size else None
    return MartingalePath(tuple(row + 1 for row in rows), float_tuple(log10_values[rows]), limit, alarm)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _tuples(value: Mapping[str, Any]) -> dict[str, Any]:
    def restored(inner: Any) -> Any:
        return tuple(math.nan if x is None else x for x in inner) if isinstance(inner, list) else inner

    return {name: restored(inner) for name, inner in value.items()}
