"""The nearest of stored rows: by a k-d tree, or, of many columns, by matrix products with the same answers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from assay.arrays import Doubles

WIDE, FEWEST = 48, 1_000  # from so many columns and rows on a tree is slower than products
LEAF = 32  # rows in a leaf of the tree: a fifth faster than 16 from nine columns on, as fast with fewer
FEWEST_PAIRS = 20_000  # of rows and stored rows: below, what products cost beforehand is more than they save
_VALUES_AT_ONCE, _MORE = 1 << 22, 8


class NearestRows:
    """Finds the stored rows nearest to rows, in Euclidean distance, as `scipy.spatial.cKDTree` does.

    In a space of many columns a tree leaves out no row, and takes the time of a plain loop. Here a matrix product says
    up to its rounding error how far all stored rows are. For those that can be among the nearest the distance is
    computed as the tree does, by sums in its order, so that the answers are its, to the bit, alone and in a batch.
    Rows with too many equally near stored ones are left to the tree. Which of these are its neighbours is not said.

    Parameters
    ----------
    rows : ndarray of float64, shape (n, d)

    Raises
    ------
    ValueError
        A value is not finite.
    """

    def __init__(self, rows: Doubles) -> None:
        self.tree: Any = cKDTree(rows, LEAF)  # which refuses what are no finite rows
        self.rows, self.n = np.ascontiguousarray(rows), len(rows)
        self._is_wide = self.rows.shape[1] >= WIDE and self.n >= FEWEST
        if self._is_wide:
            self._centre = self.rows.mean(axis=0)
            self._centred = self.rows - self._centre
            self._squares = np.square(self._centred).sum(axis=1)

    def query(
        self, rows: Doubles, k: Sequence[int] | NDArray[Any], distance_upper_bound: float = np.inf, workers: int = 1
    ) -> tuple[Doubles, NDArray[np.intp]]:
        """Return the distances to the k-th nearest stored rows, for each of some k, and which these are.

        Parameters
        ----------
        rows : ndarray of float64, shape (m, d)
        k : sequence of int
            Ascending, 1 or more.
        distance_upper_bound : float
            Rows that are not nearer are missing: their distance is infinite, their place n.
        workers : int
            Number of threads.

        Returns
        -------
        distances, places : ndarray, shape (m, len(k))
        """
        wanted = int(max(k)) + _MORE
        if not self._is_wide or wanted > self.n // 4 or len(rows) * self.n < FEWEST_PAIRS:
            distances, places = self.tree.query(rows, k, distance_upper_bound=distance_upper_bound, workers=workers)
            return distances, places
        at_once = max(1, _VALUES_AT_ONCE // max(self.rows.shape))
        blocks = [rows[start : start + at_once] for start in range(0, len(rows), at_once)]
        with ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(lambda block: self._nearest(block, wanted, k, distance_upper_bound), blocks))
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def _nearest(
        self, rows: Doubles, wanted: int, k: Sequence[int] | NDArray[Any], bound: float
    ) -> tuple[Doubles, NDArray[np.intp]]:
        centred = rows - self._centre
        squares = np.square(centred).sum(axis=1)
        rough = self._squares - 2 * (centred @ self._centred.T) + squares[:, None]
        places = np.argpartition(rough, wanted - 1, axis=1)[:, :wanted]
        farthest = np.take_along_axis(rough, places, axis=1).max(axis=1)
        exact = _tree_squares(rows, self.rows, places)
        order = np.argsort(exact, axis=1, kind="stable")
        exact, places = np.take_along_axis(exact, order, axis=1), np.take_along_axis(places, order, axis=1)
        # A product of d pairs is off by at most d times the rounding of its norms; all other steps add a few.
        slack = 8 * (rows.shape[1] + 8) * np.finfo(np.float64).eps * (squares + self._squares.max())
        last = int(max(k)) - 1
        unsure = ~(exact[:, last] < farthest - slack)  # a row that was left out may be as near
        columns = np.asarray(k) - 1
        distances, neighbours = np.sqrt(exact[:, columns]), places[:, columns]
        missing = exact[:, columns] >= bound * bound
        distances[missing], neighbours[missing] = np.inf, self.n
        if unsure.any():
            distances[unsure], neighbours[unsure] = self.tree.query(rows[unsure], k=k, distance_upper_bound=bound)
        return distances, neighbours


def _tree_squares(rows: Doubles, stored: Doubles, places: NDArray[np.intp]) -> Doubles:
    """Return the squared distances of each row (m, d) to its stored rows (m, c): four sums, then what is left over."""
    squares = np.empty(places.shape)
    whole = rows.shape[1] // 4 * 4
    for column in range(places.shape[1]):
        steps = np.square(rows - stored[places[:, column]])
        sums = np.zeros((len(rows), 4))
        for start in range(0, whole, 4):
            sums += steps[:, start : start + 4]
        total = ((sums[:, 0] + sums[:, 1]) + sums[:, 2]) + sums[:, 3]
        for rest in range(whole, rows.shape[1]):
            total += steps[:, rest]
        squares[:, column] = total
    return squares
