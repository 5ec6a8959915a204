"""A forward search for small groups of rows that stand apart from all others, without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Flags, Integers, Singles

Places = NDArray[np.intp]

NEIGHBOURS = 5
SMALLEST = 12
SEPARATION = 1.3
STRICT, LENIENT = 1.6, 1.15
NEIGHBOURHOODS, SIZES, MEMBERS = 60, 6, 50
MOST_ROWS = 20_000
CORE = 0.4
COARSE = 0.1
REFERENCES = 500
MARGIN = 1.5
CUTS = 7
STEP = 50
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Findings:
    """What the search says of each row (see `assay.detectors.wrappers.trimmed.Trimmed` for the method).

    Attributes
    ----------
    suspicion : ndarray of float64, shape (n,)
        The reach at which the row entered the core.
    separation : ndarray of float64, shape (n,)
        Of the most separate group that the row was found in, in units of what is usual; 0 for a row of no group.
    groups : ndarray of int64, shape (n,)
        The number of the group by which a row is suspect, from 1, the most separate first; 0 for the other rows.
    """

    suspicion: Doubles
    separation: Doubles
    groups: Integers

    def bounds(self, verified: Flags) -> tuple[float, float]:
        """Return the lower and upper bound on the share of clustered contaminants (see `Trimmed`).

        Single rows that are verified to be normal do not count.
        """
        from scipy.stats import binomtest

        if len(self.separation) == 0:
            return 0.0, 1.0
        few, many = self.separation > STRICT, (self.separation > LENIENT) | (self._extreme() & ~verified)
        low, high = (
            binomtest(int(flags.sum()), len(flags)).proportion_ci(CONFIDENCE, method="exact") for flags in (few, many)
        )
        return float(low.low), float(high.high)

    def _extreme(self) -> Flags:
        """Return the rows beyond Tukey's outer fence of log suspicion, the spread taken from its upper half."""
        log = np.log(np.maximum(self.suspicion, np.finfo(np.float64).tiny))
        median, upper = np.quantile(log, [0.5, 0.75])
        return np.asarray(log > upper + 3 * 2 * (upper - median))


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that hang together, and how separate they are, in units of what is usual for their number."""

    rows: Places
    separation: float


def suspect(rows: Singles, verified: Flags, *, most: float, seed: int) -> Findings:
    """Search rows (n, d) for groups apart from the bulk, each of at most the share `most` of them.

    Groups that verified normal rows vouch for are left out: were a group normal, it would hold as large a share of
    those as all rows do; were it not, none. It counts as normal from half that share on.

    With a single column nothing is suspected: there the rows of either tail always hang together.
    """
    n, largest = len(rows), int(most * len(rows))
    nothing = np.zeros(n)
    if largest < SMALLEST or rows.shape[1] < 2:
        return Findings(nothing, nothing, nothing.astype(np.int64))
    suspicion, own = entry_reach(rows, seed=seed), own_reach(rows)
    usual = usual_separation(rows, own, largest=largest, seed=seed)
    latest = np.argsort(-suspicion, kind="stable")
    found = []
    for cut in range(1, CUTS + 1):
        entrants = latest[: int(MARGIN * most * n * cut / CUTS)]
        for group in _groups(rows, entrants, suspicion[entrants]):
            if len(group) <= largest and not _vouched(verified, group):
                found.append(Group(group, _gap(rows, group) / float(np.median(own[group])) / usual(len(group))))
    found.sort(key=lambda group: -group.separation)
    return Findings(suspicion, _most_separate(found, n), _numbers(found, n))


def _vouched(verified: Flags, group: Places) -> bool:
    return bool(verified.any()) and bool(verified[group].mean() >= verified.mean() / 2)


def _most_separate(found: Sequence[Group], n: int) -> Doubles:
    """Return the separation of the first group that each row is in."""
    separation = np.zeros(n)
    for group in reversed(found):
        separation[group.rows] = group.separation
    return separation


def _numbers(found: Sequence[Group], n: int) -> Integers:
    """Number the suspect groups; of a group around others the rows that are left join those, where they are few."""
    numbers = np.zeros(n, dtype=np.int64)
    for group in found:
        left = group.rows[numbers[group.rows] == 0]
        if group.separation > SEPARATION and len(left):
            inside = numbers[group.rows][numbers[group.rows] > 0]
            few = len(left) < SMALLEST and len(inside) > 0
            numbers[left] = np.bincount(inside).argmax() if few else numbers.max() + 1
    return numbers


def own_reach(rows: Singles) -> Doubles:
    """Return the distance of each of the rows (n, d) to its 5th nearest, at least the median or else above 0."""
    own = _nearest(rows, rows, NEIGHBOURS + 1)[:, -1]  # a row is its own first neighbour
    least = float(np.median(own)) or float(own[own > 0].min(initial=np.inf))
    return np.maximum(own, least if np.isfinite(least) else 1.0)


def usual_separation(rows: Singles, own: Doubles, *, largest: int, seed: int) -> Callable[[int], float]:
    """Return the function from the size of a group to the separation that is usual for neighbourhoods of that size.

    Measured at six sizes from 12 to `largest`, around 60 of the rows (n, d), of whose neighbourhoods at most 50 members
    are looked at; between those sizes it is linear in the logarithm of the size. Contaminants, if few, do not move
    the median. Of more than 20,000 rows as many are drawn, and sizes count as shares of them. Where most
    neighbourhoods lie within copies of one row, 1 is usual.

    Parameters
    ----------
    own : ndarray of float64, shape (n,)
        What a distance to rows outside a group is measured by, for each of its rows.
    """
    rng = np.random.default_rng([seed, SIZES])
    share = min(1.0, MOST_ROWS / len(rows))
    if share < 1:
        rows = rows[rng.choice(len(rows), MOST_ROWS, replace=False)]
        own = own_reach(rows)
    sizes = np.unique(np.geomspace(SMALLEST, max(SMALLEST, share * largest), SIZES).round().astype(int))
    middles = rng.choice(len(rows), min(NEIGHBOURHOODS, len(rows)), replace=False)
    found = np.empty((len(middles), len(sizes)))
    exact = rows.astype(np.float64)
    squares = np.einsum("nd,nd->n", exact, exact)
    for i in range(len(middles)):
        order = np.argsort(_squared_distances(exact, squares, middles[i : i + 1])[0], kind="stable")
        for j, size in enumerate(sizes):
            members = rng.choice(order[:size], min(MEMBERS, size), replace=False)
            outside = _squared_distances(exact, squares, members)[:, order[size:]]
            gaps = np.sqrt(np.partition(outside, NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1])
            found[i, j] = np.median(gaps) / np.median(own[order[:size]])
    medians = np.median(found, axis=0)
    medians[medians == 0] = 1.0
    return lambda size: float(np.interp(np.log(share * size), np.log(sizes), medians))


def _squared_distances(rows: Doubles, squares: Doubles, places: Places) -> Doubles:
    """Return the squared distances from some of the rows (n, d) to all, of shape (len(places), n)."""
    return np.maximum(squares[places][:, None] + squares - 2 * (rows[places] @ rows.T), 0)


def entry_reach(rows: Singles, *, seed: int) -> Doubles:
    """Return the reach at which each row of (n, d) enters the growing core, of shape (n,).

    To be quick, the reach grows to the smallest 2 % of the distances that are left, not to the very smallest.
    """
    rng = np.random.default_rng(seed)
    references = rows[rng.choice(len(rows), min(REFERENCES, len(rows)), replace=False)]
    coarse = _nearest(rows, references, max(1, round(COARSE * len(references))))[:, -1]
    order = np.argsort(coarse, kind="stable")
    core, out = np.split(order, [max(NEIGHBOURS + 1, int(CORE * len(rows)))])
    reach = float(np.median(_nearest(rows[core], rows[core], NEIGHBOURS + 1)[:, -1]))
    entered = np.full(len(rows), reach)
    nearest = _nearest(rows[out], rows[core], NEIGHBOURS)
    while len(out):
        next_ones = len(out) // STEP
        reach = max(reach, float(np.partition(nearest[:, -1], next_ones)[next_ones]))
        enter = nearest[:, -1] <= reach
        entered[out[enter]] = reach
        new, out, nearest = out[enter], out[~enter], nearest[~enter]
        if len(out):
            to_new = _nearest(rows[out], rows[new], min(NEIGHBOURS, len(new)))
            nearest = np.sort(np.concatenate([nearest, to_new], axis=1), axis=1)[:, :NEIGHBOURS]
    return entered


def _nearest(rows: Singles, among: Singles, k: int) -> Doubles:
    """Return the distances from rows (n, d) to their k nearest `among` others, of shape (n, k), ascending."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=k).fit(among.astype(np.float64))
    return np.asarray(search.kneighbors(rows.astype(np.float64))[0], dtype=np.float64)


def _groups(rows: Singles, entrants: Places, reach: Doubles) -> Iterator[Places]:
    """Yield the groups of at least 12 entrants that hang together by neighbours within the reach of both."""
    from scipy.sparse.csgraph import connected_components
    from sklearn.neighbors import kneighbors_graph

    if len(entrants) < SMALLEST:
        return
    graph = kneighbors_graph(rows[entrants].astype(np.float64), SMALLEST - 1, mode="distance").tocoo()
    graph.data = (graph.data <= np.minimum(reach[graph.row], reach[graph.col])).astype(np.int8)
    graph.eliminate_zeros()
    n_groups, labels = connected_components(graph, directed=False)
    for label in np.flatnonzero(np.bincount(labels, minlength=n_groups) >= SMALLEST):
        yield entrants[labels == label]


def _gap(rows: Singles, group: Places) -> float:
    """Return the median distance from a group's rows to their 5th nearest row outside it."""
    outside = np.delete(rows, group, axis=0)
    return float(np.median(_nearest(rows[group], outside, NEIGHBOURS)[:, -1]))
