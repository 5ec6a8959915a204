"""From scored rows to p-values, for every calibrator, and from p-values to flags."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Flags, Floats, Integers, Singles, Texts
from assay.calibration.adapters.outputs import Outputs, observe
from assay.calibration.batches import benjamini_hochberg, discovery_limits
from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.calibrators.registry import Calibrator
from assay.calibration.hardness import Strata
from assay.errors import InputError
from assay.hashing import uniform_hashes
from assay.parameters import check_share

if TYPE_CHECKING:
    from assay.calibration.adapters.registry import ScoreAdapter
    from assay.calibration.calibrators.weighted import DensityRatio
    from assay.data.null_models import NullModel
    from assay.detectors.base import Detector

BY_ID = "by_id"
BY_CONTENT = "randomised"
BATCHED = ("conformal", "mondrian")


@dataclass(frozen=True, slots=True)
class Scored:
    """n scored rows, with everything that a calibrator may need.

    Attributes
    ----------
    scores : ndarray of float32, shape (n,)
        Adapted scores; higher = more anomalous.
    outputs : Outputs
        The detector's outputs.
    features : ndarray of float, shape (n, d)
        The raw rows, in the precision of the scaler.
    scaled : ndarray of float32, shape (n, d)
    categories : ndarray of str, shape (n,), or None
    row_ids : ndarray of str, shape (n,), or None
        Names of the rows, from which ties are broken.
    fold_scores : callable or None
        Returns the scores by each of K folds, shape (K, n), if the detector has folds.
    """

    scores: Singles
    outputs: Outputs
    features: Floats
    scaled: Floats
    categories: Texts | None = None
    row_ids: Texts | None = None
    fold_scores: Callable[[], Floats] | None = None


def score_with_adapter(
    detector: Detector,
    null_model: NullModel,
    adapter: ScoreAdapter,
    features: Floats,
    scaled: Floats,
    categories: Texts | None = None,
    row_ids: Texts | None = None,
) -> Scored:
    """Score rows of shape (n, d) by a fitted detector and adapter."""
    outputs = observe(detector, null_model, scaled)
    return adapt_rows(detector, adapter, outputs, features, scaled, categories, row_ids)


def adapt_rows(
    detector: Detector,
    adapter: ScoreAdapter,
    outputs: Outputs,
    features: Floats,
    scaled: Floats,
    categories: Texts | None = None,
    row_ids: Texts | None = None,
) -> Scored:
    """Adapt the outputs of a detector for rows of shape (n, d)."""
    of_folds = getattr(detector, "fold_scores", None)  # isinstance of CrossFitted takes longer than a row
    fold_scores = None if of_folds is None else partial(of_folds, scaled)
    scores = np.asarray(adapter.transform(outputs), dtype=np.float32)
    return Scored(scores, outputs, features, scaled, categories, row_ids, fold_scores)


@dataclass(frozen=True, slots=True)
class Compared:
    """n rows compared with their references.

    Attributes
    ----------
    p_values : ndarray of float64, shape (n,)
    counted : ndarray of float64, shape (n,), or None
        The p-values with ties counted; None where the joint law of the rows' p-values is unknown.
    of_row : ndarray of int64, shape (n,), or None
        The reference of each row, as an index of `Reference.sizes`.
    """

    p_values: Doubles
    counted: Doubles | None = None
    of_row: Integers | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """A fitted calibrator with everything that it needs to compare scored rows.

    Attributes
    ----------
    calibrator : Calibrator
    strata : Strata
        Hardness strata, with edges from the adapt rows.
    ratio : DensityRatio or None
        Weights of rows, if calibration is weighted towards target rows.
    ties : {"counted", "by_id", "randomised"}
        How calibration scores equal to a row's score are treated. "counted": as higher. "by_id": the row is ranked
        among them by a hash of its id and the salt, uniform over ids, whatever the rows hold; without ids, equal scores
        are counted. "randomised", in scorers of before: by a hash of the row's content, so that all copies of a content
        have one number for ever, and either all of them are flagged or none.
    salt : str
    """

    calibrator: Calibrator
    strata: Strata
    ratio: DensityRatio | None = None
    ties: str = "counted"
    salt: str = ""

    def p_values(self, scored: Scored) -> Doubles:
        """Return the p-values of scored rows, shape (n,).

        Raises
        ------
        InputError
            Rows are compared within categories, and a category is missing or was never calibrated.
        """
        return self._p_values(scored, self.side_information(scored))

    def _p_values(self, scored: Scored, side: NDArray[Any] | None) -> Doubles:
        scores: Floats = scored.scores
        if self.calibrator.kind == "cross":
            assert scored.fold_scores is not None
            scores = scored.fold_scores()
        return self.calibrator.p_values(scores, side, tie_breaks=self._tie_breaks(scored))

    def _tie_breaks(self, scored: Scored) -> Doubles | None:
        if self.ties == BY_CONTENT:
            return content_hashes(scored.features)
        if self.ties == BY_ID and scored.row_ids is not None:
            return uniform_hashes(scored.row_ids, f"ties:{self.salt}")
        return None

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """The sizes of the references that rows are compared with.

        None if the joint law of the rows' p-values is unknown (weighted and cross calibration, groups of rows).
        """
        if isinstance(self.calibrator, MondrianCalibrator):
            return tuple(scores.size for scores in self.calibrator.references_)
        return (self.calibrator.n_rows,) if isinstance(self.calibrator, ConformalCalibrator) else None

    def references(self, scored: Scored) -> tuple[tuple[int, ...], Integers] | None:
        """Return `sizes`, and which of these references each scored row has, shape (n,); None without sizes."""
        if (sizes := self.sizes) is None:
            return None
        return sizes, self._of_rows(self.side_information(scored), len(scored.scores))

    def _of_rows(self, side: NDArray[Any] | None, n: int) -> Integers:
        if not isinstance(self.calibrator, MondrianCalibrator):
            return np.zeros(n, dtype=np.int64)
        index_of = {key: index for index, key in enumerate(self.calibrator.keys_)}
        return np.array([index_of[key] for key in np.asarray(side).tolist()], dtype=np.int64)

    def compare(self, scored: Scored) -> Compared:
        """Return the p-values of scored rows, with what `assay.calibration.tally.Tally` needs; see `p_values`."""
        side = self.side_information(scored)
        p_values = self._p_values(scored, side)
        if self.sizes is None:
            return Compared(p_values)
        counted = p_values if self._tie_breaks(scored) is None else self.calibrator.p_values(scored.scores, side)
        return Compared(p_values, counted, self._of_rows(side, len(p_values)))

    def side_information(self, scored: Scored) -> NDArray[Any] | None:
        """Return the side information of the calibrator for scored rows, shape (n,), or None if it needs none."""
        if self.calibrator.side_information == "stratum":
            return self.strata.assign(scored.scaled, lambda: scored.outputs.hardness)
        if self.calibrator.side_information == "category":
            if scored.categories is None:
                raise InputError("these rows have no categories; this scorer compares rows within categories")
            return scored.categories
        if self.calibrator.side_information == "weight":
            assert self.ratio is not None
            return self.ratio.weights(scored.scaled)
        return None


@dataclass(frozen=True, slots=True)
class Rule:
    """How p-values become flags: by a false-positive rate, or by a false discovery rate of the batch.

    Attributes
    ----------
    eps, fdr : float or None
        Exactly one is set. `eps` flags rows with p <= eps. `fdr` flags rows by Benjamini-Hochberg: on average at most a
        share `fdr` of the flagged rows is normal (Bates, Candes, Lei, Romano, Sesia 2023).

    Raises
    ------
    InputError
        Both are given, or neither.
    ConfigError
        The given rate is not a number between 0 and 1.
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
        """Raise `InputError` if the p-values of a calibrator do not allow this decision."""
        if self.fdr is not None and calibrator.kind not in BATCHED:
            raise InputError(
                f"false discoveries are not controlled by this scorer: it is calibrated as {calibrator.kind!r}, "
                f"and proofs exist for {' and '.join(BATCHED)} p-values; decide by eps instead"
            )

    def flags(self, p_values: Doubles) -> Flags:
        """Return which rows are flagged, bool of shape (n,), from the p-values of the whole batch.

        The comparison with eps needs no tolerance; `ConformalCalibrator.predict` explains why.
        """
        if self.fdr is not None:
            return benjamini_hochberg(p_values, self.fdr)
        assert self.eps is not None
        return p_values <= self.eps

    def note(self, n_rows: int, n_flagged: int, calibrator: Calibrator) -> str:
        """Return why nothing was flagged in a batch or can be flagged, or ""."""
        if self.fdr is not None:
            return "" if n_flagged else discovery_limits(n_rows, calibrator.smallest_eps, self.fdr)
        assert self.eps is not None
        return calibrator.limits(self.eps)


def content_hashes(features: Floats) -> Doubles:
    """Return a number in [0, 1) for each row of shape (n, d): a hash of its values alone, in their precision."""
    # Adding 0 turns -0 into 0, so that equal rows have equal hashes.
    rows = np.ascontiguousarray(
        features + features.dtype.type(0), dtype="<f4" if features.dtype == np.float32 else "<f8"
    )
    digests = b"".join(blake2b(row.tobytes(), digest_size=8, person=b"ties").digest() for row in rows)
    # The upper 53 bits fill the mantissa of a float64 exactly.
    return (np.frombuffer(digests, dtype="<u8") >> np.uint64(11)).astype(np.float64) / 2.0**53
