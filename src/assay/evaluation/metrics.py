"""Metrics of a scorer: ranking, and flag rates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Flags, Floats, Integers
from assay.errors import DataError


def auroc(labels: NDArray[np.integer[Any]], scores: Floats) -> float:
    """Return the area under the ROC curve.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
        0 normal, 1 anomaly.
    scores : ndarray of float, shape (n,)
        Higher = more anomalous; infinities are allowed.

    Raises
    ------
    DataError
        A class is missing, or a score is NaN.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, ranked(labels, scores)))


def auprc(labels: NDArray[np.integer[Any]], scores: Floats) -> float:
    """Return the average precision, the area under the precision-recall curve as a step function.

    Parameters and errors are those of `auroc`.
    """
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels, ranked(labels, scores)))


def stratum_flag_rates(flags: Flags, strata: NDArray[np.integer[Any]]) -> dict[int, float]:
    """Return the flag rate within each non-empty stratum (CADET fig. 5).

    Parameters
    ----------
    flags : ndarray of bool, shape (n,)
    strata : ndarray of int, shape (n,)

    Raises
    ------
    DataError
        The arrays differ in length or are empty.
    """
    if flags.shape != strata.shape or flags.size == 0:
        raise DataError(f"{flags.shape} flags and {strata.shape} strata; give one of each for at least one row")
    return {int(stratum): float(flags[strata == stratum].mean()) for stratum in np.unique(strata)}


def ranked(labels: NDArray[np.integer[Any]], scores: Floats) -> Integers:
    """Check labels and scores; return ranks instead of scores, so that infinities are allowed."""
    classes = set(np.unique(labels).tolist())
    if classes != {0, 1} or np.isnan(scores).any():
        raise DataError(f"labels {sorted(classes)}, {np.isnan(scores).sum()} NaN scores; give both 0 and 1, and no NaN")
    # scikit-learn refuses infinite scores; ranking metrics depend on the order alone.
    return np.unique(scores, return_inverse=True)[1].astype(np.int64)
