"""Chances of being flagged by the rule that ships, estimated without its calibration rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.calibrators.cross import CrossCalibrator
from assay.calibration.calibrators.grouped import GroupedCalibrator
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.calibrators.promise import AVERAGE, Promise
from assay.calibration.calibrators.weighted import WeightedCalibrator
from assay.errors import DataError
from assay.evaluation.chances import (
    FlagRule,
    cross_chances,
    drawn_chances,
    flag_chances,
    flag_rule_of,
    grouped_chances,
    weighted_chances,
)

EPS, REDRAWS = 0.05, 600


def shipped(m: int, promise: Promise = AVERAGE) -> FlagRule:
    return FlagRule("conformal", "nothing", {"all": m}, promise)


@pytest.mark.parametrize(
    ("n", "m", "promise"), [(151, 150, AVERAGE), (300, 60, AVERAGE), (130, 140, AVERAGE), (130, 140, Promise(0.9))]
)
@pytest.mark.parametrize("shift", [1.5, 3.0])
def test_the_mean_chance_is_the_power_and_the_rate_of_what_ships(
    n: int, m: int, promise: Promise, shift: float
) -> None:
    rng = np.random.default_rng(n + m)
    differences, rates = [], []
    for _ in range(REDRAWS):
        cut = ConformalCalibrator(promise).fit(rng.normal(size=m)).threshold(EPS)
        chances = flag_chances(rng.normal(size=n), shift + rng.normal(size=40), shipped(m, promise), EPS)
        differences.append(chances.anomalies.mean() - norm.sf(cut - shift))
        rates.append(chances.normals.mean() - norm.sf(cut))
    for found in (differences, rates):
        error = np.std(found) / np.sqrt(REDRAWS)
        assert abs(np.mean(found)) < 3 * error + (0.005 if n < m else 0)


@pytest.mark.parametrize("promise", [AVERAGE, Promise(0.9)])
def test_a_normal_row_has_no_better_chance_where_selection_has_fewer_rows(promise: Promise) -> None:
    """As rows whose ROC curve is a line: draws with replacement would be wrong by half a row."""
    n, m = 130, 140
    chances = drawn_chances(np.arange(n + 1), n, m, promise.largest_rank(m, EPS))
    assert chances.mean() == pytest.approx(promise.largest_rank(m, EPS) / (m + 1))


def test_of_very_few_rows_draws_are_with_replacement() -> None:
    chances = drawn_chances(np.arange(13), 12, 150, 7)
    assert (chances[0], chances[-1]) == (1, 0)
    assert (np.diff(chances) <= 0).all()


def test_strata_of_few_rows_have_the_power_of_strata_of_few_rows() -> None:
    """Four strata of 38 rows, of which one has the anomalies: one threshold for all of them would promise far more."""
    rng = np.random.default_rng(0)
    found, promised, true = [], [], []
    for _ in range(REDRAWS):
        keys = np.repeat(np.arange(4), 38)
        spread = 1 + 3 * (keys == 3)
        reference, normals = (rng.normal(size=152) * spread for _ in range(2))
        anomalies, of_anomalies = 7 + rng.normal(size=40), np.full(40, 3)
        calibrator = MondrianCalibrator("stratum").fit(reference, keys)
        rule = flag_rule_of(calibrator, "counted")
        assert rule.sizes == {"0": 38, "1": 38, "2": 38, "3": 38}
        both = (keys.astype(str), of_anomalies.astype(str))
        found.append(flag_chances(normals, anomalies, rule, EPS, keys=both).anomalies.mean())
        promised.append(flag_chances(normals, anomalies, shipped(152), EPS).anomalies.mean())
        true.append(np.mean(calibrator.p_values(anomalies, of_anomalies) <= EPS))
    error = np.std(np.array(found) - np.array(true)) / np.sqrt(REDRAWS)
    assert abs(np.mean(found) - np.mean(true)) < 3 * error
    assert np.mean(promised) > np.mean(true) + 0.2


def test_a_row_is_compared_with_its_other_copies() -> None:
    """A state that makes up half of the rows ties with itself, but a row does not tie with itself alone."""
    alone = flag_chances(np.arange(20.0), np.array([]), shipped(19), EPS)
    assert alone.normals.tolist() == [0.0] * 19 + [1.0]
    doubled = flag_chances(np.repeat(np.arange(10.0), 2), np.array([]), shipped(19), EPS)
    assert doubled.normals.max() < 1
    np.testing.assert_array_equal(doubled.normals[:18], 0)


def test_tie_breaks_rank_a_row_among_equal_scores() -> None:
    rng = np.random.default_rng(0)
    breaks = (rng.random(2000), rng.random(1))
    same = flag_chances(np.zeros(2000), np.zeros(1), shipped(1999), EPS, tie_breaks=breaks)
    assert same.normals.mean() == pytest.approx(EPS, abs=3 * np.sqrt(EPS / 2000))
    assert flag_chances(np.zeros(2000), np.zeros(1), shipped(1999), EPS).normals.max() == 0


def test_drawing_all_rows_is_the_p_value_itself() -> None:
    rng = np.random.default_rng(0)
    reference, new = rng.normal(size=99), rng.normal(size=500)
    flags = ConformalCalibrator().fit(reference).predict(new, EPS)
    np.testing.assert_array_equal(flag_chances(reference, new, shipped(99), EPS).anomalies, flags)
    assert drawn_chances(np.array([0]), 0, 10, 1).tolist() == [0.0]


def test_groups_are_compared_as_the_scorer_compares_them() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 5).astype(str)
    reference = rng.normal(size=200) + np.repeat(rng.normal(size=40), 5)
    new = 3 + rng.normal(size=300)
    calibrator = GroupedCalibrator().fit(reference, groups)
    rule = flag_rule_of(calibrator, "counted")
    assert rule.sizes == {"all": 40}
    chances = grouped_chances(reference, groups, new, rule, EPS)
    np.testing.assert_array_equal(chances.anomalies, calibrator.p_values(new) <= EPS)
    own = groups == "7"
    without = GroupedCalibrator().fit(reference[~own], groups[~own])
    again = grouped_chances(reference, groups, new, flag_rule_of(without, "counted"), EPS)
    np.testing.assert_array_equal(again.normals[own], without.p_values(reference[own]) <= EPS)


def test_weights_are_the_scorer_s() -> None:
    rng = np.random.default_rng(0)
    reference, weights = rng.normal(size=200), rng.uniform(0.2, 3, size=200)
    new, of_new = rng.normal(size=300) + 1, rng.uniform(0.2, 3, size=300)
    calibrator = WeightedCalibrator().fit(reference, weights)
    rule = flag_rule_of(calibrator, "counted")
    chances = weighted_chances((reference, weights), (new, of_new), rule, EPS)
    np.testing.assert_array_equal(chances.anomalies, calibrator.p_values(new, of_new) <= EPS)
    without = WeightedCalibrator().fit(reference[1:], weights[1:])
    again = weighted_chances((reference, weights), (new, of_new), flag_rule_of(without, "counted"), EPS)
    assert again.normals[0] == (without.p_values(reference[:1], weights[:1])[0] <= EPS)


def test_folds_are_compared_each_with_its_own() -> None:
    rng = np.random.default_rng(0)
    scores, folds, new = rng.normal(size=(3, 150)), np.arange(150) % 3, 1 + rng.normal(size=(3, 200))
    calibrator = CrossCalibrator().fit([scores[k, folds == k] for k in range(3)])
    rule = flag_rule_of(calibrator, "counted")
    chances = cross_chances(scores, folds, new, rule, EPS)
    np.testing.assert_array_equal(chances.anomalies, calibrator.p_values(new) <= EPS)
    rest = np.arange(150) != 4
    without = CrossCalibrator().fit([scores[k, (folds == k) & rest] for k in range(3)])
    again = cross_chances(scores, folds, new, flag_rule_of(without, "counted"), EPS)
    assert again.normals[4] == (without.p_values(scores[:, 4:5])[0] <= EPS)


def test_a_comparison_is_plain_json_and_tells_what_it_cannot_do() -> None:
    few = flag_rule_of(ConformalCalibrator(Promise(0.9)).fit(np.arange(30.0)), "counted")
    assert FlagRule.from_json(few.to_json()) == few
    assert "eps 0.05 with confidence 0.9 needs 45 calibration rows, there are 30" in few.limits(0.05)
    assert few.limits(0.1) == ""
    by_category = FlagRule("mondrian", "category", {"a": 10, "b": 18})
    assert "needs 19 calibration rows of a category, there are 18" in by_category.limits(0.05)
    keys = (np.array(["a", "a"]), np.array(["c"]))
    with pytest.raises(DataError, match="'c' has no calibration rows"):
        flag_chances(np.zeros(2), np.zeros(1), by_category, 0.05, keys=keys)


def test_with_folds_a_normal_is_compared_with_every_other_row_in_the_fold_of_that_row() -> None:
    rng = np.random.default_rng(3)
    normals, folds, anomalies = rng.normal(size=(3, 40)), rng.integers(0, 3, 40), 1 + rng.normal(size=(3, 9))
    rule = FlagRule("cross", "nothing", {"all": 20})
    chances = cross_chances(normals, folds, anomalies, rule, 0.4)
    assert len(np.unique(chances.normals)) > 5
    flagged_below = rule.flagged_below("all", 0.4)
    for scores, found, own in ((normals, chances.normals, True), (anomalies, chances.anomalies, False)):
        counts = [
            sum(
                np.float32(normals[folds[j], j]) >= np.float32(scores[folds[j], i])
                for j in range(40)
                if not (own and i == j)
            )
            for i in range(scores.shape[1])
        ]
        np.testing.assert_array_equal(found, drawn_chances(np.array(counts), 40 - own, 20, flagged_below))


def test_over_groups_a_row_is_compared_with_the_mean_share_of_the_other_groups() -> None:
    rng = np.random.default_rng(4)
    normals, groups = rng.normal(size=30), np.array([f"g{i % 4}" for i in range(30)])
    anomalies = rng.normal(size=12)
    chances = grouped_chances(normals, groups, anomalies, FlagRule("grouped", "group", {"all": 4}), 0.3)
    for scores, found, own in ((normals, chances.normals, groups), (anomalies, chances.anomalies, None)):
        for i, score in enumerate(scores):
            others = [name for name in np.unique(groups) if own is None or name != own[i]]
            share = np.mean([(normals[groups == name] >= score).mean() for name in others])
            assert found[i] == ((1 + 4 * share) / 5 <= 0.3)


def test_of_fewer_rows_than_ship_the_rank_is_shared_out() -> None:
    assert drawn_chances(np.arange(4), 9, 14, 2).tolist() == pytest.approx([1, 1 / 3, 0, 0])
