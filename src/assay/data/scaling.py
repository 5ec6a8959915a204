"""Scalers: fitted on the training rows of one level, kept as float64 statistics."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from assay.arrays import FLOAT32_MAX, Doubles, Singles
from assay.errors import DataError
from assay.families import check_part
from assay.parts import Part


class Scaler(Protocol):
    """The interface of scalers."""

    kind: ClassVar[str]

    def fit(self, X: NDArray[Any]) -> Self:
        """Learn the statistics from rows of shape (n, d)."""

    def transform(self, X: NDArray[Any]) -> Singles:
        """Return scaled rows of shape (n, d)."""

    def to_part(self) -> Part:
        """Return the part that `assay.data.modalities.registry.load_scaler` reads."""

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Rebuild the scaler from its part."""


def check_finite(X: NDArray[Any]) -> None:
    """Raise `DataError` unless `X` is a 2-D array of finite numbers.

    The message names the first row and column that is not finite, counted from 0.
    """
    if X.ndim != 2:
        raise DataError(f"rows have shape {X.shape}; a 2-D array (rows, columns) is needed")
    bad = ~np.isfinite(X)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise DataError(
            f"row {row}, column {column} is {X[row, column]}; all values must be finite: "
            "fill or remove the row (rows and columns are counted from 0)"
        )


def _check_fit(X: NDArray[Any]) -> None:
    check_finite(X)
    if X.size == 0:
        raise DataError(f"a scaler cannot be fitted on rows of shape {X.shape}; give at least one row and column")


def _float32(values: Doubles) -> Singles:
    """Cast to float32; values beyond its range become its largest value, never infinity."""
    return np.clip(values, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)


class Standard:
    """Per column: subtract the mean, divide by the standard deviation (of the population, ddof 0).

    A constant column is only centred.

    Parameters
    ----------
    channels : int, optional
        For windows of series: number of channels. All steps of a channel share one mean and one deviation, which
        keeps the shape of the series.

    Attributes
    ----------
    mean_, scale_ : ndarray of float64, shape (d,)
    """

    kind: ClassVar[str] = "standard"
    mean_: Doubles
    scale_: Doubles

    def __init__(self, channels: int | None = None) -> None:
        self.channels = channels

    def fit(self, X: NDArray[Any]) -> Self:
        """Learn mean and standard deviation of each column.

        Parameters
        ----------
        X : ndarray, shape (n, d)

        Raises
        ------
        DataError
            A value is not finite, there is no row, or the number of columns is not a multiple of the channels.
        """
        _check_fit(X)
        width = X.shape[1] if self.channels is None else self.channels
        if X.shape[1] % width:
            raise DataError(f"rows have {X.shape[1]} columns; windows of {width} channels have a multiple of that")
        values, steps = X.reshape(-1, width), X.shape[1] // width
        # Compared exactly, because rounding in the mean of equal values would leave a tiny scale.
        constant = values.min(axis=0) == values.max(axis=0)
        mean = np.where(constant, values[0], values.mean(axis=0, dtype=np.float64)).astype(np.float64)
        self.mean_ = np.tile(mean, steps)
        self.scale_ = np.tile(np.where(constant, 1.0, values.std(axis=0, dtype=np.float64)), steps)
        return self

    def transform(self, X: NDArray[Any]) -> Singles:
        """Return (X - mean) / scale, computed in float64.

        Raises
        ------
        DataError
            A value is not finite, or the number of columns is not the fitted one.
        """
        check_finite(X)
        if X.shape[1] != len(self.mean_):
            raise DataError(f"rows have {X.shape[1]} columns; the scaler was fitted on {len(self.mean_)}")
        return _float32((X.astype(np.float64) - self.mean_) / self.scale_)

    def to_part(self) -> Part:
        """Return the fitted statistics."""
        return Part(self.kind, arrays={"mean": self.mean_, "scale": self.scale_})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Rebuild the scaler from its part."""
        check_part(part, {}, {"mean": "float64 d", "scale": "float64 d"})
        scaler = cls()
        scaler.mean_, scaler.scale_ = part.arrays["mean"], part.arrays["scale"]
        return scaler


class MinMax:
    """For images: subtract the smallest pixel of all training images, divide by the range of all.

    One minimum and one range for all pixels keep the contrasts within an image. Constant images are only shifted.

    Attributes
    ----------
    minimum_, range_ : ndarray of float64, shape (1,)
    """

    kind: ClassVar[str] = "minmax"
    minimum_: Doubles
    range_: Doubles

    def fit(self, X: NDArray[Any]) -> Self:
        """Learn the minimum and the range of all pixels.

        Parameters
        ----------
        X : ndarray, shape (n, d)

        Raises
        ------
        DataError
            A value is not finite, or there is no row.
        """
        _check_fit(X)
        low, high = float(X.min()), float(X.max())
        self.minimum_ = np.array([low])
        self.range_ = np.array([high - low if high > low else 1.0])
        return self

    def transform(self, X: NDArray[Any]) -> Singles:
        """Return (X - minimum) / range, computed in float64; not clipped to [0, 1].

        Raises
        ------
        DataError
            A value is not finite.
        """
        check_finite(X)
        return _float32((X.astype(np.float64) - self.minimum_) / self.range_)

    def to_part(self) -> Part:
        """Return the fitted statistics."""
        return Part(self.kind, arrays={"minimum": self.minimum_, "range": self.range_})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Rebuild the scaler from its part."""
        check_part(part, {}, {"minimum": "float64 1", "range": "float64 1"})
        scaler = cls()
        scaler.minimum_, scaler.range_ = part.arrays["minimum"], part.arrays["range"]
        return scaler
