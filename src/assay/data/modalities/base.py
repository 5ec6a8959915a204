"""What a modality is: all that the pipeline has to know of what a row holds, in one object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Flags, Floats, Singles
from assay.data.null_models import MeanNull, NullModel
from assay.data.ranges import Entry, column_entries
from assay.data.recipes import RECIPES, Recipe, column_bounds, synthesize
from assay.data.scaling import Scaler, Standard
from assay.errors import ConfigError

Shape = tuple[int, int]
Kind = Callable[[Floats, int, np.random.Generator], Floats]
FAR = ("global", "cluster")
DRAWS = 25


@dataclass(frozen=True, slots=True)
class Found:
    """A dataset that comes with a modality, as its reader returns it.

    Attributes
    ----------
    columns : tuple of str, length d
    shape : (int, int) or None
        What the modality is made with.
    source : str
        Where the data come from, for people.
    features : ndarray, shape (n, d)
    anomalous : ndarray of bool, shape (n,)
    """

    columns: tuple[str, ...]
    shape: Shape | None
    source: str
    features: NDArray[Any]
    anomalous: Flags


Reader = Callable[[Path | None], Found]


@dataclass(frozen=True, slots=True)
class Modality:
    """What rows hold, and what follows from it; here, whatever holds for columns in no order.

    A modality is a subclass that overrides what differs, and one line in `assay.data.modalities.registry`.

    Parameters
    ----------
    shape : (int, int), optional
        For a modality whose columns have places: how many there are along each of its two sides.

    Attributes
    ----------
    name : str
        Its key in the registry, and its name in ``card.json`` and ``scorer.json``, where its shape is called
        ``<name>_shape``.
    sides : str or None
        What the numbers of the shape count, for people; None where there is no shape.
    scaler_class, null_model_class
        Whose parts a stage or scorer folder may hold; their ``kind`` is that of no other class.
    recipes : mapping of str to Recipe
        By which synthetic anomalies are injected, and made for want of labelled ones.
    default_recipe : str
        The one that source "auto" injects where there are no anomalies.
    sets : mapping of str to Reader
        The datasets that come with the modality; a reader is called with a folder of copies, or None.

    Raises
    ------
    ConfigError
        The shape is missing, is none, or is for a modality that has none.
    """

    name: ClassVar[str]
    sides: ClassVar[str | None] = None
    scaler_class: ClassVar[type[Scaler]] = Standard
    null_model_class: ClassVar[type[NullModel]] = MeanNull
    recipes: ClassVar[Mapping[str, Recipe]] = RECIPES
    default_recipe: ClassVar[str] = "cluster"
    sets: ClassVar[Mapping[str, Reader]] = {}

    shape: Shape | None = None

    def __post_init__(self) -> None:
        if self.sides is None and self.shape is not None:
            raise ConfigError(f"{self.name}_shape is {self.shape!r}; modality {self.name!r} has no shape: leave it out")
        if self.sides is not None and not _two_sides(self.shape):
            raise ConfigError(f"{self.name}_shape is {self.shape!r}; give ({self.sides}), whole numbers of at least 1")

    def scaler(self) -> Scaler:
        """Return an unfitted scaler for raw rows; here by column."""
        return self.scaler_class()

    def null_model(self) -> NullModel:
        """Return an unfitted null model of scaled rows, from which hardness is measured; here their mean."""
        return self.null_model_class()

    def bounds(self, X: Doubles) -> Doubles:
        """Return the least and the greatest value, shape (2, d), that a recipe fitted on rows X may make of a column.

        Here half a range beyond each column's.
        """
        return column_bounds(X)

    @property
    def probe_kinds(self) -> Mapping[str, Kind]:
        """The kinds of probes by which adapters are chosen (`assay.calibration.adapters.probes`).

        Each makes n raw items of those it is given, shape (m, *shape) where there is a shape. Here the recipes,
        "cluster" drawn anew 25 times since a draw has three centres only. Those that lie far outside the data
        ("global", "cluster") every score finds, so that they would tell no two apart; they are moved towards a random
        row, so that a share of the way is left that is log-uniform between 1/4 and 1.
        """
        return {recipe: partial(_by_recipe, self, recipe) for recipe in self.recipes}

    def expectations(self, columns: tuple[str, ...], features: Singles) -> list[Entry]:
        """Return what is expected of the values of rows, learned from the first version (`assay.data.ranges`)."""
        return column_entries(columns, features)

    def network_arguments(self) -> dict[str, Shape]:
        """Return the arguments that tell a detector's network how columns are arranged.

        ``image_shape`` makes networks that can convolutional, ``series_shape`` recurrent. They are stored in a
        detector's part, so that it is loaded without the modality.
        """
        return {}

    @property
    def two_sides(self) -> Shape:
        """The shape, of a modality that has one."""
        assert self.shape is not None
        return self.shape


def draw(items: Floats, n: int, rng: np.random.Generator) -> Floats:
    """Return a copy of n random items, in float64."""
    return items[rng.integers(len(items), size=n)].astype(np.float64)


def _two_sides(shape: object) -> bool:
    return (
        isinstance(shape, tuple)
        and len(shape) == 2
        and all(isinstance(side, Integral) and not isinstance(side, bool) and int(side) >= 1 for side in shape)
    )


def _by_recipe(modality: Modality, recipe: str, rows: Floats, n: int, rng: np.random.Generator) -> Floats:
    """Return n probes by a recipe, nearer to the rows where it makes them far out."""
    draws = DRAWS if recipe == "cluster" else 1
    normals = rows.astype(np.float32).reshape(len(rows), -1)
    parts = [
        synthesize(recipe, normals, n // draws, seed=seed, modality=modality)[0]
        for seed in rng.integers(2**31, size=draws).tolist()
    ]
    made = np.concatenate(parts)
    if recipe not in FAR:
        return made
    towards = normals[rng.integers(len(normals), size=n)]
    share = 0.25 ** rng.uniform(size=(n, 1))
    return np.asarray(towards + share * (made - towards))
