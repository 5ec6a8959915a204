"""Split conformal calibration: scores to p-values with a finite-sample false-positive guarantee."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from assay.errors import DataError, InputError
from assay.families import check_part
from assay.parameters import check_share
from assay.parts import Part

Scores = NDArray[np.floating[Any]]


class ConformalCalibrator:
    """Compares a score with the scores of calibration rows that no fitting step has seen.

    For a normal row exchangeable with the m calibration rows, ``P(p <= eps) <= eps``, and
    ``> eps - 1/(m+1)`` where scores have no ties (CADET, theorem 1). Ties count against the row being
    anomalous, which keeps the bound, or are broken at random (see `p_values`), which makes it exact.

    Scores of both sides are rounded to float32 before they are compared: the rounding is monotone, so the
    bound holds, and the last bits of a float64 score decide nothing.

    Attributes
    ----------
    scores_ : ndarray of float32, shape (m,)
        The calibration scores in increasing order; may hold infinities.
    """

    kind: ClassVar[str] = "conformal"
    beside: ClassVar[str] = "nothing"
    scores_: NDArray[np.float32]

    def fit(self, scores: Scores) -> Self:
        """Store the scores of the calibration rows, shape (m,), higher = more anomalous.

        Raises
        ------
        DataError
            There are no scores, or one is NaN.
        """
        self.scores_ = np.sort(reference_scores(scores))
        return self

    @property
    def n_rows(self) -> int:
        """Number m of calibration rows."""
        return self.scores_.size

    @property
    def guarantee(self) -> str:
        """What is guaranteed, and under which assumption."""
        return f"P(p <= eps) <= eps for a row that is exchangeable with the {self.n_rows} calibration rows."

    @property
    def smallest_eps(self) -> float:
        """The smallest false-positive rate that can ever flag a row: 1 / (m + 1)."""
        return 1 / (self.n_rows + 1)

    def limits(self, eps: float) -> str:
        """Return "", or where no row can be flagged at `eps` a sentence that says so and what it would take."""
        needed = rows_needed(eps)
        if self.n_rows >= needed:
            return ""
        told = f"it takes {row_count(needed)} calibration rows, there are {self.n_rows}"
        return f"At eps {eps:g} no row can be flagged: {told}."

    def p_values(
        self, scores: Scores, beside: None = None, *, tie_breaks: NDArray[np.floating[Any]] | None = None
    ) -> NDArray[np.float64]:
        """Return ``p = (1 + #{calibration scores >= score}) / (m + 1)``, shape (n,), in float64.

        Parameters
        ----------
        scores : ndarray of float, shape (n,)
        beside : None
            Nothing is wanted beside the scores.
        tie_breaks : ndarray of float, shape (n,), optional
            Random numbers u, uniform in [0, 1), one for each row. The row then takes a random place among the
            calibration rows it ties with, ``p = (1 + #{above} + floor(u (#{equal} + 1))) / (m + 1)``, and
            ``P(p <= l / (m + 1)) = l / (m + 1)`` exactly, with ties or without.

        Raises
        ------
        InputError
            A score is NaN, there is something beside the scores, or `tie_breaks` are not as described.
        """
        refuse_beside(self.kind, beside)
        check_scores(scores)
        counts = counted(self.scores_, scores, check_tie_breaks(tie_breaks, scores.shape))
        return np.asarray((1 + counts) / (self.n_rows + 1), dtype=np.float64)

    def predict(
        self,
        scores: Scores,
        eps: float,
        beside: None = None,
        *,
        tie_breaks: NDArray[np.floating[Any]] | None = None,
    ) -> NDArray[np.bool_]:
        """Flag the rows with ``p <= eps``, shape (n,).

        The comparison is exact without a tolerance: p is the correctly rounded quotient of two integers, so
        it equals an `eps` that stands for the same fraction (1/20 or 0.05), and a client that compares a
        served p-value with its own eps decides as this method does.
        """
        return self.p_values(scores, beside, tie_breaks=tie_breaks) <= check_eps(eps)

    def threshold(self, eps: float) -> float:
        """Return the ``ceil((m+1)(1-eps))``-th smallest calibration score (CADET eq 11).

        A row is flagged where its score, rounded to float32, is above it, which is what `predict` says. It
        is +inf where eps < 1/(m+1): then no score can be flagged.
        """
        m = self.n_rows
        rank = largest_rank(m, eps)
        return float(self.scores_[m - rank]) if rank else float("inf")

    def to_part(self) -> Part:
        """Return the sorted calibration scores as a part."""
        return Part(self.kind, {}, {"scores": self.scores_})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the calibrator that `to_part` described (see `load_calibrator`)."""
        check_part(part, {}, {"scores": "float32 m"})
        require_reference(part.arrays["scores"])
        return cls().fit(part.arrays["scores"])


def check_eps(eps: float) -> float:
    """Return `eps` as a float; raise `ConfigError` unless it is a number between 0 and 1, both excluded."""
    return check_share(eps, "eps")


def largest_rank(m: int, eps: float) -> int:
    """Return ``l = floor((m+1) eps)``: among m calibration scores, p-values up to ``l / (m+1)`` are flagged.

    It is the largest l whose float quotient is <= eps, so that eps = 0.29 with m = 99 gives 29 although the
    float product 0.29 * 100 is below 29.
    """
    nearest = round(check_eps(eps) * (m + 1))
    return nearest if nearest / (m + 1) <= eps else nearest - 1


def rows_needed(eps: float) -> int:
    """Return the smallest number m of calibration rows with which a row can be flagged: 1/(m+1) <= eps."""
    nearest = max(round(1 / Fraction(check_eps(eps))), 2)
    return nearest - 1 if 1 / nearest <= eps else nearest


def row_count(rows: int) -> str:
    """Return a number of rows as text, rounded where it has more than 15 digits."""
    return str(rows) if rows < 10**15 else f"{Decimal(rows):.3g}"


def round_scores(scores: Scores) -> NDArray[np.float32]:
    """Return scores in float32; those beyond its range become infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(scores, dtype=np.float32)


def reference_scores(scores: Scores) -> NDArray[np.float32]:
    """Return calibration scores of shape (m,) in float32, in the order given.

    Raises
    ------
    DataError
        There are no scores, or one is NaN.
    """
    if scores.ndim != 1 or scores.size == 0:
        raise DataError(f"calibration scores have shape {scores.shape}; give one score for each of m >= 1 rows")
    if np.isnan(scores).any():
        raise DataError(f"{np.isnan(scores).sum()} of {scores.size} calibration scores are NaN; none may be")
    return round_scores(scores)


def require_reference(scores: NDArray[np.float32]) -> None:
    """Raise `ValueError` unless scores from a file are those of a calibrator: some, in increasing order, none NaN."""
    if not (scores.size and not np.isnan(scores[-1]) and np.all(scores[:-1] <= scores[1:])):
        raise ValueError("its calibration scores are none, not in increasing order, or NaN")


def split_references(
    scores: NDArray[np.float32], sizes: NDArray[np.int64], *, least: int
) -> tuple[NDArray[np.float32], ...]:
    """Return stored scores one reference after the other; `ValueError` where they are not at least so many."""
    if sizes.size < least or sizes.min() < 1 or sizes.sum() != scores.size:
        raise ValueError(f"its sizes are not those of {least} or more references with {scores.size} scores in all")
    references = tuple(np.split(scores, np.cumsum(sizes)[:-1]))
    for reference in references:
        require_reference(reference)
    return references


def check_scores(scores: Scores) -> None:
    """Raise `InputError` where a score is NaN."""
    if np.isnan(scores).any():
        raise InputError(f"{np.isnan(scores).sum()} of {scores.size} scores are NaN; a p-value needs a score")


def refuse_beside(kind: str, beside: object) -> None:
    """Raise `InputError` where there is something beside the scores of a calibrator that wants nothing."""
    if beside is not None:
        raise InputError(f"{type(beside).__name__} beside the scores; a {kind} calibrator takes scores alone")


def check_tie_breaks(
    tie_breaks: NDArray[np.floating[Any]] | None, shape: tuple[int, ...]
) -> NDArray[np.float64] | None:
    """Return tie breaks in float64; raise `InputError` unless there is one number in [0, 1) for each row."""
    if tie_breaks is None:
        return None
    values = np.asarray(tie_breaks, dtype=np.float64)
    if values.shape != shape or not ((values >= 0) & (values < 1)).all():
        raise InputError(f"tie_breaks have shape {values.shape}; give {shape}, every one in [0, 1), 1 excluded")
    return values


def counted(
    reference: NDArray[np.float32], scores: Scores, tie_breaks: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """Return how many of the sorted reference scores, shape (m,), stand above or level with each score, shape (n,).

    Of those level with it all are counted, or with tie breaks u (see `check_tie_breaks`) as many as come
    before the row when it takes a random place among them: ``floor(u (#{equal} + 1))``.
    """
    rounded = round_scores(scores)
    at_least = reference.size - np.searchsorted(reference, rounded, side="left")
    if tie_breaks is None:
        return at_least
    above = reference.size - np.searchsorted(reference, rounded, side="right")
    return above + np.floor(tie_breaks * (at_least - above + 1)).astype(np.int64)
