"""Windows of series: columns are the steps of all channels, in time order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np

from assay.arrays import Doubles, Floats
from assay.data.modalities.base import Modality, Reader, Shape
from assay.data.modalities.ecg5000 import ecg5000
from assay.data.modalities.series_recipes import series_recipes
from assay.data.null_models import NullModel, check_training_rows, check_width, distance
from assay.data.recipes import Recipe, column_bounds
from assay.data.scaling import Scaler, Standard
from assay.errors import ConfigError
from assay.families import check_part
from assay.parameters import SeriesShape, Whole
from assay.parts import Part

_BLOCK_VALUES = 2**22
MAX_ORDER = 10
_RIDGE = 1e-9


class AutoregressiveNull:
    """Null model of windows of series: each step from the p steps before it, channel by channel (CADET eq 4).

    Least squares over all training windows, with a constant for each channel.

    Differs from the paper:

    - The paper pads a window at its start; here the first p steps, which lack p earlier ones, are left out of the
      norm.
    - The paper does not state p. Here p is the order with the smallest AIC (Akaike 1974), summed over channels, at
      most 10 and a quarter of the window; all orders are compared on the same steps. This needs no labels and no
      held-out rows. With many windows it is mostly the largest order; a superfluous lag then costs almost nothing.

    Parameters
    ----------
    series_shape : tuple of int
        (length, channels); rows hold the channels of the first step, then those of the second, and so on.
    order : int, optional
        p, at least 0 and below the length; chosen by AIC if not given.

    Attributes
    ----------
    coefficients_ : ndarray of float64, shape (channels, p)
        Of lag 1, lag 2, and so on.
    intercepts_ : ndarray of float64, shape (channels,)

    Raises
    ------
    ConfigError
        The order is out of range.
    """

    kind: ClassVar[str] = "autoregressive"
    coefficients_: Doubles
    intercepts_: Doubles

    def __init__(self, series_shape: tuple[int, int], *, order: int | None = None) -> None:
        if order is not None and not 0 <= order < series_shape[0]:
            raise ConfigError(f"order is {order!r}; it must lie between 0 and {series_shape[0] - 1}")
        self.series_shape = series_shape
        self.order = order

    def fit(self, X: Floats) -> Self:
        """Fit on scaled training windows of shape (n, length * channels).

        A ridge of 1e-9 of their variance keeps the coefficients of constant or collinear lags finite.

        Raises
        ------
        DataError
            There are no rows, or one is not finite.
        """
        check_width(X, self.series_shape[0] * self.series_shape[1])
        check_training_rows(X)
        max_order = min(MAX_ORDER, self.series_shape[0] // 4) if self.order is None else self.order
        means, covariances = self._moments(X, max_order)
        fits = [[_regress(covariance, order) for covariance in covariances] for order in range(max_order + 1)]
        order = max_order
        if self.order is None:
            steps = len(X) * (self.series_shape[0] - max_order)
            residuals = [[residual for _, residual in channel_fits] for channel_fits in fits]
            order = int(np.argmin([_aic(residuals[p], steps, p) for p in range(max_order + 1)]))
        self.coefficients_ = np.stack([coefficients for coefficients, _ in fits[order]])
        from_lags = (self.coefficients_ * means[:, 1 : order + 1]).sum(axis=1)
        self.intercepts_ = means[:, 0] - from_lags
        return self

    def _moments(self, X: Floats, max_order: int) -> tuple[Doubles, Doubles]:
        """Return mean (channels, 1 + max_order) and covariance of a step (first) and its lags, over all windows."""
        # Centred before the products, which would otherwise cancel where means are large against deviations.
        centre = np.mean(X, axis=0, dtype=np.float64).reshape(self.series_shape).mean(axis=0)
        channels, width = self.series_shape[1], max_order + 1
        total, products = np.zeros((channels, width)), np.zeros((channels, width, width))
        block = max(1, _BLOCK_VALUES // (X.shape[1] * width))
        for start in range(0, len(X), block):
            windows = X[start : start + block].astype(np.float64).reshape(-1, *self.series_shape) - centre
            lagged = np.lib.stride_tricks.sliding_window_view(windows, width, axis=1)[..., ::-1]
            steps = np.moveaxis(lagged, 2, 0).reshape(channels, -1, width)
            total += steps.sum(axis=1)
            products += steps.transpose(0, 2, 1) @ steps
        count = len(X) * (self.series_shape[0] - max_order)
        mean = total / count
        covariance = products / count - mean[:, :, None] * mean[:, None, :]
        return mean + centre[:, None], covariance

    def hardness(self, X: Floats) -> Doubles:
        """Return the Euclidean distance of each window to its predictions, without the first p steps, shape (n,)."""
        check_width(X, self.series_shape[0] * self.series_shape[1])
        return distance(X, self._predict)

    def _predict(self, rows: Doubles) -> Doubles:
        """Return the predictions (n, d); the first p steps, which have none, unchanged."""
        windows, order = rows.reshape(-1, *self.series_shape), self.coefficients_.shape[1]
        predicted = windows.copy()
        predicted[:, order:] = self.intercepts_
        for lag, coefficients in enumerate(self.coefficients_.T, start=1):
            predicted[:, order:] += coefficients * windows[:, order - lag : -lag]
        return predicted.reshape(rows.shape)

    def to_part(self) -> Part:
        """Return shape, coefficients and constants as a part."""
        config = {"series_shape": list(self.series_shape), "order": self.order}
        return Part(self.kind, config, {"coefficients": self.coefficients_, "intercepts": self.intercepts_})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the null model that `to_part` described."""
        config = {"series_shape": SeriesShape, "order": Whole | None}
        check_part(part, config, {"coefficients": "float64 channels lags", "intercepts": "float64 channels"})
        length, channels = part.config["series_shape"]
        model = cls((int(length), int(channels)), order=part.config["order"])
        model.coefficients_, model.intercepts_ = part.arrays["coefficients"], part.arrays["intercepts"]
        if model.intercepts_.size != channels or model.coefficients_.shape[1] >= length:
            raise ValueError(f"its coefficients are not those of series of {length} steps and {channels} channels")
        return model


def _regress(covariance: Doubles, order: int) -> tuple[Doubles, float]:
    """Return the coefficients of the first `order` lags and the share of the variance that they leave unexplained.

    `covariance` is that of a step and its lags, shape (1 + lags, 1 + lags).
    """
    lag_covariance, step_covariance = covariance[1 : order + 1, 1 : order + 1], covariance[1 : order + 1, 0]
    ridge = _RIDGE * float(np.trace(lag_covariance)) / max(order, 1) or 1.0
    coefficients = np.asarray(
        np.linalg.solve(lag_covariance + ridge * np.eye(order), step_covariance), dtype=np.float64
    )
    residual = covariance[0, 0] - 2 * coefficients @ step_covariance + coefficients @ lag_covariance @ coefficients
    return coefficients, max(float(residual / (covariance[0, 0] or 1.0)), _RIDGE)


def _aic(residuals: list[float], steps: int, order: int) -> float:
    """Return Akaike's criterion of an order, up to a constant, from the unexplained shares of variance."""
    return steps * float(np.log(residuals).sum()) + 2 * len(residuals) * (order + 1)


class Series(Modality):
    """Windows of series, flattened step by step: all channels of the first step, then of the second, and so on."""

    name: ClassVar[str] = "series"
    sides: ClassVar[str | None] = "length, channels"
    null_model_class: ClassVar[type[NullModel]] = AutoregressiveNull
    by_neighbourhood: ClassVar[bool] = False
    default_recipe: ClassVar[str] = "shift"
    sets: ClassVar[Mapping[str, Reader]] = {"ecg5000": ecg5000}

    @property
    def recipes(self) -> Mapping[str, Recipe]:
        """Faults of sensors and of what they watch, for windows of the shape."""
        return series_recipes(self.two_sides)

    def bounds(self, X: Doubles) -> Doubles:
        """Return the bounds of each channel, half a range beyond those of all its steps, for every column, (2, d)."""
        length, channels = self.two_sides
        return np.tile(column_bounds(X.reshape(-1, channels)), length)

    def scaler(self) -> Scaler:
        """Return an unfitted scaler by channel."""
        return Standard(channels=self.two_sides[1])

    def null_model(self) -> NullModel:
        """Return the unfitted null model: each step is predicted from the steps before it."""
        return AutoregressiveNull(self.two_sides)

    def network_arguments(self) -> dict[str, Shape]:
        """Return the shape, for recurrent networks."""
        return {"series_shape": self.two_sides}
