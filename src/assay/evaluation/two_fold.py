"""Two-fold power: one half of the selection normals sets the threshold, the other half and the anomalies are judged."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.calibration.calibrators.conformal import ConformalCalibrator, row_count, rows_needed
from assay.errors import DataError

Scores = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class SelectionScores:
    """One scorer's adapted scores of the selection rows.

    Attributes
    ----------
    normals : ndarray of float, shape (n,)
    anomalies : ndarray of float, shape (a,)
    """

    normals: Scores
    anomalies: Scores


@dataclass(frozen=True, slots=True)
class TwoFold:
    """Normals' flags, shape (n,), each by the other half; anomalies' detections, shape (a,), 0, 1 or 2."""

    flags: NDArray[np.bool_]
    detections: NDArray[np.int64]


def split_folds(fingerprints: NDArray[np.str_], *, seed: int) -> NDArray[np.bool_]:
    """Return which normals, shape (n,), are in the second half.

    The halves are those of the order of a hash of seed and fingerprint: they do not depend on the order of
    the rows, and differ in size by one at most.
    """
    keys = [hashlib.blake2b(f"fold:{seed}:{mark}".encode(), digest_size=16).hexdigest() for mark in fingerprints]
    second = np.zeros(len(keys), dtype=np.bool_)
    second[np.argsort(np.array(keys, dtype="U32"), kind="stable")[len(keys) // 2 :]] = True
    return second


def compare_power(
    new_scores: SelectionScores,
    old_scores: SelectionScores,
    *,
    fingerprints: NDArray[np.str_],
    eps: float,
    seed: int,
) -> tuple[float, float]:
    """Return a challenger's two-fold power and the champion's, as `choose` measures it.

    Parameters
    ----------
    new_scores, old_scores : SelectionScores
        Of the same rows, in the same order.
    fingerprints : ndarray of str, shape (n,)
        Of the normals.
    eps : float
        Target false-positive rate.
    seed : int
        Seed of the halves.

    Raises
    ------
    ConfigError
        `eps` is not between 0 and 1.
    DataError
        The rows differ, are too few for `eps`, or a score is NaN.
    """
    n_normals, n_anomalies = len(fingerprints), len(new_scores.anomalies)
    for scores in (new_scores, old_scores):
        check_rows(scores, n_normals, n_anomalies)
    fault = rows_fault(n_normals, n_anomalies, eps)
    if fault:
        raise DataError(fault)
    second = split_folds(fingerprints, seed=seed)
    new, old = (two_fold(scores, second, eps).detections / 2 for scores in (new_scores, old_scores))
    return float(new.mean()), float(old.mean())


def check_rows(scores: SelectionScores, n_normals: int, n_anomalies: int) -> None:
    """Raise `DataError` unless there is one score for each of the rows."""
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


def two_fold(scores: SelectionScores, second: NDArray[np.bool_], eps: float) -> TwoFold:
    """Judge the normals of each half, and all anomalies, by the normals of the other half."""
    flags = np.zeros(scores.normals.size, dtype=np.bool_)
    detections = np.zeros(scores.anomalies.size, dtype=np.int64)
    for judged in (second, ~second):
        reference = ConformalCalibrator().fit(scores.normals[~judged])
        flags[judged] = reference.predict(scores.normals[judged], eps)
        detections += reference.predict(scores.anomalies, eps)
    return TwoFold(flags, detections)


def two_fold_fpr(flags: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return the mean of the two halves' false-positive rates."""
    return float(flags[second].mean() + flags[~second].mean()) / 2
