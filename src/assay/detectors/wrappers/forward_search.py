"""A forward search for small groups of rows that are separate from all others, without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Flags, Integers, Singles

_Indices = NDArray[np.intp]

_NEIGHBOURS = 5
_SMALLEST = 12
_SEPARATION = 1.3
_STRICT, _LENIENT = 1.6, 1.15
_NEIGHBOURHOODS, _SIZES, _MEMBERS = 60, 6, 50
_MOST_ROWS = 20_000
_CORE = 0.4
_COARSE = 0.1
_REFERENCES = 500
_MARGIN = 1.5
_CUTS = 7
_STEP = 50
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The result of the search for each row (see `assay.detectors.wrappers.trimmed.Trimmed` for the method).

    Attributes
    ----------
    suspicion : ndarray of float64, shape (n,)
        The reach at which the row entered the core.
    separation : ndarray of float64, shape (n,)
        Separation of the most separate group that holds the row, in units of what is usual; 0 for no group.
    groups : ndarray of int64, shape (n,)
        Number of the row's suspect group, from 1, the most separate first; 0 for the other rows.
    """

    suspicion: Doubles
    separation: Doubles
    groups: Integers

    def bounds(self, verified: Flags) -> tuple[float, float]:
        """Return the lower and upper bound on the share of clustered contaminants (see `Trimmed`).

        Verified normal rows are not counted as single late ones.
        """
        from scipy.stats import binomtest

        if len(self.separation) == 0:
            return 0.0, 1.0
        few, many = self.separation > _STRICT, (self.separation > _LENIENT) | (self._extreme() & ~verified)
        low, high = (
            binomtest(int(flags.sum()), len(flags)).proportion_ci(_CONFIDENCE, method="exact") for flags in (few, many)
        )
        return float(low.low), float(high.high)

    def _extreme(self) -> Flags:
        """Return the mask of rows beyond Tukey's outer fence of log suspicion, with the spread of its upper half."""
        log = np.log(np.maximum(self.suspicion, np.finfo(np.float64).tiny))
        median, upper = np.quantile(log, [0.5, 0.75])
        return np.asarray(log > upper + 3 * 2 * (upper - median))


@dataclass(frozen=True, slots=True)
class Group:
    """Connected rows and their separation, in units of what is usual for groups of that size."""

    rows: _Indices
    separation: float


def suspect(rows: Singles, verified: Flags, *, most: float, seed: int) -> SearchResult:
    """Search rows (n, d) for groups separate from the bulk, each with at most the share `most` of the rows.

    Groups with verified normal rows are left out: the share of verified rows in a normal group is about that among
    all rows, in an anomalous group 0. A group counts as normal from half of the overall share on.

    With a single column nothing is suspected: there the rows of either tail are always connected.
    """
    n, largest = len(rows), int(most * len(rows))
    nothing = np.zeros(n)
    if largest < _SMALLEST or rows.shape[1] < 2:
        return SearchResult(nothing, nothing, nothing.astype(np.int64))
    suspicion, reaches = entry_reach(rows, seed=seed), own_reach(rows)
    usual = usual_separation(rows, reaches, largest=largest, seed=seed)
    latest = np.argsort(-suspicion, kind="stable")
    groups = []
    for cut in range(1, _CUTS + 1):
        entrants = latest[: int(_MARGIN * most * n * cut / _CUTS)]
        for group in _groups(rows, entrants, suspicion[entrants]):
            if len(group) <= largest and not _is_verified(verified, group):
                groups.append(Group(group, _gap(rows, group) / float(np.median(reaches[group])) / usual(len(group))))
    groups.sort(key=lambda group: -group.separation)
    return SearchResult(suspicion, _most_separate(groups, n), _numbers(groups, n))


def _is_verified(verified: Flags, group: _Indices) -> bool:
    return bool(verified.any()) and bool(verified[group].mean() >= verified.mean() / 2)


def _most_separate(groups: Sequence[Group], n: int) -> Doubles:
    """Return the separation of the first group that each row is in."""
    separation = np.zeros(n)
    for group in reversed(groups):
        separation[group.rows] = group.separation
    return separation


def _numbers(groups: Sequence[Group], n: int) -> Integers:
    """Number the suspect groups; a few remaining rows of a group around others join the largest of those."""
    numbers = np.zeros(n, dtype=np.int64)
    for group in groups:
        unnumbered = group.rows[numbers[group.rows] == 0]
        if group.separation > _SEPARATION and len(unnumbered):
            inner_numbers = numbers[group.rows][numbers[group.rows] > 0]
            few = len(unnumbered) < _SMALLEST and len(inner_numbers) > 0
            numbers[unnumbered] = np.bincount(inner_numbers).argmax() if few else numbers.max() + 1
    return numbers


def own_reach(rows: Singles) -> Doubles:
    """Return the distance of each of the rows (n, d) to its 5th nearest, at least their median, and above 0."""
    reaches = _nearest(rows, rows, _NEIGHBOURS + 1)[:, -1]  # a row is its own first neighbour
    floor = float(np.median(reaches)) or float(reaches[reaches > 0].min(initial=np.inf))
    return np.maximum(reaches, floor if np.isfinite(floor) else 1.0)


def usual_separation(rows: Singles, reaches: Doubles, *, largest: int, seed: int) -> Callable[[int], float]:
    """Return a function that maps a group size to the usual separation of neighbourhoods of that size.

    It is measured at six sizes from 12 to `largest`, around 60 of the rows (n, d), with at most 50 members of each
    neighbourhood, and interpolated linearly in the logarithm of the size. A few contaminants do not change the median.
    Of more than 20,000 rows a sample of that size is used, and sizes are scaled to it. If most neighbourhoods consist
    of copies of one row, the usual separation is 1.

    Parameters
    ----------
    reaches : ndarray of float64, shape (n,)
        The unit of the distances of each row to rows outside its group (see `own_reach`).
    """
    rng = np.random.default_rng([seed, _SIZES])
    share = min(1.0, _MOST_ROWS / len(rows))
    if share < 1:
        rows = rows[rng.choice(len(rows), _MOST_ROWS, replace=False)]
        reaches = own_reach(rows)
    sizes = np.unique(np.geomspace(_SMALLEST, max(_SMALLEST, share * largest), _SIZES).round().astype(int))
    middles = rng.choice(len(rows), min(_NEIGHBOURHOODS, len(rows)), replace=False)
    separations = np.empty((len(middles), len(sizes)))
    exact = rows.astype(np.float64)
    squares = np.einsum("nd,nd->n", exact, exact)
    for i in range(len(middles)):
        order = np.argsort(_squared_distances(exact, squares, middles[i : i + 1])[0], kind="stable")
        for j, size in enumerate(sizes):
            members = rng.choice(order[:size], min(_MEMBERS, size), replace=False)
            outside = _squared_distances(exact, squares, members)[:, order[size:]]
            gaps = np.sqrt(np.partition(outside, _NEIGHBOURS - 1, axis=1)[:, _NEIGHBOURS - 1])
            separations[i, j] = np.median(gaps) / np.median(reaches[order[:size]])
    medians = np.median(separations, axis=0)
    medians[medians == 0] = 1.0
    return lambda size: float(np.interp(np.log(share * size), np.log(sizes), medians))


def _squared_distances(rows: Doubles, squares: Doubles, places: _Indices) -> Doubles:
    """Return the squared distances from some of the rows (n, d) to all, of shape (len(places), n)."""
    # By the binomial formula: one matrix product, much faster than differences; rounding can make it negative.
    return np.maximum(squares[places][:, None] + squares - 2 * (rows[places] @ rows.T), 0)


def entry_reach(rows: Singles, *, seed: int) -> Doubles:
    """Return the reach at which each row of (n, d) enters the growing core, of shape (n,).

    For speed, the reach grows to the 2 % quantile of the remaining distances, not to their minimum.
    """
    rng = np.random.default_rng(seed)
    references = rows[rng.choice(len(rows), min(_REFERENCES, len(rows)), replace=False)]
    coarse = _nearest(rows, references, max(1, round(_COARSE * len(references))))[:, -1]
    order = np.argsort(coarse, kind="stable")
    core, out = np.split(order, [max(_NEIGHBOURS + 1, int(_CORE * len(rows)))])
    reach = float(np.median(_nearest(rows[core], rows[core], _NEIGHBOURS + 1)[:, -1]))
    entered = np.full(len(rows), reach)
    nearest = _nearest(rows[out], rows[core], _NEIGHBOURS)
    while len(out):
        n_entering = len(out) // _STEP
        reach = max(reach, float(np.partition(nearest[:, -1], n_entering)[n_entering]))
        enter = nearest[:, -1] <= reach
        entered[out[enter]] = reach
        new, out, nearest = out[enter], out[~enter], nearest[~enter]
        if len(out):
            to_new = _nearest(rows[out], rows[new], min(_NEIGHBOURS, len(new)))
            nearest = np.sort(np.concatenate([nearest, to_new], axis=1), axis=1)[:, :_NEIGHBOURS]
    return entered


def _nearest(rows: Singles, among: Singles, k: int) -> Doubles:
    """Return the distances from rows (n, d) to their k nearest `among` others, of shape (n, k), ascending."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=k).fit(among.astype(np.float64))
    return np.asarray(search.kneighbors(rows.astype(np.float64))[0], dtype=np.float64)


def _groups(rows: Singles, entrants: _Indices, reach: Doubles) -> Iterator[_Indices]:
    """Yield the connected groups of at least 12 entrants; neighbours within the reach of both are connected."""
    from scipy.sparse.csgraph import connected_components
    from sklearn.neighbors import kneighbors_graph

    if len(entrants) < _SMALLEST:
        return
    graph = kneighbors_graph(rows[entrants].astype(np.float64), _SMALLEST - 1, mode="distance").tocoo()
    graph.data = (graph.data <= np.minimum(reach[graph.row], reach[graph.col])).astype(np.int8)
    graph.eliminate_zeros()
    n_groups, labels = connected_components(graph, directed=False)
    for label in np.flatnonzero(np.bincount(labels, minlength=n_groups) >= _SMALLEST):
        yield entrants[labels == label]


def _gap(rows: Singles, group: _Indices) -> float:
    """Return the median distance from a group's rows to their 5th nearest row outside it."""
    outside = np.delete(rows, group, axis=0)
    return float(np.median(_nearest(rows[group], outside, _NEIGHBOURS)[:, -1]))
