"""Metrics."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from assay.errors import DataError
from assay.evaluation.metrics import auprc, auroc, stratum_flag_rates

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
