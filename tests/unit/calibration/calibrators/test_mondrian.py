"""Mondrian calibration: validity inside every stratum or category."""

from __future__ import annotations

import numpy as np
import pytest
from crepes.base import p_values_batch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.calibrators.ranks import largest_rank
from assay.calibration.calibrators.registry import load_calibrator
from assay.errors import ConfigError, DataError, InputError, ScorerError
from assay.parts import Part

SPREAD = np.array([0.5, 1.0, 1.5, 3.0])


def drawn(rng, n, ties=False):
    """Return scores that spread the more the harder the stratum is, and the strata."""
    strata = rng.integers(0, 4, size=n)
    scores = np.abs(rng.normal(size=n)) * SPREAD[strata]
    return (np.round(scores) if ties else scores), strata


def test_scores_are_compared_inside_their_key():
    calibrator = MondrianCalibrator("category").fit(np.array([1.0, 2, 3, 10, 20]), np.array(list("aaabb")))
    p = calibrator.p_values(np.array([2.5, 2.5, 15, 15]), np.array(["a", "b", "a", "b"]))
    np.testing.assert_array_equal(p, [2 / 4, 3 / 3, 1 / 4, 2 / 3])
    assert calibrator.keys_ == ("a", "b")
    assert calibrator.n_rows == 5
    assert calibrator.smallest_eps == 1 / 4


@pytest.mark.parametrize("eps", [0.01, 0.05, 0.1])
def test_mean_false_positive_rate_is_exact_in_every_stratum_where_split_is_not(eps):
    redraws = 400
    excess, split = np.empty((redraws, 4)), np.empty((redraws, 4))
    for seed in range(redraws):
        rng = np.random.default_rng(seed)
        (scores, strata), (new, of_new) = drawn(rng, 600), drawn(rng, 300)
        calibrator = MondrianCalibrator("stratum").fit(scores, strata)
        flags = calibrator.p_values(new, of_new) <= eps
        plain = ConformalCalibrator().fit(scores).predict(new, eps)
        for k in range(4):
            m = int((strata == k).sum())
            excess[seed, k] = flags[of_new == k].mean() - largest_rank(m, eps) / (m + 1)
            split[seed, k] = plain[of_new == k].mean()
    error = excess.std(axis=0) / np.sqrt(redraws)
    assert (np.abs(excess.mean(axis=0)) < 3.5 * error).all()
    assert split.mean(axis=0)[3] > 2 * eps


def test_randomised_ties_are_exact_in_every_stratum():
    redraws, eps = 400, 0.1
    excess = np.empty((redraws, 4))
    counted = np.empty((redraws, 4))
    for seed in range(redraws):
        rng = np.random.default_rng(seed)
        (scores, strata), (new, of_new) = drawn(rng, 300, ties=True), drawn(rng, 400, ties=True)
        calibrator = MondrianCalibrator("stratum").fit(scores, strata)
        flags = calibrator.p_values(new, of_new, tie_breaks=rng.random(400)) <= eps
        plain = calibrator.p_values(new, of_new) <= eps
        for k in range(4):
            m = int((strata == k).sum())
            excess[seed, k] = flags[of_new == k].mean() - largest_rank(m, eps) / (m + 1)
            counted[seed, k] = plain[of_new == k].mean()
    assert (np.abs(excess.mean(axis=0)) < 3.5 * excess.std(axis=0) / np.sqrt(redraws)).all()
    assert counted.mean(axis=0)[0] < eps / 2


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.sampled_from([True, False]))
def test_p_values_are_those_of_one_split_calibrator_per_key(seed, m, words):
    rng = np.random.default_rng(seed)
    names = np.array(["north", "south", "a longer name", "west"]) if words else np.array([3, -1, 700, 12])
    keys, of_new = names[rng.integers(0, 4, m)], names[rng.integers(0, 4, 30)]
    of_new = of_new[np.isin(of_new, keys)]
    scores, new = rng.poisson(2, m).astype(float), rng.poisson(2, of_new.size).astype(float)
    breaks = rng.random(of_new.size)
    calibrator = MondrianCalibrator("category").fit(scores, keys)
    found = calibrator.p_values(new, of_new, tie_breaks=breaks)
    for key in set(of_new.tolist()):
        alone = ConformalCalibrator().fit(scores[keys == key])
        mine = of_new == key
        np.testing.assert_array_equal(found[mine], alone.p_values(new[mine], tie_breaks=breaks[mine]))


def test_p_values_equal_those_of_crepes():
    rng = np.random.default_rng(0)
    scores, strata = drawn(rng, 300)
    new, of_new = drawn(rng, 500)
    scores, new = (np.float32(np.round(values, 1)) for values in (scores, new))
    calibrator = MondrianCalibrator("stratum").fit(scores, strata)
    theirs = p_values_batch(scores, new, strata, of_new, smoothing=False)
    np.testing.assert_array_equal(calibrator.p_values(new, of_new), theirs)


def test_a_key_that_was_never_calibrated_is_named():
    words = MondrianCalibrator("category").fit(np.arange(3.0), np.array(["a", "b", "c"]))
    with pytest.raises(InputError, match="category 'd' was never calibrated; known are 'a', 'b', 'c'"):
        words.p_values(np.ones(2), np.array(["a", "d"]))
    with pytest.raises(InputError, match="category None"):
        words.p_values(np.ones(2), np.array(["a", None], dtype=object))
    strata = MondrianCalibrator("stratum").fit(np.arange(20.0), np.arange(20))
    with pytest.raises(InputError, match=r"stratum 77 .*known are 0, 1, 2, 3, 4, 5, and 14 more"):
        strata.p_values(np.ones(1), np.array([77]))


def test_limits_name_the_keys_that_have_too_few_rows():
    keys = np.repeat(["big", "small", "tiny"], [99, 98, 3])
    calibrator = MondrianCalibrator("category").fit(np.arange(200.0), keys)
    assert calibrator.limits(0.3) == ""
    assert calibrator.limits(0.01) == (
        "At eps 0.01 no row can be flagged in category small (98 rows), tiny (3 rows): "
        "it takes 99 calibration rows in each."
    )
    assert (calibrator.p_values(np.full(2, 1e9), np.array(["big", "small"])) <= 0.01).tolist() == [True, False]
    assert "big" in calibrator.limits(0.005)


def test_keys_that_are_no_keys_are_refused():
    for keys in (np.array([1.0, 2.0]), np.array(["a", None], dtype=object), np.array([1]), np.ones((2, 1), dtype=int)):
        with pytest.raises(DataError, match="all integers or all strings"):
            MondrianCalibrator("category").fit(np.ones(2), keys)
    with pytest.raises(ConfigError, match="'stratum', 'category'"):
        MondrianCalibrator("weight")


def test_broken_parts_are_refused():
    part = MondrianCalibrator("category").fit(np.arange(4.0), np.array(list("aabb"))).to_part()
    broken = [
        ({"beside": "weight"}, {}),
        ({"keys": ["b", "a"]}, {}),
        ({"keys": ["a"]}, {}),
        ({"keys": ["a", 1]}, {}),
        ({}, {"sizes": np.array([3, 2])}),
        ({}, {"sizes": np.array([4, 0])}),
        ({}, {"scores": np.array([1, 0, 2, 3], dtype=np.float32)}),
    ]
    assert load_calibrator(part).keys_ == ("a", "b")
    for config, arrays in broken:
        with pytest.raises(ScorerError, match="damaged"):
            load_calibrator(Part("mondrian", {**part.config, **config}, {**part.arrays, **arrays}))


@pytest.mark.parametrize(("key", "fixed"), [("stratum", True), ("category", False)])
def test_only_strata_have_edges_that_are_fixed_on_other_rows(key, fixed):
    keys = np.array([0, 1] if key == "stratum" else ["a", "b"])
    calibrator = MondrianCalibrator(key).fit(np.array([1.0, 2.0]), keys)
    assert ("with stratum edges fixed on other rows" in calibrator.guarantee) == fixed


@pytest.mark.parametrize("n", [5, 6, 7, 9])
def test_up_to_six_keys_are_listed_and_the_others_counted(n):
    limits = MondrianCalibrator("stratum").fit(np.arange(n, dtype=np.float64), np.arange(n)).limits(0.05)
    listed = ", ".join(f"{key} (1 rows)" for key in range(min(n, 6)))
    assert f"in stratum {listed}" + (f", and {n - 6} more" if n > 6 else "") + ": it takes 19" in limits
