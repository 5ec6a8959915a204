"""Split conformal p-values, thresholds and their guarantee."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from crepes.base import p_values_batch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.calibration.calibrators.conformal import ConformalCalibrator, split_references
from assay.calibration.calibrators.ranks import largest_rank, rows_needed
from assay.calibration.calibrators.registry import load_calibrator
from assay.errors import ConfigError, DataError, InputError, ScorerError
from assay.parts import Part, read_part, write_part

scores_lists = st.lists(
    st.one_of(st.integers(-3, 3).map(float), st.floats(-5, 5), st.sampled_from([np.inf, -np.inf])),
    min_size=1,
    max_size=30,
)


def calibrated(*scores):
    return ConformalCalibrator().fit(np.array(scores, dtype=np.float64))


def test_p_value_counts_calibration_scores_at_least_as_high():
    p = calibrated(3, 1, 2, 2).p_values(np.array([0, 1, 2, 2.5, 3, 4]))
    assert p.dtype == np.float64
    np.testing.assert_array_equal(p, np.array([5, 5, 4, 2, 2, 1]) / 5)


def test_one_calibration_row_and_constant_scores():
    np.testing.assert_array_equal(calibrated(2).p_values(np.array([1, 2, 3])), [1, 1, 0.5])
    constant = calibrated(*[7.0] * 99)
    np.testing.assert_array_equal(constant.p_values(np.array([6.9, 7.0, 7.1])), [1, 1, 0.01])
    assert not constant.predict(np.full(5, 7.0), 0.99).any()


def test_infinite_scores_are_scores():
    calibrator = calibrated(-np.inf, 0, np.inf)
    np.testing.assert_array_equal(calibrator.p_values(np.array([-np.inf, 0, 1, np.inf])), [1, 0.75, 0.5, 0.5])
    with np.errstate(all="raise"):
        assert calibrated(0.0).p_values(np.array([1e300]))[0] == 0.5


def test_both_sides_are_compared_in_float32():
    calibrator = ConformalCalibrator().fit(np.array([0.1], dtype=np.float32))
    assert calibrator.p_values(np.array([0.1]))[0] == calibrator.p_values(np.array([0.1], dtype=np.float32))[0] == 1
    assert calibrator.to_part().arrays["scores"].dtype == np.float32


@pytest.mark.parametrize("eps", [1 / 20, 0.05, 0.01, 0.1, 0.29, 0.07, 1 / 3, 0.001])
def test_smallest_possible_eps_is_exactly_attainable(eps):
    m = rows_needed(eps)
    assert m == -(-1 // Fraction(eps).limit_denominator(1000)) - 1
    enough = ConformalCalibrator().fit(np.arange(m, dtype=np.float32))
    short = ConformalCalibrator().fit(np.arange(m - 1, dtype=np.float32))
    assert enough.smallest_eps <= eps < short.smallest_eps
    assert enough.predict(np.array([m + 1.0]), eps).all()
    assert not short.predict(np.array([m + 1.0, np.inf]), eps).any()
    assert enough.threshold(eps) < short.threshold(eps) == np.inf


def test_largest_rank_is_exact_for_every_fraction():
    for m in range(1, 200):
        for k in range(1, m + 1):
            assert largest_rank(m, k / (m + 1)) == k
    for m in (99, 199, 999, 10**6 - 1):
        for percent in range(1, 100):
            assert largest_rank(m, percent / 100) == percent * (m + 1) // 100
            assert largest_rank(m, float(f"0.{percent:02d}")) == percent * (m + 1) // 100


@settings(max_examples=150, deadline=None)
@given(
    scores_lists,
    scores_lists,
    st.one_of(st.floats(0.001, 0.999), st.integers(1, 30).map(lambda k: 1 / (k + 1))),
)
def test_threshold_and_p_values_make_the_same_decisions(reference, scores, eps):
    calibrator, scores = calibrated(*reference), np.array(scores, dtype=np.float32)
    flags = calibrator.predict(scores, eps)
    np.testing.assert_array_equal(flags, scores > calibrator.threshold(eps))
    np.testing.assert_array_equal(flags, calibrator.p_values(scores) <= eps)


def test_threshold_is_the_order_statistic_of_the_paper():
    scores = np.random.default_rng(0).normal(size=100).astype(np.float32)
    calibrator = ConformalCalibrator().fit(scores)
    assert calibrator.threshold(0.05) == np.sort(scores)[96 - 1]  # ceil(101 * .95) = 96
    assert calibrator.threshold(0.0099) == np.inf
    assert calibrator.threshold(0.999) == scores.min()


@pytest.mark.parametrize("eps", [0.01, 0.05, 0.1])
def test_mean_false_positive_rate_over_redraws_is_as_the_theorem_says(eps):
    m, n, redraws = 150, 200, 600
    rates = []
    for seed in range(redraws):
        scores = np.random.default_rng(seed).normal(size=m + n)
        rates.append(ConformalCalibrator().fit(scores[:m]).predict(scores[m:], eps).mean())
    error = np.std(rates) / np.sqrt(redraws)
    assert abs(np.mean(rates) - largest_rank(m, eps) / (m + 1)) < 3 * error


def test_p_values_stay_valid_with_heavy_ties():
    m, n, redraws = 40, 50, 500
    p = np.empty((redraws, n))
    for seed in range(redraws):
        scores = np.random.default_rng(seed).poisson(1.0, size=m + n).astype(np.float64)
        p[seed] = ConformalCalibrator().fit(scores[:m]).p_values(scores[m:])
    for level in np.arange(1, m + 2) / (m + 1):
        rates = (p <= level).mean(axis=1)
        assert rates.mean() <= level + 3 * rates.std() / np.sqrt(redraws)


@pytest.mark.parametrize("eps", [0.01, 0.05, 0.1])
def test_randomised_ties_make_the_false_positive_rate_exact(eps):
    m, n, redraws = 150, 200, 600
    rates = []
    for seed in range(redraws):
        rng = np.random.default_rng(seed)
        scores = rng.poisson(1.0, size=m + n).astype(np.float64)
        rates.append(ConformalCalibrator().fit(scores[:m]).predict(scores[m:], eps, tie_breaks=rng.random(n)).mean())
    error = np.std(rates) / np.sqrt(redraws)
    assert abs(np.mean(rates) - largest_rank(m, eps) / (m + 1)) < 3 * error


@pytest.mark.parametrize("digits", [0, 6])
def test_p_values_equal_those_of_crepes(digits):
    rng = np.random.default_rng(0)
    reference, scores = (np.round(rng.normal(size=n), digits).astype(np.float32) for n in (99, 400))
    calibrator = ConformalCalibrator().fit(reference)
    theirs = p_values_batch(reference, scores, smoothing=False)
    np.testing.assert_array_equal(calibrator.p_values(scores), theirs)


def test_randomised_p_values_are_the_smoothed_ones_of_crepes_rounded_up():
    """crepes counts the share u of the row's own place; here a row is always in a place of its own."""
    rng = np.random.default_rng(0)
    reference, scores = (np.round(rng.normal(size=n), 0).astype(np.float32) for n in (99, 400))
    theirs = p_values_batch(reference, scores, smoothing=True, seed=1)
    breaks = np.random.RandomState(1).rand(400)
    p = ConformalCalibrator().fit(reference).p_values(scores, tie_breaks=breaks)
    np.testing.assert_array_equal(p, np.ceil(theirs * 100) / 100)


def test_calibrator_comes_back_from_disk_the_same(tmp_path):
    scores = np.r_[np.random.default_rng(1).normal(size=50), np.inf, -np.inf]
    calibrator = ConformalCalibrator().fit(scores)
    write_part(tmp_path, "reference", calibrator.to_part())
    again = load_calibrator(read_part(tmp_path, "reference"))
    np.testing.assert_array_equal(again.p_values(scores), calibrator.p_values(scores))


@pytest.mark.parametrize(
    "part",
    [
        Part("mean"),
        Part("conformal"),
        Part("conformal", {}, {"scores": np.empty(0, dtype=np.float32)}),
        Part("conformal", {}, {"scores": np.array([2, 1], dtype=np.float32)}),
        Part("conformal", {}, {"scores": np.array([np.nan], dtype=np.float32)}),
    ],
)
def test_broken_parts_are_refused(part):
    with pytest.raises(ScorerError, match="damaged"):
        load_calibrator(part)


def test_bad_scores_and_eps_are_refused():
    for scores in (np.array([]), np.array([1.0, np.nan]), np.ones((2, 2))):
        with pytest.raises(DataError):
            ConformalCalibrator().fit(scores)
    with pytest.raises(InputError, match="1 of 2"):
        calibrated(1, 2).p_values(np.array([np.nan, 1.0]))
    for eps in (0, 1, -0.1, 5, float("nan"), True, "0.05"):
        for use in (lambda e: calibrated(1).predict(np.ones(1), e), calibrated(1).threshold, rows_needed):
            with pytest.raises(ConfigError, match="between 0 and 1"):
                use(eps)


def test_fit_does_not_sort_the_callers_array():
    scores = np.array([3, 1, 2], dtype=np.float32)
    ConformalCalibrator().fit(scores)
    assert scores.tolist() == [3, 1, 2]


def test_the_largest_rank_is_that_of_a_count_over_all_ranks():
    for m in (1, 2, 9, 19, 38, 99, 100, 149):
        for eps in (0.01, 0.02, 0.05, 0.07, 0.1, 0.29, 1 / 3, 0.5, 0.6, 0.7, 0.99):
            assert largest_rank(m, eps) == max(rank for rank in range(m + 2) if rank / (m + 1) <= eps), (m, eps)


@pytest.mark.parametrize("sizes", [[], [5], [0, 5], [5, 0], [2, 2], [2, 4]])
def test_stored_references_have_their_sizes(sizes):
    scores = np.arange(5, dtype=np.float32)
    assert [part.tolist() for part in split_references(scores, np.array([2, 3]), least=2)] == [[0, 1], [2, 3, 4]]
    with pytest.raises(ValueError, match="references with 5 scores"):
        split_references(scores, np.array(sizes, dtype=np.int64), least=2)
