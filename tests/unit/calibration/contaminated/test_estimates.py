"""Estimates of the share of anomalies among calibration rows: coverage over redraws, and the words about them."""

from __future__ import annotations

import numpy as np
import pytest

from assay.calibration.contaminated.consequences import consequences
from assay.calibration.contaminated.estimates import (
    Contamination,
    contamination_from_answers,
    contamination_from_verified,
)
from assay.calibration.contaminated.label_trim import choose_questions, fpr_range, trim
from assay.errors import ConfigError, DataError

M, CONFIDENCE, REDRAWS = 500, 0.9, 120
IDS = [f"row-{i}" for i in range(M)]


def answered(seed, *, k=40, shift=3.0, masked=0, budget=50, sample=100, unanswered=None):
    """Truth, labels, purposes and scores of M rows with k anomalies, some of them scoring below the normal rows."""
    rng = np.random.default_rng(seed)
    truth = np.arange(M) < k
    scores = rng.normal(size=M) + shift * truth - 2 * shift * (np.arange(M) < masked)
    purposes = choose_questions(scores, IDS, budget=budget, sample=sample, seed=seed)
    labels = np.where(purposes == "", -1, truth)
    if unanswered == "anomalies":
        labels[truth & (rng.random(M) < 0.3)] = -1
    return truth, labels, purposes, scores


@pytest.mark.parametrize("unanswered", [None, "anomalies"])
@pytest.mark.parametrize(
    "case",
    [
        {},
        {"masked": 20},
        {"k": 5, "shift": 1.0},
        {"k": 200, "shift": 0.0, "sample": 60},
        {"k": 0},
        {"budget": 0, "sample": 80},
    ],
    ids=["high", "half masked", "few", "many, invisible", "none", "sample alone"],
)
def test_limits_hold_at_least_as_often_as_stated(case, unanswered):
    inside, bounded = [], []
    for seed in range(REDRAWS):
        truth, labels, purposes, scores = answered(seed, **case, unanswered=unanswered)
        known = contamination_from_answers(labels, purposes, confidence=CONFIDENCE)
        _, report = trim(scores, labels)
        inside.append(known.low <= truth.mean() <= known.high)
        bounded.append((truth.sum() - report.removed) / report.m_after <= known.left + 1e-12)
    band = 3 * np.sqrt(CONFIDENCE * (1 - CONFIDENCE) / REDRAWS)
    assert np.mean(inside) >= CONFIDENCE - band
    assert np.mean(bounded) >= CONFIDENCE - band


def test_limits_are_not_wider_than_they_need_to_be():
    missed, widths = [], []
    for seed in range(REDRAWS):
        truth, labels, purposes, _ = answered(seed, k=100, shift=0.0, budget=0)
        known = contamination_from_answers(labels, purposes, confidence=CONFIDENCE)
        missed.append(not known.low <= truth.mean() <= known.high)
        widths.append(known.high - known.low)
        assert known.low <= known.estimate <= known.high
    assert np.mean(missed) > (1 - CONFIDENCE) / 4
    assert np.mean(widths) < 0.15  # 100 of 500 rows seen: 1.645 * sqrt(.16 / 100 * .8) * 2 = .12


def test_the_estimate_is_unbiased_over_redraws():
    estimates = [
        contamination_from_answers(*answered(seed, masked=20)[1:3], confidence=0.9).estimate for seed in range(REDRAWS)
    ]
    assert abs(np.mean(estimates) - 40 / M) < 3 * np.std(estimates) / np.sqrt(REDRAWS)


def test_limits_are_those_of_the_hypergeometric_law():
    from scipy.stats import hypergeom

    for found, drawn, m in ((0, 50, 500), (3, 50, 500), (49, 50, 60), (120, 5000, 10**5)):
        purposes, labels = np.full(m, "", dtype=object), np.full(m, -1)
        purposes[:drawn], labels[:drawn] = "estimate", np.arange(drawn) < found
        known = contamination_from_answers(labels, purposes, confidence=0.9)
        k = round(known.high * m)
        assert hypergeom.cdf(found, m, k, drawn) > 0.05 >= hypergeom.cdf(found, m, k + 1, drawn)
        k = round(known.low * m)
        assert hypergeom.sf(found - 1, m, k, drawn) > 0.05
        assert found == 0 or k == found or hypergeom.sf(found - 1, m, k - 1, drawn) <= 0.05


def test_everything_labelled_is_everything_known():
    truth, labels, purposes, _ = answered(0, masked=20, sample=M)
    known = contamination_from_answers(labels, purposes, confidence=0.99)
    assert known.low == known.high == known.estimate == truth.mean()
    assert known.left == 0
    _, labels, purposes, _ = answered(0, masked=20, budget=M, sample=0)
    assert contamination_from_answers(labels, purposes, confidence=0.99).left == 0


def test_without_a_sample_nothing_is_known_below_the_top():
    _, labels, purposes, _ = answered(0, sample=0)
    known = contamination_from_answers(labels, purposes, confidence=0.95)
    assert (known.estimate, known.left) == (None, None)
    assert known.low == (labels == 1).mean()
    assert known.high == 1 - (labels == 0).mean()
    nothing = contamination_from_answers(np.full(3, -1), np.full(3, "", dtype=object), confidence=0.95)
    assert (nothing.low, nothing.high, nothing.estimate, nothing.left) == (0, 1, None, None)


def test_labels_of_rows_that_were_not_asked_about_count_as_facts():
    _, labels, purposes, _ = answered(0, k=40, shift=0.0)
    before = contamination_from_answers(labels, purposes, confidence=0.95)
    labels[(purposes == "").nonzero()[0][:300]] = 1
    after = contamination_from_answers(labels, purposes, confidence=0.95)
    assert before.high < 0.6 <= after.low <= after.high


@pytest.mark.parametrize(
    ("k", "shift", "decimals"),
    [(0, 0.0, None), (0, 0.0, 0), (50, -3.0, None), (50, 3.0, None), (50, 3.0, 0), (25, 4.0, None), (250, 1.0, None)],
)
def test_verified_normals_bound_the_share_from_below(k, shift, decimals):
    lows = []
    for seed in range(REDRAWS):
        rng = np.random.default_rng(seed)
        scores, verified = rng.normal(size=M) + shift * (np.arange(M) < k), rng.normal(size=300)
        if decimals is not None:
            scores, verified = scores.round(decimals), verified.round(decimals)
        known = contamination_from_verified(scores, verified, confidence=CONFIDENCE)
        assert known.high == 1
        assert known.low <= known.estimate
        lows.append(known.low)
    assert np.mean(np.array(lows) <= k / M) >= CONFIDENCE - 3 * np.sqrt(0.09 / REDRAWS)
    if shift >= 3 and decimals is None:
        assert np.mean(lows) > 0.6 * k / M


def test_the_estimate_from_verified_normals_is_near_where_anomalies_stand_out():
    estimates = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        scores, verified = np.r_[rng.normal(size=450), rng.normal(size=50) + 4], rng.normal(size=1000)
        estimates.append(contamination_from_verified(scores, verified, confidence=0.95).estimate)
    assert 0.08 < np.mean(estimates) < 0.12


def test_one_row_on_either_side_and_infinite_scores():
    assert contamination_from_verified(np.array([5.0]), np.array([1.0]), confidence=0.9).low == 0
    infinite = contamination_from_verified(np.full(100, np.inf), np.full(100, -np.inf), confidence=0.9)
    assert infinite.low > 0.9
    assert contamination_from_verified(np.ones(100), np.ones(50), confidence=0.9).low == 0


@pytest.mark.parametrize("confidence", [0, 1, np.nan])
def test_a_confidence_lies_between_0_and_1(confidence):
    with pytest.raises(ConfigError, match="confidence is"):
        contamination_from_answers(np.array([1]), np.array(["trim"], dtype=object), confidence=confidence)
    with pytest.raises(ConfigError, match="confidence is"):
        contamination_from_verified(np.ones(3), np.ones(3), confidence=confidence)


def test_what_cannot_be_estimated_from_is_refused():
    with pytest.raises(DataError, match="one of each for m >= 1"):
        contamination_from_answers(np.array([]), np.array([], dtype=object), confidence=0.9)
    with pytest.raises(DataError, match="one of each for m >= 1"):
        contamination_from_answers(np.array([1, 0]), np.array(["trim"], dtype=object), confidence=0.9)
    with pytest.raises(DataError, match="verified scores"):
        contamination_from_verified(np.ones(3), np.array([]), confidence=0.9)
    with pytest.raises(DataError, match="calibration scores"):
        contamination_from_verified(np.array([np.nan]), np.ones(3), confidence=0.9)


def test_consequences_give_the_range_the_worst_case_and_what_to_label_next():
    known = Contamination(500, 0.1, 0.08, 0.12, 0.95, "answers", 0.02)
    lines = consequences(0.05, known)
    assert lines[0] == "between 8 % and 12 % of 500 calibration rows are anomalies (95 % confidence), about 10 %"
    assert "between 0 % and 5.68 %" in lines[1]
    assert "hardly anything" in lines[2]
    assert "at most 2 % of the rest" in lines[3]
    assert lines[3].endswith("at most 5.1 %")
    assert lines[4].startswith("label the 75 highest scores in all, and 299 of the others")  # 25 ranks, 50 anomalies


def test_consequences_admit_what_is_not_known():
    lines = consequences(0.05, Contamination(100, None, 0.01, 0.96, 0.95, "answers"))
    assert "nobody knows how many anomalies are left" in lines[3]
    assert lines[3].endswith("with 1 %, 2 %, 5 % left the false-positive rate is at most 5.05 %, 5.1 %, 5.26 %")
    assert lines[4].startswith("label the 6 highest scores in all, and 94 of the others")
    seen = consequences(0.05, Contamination(100, 0.03, 0.02, 1.0, 0.95, "verified"))
    assert seen[0].startswith("at least 2 % of 100 calibration rows are anomalies (95 % confidence), about 3 %")
    assert f"eps {fpr_range(0.05, 0.02)[0]:.3g} on clean rows" in seen[2]
