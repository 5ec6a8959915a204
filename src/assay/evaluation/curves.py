"""Curves of a candidate on the test rows: ROC, precision and recall, reliability, and the histogram of its p-values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from assay.arrays import Doubles, Floats
from assay.evaluation.metrics import ranked

POINTS, BINS = 200, 20
_EPS = np.concatenate([[0.001, 0.002, 0.005], np.linspace(0.01, 1, 100)])

Curve = tuple[Doubles, Doubles]


@dataclass(frozen=True, slots=True)
class Curves:
    """Curves of one candidate; each is a pair of float64 arrays, x and y.

    Attributes
    ----------
    roc : (ndarray, ndarray)
        False-positive rate and true-positive rate at each threshold.
    precision_recall : (ndarray, ndarray)
        Recall and precision at each threshold.
    reliability : (ndarray, ndarray)
        eps, and the share of normals whose p-value is at most eps.
    p_values, anomalies : (ndarray, ndarray)
        Middle of each of 20 bins, and the share of normals, or of anomalies, with a p-value in it.
    """

    roc: Curve
    precision_recall: Curve
    reliability: Curve
    p_values: Curve
    anomalies: Curve

    @classmethod
    def of(cls, scores: tuple[Floats, Floats], p_values: tuple[Doubles, Doubles]) -> Curves:
        """Draw the curves of scores and p-values, each of the normals and of the anomalies.

        ROC and precision-recall curves have at most 200 points, spread evenly over their thresholds.
        """
        from sklearn.metrics import precision_recall_curve, roc_curve

        truth = np.concatenate([np.zeros(len(scores[0]), np.int8), np.ones(len(scores[1]), np.int8)])
        ranks = ranked(truth, np.concatenate(scores))
        fpr, tpr, _ = roc_curve(truth, ranks)
        precision, recall, _ = precision_recall_curve(truth, ranks)
        normals, anomalies = (np.sort(values) for values in p_values)
        flagged = np.searchsorted(normals, _EPS, side="right") / len(normals)
        return cls(
            roc=_thinned(fpr, tpr),
            precision_recall=_thinned(recall[::-1], precision[::-1]),
            reliability=(_EPS, flagged),
            p_values=_shares(normals),
            anomalies=_shares(anomalies),
        )


def _thinned(x: Doubles, y: Doubles) -> Curve:
    chosen = np.unique(np.linspace(0, len(x) - 1, POINTS).round().astype(np.intp))
    return x[chosen].astype(np.float64), y[chosen].astype(np.float64)


def _shares(p_values: Doubles) -> Curve:
    counts, edges = np.histogram(p_values, BINS, (0, 1))
    return (edges[:-1] + edges[1:]) / 2, counts / max(len(p_values), 1)
