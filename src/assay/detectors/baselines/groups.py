"""Groups that rows form apart from the bulk, and the single rows most worth looking at, for people to judge.

Contaminants that resemble each other vouch for each other, and these are what costs most. They hang together in the
spanning tree that `assay.detectors.baselines.reach` fits, and join the bulk by a long edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from assay.arrays import Doubles, Flags, Singles
from assay.detectors.baselines.base import sampled
from assay.detectors.baselines.reach import spanning_tree

NEIGHBOURS = 5  # so many rows of a kind make k nearest neighbours call it normal
MOST_OF_ALL = 0.2
MOST_GROUPED = 10_000  # time grows with their square


@dataclass(frozen=True, slots=True)
class Item:
    """What people are asked about: a group of rows, or a single one.

    Attributes
    ----------
    rows : ndarray of int, shape (m,)
        Places of its rows, the most typical first: the nearest to their common median.
    distance : float
        Of a group that to the bulk, of a row that to its 5th nearest other row.
    usual : float
        The median of all rows' distances to their 5th nearest other row.
    near_bad : bool
        Whether a bad row is nearer to a row than its own 5th nearest.
    """

    rows: NDArray[np.intp]
    distance: float
    usual: float
    near_bad: bool = False


def worth_a_look(
    rows: Singles, *, answered: Flags, bad: Flags, budget: int, seed: int
) -> tuple[list[Item], list[Item]]:
    """Return the groups and the single rows, of n training rows, that are most worth an answer.

    Rows are min-max scaled; bad ones are left out. Groups are the branches of a spanning tree by mutual reachability
    with at least `NEIGHBOURS` and less than `MOST_OF_ALL` of the rows, those first that join the others by the longest
    edge. Each takes the place of those that it overlaps, and none is asked about of whose rows half are answered. So
    half of the budget is spent, rounded up; the rest, and what groups leave of it, goes to the single rows which the
    bad ones are nearest to, measured by their distance to their own 5th nearest row; without bad ones, to those whose
    distance to that is largest.

    Of more than `MOST_GROUPED` rows a sample of that many is put into groups, and the others join that of the nearest
    of these, if it is no farther than the group from the bulk.

    Parameters
    ----------
    rows : ndarray of float32, shape (n, d)
        Scaled rows.
    answered, bad : ndarray of bool, shape (n,)
        Rows that have an answer, and those whose answer is that they are no normal ones.
    budget : int
        How many answers are wanted.
    seed : int
        Picks the sample.
    """
    kept = np.flatnonzero(~bad)
    used = sampled(kept, MOST_GROUPED, seed=seed)
    if len(used) <= NEIGHBOURS:
        return [], []
    scaled = _min_max(rows, used)
    points = scaled[used]
    first, second, lengths, core = spanning_tree(points, NEIGHBOURS)
    usual, tree = float(np.median(core)), cKDTree(points)
    distance, nearest = tree.query(scaled[kept])
    nearest[np.searchsorted(kept, used)] = np.arange(len(used))  # not a twin
    taken = answered.copy()
    groups: list[Item] = []
    for members, gap in sorted(_branches(first, second, lengths, len(used)), key=lambda branch: -branch[1]):
        if len(groups) == (budget + 1) // 2 or gap <= usual:
            break
        among = kept[np.isin(nearest, members) & (distance <= gap)]
        if taken[among].mean() < 0.5 and not (taken & ~answered)[among].any():
            taken[among] = True
            groups.append(Item(_typical_first(scaled, among[~answered[among]]), gap, usual))
    own = tree.query(scaled[kept], k=[NEIGHBOURS + 1])[0][:, 0]
    to_bad = cKDTree(scaled[bad]).query(scaled[kept])[0] if bad.any() else np.full(len(kept), np.inf)
    sparse = own / np.maximum(to_bad, np.finfo(np.float64).tiny) if bad.any() else own
    places = [place for place in np.argsort(-sparse, kind="stable") if not taken[kept[place]]][: budget - len(groups)]
    singles = [
        Item(kept[place : place + 1], float(own[place]), usual, bool(to_bad[place] < own[place])) for place in places
    ]
    return groups, singles


def _min_max(rows: Singles, used: NDArray[np.intp]) -> Doubles:
    low, high = (getattr(rows[used], name)(axis=0).astype(np.float64) for name in ("min", "max"))
    return np.asarray((rows - low) / np.where(high > low, high - low, 1.0), dtype=np.float64)


def _branches(
    first: NDArray[np.intp], second: NDArray[np.intp], lengths: Doubles, n: int
) -> Iterator[tuple[NDArray[np.intp], float]]:
    """Yield the rows of each branch of a tree of n rows, and the length of the edge by which it joins another."""
    group, members = np.arange(n), [[row] for row in range(n)]
    for one, other, length in zip(first.tolist(), second.tolist(), lengths.tolist(), strict=True):
        small, large = sorted((int(group[one]), int(group[other])), key=lambda label: len(members[label]))
        for label in (small, large):
            if NEIGHBOURS <= len(members[label]) < MOST_OF_ALL * n:
                yield np.array(members[label]), length
        group[members[small]] = large
        members[large] += members[small]
        members[small] = []


def _typical_first(points: Doubles, places: NDArray[np.intp]) -> NDArray[np.intp]:
    middle = np.median(points[places], axis=0)
    return places[np.argsort(np.linalg.norm(points[places] - middle, axis=1), kind="stable")]
