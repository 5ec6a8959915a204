"""Cross-conformal calibration: every row is used for fitting and, by the models that did not see it, for reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from assay.calibration.calibrators.conformal import (
    Scores,
    check_scores,
    check_tie_breaks,
    counted,
    reference_scores,
    refuse_beside,
    row_count,
    rows_needed,
    split_references,
)
from assay.errors import DataError, InputError
from assay.families import check_part
from assay.parts import Part


class CrossCalibrator:
    """Compares the score of a row by each fold's model with that model's scores of the rows it did not see.

    ``p = (1 + sum_k #{i in fold k: s_k(x_i) >= s_k(x)}) / (m + 1)``, with K folds of m rows in all (Vovk 2015; with
    one row in a fold it decides as the jackknife+ does, Barber, Candes, Ramdas, Tibshirani 2021). Model k is fitted
    without the rows of fold k. Those may be the rows left out in turn, calibration rows that no model saw (given to
    folds by chance or by a hash, not by what they look like), or both: what matters is that model k saw none of
    fold k.

    What is guaranteed. ``p_k = (1 + #{i in fold k: s_k(x_i) >= s_k(x)}) / (m_k + 1)`` is a split-conformal p-value,
    valid by itself, but the K of them depend on each other. A mean of valid p-values with fixed weights is at most
    t with probability at most 2 t, however they depend on each other (Vovk, Wang 2020): where it is, the mean of
    ``max(0, 2 - p_k / t)`` is at least 1, and its expectation is at most 2 t. With weights ``(m_k + 1) / (m + K)``
    the mean is ``((m + 1) p + K - 1) / (m + K)``, so that (Gasparin, Ramdas 2025, section 2)

        P(p <= eps) <= 2 eps + 2 (1 - eps) (K - 1) / (m + K).

    The last term is the price of counting the row itself once, not once in every fold. Where every fold has one
    row, model k was fitted on all the other m - 1 and fitting does not depend on their order, it falls away:
    ``P(p <= eps) <= 2 eps`` (Barber et al., theorem 1). The rates observed are near eps, or below it.

    Attributes
    ----------
    references_ : tuple of K ndarrays of float32, shape (m_k,)
        The scores of fold k by model k, in increasing order.
    """

    kind: ClassVar[str] = "cross"
    beside: ClassVar[str] = "nothing"
    references_: tuple[NDArray[np.float32], ...]

    def fit(self, folds: Sequence[Scores]) -> Self:
        """Store the scores of the calibration rows by fold.

        Parameters
        ----------
        folds : sequence of K >= 2 ndarrays of float, shape (m_k,)
            Scores of the rows of fold k by model k, which saw none of them; higher = more anomalous.

        Raises
        ------
        DataError
            There are fewer than two folds, a fold has no scores, or one is NaN.
        """
        if len(folds) < 2:
            raise DataError(f"{len(folds)} folds were given; cross-calibration needs 2 or more, split needs none")
        self.references_ = tuple(np.sort(reference_scores(scores)) for scores in folds)
        return self

    @property
    def n_rows(self) -> int:
        """Number m of calibration rows, of all folds."""
        return sum(reference.size for reference in self.references_)

    @property
    def n_folds(self) -> int:
        """Number K of folds, and of models that must score a row."""
        return len(self.references_)

    @property
    def guarantee(self) -> str:
        """What is guaranteed, and under which assumption."""
        m, folds = self.n_rows, self.n_folds
        row = f"a row that is exchangeable with the {m} calibration rows"
        if folds == m:
            return (
                f"P(p <= eps) <= 2 eps for {row}, if each model was fitted on all of them but one, and does not depend "
                "on their order."
            )
        return f"P(p <= eps) <= 2 eps + {2 * (folds - 1) / (m + folds):.3g} for {row}, no model having seen its fold."

    @property
    def smallest_eps(self) -> float:
        """The smallest eps that can ever flag a row: 1 / (m + 1)."""
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
        """Return the cross-conformal p-value of each row, shape (n,), in float64.

        Parameters
        ----------
        scores : ndarray of float, shape (K, n)
            Each row's scores by the model of every fold, in the order of the folds.
        beside : None
            Nothing is wanted beside the scores.
        tie_breaks : ndarray of float, shape (n,), optional
            Uniform in [0, 1). In every fold, the row takes a random place among those it ties with, as in
            `ConformalCalibrator.p_values`: every p_k is exact then, and the guarantee stays what it is.

        Raises
        ------
        InputError
            Scores are not of shape (K, n), one is NaN, there is something beside the scores, or `tie_breaks` are
            not as described.
        """
        refuse_beside(self.kind, beside)
        if scores.ndim != 2 or len(scores) != self.n_folds:
            raise InputError(
                f"scores have shape {scores.shape}; give ({self.n_folds}, n), a score by every fold's model"
            )
        check_scores(scores)
        breaks = check_tie_breaks(tie_breaks, scores.shape[1:])
        counts = np.zeros(scores.shape[1], dtype=np.int64)
        for reference, by_model in zip(self.references_, scores, strict=True):
            counts += counted(reference, by_model, breaks)
        return np.asarray((1 + counts) / (self.n_rows + 1), dtype=np.float64)

    def to_part(self) -> Part:
        """Return the sorted calibration scores of every fold as a part."""
        sizes = np.array([reference.size for reference in self.references_], dtype=np.int64)
        return Part(self.kind, {}, {"scores": np.concatenate(self.references_), "sizes": sizes})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the calibrator that `to_part` described (see `load_calibrator`)."""
        check_part(part, {}, {"scores": "float32 m", "sizes": "int64 folds"})
        calibrator = cls()
        calibrator.references_ = split_references(part.arrays["scores"], part.arrays["sizes"], least=2)
        return calibrator
