"""Rescaled: a detector on rescaled columns. The scale of a column is its weight in a distance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from assay.arrays import FLOAT32_MAX, Doubles, Labels, Singles
from assay.detectors.base import Detector, EpochProgress, check_rows, latent_codes, require_fitted
from assay.detectors.wrappers.wrapper import Wrapper
from assay.errors import InputError
from assay.parts import Array


@dataclass(kw_only=True, eq=False, repr=False)
class Rescaled(Wrapper):
    """Any detector on min-max scaled columns.

    Detectors get standardised rows: all columns have the same variance, and a nearly constant column, such as a
    pixel at the border, has a few enormous values. Scaled by its range it has small ones. Which scale finds
    anomalies depends on the data, so that this is a candidate to compare. Min-max after standardising equals
    min-max of the raw columns. It fails if one outlier determines the range of a column, and changes nothing
    for images, which have one common range.

    Parameters
    ----------
    detector : str or dict
        The inner detector: its name, or {name: {parameter: value}}.
    scaler : {"minmax"}
        Per column: subtract the smallest training value, divide by the range. A constant column is only
        shifted. Values outside the training range are not clipped.
    image_shape, series_shape, device, seed
        Passed to the inner detector.

    Attributes
    ----------
    n_features_in_ : int
        Width of the rows.
    minimum_, range_ : ndarray of float64, shape (d,)
    detector_ : Detector
        The inner detector, fitted on the scaled rows.
    """

    kind: ClassVar[str] = "rescaled"
    stored: ClassVar[Mapping[str, str]] = {"minimum": "float64 n_features", "range": "float64 n_features in (0,)"}

    scaler: Literal["minmax"] = "minmax"

    def decision_function(self, X: Singles) -> Singles:
        """Return the inner detector's scores of the scaled rows, of shape (n,)."""
        require_fitted(self, "detector_")
        return self.detector_.decision_function(self._scaled(check_rows(X, self.n_features_in_)))

    def embed(self, X: Singles) -> Singles:
        """Return the inner detector's codes, of shape (S, n, k), or the scaled rows if it has no latent space."""
        require_fitted(self, "detector_")
        return latent_codes(self.detector_, self._scaled(check_rows(X, self.n_features_in_)))

    def _fit(self, rows: Singles, labels: Labels, progress: EpochProgress | None) -> None:
        if len(rows) == 0:
            raise InputError("there are no training rows to scale; give some")
        self.minimum_: Doubles = rows.min(axis=0).astype(np.float64)
        spread: Doubles = rows.max(axis=0).astype(np.float64) - self.minimum_
        self.range_: Doubles = np.where(spread > 0, spread, 1.0)
        self.detector_ = self._new(self.seed).fit(self._scaled(rows), labels, progress=progress)

    def _scaled(self, rows: Singles) -> Singles:
        values = (rows.astype(np.float64) - self.minimum_) / self.range_
        return np.clip(values, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)

    def _own_arrays(self) -> dict[str, Array]:
        return {"minimum": self.minimum_, "range": self.range_}

    def _inner(self) -> list[Detector]:
        return [self.detector_]

    def _restore(self, loaded: list[Detector], arrays: Mapping[str, NDArray[Any]]) -> None:
        (self.detector_,) = loaded
        self.minimum_, self.range_ = arrays["minimum"], arrays["range"]
