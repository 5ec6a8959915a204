"""Cross: a detector fitted once without each fold of the training rows, so that every row has a held-out score."""

from __future__ import annotations

from collections import Counter
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
from assay.detectors.base import Detector, EpochProgress, check_rows, require_fitted
from assay.detectors.wrappers.wrapper import Wrapper
from assay.errors import TrainingError
from assay.families import inner_part
from assay.parts import Array, Part


@dataclass(kw_only=True, eq=False, repr=False)
class Cross(Wrapper):
    """Any detector, fitted K times, each time without one fold of the training rows.

    The score of a new row is the mean of the scores of the K detectors. Every training row has a score by the detector
    that was fitted without it, so that the training rows can also be the calibration set and no rows need be set
    aside (cross-conformal prediction, Vovk 2015; see `assay.calibration.calibrators.cross.CrossCalibrator` for the
    p-value and its guarantee). False-positive rates are close to eps if the detectors are similar, and lower if
    they differ by chance: at eps .1 forests of ten trees flagged 6 %. Dependent rows, for instance of one patient,
    may be in different folds; then the held-out scores are too low.

    A row's fold is a hash of its content and of its number among equal rows, so that equal rows are in any folds: new
    rows that equal a training row score low for the same reason as held-out ones. Rows arrive scaled by statistics of
    all training rows, held-out ones included. Therefore each detector gets rows scaled again, by the modality's scaler
    fitted on its training rows (per column; for images all pixels together; per channel for series). Two such maps
    compose to one of the same form, so that this equals a scaler fitted on those raw rows, up to rounding, except
    for columns that are constant among them, which are only shifted.

    Rows with label 1, for detectors that learn from labels, are training rows of every detector and in no fold.
    Fitting and scoring take K times as long, and all K detectors are stored.

    Parameters
    ----------
    detector : str or dict
        The inner detector: its name, or {name: {parameter: value}}.
    folds : int
        K.
    image_shape, series_shape
        Shape of the rows, which determines the scaler; passed to the inner detectors.
    device
        Passed to the inner detectors.
    seed : int
        Seeds the hashes and the inner detectors; the seed of fold k depends only on (seed, k).

    Attributes
    ----------
    n_features_in_ : int
        Width of the rows.
    uses_labels : bool
        As the inner detector; set by `check`.
    n_folds : int
        K.
    detectors_ : list of Detector
        One for each fold, fitted without it.
    scalers_ : list of Scaler
        One for each fold.
    fold_of_ : ndarray of int64, shape (m,)
        The fold of each training row without label 1, in their order.
    held_out_scores_ : ndarray of float32, shape (m,)
        The score of each of these rows by the detector of its fold.
    """

    kind: ClassVar[str] = "cross"
    passes_labels: ClassVar[bool] = True
    stored: ClassVar[Mapping[str, str]] = {
        "held_out_scores": "float32 m",
        "fold_of": "int64 m in [0,)",
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
        for fold_score in scores:  # one by one: a sum over an axis may add in another order for a single row
            total += fold_score
        return np.asarray(total / len(scores), dtype=np.float32)

    def fold_scores(self, X: Singles) -> Singles:
        """Return the scores of rows (n, d) by each fold's detector, of shape (K, n)."""
        require_fitted(self, "detectors_")
        rows = check_rows(X, self.n_features_in_)
        folds = zip(self.detectors_, self.scalers_, strict=True)
        return np.stack([detector.decision_function(scaler.transform(rows)) for detector, scaler in folds])

    def fold_of_new(self, X: Singles) -> Integers:
        """Return a fold for each of the rows (n, d), none of which is a training row; of shape (n,)."""
        require_fitted(self, "detectors_")
        return fold_of(check_rows(X, self.n_features_in_), self.folds, salt=f"new:{self.seed}")

    def _fit(self, rows: Singles, labels: Labels, progress: EpochProgress | None) -> None:
        ordinary = np.flatnonzero(labels != 1)
        self.fold_of_ = fold_of(rows[ordinary], self.folds, salt=f"training:{self.seed}")
        self._require_rows()
        self.held_out_scores_ = np.empty(len(ordinary), dtype=np.float32)
        self.detectors_: list[Detector] = []
        self.scalers_: list[Scaler] = []
        for fold in range(self.folds):
            held_out = self.fold_of_ == fold
            scaler = self._new_scaler().fit(rows[ordinary[~held_out]])
            scaled = scaler.transform(rows)
            seen = np.ones(len(rows), dtype=np.bool_)
            seen[ordinary[held_out]] = False
            detector = self._fitted(fold, scaled[seen], labels[seen], progress)
            self.held_out_scores_[held_out] = detector.decision_function(scaled[~seen])
            self.detectors_.append(detector)
            self.scalers_.append(scaler)

    def _fitted(self, fold: int, rows: Singles, labels: Labels, progress: EpochProgress | None) -> Detector:
        """Return the detector of a fold, fitted on the rows of the other folds."""

        def report(epoch: int, epochs: int, loss: float) -> None:
            if progress is not None:
                progress(fold * epochs + epoch, self.folds * epochs, loss)

        detector = self._new(int(np.random.default_rng([self.seed, fold]).integers(2**31)))
        try:
            return detector.fit(rows, labels, progress=report)
        except TrainingError as error:
            raise TrainingError(
                f"fold {fold + 1} of {self.folds}, fitted on the {len(rows)} rows outside it: {error}"
            ) from error

    def _require_rows(self) -> None:
        empty = self.folds - len(np.unique(self.fold_of_))
        if empty:
            raise TrainingError(
                f"{empty} of {self.folds} folds would hold none of the {len(self.fold_of_)} training rows (those with "
                "label 1 are in no fold); lower folds, or give more rows"
            )

    def _new_scaler(self) -> Scaler:
        """Return an unfitted scaler of the modality."""
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
        prefixes = tuple(f"scaler.{fold}." for fold in range(self.folds))
        if unknown := [name for name in arrays if name.startswith("scaler.") and not name.startswith(prefixes)]:
            raise ValueError(f"it has no fold for its array {unknown[0]!r}")
        for prefix in prefixes:
            head = {"kind": self._new_scaler().kind, "config": {}}
            scaler_part = inner_part(Part(self.kind, {}, dict(arrays)), prefix, head)
            self.scalers_.append(load_scaler(scaler_part))
            # Fails for a scaler of another width.
            self.scalers_[-1].transform(np.zeros((1, self.n_features_in_), dtype=np.float32))


def fold_of(rows: Singles, folds: int, *, salt: str) -> Integers:
    """Return the fold of each of the rows (n, d), of shape (n,).

    It is a hash of the salt, the content, and the row's number among the rows of equal content, modulo `folds`.
    """
    start = blake2b(f"{salt}|".encode(), digest_size=8)
    fold_numbers = np.empty(len(rows), dtype=np.int64)
    n_copies: Counter[bytes] = Counter()
    for i, row in enumerate(rows + np.float32(0)):  # which makes -0.0 a 0.0
        content = row.tobytes()
        digest = start.copy()
        digest.update(content + n_copies[content].to_bytes(8, "little"))
        n_copies[content] += 1
        fold_numbers[i] = int.from_bytes(digest.digest(), "little") % folds
    return fold_numbers
