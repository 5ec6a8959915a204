"""Calibration by groups: validity for rows of new groups."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.calibrators.grouped import GroupedCalibrator
from assay.calibration.calibrators.registry import load_calibrator
from assay.errors import ConfigError, DataError, ScorerError
from assay.parts import Part


def test_every_group_has_the_same_weight():
    calibrator = GroupedCalibrator().fit(np.array([1.0, 2, 3, 4, 9]), np.array(["a", "a", "a", "a", "b"]))
    np.testing.assert_array_equal(calibrator.p_values(np.array([9.5, 5, 3.5, 0])), np.array([1, 2, 2.25, 3]) / 3)
    assert (calibrator.n_rows, calibrator.n_groups, calibrator.smallest_eps) == (5, 2, 1 / 3)


@pytest.mark.parametrize("sizes", [np.full(20, 50), np.r_[1:20, 300]])
def test_mean_false_positive_rate_for_new_groups(sizes):
    redraws, of_each = 1200, 10
    groups = np.repeat(np.arange(20), sizes)
    levels = (0.01, 0.05, 0.1)
    grouped, split = np.empty((redraws, 3)), np.empty((redraws, 3))
    for seed in range(redraws):
        rng = np.random.default_rng(seed)
        scores = rng.normal(size=20)[groups] + rng.normal(size=groups.size)
        new = np.repeat(rng.normal(size=10), of_each) + rng.normal(size=10 * of_each)
        for calibrator, rates in (
            (GroupedCalibrator().fit(scores, groups), grouped),
            (ConformalCalibrator().fit(scores), split),
        ):
            p = calibrator.p_values(new)
            rates[seed] = [(p <= eps).mean() for eps in levels]
    error, excess = (3 * rates.std(axis=0) / np.sqrt(redraws) for rates in (grouped, split))
    assert (grouped.mean(axis=0) <= np.array(levels) + error).all()
    assert grouped.mean(axis=0)[2] > 0.05
    assert (split.mean(axis=0) > np.array(levels) + excess)[:2].all()


def exact(scores, groups, score):
    """Return the p-value as a fraction, straight from the definition."""
    means = [
        Fraction(int(sum(scores[groups == g] >= score)), int((groups == g).sum())) for g in np.unique(groups).tolist()
    ]
    return (1 + sum(means)) / (len(means) + 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 40))
def test_p_values_are_correctly_rounded_fractions(seed, n_groups, rows):
    rng = np.random.default_rng(seed)
    scores, groups = rng.poisson(2, rows).astype(np.float32), rng.integers(0, n_groups, rows)
    calibrator = GroupedCalibrator().fit(scores, groups)
    for score in range(6):
        assert calibrator.p_values(np.array([float(score)]))[0] == float(exact(scores, groups, score))


def test_sizes_without_a_small_common_multiple_are_exact_too():
    sizes = np.arange(1, 61)
    groups = np.repeat(np.arange(60), sizes)
    scores = np.random.default_rng(0).normal(size=groups.size).astype(np.float32)
    calibrator = GroupedCalibrator().fit(scores, groups)
    new = np.quantile(scores, [0, 0.3, 0.7, 0.95, 1]).astype(np.float32)
    assert calibrator.p_values(new).tolist() == [float(exact(scores, groups, score)) for score in new]


@pytest.mark.parametrize("n_groups", [19, 29, 99])
def test_smallest_eps_is_exactly_attained_whatever_the_sizes(n_groups):
    sizes = np.random.default_rng(n_groups).integers(1, 40, n_groups)
    scores = np.zeros(sizes.sum())
    calibrator = GroupedCalibrator().fit(scores, np.repeat(np.arange(n_groups), sizes))
    assert (calibrator.p_values(np.ones(1)) <= 1 / (n_groups + 1)).all()
    assert (calibrator.p_values(np.zeros(1)) > 0.999).all()


def test_limits_speak_of_groups():
    calibrator = GroupedCalibrator().fit(np.arange(1000.0), np.arange(1000) % 18)
    assert calibrator.limits(0.1) == ""
    expected = "At eps 0.05 no row can be flagged: it takes calibration rows of 19 groups, there are 18."
    assert calibrator.limits(0.05) == expected


def test_randomised_ties_and_bad_groups_are_refused():
    calibrator = GroupedCalibrator().fit(np.arange(4.0), np.array([0, 0, 1, 1]))
    with pytest.raises(ConfigError, match="do not make p-values of new groups exact"):
        calibrator.p_values(np.ones(1), tie_breaks=np.zeros(1))
    for groups in (np.array([0.5, 1, 2, 3]), np.array([0, 1])):
        with pytest.raises(DataError, match="all integers or all strings"):
            GroupedCalibrator().fit(np.arange(4.0), groups)
    part = calibrator.to_part()
    for bad in ([0, 0, 2, 2], [1, 1, 2, 2], [0, 0, 1, -1]):
        with pytest.raises(ScorerError, match="damaged"):
            load_calibrator(Part("grouped", {}, {**part.arrays, "groups": np.array(bad, dtype=np.int32)}))
