"""Split conformal calibration: scores to p-values with a finite-sample false-positive guarantee."""

from __future__ import annotations

from abc import ABC, abstractmethod
from decimal import Decimal
from fractions import Fraction
from typing import ClassVar, Self

import numpy as np

from assay.arrays import Doubles, Flags, Floats, Integers, Singles
from assay.errors import DataError, InputError
from assay.families import check_part
from assay.parameters import check_share
from assay.parts import Part


class CountingCalibrator(ABC):
    """A calibrator whose p-values are multiples of 1 / (m + 1) for m calibration rows."""

    @property
    @abstractmethod
    def n_rows(self) -> int:
        """Number m of calibration rows."""

    @property
    def smallest_eps(self) -> float:
        """The smallest false-positive rate at which a row can be flagged: 1 / (m + 1)."""
        return 1 / (self.n_rows + 1)

    def limits(self, eps: float) -> str:
        """Return a sentence on what it takes to flag rows at `eps` if none can be flagged, else ""."""
        needed = rows_needed(eps)
        if self.n_rows >= needed:
            return ""
        return (
            f"At eps {eps:g} no row can be flagged: it takes {row_count(needed)} calibration rows, "
            f"there are {self.n_rows}."
        )


class ConformalCalibrator(CountingCalibrator):
    """Compares a score with the scores of calibration rows that no fitting step used.

    For a normal row exchangeable with the m calibration rows, ``P(p <= eps) <= eps``, and
    ``> eps - 1/(m+1)`` where scores have no ties (CADET, theorem 1). By default ties raise p, which keeps the
    bound. Random tie breaking (see `p_values`) makes it exact.

    All scores are rounded to float32 before they are compared. The rounding is monotone, so the bound holds, and the
    last bits of a float64 score cannot change a decision.

    Attributes
    ----------
    scores_ : ndarray of float32, shape (m,)
        The calibration scores in increasing order; may hold infinities.
    """

    kind: ClassVar[str] = "conformal"
    side_information: ClassVar[str] = "nothing"
    scores_: Singles

    def fit(self, scores: Floats) -> Self:
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
        """The guarantee and its assumption."""
        return f"P(p <= eps) <= eps for a row that is exchangeable with the {self.n_rows} calibration rows."

    def p_values(self, scores: Floats, side_information: None = None, *, tie_breaks: Floats | None = None) -> Doubles:
        """Return ``p = (1 + #{calibration scores >= score}) / (m + 1)``, shape (n,), in float64.

        Parameters
        ----------
        scores : ndarray of float, shape (n,)
        side_information : None
            This calibrator needs the scores alone.
        tie_breaks : ndarray of float, shape (n,), optional
            Random numbers u, uniform in [0, 1), one for each row. The row is then ranked at random among the
            calibration rows with the same score, ``p = (1 + #{above} + floor(u (#{equal} + 1))) / (m + 1)``, and
            ``P(p <= l / (m + 1)) = l / (m + 1)`` exactly, with or without ties.

        Raises
        ------
        InputError
            A score is NaN, `side_information` is given, or `tie_breaks` have a wrong shape or range.
        """
        refuse_side_information(self.kind, side_information)
        check_scores(scores)
        counts = count_at_least(self.scores_, scores, check_tie_breaks(tie_breaks, scores.shape))
        return np.asarray((1 + counts) / (self.n_rows + 1), dtype=np.float64)

    def predict(
        self,
        scores: Floats,
        eps: float,
        side_information: None = None,
        *,
        tie_breaks: Floats | None = None,
    ) -> Flags:
        """Flag the rows with ``p <= eps``, shape (n,).

        The comparison needs no tolerance. p is the correctly rounded quotient of two integers, so it equals an
        `eps` that is the same fraction (1/20 or 0.05). A client that compares a served p-value with its own eps gets
        the same decision as this method.
        """
        return self.p_values(scores, side_information, tie_breaks=tie_breaks) <= check_eps(eps)

    def threshold(self, eps: float) -> float:
        """Return the ``ceil((m+1)(1-eps))``-th smallest calibration score (CADET eq 11).

        `predict` flags a row exactly if its score, rounded to float32, is above the threshold. The threshold is +inf
        if eps < 1/(m+1): then no score can be flagged.
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

    This is the largest l with a float quotient <= eps: eps = 0.29 with m = 99 gives 29, although the float product
    0.29 * 100 is below 29.
    """
    nearest = round(check_eps(eps) * (m + 1))
    return nearest if nearest / (m + 1) <= eps else nearest - 1


def rows_needed(eps: float) -> int:
    """Return the smallest number m of calibration rows with which a row can be flagged: 1/(m+1) <= eps."""
    nearest = max(round(1 / Fraction(check_eps(eps))), 2)
    return nearest - 1 if 1 / nearest <= eps else nearest


def row_count(rows: int) -> str:
    """Return a number of rows as text, rounded if it has more than 15 digits."""
    return str(rows) if rows < 10**15 else f"{Decimal(rows):.3g}"


def round_scores(scores: Floats) -> Singles:
    """Return scores in float32; those beyond its range become infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(scores, dtype=np.float32)


def reference_scores(scores: Floats) -> Singles:
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


def require_reference(scores: Singles) -> None:
    """Raise `ValueError` unless the stored scores are at least one, in increasing order, and none is NaN."""
    if not (scores.size and not np.isnan(scores[-1]) and np.all(scores[:-1] <= scores[1:])):
        raise ValueError("its calibration scores are missing, not in increasing order, or NaN")


def split_references(scores: Singles, sizes: Integers, *, least: int) -> tuple[Singles, ...]:
    """Split stored scores into references of these sizes; raise `ValueError` if there are fewer than `least`."""
    if sizes.size < least or sizes.min() < 1 or sizes.sum() != scores.size:
        raise ValueError(f"its sizes are not those of {least} or more references with {scores.size} scores in all")
    references = tuple(np.split(scores, np.cumsum(sizes)[:-1]))
    for reference in references:
        require_reference(reference)
    return references


def check_scores(scores: Floats) -> None:
    """Raise `InputError` where a score is NaN."""
    if np.isnan(scores).any():
        raise InputError(f"{np.isnan(scores).sum()} of {scores.size} scores are NaN; a p-value needs a score")


def refuse_side_information(kind: str, side_information: object) -> None:
    """Raise `InputError` where side information is given to a calibrator that takes none."""
    if side_information is not None:
        kind_given = type(side_information).__name__
        raise InputError(f"{kind_given} given as side information; a {kind} calibrator takes scores alone")


def check_tie_breaks(tie_breaks: Floats | None, shape: tuple[int, ...]) -> Doubles | None:
    """Return tie breaks in float64; raise `InputError` unless there is one number in [0, 1) for each row."""
    if tie_breaks is None:
        return None
    values = np.asarray(tie_breaks, dtype=np.float64)
    if values.shape != shape or not ((values >= 0) & (values < 1)).all():
        raise InputError(f"tie_breaks have shape {values.shape}; give {shape}, every one in [0, 1), 1 excluded")
    return values


def count_at_least(reference: Singles, scores: Floats, tie_breaks: Doubles | None = None) -> Integers:
    """Count the sorted reference scores, shape (m,), that are at least as high as each score, shape (n,).

    Equal scores all count. With tie breaks u (see `check_tie_breaks`) only ``floor(u (#{equal} + 1))`` of them do:
    those ahead of the row when it is ranked among them at random.
    """
    rounded = round_scores(scores)
    at_least = reference.size - np.searchsorted(reference, rounded, side="left")
    if tie_breaks is None:
        return at_least
    above = reference.size - np.searchsorted(reference, rounded, side="right")
    return above + np.floor(tie_breaks * (at_least - above + 1)).astype(np.int64)
