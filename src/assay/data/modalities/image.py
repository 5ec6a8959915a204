"""Images: columns are pixels, which have neighbours and share one scale."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import prod
from typing import ClassVar, Self

import numpy as np

from assay.arrays import Doubles, Floats
from assay.data.modalities.base import Modality, Reader, Shape
from assay.data.modalities.image_recipes import image_recipes
from assay.data.modalities.magnetic_tiles import TILE_SETS
from assay.data.modalities.mnist import IMAGE_SETS, one_class
from assay.data.null_models import NullModel, check_width, distance
from assay.data.recipes import Recipe
from assay.data.scaling import MinMax, Scaler
from assay.families import check_part
from assay.parameters import ImageShape
from assay.parts import Part

COLOURS = ("_red", "_green", "_blue")


class NeighbourNull:
    """Null model of images: each pixel is the mean of its 4 neighbours (CADET eq 3), of its own colour.

    Pixels beyond the border repeat the border pixel (CADET, footnote 2). Neighbouring pixels must share one
    scale: scale images as a whole, not pixel by pixel.

    Parameters
    ----------
    image_shape : tuple of int
        (height, width), or (height, width, 3); rows hold the pixels in row-major order, the colours of each together.
    """

    kind: ClassVar[str] = "neighbours"

    def __init__(self, image_shape: Shape) -> None:
        self.image_shape = image_shape

    def fit(self, X: Floats) -> Self:
        """Check that rows have as many columns as images have values; there is nothing to learn."""
        check_width(X, prod(self.image_shape))
        return self

    def hardness(self, X: Floats) -> Doubles:
        """Return the Euclidean distance of each image to its neighbour average, shape (n,)."""
        check_width(X, prod(self.image_shape))
        return distance(X, self._neighbour_mean)

    def _neighbour_mean(self, rows: Doubles) -> Doubles:
        height, width = self.image_shape[:2]
        images = np.pad(rows.reshape(len(rows), height, width, -1), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
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
        return cls(tuple(map(int, part.config["image_shape"])))


def pixel_columns(image_shape: Shape) -> tuple[str, ...]:
    """Return the names of the columns of flattened images, row by row, in colour with the three of each pixel."""
    height, width, *channels = image_shape
    endings = COLOURS if channels else ("",)
    return tuple(f"pixel_{row}_{column}{end}" for row in range(height) for column in range(width) for end in endings)


class Image(Modality):
    """Images in grey or colour, flattened row by row: pixels share one scale, and neighbouring ones are similar."""

    name: ClassVar[str] = "image"
    sides: ClassVar[str | None] = "height, width"
    scaler_class: ClassVar[type[Scaler]] = MinMax
    null_model_class: ClassVar[type[NullModel]] = NeighbourNull
    by_neighbourhood: ClassVar[bool] = False
    default_recipe: ClassVar[str] = "patch"
    sets: ClassVar[Mapping[str, Reader]] = {
        **{name: partial(one_class, name) for name in IMAGE_SETS},
        **TILE_SETS,
    }

    @property
    def recipes(self) -> Mapping[str, Recipe]:
        """Corruptions of images of the shape."""
        return image_recipes(self.full_shape)

    def null_model(self) -> NullModel:
        """Return the unfitted null model: each pixel from its neighbours."""
        return NeighbourNull(self.full_shape)

    def bounds(self, X: Doubles) -> Doubles:
        """Return the smallest and the largest of all pixels, for every column, shape (2, d)."""
        return np.stack([np.full(X.shape[1], X.min()), np.full(X.shape[1], X.max())])

    def network_arguments(self) -> dict[str, Shape]:
        """Return the shape, for convolutional networks."""
        return {"image_shape": self.full_shape}

    @classmethod
    def fits(cls, shape: object) -> bool:
        """Return whether a value is (height, width), or (height, width, 3) for images in colour."""
        is_colour = isinstance(shape, tuple) and len(shape) == 3 and shape[2] == len(COLOURS)
        return super().fits(shape[:2] if is_colour and isinstance(shape, tuple) else shape)

    @property
    def full_shape(self) -> Shape:
        """(height, width), or (height, width, 3)."""
        assert self.shape is not None
        return self.shape
