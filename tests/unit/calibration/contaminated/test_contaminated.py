"""What contaminated calibration rows do, and what Label-Trim undoes, over many redraws."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.calibrators.ranks import largest_rank
from assay.calibration.contaminated.label_trim import choose_questions, fpr_range, rows_to_label, trim, trim_report
from assay.data.dataset import RowSet
from assay.data.labelling import align, read_answers, write_questions
from assay.errors import ConfigError, DataError

EPS, M, BUDGET, REDRAWS = 0.05, 500, 50, 400
ABOVE, BELOW = np.full(50, 3.0), np.full(50, -3.0)
MASKED = np.r_[ABOVE[:25], BELOW[:25]]


def rates(shifts, budget=BUDGET, m=M, eps=EPS, redraws=REDRAWS):
    """Mean FPR and power of the naive, trimmed and clean reference, their standard errors, and the shares left."""
    found, left = [], []
    truth = np.arange(m) < len(shifts)
    for seed in range(redraws):
        rng = np.random.default_rng(seed)
        scores = rng.normal(size=m) + np.r_[shifts, np.zeros(m - len(shifts))]
        labels = np.full(m, -1)
        asked = rows_to_label(scores, budget)
        labels[asked] = truth[asked]
        kept, report = trim(scores, labels)
        left.append((truth.sum() - report.removed) / report.m_after)
        normal, anomalous = rng.normal(size=300), rng.normal(size=100) + 3
        references = [ConformalCalibrator().fit(reference) for reference in (scores, kept, scores[~truth])]
        found.append([[c.predict(test, eps).mean() for test in (normal, anomalous)] for c in references])
    array = np.array(found)
    return array.mean(axis=0), array.std(axis=0) / np.sqrt(redraws), np.array(left)


@settings(max_examples=200, deadline=None)
@given(st.floats(0.001, 0.999), st.floats(0, 1))
def test_the_range_holds_eps_and_widens_with_contamination(eps, rho):
    low, high = fpr_range(eps, rho)
    assert 0 <= low <= eps <= high <= 1
    cleaner = fpr_range(eps, rho / 2)
    assert low <= cleaner[0]
    assert cleaner[1] <= high
    assert fpr_range(eps, 0) == (eps, eps)
    assert (low == 0) == (rho >= eps)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 300), st.floats(0, 0.9), st.floats(0.01, 0.5))
def test_the_range_brackets_what_finite_references_do(m, share, eps):
    k = int(share * m)
    low, high = fpr_range(eps, k / m)
    rank = largest_rank(m, eps)
    above, below = max(rank - k, 0) / (m + 1 - k), min(rank / (m + 1 - k), 1)
    assert below <= high + 1e-12
    assert low - 1 / (m * (1 - k / m)) - 1e-12 <= above <= low + 1 / (m + 1)


@pytest.mark.parametrize(("eps", "rho"), [(0.05, 1.1), (0.05, -0.1), (0.05, np.nan), (0, 0.1), (1, 0.1)])
def test_shares_that_make_no_sense_are_refused(eps, rho):
    with pytest.raises(ConfigError):
        fpr_range(eps, rho)


def test_everything_contaminated_means_nothing_is_known():
    assert fpr_range(0.05, 1) == (0, 1)


def test_trimming_lies_between_naive_and_clean_where_anomalies_score_high():
    mean, error, left = rates(ABOVE)
    (naive, trimmed, clean), (naive_power, trimmed_power, clean_power) = mean.T
    np.testing.assert_allclose([naive, trimmed, clean], [0.001, 0.042, 0.049], atol=0.002)
    assert naive + 20 * error[1, 0] < trimmed < clean - 3 * error[2, 0]
    assert naive_power + 20 * error[0, 1] < trimmed_power < clean_power - 3 * error[2, 1]
    assert clean_power - trimmed_power < 0.05
    low, high = fpr_range(EPS, 0.1)
    assert low <= naive <= high
    assert trimmed <= EPS <= fpr_range(EPS, left.mean())[1]


@pytest.mark.parametrize("shifts", [BELOW, MASKED], ids=["below", "half masked"])
def test_masked_anomalies_stay_within_the_stated_worst_case(shifts):
    mean, error, left = rates(shifts)
    naive, trimmed, clean = mean[:, 0]
    assert trimmed <= fpr_range(EPS, left.mean())[1] + 3 * error[1, 0]
    assert trimmed > EPS + 3 * error[1, 0] if shifts is BELOW else trimmed > naive
    assert abs(clean - largest_rank(450, EPS) / 451) < 3 * error[2, 0]
    if shifts is BELOW:
        assert left.min() == 0.1
        assert abs(naive - 25 / 451) < 3 * error[0, 0]


def test_nothing_changes_where_there_are_no_anomalies():
    mean, _, left = rates(np.zeros(0), redraws=50)
    assert left.max() == 0
    np.testing.assert_array_equal(mean[0], mean[1])
    np.testing.assert_array_equal(mean[0], mean[2])


def test_a_budget_of_all_rows_is_the_clean_reference():
    mean, _, left = rates(MASKED, budget=M + 7, redraws=50)
    assert left.max() == 0
    np.testing.assert_array_equal(mean[1], mean[2])


def test_the_highest_scores_are_asked_about_and_earlier_rows_first_among_equals():
    scores = np.array([1, 3, np.inf, 3, -np.inf, 3], dtype=np.float32)
    assert rows_to_label(scores, 3).tolist() == [2, 1, 3]
    assert rows_to_label(scores, 0).tolist() == []
    assert rows_to_label(scores, 99).tolist() == [2, 1, 3, 5, 0, 4]
    with pytest.raises(ConfigError, match="budget is -1"):
        rows_to_label(scores, -1)
    with pytest.raises(DataError, match="hold NaN"):
        rows_to_label(np.array([np.nan]), 1)


def test_only_labelled_anomalies_are_removed():
    kept, report = trim(np.array([9.0, 8, 7, 6]), np.array([1, 0, -1, 1]))
    assert kept.tolist() == [8, 7]
    assert (report.m_before, report.m_after, report.labelled, report.removed) == (4, 2, 3, 2)
    with pytest.raises(DataError, match="all 2 calibration rows are labelled as anomalies"):
        trim(np.array([1.0, 2]), np.array([1, 1]))
    with pytest.raises(DataError, match="one for each of 2"):
        trim(np.array([1.0, 2]), np.array([1]))


def test_questions_are_the_highest_scores_and_a_sample_of_the_others():
    rng = np.random.default_rng(0)
    scores, ids = rng.normal(size=1000), [f"row-{i}" for i in range(1000)]
    purposes = choose_questions(scores, ids, budget=50, sample=100, seed=0)
    assert set(np.flatnonzero(purposes == "trim")) == set(rows_to_label(scores, 50))
    sample = set(np.flatnonzero(purposes == "estimate"))
    assert len(sample) == 100
    larger = choose_questions(scores, ids, budget=50, sample=200, seed=0)
    assert sample < set(np.flatnonzero(larger == "estimate"))
    assert sample != set(np.flatnonzero(choose_questions(scores, ids, budget=50, sample=100, seed=1) == "estimate"))
    order = rng.permutation(1000)
    moved = choose_questions(scores[order], [ids[i] for i in order], budget=50, sample=100, seed=0)
    np.testing.assert_array_equal(moved, purposes[order])
    assert (choose_questions(scores, ids, budget=990, sample=100, seed=0) == "estimate").sum() == 10
    with pytest.raises(ConfigError, match="sample is -1"):
        choose_questions(scores, ids, budget=1, sample=-1, seed=0)


def test_every_other_row_is_as_likely_to_be_sampled():
    ids = [f"r{i}" for i in range(60)]
    drawn = [choose_questions(np.arange(60.0), ids, budget=10, sample=10, seed=s) == "estimate" for s in range(600)]
    counts = np.sum(drawn, axis=0)
    assert not counts[50:].any()
    assert abs(counts[:50] - 120).max() < 4.5 * np.sqrt(600 * 0.2 * 0.8)


def test_a_file_of_answers_trims_rows_and_says_what_is_known(tmp_path):
    path = tmp_path / "labels.csv"
    n = 40
    frame = pd.DataFrame({"row_id": [f"r{i}" for i in range(n)], "fingerprint": [f"{i % 39:032x}" for i in range(n)]})
    rows = RowSet(np.arange(n, dtype=np.float32)[:, None], frame)
    kept, found = trim_report(rows, path, seed=0)
    assert len(kept) == n
    assert found["trim"] == {"m_before": n, "m_after": n, "labelled": 0, "removed": 0}
    assert (found["contamination"]["low"], found["contamination"]["high"]) == (0, 1)
    scores = np.r_[100.0, np.arange(1.0, n)]
    purposes = choose_questions(scores, frame["row_id"].tolist(), budget=5, sample=n, seed=0)
    asked = frame.assign(score=scores, purpose=purposes)[purposes != ""]
    write_questions(path, asked)
    text = path.read_text().splitlines()
    assert text[1] == f"{0:032x},r0,trim,100.0,"
    path.write_text(
        "\n".join([text[0], text[1] + "1", text[2], *[line + "0" for line in text[3:-2]], *text[-2:]]) + "\n"
    )
    labels, _ = align(read_answers(path), frame)
    assert (labels[0], labels[39]) == (1, -1)  # the same content
    kept, found = trim_report(rows, path, seed=0)
    assert kept.rows["row_id"].tolist() == frame["row_id"].tolist()[1:]
    assert found["trim"]["removed"] == 1
    assert found["contamination"]["left"] > 0  # two were not answered
