"""The nearest of many stored rows: exact among few, nearly exact and much faster among many.

Rows are put on a grid so fine that it hardly moves them, and so coarse that every squared distance between grid
points is an integer that float64 holds. Sums and matrix products of such numbers do not round at all: a row's
neighbours and distances are the same bits alone and in a batch, with any number of threads and any BLAS, and equal
rows have distance 0.

More stored rows than `MOST_EXACT` are searched by lists: pivots are spread among them by k-means, and each has a list
of the stored rows nearest to it. A row is looked up in the list of its nearest pivot only. The lists are as long as it
takes for stored rows to find `RECALL` of their true neighbours there, measured on a sample when the index is built;
where that is more than half of all rows (many dimensions without structure) the search stays exact. A row unlike all
stored ones finds fewer of its true neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from assay.parts import Array

Floats = NDArray[np.floating[Any]]
Doubles = NDArray[np.float64]
Indices = NDArray[np.int32]
T = TypeVar("T")

MOST_EXACT = 5_000
RECALL = 0.97
RECALL_ROWS = 256
PIVOTS_PER_ROOT = 2
ROWS_PER_PIVOT = 20
KMEANS_ROUNDS = 5
BITS = 53  # of float64
MOST_BITS = 23  # so that grid points are whole numbers in float32, too
BLOCK_DISTANCES = 2**17
BLOCK_ROWS = 32
JOB_ROWS = 1024
MANY_ROWS = 2_000


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

    Why not a library: an inverted file of faiss 1.15 of the same recall took about as long for k = 10, but two to
    three times as long for k = 100 and nine times for k = 1,201 (60,000 rows of 32 columns, one core), since what
    costs time are many neighbours, not many distances; and what it finds for a row may depend on the batch.

    Attributes
    ----------
    k : int
    grid : Grid
    points : ndarray of float32, shape (n, d)
        The stored rows on the grid.
    pivots : ndarray of float32, shape (m, d)
        On the grid; a single one where the search is exact.
    lists : ndarray of int32, shape (m, c)
        The c stored rows nearest to each pivot, by index.
    """

    stored: ClassVar[Mapping[str, str]] = {
        "centre": "float64 d",
        "grid": "float64 2",
        "points": "float32 n d",
        "pivots": "float32 pivots d",
        "lists": "int32 pivots length",
    }

    k: int
    grid: Grid
    points: NDArray[np.float32]
    pivots: NDArray[np.float32]
    lists: Indices
    _factors: Doubles = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_factors", _stored_factors(self.points))

    @classmethod
    def build(cls, rows: Floats, k: int, *, seed: int = 0) -> Self:
        """Store rows of shape (n, d), all finite, to find k < n of them; the seed picks pivots and the sample."""
        grid = Grid.fit(rows)
        points = grid.snap(rows)
        exact = cls(k, grid, points, points[:1], np.arange(len(rows), dtype=np.int32)[None])
        if len(rows) <= MOST_EXACT:
            return exact
        rng = np.random.default_rng(seed)
        pivots = _spread_pivots(points, int(np.ceil(PIVOTS_PER_ROOT * np.sqrt(len(rows)))), rng)
        length = exact._length_of_lists(pivots, rng.choice(len(rows), min(len(rows), RECALL_ROWS), replace=False))
        return exact if 2 * length > len(rows) else cls(k, grid, points, pivots, exact._lists(pivots, length))

    @property
    def is_exact(self) -> bool:
        """Whether all neighbours are true ones."""
        return len(self.pivots) == 1

    def search(self, rows: Floats, use: Callable[[Found], None]) -> None:
        """Find the nearest stored rows of rows (n, d), and hand them on block by block, perhaps in several threads."""
        self._search(self.grid.snap(rows), use, stored=False)

    def search_stored(self, use: Callable[[Found], None]) -> None:
        """Find the nearest other stored rows of the stored rows, and hand them on as `search` does."""
        self._search(self.points, use, stored=True)

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
        """Rebuild what `arrays` was called on; a `ValueError` where k is not less than the number of rows."""
        if not k < len(arrays["points"]):
            raise ValueError(f"k is {k}, but there are {len(arrays['points'])} stored rows")
        grid = Grid(arrays["centre"], float(arrays["grid"][0]), int(arrays["grid"][1]))
        points, lists = arrays["points"], arrays["lists"]
        if len(arrays["pivots"]) == 1:
            lists = np.arange(len(points), dtype=np.int32)[None]
        return cls(k, grid, points, arrays["pivots"], lists)

    def _search(self, points: NDArray[np.float32], use: Callable[[Found], None], *, stored: bool) -> None:
        nearest_pivot = _nearest(points, self.pivots)
        order = np.argsort(nearest_pivot, kind="stable")
        ends = np.searchsorted(nearest_pivot[order], np.arange(len(self.pivots) + 1))
        size = max(BLOCK_ROWS, BLOCK_DISTANCES // self.lists.shape[1])

        def search_list(pivot: int, start: int, stop: int) -> None:
            listed = self.lists[pivot]
            near = self._factors if self.is_exact else self._factors[listed]
            for first in range(start, stop, size):
                places = order[first : min(first + size, stop)]
                squared = _factors(points[places]) @ near.T
                if stored:
                    _leave_out(squared, listed, places)
                closest, distances = self._closest(squared)
                use(Found(places, distances, listed.take(closest)))

        jobs = (
            (int(pivot), start, min(start + JOB_ROWS, ends[pivot + 1]))
            for pivot in np.flatnonzero(np.diff(ends))
            for start in range(ends[pivot], ends[pivot + 1], JOB_ROWS)
        )
        in_threads(lambda job: search_list(*job), jobs, len(points))

    def _closest(self, squared: Doubles) -> tuple[NDArray[np.intp], Doubles]:
        """Return the columns of the k smallest squared distances of each row, and the distances."""
        closest = np.argpartition(squared, self.k - 1, axis=1)[:, : self.k]
        starts = np.arange(len(squared))[:, None] * squared.shape[1]
        return closest, np.sqrt(squared.take(closest + starts)) * self.grid.step

    def _length_of_lists(self, pivots: NDArray[np.float32], sample: NDArray[np.intp]) -> int:
        """Return how long lists must be to hold `RECALL` of the neighbours of a sample of stored rows."""
        home = pivots[_nearest(self.points[sample], pivots)]
        ranks = np.empty((len(sample), self.k), dtype=np.intp)

        def rank(rows: slice) -> None:
            to_rows, to_pivots = self._squared(self.points[sample[rows]]), self._squared(home[rows])
            to_rows[np.arange(len(to_rows)), sample[rows]] = np.inf
            closest, _ = self._closest(to_rows)
            for of_row, near, to_pivot in zip(ranks[rows], closest, to_pivots, strict=True):
                of_row[:] = np.searchsorted(np.sort(to_pivot), to_pivot[near], side="right")

        in_threads(rank, _slices(len(sample), BLOCK_ROWS), len(self.points))
        return max(int(np.quantile(ranks, RECALL, method="inverted_cdf")), self.k + 1)

    def _lists(self, pivots: NDArray[np.float32], length: int) -> Indices:
        lists = np.empty((len(pivots), length), dtype=np.int32)

        def fill(rows: slice) -> None:
            closest = np.argpartition(self._squared(pivots[rows]), length - 1, axis=1)[:, :length]
            lists[rows] = np.sort(closest, axis=1)

        in_threads(fill, _slices(len(pivots), BLOCK_ROWS), len(self.points))
        return lists

    def _squared(self, points: NDArray[np.float32]) -> Doubles:
        """Return squared distances, in steps, of some grid points to all stored rows."""
        return np.asarray(_factors(points) @ self._factors.T)


def _spread_pivots(points: NDArray[np.float32], n_pivots: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return pivots by a few rounds of k-means (Lloyd 1982) on a sample, on the grid; no sum rounds."""
    sample = points[np.sort(rng.choice(len(points), min(len(points), ROWS_PER_PIVOT * n_pivots), replace=False))]
    pivots = sample[np.sort(rng.choice(len(sample), min(len(sample), n_pivots), replace=False))]
    for _ in range(KMEANS_ROUNDS):
        nearest = _nearest(sample, pivots)
        order = np.argsort(nearest, kind="stable")
        held, starts, counts = np.unique(nearest[order], return_index=True, return_counts=True)
        sums = np.add.reduceat(sample[order].astype(np.float64), starts, axis=0)
        pivots[held] = np.rint(sums / counts[:, None])
    return pivots


def _nearest(points: NDArray[np.float32], pivots: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the index of each point's nearest pivot, the first of several."""
    found = np.zeros(len(points), dtype=np.intp)
    if len(pivots) == 1:
        return found
    factors = _stored_factors(pivots).T

    def find(rows: slice) -> None:
        found[rows] = (_factors(points[rows]) @ factors).argmin(axis=1)

    in_threads(find, _slices(len(points), max(BLOCK_ROWS, BLOCK_DISTANCES // len(pivots))), len(points))
    return found


def in_threads(function: Callable[[T], None], items: Iterable[T], n_rows: int) -> None:
    """Call a function of each item, in as many threads as BLAS would take; where there are few rows, in this one.

    BLAS itself gets one thread meanwhile: in many small products its threads cost more than they give, most of all
    on a busy machine.
    """
    if n_rows < MANY_ROWS:
        for item in items:
            function(item)
        return
    from threadpoolctl import ThreadpoolController

    blas = ThreadpoolController().select(user_api="blas")
    n_threads = max((library["num_threads"] for library in blas.info()), default=1)
    with blas.limit(limits=1), ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(function, items):
            pass


def _slices(n: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, n, size)]


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
