"""Modalities: everything that the pipeline must know about the content of rows, in one object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from assay.arrays import Doubles, Flags
from assay.data.null_models import MeanNull, NullModel
from assay.data.ranges import Expectation, column_expectations
from assay.data.recipes import RECIPES, Recipe, column_bounds
from assay.data.scaling import Scaler, Standard
from assay.errors import ConfigError

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RawDataset:
    """A dataset of a modality, as its reader returns it.

    Attributes
    ----------
    columns : tuple of str, length d
    shape : tuple of int or None
        Passed to the modality.
    source : str
        Origin of the data, for people.
    features : ndarray, shape (n, d)
    anomalous : ndarray of bool, shape (n,)
    """

    columns: tuple[str, ...]
    shape: Shape | None
    source: str
    features: NDArray[Any]
    anomalous: Flags


Reader = Callable[[Path | None], RawDataset]


@dataclass(frozen=True, slots=True)
class Modality:
    """The content of rows and the scaler, null model, recipes and networks that fit it; this base is for tables.

    A new modality is a subclass that overrides what differs, and one line in `assay.data.modalities.registry`.

    Parameters
    ----------
    shape : tuple of int, optional
        The size of a row along its sides, for a modality whose columns are arranged on a grid.

    Attributes
    ----------
    name : str
        Its key in the registry, and its name in ``card.json`` and ``scorer.json``, where its shape is called
        ``<name>_shape``.
    sides : str or None
        The names of the numbers of the shape, for people; None for a modality without shape.
    scaler_class, null_model_class
        Classes that load the parts in stage and scorer folders; their ``kind`` must be unique.
    by_neighbourhood : bool
        Whether hardness strata follow how sparse normal rows are around a row
        (`assay.calibration.hardness.NeighbourhoodStrata`), or the null model.
    padded : bool
        Whether rows end in NaN where they are short: recipes make them whole, and nothing is filled in or clipped.
    default_recipe : str
        The recipe that source "auto" uses if there are no anomalies.
    sets : mapping of str to Reader
        The named datasets of the modality; a reader is called with the mirror folder, or None.

    Raises
    ------
    ConfigError
        The shape is missing, not a shape, or given to a modality without shape.
    """

    name: ClassVar[str]
    sides: ClassVar[str | None] = None
    scaler_class: ClassVar[type[Scaler]] = Standard
    null_model_class: ClassVar[type[NullModel]] = MeanNull
    by_neighbourhood: ClassVar[bool] = True
    padded: ClassVar[bool] = False
    default_recipe: ClassVar[str] = "cluster"
    sets: ClassVar[Mapping[str, Reader]] = {}

    shape: Shape | None = None

    def __post_init__(self) -> None:
        if self.sides is None and self.shape is not None:
            raise ConfigError(f"{self.name}_shape is {self.shape!r}; modality {self.name!r} has no shape: leave it out")
        if self.sides is not None and not self.fits(self.shape):
            raise ConfigError(f"{self.name}_shape is {self.shape!r}; give ({self.sides}), whole numbers of at least 1")

    @property
    def recipes(self) -> Mapping[str, Recipe]:
        """Recipes for synthetic anomalies: injected ones, and probes where labelled anomalies are missing."""
        return RECIPES

    def scaler(self) -> Scaler:
        """Return an unfitted scaler for raw rows; by default it scales by column."""
        return self.scaler_class()

    def null_model(self) -> NullModel:
        """Return an unfitted null model of scaled rows, which measures hardness; by default their mean."""
        return self.null_model_class()

    def bounds(self, X: Doubles) -> Doubles:
        """Return the smallest and largest value of each column, shape (2, d), for rows made by a recipe fitted on X.

        By default half a range beyond those of X.
        """
        return column_bounds(X)

    def expectations(self, columns: tuple[str, ...]) -> list[Expectation]:
        """Return the expectations of the values of single rows (`assay.data.ranges`)."""
        return column_expectations(columns)

    def network_arguments(self) -> dict[str, Shape]:
        """Return the shape argument that the modality passes to a detector's network.

        ``image_shape`` makes networks convolutional, ``series_shape`` recurrent, where they support it. It is stored in
        the detector's part, so that loading does not need the modality.
        """
        return {}

    @classmethod
    def fits(cls, shape: object) -> bool:
        """Return whether a value is a shape of the modality: two whole numbers of at least 1."""
        return isinstance(shape, tuple) and len(shape) == 2 and all(map(_is_side, shape))

    @property
    def two_sides(self) -> tuple[int, int]:
        """The first two numbers of the shape, for modalities that have one."""
        assert self.shape is not None
        return self.shape[0], self.shape[1]


def _is_side(side: object) -> bool:
    return isinstance(side, Integral) and not isinstance(side, bool) and int(side) >= 1
