"""Scalers: fitted on the training rows of one level, kept as float64 statistics.

Rows are centred and scaled in float64, and only then cast to float32: 2.4e9 and 2.4e9 + 5 stay two values. A scaler
that an Assay of scorer schemas 1 and 2 fitted states no precision, and goes on casting rows to float32 first.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from assay.arrays import FLOAT32_MAX, Doubles, Singles
from assay.errors import DataError
from assay.families import check_part
from assay.parts import Part

Precision = Literal["float32", "float64"]
_SMALLEST = float(np.finfo(np.float64).smallest_subnormal)


class Scaler(Protocol):
    """The interface of scalers.

    Attributes
    ----------
    kind : str
    precision : {"float32", "float64"}
        What rows are cast to before anything else is done with them.
    """

    kind: ClassVar[str]
    precision: Precision

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


def centre_and_spread(X: NDArray[Any]) -> tuple[Doubles, Doubles]:
    """Return the mean and the standard deviation (of the population, ddof 0) of each column of (n, d), n >= 1.

    In float64, on values divided by a power of two, which is exact, and less the first row: neither an offset as large
    as 1e15 deviations nor values as large as 1e300 or as small as 1e-300 spoil them. The deviation is 0 exactly where
    a column is constant, and its mean is then that value.
    """
    values = np.ascontiguousarray(X, dtype=np.float64)
    exponents = np.frexp(np.abs(values).max(axis=0))[1]
    units = np.ldexp(values, -exponents)
    shifted = units - units[0]
    shift = shifted.mean(axis=0)
    spread = np.sqrt(np.square(shifted - shift).mean(axis=0))
    constant = (values == values[0]).all(axis=0)
    centre = np.where(constant, values[0], np.ldexp(units[0] + shift, exponents))
    return centre, np.where(constant, 0.0, np.maximum(np.ldexp(spread, exponents), _SMALLEST))


def _scaled(X: NDArray[Any], precision: Precision, centre: Doubles, spread: Doubles) -> Singles:
    """Return (X - centre) / spread in float32; what is beyond its range becomes its largest value, never infinity."""
    with np.errstate(over="ignore"):
        rows = X.astype(precision)
        check_finite(rows)
        values = (rows.astype(np.float64) - centre) / spread
    return np.clip(values, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)


def _described(precision: Precision) -> dict[str, Any]:
    """Return the settings of a scaler's part: its precision, which parts of earlier versions did not state."""
    return {} if precision == "float32" else {"precision": precision}


def _stated(part: Part) -> Precision:
    """Return the precision that the part of a scaler states."""
    return "float64" if part.config else "float32"


_SETTINGS = {"precision?": Literal["float64"]}


class Standard:
    """Per column: subtract the mean, divide by the standard deviation (of the population, ddof 0).

    A constant column is only centred. Scaled values beyond the range of float32 become its largest value, and those
    smaller than 1e-45 become 0.

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
        self.precision: Precision = "float64"

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
        steps = X.shape[1] // width
        mean, spread = centre_and_spread(X.reshape(-1, width))
        self.mean_ = np.tile(mean, steps)
        self.scale_ = np.tile(np.where(spread == 0, 1.0, spread), steps)
        return self

    def transform(self, X: NDArray[Any]) -> Singles:
        """Return (X - mean) / scale, computed in float64.

        Raises
        ------
        DataError
            A value is not finite, or the number of columns is not the fitted one.
        """
        if X.ndim == 2 and X.shape[1] != len(self.mean_):
            raise DataError(f"rows have {X.shape[1]} columns; the scaler was fitted on {len(self.mean_)}")
        return _scaled(X, self.precision, self.mean_, self.scale_)

    def to_part(self) -> Part:
        """Return the fitted statistics."""
        return Part(self.kind, _described(self.precision), {"mean": self.mean_, "scale": self.scale_})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Rebuild the scaler from its part."""
        check_part(part, _SETTINGS, {"mean": "float64 d", "scale": "float64 d in (0,)"})
        scaler = cls()
        scaler.precision = _stated(part)
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

    def __init__(self) -> None:
        self.precision: Precision = "float64"

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
        return _scaled(X, self.precision, self.minimum_, self.range_)

    def to_part(self) -> Part:
        """Return the fitted statistics."""
        return Part(self.kind, _described(self.precision), {"minimum": self.minimum_, "range": self.range_})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Rebuild the scaler from its part."""
        check_part(part, _SETTINGS, {"minimum": "float64 1", "range": "float64 1 in (0,)"})
        scaler = cls()
        scaler.precision = _stated(part)
        scaler.minimum_, scaler.range_ = part.arrays["minimum"], part.arrays["range"]
        return scaler
