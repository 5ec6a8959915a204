"""Diagnostics: bands hold as often as they say, tests reject as seldom, and broken p-values are noticed."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import betabinom, kstest, spearmanr

from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.errors import ConfigError, DataError
from assay.evaluation.diagnostics import Diagnostics, diagnose, hardness_trend, power_curve, thin_path
from assay.evaluation.rates import EPS_GRID, References, histogram, rate_band, reliability, stratum_rates, uniformity
from assay.parts import canonical_json


def split_p_values(seed, m, n, shift=0.0):
    scores = np.random.default_rng(seed).normal(size=m + n)
    return ConformalCalibrator().fit(scores[:m]).p_values(scores[m:] + shift)


def mondrian_p_values(seed, sizes, n):
    """Two keys of other distributions; returns p-values and the reference of each."""
    rng = np.random.default_rng(seed)
    keys, of_row = np.repeat([0, 1], sizes), rng.integers(0, 2, n)
    calibrator = MondrianCalibrator("stratum").fit(rng.normal(size=keys.size) + 5 * keys, keys)
    return calibrator.p_values(rng.normal(size=n) + 5 * of_row, of_row), References(sizes, of_row)


def inside(rates):
    """Which rates lie in their bands."""
    return (np.array(rates.low) <= rates.rate) & (np.array(rates.rate) <= rates.high)


def assert_coverage(found, *, most=0.99):
    """Each column of (redraws, rates) is true with probability .95 or more, and their mean is not far above."""
    found = np.array(found, dtype=float)
    assert (found.mean(axis=0) >= 0.95 - 3.5 * math.sqrt(0.95 * 0.05 / len(found))).all()
    assert found.mean() < most


def test_bands_hold_as_often_as_they_say():
    m, n = 99, 120
    references = References.shared(m, n)
    strata = np.arange(n) % 3
    found = {"reliability": [], "histogram": [], "strata": []}
    for seed in range(250):
        p_values = split_p_values(seed, m, n)
        found["reliability"].append(inside(reliability(p_values, references, (0.01, 0.05, 0.1, 0.2))))
        found["histogram"].append(inside(histogram(p_values, references)))
        found["strata"].append(inside(stratum_rates(p_values, strata, references, 0.1)))
    for covered in found.values():
        assert_coverage(covered)


def test_bands_hold_with_a_reference_for_each_key():
    found, means = [], []
    for seed in range(200):
        p_values, references = mondrian_p_values(seed, (19, 60), 150)
        rates = reliability(p_values, references, (0.05, 0.1, 0.2))
        found.append(inside(rates))
        means.append(np.array(rates.rate) - rates.expected)
    assert_coverage(found)
    error = np.std(means, axis=0) / math.sqrt(len(means))
    assert (np.abs(np.mean(means, axis=0)) < 3.5 * error).all()


def test_a_band_is_where_the_exact_tails_end():
    def upper_tail(k, n, m, eps):
        """P(at least k of n normals are flagged) with a threshold from m calibration scores."""
        rank = round(eps * (m + 1))
        return betabinom.sf(k - 1, n, rank, m + 1 - rank)

    for n, m, eps in ((40, 99, 0.05), (500, 19, 0.1), (7, 200, 0.2), (20_000, 3000, 0.01)):
        low, high = rate_band([n], [round(eps * (m + 1))], [m])
        assert upper_tail(round(high * n) + 1, n, m, eps) <= 0.025 < upper_tail(round(high * n), n, m, eps)
        assert low == 0 or 1 - upper_tail(round(low * n), n, m, eps) < 0.025
        assert 1 - upper_tail(round(low * n) + 1, n, m, eps) >= 0.025
    assert rate_band([10], [0], [5]) == (0, 0)
    assert rate_band([10], [6], [5]) == (1, 1)


def test_expected_rates_are_exact_where_eps_falls_between_two_p_values():
    p_values = split_p_values(0, 50, 30)
    rates = reliability(p_values, References.shared(50, 30), (0.001, 0.01, 0.05, 0.1))
    assert rates.expected == pytest.approx((0, 0, 2 / 51, 5 / 51))
    assert rates.high[:2] == (0, 0)
    assert rates.rate == tuple((p_values <= eps).mean() for eps in rates.at)


@pytest.mark.parametrize(("m", "n"), [(40, 400), (300, 30), (1, 5)])
def test_the_uniformity_test_rejects_exchangeable_normals_as_seldom_as_it_says(m, n):
    redraws = 80
    found = [uniformity(split_p_values(s, m, n), References.shared(m, n), seed=s) for s in range(redraws)]
    for level in (0.05, 0.2):
        error = math.sqrt(level * (1 - level) / redraws)
        assert np.mean([test.too_small <= level for test in found]) <= level + 3 * error
        assert np.mean([test.not_uniform <= level for test in found]) <= level + 3 * error
    if m > 1:
        assert np.mean([test.too_small <= 0.2 for test in found]) > 0.08


def test_a_test_that_ignores_the_shared_reference_would_reject_far_too_often():
    assert np.mean([kstest(split_p_values(seed, 40, 400), "uniform").pvalue <= 0.05 for seed in range(50)]) > 0.4


def test_the_uniformity_test_counts_references_by_key():
    drawn = [mondrian_p_values(seed, (19, 60), 200) for seed in range(80)]
    found = np.array([uniformity(p, references, seed=0).not_uniform for p, references in drawn])
    assert np.mean(found <= 0.1) <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / found.size)
    assert np.mean(found <= 0.5) >= 0.5 - 3 * math.sqrt(0.5 * 0.5 / found.size)


def test_the_uniformity_test_stays_valid_with_ties():
    found = []
    for seed in range(100):
        scores = np.random.default_rng(seed).poisson(1.0, size=260).astype(float)
        p_values = ConformalCalibrator().fit(scores[:60]).p_values(scores[60:])
        found.append(uniformity(p_values, References.shared(60, 200), seed=0))
    assert np.mean([test.too_small <= 0.1 for test in found]) <= 0.1
    assert np.mean([test.not_uniform <= 0.1 for test in found]) > 0.9


def test_p_values_that_are_too_small_are_noticed():
    """Calibration rows that the detector was fitted on score lower than new normals do."""
    m, n, redraws = 300, 500, 30
    references = References.shared(m, n)
    too_small, above = [], []
    for seed in range(redraws):
        p_values = split_p_values(seed, m, n, shift=0.5)
        too_small.append(uniformity(p_values, references, seed=0).too_small)
        rates = reliability(p_values, references, (0.05, 0.1, 0.2))
        above.append(np.array(rates.rate) > rates.high)
    assert np.mean(np.array(too_small) <= 0.01) > 0.9
    assert (np.mean(above, axis=0) > 0.8).all()
    large = split_p_values(0, m, n, shift=-0.5)
    assert uniformity(large, references, seed=0).too_small > 0.5
    assert uniformity(large, references, seed=0).not_uniform <= 0.01


def test_hard_rows_that_are_flagged_more_often_leave_their_band():
    rng = np.random.default_rng(0)
    hardness = rng.gamma(2.0, size=2000)
    scores = hardness + rng.normal(size=2000)
    p_values = ConformalCalibrator().fit(scores[:1000]).p_values(scores[1000:])
    strata = np.searchsorted(np.quantile(hardness[:1000], [0.25, 0.5, 0.75]), hardness[1000:])
    rates = stratum_rates(p_values, strata, References.shared(1000, 1000), 0.05)
    assert rates.at == (1, 2, 3, 4)
    assert rates.rate[0] < rates.low[0]
    assert rates.rate[3] > rates.high[3]
    assert rates.n == tuple(np.bincount(strata))


def test_a_hardness_trend_is_bin_quantiles_and_a_rank_correlation():
    hardness = np.random.default_rng(0).permutation(100).astype(float)
    trend = hardness_trend(hardness**2, hardness)
    assert trend.spearman == pytest.approx(1)
    assert trend.hardness == tuple(range(4, 100, 10))
    assert trend.median == tuple(h**2 for h in range(4, 100, 10))
    assert trend.low == tuple(h**2 for h in range(0, 100, 10))
    noisy = np.round(np.random.default_rng(1).normal(size=100), 1)
    assert hardness_trend(noisy, hardness).spearman == pytest.approx(spearmanr(noisy, hardness).statistic)
    assert hardness_trend(np.ones(100), hardness).spearman is None
    infinite = hardness_trend(np.r_[np.full(99, np.inf), 0], hardness)
    assert infinite.median.count(math.inf) == 10
    assert infinite.spearman is not None


def test_a_bin_of_the_histogram_holds_its_upper_end():
    p_values = np.array([1, 1, 1, 2, 5, 5, 5, 5]) / 5
    rates = histogram(p_values, References.shared(4, 8))
    assert rates.at == (0.2, 0.4, 0.6, 0.8, 1)
    assert rates.rate == (3 / 8, 1 / 8, 0, 0, 4 / 8)
    assert rates.expected == pytest.approx([0.2] * 5)
    assert len(histogram(p_values, References.shared(999, 8)).at) == 20


def test_power_is_the_share_flagged_at_each_eps():
    curve = power_curve(np.array([0.001, 0.05, 0.5, 0.2]), (0.01, 0.05, 0.2))
    assert (curve.power, curve.n) == ((0.25, 0.5, 0.75), 4)


def test_a_thinned_path_keeps_the_alarm():
    path = np.zeros(1000)
    path[713] = 2.5
    thin = thin_path(path, 100)
    assert len(thin.row) == len(thin.log10_value) == 80
    assert thin.alarm == 714
    assert max(zip(thin.log10_value, thin.row, strict=True)) == (2.5, 714)
    assert thin_path(path[:3], 100).row == (1, 2, 3)
    assert thin_path(path[:3], 100).alarm is None
    assert thin_path(path[:0], 100).row == ()


def full(n=400, m=300, **changed):
    rng = np.random.default_rng(7)
    scores = rng.normal(size=n)
    settings = {
        "scores": scores,
        "adapted": np.r_[np.inf, scores[1:]],
        "hardness": rng.gamma(2.0, size=n),
        "strata": rng.integers(0, 4, n),
        "references": References.shared(m, n),
        "eps": 0.05,
        "seed": 0,
        "anomalies": np.array([0.01, 0.4]),
        "path": thin_path(rng.normal(size=1000), 20),
    } | changed
    return diagnose(split_p_values(0, m, n), **settings)


def count(value):
    return (
        sum(map(count, value.values() if isinstance(value, dict) else value)) if value.__class__ in (dict, list) else 1
    )


def test_diagnostics_are_small_and_come_back_from_json():
    made = full()
    content = json.loads(canonical_json(made.to_json()))
    assert count(content) < 600
    again = Diagnostics.from_json(content)
    assert again.to_json() == content
    assert (again.strata, again.reliability, again.histogram) == (made.strata, made.reliability, made.histogram)
    assert (again.before, again.power, again.path, again.eps) == (made.before, made.power, made.path, made.eps)
    assert full() == made
    assert len(made.reliability.rate) == len(EPS_GRID)


def test_without_anomalies_stream_or_exact_law_there_are_gaps_and_no_guesses():
    made = Diagnostics.from_json(json.loads(canonical_json(full(anomalies=np.empty(0), path=None).to_json())))
    assert (made.power, made.path) == (None, None)
    made = Diagnostics.from_json(json.loads(canonical_json(full(references=None).to_json())))
    assert made.uniformity is None
    assert np.isnan(made.reliability.low).all()
    assert np.isnan(made.strata.high).all()
    assert made.reliability.expected == made.reliability.at
    assert made.histogram.expected == pytest.approx([0.05] * 20)
    assert made.reliability.rate == full().reliability.rate


def test_one_normal_and_one_calibration_row_will_do():
    one = np.ones(1)
    columns = {"scores": one, "adapted": one, "hardness": one, "strata": np.array([2])}
    made = diagnose(one / 2, **columns, references=References.shared(1, 1), eps=0.5, seed=0)
    assert made.strata.rate == (1,)
    assert made.histogram.at == (0.5, 1)
    assert made.before.median == (1,)
    assert 0 < made.uniformity.too_small <= 1


def test_rows_without_a_value_of_each_kind_and_bad_eps_are_refused():
    for changed in ({"scores": np.ones(3)}, {"strata": np.zeros(3, int)}, {"references": References.shared(300, 3)}):
        with pytest.raises(DataError, match="lengths"):
            full(**changed)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        full(eps=0)
    with pytest.raises(DataError, match="at least one"):
        reliability(np.empty(0), References.shared(3, 0))
