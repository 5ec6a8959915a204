"""From scored rows to p-values, whatever the calibrator compares them by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assay.calibration.adapters.outputs import Outputs, observe
from assay.calibration.calibrators.registry import Calibrator
from assay.calibration.hardness import Strata
from assay.data.categories import Texts
from assay.errors import InputError

if TYPE_CHECKING:
    from assay.calibration.adapters.registry import ScoreAdapter
    from assay.calibration.calibrators.weighted import DensityRatio
    from assay.data.null_models import NullModel
    from assay.detectors.base import Detector

Floats = NDArray[np.floating[Any]]
RANDOMISED = "randomised"


@dataclass(frozen=True, slots=True)
class Scored:
    """n scored rows, and what else calibrators may compare them by.

    Attributes
    ----------
    scores : ndarray of float32, shape (n,)
        Adapted scores; higher = more anomalous.
    outputs : Outputs
        Of the detector.
    features, scaled : ndarray of float32, shape (n, d)
        The raw rows, and the scaled ones.
    categories : ndarray of str, shape (n,), or None
    fold_scores : callable or None
        Returns the scores by each of K folds, of shape (K, n), where the detector has folds.
    """

    scores: NDArray[np.float32]
    outputs: Outputs
    features: Floats
    scaled: Floats
    categories: Texts | None = None
    fold_scores: Callable[[], Floats] | None = None


def score_rows(
    detector: Detector,
    null_model: NullModel,
    adapter: ScoreAdapter,
    features: Floats,
    scaled: Floats,
    categories: Texts | None = None,
) -> Scored:
    """Score rows of shape (n, d) by a fitted detector and adapter."""
    return adapt_rows(detector, adapter, observe(detector, null_model, scaled), features, scaled, categories)


def adapt_rows(
    detector: Detector,
    adapter: ScoreAdapter,
    outputs: Outputs,
    features: Floats,
    scaled: Floats,
    categories: Texts | None = None,
) -> Scored:
    """Adapt the outputs of a detector for rows of shape (n, d)."""
    from assay.detectors.base import CrossFitted

    by_fold = (lambda: detector.fold_scores(scaled)) if isinstance(detector, CrossFitted) else None
    scores = np.asarray(adapter.transform(outputs), dtype=np.float32)
    return Scored(scores, outputs, features, scaled, categories, by_fold)


@dataclass(frozen=True, slots=True)
class Reference:
    """What a scored row is compared with.

    Attributes
    ----------
    calibrator : Calibrator
    strata : Strata
        Hardness strata, with edges from the adapt rows.
    ratio : DensityRatio or None
        Weights of rows, where calibration is weighted towards target rows.
    ties : {"counted", "randomised"}
        What becomes of calibration scores equal to a row's.
    """

    calibrator: Calibrator
    strata: Strata
    ratio: DensityRatio | None = None
    ties: str = "counted"

    def p_values(self, scored: Scored) -> NDArray[np.float64]:
        """Return the p-values of scored rows, shape (n,).

        Raises
        ------
        InputError
            Rows have no category, or one that was never calibrated, where they are compared within categories.
        """
        scores: Floats = scored.scores
        if self.calibrator.kind == "cross":
            assert scored.fold_scores is not None
            scores = scored.fold_scores()
        breaks = tie_breaks(scored.features) if self.ties == RANDOMISED else None
        return self.calibrator.p_values(scores, self.beside(scored), tie_breaks=breaks)

    def beside(self, scored: Scored) -> NDArray[Any] | None:
        """Return what the calibrator wants beside the scores, shape (n,), or None."""
        if self.calibrator.beside == "stratum":
            return self.strata.assign(np.asarray(scored.outputs.hardness, dtype=np.float64))
        if self.calibrator.beside == "category":
            if scored.categories is None:
                raise InputError("these rows have no categories; this scorer compares rows within categories")
            return scored.categories
        if self.calibrator.beside == "weight":
            assert self.ratio is not None
            return self.ratio.weights(scored.scaled)
        return None


def tie_breaks(features: Floats) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each row of shape (n, d): a hash of its content, the same wherever it comes."""
    rows = np.ascontiguousarray(features, dtype="<f4") + np.float32(0.0)
    digests = b"".join(blake2b(row.tobytes(), digest_size=8, person=b"ties").digest() for row in rows)
    return (np.frombuffer(digests, dtype="<u8") >> np.uint64(11)).astype(np.float64) / 2.0**53
