"""Trimmed: a detector fitted without the training rows that look like a separate small cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Gt, Lt
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from assay.arrays import Labels, Singles
from assay.detectors.base import FLOAT32_MAX, Detector, Progress, check_rows, latent_codes, require_fitted
from assay.detectors.wrappers.forward_search import suspect
from assay.detectors.wrappers.wrapper import Wrapper
from assay.parts import Array


@dataclass(kw_only=True, eq=False, repr=False)
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
       groups of neighbours within reach. The separation of a group of at least 12 rows and at most the share `most`
       is its median distance to the 5th nearest row outside the group, by the median distance to the 5th nearest
       row at all (or that of the bulk, if larger). Any neighbourhood that is taken out leaves a hole, the more so
       the larger it is, and where all rows lie in classes apart. So the separation counts in units of what is
       usual: the median separation of 60 neighbourhoods of the group's size, around rows drawn at random. A group
       more than 1.3 times as separate as usual is suspect, unless rows are labelled normal in it, at least half as
       many of its rows as of all.

    The inner detector is then fitted on all rows but the suspects; on all rows, if there are none. This is one pass:
    repeated, the search turned to ever more ordinary groups. The constants were chosen by the labels of public
    sets (see docs/benchmarks/robustness.md).

    It assumes that contaminants of one kind are at most the share `most`, and that every group of normal rows up to
    that share touches another. **Without labels a rare normal sub-class that stands apart is the same thing as a
    cluster of contaminants:** it is trimmed too, and its kind will score high; so are islands that categorical
    columns split rows into. With a single column nothing is suspected. Contaminants that lie scattered, that are
    fewer than 12, or that adjoin the bulk are not found; `rho_` does not count them. So this is a candidate beside
    the inner detector alone, not in place of it; or look at a few rows of each of the `groups_`, and quarantine
    those that are bad, or label others normal. With many columns the time of the search grows as the square of the
    number of rows.

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
        Draws the 500 rows to which "a tenth of all" refers, and the neighbourhoods; also given to the inner detector.

    Attributes
    ----------
    n_features_in_ : int
        Width of the rows.
    detector_ : Detector
        The inner detector, fitted on the rows that are not suspects.
    suspicion_ : ndarray of float32, shape (n,)
        The reach at which each training row entered, a distance; the same for the rows of the first core.
    suspects_ : ndarray of bool, shape (n,)
    separation_ : ndarray of float64, shape (n,)
        Of the most separate group that each training row was found in, in units of what is usual; 0 for no group.
    groups_ : ndarray of int64, shape (n,)
        The number of the group by which a row is suspect, from 1, the most separate first; 0 for the other rows.
        Where groups lie within each other, the inner ones have numbers of their own, and fewer than 12 rows around
        one join it.
    rho_ : float
        Share of suspects, the estimate of the share of clustered contaminants.
    rho_low_, rho_high_ : float
        Bounds on it: the 95 % Clopper-Pearson limits of the count of suspects, the lower one with a separation of
        1.6 asked of groups, the upper one with 1.15, and with single rows counted that entered extremely late.
        They cover the choice of threshold and the chance which rows came; not contaminants that are not seen at
        all, nor normal groups that stand apart.
    """

    kind: ClassVar[str] = "trimmed"
    own: ClassVar[Mapping[str, str]] = {"rho": "float64 3"}

    most: Annotated[float, Gt(0), Lt(0.2)] = 0.1

    def decision_function(self, X: Singles) -> Singles:
        """Return the inner detector's scores of rows (n, d), of shape (n,)."""
        require_fitted(self, "detector_")
        return self.detector_.decision_function(X)

    def embed(self, X: Singles) -> Singles:
        """Return the inner detector's codes, of shape (S, n, k), or the rows where it has no latent space."""
        require_fitted(self, "detector_")
        return latent_codes(self.detector_, check_rows(X, self.n_features_in_))

    def _fit(self, rows: Singles, labels: Labels, progress: Progress | None) -> None:
        with threadpool_limits(limits=1):
            found = suspect(rows, labels == 0, most=self.most, seed=self.seed)
        self.suspicion_ = np.minimum(found.suspicion, FLOAT32_MAX).astype(np.float32)
        self.separation_ = found.separation
        self.groups_ = found.groups
        self.suspects_ = self.groups_ > 0
        self.rho_ = float(self.suspects_.mean()) if len(rows) else 0.0
        self.rho_low_, self.rho_high_ = found.bounds(labels == 0)
        self.detector_ = self._new(self.seed).fit(rows[~self.suspects_], progress=progress)

    def _own_arrays(self) -> dict[str, Array]:
        return {"rho": np.array([self.rho_, self.rho_low_, self.rho_high_])}

    def _inner(self) -> list[Detector]:
        return [self.detector_]

    def _restore(self, loaded: list[Detector], arrays: Mapping[str, NDArray[Any]]) -> None:
        (self.detector_,) = loaded
        self.rho_, self.rho_low_, self.rho_high_ = map(float, arrays["rho"])
