"""The nearest of many stored rows: exact among few, nearly exact and much faster among many.

Rows are put on a grid so fine that it hardly moves them, and so coarse that every squared distance between grid
points is an integer that float64 holds. Sums and matrix products of such numbers do not round at all: a row's
neighbours and distances are the same bits alone and in a batch, with any number of threads and any BLAS, and equal
rows have distance 0.

More stored rows than `MOST_EXACT` are searched by lists: some stored rows are pivots, and each has a list of the
stored rows nearest to it. A row is looked up in the list of its nearest pivot only. The lists are as long as it takes
for stored rows to find `RECALL` of their true neighbours there, measured on a sample when the index is built; where
that is more than half of all rows (in many dimensions without structure) the search stays exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from assay.parts import Array

Floats = NDArray[np.floating[Any]]
Doubles = NDArray[np.float64]
Indices = NDArray[np.int32]

MOST_EXACT = 5_000
RECALL = 0.97
RECALL_ROWS = 128
PIVOTS_PER_ROOT = 2.0
BITS = 53  # of float64
MOST_BITS = 23  # so that grid points are whole numbers in float32, too
BLOCK_DISTANCES = 2**17


class Found(NamedTuple):
    """Neighbours of some rows, in no particular order.

    Attributes
    ----------
    places : ndarray of int, shape (b,)
        Where these rows stand among those that were searched for.
    distances : ndarray of float64, shape (b, k)
    neighbours : ndarray of int32, shape (b, k)
        Indices of stored rows.
    """

    places: NDArray[np.intp]
    distances: Doubles
    neighbours: Indices


@dataclass(frozen=True, slots=True)
class Grid:
    """Whole multiples of a step around a centre, up to a limit.

    The step is the limit over 2^b, with b so that ``d (2 * 2^b)^2 <= 2^53``. The limit is four times the norm
    of the farthest row about the centre (the medians of the columns), but at least 16 and at most 1,024 times
    the median row's: a wild row among those that the grid is made for must not make it coarse for all others.
    Coordinates beyond it are drawn in to it.

    Attributes
    ----------
    centre : ndarray of float64, shape (d,)
    step : float
        0 where all rows are equal.
    limit : int
        In steps.
    """

    centre: Doubles
    step: float
    limit: int

    @classmethod
    def fit(cls, rows: Floats) -> Self:
        """Make the grid for rows of shape (n, d)."""
        centre = np.median(rows, axis=0).astype(np.float64)
        norms = np.sqrt(np.square(rows - centre).sum(axis=1))
        usual = float(np.median(norms)) or float(norms.mean())
        bits = min(MOST_BITS, (BITS - 2 - int(np.ceil(np.log2(len(centre))))) // 2)
        reach = float(np.clip(4 * norms.max(), 16 * usual, 1024 * usual))
        return cls(centre, reach / 2**bits, 2**bits)

    def snap(self, rows: Floats) -> NDArray[np.float32]:
        """Return the grid points nearest to rows (n, d), in steps from the centre: whole numbers."""
        steps = np.rint((rows - self.centre) / (self.step or 1.0))
        return np.clip(steps, -self.limit, self.limit).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Finds the k stored rows that are nearest to a row, in Euclidean distance.

    Differs from a library's index (faiss, hnswlib): see the module. An inverted file of faiss with lists of equal
    recall took 1.3 to 3 times as long here, since what costs time are many neighbours, not many distances.

    Attributes
    ----------
    k : int
    grid : Grid
    points : ndarray of float32, shape (n, d)
        The stored rows on the grid.
    pivots : ndarray of int32, shape (m,)
        Stored rows; a single one where the search is exact.
    lists : ndarray of int32, shape (m, c)
        The c stored rows nearest to each pivot, by index.
    """

    k: int
    grid: Grid
    points: NDArray[np.float32]
    pivots: Indices
    lists: Indices
    _factors: Doubles = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_factors", _stored_factors(self.points))

    @classmethod
    def build(cls, rows: Floats, k: int, *, seed: int = 0, most_exact: int = MOST_EXACT) -> Self:
        """Store rows of shape (n, d), all finite, to find k < n of them; the seed picks pivots and the sample."""
        grid = Grid.fit(rows)
        everything = np.arange(len(rows), dtype=np.int32)
        exact = cls(k, grid, grid.snap(rows), everything[:1], everything[None])
        if len(rows) <= most_exact:
            return exact
        rng = np.random.default_rng(seed)
        n_pivots = min(len(rows), int(np.ceil(PIVOTS_PER_ROOT * np.sqrt(len(rows)))))
        pivots = np.sort(rng.choice(len(rows), n_pivots, replace=False)).astype(np.int32)
        length = exact._length_of_lists(pivots, rng.choice(len(rows), min(len(rows), RECALL_ROWS), replace=False))
        if 2 * length > len(rows):
            return exact
        return cls(k, grid, exact.points, pivots, exact._lists(pivots, length))

    @property
    def is_exact(self) -> bool:
        """Whether all neighbours are true ones."""
        return len(self.pivots) == 1

    def search(self, rows: Floats) -> Iterator[Found]:
        """Yield the nearest stored rows of rows (n, d), block by block."""
        yield from self._search(self.grid.snap(rows), stored=False)

    def search_stored(self) -> Iterator[Found]:
        """Yield the nearest other stored rows of the stored rows, block by block."""
        yield from self._search(self.points, stored=True)

    def arrays(self) -> dict[str, Array]:
        """Return what to store, next to k."""
        size = np.array([self.grid.step, self.grid.limit])
        return {
            "centre": self.grid.centre,
            "grid": size,
            "points": self.points,
            "pivots": self.pivots,
            "lists": self.lists if not self.is_exact else self.lists[:, :0],
        }

    @classmethod
    def from_arrays(cls, k: int, arrays: dict[str, Array]) -> Self:
        """Rebuild what `arrays` was called on."""
        grid = Grid(arrays["centre"], float(arrays["grid"][0]), int(arrays["grid"][1]))
        points, lists = arrays["points"], arrays["lists"]
        if len(arrays["pivots"]) == 1:
            lists = np.arange(len(points), dtype=np.int32)[None]
        return cls(k, grid, points, arrays["pivots"], lists)

    def _search(self, points: NDArray[np.float32], *, stored: bool) -> Iterator[Found]:
        nearest_pivot = self._nearest_pivots(points, self.pivots)
        order = np.argsort(nearest_pivot, kind="stable")
        ends = np.searchsorted(nearest_pivot[order], np.arange(len(self.pivots) + 1))
        size = max(1, BLOCK_DISTANCES // self.lists.shape[1])
        for pivot in np.flatnonzero(np.diff(ends)):
            listed = self.lists[pivot]
            near = self._factors if self.is_exact else self._factors[listed]
            for start in range(ends[pivot], ends[pivot + 1], size):
                places = order[start : min(start + size, ends[pivot + 1])]
                squared = _factors(points[places]) @ near.T
                if stored:
                    _leave_out(squared, listed, places)
                closest, distances = self._closest(squared)
                yield Found(places, distances, listed[closest])

    def _closest(self, squared: Doubles) -> tuple[NDArray[np.intp], Doubles]:
        """Return the columns of the k smallest squared distances of each row, and the distances."""
        closest = np.argpartition(squared, self.k - 1, axis=1)[:, : self.k]
        starts = np.arange(len(squared))[:, None] * squared.shape[1]
        return closest, np.sqrt(np.take(squared, closest + starts)) * self.grid.step

    def _nearest_pivots(self, points: NDArray[np.float32], pivots: Indices) -> NDArray[np.intp]:
        found = np.zeros(len(points), dtype=np.intp)
        if len(pivots) == 1:
            return found
        size = max(1, BLOCK_DISTANCES // len(pivots))
        for start in range(0, len(points), size):
            squared = _factors(points[start : start + size]) @ self._factors[pivots].T
            found[start : start + size] = squared.argmin(axis=1)
        return found

    def _length_of_lists(self, pivots: Indices, sample: NDArray[np.intp]) -> int:
        """Return how long lists must be to hold `RECALL` of the neighbours of a sample of stored rows."""
        ranks = []
        home = pivots[self._nearest_pivots(self.points[sample], pivots)]
        for row, pivot in zip(sample, home, strict=True):
            of_row, of_pivot = _factors(self.points[[row, pivot]]) @ self._factors.T
            of_row[row] = np.inf
            neighbours = np.argpartition(of_row, self.k - 1)[: self.k]
            ranks.append(np.searchsorted(np.sort(of_pivot), of_pivot[neighbours], side="right"))
        needed = int(np.quantile(np.concatenate(ranks), RECALL, method="inverted_cdf"))
        return max(needed, self.k + 1)

    def _lists(self, pivots: Indices, length: int) -> Indices:
        lists = np.empty((len(pivots), length), dtype=np.int32)
        size = max(1, BLOCK_DISTANCES // len(self.points))
        for start in range(0, len(pivots), size):
            squared = _factors(self.points[pivots[start : start + size]]) @ self._factors.T
            lists[start : start + size] = np.argpartition(squared, length - 1, axis=1)[:, :length]
        return np.sort(lists, axis=1)


def _factors(points: NDArray[np.float32]) -> Doubles:
    """Return (-2 x, 1, x x): its product with `_stored_factors` of y is the squared distance, without rounding."""
    x = points.astype(np.float64)
    return np.column_stack([-2 * x, np.ones(len(x)), np.square(x).sum(axis=1)])


def _stored_factors(points: NDArray[np.float32]) -> Doubles:
    """Return (y, y y, 1)."""
    y = points.astype(np.float64)
    return np.column_stack([y, np.square(y).sum(axis=1), np.ones(len(y))])


def _leave_out(squared: Doubles, listed: Indices, rows: NDArray[np.intp]) -> None:
    """Put each stored row infinitely far from itself where it is in the list, which is sorted."""
    at = np.minimum(np.searchsorted(listed, rows), len(listed) - 1)
    itself = np.flatnonzero(listed[at] == rows)
    squared[itself, at[itself]] = np.inf
