"""From scored rows to p-values, whatever the calibrator compares them by, and from p-values to flags."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Texts
from assay.calibration.adapters.outputs import Outputs, observe
from assay.calibration.batches import benjamini_hochberg, discovery_limits
from assay.calibration.calibrators.registry import Calibrator
from assay.calibration.hardness import Strata
from assay.errors import InputError
from assay.parameters import check_share

if TYPE_CHECKING:
    from assay.calibration.adapters.registry import ScoreAdapter
    from assay.calibration.calibrators.weighted import DensityRatio
    from assay.data.null_models import NullModel
    from assay.detectors.base import Detector

Floats = NDArray[np.floating[Any]]
RANDOMISED = "randomised"
BATCHED = ("conformal", "mondrian")


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


@dataclass(frozen=True, slots=True)
class Rule:
    """How p-values become flags: by a false-positive rate, or by a false discovery rate of the whole batch.

    Attributes
    ----------
    eps, fdr : float or None
        One of the two. Rows with p <= eps are flagged; or, by Benjamini-Hochberg, those of which at most a share
        `fdr` is normal, on average (Bates, Candes, Lei, Romano, Sesia 2023).

    Raises
    ------
    InputError
        Both are given, or neither.
    ConfigError
        The one that is given is not a number between 0 and 1.
    """

    eps: float | None = None
    fdr: float | None = None

    def __post_init__(self) -> None:
        """Check the rate before anything is scored."""
        if (self.eps is None) == (self.fdr is None):
            raise InputError("eps and fdr are two ways to decide; give one of them")
        for name in ("eps", "fdr"):
            if (rate := getattr(self, name)) is not None:
                object.__setattr__(self, name, check_share(rate, name))

    def require(self, calibrator: Calibrator) -> None:
        """Raise `InputError` unless a calibrator's p-values allow this decision."""
        if self.fdr is not None and calibrator.kind not in BATCHED:
            raise InputError(
                f"false discoveries are not controlled by this scorer: it is calibrated as {calibrator.kind!r}, "
                f"and proofs exist for {' and '.join(BATCHED)} p-values; decide by eps instead"
            )

    def flags(self, p_values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which rows are flagged, bool of shape (n,), given the p-values of all of them.

        Comparing with eps takes no tolerance; `ConformalCalibrator.predict` says why.
        """
        if self.fdr is not None:
            return benjamini_hochberg(p_values, self.fdr)
        assert self.eps is not None
        return p_values <= self.eps

    def note(self, flags: NDArray[np.bool_], calibrator: Calibrator) -> str:
        """Return why nothing was or can be flagged, or ""."""
        if self.fdr is not None:
            return "" if flags.any() else discovery_limits(len(flags), calibrator.smallest_eps, self.fdr)
        assert self.eps is not None
        return calibrator.limits(self.eps)


def tie_breaks(features: Floats) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each row of shape (n, d): a hash of its content, the same wherever it comes."""
    rows = np.ascontiguousarray(features, dtype="<f4") + np.float32(0.0)
    digests = b"".join(blake2b(row.tobytes(), digest_size=8, person=b"ties").digest() for row in rows)
    return (np.frombuffer(digests, dtype="<u8") >> np.uint64(11)).astype(np.float64) / 2.0**53
