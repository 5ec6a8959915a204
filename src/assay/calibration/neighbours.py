"""Nearest-neighbour search among stored rows: exact for few, nearly exact and much faster for many.

Rows are snapped to a grid that is fine enough to hardly move them, and coarse enough that float64 holds every squared
distance between grid points as an integer. Sums and matrix products of such numbers do not round. A row's neighbours
and distances are therefore the same bits alone and in a batch, with any number of threads and any BLAS, and equal rows
have distance 0.

More than `MOST_EXACT` stored rows are searched by lists: k-means places pivots, and each pivot has a list of the stored
rows nearest to it. A row is searched in the list of its nearest pivot only. The lists are just long enough that stored
rows find `RECALL` of their true neighbours there, measured on a sample when the index is built. If that takes more than
half of all rows (many dimensions without structure), the search stays exact. A row unlike all stored rows finds fewer
of its true neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Floats, Singles
from assay.parts import Array

Indices = NDArray[np.int32]
_Item = TypeVar("_Item")

MOST_EXACT = 5_000
RECALL = 0.97
RECALL_ROWS = 256
PIVOTS_PER_ROOT = 2
ROWS_PER_PIVOT = 20
KMEANS_ROUNDS = 5
BITS = 53  # of float64
MOST_BITS = 23  # so that float32, too, holds grid points exactly
_BLOCK_DISTANCES = 2**17
_BLOCK_ROWS = 32
JOB_ROWS = 1024
MANY_ROWS = 2_000


class Neighbourhoods(NamedTuple):
    """Neighbours of some rows, in no particular order.

    Attributes
    ----------
    rows : ndarray of int, shape (b,)
        Indices of these rows among the searched rows.
    distances : ndarray of float64, shape (b, k)
    neighbours : ndarray of int32, shape (b, k)
        Indices of stored rows.
    """

    rows: NDArray[np.intp]
    distances: Doubles
    neighbours: Indices


@dataclass(frozen=True, slots=True)
class Grid:
    """Integer multiples of a step around a centre, up to a limit.

    The step is the limit divided by 2^b, with b such that ``d (2 * 2^b)^2 <= 2^53``. The limit is four times the
    largest norm of a row about the centre (the medians of the columns), but at least 16 and at most 1,024 times the
    median norm, so that a single extreme row does not coarsen the grid for all others. Coordinates beyond the limit
    are clipped.

    Attributes
    ----------
    centre : ndarray of float64, shape (d,)
    step : float
        0 if all rows are equal.
    limit : int
        In units of the step.
    """

    centre: Doubles
    step: float
    limit: int

    @classmethod
    def fit(cls, rows: Floats) -> Self:
        """Return the grid for rows of shape (n, d)."""
        centre = np.median(rows, axis=0).astype(np.float64)
        norms = np.sqrt(np.square(rows - centre).sum(axis=1))
        # The median is 0 if more than half of the rows are equal.
        usual = float(np.median(norms)) or float(norms.mean())
        bits = min(MOST_BITS, (BITS - 2 - int(np.ceil(np.log2(len(centre))))) // 2)
        reach = float(np.clip(4 * norms.max(), 16 * usual, 1024 * usual))
        return cls(centre, reach / 2**bits, 2**bits)

    def snap(self, rows: Floats) -> Singles:
        """Return the grid points nearest to rows (n, d), as integer numbers of steps from the centre."""
        steps = np.rint((rows - self.centre) / (self.step or 1.0))
        return np.clip(steps, -self.limit, self.limit).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Finds the k stored rows nearest to a row, in Euclidean distance.

    Why not a library: an inverted file of faiss 1.15 with the same recall took about as long for k = 10, but two to
    three times as long for k = 100 and nine times for k = 1,201 (60,000 rows of 32 columns, one core), since the number
    of neighbours dominates the time, not the number of distances. Its results for a row may also depend on the batch.

    Attributes
    ----------
    k : int
    grid : Grid
    points : ndarray of float32, shape (n, d)
        The stored rows on the grid.
    pivots : ndarray of float32, shape (m, d)
        On the grid; a single one if the search is exact.
    lists : ndarray of int32, shape (m, c)
        Indices of the c stored rows nearest to each pivot.
    """

    stored: ClassVar[Mapping[str, str]] = {
        "centre": "float64 d",
        "grid": "float64 2",
        "points": "float32 n d",
        "pivots": "float32 pivots d",
        "lists": "int32 pivots length in [0,n)",
    }

    k: int
    grid: Grid
    points: Singles
    pivots: Singles
    lists: Indices
    _factors: Doubles = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_factors", _stored_factors(self.points))

    @classmethod
    def build(cls, rows: Floats, k: int, *, seed: int = 0) -> Self:
        """Index rows of shape (n, d), all finite, for searches of k < n; the seed draws pivots and the sample."""
        grid = Grid.fit(rows)
        points = grid.snap(rows)
        # One pivot whose list holds every row: the search is exact.
        exact = cls(k, grid, points, points[:1], np.arange(len(rows), dtype=np.int32)[None])
        if len(rows) <= MOST_EXACT:
            return exact
        rng = np.random.default_rng(seed)
        pivots = _spread_pivots(points, int(np.ceil(PIVOTS_PER_ROOT * np.sqrt(len(rows)))), rng)
        length = exact._length_of_lists(pivots, rng.choice(len(rows), min(len(rows), RECALL_ROWS), replace=False))
        return exact if 2 * length > len(rows) else cls(k, grid, points, pivots, exact._lists(pivots, length))

    @property
    def is_exact(self) -> bool:
        """Whether every search is exact."""
        return len(self.pivots) == 1

    def search(self, rows: Floats, use: Callable[[Neighbourhoods], None]) -> None:
        """Find the nearest stored rows of rows (n, d); `use` gets each block of results, maybe in several threads."""
        self._search(self.grid.snap(rows), use, stored=False)

    def search_stored(self, use: Callable[[Neighbourhoods], None]) -> None:
        """Find the nearest other stored rows of every stored row; `use` is called as by `search`."""
        self._search(self.points, use, stored=True)

    def in_order(self, rows: Floats) -> tuple[Indices, Doubles]:
        """Return the k stored rows nearest to each row (n, d), nearest first, by an exact search.

        Of stored rows at the same distance those that come first are taken, on every processor, while `search` takes
        any of them.

        Returns
        -------
        neighbours : ndarray of int32, shape (n, k)
            Indices of stored rows.
        distances : ndarray of float64, shape (n, k)
        """
        return self._in_order(self.grid.snap(rows), stored=False)

    def in_order_stored(self) -> tuple[Indices, Doubles]:
        """Return the k other stored rows nearest to every stored row, as `in_order` does."""
        return self._in_order(self.points, stored=True)

    def _in_order(self, points: Singles, *, stored: bool) -> tuple[Indices, Doubles]:
        neighbours, distances = np.empty((len(points), self.k), dtype=np.int32), np.empty((len(points), self.k))
        for rows in _slices(len(points), max(1, _BLOCK_DISTANCES // len(self.points))):
            squared = self._squared(points[rows])
            if stored:
                squared[np.arange(len(squared)), np.arange(len(points))[rows]] = np.inf
            farthest = np.partition(squared, self.k - 1, axis=1)[:, self.k - 1, None]
            nearer, level = squared < farthest, squared == farthest
            level &= level.cumsum(axis=1) <= self.k - nearer.sum(axis=1, keepdims=True)
            taken = np.nonzero(nearer | level)[1].reshape(-1, self.k)
            of_taken = np.take_along_axis(squared, taken, axis=1)
            order = np.argsort(of_taken, axis=1, kind="stable")
            neighbours[rows] = np.take_along_axis(taken, order, axis=1)
            distances[rows] = np.sqrt(np.take_along_axis(of_taken, order, axis=1)) * self.grid.step
        return neighbours, distances

    def rows(self) -> Singles:
        """Return the stored rows, float32 of shape (n, d), each as near as the grid holds it."""
        return (self.grid.centre + self.points.astype(np.float64) * self.grid.step).astype(np.float32)

    def arrays(self) -> dict[str, Array]:
        """Return the arrays to store in addition to k."""
        size = np.array([self.grid.step, self.grid.limit])
        return {
            "centre": self.grid.centre,
            "grid": size,
            "points": self.points,
            "pivots": self.pivots,
            # The list of an exact search holds every row: it need not be stored.
            "lists": self.lists if not self.is_exact else self.lists[:, :0],
        }

    @classmethod
    def from_arrays(cls, k: int, arrays: dict[str, Array]) -> Self:
        """Rebuild an index from its `arrays`; raise `ValueError` unless k is less than the number of rows."""
        if not k < len(arrays["points"]):
            raise ValueError(f"k is {k}, but there are {len(arrays['points'])} stored rows")
        step, limit = arrays["grid"]
        if step < 0 or limit != 2 ** int(np.clip(np.log2(max(limit, 1)), 0, MOST_BITS)):
            raise ValueError(f"its grid is {arrays['grid'].tolist()}")
        grid = Grid(arrays["centre"], float(arrays["grid"][0]), int(arrays["grid"][1]))
        points, lists = arrays["points"], arrays["lists"]
        if len(arrays["pivots"]) == 1:
            lists = np.arange(len(points), dtype=np.int32)[None]
        return cls(k, grid, points, arrays["pivots"], lists)

    def _search(self, points: Singles, use: Callable[[Neighbourhoods], None], *, stored: bool) -> None:
        nearest_pivot = _nearest(points, self.pivots)
        # Rows that share a pivot are searched together, one matrix product for each block; blocks bound the memory.
        order = np.argsort(nearest_pivot, kind="stable")
        ends = np.searchsorted(nearest_pivot[order], np.arange(len(self.pivots) + 1))
        size = max(_BLOCK_ROWS, _BLOCK_DISTANCES // self.lists.shape[1])

        def search_list(pivot: int, start: int, stop: int) -> None:
            listed = self.lists[pivot]
            list_factors = self._factors if self.is_exact else self._factors[listed]
            for first in range(start, stop, size):
                rows = order[first : min(first + size, stop)]
                squared = _factors(points[rows]) @ list_factors.T
                if stored:
                    _leave_out(squared, listed, rows)
                closest, distances = self._closest(squared)
                use(Neighbourhoods(rows, distances, listed.take(closest)))

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

    def _length_of_lists(self, pivots: Singles, sample: NDArray[np.intp]) -> int:
        """Return the length of lists that hold `RECALL` of the neighbours of a sample of stored rows."""
        nearest_pivots = pivots[_nearest(self.points[sample], pivots)]
        ranks = np.empty((len(sample), self.k), dtype=np.intp)

        def rank(rows: slice) -> None:
            to_rows, to_pivots = self._squared(self.points[sample[rows]]), self._squared(nearest_pivots[rows])
            to_rows[np.arange(len(to_rows)), sample[rows]] = np.inf
            closest, _ = self._closest(to_rows)
            for row_ranks, neighbours, to_pivot in zip(ranks[rows], closest, to_pivots, strict=True):
                row_ranks[:] = np.searchsorted(np.sort(to_pivot), to_pivot[neighbours], side="right")

        in_threads(rank, _slices(len(sample), _BLOCK_ROWS), len(self.points))
        # One more than k, since a stored row finds itself in its list and is left out.
        return max(int(np.quantile(ranks, RECALL, method="inverted_cdf")), self.k + 1)

    def _lists(self, pivots: Singles, length: int) -> Indices:
        lists = np.empty((len(pivots), length), dtype=np.int32)

        def fill(rows: slice) -> None:
            closest = np.argpartition(self._squared(pivots[rows]), length - 1, axis=1)[:, :length]
            lists[rows] = np.sort(closest, axis=1)

        in_threads(fill, _slices(len(pivots), _BLOCK_ROWS), len(self.points))
        return lists

    def _squared(self, points: Singles) -> Doubles:
        """Return squared distances, in squared steps, from grid points to all stored rows."""
        return np.asarray(_factors(points) @ self._factors.T)


def _spread_pivots(points: Singles, n_pivots: int, rng: np.random.Generator) -> Singles:
    """Return pivots on the grid by a few rounds of k-means (Lloyd 1982) on a sample."""
    sample = points[np.sort(rng.choice(len(points), min(len(points), ROWS_PER_PIVOT * n_pivots), replace=False))]
    pivots = sample[np.sort(rng.choice(len(sample), min(len(sample), n_pivots), replace=False))]
    for _ in range(KMEANS_ROUNDS):
        nearest = _nearest(sample, pivots)
        order = np.argsort(nearest, kind="stable")
        used_pivots, starts, counts = np.unique(nearest[order], return_index=True, return_counts=True)
        sums = np.add.reduceat(sample[order].astype(np.float64), starts, axis=0)
        # Rounded to the grid, so that distances to pivots are exact, too; a pivot without rows stays where it is.
        pivots[used_pivots] = np.rint(sums / counts[:, None])
    return pivots


def _nearest(points: Singles, pivots: Singles) -> NDArray[np.intp]:
    """Return the index of each point's nearest pivot; ties go to the first."""
    nearest = np.zeros(len(points), dtype=np.intp)
    if len(pivots) == 1:
        return nearest
    factors = _stored_factors(pivots).T

    def find(rows: slice) -> None:
        nearest[rows] = (_factors(points[rows]) @ factors).argmin(axis=1)

    in_threads(find, _slices(len(points), max(_BLOCK_ROWS, _BLOCK_DISTANCES // len(pivots))), len(points))
    return nearest


def in_threads(function: Callable[[_Item], None], items: Iterable[_Item], n_rows: int) -> None:
    """Call a function on each item, in as many threads as BLAS would use; with few rows, in this thread.

    BLAS itself is limited to one thread meanwhile: in many small products its threads cost more than they gain, above
    all on a busy machine.
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


def _factors(points: Singles) -> Doubles:
    """Return (-2 x, 1, x x): its product with `_stored_factors` of y is the squared distance, without rounding."""
    x = points.astype(np.float64)
    return np.column_stack([-2 * x, np.ones(len(x)), np.square(x).sum(axis=1)])


def _stored_factors(points: Singles) -> Doubles:
    """Return (y, y y, 1)."""
    y = points.astype(np.float64)
    return np.column_stack([y, np.square(y).sum(axis=1), np.ones(len(y))])


def _leave_out(squared: Doubles, listed: Indices, rows: NDArray[np.intp]) -> None:
    """Set the distance of each stored row to itself to infinity if it is in the list, which is sorted."""
    positions = np.minimum(np.searchsorted(listed, rows), len(listed) - 1)
    itself = np.flatnonzero(listed[positions] == rows)
    squared[itself, positions[itself]] = np.inf
