"""Split conformal calibration: scores to p-values with a finite-sample false-positive guarantee."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from assay.arrays import Doubles, Flags, Floats, Integers, Singles
from assay.calibration.calibrators.promise import (
    AVERAGE,
    Bands,
    Promise,
    cannot_flag,
    fpr_band,
    largest_count,
    stored_p_values,
    stored_promise,
)
from assay.calibration.calibrators.ranks import check_eps
from assay.errors import ConfigError, DataError, InputError
from assay.parts import Part


class ConformalCalibrator:
    """Compares a score with the scores of calibration rows that no fitting step used.

    For a normal row exchangeable with the m calibration rows, ``P(p <= eps) <= eps``, and
    ``> eps - 1/(m+1)`` where scores have no ties (CADET, theorem 1). By default ties raise p, which keeps the
    bound. Random tie breaking (see `p_values`) makes it exact. This is on average over calibration rows; a `Promise`
    with a confidence is about the rate of this one scorer.

    All scores are rounded to float32 before they are compared. The rounding is monotone, so the bound holds, and the
    last bits of a float64 score cannot change a decision.

    Parameters
    ----------
    promise : Promise
        What p <= eps promises.

    Attributes
    ----------
    scores_ : ndarray of float32, shape (m,)
        The calibration scores in increasing order; may hold infinities.
    """

    kind: ClassVar[str] = "conformal"
    side_information: ClassVar[str] = "nothing"
    scores_: Singles
    _p_values: Doubles

    def __init__(self, promise: Promise = AVERAGE) -> None:
        self.promise = promise

    def fit(self, scores: Floats) -> Self:
        """Store the scores of the calibration rows, shape (m,), higher = more anomalous.

        Raises
        ------
        DataError
            There are no scores, or one is NaN.
        """
        self.scores_ = np.sort(reference_scores(scores))
        self._p_values = self.promise.p_values(self.scores_.size)
        return self

    @property
    def n_rows(self) -> int:
        """Number m of calibration rows."""
        return self.scores_.size

    @property
    def smallest_eps(self) -> float:
        """The smallest false-positive rate at which a row can be flagged."""
        return float(self._p_values[0])

    @property
    def guarantee(self) -> str:
        """The guarantee and its assumption."""
        return self.promise.describe(f"a row that is exchangeable with the {self.n_rows} calibration rows")

    def limits(self, eps: float) -> str:
        """Return a sentence on what it takes to flag rows at `eps` if none can be flagged, else ""."""
        if self.smallest_eps <= check_eps(eps):
            return ""
        return cannot_flag(eps, self.promise, f"there are {self.n_rows}")

    def fpr_bands(self, eps: float) -> Bands:
        """Return the band of the false-positive rate at `eps` of this one scorer, as "all"; see `fpr_band`."""
        return {"all": fpr_band(largest_count(self._p_values, eps), self.n_rows)}

    def p_values(self, scores: Floats, side_information: None = None, *, tie_breaks: Floats | None = None) -> Doubles:
        """Return ``p = (1 + #{calibration scores >= score}) / (m + 1)``, shape (n,), in float64, or see `Promise`.

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
        ConfigError
            `tie_breaks` are given, and the promise has a confidence: it is proved for counted ties.
        """
        refuse_side_information(self.kind, side_information)
        check_scores(scores)
        breaks = check_tie_breaks(tie_breaks, scores.shape, self.promise)
        return self._p_values[count_at_least(self.scores_, scores, breaks)]

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
        """Return the ``ceil((m+1)(1-eps))``-th smallest calibration score (CADET eq 11), or a higher one (`Promise`).

        `predict` flags a row exactly if its score, rounded to float32, is above the threshold. The threshold is +inf
        if no score can be flagged (`smallest_eps`).
        """
        rank = largest_count(self._p_values, eps)
        return float(self.scores_[self.n_rows - rank]) if rank else float("inf")

    def to_part(self) -> Part:
        """Return the sorted calibration scores as a part; with a confidence, also the p-value of each rank."""
        if self.promise.is_average:
            return Part(self.kind, {}, {"scores": self.scores_})
        return Part(
            self.kind, {"promise": self.promise.setting()}, {"scores": self.scores_, "p_values": self._p_values}
        )

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the calibrator that `to_part` described (see `load_calibrator`)."""
        promise = stored_promise(part, {"scores": "float32? m"})
        scores = part.arrays["scores"]
        require_reference(scores)
        calibrator = cls(promise)
        calibrator.scores_ = scores
        calibrator._p_values = stored_p_values(part, promise, [scores.size])[0]
        return calibrator


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


def check_tie_breaks(tie_breaks: Floats | None, shape: tuple[int, ...], promise: Promise = AVERAGE) -> Doubles | None:
    """Return tie breaks in float64; raise `InputError` unless there is one number in [0, 1) for each row."""
    if tie_breaks is None:
        return None
    if not promise.is_average:
        raise ConfigError(
            "tie_breaks are given; a promise with a confidence is proved for counted ties, leave them out"
        )
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
