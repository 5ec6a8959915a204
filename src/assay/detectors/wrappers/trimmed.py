"""Trimmed: a detector fitted without the training rows that form small separate clusters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Gt, Lt
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from assay.arrays import FLOAT32_MAX, Labels, Singles
from assay.detectors.base import Detector, EpochProgress, check_rows, latent_codes, require_fitted
from assay.detectors.wrappers.forward_search import suspect
from assay.detectors.wrappers.wrapper import Wrapper
from assay.parts import Array


@dataclass(kw_only=True, eq=False, repr=False)
class Trimmed(Wrapper):
    """Any detector, fitted without the training rows that form small clusters apart from the bulk.

    Similar contaminants mask each other: they are dense among themselves, so that a detector scores them as
    normal. But they have no other neighbours. They are found without labels, independent of the inner detector,
    in two steps.

    1. *Suspicion.* Rows enter a growing core one after the other (a forward search, Atkinson and Riani 2000, with
       neighbours instead of a Gaussian fit). The core starts as the two fifths of the rows that are closest
       to a tenth of all; a row enters when its 5th nearest row *in the core* is within reach, and the reach grows
       only when no row can enter. A row's suspicion is the reach at which it entered. A cluster of contaminants
       cannot enter before the reach spans its distance to five rows of the core, however dense it is: only rows
       of the core count as neighbours.
    2. *Suspects.* The latest entrants, at seven cuts up to one and a half times the share `most`, are joined into
       groups of neighbours within reach. The separation of a group of at least 12 rows and at most the share `most`
       is its median distance to the 5th nearest row outside the group, divided by the median distance to the 5th
       nearest row of all (or that of the bulk, if larger). Any neighbourhood leaves a hole when it is taken out, a
       larger one if it is larger or if all rows lie in separate classes. So separation is in units of what is
       usual: the median separation of 60 neighbourhoods of the group's size, around rows drawn at random. A group
       more than 1.3 times as separate as usual is suspect, unless the share of rows labelled normal in it is at
       least half of that among all rows. A row labelled normal never is.

    The inner detector is then fitted on all rows but the suspects. The search runs only once: repeated, it suspected
    ever more ordinary groups. The constants were chosen by the labels of public sets (see
    docs/benchmarks/robustness.md).

    It assumes that contaminants of one kind are at most the share `most`, and that every group of normal rows up to
    that share touches another. **Without labels a rare, separate normal sub-class cannot be distinguished from a
    cluster of contaminants:** it is trimmed too, and rows like it will score high; so are islands that categorical
    columns split rows into. With a single column nothing is suspected. Contaminants that are scattered, fewer than
    12, or adjacent to the bulk are not found and not counted in `rho_`. So compare this candidate with the inner
    detector alone, or inspect a few rows of each of the `groups_`, and quarantine the bad ones or label the others
    normal. With many columns the time of the search grows as the square of the number of rows.

    Parameters
    ----------
    detector : str or dict
        The inner detector: its name, or {name: {parameter: value}}.
    most : float
        Largest share of rows in one suspect group, below .2; all groups together have at most one and a half times
        that. With fewer than 12 / `most` rows nothing is suspected.
    image_shape, series_shape, device
        Passed to the inner detector.
    seed : int
        Draws the 500 rows to which "a tenth of all" refers, and the neighbourhoods; also passed to the inner detector.

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
        Separation of the most separate group that holds the row, in units of what is usual; 0 for no group.
    groups_ : ndarray of int64, shape (n,)
        Number of the row's suspect group, from 1, the most separate first; 0 for the other rows. Of nested groups
        the inner ones have their own numbers; fewer than 12 rows around one join it.
    rho_ : float
        Share of suspects, the estimate of the share of clustered contaminants.
    rho_low_, rho_high_ : float
        Bounds on it: the 95 % Clopper-Pearson limits of the count of suspects, the lower one for groups with a
        separation of 1.6, the upper one for 1.15 and with single rows that entered extremely late. They cover the
        choice of the threshold and the sampling of rows, not contaminants that the search cannot find, nor separate
        normal groups.
    """

    kind: ClassVar[str] = "trimmed"
    stored: ClassVar[Mapping[str, str]] = {"rho": "float64 3 in [0,1]"}

    most: Annotated[float, Gt(0), Lt(0.2)] = 0.1

    def decision_function(self, X: Singles) -> Singles:
        """Return the inner detector's scores of rows (n, d), of shape (n,)."""
        require_fitted(self, "detector_")
        return self.detector_.decision_function(X)

    def embed(self, X: Singles) -> Singles:
        """Return the inner detector's codes, of shape (S, n, k), or the rows if it has no latent space."""
        require_fitted(self, "detector_")
        return latent_codes(self.detector_, check_rows(X, self.n_features_in_))

    def _fit(self, rows: Singles, labels: Labels, progress: EpochProgress | None) -> None:
        with threadpool_limits(limits=1):
            search = suspect(rows, labels == 0, most=self.most, seed=self.seed)
        self.suspicion_ = np.minimum(search.suspicion, FLOAT32_MAX).astype(np.float32)
        self.separation_ = search.separation
        self.groups_ = np.where(labels == 0, 0, search.groups)
        self.suspects_ = self.groups_ > 0
        self.rho_ = float(self.suspects_.mean()) if len(rows) else 0.0
        self.rho_low_, self.rho_high_ = search.bounds(labels == 0)
        self.detector_ = self._new(self.seed).fit(rows[~self.suspects_], labels[~self.suspects_], progress=progress)

    def _own_arrays(self) -> dict[str, Array]:
        return {"rho": np.array([self.rho_, self.rho_low_, self.rho_high_])}

    def _inner(self) -> list[Detector]:
        return [self.detector_]

    def _restore(self, loaded: list[Detector], arrays: Mapping[str, NDArray[Any]]) -> None:
        (self.detector_,) = loaded
        self.rho_, self.rho_low_, self.rho_high_ = map(float, arrays["rho"])
