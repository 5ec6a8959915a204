"""Reach: k nearest neighbours that small groups of rows apart from the others cannot vouch for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from annotated_types import Gt, Le
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from assay.arrays import Doubles, Flags, Integers, Singles
from assay.detectors.baselines.base import ArrayForm, Baseline, n_workers, sampled
from assay.detectors.baselines.nearest import NearestRows
from assay.errors import TrainingError
from assay.parameters import Count, Seed
from assay.parts import Array

MOST_SHARE = 0.5
APART, SOME = 1.5, 1000
# Times k neighbours are searched at first, since with k most rows are searched again; and then so many times more.
_FIRST, WIDER = 2, 4
MOST_TREES, MOST_INDEXED = 16, 2**18  # of rows that are indexed more than once


@dataclass(frozen=True, slots=True)
class ReachDistances(ArrayForm):
    """k-th smallest of ``max(distance to a row, reach of the row)`` over the stored rows, exact.

    Attributes
    ----------
    rows : ndarray of float32, shape (m, d)
    reach : ndarray of float64, shape (m,)
    n_neighbors : int
        k.
    tree : NearestRows
        Index of the rows.
    nested : list of (float, NearestRows, ndarray)
        Indices of the rows with a reach below a limit, in order of the limits, the last one infinite.
    """

    stored: ClassVar[Mapping[str, str]] = {
        "rows": "float32 m n_features",
        "reach": "float64 m in [0,)",
        "n_neighbors": "int32 1 in [1,m]",
    }

    rows: Singles
    reach: Doubles
    n_neighbors: int
    tree: Any = field(init=False, repr=False, compare=False)
    nested: list[tuple[float, Any, Doubles]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tree", NearestRows(self.rows.astype(np.float64)))
        object.__setattr__(self, "nested", self._nested())

    def score(self, rows: Singles) -> Doubles:
        """Return the scores of rows.

        No row beyond the neighbours that were searched can be nearer than the farthest of these, so that a score up to
        that distance is right. Other rows are searched again: among the stored rows whose reach is below the score so
        far, since no other can lower it, up to that distance, and more widely where these are no fewer.
        """
        queries, k = rows.astype(np.float64), self.n_neighbors
        limits = np.array([limit for limit, _, _ in self.nested])
        scores, at = np.full(len(rows), np.inf), np.full(len(rows), len(limits) - 1)
        waiting, searched = np.arange(len(rows)), _FIRST * k
        while waiting.size:
            left = []
            for place in np.unique(at[waiting]):
                some, (_, tree, reach) = waiting[at[waiting] == place], self.nested[place]
                nearest = np.arange(1, min(searched, tree.n) + 1)
                beyond = np.nextafter(scores[some].max(), np.inf)
                distances, neighbours = tree.query(
                    queries[some], k=nearest, distance_upper_bound=beyond, workers=n_workers(len(some))
                )
                reached = np.partition(np.maximum(distances, reach[neighbours]), k - 1, axis=1)[:, k - 1]
                scores[some] = np.minimum(scores[some], reached)
                left.append(some[scores[some] > distances[:, -1]] if len(nearest) < tree.n else some[:0])
            waiting = np.concatenate(left)
            fewer = np.minimum(np.searchsorted(limits, scores[waiting]), at[waiting])
            searched *= 1 if (fewer < at[waiting]).any() else WIDER
            at[waiting] = fewer
        return scores

    def _nested(self) -> list[tuple[float, Any, Doubles]]:
        """Return trees of the rows whose reach is below that of the largest groups, and of all rows, with the reach."""
        values, counts = np.unique(self.reach, return_counts=True)
        largest = np.argsort(-counts, kind="stable")[: MOST_TREES if self.rows.size <= MOST_INDEXED else 0]
        nested = []
        for limit in (*np.sort(values[largest]), np.inf):
            below = np.flatnonzero(self.reach < limit)
            if len(below) >= self.n_neighbors:
                tree = self.tree if len(below) == len(self.rows) else NearestRows(self.rows[below].astype(np.float64))
                nested.append((limit, tree, np.append(self.reach[below], np.inf)))  # inf: a neighbour that is missing
        return nested

    def groups_apart(self) -> Integers:
        """Return the sizes of the groups of rows that stand apart from the others, the largest first.

        Rows of such a group have one reach, more than one and a half times the distance that rows usually have to their
        k-th neighbour; there are at least k of them. What they are, anomalies or a rare kind of normal row, their
        place does not say.
        """
        some = self.rows[:: max(1, len(self.rows) // SOME)].astype(np.float64)
        usual = np.median(self.tree.query(some, k=[min(self.n_neighbors + 1, len(self.rows))])[0])
        _, sizes = np.unique(self.reach[self.reach > APART * usual], return_counts=True)
        return np.sort(sizes[sizes >= self.n_neighbors])[::-1]

    def arrays(self) -> dict[str, Array]:
        """Return the stored rows, their reach, and k."""
        return {"rows": self.rows, "reach": self.reach, "n_neighbors": np.array([self.n_neighbors], dtype=np.int32)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        """Rebuild the form, and its tree."""
        return cls(arrays["rows"], arrays["reach"], int(arrays["n_neighbors"][0]))


@dataclass(kw_only=True, eq=False, repr=False)
class Reach(Baseline):
    """Distance to the k-th nearest training row, where rows of a small group count only beyond its gap to the others.

    The method is Assay's own. Contaminants that resemble each other make k nearest neighbours call their kind normal.
    Here the reach R of a training row says how far apart from the others its group is, and the score of a row x is the
    k-th smallest of ``max(|x - x_i|, R_i)``. So rows of a group that is smaller than `share` of all rows vouch for each
    other only at distances beyond its gap, however dense it is, and anomalies that stand alone score as by k nearest
    neighbours.

    Reach: with c_i the distance of a training row to its k-th nearest other one, rows are joined along the minimum
    spanning tree of the mutual reachability distances ``max(|x_i - x_j|, c_i, c_j)`` (Campello, Moulavi and Sander
    2013), nearest first. Where a group of fewer than `share` of the rows joins another, and the two have that share
    together, R of its rows is the distance at which they were joined. Where both were smaller it is R of the smaller
    one's rows, and of the larger one's too if another group had that share before; so R is 0 for the rows that the
    first such group consists of but for the last to join.

    A training row is its own first neighbour when it is scored. R of rows labelled normal is 0, whatever their group.

    Parameters
    ----------
    n_neighbors : int
        k; less than the number of training rows.
    share : float
        The smallest share of training rows that is taken for normal by its size, up to .5. Groups of contaminants that
        are larger, or adjoin the others, vouch for each other as in k nearest neighbours. A larger share also doubts a
        second kind of normal rows, such as a rare category: rows of that kind then have the highest scores, and
        anomalies that stand less far apart than it are missed.
    max_rows : int
        At most this many training rows are kept, picked at random: time to fit grows with their square.
    seed : int
        Picks them.
    """

    kind = "reach"
    array_form = ReachDistances

    n_neighbors: Count = 5
    share: Annotated[float, Gt(0), Le(MOST_SHARE)] = 0.05
    max_rows: Count = 10_000
    seed: Seed = 0

    def _form_of(self, rows: Singles, verified: Flags) -> tuple[ArrayForm, int]:
        used, normal = (sampled(each, self.max_rows, seed=self.seed) for each in (rows, verified))
        form = self._fitted_form(used)
        return ReachDistances(form.rows, np.where(normal, 0.0, form.reach), form.n_neighbors), len(used)

    def _fitted_form(self, rows: Singles) -> ReachDistances:
        if self.n_neighbors >= len(rows):
            raise TrainingError(
                f"n_neighbors is {self.n_neighbors}, and {len(rows)} training rows are kept; it has to be less"
            )
        first, second, lengths, _ = spanning_tree(rows.astype(np.float64), self.n_neighbors)
        reach = _reach(first, second, lengths, self.share * len(rows))
        return ReachDistances(rows, reach, self.n_neighbors)


def spanning_tree(points: Doubles, k: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Doubles, Doubles]:
    """Return a minimum spanning tree of points (n, d) by mutual reachability (Prim's algorithm).

    Returns
    -------
    first, second : ndarray of int, shape (n - 1,)
        Ends of its edges.
    lengths : ndarray of float64, shape (n - 1,)
        Their lengths, in increasing order.
    core : ndarray of float64, shape (n,)
        The distance of each point to its k-th nearest other one.
    """
    n, core = len(points), NearestRows(points).query(points, k=[k + 1])[0][:, 0]
    outside, nearest, lengths = np.arange(1, n), np.zeros(n - 1, dtype=np.intp), np.full(n - 1, np.inf)
    ends, weights, newest, left = np.empty((n - 1, 2), dtype=np.intp), np.empty(n - 1), 0, points[1:].copy()
    for place in range(n - 1):
        distances = np.maximum(cdist(points[newest : newest + 1], left)[0], core[outside])
        np.maximum(distances, core[newest], out=distances)
        closer = distances < lengths
        lengths[closer], nearest[closer] = distances[closer], newest
        best = int(lengths.argmin())
        newest = int(outside[best])
        ends[place], weights[place] = (nearest[best], newest), lengths[best]
        last = len(outside) - 1
        for array in (outside, nearest, lengths, left):
            array[best] = array[last]
        outside, nearest, lengths, left = outside[:last], nearest[:last], lengths[:last], left[:last]
    order = np.argsort(weights, kind="stable")
    return ends[order, 0], ends[order, 1], weights[order], core


def _reach(first: NDArray[np.intp], second: NDArray[np.intp], lengths: Doubles, least: float) -> Doubles:
    """Return the reach of rows that are joined along a tree; `least` is the size of a group that counts as normal."""
    n = len(lengths) + 1
    reach, group, members = np.zeros(n), np.arange(n), [[row] for row in range(n)]
    is_reached = False
    for one, other, length in zip(first.tolist(), second.tolist(), lengths.tolist(), strict=True):
        small, large = sorted((int(group[one]), int(group[other])), key=lambda label: len(members[label]))
        joined = len(members[small]) + len(members[large])
        if len(members[small]) < least <= joined:
            reach[members[small]] = length
            if len(members[large]) < least and is_reached:
                reach[members[large]] = length
            is_reached = True
        group[members[small]] = large
        members[large] += members[small]
        members[small] = []
    return reach
