"""Split conformal calibration: scores to p-values with a finite-sample false-positive guarantee."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from assay.errors import ConfigError, DataError, InputError, ScorerError
from assay.parts import Part

Scores = NDArray[np.floating[Any]]


class ConformalCalibrator:
    """Compares a score with the scores of calibration rows that no fitting step has seen.

    For a normal row exchangeable with the m calibration rows, ``P(p <= eps) <= eps``, and
    ``> eps - 1/(m+1)`` where scores have no ties (CADET, theorem 1). Ties count against the row being
    anomalous, which keeps the bound.

    Scores of both sides are rounded to float32 before they are compared: the rounding is monotone, so the
    bound holds, and the last bits of a float64 score decide nothing.

    Attributes
    ----------
    scores_ : ndarray of float32, shape (m,)
        The calibration scores in increasing order; may hold infinities.
    """

    scores_: NDArray[np.float32]

    def fit(self, scores: Scores) -> Self:
        """Store the scores of the calibration rows, shape (m,), higher = more anomalous.

        Raises
        ------
        DataError
            There are no scores, or one is NaN.
        """
        if scores.ndim != 1 or scores.size == 0:
            raise DataError(f"calibration scores have shape {scores.shape}; give one score for each of m >= 1 rows")
        if np.isnan(scores).any():
            raise DataError(f"{np.isnan(scores).sum()} of {scores.size} calibration scores are NaN; none may be")
        self.scores_ = np.sort(_round(scores))
        return self

    @property
    def smallest_eps(self) -> float:
        """The smallest false-positive rate that can ever flag a row: 1 / (m + 1)."""
        return 1 / (self.scores_.size + 1)

    def p_values(self, scores: Scores) -> NDArray[np.float64]:
        """Return ``p = (1 + #{calibration scores >= score}) / (m + 1)``, shape (n,), in float64.

        Raises
        ------
        InputError
            A score is NaN.
        """
        if np.isnan(scores).any():
            raise InputError(f"{np.isnan(scores).sum()} of {scores.size} scores are NaN; a p-value needs a score")
        m = self.scores_.size
        at_least = m - np.searchsorted(self.scores_, _round(scores), side="left")
        return np.asarray((1 + at_least) / (m + 1), dtype=np.float64)

    def predict(self, scores: Scores, eps: float) -> NDArray[np.bool_]:
        """Flag the rows with ``p <= eps``, shape (n,).

        The comparison is exact without a tolerance: p is the correctly rounded quotient of two integers, so
        it equals an `eps` that stands for the same fraction (1/20 or 0.05), and a client that compares a
        served p-value with its own eps decides as this method does.
        """
        return self.p_values(scores) <= check_eps(eps)

    def threshold(self, eps: float) -> float:
        """Return the ``ceil((m+1)(1-eps))``-th smallest calibration score (CADET eq 11).

        A row is flagged where its score, rounded to float32, is above it, which is what `predict` says. It
        is +inf where eps < 1/(m+1): then no score can be flagged.
        """
        m = self.scores_.size
        rank = largest_rank(m, eps)
        return float(self.scores_[m - rank]) if rank else float("inf")

    def to_part(self) -> Part:
        """Return the sorted calibration scores as a part."""
        return Part("conformal", {}, {"scores": self.scores_})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the calibrator that `to_part` described.

        Raises
        ------
        ScorerError
            The part is of another kind, or its scores are not those of a calibrator (empty, NaN, unsorted).
        """
        scores = part.arrays.get("scores", np.empty(0, dtype=np.float32))
        intact = scores.size and not np.isnan(scores[-1]) and np.all(scores[:-1] <= scores[1:])
        if part.kind != "conformal" or not intact:
            raise ScorerError(f"part of kind {part.kind!r} holds no sorted calibration scores; calibrate again")
        return cls().fit(scores)


def check_eps(eps: float) -> float:
    """Return `eps`; raise `ConfigError` unless it lies between 0 and 1, both excluded."""
    if not 0 < eps < 1:
        raise ConfigError(f"eps is {eps!r}; it must lie between 0 and 1, both excluded (for instance 0.05)")
    return eps


def largest_rank(m: int, eps: float) -> int:
    """Return ``l = floor((m+1) eps)``: among m calibration scores, p-values up to ``l / (m+1)`` are flagged.

    It is the largest l whose float quotient is <= eps, so that eps = 0.29 with m = 99 gives 29 although the
    float product 0.29 * 100 is below 29.
    """
    nearest = round(check_eps(eps) * (m + 1))
    return nearest if nearest / (m + 1) <= eps else nearest - 1


def rows_needed(eps: float) -> int:
    """Return the smallest number m of calibration rows with which a row can be flagged: 1/(m+1) <= eps."""
    nearest = max(round(1 / check_eps(eps)), 2)
    return nearest - 1 if 1 / nearest <= eps else nearest


def _round(scores: Scores) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return np.asarray(scores, dtype=np.float32)
