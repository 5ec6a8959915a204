"""Cross: a detector fitted once for each fold of the training rows, so that every row has a score that never saw it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from assay.arrays import Integers, Labels, Singles
from assay.data.modalities.registry import load_scaler, modality_of_network
from assay.data.scaling import Scaler
from assay.detectors.base import Detector, Progress, check_rows, require_fitted
from assay.detectors.wrappers.wrapper import Wrapper
from assay.errors import TrainingError
from assay.families import inner_part
from assay.parts import Array, Part


@dataclass(kw_only=True, eq=False, repr=False)
class Cross(Wrapper):
    """Any detector, fitted K times, each time without one fold of the training rows.

    The score of a new row is the mean of the K folds' scores. Every training row has a score by the one fold that has
    not seen it, so that the training rows can serve as reference of p-values too, and none need be set aside
    for it (cross-conformal prediction, Vovk 2015; `assay.calibration.calibrators.cross.CrossCalibrator` has the p-value
    and says what is guaranteed). Such p-values are near their promise where the folds' detectors are alike, and
    cautious where these differ by chance: at eps .1 forests of ten trees flagged 6 %. Rows that belong together, of one
    patient say, may lie in different folds; then the held-out scores are too low.

    A row's fold is a hash of its content, so that equal rows are in one fold. Rows arrive scaled by statistics of
    all training rows, the held-out ones among them. Therefore each fold scales its rows again, by the scaler of the
    modality, fitted on its own rows (column by column; all pixels of images alike; channel by channel for
    series): as one such map after another is one again, that is the fold's own scaler on
    the raw rows, up to rounding, and but for columns that are constant in the fold, which are only shifted.

    Rows with label 1, which a detector that learns from labels needs, are known to every fold and in none.
    Fitting and scoring take K times as long, and all K detectors are stored.

    Parameters
    ----------
    detector : str or dict
        The inner detector: its name, or {name: {parameter: value}}.
    folds : int
        K.
    image_shape, series_shape
        Of the rows; they also say how rows are scaled, and are given to the inner detectors.
    device
        Given to the inner detectors.
    seed : int
        Goes into the hashes, and gives the seeds of the inner detectors; that of fold k depends on (seed, k) alone.

    Attributes
    ----------
    n_features_in_ : int
        Width of the rows.
    uses_labels : bool
        What the inner detector does; known after `check`.
    n_folds : int
        K.
    detectors_ : list of Detector
        One for each fold, fitted without it.
    scalers_ : list of Scaler
        One for each fold.
    fold_of_ : ndarray of int64, shape (m,)
        The fold of each training row that has not label 1, in their order.
    held_out_scores_ : ndarray of float32, shape (m,)
        The score of each of these rows by the detector of its fold.
    """

    kind: ClassVar[str] = "cross"
    passes_labels: ClassVar[bool] = True
    own: ClassVar[Mapping[str, str]] = {
        "held_out_scores": "float32 m",
        "fold_of": "int64 m",
        "scaler.*": "float64 ...",
    }

    folds: Annotated[int, Ge(2)] = 10

    @property
    def n_folds(self) -> int:
        """K."""
        return self.folds

    def decision_function(self, X: Singles) -> Singles:
        """Return the folds' mean scores of rows (n, d), of shape (n,)."""
        scores = self.fold_scores(X)
        total = np.zeros(scores.shape[1])
        for one in scores:  # one by one: a sum over an axis may add in another order for a single row
            total += one
        return np.asarray(total / len(scores), dtype=np.float32)

    def fold_scores(self, X: Singles) -> Singles:
        """Return the scores of rows (n, d) by each fold's detector, of shape (K, n)."""
        require_fitted(self, "detectors_")
        rows = check_rows(X, self.n_features_in_)
        folds = zip(self.detectors_, self.scalers_, strict=True)
        return np.stack([detector.decision_function(scaler.transform(rows)) for detector, scaler in folds])

    def fold_of_new(self, X: Singles) -> Integers:
        """Return the fold that each of the rows (n, d) would belong to as a training row, of shape (n,)."""
        require_fitted(self, "detectors_")
        return fold_of(check_rows(X, self.n_features_in_), self.folds, seed=self.seed)

    def _fit(self, rows: Singles, labels: Labels, progress: Progress | None) -> None:
        usual = np.flatnonzero(labels != 1)
        self.fold_of_ = fold_of(rows[usual], self.folds, seed=self.seed)
        self._require_rows()
        self.held_out_scores_ = np.empty(len(usual), dtype=np.float32)
        self.detectors_: list[Detector] = []
        self.scalers_: list[Scaler] = []
        for fold in range(self.folds):
            held_out = self.fold_of_ == fold
            scaler = self._new_scaler().fit(rows[usual[~held_out]])
            scaled = scaler.transform(rows)
            seen = np.ones(len(rows), dtype=np.bool_)
            seen[usual[held_out]] = False
            detector = self._fitted(fold, scaled[seen], labels[seen], progress)
            self.held_out_scores_[held_out] = detector.decision_function(scaled[~seen])
            self.detectors_.append(detector)
            self.scalers_.append(scaler)

    def _fitted(self, fold: int, rows: Singles, labels: Labels, progress: Progress | None) -> Detector:
        """Return the detector of a fold, fitted on the rows of the others."""

        def tell(epoch: int, epochs: int, loss: float) -> None:
            if progress is not None:
                progress(fold * epochs + epoch, self.folds * epochs, loss)

        detector = self._new(int(np.random.default_rng([self.seed, fold]).integers(2**31)))
        try:
            return detector.fit(rows, labels, progress=tell)
        except TrainingError as error:
            raise TrainingError(
                f"fold {fold + 1} of {self.folds}, fitted on the {len(rows)} rows outside it: {error}"
            ) from error

    def _require_rows(self) -> None:
        empty = self.folds - len(np.unique(self.fold_of_))
        if empty:
            raise TrainingError(
                f"{empty} of {self.folds} folds would hold none of the {len(self.fold_of_)} training rows (those with "
                "label 1 are in no fold, and equal rows share one); lower folds, or give more rows that differ"
            )

    def _new_scaler(self) -> Scaler:
        """Return the unfitted scaler that the modality has."""
        return modality_of_network(self.image_shape, self.series_shape).scaler()

    def _own_arrays(self) -> dict[str, Array]:
        arrays: dict[str, Array] = {"held_out_scores": self.held_out_scores_, "fold_of": self.fold_of_}
        for fold, scaler in enumerate(self.scalers_):
            arrays |= {f"scaler.{fold}.{name}": array for name, array in scaler.to_part().arrays.items()}
        return arrays

    def _inner(self) -> list[Detector]:
        return self.detectors_

    def _restore(self, loaded: list[Detector], arrays: Mapping[str, NDArray[Any]]) -> None:
        if len(loaded) != self.folds:
            raise ValueError(f"it holds the detectors of {len(loaded)} folds, not of {self.folds}")
        self.detectors_, self.scalers_ = loaded, []
        self.held_out_scores_, self.fold_of_ = arrays["held_out_scores"], arrays["fold_of"]
        leads = tuple(f"scaler.{fold}." for fold in range(self.folds))
        if unknown := [name for name in arrays if name.startswith("scaler.") and not name.startswith(leads)]:
            raise ValueError(f"it has no fold for its array {unknown[0]!r}")
        for lead in leads:
            head = {"kind": self._new_scaler().kind, "config": {}}
            own = inner_part(Part(self.kind, {}, dict(arrays)), lead, head)
            self.scalers_.append(load_scaler(own))
            self.scalers_[-1].transform(np.zeros((1, self.n_features_in_), dtype=np.float32))


def fold_of(rows: Singles, folds: int, *, seed: int) -> Integers:
    """Return the fold of each of the rows (n, d), of shape (n,): a hash of seed and content, modulo `folds`."""
    start = blake2b(f"{seed}|".encode(), digest_size=8)
    found = np.empty(len(rows), dtype=np.int64)
    for i, row in enumerate(rows + np.float32(0)):  # which makes -0 a 0
        digest = start.copy()
        digest.update(row.tobytes())
        found[i] = int.from_bytes(digest.digest(), "little") % folds
    return found
