"""Hardness: how hard a row is to model, whatever the detector (CADET, section 3.2), and its strata."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from assay.errors import ConfigError, DataError, InputError, ScorerError
from assay.parts import Part

Rows = NDArray[np.floating[Any]]
BLOCK_ROWS = 4096
QUARTILES = (0.25, 0.5, 0.75)


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
    """Null model of tabular rows, and of series: the mean of the training rows (CADET eq 5).

    Differs from the paper: series have no autoregressive null model (CADET eq 4) here.

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
        height, width = part.config["image_shape"]
        return cls((int(height), int(width)))


NULL_MODELS: dict[str, type[MeanNull] | type[NeighbourNull]] = {"mean": MeanNull, "neighbours": NeighbourNull}


def make_null_model(modality: str, image_shape: tuple[int, int] | None = None) -> NullModel:
    """Return the unfitted null model of a modality ("tabular", "image" or "series").

    Raises
    ------
    ConfigError
        The modality is unknown, or an image dataset gives no image shape.
    """
    if modality in ("tabular", "series"):
        return MeanNull()
    if modality != "image":
        raise ConfigError(f"modality {modality!r} has no null model; use 'tabular', 'image' or 'series'")
    if image_shape is None:
        raise ConfigError("image_shape is missing; give (height, width) in the dataset's card")
    return NeighbourNull(image_shape)


def load_null_model(part: Part) -> NullModel:
    """Return the null model that a part describes; an unknown kind raises `ScorerError`."""
    if part.kind not in NULL_MODELS:
        raise ScorerError(f"null model {part.kind!r} is unknown; this version loads {sorted(NULL_MODELS)}")
    return NULL_MODELS[part.kind].from_part(part)


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
        if part.kind != "strata":
            raise ScorerError(f"part of kind {part.kind!r} is not strata; expected 'strata'")
        return cls(part.arrays["edges"])


def _check_width(X: Rows, columns: int) -> None:
    if X.ndim != 2 or X.shape[1] != columns:
        raise InputError(f"rows have shape {X.shape}; hardness needs (n, {columns})")


def _distance(X: Rows, null: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> NDArray[np.float64]:
    distances = np.empty(len(X), dtype=np.float64)
    for start in range(0, len(X), BLOCK_ROWS):
        rows = np.array(X[start : start + BLOCK_ROWS], dtype=np.float64, order="C")
        distances[start : start + BLOCK_ROWS] = np.linalg.norm(rows - null(rows), axis=1)
    return distances
