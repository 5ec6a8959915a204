"""Cross-conformal calibration: each row is used for fitting, and as a reference for models fitted without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np

from assay.arrays import Doubles, Floats, Singles
from assay.calibration.calibrators.conformal import (
    check_scores,
    check_tie_breaks,
    count_at_least,
    reference_scores,
    refuse_side_information,
    split_references,
)
from assay.calibration.calibrators.promise import AVERAGE, Bands, cannot_flag
from assay.calibration.calibrators.ranks import rows_needed
from assay.errors import DataError, InputError
from assay.families import check_part
from assay.parts import Part


class CrossCalibrator:
    """Compares each fold model's score of a row with that model's scores of the rows it was not fitted on.

    ``p = (1 + sum_k #{i in fold k: s_k(x_i) >= s_k(x)}) / (m + 1)``, with K folds of m rows in all (Vovk 2015; with
    one row per fold it decides like the jackknife+, Barber, Candes, Ramdas, Tibshirani 2021). Model k is fitted
    without the rows of fold k. These may be the rows left out in turn, calibration rows used by no model (assigned to
    folds at random or by a hash, not by their values), or both.

    Guarantee: ``p_k = (1 + #{i in fold k: s_k(x_i) >= s_k(x)}) / (m_k + 1)`` is a valid split-conformal p-value, but
    the K values depend on each other. A mean of valid p-values with fixed weights is at most t with probability at
    most 2 t under any dependence (Vovk, Wang 2020): if it is, the mean of ``max(0, 2 - p_k / t)`` is at least 1, and
    the expectation of that mean is at most 2 t. With weights ``(m_k + 1) / (m + K)`` the mean is
    ``((m + 1) p + K - 1) / (m + K)``, so that (Gasparin, Ramdas 2025, section 2)

        P(p <= eps) <= 2 eps + 2 (1 - eps) (K - 1) / (m + K).

    The last term arises because the row itself is counted once, not once per fold. It vanishes if every fold has one
    row, model k is fitted on all other m - 1 rows, and fitting does not depend on their order:
    ``P(p <= eps) <= 2 eps`` (Barber et al., theorem 1). Observed rates are near eps or below it.

    Attributes
    ----------
    references_ : tuple of K ndarrays of float32, shape (m_k,)
        The scores of fold k by model k, in increasing order.
    """

    kind: ClassVar[str] = "cross"
    side_information: ClassVar[str] = "nothing"
    references_: tuple[Singles, ...]

    def fit(self, folds: Sequence[Floats]) -> Self:
        """Store the scores of the calibration rows by fold.

        Parameters
        ----------
        folds : sequence of K >= 2 ndarrays of float, shape (m_k,)
            Scores of the rows of fold k by model k, which was fitted without them; higher = more anomalous.

        Raises
        ------
        DataError
            There are fewer than two folds, a fold has no scores, or one is NaN.
        """
        if len(folds) < 2:
            raise DataError(
                f"{len(folds)} folds were given; cross-calibration needs 2 or more, split calibration needs none"
            )
        self.references_ = tuple(np.sort(reference_scores(scores)) for scores in folds)
        return self

    @property
    def n_rows(self) -> int:
        """Number m of calibration rows, of all folds."""
        return sum(reference.size for reference in self.references_)

    @property
    def n_folds(self) -> int:
        """Number K of folds; each row is scored by K models."""
        return len(self.references_)

    @property
    def smallest_eps(self) -> float:
        """The smallest false-positive rate at which a row can be flagged: 1 / (m + 1)."""
        return 1 / (self.n_rows + 1)

    def limits(self, eps: float) -> str:
        """Return a sentence on what it takes to flag rows at `eps` if none can be flagged, else ""."""
        return "" if self.n_rows >= rows_needed(eps) else cannot_flag(eps, AVERAGE, f"there are {self.n_rows}")

    def fpr_bands(self, eps: float) -> Bands:
        """Return nothing: no band is known for the false-positive rate of one scorer."""
        return {}

    @property
    def guarantee(self) -> str:
        """The guarantee and its assumption."""
        m, folds = self.n_rows, self.n_folds
        row = f"a row that is exchangeable with the {m} calibration rows"
        if folds == m:
            return (
                f"P(p <= eps) <= 2 eps for {row}, if each model was fitted on all of them but one, and does not depend "
                "on their order."
            )
        return f"P(p <= eps) <= 2 eps + {2 * (folds - 1) / (m + folds):.3g} for {row}, no model having seen its fold."

    def p_values(self, scores: Floats, side_information: None = None, *, tie_breaks: Floats | None = None) -> Doubles:
        """Return the cross-conformal p-value of each row, shape (n,), in float64.

        Parameters
        ----------
        scores : ndarray of float, shape (K, n)
            Each row's scores by the model of every fold, in the order of the folds.
        side_information : None
            This calibrator needs the scores alone.
        tie_breaks : ndarray of float, shape (n,), optional
            Uniform in [0, 1). In every fold the row is ranked at random among rows with the same score, as in
            `ConformalCalibrator.p_values`. Every p_k is then exact; the guarantee does not change.

        Raises
        ------
        InputError
            Scores are not of shape (K, n), one is NaN, `side_information` is given, or `tie_breaks` have a wrong
            shape or range.
        """
        refuse_side_information(self.kind, side_information)
        if scores.ndim != 2 or len(scores) != self.n_folds:
            raise InputError(
                f"scores have shape {scores.shape}; give ({self.n_folds}, n), a score by every fold's model"
            )
        check_scores(scores)
        breaks = check_tie_breaks(tie_breaks, scores.shape[1:])
        counts = np.zeros(scores.shape[1], dtype=np.int64)
        for reference, fold_scores in zip(self.references_, scores, strict=True):
            counts += count_at_least(reference, fold_scores, breaks)
        return np.asarray((1 + counts) / (self.n_rows + 1), dtype=np.float64)

    def to_part(self) -> Part:
        """Return the sorted calibration scores of every fold as a part."""
        sizes = np.array([reference.size for reference in self.references_], dtype=np.int64)
        return Part(self.kind, {}, {"scores": np.concatenate(self.references_), "sizes": sizes})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the calibrator that `to_part` described (see `load_calibrator`)."""
        check_part(part, {}, {"scores": "float32? m", "sizes": "int64 folds"})
        calibrator = cls()
        calibrator.references_ = split_references(part.arrays["scores"], part.arrays["sizes"], least=2)
        return calibrator
