"""The protocol of calibrators, which turn scores into p-values, and their registry."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, Self

from assay.arrays import Doubles, Floats
from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.calibrators.cross import CrossCalibrator
from assay.calibration.calibrators.grouped import GroupedCalibrator
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.calibrators.promise import Bands
from assay.calibration.calibrators.weighted import WeightedCalibrator
from assay.families import Family
from assay.parts import Part


class Calibrator(Protocol):
    """Maps scores to p-values by comparison with calibration rows; eps may change without refitting.

    The arguments of `fit` differ between calibrators.
    """

    kind: ClassVar[str]

    @property
    def side_information(self) -> str:
        """What `p_values` needs for each row in addition to its score: "nothing", "stratum", "category" or "weight"."""
        ...

    @property
    def guarantee(self) -> str:
        """The guarantee and its assumption, in one sentence."""
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
        """Return a sentence on rows that cannot be flagged at `eps` and what it would take, or "".

        Raises
        ------
        ConfigError
            `eps` is not between 0 and 1.
        """
        ...

    def fpr_bands(self, eps: float) -> Bands:
        """Return the band of the false-positive rate of this one scorer at `eps`, by key; see `promise.fpr_band`.

        One band, "all", where all rows are compared with the same calibration rows; empty where no band is known.
        """
        ...

    def p_values(self, scores: Floats, side_information: Any = None, *, tie_breaks: Floats | None = None) -> Doubles:
        """Return p-values, shape (n,), of scores of shape (n,), or (K, n) where rows are scored by K folds.

        Parameters
        ----------
        scores : ndarray of float
        side_information : ndarray, shape (n,), or None
            What the attribute `side_information` names, for each row.
        tie_breaks : ndarray of float, shape (n,), optional
            Random numbers, uniform in [0, 1), that rank a row among equal calibration scores; without them ties raise
            p.

        Raises
        ------
        InputError
            A score is NaN, or `side_information` or `tie_breaks` have a wrong shape or value.
        ConfigError
            `tie_breaks` are given, and this calibrator cannot use them.
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
