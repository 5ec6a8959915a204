"""Whether p-values mean what they say, as a few hundred numbers that pictures are drawn from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from assay.calibration.calibrators.conformal import check_eps
from assay.evaluation.rates import (
    EPS,
    Floats,
    Numbers,
    Rates,
    References,
    Strata,
    Uniformity,
    check_lengths,
    floats,
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
    """How a score depends on hardness (CADET fig. 1 and 5, left): quantiles in bins of as many rows each.

    Attributes
    ----------
    hardness : tuple of float
        Median hardness of each bin.
    low, median, high : tuple of float
        Quantiles .1, .5 and .9 of the scores in each bin.
    spearman : float or None
        Rank correlation of score and hardness; None where one of them is constant.
    """

    hardness: Numbers
    low: Numbers
    median: Numbers
    high: Numbers
    spearman: float | None


@dataclass(frozen=True, slots=True)
class Power:
    """Share of n anomalies that are flagged at each eps."""

    eps: Numbers
    power: Numbers
    n: int


@dataclass(frozen=True, slots=True)
class Path:
    """A test martingale over a stream, thinned to the highest value in each of at most 80 blocks of rows.

    Attributes
    ----------
    row : tuple of int
        Rows, counted from 1, where the highest values were reached.
    log10_value : tuple of float
    log10_threshold : float
    alarm : int or None
        First row at which the threshold was reached.
    """

    row: tuple[int, ...]
    log10_value: Numbers
    log10_threshold: float
    alarm: int | None


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """What the test rows say of one candidate's p-values.

    Attributes
    ----------
    eps : float
        At which strata are judged.
    before, after : HardnessTrend
        Of the detector's score, and of the adapted one.
    strata : Rates
        False-positive rate by stratum of hardness, 1 the easiest.
    histogram : Rates
        Share of p-values in each bin.
    reliability : Rates
        False-positive rate at each eps.
    uniformity : Uniformity or None
    power : Power or None
        None without anomalies.
    path : Path or None
        None without a stream.
    """

    eps: float
    before: HardnessTrend
    after: HardnessTrend
    strata: Rates
    histogram: Rates
    reliability: Rates
    uniformity: Uniformity | None
    power: Power | None
    path: Path | None

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers; numbers that are not finite become None."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the diagnostics that `to_json` described, with NaN for numbers that were not finite."""
        made = {name: value and KINDS[name](**_tuples(value)) for name, value in content.items() if name in KINDS}
        return cls(**{**content, **made})


KINDS: dict[str, Any] = {
    "before": HardnessTrend,
    "after": HardnessTrend,
    "strata": Rates,
    "histogram": Rates,
    "reliability": Rates,
    "uniformity": Uniformity,
    "power": Power,
    "path": Path,
}


def diagnose(
    p_values: Floats,
    *,
    scores: Floats,
    adapted: Floats,
    hardness: Floats,
    strata: Strata,
    references: References | None,
    eps: float,
    seed: int,
    anomalies: Floats | None = None,
    path: Path | None = None,
) -> Diagnostics:
    """Return the diagnostics of n normals, which are exchangeable with the calibration rows if all is well.

    Parameters
    ----------
    p_values, scores, adapted, hardness : ndarray of float, shape (n,)
        Of the normals: p-values, the detector's scores, the adapted ones, and hardness.
    strata : ndarray of int, shape (n,)
        From 0, see `assay.calibration.hardness.Strata`.
    references : References or None
    eps : float
    seed : int
        Of the uniformity test.
    anomalies : ndarray of float, shape (k,), optional
        p-values of anomalies.
    path : Path, optional
        See `thin_path`.

    Raises
    ------
    DataError
        There are no normals, or not one value of each kind for every one.
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
    """Return how scores (n,) depend on hardness (n,), in ten bins, or n where n is less.

    Quantiles are scores that occur, so that infinite scores are no trouble.
    """
    from scipy.stats import rankdata

    check_lengths(scores, hardness)
    bins = np.array_split(np.argsort(hardness, kind="stable"), min(HARDNESS_BINS, len(hardness)))
    found = [np.quantile(scores[rows], HARDNESS_LEVELS, method="inverted_cdf") for rows in bins]
    low, median, high = (floats(values) for values in zip(*found, strict=True))
    middles = floats(np.quantile(hardness[rows], 0.5, method="inverted_cdf") for rows in bins)
    ranks = rankdata(scores), rankdata(hardness)
    varied = all(np.ptp(values) > 0 for values in ranks)
    return HardnessTrend(middles, low, median, high, float(np.corrcoef(*ranks)[0, 1]) if varied else None)


def power_curve(p_values: Floats, grid: Sequence[float] = EPS) -> Power:
    """Return the share of anomalies, p-values (k,), that are flagged at each eps of the grid."""
    shares = [float((p_values <= check_eps(eps)).mean()) for eps in grid]
    return Power(tuple(grid), tuple(shares), len(p_values))


def thin_path(log10_values: Floats, threshold: float) -> Path:
    """Return the log10 path (n,) of a test martingale as few points (see `assay.calibration.streams.monitor`)."""
    blocks = np.array_split(np.arange(len(log10_values)), max(min(PATH_POINTS, len(log10_values)), 1))
    rows = [int(block[np.argmax(log10_values[block])]) for block in blocks if block.size]
    limit = math.log10(threshold)
    reached = np.flatnonzero(log10_values >= limit)
    alarm = int(reached[0]) + 1 if reached.size else None
    return Path(tuple(row + 1 for row in rows), floats(log10_values[rows]), limit, alarm)


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
