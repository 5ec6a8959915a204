"""Hardness: how hard a row is to model, whatever the detector (CADET, section 3.2), and its strata."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from assay.errors import ConfigError, DataError, InputError
from assay.families import Family, check_part
from assay.parameters import Count, ImageShape, SeriesShape, Whole
from assay.parts import Part

Rows = NDArray[np.floating[Any]]
BLOCK_ROWS, BLOCK_VALUES = 4096, 2**22
QUARTILES = (0.25, 0.5, 0.75)
MAX_ORDER = 10
RIDGE = 1e-9


class NullModel(Protocol):
    """A naive reconstruction of a row; its distance from the row is the row's hardness."""

    def fit(self, X: Rows) -> Self:
        """Fit on scaled training rows of shape (n, d)."""
        ...

    def hardness(self, X: Rows) -> NDArray[np.float64]:
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

    mean_: NDArray[np.float64]

    def fit(self, X: Rows) -> Self:
        """Store the mean of scaled training rows, shape (n, d).

        Raises
        ------
        DataError
            There are no rows, or one is not finite.
        """
        if len(X) == 0 or not np.isfinite(X).all():
            raise DataError(f"hardness cannot be fitted on {len(X)} rows; it needs at least one, all finite")
        self.mean_ = np.mean(X, axis=0, dtype=np.float64)
        return self

    def hardness(self, X: Rows) -> NDArray[np.float64]:
        """Return the Euclidean distance of each row to the training mean, shape (n,)."""
        _check_width(X, self.mean_.size)
        return _distance(X, lambda rows: self.mean_)

    def to_part(self) -> Part:
        """Return the mean as a part."""
        return Part("mean", {}, {"mean": self.mean_})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the null model that `to_part` described."""
        check_part(part, {}, {"mean": "float64 d"})
        model = cls()
        model.mean_ = part.arrays["mean"]
        return model


class NeighbourNull:
    """Null model of images: each pixel is the mean of its 4 neighbours (CADET eq 3).

    Pixels beyond the border repeat the border pixel (CADET, footnote 2). The measure assumes that
    neighbouring pixels share one scale, so images should be scaled as a whole, not pixel by pixel.

    Parameters
    ----------
    image_shape : tuple of int
        (height, width); rows hold the pixels in row-major order.
    """

    def __init__(self, image_shape: tuple[int, int]) -> None:
        self.image_shape = image_shape

    def fit(self, X: Rows) -> Self:
        """Check that rows have height x width columns; there is nothing to learn."""
        _check_width(X, self.image_shape[0] * self.image_shape[1])
        return self

    def hardness(self, X: Rows) -> NDArray[np.float64]:
        """Return the Euclidean distance of each image to its neighbour average, shape (n,)."""
        _check_width(X, self.image_shape[0] * self.image_shape[1])
        return _distance(X, self._neighbour_mean)

    def _neighbour_mean(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        images = np.pad(rows.reshape(-1, *self.image_shape), ((0, 0), (1, 1), (1, 1)), mode="edge")
        vertical = images[:, :-2, 1:-1] + images[:, 2:, 1:-1]
        horizontal = images[:, 1:-1, :-2] + images[:, 1:-1, 2:]
        mean: NDArray[np.float64] = ((vertical + horizontal) / 4).reshape(rows.shape)
        return mean

    def to_part(self) -> Part:
        """Return the image shape as a part without arrays."""
        return Part("neighbours", {"image_shape": list(self.image_shape)})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the null model that `to_part` described."""
        check_part(part, {"image_shape": ImageShape}, {})
        height, width = part.config["image_shape"]
        return cls((int(height), int(width)))


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

    coefficients_: NDArray[np.float64]
    intercepts_: NDArray[np.float64]

    def __init__(self, series_shape: tuple[int, int], *, order: int | None = None) -> None:
        if order is not None and not 0 <= order < series_shape[0]:
            raise ConfigError(f"order is {order!r}; it must lie between 0 and {series_shape[0] - 1}")
        self.series_shape = series_shape
        self.order = order

    def fit(self, X: Rows) -> Self:
        """Fit on scaled training windows of shape (n, length * channels).

        Lags that do not vary or repeat each other get finite coefficients, by a ridge of 1e-9 of their variance.

        Raises
        ------
        DataError
            There are no rows, or one is not finite.
        """
        _check_width(X, self.series_shape[0] * self.series_shape[1])
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

    def _moments(self, X: Rows, most: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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

    def hardness(self, X: Rows) -> NDArray[np.float64]:
        """Return the Euclidean distance of each window to its predictions, without the first p steps, shape (n,)."""
        _check_width(X, self.series_shape[0] * self.series_shape[1])
        return _distance(X, self._predict)

    def _predict(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
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
        return Part("autoregressive", config, {"coefficients": self.coefficients_, "intercepts": self.intercepts_})

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


NULL_MODELS: dict[str, type[NullModel]] = {
    "mean": MeanNull,
    "neighbours": NeighbourNull,
    "autoregressive": AutoregressiveNull,
}
_FAMILY = Family[NullModel]("null model", NULL_MODELS)


def make_null_model(
    modality: str, image_shape: tuple[int, int] | None = None, series_shape: tuple[int, int] | None = None
) -> NullModel:
    """Return the unfitted null model of a modality ("tabular", "image" or "series").

    Raises
    ------
    ConfigError
        The modality is unknown, or an image or series dataset gives no shape.
    """
    if modality == "tabular":
        return MeanNull()
    if modality not in ("image", "series"):
        raise ConfigError(f"modality {modality!r} has no null model; use 'tabular', 'image' or 'series'")
    if modality == "image":
        if image_shape is None:
            raise ConfigError("image_shape is missing; give (height, width) in the dataset's card")
        return NeighbourNull(image_shape)
    if series_shape is None:
        raise ConfigError("series_shape is missing; give (length, channels) in the dataset's card")
    return AutoregressiveNull(series_shape)


def load_null_model(part: Part) -> NullModel:
    """Return the null model that a part describes.

    Raises
    ------
    ScorerError
        The part is of an unknown kind, or damaged.
    """
    return _FAMILY.load(part)


@dataclass(frozen=True, slots=True)
class Strata:
    """Hardness strata, for false-positive rates per stratum (CADET fig. 5).

    Attributes
    ----------
    edges : ndarray of float64, shape (n_strata - 1,)
        Increasing upper edges of all strata but the last; an edge belongs to the stratum below it.
    """

    edges: NDArray[np.float64]

    @classmethod
    def fit(cls, hardness: NDArray[np.float64]) -> Self:
        """Return the quartile strata of the adapt rows' hardness, shape (n,).

        Edges are observed values. Where ties leave fewer than three different edges there are fewer
        strata, and every stratum holds at least one of the rows it was fitted on.

        Raises
        ------
        DataError
            There are no rows, or one is not finite.
        """
        values = np.asarray(hardness, dtype=np.float64)
        if values.size == 0 or not np.isfinite(values).all():
            raise DataError(f"strata cannot be fitted on {values.size} hardness values; give at least one, all finite")
        edges = np.unique(np.quantile(values, QUARTILES, method="inverted_cdf"))
        return cls(edges[edges < values.max()])

    @property
    def n_strata(self) -> int:
        """Number of strata: 4, or fewer where the hardness has ties."""
        return self.edges.size + 1

    def assign(self, hardness: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the stratum of each hardness value, shape (n,), 0 (easiest) to ``n_strata - 1``."""
        return np.searchsorted(self.edges, hardness, side="left").astype(np.int64)

    def to_part(self) -> Part:
        """Return the edges as a part."""
        return Part("strata", {"n_strata": self.n_strata}, {"edges": self.edges})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the strata that `to_part` described."""
        check_part(part, {"n_strata": Count}, {"edges": "float64 edges"})
        strata = cls(part.arrays["edges"])
        if strata.n_strata != part.config["n_strata"] or not np.all(np.diff(strata.edges) > 0):
            raise ValueError(f"its edges are not those of {part.config['n_strata']} strata, in increasing order")
        return strata


_STRATA = Family[Strata]("strata", {"strata": Strata})


def load_strata(part: Part) -> Strata:
    """Return the strata that a part describes.

    Raises
    ------
    ScorerError
        The part is of another kind, or damaged.
    """
    return _STRATA.load(part)


def _regress(covariance: NDArray[np.float64], order: int) -> tuple[NDArray[np.float64], float]:
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


def _check_width(X: Rows, columns: int) -> None:
    if X.ndim != 2 or X.shape[1] != columns:
        raise InputError(f"rows have shape {X.shape}; hardness needs (n, {columns})")


def _distance(X: Rows, null: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> NDArray[np.float64]:
    distances = np.empty(len(X), dtype=np.float64)
    for start in range(0, len(X), BLOCK_ROWS):
        rows = np.array(X[start : start + BLOCK_ROWS], dtype=np.float64, order="C")
        distances[start : start + BLOCK_ROWS] = np.linalg.norm(rows - null(rows), axis=1)
    return distances
