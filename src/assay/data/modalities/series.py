"""Windows of series: columns are steps of channels, in order of time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from assay.arrays import Doubles, Floats
from assay.data.modalities.base import Kind, Modality, Reader, Shape, draw
from assay.data.null_models import NullModel, check_width, distance
from assay.data.scaling import Scaler, Standard
from assay.data.series import ecg5000
from assay.errors import ConfigError, DataError
from assay.families import check_part
from assay.parameters import SeriesShape, Whole
from assay.parts import Part

BLOCK_VALUES = 2**22
MAX_ORDER = 10
RIDGE = 1e-9


class AutoregressiveNull:
    """Null model of windows of series: each step from the p steps before it, channel by channel (CADET eq 4).

    Least squares over all training windows, with a constant for each channel.

    Differs from the paper:

    - It pads a window at its start; here the first p steps, which have no past of p steps, are left out of
      the norm.
    - It names no p. Here p is the order with the smallest AIC (Akaike 1974), summed over channels, up to 10 and
      to a quarter of the window, all judged by the same steps: it needs no labels and no held-out rows. With many
      windows that is mostly the largest one; a superfluous lag costs next to nothing then.

    Parameters
    ----------
    series_shape : tuple of int
        (length, channels); rows hold the channels of the first step, then those of the second, and so on.
    order : int, optional
        p, at least 0 and below the length; chosen by AIC where it is left out.

    Attributes
    ----------
    coefficients_ : ndarray of float64, shape (channels, p)
        Of the step before, of that before it, and so on.
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

        Lags that do not vary or repeat each other get finite coefficients, by a ridge of 1e-9 of their variance.

        Raises
        ------
        DataError
            There are no rows, or one is not finite.
        """
        check_width(X, self.series_shape[0] * self.series_shape[1])
        if len(X) == 0 or not np.isfinite(X).all():
            raise DataError(f"hardness cannot be fitted on {len(X)} rows; it needs at least one, all finite")
        most = min(MAX_ORDER, self.series_shape[0] // 4) if self.order is None else self.order
        means, covariances = self._moments(X, most)
        fits = [[_regress(covariance, order) for covariance in covariances] for order in range(most + 1)]
        order = most
        if self.order is None:
            steps = len(X) * (self.series_shape[0] - most)
            order = int(np.argmin([_aic([rest for _, rest in fitted], steps, p) for p, fitted in enumerate(fits)]))
        self.coefficients_ = np.stack([coefficients for coefficients, _ in fits[order]])
        past = (self.coefficients_ * means[:, 1 : order + 1]).sum(axis=1)
        self.intercepts_ = means[:, 0] - past
        return self

    def _moments(self, X: Floats, most: int) -> tuple[Doubles, Doubles]:
        """Return mean (channels, 1 + most) and covariance of a step (first) and its lags, over all windows."""
        centre = np.mean(X, axis=0, dtype=np.float64).reshape(self.series_shape).mean(axis=0)
        channels, width = self.series_shape[1], most + 1
        total, products = np.zeros((channels, width)), np.zeros((channels, width, width))
        block = max(1, BLOCK_VALUES // (X.shape[1] * width))
        for start in range(0, len(X), block):
            windows = X[start : start + block].astype(np.float64).reshape(-1, *self.series_shape) - centre
            lagged = np.lib.stride_tricks.sliding_window_view(windows, width, axis=1)[..., ::-1]
            steps = np.moveaxis(lagged, 2, 0).reshape(channels, -1, width)
            total += steps.sum(axis=1)
            products += steps.transpose(0, 2, 1) @ steps
        count = len(X) * (self.series_shape[0] - most)
        mean = total / count
        covariance = products / count - mean[:, :, None] * mean[:, None, :]
        return mean + centre[:, None], covariance

    def hardness(self, X: Floats) -> Doubles:
        """Return the Euclidean distance of each window to its predictions, without the first p steps, shape (n,)."""
        check_width(X, self.series_shape[0] * self.series_shape[1])
        return distance(X, self._predict)

    def _predict(self, rows: Doubles) -> Doubles:
        """Return the predictions (n, d); the first p steps, which have none, as they are."""
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


def spike(windows: Floats, n: int, rng: np.random.Generator) -> Floats:
    """Add 2 to 6 standard deviations to one step of one channel, up or down."""
    made = draw(windows, n, rng)
    for window, step, channel, size in _jumps(windows, made, (2, 6), rng):
        window[step, channel] += size
    return made


def shift(windows: Floats, n: int, rng: np.random.Generator) -> Floats:
    """Add 0.5 to 3 standard deviations to one channel from some step on, up or down."""
    made = draw(windows, n, rng)
    for window, step, channel, size in _jumps(windows, made, (0.5, 3), rng):
        window[step:, channel] += size
    return made


def stuck(windows: Floats, n: int, rng: np.random.Generator) -> Floats:
    """Repeat the values of one step for a quarter of the window, in all channels: change that is missing."""
    made = draw(windows, n, rng)
    long = max(1, windows.shape[1] // 4)
    for window in made:
        start = rng.integers(windows.shape[1] - long + 1)
        window[start : start + long] = window[start]
    return made


def backwards(windows: Floats, n: int, rng: np.random.Generator) -> Floats:
    """Turn time around: as hard as before."""
    return draw(windows, n, rng)[:, ::-1]


SERIES_KINDS: dict[str, Kind] = {"spike": spike, "shift": shift, "stuck": stuck, "backwards": backwards}


def _regress(covariance: Doubles, order: int) -> tuple[Doubles, float]:
    """Return the coefficients of the first `order` lags and the share of the variance that they leave.

    `covariance` is that of a step and its lags, shape (1 + lags, 1 + lags).
    """
    of_lags, with_lags = covariance[1 : order + 1, 1 : order + 1], covariance[1 : order + 1, 0]
    ridge = RIDGE * float(np.trace(of_lags)) / max(order, 1) or 1.0
    coefficients = np.asarray(np.linalg.solve(of_lags + ridge * np.eye(order), with_lags), dtype=np.float64)
    rest = covariance[0, 0] - 2 * coefficients @ with_lags + coefficients @ of_lags @ coefficients
    return coefficients, max(float(rest / (covariance[0, 0] or 1.0)), RIDGE)


def _aic(rests: list[float], steps: int, order: int) -> float:
    """Return Akaike's criterion of an order, but for a constant, from the shares of variance left."""
    return steps * float(np.log(rests).sum()) + 2 * len(rests) * (order + 1)


def _jumps(windows: Floats, made: Floats, sizes: tuple[float, float], rng: np.random.Generator) -> Any:
    """Yield each window made with a step of its middle half, a channel and a signed size in that channel's unit."""
    (length, channels), spread = windows.shape[1:], windows.std(axis=(0, 1))
    for window in made:
        step, channel = rng.integers(length // 4, length - length // 4), rng.integers(channels)
        yield window, step, channel, rng.choice([-1, 1]) * rng.uniform(*sizes) * spread[channel]


class Series(Modality):
    """Windows of series, flattened step by step: a step holds the values of all channels."""

    name: ClassVar[str] = "series"
    sides: ClassVar[str | None] = "length, channels"
    null_model_class: ClassVar[type[NullModel]] = AutoregressiveNull
    sets: ClassVar[Mapping[str, Reader]] = {"ecg5000": ecg5000}

    def scaler(self) -> Scaler:
        """Return an unfitted scaler by channel."""
        return Standard(channels=self.two_sides[1])

    def null_model(self) -> NullModel:
        """Return the unfitted null model: each step from the ones before it."""
        return AutoregressiveNull(self.two_sides)

    @property
    def probe_kinds(self) -> Mapping[str, Kind]:
        """Kinds that are harder than normal windows, easier, and as hard: recipes would make noise of steps."""
        return SERIES_KINDS

    def network_arguments(self) -> dict[str, Shape]:
        """Return the shape, for recurrent networks."""
        return {"series_shape": self.two_sides}
