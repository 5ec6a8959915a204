"""The chance that a scorer flags a row, estimated on selection rows: with the rule that ships, and its sizes.

A scorer that ships compares a row with m calibration rows, m for each stratum or category where it compares within
these. Selection must not know their scores. It has n other normals to compare with, and draws m of them: a row with c
of the n scores at least as high is flagged if fewer than l of the m drawn ones are. This chance is hypergeometric: the
mean over anomalies is the scorer's power without bias. Where n < m, the rank l among m is that of the same share among
n, ``l (n + 1) / (m + 1)``, between two ranks by interpolation: without bias for a normal row, and nearly so for
anomalies. Where that rank is below 1, only draws with replacement (binomial) can tell, and they say too much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Floats, Integers
from assay.calibration.calibrators.conformal import ConformalCalibrator, round_scores
from assay.calibration.calibrators.grouped import GroupedCalibrator
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.calibrators.promise import AVERAGE, Promise
from assay.calibration.calibrators.registry import Calibrator
from assay.errors import DataError

ALL = "all"
_DRAWS, _VALUES_AT_ONCE = 400, 10**6


@dataclass(frozen=True, slots=True)
class FlagRule:
    """How a scorer compares rows with its calibration rows, and flags them, without the scores of these.

    Attributes
    ----------
    kind : str
        Kind of its calibrator.
    side_information : str
        What decides the calibration rows that a row is compared with: "nothing", "stratum", "category" or "weight".
    sizes : mapping of str to int
        Number m of calibration rows, by stratum or category, or of `ALL`; of groups where groups are compared.
    promise : Promise
    ties : str
        See `assay.calibration.decisions.Reference`.
    """

    kind: str
    side_information: str
    sizes: Mapping[str, int]
    promise: Promise = AVERAGE
    ties: str = "counted"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "kind": self.kind,
            "side_information": self.side_information,
            "sizes": dict(self.sizes),
            "promise": self.promise.setting(),
            "ties": self.ties,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the rule that `to_json` described."""
        return cls(**{**content, "promise": Promise.parse(content["promise"])})

    def flagged_below(self, key: str, eps: float) -> int:
        """Return l: a row of a key is flagged if fewer than l of its calibration scores are at least as high."""
        return self.promise.largest_rank(self.sizes[key], eps)

    def limits(self, eps: float) -> str:
        """Return why no row of any key can be flagged at `eps`, or ""."""
        largest = max(self.sizes.values())
        needed = self.promise.rows_needed(eps)
        if largest >= needed:
            return ""
        rows = "calibration groups" if self.kind == "grouped" else "calibration rows"
        within = "" if self.side_information in ("nothing", "weight") else f" of a {self.side_information}"
        confidence = "" if self.promise.is_average else f" with confidence {self.promise.confidence:g}"
        return f"eps {eps:g}{confidence} needs {needed} {rows}{within}, there are {largest}; nothing could be flagged"


def flag_rule_of(calibrator: Calibrator, ties: str) -> FlagRule:
    """Return how a fitted calibrator compares rows."""
    kind, side_information = calibrator.kind, calibrator.side_information
    if isinstance(calibrator, MondrianCalibrator):
        sizes = dict(zip(map(str, calibrator.keys_), calibrator.sizes, strict=True))
        return FlagRule(kind, side_information, sizes, calibrator.promise, ties)
    size = calibrator.n_groups if isinstance(calibrator, GroupedCalibrator) else calibrator.n_rows
    promise = calibrator.promise if isinstance(calibrator, ConformalCalibrator) else AVERAGE
    return FlagRule(kind, side_information, {ALL: size}, promise, ties)


@dataclass(frozen=True, slots=True)
class FlagChances:
    """Chances that a scorer flags selection rows.

    Attributes
    ----------
    normals : ndarray of float64, shape (n,)
        Of each normal, compared with the other normals, other copies of the same content among them.
    anomalies : ndarray of float64, shape (a,)
    """

    normals: Doubles
    anomalies: Doubles


def flag_chances(
    normals: Floats,
    anomalies: Floats,
    rule: FlagRule,
    eps: float,
    *,
    keys: tuple[NDArray[Any], NDArray[Any]] | None = None,
    tie_breaks: tuple[Doubles, Doubles] | None = None,
) -> FlagChances:
    """Return the chances that a scorer flags rows whose scores are compared as they are, or within keys.

    Parameters
    ----------
    normals, anomalies : ndarray of float, shape (n,) and (a,)
        Scores; higher = more anomalous.
    rule : FlagRule
    eps : float
        Target false-positive rate.
    keys : (ndarray of str, ndarray of str), optional
        Stratum or category of each normal and each anomaly; all are calibrated ones.
    tie_breaks : (ndarray, ndarray), optional
        Numbers in [0, 1) that rank a row among equal scores.

    Raises
    ------
    DataError
        A key is none of the rule's.
    """
    of_normals, of_anomalies = (np.full(scores.shape, ALL) for scores in (normals, anomalies)) if keys is None else keys
    breaks = (None, None) if tie_breaks is None else tie_breaks
    chances = np.zeros(normals.shape), np.zeros(anomalies.shape)
    for key in np.unique(np.concatenate([of_normals, of_anomalies])).tolist():
        if key not in rule.sizes:
            raise DataError(f"{rule.side_information} {key!r} has no calibration rows")
        size, flagged_below = rule.sizes[key], rule.flagged_below(key, eps)
        inside, outside = of_normals == key, of_anomalies == key
        reference = np.sort(round_scores(normals[inside]))
        for rows, scores, result, tie_break, is_own in (
            (inside, normals, chances[0], breaks[0], True),
            (outside, anomalies, chances[1], breaks[1], False),
        ):
            counts = _counts(reference, scores[rows], None if tie_break is None else tie_break[rows], is_own=is_own)
            result[rows] = drawn_chances(counts, reference.size - is_own, size, flagged_below)
    return FlagChances(*chances)


def cross_chances(normals: Floats, folds: Integers, anomalies: Floats, rule: FlagRule, eps: float) -> FlagChances:
    """Return the chances that a scorer of K folds flags rows.

    Parameters
    ----------
    normals : ndarray of float, shape (K, n)
        Scores by the model of every fold.
    folds : ndarray of int, shape (n,)
        The fold that each normal is compared in, as a calibration row would be.
    anomalies : ndarray of float, shape (K, a)
    rule : FlagRule
    eps : float
    """
    counts = [np.zeros(scores.shape[1], dtype=np.int64) for scores in (normals, anomalies)]
    for fold in range(len(normals)):
        reference = np.sort(round_scores(normals[fold, folds == fold]))
        counts[0] += _counts(reference, normals[fold], None, is_own=False) - (folds == fold)
        counts[1] += _counts(reference, anomalies[fold], None, is_own=False)
    size, n = rule.sizes[ALL], normals.shape[1]
    flagged_below = rule.flagged_below(ALL, eps)
    return FlagChances(*(drawn_chances(c, n - own, size, flagged_below) for c, own in zip(counts, (1, 0), strict=True)))


def grouped_chances(
    normals: Floats, groups: NDArray[Any], anomalies: Floats, rule: FlagRule, eps: float
) -> FlagChances:
    """Return whether a scorer that compares over groups flags rows (0 or 1), each taken as a row of a new group.

    The p-value is that of `assay.calibration.calibrators.grouped.GroupedCalibrator` with the shares of the other groups
    among the selection normals, for the number of groups that the scorer has.

    Parameters
    ----------
    normals, anomalies : ndarray of float, shape (n,) and (a,)
    groups : ndarray of str, shape (n,)
    rule : FlagRule
    eps : float
    """
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    weights, n_groups, shipped = 1 / sizes[codes], len(sizes), rule.sizes[ALL]
    above = _weight_above(normals, weights, normals) - _own_weight(normals, codes, weights)
    shares = (above / max(n_groups - 1, 1), _weight_above(normals, weights, anomalies) / n_groups)
    flags = [(1 + share * shipped) / (shipped + 1) <= eps for share in shares]
    return FlagChances(*(flag.astype(np.float64) for flag in flags))


def weighted_chances(
    normals: tuple[Floats, Doubles], anomalies: tuple[Floats, Doubles], rule: FlagRule, eps: float
) -> FlagChances:
    """Return whether a scorer with weighted calibration rows flags rows (0 or 1).

    The p-value is that of `assay.calibration.calibrators.weighted.WeightedCalibrator`, with the weights of the other
    selection normals, scaled to the scorer's number of calibration rows.

    Parameters
    ----------
    normals, anomalies : (ndarray, ndarray) of float, shape (n,) and (a,)
        Scores and weights.
    rule : FlagRule
    eps : float
    """
    (scores, weights), n = normals, len(normals[0])
    flags = []
    for (rows, own), others, is_own in ((normals, n - 1, True), (anomalies, n, False)):
        scale = rule.sizes[ALL] / max(others, 1)
        above, total = _weight_above(scores, weights, rows) - is_own * own, weights.sum() - is_own * own
        flags.append((scale * above + own) / np.maximum(scale * total + own, np.finfo(np.float64).tiny) <= eps)
    return FlagChances(*(flag.astype(np.float64) for flag in flags))


def _weight_above(reference: Floats, weights: Doubles, scores: Floats) -> Doubles:
    """Return the sum of the weights of the reference scores at least as high as each score."""
    order = np.argsort(round_scores(reference), kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(weights[order][::-1])])
    first = np.searchsorted(round_scores(reference)[order], round_scores(scores), side="left")
    return np.asarray(sums[len(reference) - first], dtype=np.float64)


def _own_weight(scores: Floats, codes: Integers, weights: Doubles) -> Doubles:
    """Return the weight of the rows of each row's own group with a score at least as high, the row itself included."""
    above = np.zeros(len(scores))
    for own in np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1]):
        above[own] = _weight_above(scores[own], weights[own], scores[own])
    return above


def _counts(reference: NDArray[np.float32], scores: Floats, breaks: Doubles | None, *, is_own: bool) -> Integers:
    """Count the reference scores at least as high as each score, without the row's own one where it is among them."""
    rounded = round_scores(scores)
    at_least = reference.size - np.searchsorted(reference, rounded, side="left") - is_own
    if breaks is None:
        return at_least
    above = reference.size - np.searchsorted(reference, rounded, side="right")
    return above + np.floor(breaks * (at_least - above + 1)).astype(np.int64)


def drawn_chances(counts: Integers, n: int, m: int, flagged_below: int) -> Doubles:
    """Return P(fewer than `flagged_below` of m rows drawn from n are among the `counts` highest), shape (k,).

    Without replacement where n >= m, else by the share, or with replacement (see the module). Without rows to draw from
    nothing is flagged.
    """
    from scipy.stats import binom, hypergeom

    if n == 0 or flagged_below == 0:
        return np.zeros(counts.shape)
    possible = np.arange(n + 1)
    rank = flagged_below * (n + 1) / (m + 1)
    if n >= m:
        table = hypergeom.cdf(flagged_below - 1, n, possible, m)
    elif rank >= 1:
        table = np.clip(rank - possible, 0, 1)
    else:
        table = binom.cdf(flagged_below - 1, m, possible / n)
    return np.asarray(table, dtype=np.float64)[counts]


def worst_rate(chances: Doubles, strata: NDArray[np.integer[Any]]) -> float:
    """Return the largest mean chance of a stratum; arrays of shape (n,)."""
    _, codes = np.unique(strata, return_inverse=True)
    return float((np.bincount(codes, chances) / np.bincount(codes)).max())


def worst_rate_by_chance(chances: Doubles, strata: NDArray[np.integer[Any]], *, seed: int) -> float:
    """Return the .95 quantile of `worst_rate` where strata have no effect: chances are permuted among the rows."""
    _, codes, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    means = np.eye(len(sizes))[codes] / sizes
    rng, worst = np.random.default_rng(seed), np.empty(_DRAWS)
    at_once = max(1, _VALUES_AT_ONCE // len(chances))
    for start in range(0, _DRAWS, at_once):
        block = worst[start : start + at_once]
        shuffled = rng.permuted(np.broadcast_to(chances, (len(block), len(chances))), axis=1)
        block[:] = (shuffled @ means).max(axis=1)
    return float(np.quantile(worst, 0.95))
