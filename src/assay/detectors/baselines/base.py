"""Baselines that can be packaged: scikit-learn fits most of them, and an array form scores and is stored.

The form scores from fitting on, so that the served scores are the evaluated ones and no pickle is needed. Every form
of an estimator gives its scores up to rounding (or documents the difference); a row's score never depends on its batch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from assay.arrays import FLOAT32_MAX, Doubles, Flags, Singles
from assay.detectors.base import (
    ROWS_AT_ONCE,
    EpochProgress,
    Parametrised,
    check_labels,
    check_rows,
    require_fitted,
    require_varied,
    score_in_chunks,
)
from assay.detectors.plugged.probe import probe_rows, require_steady, rows_to_compare
from assay.errors import TrainingError
from assay.families import check_part, stored_parameters
from assay.parameters import Count, check_parameters, plain_parameters
from assay.parts import Array, Part

ROWS_PER_WORKER = 256
MOST_STORED = 20_000  # rows that a detector compares others with
SMALLEST_VARIANCE = 1e-6  # of a direction, as a share of the mean variance


class ArrayForm:
    """A fitted scorer that consists of arrays, by default the attributes that `stored` names.

    Attributes
    ----------
    stored : mapping
        Dtype and dimensions of each array, see `assay.families.check_part`.
    """

    __slots__ = ()
    stored: ClassVar[Mapping[str, str]]

    def score(self, rows: Singles) -> Doubles:
        """Return scores of shape (n,) of checked rows (n, d); higher = more anomalous."""
        raise NotImplementedError

    def arrays(self) -> dict[str, Array]:
        """Return the arrays to store."""
        return {name: getattr(self, name) for name in self.stored}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        """Rebuild the form from its stored arrays."""
        return cls(**arrays)


@dataclass(kw_only=True, eq=False, repr=False)
class Baseline(Parametrised):
    """A scikit-learn estimator that becomes an array form when fitted.

    A subclass declares its parameters, names its form and implements `_fitted_form`. Fitting ends with the same probe
    as for plugged-in detectors. One that `stores_rows` keeps at most `MOST_STORED` of the training rows, picked at
    random.

    Attributes
    ----------
    n_features_in_ : int
        Width of the rows.
    n_left_out_ : int
        Number of training rows that were not used, after `fit`.
    form_ : ArrayForm
        Scores the rows.
    """

    kind: ClassVar[str]
    uses_labels: ClassVar[bool] = False
    stores_rows: ClassVar[bool] = False
    array_form: ClassVar[type[ArrayForm]]

    def fit(self, X: Singles, y: NDArray[Any] | None = None, *, progress: EpochProgress | None = None) -> Self:
        """Fit on rows of shape (n, d); there is no progress to report.

        Raises
        ------
        ConfigError
            A constructor argument is not allowed.
        InputError
            The rows are not a finite array of shape (n, d), or `y` holds labelled anomalies.
        TrainingError
            The estimator cannot be fitted, or fails the probe.
        """
        check_parameters(f"detector {self.kind!r}", type(self), self.get_params(deep=False))
        rows = check_rows(X)
        labels = check_labels(self.kind, y, len(rows), uses_labels=self.uses_labels)
        if len(rows) < 2:
            raise TrainingError(f"{len(rows)} training rows; detector {self.kind!r} needs at least 2: give more")
        with threadpool_limits(limits=1):  # the number of threads changes the rounding of sums
            try:
                form, n_used = self._form_of(rows, labels == 0)
            except ValueError as error:
                raise TrainingError(f"detector {self.kind!r} cannot be fitted: {error}") from error
            require_steady(self.kind, form, probe_rows(rows))
        self.form_, self.n_features_in_, self.n_left_out_ = form, rows.shape[1], len(rows) - n_used
        require_varied(self.kind, self.decision_function(rows_to_compare(rows)))
        return self

    def decision_function(self, X: Singles) -> Singles:
        """Return scores of shape (n,) of rows (n, d); higher = more anomalous.

        A squared distance beyond float32 becomes its largest value, never infinity.
        """
        require_fitted(self, "form_")
        return score_in_chunks(self._score, check_rows(X, self.n_features_in_), chunk=ROWS_AT_ONCE)

    def _score(self, rows: Singles) -> Doubles:
        return np.clip(self.form_.score(rows), -FLOAT32_MAX, FLOAT32_MAX)

    def to_part(self) -> Part:
        """Return the array form."""
        require_fitted(self, "form_")
        config = {"params": plain_parameters(self.get_params(deep=False)), "n_features": self.n_features_in_}
        return Part(self.kind, config, self.form_.arrays())

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Rebuild the detector from its part."""
        check_part(part, {"params": stored_parameters(cls), "n_features": Count}, cls.array_form.stored)
        detector = cls(**part.config["params"])
        detector.form_ = cls.array_form.from_arrays(part.arrays)
        detector.n_features_in_ = part.config["n_features"]
        return detector

    def _form_of(self, rows: Singles, verified: Flags) -> tuple[ArrayForm, int]:
        """Return the fitted form, and how many rows it is fitted on; `verified` rows are normal for certain."""
        used = sampled(rows, MOST_STORED, seed=0) if self.stores_rows else rows
        return self._fitted_form(used), len(used)

    def _fitted_form(self, rows: Singles) -> ArrayForm:
        raise NotImplementedError


def n_workers(n_rows: int) -> int:
    """Return in how many threads a tree is asked about so many rows; the answers are the same in any number."""
    return len(os.sched_getaffinity(0)) if n_rows >= ROWS_PER_WORKER and hasattr(os, "sched_getaffinity") else 1


def sampled(rows: NDArray[Any], most: int, *, seed: int) -> NDArray[Any]:
    """Return the rows, of more than `most` a random sample of that many, in their order."""
    if len(rows) <= most:
        return rows
    return rows[np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False))]
