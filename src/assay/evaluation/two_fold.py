"""Two-fold power: thresholds come from one half of the selection normals, rates from the other and the anomalies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from assay.arrays import Flags, Floats, Integers, Texts
from assay.calibration.calibrators.conformal import ConformalCalibrator, row_count, rows_needed
from assay.errors import DataError


@dataclass(frozen=True, slots=True)
class SelectionScores:
    """One scorer's adapted scores of the selection rows.

    Attributes
    ----------
    normals : ndarray of float, shape (n,)
    anomalies : ndarray of float, shape (a,)
    """

    normals: Floats
    anomalies: Floats


@dataclass(frozen=True, slots=True)
class TwoFold:
    """Flags of the normals by the other half, shape (n,); detections of the anomalies, 0, 1 or 2, shape (a,)."""

    flags: Flags
    detections: Integers


def split_folds(row_keys: Texts, *, seed: int) -> Flags:
    """Return which normals, shape (n,), are in the second half.

    The halves split the order of a hash of seed and key: they do not depend on the order of the rows, and their sizes
    differ by at most one. Copies of a row have keys of their own, so that they are in either half.
    """
    keys = [hashlib.blake2b(f"fold:{seed}:{key}".encode(), digest_size=16).hexdigest() for key in row_keys]
    second = np.zeros(len(keys), dtype=np.bool_)
    second[np.argsort(np.array(keys, dtype="U32"), kind="stable")[len(keys) // 2 :]] = True
    return second


def check_selection_scores(scores: SelectionScores, n_normals: int, n_anomalies: int) -> None:
    """Raise `DataError` unless there is one score for each row."""
    if scores.normals.shape != (n_normals,) or scores.anomalies.shape != (n_anomalies,):
        raise DataError(
            f"scores of {scores.normals.shape} normals and {scores.anomalies.shape} anomalies; "
            f"all scorers must score the same ({n_normals},) and ({n_anomalies},)"
        )


def rows_fault(n_normals: int, n_anomalies: int, eps: float) -> str:
    """Return why power at `eps` cannot be measured on so many rows, or ""."""
    needed, half = 2 * rows_needed(eps), n_normals // 2
    if n_normals < needed:
        return (
            f"eps {eps:g} needs at least {row_count(needed)} selection normals, there are {n_normals}; "
            f"the smallest eps possible with these is {1 / (half + 1):.4g}"
        )
    return "" if n_anomalies else "there are no selection anomalies, so power cannot be measured"


def two_fold(scores: SelectionScores, second: Flags, eps: float) -> TwoFold:
    """Flag the normals of each half, and all anomalies, with thresholds from the normals of the other half."""
    flags = np.zeros(scores.normals.size, dtype=np.bool_)
    detections = np.zeros(scores.anomalies.size, dtype=np.int64)
    for judged in (second, ~second):
        reference = ConformalCalibrator().fit(scores.normals[~judged])
        flags[judged] = reference.predict(scores.normals[judged], eps)
        detections += reference.predict(scores.anomalies, eps)
    return TwoFold(flags, detections)


def two_fold_fpr(flags: Flags, second: Flags) -> float:
    """Return the mean of the two halves' false-positive rates."""
    return float(flags[second].mean() + flags[~second].mean()) / 2
