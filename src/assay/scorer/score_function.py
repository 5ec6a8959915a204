"""The road from raw rows to scores, without calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from assay.arrays import Doubles, Floats, Singles, Texts
from assay.calibration.adapters.registry import ScoreAdapter
from assay.calibration.decisions import Scored, score_with_adapter
from assay.data.null_models import NullModel
from assay.data.scaling import Scaler
from assay.detectors.base import Detector


@dataclass(frozen=True, slots=True)
class ScoreFunction:
    """Scaler, detector and score adapter in sequence: raw features to anomaly scores.

    It holds no reference scores, so code that has only this cannot use calibration rows.
    """

    scaler: Scaler
    detector: Detector
    null_model: NullModel
    adapter: ScoreAdapter

    def __call__(self, features: Floats) -> Singles:
        """Score rows of shape (n, d); returns float32 (n,), higher = more anomalous."""
        return self.scored(features).scores

    def scored(self, features: Floats, categories: Texts | None = None, row_ids: Texts | None = None) -> Scored:
        """Score rows of shape (n, d), with everything that a calibrator may need."""
        rows = np.asarray(features, dtype=self.scaler.precision)
        scaled = self.scaler.transform(rows)
        return score_with_adapter(self.detector, self.null_model, self.adapter, rows, scaled, categories, row_ids)

    def hardness(self, features: Floats) -> Doubles:
        """Return the hardness H(x) of rows of shape (n, d), float64 of shape (n,)."""
        return self.null_model.hardness(self.scaler.transform(features))
