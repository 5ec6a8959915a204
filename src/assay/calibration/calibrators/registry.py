"""The calibrators there are: how a row's score becomes a p-value, and which assumption that rests on."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from assay.calibration.calibrators.conformal import ConformalCalibrator, Scores
from assay.calibration.calibrators.cross import CrossCalibrator
from assay.calibration.calibrators.grouped import GroupedCalibrator
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.calibrators.weighted import WeightedCalibrator
from assay.families import Family
from assay.parts import Part


class Calibrator(Protocol):
    """Maps scores to p-values by comparison with calibration rows; eps may change without refitting.

    Each has a `fit` of its own, which takes what it compares by.
    """

    kind: ClassVar[str]

    @property
    def beside(self) -> str:
        """What `p_values` wants beside the scores: "nothing", "stratum", "category" or "weight"."""
        ...

    @property
    def guarantee(self) -> str:
        """One sentence: what is guaranteed, and under which assumption."""
        ...

    @property
    def n_rows(self) -> int:
        """Number m of calibration rows."""
        ...

    @property
    def smallest_eps(self) -> float:
        """The smallest eps that can flag a row."""
        ...

    def limits(self, eps: float) -> str:
        """Return "", or one sentence: which rows cannot be flagged at `eps`, and how many more it would take.

        Raises
        ------
        ConfigError
            `eps` is not between 0 and 1.
        """
        ...

    def p_values(
        self, scores: Scores, beside: Any = None, *, tie_breaks: NDArray[np.floating[Any]] | None = None
    ) -> NDArray[np.float64]:
        """Return p-values, shape (n,), of scores of shape (n,), or (K, n) where rows are scored by K folds.

        Parameters
        ----------
        scores : ndarray of float
        beside : ndarray, shape (n,), or None
            What `beside` says.
        tie_breaks : ndarray of float, shape (n,), optional
            Random numbers, uniform in [0, 1), by which a row takes its place among equal calibration scores; without
            them ties count against the row being anomalous.

        Raises
        ------
        InputError
            A score is NaN, or what is wanted beside the scores or `tie_breaks` do not fit.
        ConfigError
            `tie_breaks` have no exact meaning for this calibrator.
        """
        ...

    def to_part(self) -> Part:
        """Return the calibrator as a part."""
        ...

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the calibrator that `to_part` described."""
        ...


CALIBRATORS: dict[str, type[Calibrator]] = {
    calibrator.kind: calibrator
    for calibrator in (
        ConformalCalibrator,
        MondrianCalibrator,
        GroupedCalibrator,
        WeightedCalibrator,
        CrossCalibrator,
    )
}
_FAMILY = Family[Calibrator]("calibrator", CALIBRATORS)


def load_calibrator(part: Part) -> Calibrator:
    """Return the calibrator that a part describes.

    Raises
    ------
    ScorerError
        The part is of an unknown kind, or damaged.
    """
    return _FAMILY.load(part)
