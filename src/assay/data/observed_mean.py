"""Null model of tables with missing values."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from assay.arrays import Doubles, Floats, Singles
from assay.data.null_models import check_training_rows, check_width, distance
from assay.families import check_part
from assay.parts import Part


class ObservedMean:
    """Null model of tables with missing values: the mean of the training rows (CADET eq 5), over what was observed.

    A missing number is as hard to model as the row's other values are on average; it does not count as a number that
    lies at the median. The hardness is ``sqrt(k / k_observed) ||x - mean||`` over the observed of k encoded columns,
    which is CADET's eq 2 where nothing is missing.

    Attributes
    ----------
    mean_ : ndarray of float64, shape (k,)
    """

    kind: ClassVar[str] = "observed mean"
    mean_: Doubles

    def __init__(self, fills: Singles) -> None:
        self.fills = fills

    def fit(self, X: Floats) -> Self:
        """Store the mean of the observed values of encoded training rows, shape (n, k); 0 where there is none.

        Raises
        ------
        DataError
            There are no rows, or one is not finite.
        """
        check_training_rows(X)
        observed = self.fills != X
        counts = observed.sum(axis=0)
        totals = np.where(observed, X, 0).sum(axis=0, dtype=np.float64)
        self.mean_ = totals / np.maximum(counts, 1)
        return self

    def hardness(self, X: Floats) -> Doubles:
        """Return the hardness of encoded rows, shape (n,)."""
        check_width(X, self.mean_.size)
        n_observed = np.maximum((self.fills != X).sum(axis=1), 1)
        away = distance(X, lambda rows: np.where(self.fills != rows, self.mean_, rows))
        return np.asarray(np.sqrt(X.shape[1] / n_observed) * away)

    def to_part(self) -> Part:
        """Return the mean, and what missing numbers become, as a part."""
        return Part(self.kind, {}, {"mean": self.mean_, "fills": self.fills})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the null model that `to_part` described."""
        check_part(part, {}, {"mean": "float64 k", "fills": "float32? k"})
        model = cls(part.arrays["fills"])
        model.mean_ = part.arrays["mean"]
        return model
