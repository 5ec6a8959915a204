"""Strata of hardness, which is how hard a row is to model for any detector (CADET, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from assay.arrays import Doubles, Integers
from assay.errors import DataError
from assay.families import Family, check_part
from assay.parameters import Count
from assay.parts import Part

QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True)
class Strata:
    """Hardness strata, for false-positive rates per stratum (CADET fig. 5).

    Attributes
    ----------
    edges : ndarray of float64, shape (n_strata - 1,)
        Increasing upper edges of all strata but the last; an edge belongs to the stratum below it.
    """

    edges: Doubles

    @classmethod
    def fit(cls, hardness: Doubles) -> Self:
        """Return the quartile strata of the adapt rows' hardness, shape (n,).

        Edges are observed values. With ties there may be fewer than three different edges, and thus fewer strata. Every
        stratum holds at least one of these rows.

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
        """Number of strata: 4, or fewer if the hardness has ties."""
        return self.edges.size + 1

    def assign(self, hardness: Doubles) -> Integers:
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
