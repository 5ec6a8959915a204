"""Trimmed: a detector fitted without the training rows that look like a separate small cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from assay.detectors.base import (
    FLOAT32_MAX,
    Allowed,
    Detector,
    Doubles,
    Floats,
    Labels,
    Progress,
    check_rows,
    latent_codes,
    require_fitted,
    share,
)
from assay.detectors.wrappers import Inner, Wrapper
from assay.parts import Array

Flags = NDArray[np.bool_]
Places = NDArray[np.intp]

NEIGHBOURS = 5
SMALLEST = 12
SEPARATION = 1.25
STRICT, LENIENT = 1.5, 1.125
CORE = 0.4
COARSE = 0.1
REFERENCES = 500
MARGIN = 1.5
CUTS = 7
STEP = 50
CONFIDENCE = 0.95


class Trimmed(Wrapper):
    """Any detector, fitted without the training rows that form small clusters apart from the bulk.

    Contaminants that resemble each other mask each other: among themselves they are dense, so that a detector
    takes them for normal. What gives them away is that nothing but themselves is near. Found here, without
    labels and whatever the inner detector is, in two steps.

    1. *Suspicion.* Rows enter a growing core one after the other (a forward search, Atkinson and Riani 2000, with
       neighbours in place of a Gaussian fit). The core starts as the two fifths of the rows that are closest
       to a tenth of all; a row enters when its 5th nearest row *in the core* is within reach, and the reach grows
       only when nobody can enter. A row's suspicion is the reach at which it entered. A cluster of contaminants
       cannot enter before the reach spans its distance from five rows of the core, however dense it is itself:
       rows that have not entered vouch for nobody.
    2. *Suspects.* The latest entrants, at seven cuts up to one and a half times the share `most`, are joined into
       groups of neighbours within reach. A group of at least 12 rows and at most the share `most` is suspect if its
       median distance to the 5th nearest row outside the group is more than 1.25 times the median distance to
       the 5th nearest row at all (or that of the bulk, if larger).

    The inner detector is then fitted on all rows but the suspects; on all rows, if there are none. This is one pass:
    repeated, the search turned to ever more ordinary groups. The constants were chosen by the labels of four public
    sets (see docs/benchmarks/robustness.md).

    It assumes that contaminants of one kind are at most the share `most`, and that every group of normal rows up to
    that share touches another. **Without labels a rare normal sub-class that stands apart is the same thing as a
    cluster of contaminants:** it is trimmed too, and its kind will score high; so are the islands that rounded or
    categorical columns split rows into. Contaminants that lie scattered, that are fewer than 12, or that adjoin
    the bulk are not found; `rho_` does not count them. So this is a candidate beside the inner detector alone,
    not in place of it. With many columns the time of the search grows as the square of the number of rows.

    Parameters
    ----------
    detector : str or dict
        The inner detector: its name, or {name: {parameter: value}}.
    most : float
        Largest share of rows that one suspect group may have, below .2. All groups together never have more than
        one and a half times that. With fewer than 12 / `most` rows nothing is suspected.
    image_shape, series_shape, device
        Given to the inner detector.
    seed : int
        Draws the 500 rows to which "a tenth of all" refers; also given to the inner detector.

    Attributes
    ----------
    n_features_in_ : int
        Width of the rows.
    detector_ : Detector
        The inner detector, fitted on the rows that are not suspects.
    suspicion_ : ndarray of float32, shape (n,)
        The reach at which each training row entered, a distance; the same for the rows of the first core.
    suspects_ : ndarray of bool, shape (n,)
    rho_ : float
        Share of suspects, the estimate of the share of clustered contaminants.
    rho_low_, rho_high_ : float
        Bounds on it: the 95 % Clopper-Pearson limits of the count of suspects, the lower one with a separation of
        1.5 asked of groups, the upper one with 1.125, and with single rows counted that entered extremely late.
        They cover the choice of threshold and the chance which rows came; not contaminants that are not seen at
        all, nor normal groups that stand apart.
    """

    kind: ClassVar[str] = "trimmed"
    allowed: ClassVar[dict[str, Allowed]] = {**Wrapper.allowed, "most": share(0.0, 0.2)}

    def __init__(
        self,
        detector: Inner = "knn",
        most: float = 0.1,
        image_shape: tuple[int, int] | None = None,
        series_shape: tuple[int, int] | None = None,
        device: str = "auto",
        *,
        seed: int = 0,
    ) -> None:
        self.detector = detector
        self.most = most
        self.image_shape = image_shape
        self.series_shape = series_shape
        self.device = device
        self.seed = seed

    def decision_function(self, X: Floats) -> Floats:
        """Return the inner detector's scores of rows (n, d), of shape (n,)."""
        require_fitted(self, "detector_")
        return self.detector_.decision_function(X)

    def embed(self, X: Floats) -> Floats:
        """Return the inner detector's codes, of shape (S, n, k), or the rows where it has no latent space."""
        require_fitted(self, "detector_")
        return latent_codes(self.detector_, check_rows(X, self.n_features_in_))

    def _fit(self, rows: Floats, labels: Labels, progress: Progress | None) -> None:
        with threadpool_limits(limits=1):
            found = suspect(rows, most=self.most, seed=self.seed)
        self.suspicion_ = np.minimum(found.suspicion, FLOAT32_MAX).astype(np.float32)
        self.suspects_ = found.separation > SEPARATION
        self.rho_ = float(self.suspects_.mean()) if len(rows) else 0.0
        self.rho_low_, self.rho_high_ = found.bounds()
        self.detector_ = self._new(self.seed).fit(rows[~self.suspects_], progress=progress)

    def _own_arrays(self) -> dict[str, Array]:
        return {"rho": np.array([self.rho_, self.rho_low_, self.rho_high_])}

    def _inner(self) -> list[Detector]:
        return [self.detector_]

    def _restore(self, loaded: list[Detector], arrays: Mapping[str, NDArray[Any]]) -> None:
        (self.detector_,) = loaded
        self.rho_, self.rho_low_, self.rho_high_ = map(float, arrays["rho"])


@dataclass(frozen=True, slots=True)
class Findings:
    """What the search says of each row.

    Attributes
    ----------
    suspicion : ndarray of float64, shape (n,)
        The reach at which the row entered the core.
    separation : ndarray of float64, shape (n,)
        Of the most separate group that the row was found in; 0 for a row of no group.
    """

    suspicion: Doubles
    separation: Doubles

    def bounds(self) -> tuple[float, float]:
        """Return the lower and upper bound on the share of clustered contaminants (see `Trimmed`)."""
        from scipy.stats import binomtest

        if len(self.separation) == 0:
            return 0.0, 1.0
        few, many = self.separation > STRICT, (self.separation > LENIENT) | self._extreme()
        low, high = (
            binomtest(int(flags.sum()), len(flags)).proportion_ci(CONFIDENCE, method="exact") for flags in (few, many)
        )
        return float(low.low), float(high.high)

    def _extreme(self) -> Flags:
        """Return the rows beyond Tukey's outer fence of log suspicion, the spread taken from its upper half."""
        log = np.log(np.maximum(self.suspicion, np.finfo(np.float64).tiny))
        median, upper = np.quantile(log, [0.5, 0.75])
        return np.asarray(log > upper + 3 * 2 * (upper - median))


def suspect(rows: Floats, *, most: float, seed: int) -> Findings:
    """Search rows (n, d) for groups apart from the bulk, each of at most the share `most` of them."""
    n, largest = len(rows), int(most * len(rows))
    nothing = np.zeros(n)
    if largest < SMALLEST:
        return Findings(nothing, nothing)
    suspicion = entry_reach(rows, seed=seed)
    own = _nearest(rows, rows, NEIGHBOURS + 1)[:, -1]  # a row is its own first neighbour
    own = np.maximum(own, np.median(own))
    latest = np.argsort(-suspicion, kind="stable")
    separation = np.zeros(n)
    for cut in range(1, CUTS + 1):
        entrants = latest[: int(MARGIN * most * n * cut / CUTS)]
        for group in _groups(rows, entrants, suspicion[entrants]):
            if len(group) > largest:
                continue
            ratio = _gap(rows, group) / max(np.median(own[group]), np.finfo(np.float64).tiny)
            separation[group] = np.maximum(separation[group], ratio)
    return Findings(suspicion, separation)


def entry_reach(rows: Floats, *, seed: int) -> Doubles:
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


def _nearest(rows: Floats, among: Floats, k: int) -> Doubles:
    """Return the distances from rows (n, d) to their k nearest `among` others, of shape (n, k), ascending."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=k).fit(among.astype(np.float64))
    return np.asarray(search.kneighbors(rows.astype(np.float64))[0], dtype=np.float64)


def _groups(rows: Floats, entrants: Places, reach: Doubles) -> Iterator[Places]:
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


def _gap(rows: Floats, group: Places) -> float:
    """Return the median distance from a group's rows to their 5th nearest row outside it."""
    outside = np.delete(rows, group, axis=0)
    return float(np.median(_nearest(rows[group], outside, NEIGHBOURS)[:, -1]))
