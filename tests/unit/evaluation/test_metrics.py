"""Metrics."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import average_precision_score, roc_auc_score

from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.errors import DataError
from assay.evaluation.metrics import auprc, auroc, fpr_upper_tail, stratum_flag_rates

LABELS = np.array([0, 0, 1, 1, 0, 1])
SCORES = np.array([0.1, 0.4, 0.4, 0.9, 0.2, 0.3])


def test_ranking_metrics_are_scikit_learns_and_higher_is_more_anomalous():
    assert auroc(LABELS, SCORES) == pytest.approx(roc_auc_score(LABELS, SCORES))
    assert auprc(LABELS, SCORES) == pytest.approx(average_precision_score(LABELS, SCORES))
    assert auroc(np.array([0, 1]), np.array([1.0, 2.0])) == auprc(np.array([0, 1]), np.array([1.0, 2.0])) == 1


def test_ranking_metrics_take_infinities_as_extremes():
    extreme = np.where(np.max(SCORES) == SCORES, np.inf, np.where(np.min(SCORES) == SCORES, -np.inf, SCORES))
    assert auroc(LABELS, extreme) == auroc(LABELS, SCORES)
    assert auprc(LABELS, extreme) == auprc(LABELS, SCORES)


@pytest.mark.parametrize("metric", [auroc, auprc])
@pytest.mark.parametrize(
    ("labels", "scores"),
    [([0, 0], [1.0, 2.0]), ([1], [1.0]), ([], []), ([0, 1, -1], [1.0, 2.0, 3.0]), ([0, 1], [np.nan, 1.0])],
)
def test_ranking_metrics_need_both_classes_and_numbers(metric, labels, scores):
    with pytest.raises(DataError, match="both 0 and 1"):
        metric(np.array(labels, dtype=np.int8), np.array(scores))


def test_stratum_rates():
    flags = np.array([True, False, False, True, True])
    assert stratum_flag_rates(flags, np.array([0, 0, 2, 2, 3])) == {0: 0.5, 2: 0.5, 3: 1.0}
    for strata in (np.array([0]), np.zeros(0, dtype=int)):
        with pytest.raises(DataError):
            stratum_flag_rates(flags[: 2 * strata.size], strata)


def test_upper_tail_is_the_law_of_false_positives_over_redraws():
    m, n, eps, redraws = 60, 80, 0.1, 6000
    counts = np.empty(redraws, dtype=int)
    for seed in range(redraws):
        scores = np.random.default_rng(seed).normal(size=m + n)
        counts[seed] = ConformalCalibrator().fit(scores[:m]).predict(scores[m:], eps).sum()
    for k in (1, 5, 8, 12, 16, 20):
        expected = fpr_upper_tail(k, n, m, eps)
        error = np.sqrt(expected * (1 - expected) / redraws)
        assert abs(np.mean(counts >= k) - expected) < 3.5 * error
    assert fpr_upper_tail(20, n, m, eps) > 10 * binom.sf(19, n, eps)  # what a plain binomial would say


@pytest.mark.parametrize(
    ("k", "n", "m", "eps", "expected"),
    [
        (0, 50, 20, 0.05, 1.0),
        (0, 50, 5, 0.05, 1.0),
        (1, 50, 5, 0.05, 0.0),
        (3, 50, 500, 0.999, 1.0),
        (51, 50, 99, 0.05, 0.0),
    ],
)
def test_upper_tail_at_its_ends(k, n, m, eps, expected):
    assert fpr_upper_tail(k, n, m, eps) == pytest.approx(expected, abs=1e-6)
