"""Null models: measure how hard a row is to model, independent of the detector (CADET, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol, Self

import numpy as np

from assay.arrays import Doubles, Floats
from assay.errors import DataError, InputError
from assay.families import check_part
from assay.parts import Part

HARDNESS_ROWS = 4096  # rows whose float64 copy is held at once


class NullModel(Protocol):
    """A naive reconstruction of rows; the distance of a row to its reconstruction is the row's hardness."""

    kind: ClassVar[str]

    def fit(self, X: Floats) -> Self:
        """Fit on scaled training rows of shape (n, d)."""
        ...

    def hardness(self, X: Floats) -> Doubles:
        """Return ``||x - Null(x)||`` (CADET eq 2), shape (n,), of scaled rows of shape (n, d)."""
        ...

    def to_part(self) -> Part:
        """Return the fitted null model as a part."""
        ...

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the null model that `to_part` described."""
        ...


class MeanNull:
    """Null model of tabular rows: the mean of the training rows (CADET eq 5).

    Attributes
    ----------
    mean_ : ndarray of float64, shape (d,)
    """

    kind: ClassVar[str] = "mean"
    mean_: Doubles

    def fit(self, X: Floats) -> Self:
        """Store the mean of scaled training rows, shape (n, d).

        Raises
        ------
        DataError
            There are no rows, or one is not finite.
        """
        check_training_rows(X)
        self.mean_ = np.mean(X, axis=0, dtype=np.float64)
        return self

    def hardness(self, X: Floats) -> Doubles:
        """Return the Euclidean distance of each row to the training mean, shape (n,)."""
        check_width(X, self.mean_.size)
        return distance(X, lambda rows: self.mean_)

    def to_part(self) -> Part:
        """Return the mean as a part."""
        return Part(self.kind, {}, {"mean": self.mean_})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the null model that `to_part` described."""
        check_part(part, {}, {"mean": "float64 d"})
        model = cls()
        model.mean_ = part.arrays["mean"]
        return model


def check_training_rows(X: Floats) -> None:
    """Raise `DataError` where a null model cannot be fitted: without rows, or where one is not finite."""
    if len(X) == 0 or not np.isfinite(X).all():
        raise DataError(f"hardness cannot be fitted on {len(X)} rows; it needs at least one, all finite")


def check_width(X: Floats, columns: int) -> None:
    """Raise `InputError` unless rows have the given number of columns."""
    if X.ndim != 2 or X.shape[1] != columns:
        raise InputError(f"rows have shape {X.shape}; hardness needs (n, {columns})")


def distance(X: Floats, null: Callable[[Doubles], Doubles]) -> Doubles:
    """Return the Euclidean distance of each row to its reconstruction by `null`, shape (n,), in float64, in blocks."""
    distances = np.empty(len(X), dtype=np.float64)
    for start in range(0, len(X), HARDNESS_ROWS):
        # C order makes the norm add in the same order for any layout of X.
        rows = np.array(X[start : start + HARDNESS_ROWS], dtype=np.float64, order="C")
        distances[start : start + HARDNESS_ROWS] = np.linalg.norm(rows - null(rows), axis=1)
    return distances
