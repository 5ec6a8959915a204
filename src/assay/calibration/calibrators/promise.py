"""What p <= eps promises: a false-positive rate on average over calibration rows, or of one scorer with confidence.

A row is flagged if fewer than l of m calibration scores are at least as high as its own. Over draws of the calibration
rows the false-positive rate of this rule is ``Beta(l, m + 1 - l)`` for continuous scores; ties only lower it (Vovk
2012, proposition 2). Its mean is l / (m + 1); that of one scorer may be twice as high.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any, Literal, Self

import numpy as np

from assay.arrays import Doubles, Integers
from assay.calibration.calibrators.ranks import check_eps, largest_rank, row_count, rows_needed
from assay.errors import ConfigError
from assay.families import check_part
from assay.parameters import check_share
from assay.parts import Part

COVERAGE = 0.95
LEAST_CONFIDENCE = 0.5
_MOST_ROWS = 10**6
_DRAWS, _SEED, _RANKS = 10_000, 0, 100
_WORDS = "average, or {confidence: 0.9}, with all_eps: true in it for all eps at once"

Bands = dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Promise:
    """The promise of p-values that compare a score with m calibration scores.

    Attributes
    ----------
    confidence : float, optional
        None: ``p = r / (m + 1)``, with r = 1 + #{calibration scores >= score}. The false-positive rate is at most eps
        on average over calibration rows. Otherwise p is the `confidence` quantile of ``Beta(r, m + 1 - r)``, but at
        least r / (m + 1): with this confidence over calibration rows, the false-positive rate of this one scorer is at
        most eps.
    all_eps : bool
        Whether the confidence is for all eps at once, which may then be chosen after a look at p-values, and not for
        one eps chosen beforehand. The quantiles are raised until the bounds of all ranks hold together (Bates, Candes,
        Lei, Romano, Sesia 2023, section 3: calibration-conditional p-values; the level comes from 10,000 simulated
        calibration sets, not from their closed forms). Above 100 calibration rows the bounds are those of 100 ranks,
        and other ranks have the bound of the next higher one.

    Raises
    ------
    ConfigError
        `confidence` is not in [0.5, 1), or `all_eps` is set without one.
    """

    confidence: float | None = None
    all_eps: bool = False

    def __post_init__(self) -> None:
        if self.confidence is None:
            if self.all_eps:
                raise ConfigError("all_eps is true without a confidence, and has a meaning only with one; add it")
        elif check_share(self.confidence, "confidence") < LEAST_CONFIDENCE:
            raise ConfigError(f"confidence is {self.confidence:g}; give a number from 0.5 on and below 1, such as 0.9")

    @classmethod
    def parse(cls, setting: object) -> Self:
        """Return the promise that the setting ``calibrate.promise`` asks for.

        Raises
        ------
        ConfigError
            It is neither "average" nor a mapping of `confidence` and perhaps `all_eps`, or a value is not allowed.
        """
        if setting == "average":
            return cls()
        if not isinstance(setting, Mapping) or not {"confidence"} <= set(setting) <= {"confidence", "all_eps"}:
            raise ConfigError(f"calibrate.promise is {setting!r}; it must be {_WORDS}")
        if not isinstance(setting.get("all_eps", False), bool):
            raise ConfigError(f"calibrate.promise: all_eps is {setting['all_eps']!r}; it must be true or false")
        return cls(check_share(setting["confidence"], "calibrate.promise: confidence"), setting.get("all_eps", False))

    @property
    def is_average(self) -> bool:
        """Whether it is about the average over calibration rows."""
        return self.confidence is None

    def setting(self) -> Literal["average"] | dict[str, Any]:
        """Return the setting that `parse` takes."""
        return "average" if self.confidence is None else {"confidence": self.confidence, "all_eps": self.all_eps}

    def p_values(self, m: int) -> Doubles:
        """Return the p-value of a row with 0, 1, ..., m calibration scores at least as high: float64, (m + 1,)."""
        average: Doubles = np.arange(1, m + 2) / (m + 1)
        if self.confidence is None:
            return average
        bounds = _bounds_at_once(m, self.confidence) if self.all_eps else _quantiles(self.confidence, m)
        return np.append(np.maximum(average[:-1], bounds), 1.0)

    def largest_rank(self, m: int, eps: float) -> int:
        """Return l: a row is flagged at `eps` if fewer than l of m calibration scores are at least as high."""
        if self.confidence is None:
            return largest_rank(m, eps)
        return int(np.searchsorted(self.p_values(m), check_eps(eps), side="right"))

    def rows_needed(self, eps: float) -> int:
        """Return the smallest number m of calibration rows with which a row can be flagged at `eps`.

        For a confidence c and one eps: the smallest m with ``(1 - eps)^m <= 1 - c``. For all eps at once the search
        ends at a million rows.
        """
        if self.confidence is None:
            return rows_needed(eps)
        fewest = math.floor(math.log(1 - self.confidence) / math.log1p(-check_eps(eps)))
        if not self.all_eps:
            return next(m for m in count(max(1, fewest)) if _quantiles(self.confidence, m, 1)[0] <= eps)
        low = high = max(1, fewest)
        while high < _MOST_ROWS and self.p_values(high)[0] > eps:
            low, high = high, 2 * high
        return low + bisect_left(range(low, high), True, key=lambda m: bool(self.p_values(m)[0] <= eps))

    def describe(self, row: str) -> str:
        """Return the promise as a sentence about `row`, which says what the row is exchangeable with."""
        if self.confidence is None:
            return f"P(p <= eps) <= eps for {row}."
        when = "for all eps at once" if self.all_eps else "at one eps chosen beforehand"
        over = f"With confidence {self.confidence:g} over draws of the calibration rows"
        return f"{over}, P(p <= eps) <= eps {when} for {row}."


AVERAGE = Promise()


def fpr_band(rank: int, m: int) -> tuple[float, float]:
    """Return the band that has the false-positive rate of a scorer for `COVERAGE` of the draws of its calibration rows.

    The rate is ``Beta(rank, m + 1 - rank)`` for continuous scores. With ties it may be lower than the band, not higher.

    Parameters
    ----------
    rank : int
        Rows with fewer than `rank` calibration scores at least as high are flagged (`Promise.largest_rank`).
    m : int
        Number of calibration scores.
    """
    from scipy.special import betaincinv

    if rank == 0:
        return 0.0, 0.0
    if rank > m:
        return 1.0, 1.0
    low, high = betaincinv(rank, m + 1 - rank, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)


def band_sentence(bands: Bands, eps: float, most: int = 6) -> str:
    """Return a sentence on the bands of the false-positive rate at `eps` (`fpr_band`), or that none is known."""
    rate = f"the false-positive rate of this scorer at eps {eps:g}"
    if not bands:
        return f"No band is known for {rate}."
    texts = [f"{low:.3g} to {high:.3g}" + ("" if key == "all" else f" in {key}") for key, (low, high) in bands.items()]
    shown = ", ".join(texts[:most]) + (f", and {len(texts) - most} more" if len(texts) > most else "")
    return f"For {COVERAGE:.0%} of draws of its calibration rows, {rate} is {shown}."


def largest_count(p_values: Doubles, eps: float) -> int:
    """Return how many of the m + 1 p-values of a reference, in increasing order, are at most eps, but m at most."""
    return min(int(np.searchsorted(p_values, check_eps(eps), side="right")), p_values.size - 1)


def cannot_flag(eps: float, promise: Promise, there_are: str) -> str:
    """Return a sentence on the number of calibration rows that it takes to flag a row at `eps`."""
    needed = row_count(promise.rows_needed(eps))
    confidence = "" if promise.is_average else f" with confidence {promise.confidence:g}"
    return f"At eps {eps:g}{confidence} no row can be flagged: it takes {needed} calibration rows, {there_are}."


def stored_promise(part: Part, arrays: dict[str, str], config: dict[str, Any] | None = None) -> Promise:
    """Check a calibrator's part and return its promise; parts without one are of the average."""
    if "promise" not in part.config:
        check_part(part, config or {}, arrays)
        return AVERAGE
    check_part(
        part,
        {**(config or {}), "promise": {"confidence": float, "all_eps": bool}},
        {**arrays, "p_values": "float64 any_number"},
    )
    return Promise.parse(part.config["promise"])


def stored_p_values(part: Part, promise: Promise, sizes: list[int]) -> list[Doubles]:
    """Return the p-values of each reference of these sizes: as stored, since their last bits depend on SciPy.

    Raises
    ------
    ValueError
        They are not as many as the references need, do not increase, or are below those of the average.
    """
    average = [AVERAGE.p_values(m) for m in sizes]
    if promise.is_average:
        return average
    stored = part.arrays["p_values"]
    if stored.size != sum(sizes) + len(sizes):
        raise ValueError("its p-values are not one more than the calibration scores")
    tables = np.split(stored, np.cumsum([m + 1 for m in sizes])[:-1])
    for table, least in zip(tables, average, strict=True):
        if not ((np.diff(table) >= 0).all() and (table >= least).all() and table[-1] == 1):
            raise ValueError("its p-values do not increase to 1, or are below those of the average")
    return tables


def _quantiles(level: float, m: int, ranks: int | None = None) -> Doubles:
    """Return the quantile of ``Beta(r, m + 1 - r)`` for r = 1, ..., m, or up to `ranks`."""
    from scipy.special import betaincinv

    rank = np.arange(1, (m if ranks is None else ranks) + 1)
    return np.asarray(betaincinv(rank, m + 1 - rank, level), dtype=np.float64)


@cache
def _bounds_at_once(m: int, confidence: float) -> Doubles:
    """Return bounds of the m rates at the calibration scores, from the highest score down, that hold all together."""
    from scipy.special import betainc, betaincinv

    ranks: Integers = (
        np.unique(np.geomspace(1, m, _RANKS).round().astype(np.int64)) if m > _RANKS else np.arange(1, m + 1)
    )
    rng = np.random.default_rng(_SEED)
    # Normalised sums of gamma variables are the order statistics of uniform ones.
    steps = rng.standard_gamma(np.diff([0, *ranks, m + 1]), size=(_DRAWS, len(ranks) + 1))
    sums = np.cumsum(steps, axis=1)
    worst = betainc(ranks, m + 1 - ranks, sums[:, :-1] / sums[:, -1:]).max(axis=1)
    level = np.sort(worst)[math.ceil(confidence * _DRAWS) - 1]
    bounds = betaincinv(ranks, m + 1 - ranks, level)
    return np.asarray(bounds[np.searchsorted(ranks, np.arange(1, m + 1))], dtype=np.float64)
