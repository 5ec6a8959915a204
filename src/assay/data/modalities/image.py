"""Images: columns are pixels, which have neighbours and share one scale."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, Self

import numpy as np

from assay.arrays import Doubles, Floats
from assay.data.modalities.base import Modality, Reader, Shape
from assay.data.modalities.magnetic_tiles import TILE_SETS
from assay.data.modalities.mnist import IMAGE_SETS, one_class
from assay.data.null_models import NullModel, check_width, distance
from assay.data.scaling import MinMax, Scaler
from assay.families import check_part
from assay.parameters import ImageShape
from assay.parts import Part


class NeighbourNull:
    """Null model of images: each pixel is the mean of its 4 neighbours (CADET eq 3).

    Pixels beyond the border repeat the border pixel (CADET, footnote 2). Neighbouring pixels must share one
    scale: scale images as a whole, not pixel by pixel.

    Parameters
    ----------
    image_shape : tuple of int
        (height, width); rows hold the pixels in row-major order.
    """

    kind: ClassVar[str] = "neighbours"

    def __init__(self, image_shape: tuple[int, int]) -> None:
        self.image_shape = image_shape

    def fit(self, X: Floats) -> Self:
        """Check that rows have height x width columns; there is nothing to learn."""
        check_width(X, self.image_shape[0] * self.image_shape[1])
        return self

    def hardness(self, X: Floats) -> Doubles:
        """Return the Euclidean distance of each image to its neighbour average, shape (n,)."""
        check_width(X, self.image_shape[0] * self.image_shape[1])
        return distance(X, self._neighbour_mean)

    def _neighbour_mean(self, rows: Doubles) -> Doubles:
        images = np.pad(rows.reshape(-1, *self.image_shape), ((0, 0), (1, 1), (1, 1)), mode="edge")
        vertical = images[:, :-2, 1:-1] + images[:, 2:, 1:-1]
        horizontal = images[:, 1:-1, :-2] + images[:, 1:-1, 2:]
        mean: Doubles = ((vertical + horizontal) / 4).reshape(rows.shape)
        return mean

    def to_part(self) -> Part:
        """Return the image shape as a part without arrays."""
        return Part(self.kind, {"image_shape": list(self.image_shape)})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the null model that `to_part` described."""
        check_part(part, {"image_shape": ImageShape}, {})
        height, width = part.config["image_shape"]
        return cls((int(height), int(width)))


def pixel_columns(image_shape: tuple[int, int]) -> tuple[str, ...]:
    """Return the names of the columns of flattened images, row by row."""
    return tuple(f"pixel_{row}_{column}" for row in range(image_shape[0]) for column in range(image_shape[1]))


class Image(Modality):
    """Grey images, flattened row by row: pixels share one scale, and neighbouring ones are similar."""

    name: ClassVar[str] = "image"
    sides: ClassVar[str | None] = "height, width"
    scaler_class: ClassVar[type[Scaler]] = MinMax
    null_model_class: ClassVar[type[NullModel]] = NeighbourNull
    by_neighbourhood: ClassVar[bool] = False
    sets: ClassVar[Mapping[str, Reader]] = {
        **{name: partial(one_class, name) for name in IMAGE_SETS},
        **TILE_SETS,
    }

    def null_model(self) -> NullModel:
        """Return the unfitted null model: each pixel from its neighbours."""
        return NeighbourNull(self.two_sides)

    def bounds(self, X: Doubles) -> Doubles:
        """Return the smallest and the largest of all pixels, for every column, shape (2, d)."""
        return np.stack([np.full(X.shape[1], X.min()), np.full(X.shape[1], X.max())])

    def network_arguments(self) -> dict[str, Shape]:
        """Return the shape, for convolutional networks."""
        return {"image_shape": self.two_sides}
