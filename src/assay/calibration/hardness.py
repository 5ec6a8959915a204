"""Strata of hardness, which is how hard a row is to model for any detector (CADET, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from assay.arrays import Doubles, Floats, Integers, Singles
from assay.calibration.neighbours import Neighbours
from assay.errors import DataError, InputError
from assay.families import Family, check_part
from assay.parameters import Count
from assay.parts import Part

QUARTILES = (0.25, 0.5, 0.75)
FEWEST_ROWS = 20
MOST_ROWS = 1000
MOST_HELD_VALUES = 2**20  # of rows that are held to explain others by
SHARE_OF_ROWS = 20
LEAST_NEIGHBOURS = 10
NEARNESS = 5


@dataclass(frozen=True)
class Strata:
    """Strata of the null model's hardness, for false-positive rates per stratum (CADET fig. 5).

    Attributes
    ----------
    edges : ndarray of float64, shape (n_strata - 1,)
        Increasing upper edges of all strata but the last; an edge belongs to the stratum below it.
    """

    kind: ClassVar[str] = "strata"

    edges: Doubles

    @staticmethod
    def fit(hardness: Doubles) -> Strata:
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
        return Strata(edges[edges < values.max()])

    @property
    def n_strata(self) -> int:
        """Number of strata: 4, or fewer if the hardness has ties."""
        return self.edges.size + 1

    def assign(self, scaled: Floats, hardness: Floats | Callable[[], Floats]) -> Integers:
        """Return the stratum of each row, shape (n,), 0 (easiest) to ``n_strata - 1``.

        Parameters
        ----------
        scaled : ndarray of float, shape (n, d)
            The scaled rows.
        hardness : ndarray of float, shape (n,), or callable
            Their hardness by the null model, or what returns it, called where strata go by it.
        """
        return self._place(np.asarray(hardness() if callable(hardness) else hardness, dtype=np.float64))

    def to_part(self) -> Part:
        """Return the edges as a part."""
        return Part(self.kind, {"n_strata": self.n_strata}, {"edges": self.edges})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the strata that `to_part` described."""
        check_part(part, {"n_strata": Count}, {"edges": "float64 edges"})
        strata = cls(part.arrays["edges"])
        strata._check(part)
        return strata

    def _place(self, hardness: Doubles) -> Integers:
        return np.searchsorted(self.edges, hardness, side="left").astype(np.int64)

    def _check(self, part: Part) -> None:
        if self.n_strata != part.config["n_strata"] or not np.all(np.diff(self.edges) > 0):
            raise ValueError(f"its edges are not those of {part.config['n_strata']} strata, in increasing order")


@dataclass(frozen=True)
class NeighbourhoodStrata(Strata):
    """Strata of how sparse normal rows are around a row, for rows without a null model of their own.

    The hardness of a row is the median, over the k adapt rows nearest to it, of the distance of each of those to its
    fifth nearest other one. So rows of one region have about the same hardness, whether they lie among the others
    there or stand apart. The distance to the mean (CADET eq 5) is as large for an anomaly as for a normal row far
    out: within its strata anomalies are compared with the normal rows that are most like them, and power is lower than
    within these (docs/benchmarks/conditional.md).

    k is a twentieth of the rows, at least 10. Of more than 1,000 adapt rows as many are kept, picked at random.

    Attributes
    ----------
    index : Neighbours
        The kept adapt rows, scaled.
    sparsity : ndarray of float64, shape (rows,)
        The distance of each to its fifth nearest other one.
    """

    kind: ClassVar[str] = "neighbourhood strata"

    index: Neighbours
    sparsity: Doubles

    @classmethod
    def fit_rows(cls, scaled: Floats, *, seed: int) -> Self:
        """Return the quartile strata of scaled adapt rows, shape (n, d), n >= 20."""
        scaled = _some(scaled, MOST_ROWS, seed)
        index = Neighbours.build(scaled, max(LEAST_NEIGHBOURS, len(scaled) // SHARE_OF_ROWS))
        neighbours, distances = index.in_order_stored()
        sparsity = distances[:, NEARNESS - 1].copy()
        return cls(Strata.fit(np.median(sparsity[neighbours], axis=1)).edges, index, sparsity)

    def assign(self, scaled: Floats, hardness: Floats | Callable[[], Floats]) -> Integers:
        """Return the stratum of each row; see `Strata.assign`."""
        return self._place(self.hardness(scaled))

    def hardness(self, scaled: Floats) -> Doubles:
        """Return the hardness of scaled rows of shape (n, d), shape (n,)."""
        neighbours, _ = self.index.in_order(scaled)
        return np.asarray(np.median(self.sparsity[neighbours], axis=1))

    def nearest(self, scaled: Floats, n: int) -> Singles:
        """Return the n <= 10 kept rows nearest to each scaled row, nearest first, shape (rows, n, d)."""
        neighbours, _ = self.index.in_order(scaled)
        return self.index.rows()[neighbours[:, :n]]

    def to_part(self) -> Part:
        """Return the edges, the kept rows and their sparsity as a part."""
        arrays = {"edges": self.edges, "sparsity": self.sparsity, **self.index.arrays()}
        return Part(self.kind, {"n_strata": self.n_strata, "k": self.index.k}, arrays)

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the strata that `to_part` described."""
        stored = {"edges": "float64 edges", "sparsity": "float64 n in [0,)", **Neighbours.stored}
        check_part(part, {"n_strata": Count, "k": Count}, stored)
        arrays = part.arrays
        index = Neighbours.from_arrays(part.config["k"], {name: arrays[name] for name in Neighbours.stored})
        strata = cls(arrays["edges"], index, arrays["sparsity"])
        strata._check(part)
        return strata


@dataclass(frozen=True)
class HoldingStrata(Strata):
    """Strata of the null model's hardness that also hold adapt rows, which explain others.

    Attributes
    ----------
    rows : ndarray of float32, shape (n, d)
        Scaled, n >= 1.
    """

    kind: ClassVar[str] = "holding strata"

    rows: Singles

    def assign(self, scaled: Floats, hardness: Floats | Callable[[], Floats]) -> Integers:
        """Return the stratum of each row; see `Strata.assign`."""
        if scaled.shape[1] != self.rows.shape[1]:
            raise InputError(f"rows have {scaled.shape[1]} columns; those that are held have {self.rows.shape[1]}")
        return super().assign(scaled, hardness)

    def nearest(self, scaled: Floats, n: int) -> Singles:
        """Return the n held rows nearest to each scaled row (all, where fewer are held), shape (rows, n, d)."""
        far = np.empty((len(scaled), len(self.rows)))
        for of_row, row in zip(far, scaled, strict=True):
            of_row[:] = np.square(self.rows - row, dtype=np.float64).sum(axis=1)
        return self.rows[np.argsort(far, axis=1, kind="stable")[:, :n]]

    def to_part(self) -> Part:
        """Return the edges and the held rows as a part."""
        return Part(self.kind, {"n_strata": self.n_strata}, {"edges": self.edges, "rows": self.rows})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the strata that `to_part` described."""
        check_part(part, {"n_strata": Count}, {"edges": "float64 edges", "rows": "float32 n d"})
        strata = cls(part.arrays["edges"], part.arrays["rows"])
        strata._check(part)
        if not strata.rows.size:
            raise ValueError("it holds no rows")
        return strata


def fit_strata(scaled: Floats, hardness: Doubles, *, by_neighbourhood: bool, seed: int) -> Strata:
    """Return the strata of adapt rows: by neighbourhood if that is wanted and there are 20 rows, else by hardness.

    Either holds up to 1,000 of the rows, of very wide ones fewer.

    Parameters
    ----------
    scaled : ndarray of float, shape (n, d)
    hardness : ndarray of float64, shape (n,)
        By the null model.
    by_neighbourhood : bool
        See `assay.data.modalities.base.Modality`.
    seed : int
        Picks the rows that are kept of many.
    """
    if by_neighbourhood and len(scaled) >= FEWEST_ROWS:
        return NeighbourhoodStrata.fit_rows(scaled, seed=seed)
    edges, most = Strata.fit(hardness).edges, max(1, min(MOST_ROWS, MOST_HELD_VALUES // scaled.shape[1]))
    return HoldingStrata(edges, np.asarray(_some(scaled, most, seed), dtype=np.float32))


def _some(rows: Floats, most: int, seed: int) -> Floats:
    """Return rows, of more than `most` a random sample of that many, in their order."""
    if len(rows) <= most:
        return rows
    return rows[np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False))]


_KINDS = (NeighbourhoodStrata, HoldingStrata)
_STRATA = Family[Strata]("strata", {"strata": Strata, **{cls.kind: cls for cls in _KINDS}})


def load_strata(part: Part) -> Strata:
    """Return the strata that a part describes.

    Raises
    ------
    ScorerError
        The part is of another kind, or damaged.
    """
    return _STRATA.load(part)
