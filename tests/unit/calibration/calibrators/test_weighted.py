"""Weighted calibration under a shift of the features, with known and with estimated weights."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.calibrators.registry import load_calibrator
from assay.calibration.calibrators.weighted import DensityRatio, WeightedCalibrator, load_ratio
from assay.errors import DataError, InputError, ScorerError
from assay.parts import Part, read_part, write_part

LEVELS = np.array([0.01, 0.05, 0.1])


def rows(rng, n, moved=0.0, columns=2):
    """Return normal rows whose first column has mean `moved`."""
    X = rng.normal(size=(n, columns))
    X[:, 0] += moved
    return X


def score(X):
    return 0.8 * X[:, 0] + 0.6 * X[:, 1]


def true_ratio(X, moved=1.0):
    return np.exp(moved * X[:, 0] - moved**2 / 2)


def rates(p):
    return [(p <= eps).mean() for eps in LEVELS]


def test_known_weights_keep_the_rate_under_a_shift_that_breaks_split():
    redraws, m, n = 250, 1500, 200
    weighted, split, own = np.empty((redraws, 3)), np.empty((redraws, 3)), np.empty(redraws)
    for seed in range(redraws):
        rng = np.random.default_rng(seed)
        reference, new = rows(rng, m), rows(rng, n, moved=1.0)
        w, of_new = true_ratio(reference), true_ratio(new)
        weighted[seed] = rates(WeightedCalibrator().fit(score(reference), w).p_values(score(new), of_new))
        split[seed] = rates(ConformalCalibrator().fit(score(reference)).p_values(score(new)))
        own[seed] = (of_new / (w.sum() + of_new)).mean()
    error = 3 * weighted.std(axis=0) / np.sqrt(redraws)
    assert (weighted.mean(axis=0) <= LEVELS + error).all()
    assert (weighted.mean(axis=0)[1:] >= LEVELS[1:] - 4 * own.mean() - error[1:]).all()
    assert (split.mean(axis=0) > 2.5 * LEVELS).all()


def test_estimated_weights_bring_the_rate_near_eps():
    redraws, m, n = 16, 600, 800
    weighted, split = np.empty((redraws, 3)), np.empty((redraws, 3))
    for seed in range(redraws):
        rng = np.random.default_rng(seed)
        ratio = DensityRatio.fit(rows(rng, 300), rows(rng, 300, moved=1.0), seed=seed)
        reference, new = rows(rng, m), rows(rng, n, moved=1.0)
        calibrator = WeightedCalibrator().fit(score(reference), ratio.weights(reference))
        weighted[seed] = rates(calibrator.p_values(score(new), ratio.weights(new)))
        split[seed] = rates(ConformalCalibrator().fit(score(reference)).p_values(score(new)))
    assert (weighted.mean(axis=0) < 1.3 * LEVELS).all()
    assert (weighted.mean(axis=0)[1:] > 0.5 * LEVELS[1:]).all()
    assert (split.mean(axis=0) > 2.5 * LEVELS).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=2, max_size=12))
def test_validity_is_exact_for_every_set_of_rows_and_weights(pairs):
    # The new row is any of these with probability proportional to its weight.
    scores, weights = (np.array(values, dtype=float) for values in zip(*pairs, strict=True))
    p = []
    for i in range(len(pairs)):
        others = np.arange(len(pairs)) != i
        calibrator = WeightedCalibrator().fit(scores[others], weights[others])
        p.append(calibrator.p_values(scores[i : i + 1], weights[i : i + 1])[0])
        tail = Fraction(int(weights[others & (scores >= scores[i])].sum() + weights[i]), int(weights.sum()))
        assert p[-1] == float(tail)
    for level in p:
        chance = Fraction(int(weights[np.array(p) <= level].sum()), int(weights.sum()))
        assert float(chance) <= level


def test_randomised_ties_are_valid_and_closer_to_exact():
    redraws, m, n = 400, 60, 40
    broken, counted = np.empty((redraws, 3)), np.empty((redraws, 3))
    for seed in range(redraws):
        rng = np.random.default_rng(seed)
        kind, of_new = rng.integers(0, 2, m), (rng.random(n) < 0.8).astype(int)
        scores, new = rng.poisson(1 + kind).astype(float), rng.poisson(1 + of_new).astype(float)
        calibrator = WeightedCalibrator().fit(scores, np.array([0.4, 1.6])[kind], seed=seed)
        weights = np.array([0.4, 1.6])[of_new]
        broken[seed] = rates(calibrator.p_values(new, weights, tie_breaks=rng.random(n)))
        counted[seed] = rates(calibrator.p_values(new, weights))
    error = 3 * broken.std(axis=0) / np.sqrt(redraws)
    assert (broken.mean(axis=0) <= LEVELS + error).all()
    assert broken.mean(axis=0)[2] > max(0.08, 1.3 * counted.mean(axis=0)[2])


@pytest.mark.parametrize("step", [1, -1])
def test_randomised_ties_do_not_depend_on_the_order_of_the_calibration_rows(step):
    weights, redraws, found = np.sort(np.r_[np.full(30, 0.01), np.ones(30)])[::step], 400, []
    for seed in range(redraws):
        calibrator = WeightedCalibrator().fit(np.zeros(60), weights, seed=seed)
        breaks = np.random.default_rng(seed).random(50)
        found.append((calibrator.p_values(np.zeros(50), np.ones(50), tie_breaks=breaks) <= 0.1).mean())
    assert np.mean(found) <= 0.1 + 3 * np.std(found) / np.sqrt(redraws)


def test_effective_rows_decide_what_can_be_flagged():
    scores = np.arange(100.0)
    calibrator = WeightedCalibrator().fit(scores, np.r_[np.full(90, 0.01), np.full(10, 1.0)])
    assert calibrator.effective_rows == pytest.approx(10.9**2 / 10.009, rel=1e-9)
    assert calibrator.smallest_eps == 1 / (calibrator.effective_rows + 1)
    assert calibrator.limits(0.1) == ""
    assert "the 100 there are count for 11.9" in calibrator.limits(0.05)
    assert "about 161 of their kind" in calibrator.limits(0.05)
    usual = (
        float((calibrator.weights_.astype(float) ** 2).sum() / calibrator.weights_.sum()) * 2.0**calibrator.exponent_
    )
    above = np.array([1e9])
    assert (calibrator.p_values(above, np.array([usual])) <= 0.1).all()
    assert (calibrator.p_values(above, np.array([usual])) > 0.05).all()


def test_extreme_weights():
    calibrator = WeightedCalibrator().fit(np.arange(3.0), np.array([0, 1e-300, 1e300]))
    p = calibrator.p_values(np.array([5.0, 5, 5, 0, 1.5]), np.array([0, 1e308, 1e300, 1e300, 0]))
    assert 0 < p[0] < 1e-15
    np.testing.assert_allclose(p[1:], [1, 0.5, 1, 1], rtol=1e-7)
    tiny = WeightedCalibrator().fit(np.arange(3.0), np.full(3, 1e-310))
    assert tiny.p_values(np.array([5.0]), np.array([1e-310]))[0] == 0.25
    assert tiny.p_values(np.array([5.0]), np.array([1e308]))[0] == 1


def test_weights_that_are_none_are_refused():
    for weights in (np.ones(2), np.zeros(3), np.array([1, -1, 1]), np.array([1, np.inf, 1]), np.array([1, np.nan, 1])):
        with pytest.raises(DataError, match="none negative"):
            WeightedCalibrator().fit(np.arange(3.0), weights)
    calibrator = WeightedCalibrator().fit(np.arange(3.0), np.ones(3))
    for weight in (-1, np.nan, np.inf):
        with pytest.raises(InputError, match="not finite"):
            calibrator.p_values(np.ones(1), np.array([weight]))
    part = calibrator.to_part()
    for bad in (np.array([1, -1, 1]), np.zeros(3, dtype=np.int64), np.ones(3)):
        with pytest.raises(ScorerError, match="damaged"):
            load_calibrator(Part("weighted", part.config, {**part.arrays, "weights": bad}))


def test_density_ratio_finds_the_true_weights():
    rng = np.random.default_rng(0)
    ratio = DensityRatio.fit(rows(rng, 3000), rows(rng, 1500, moved=1.0), seed=0)
    X = rows(rng, 500, moved=0.5)
    np.testing.assert_allclose(np.log(ratio.weights(X)), np.log(true_ratio(X)), atol=0.35)
    assert ratio.overlap == pytest.approx(1, abs=0.1)


def test_without_a_shift_weights_are_near_one():
    rng = np.random.default_rng(1)
    ratio = DensityRatio.fit(rows(rng, 200, columns=8), rows(rng, 100, columns=8), seed=0)
    weights = ratio.weights(rows(rng, 500, columns=8))
    assert np.abs(np.log(weights)).max() < 0.7
    assert WeightedCalibrator().fit(np.arange(500.0), weights).effective_rows > 450


def test_density_ratio_comes_back_from_disk_and_scores_a_row_alone_as_in_a_batch(tmp_path):
    rng = np.random.default_rng(2)
    ratio = DensityRatio.fit(rows(rng, 200, columns=17), rows(rng, 200, moved=1.0, columns=17), seed=3)
    write_part(tmp_path, "ratio", ratio.to_part())
    again = load_ratio(read_part(tmp_path, "ratio"))
    X = rows(rng, 5000, columns=17).astype(np.float32)
    weights = again.weights(X)
    np.testing.assert_array_equal(weights, ratio.weights(X))
    np.testing.assert_array_equal(weights[::97], [again.weights(X[i : i + 1])[0] for i in range(0, 5000, 97)])
    assert (again.n_source, again.n_target, again.overlap) == (200, 200, ratio.overlap)
    far = np.full((2, 17), 1e6, dtype=np.float32) * np.array([[1], [-1]], dtype=np.float32)
    assert ((again.weights(far) >= 1 / 50 * (1 - 1e-12)) & (again.weights(far) <= 50 * (1 + 1e-12))).all()
    with pytest.raises(InputError, match=r"\(n, 17\)"):
        again.weights(X[:, :3])
    with pytest.raises(ScorerError, match="density_ratio"):
        load_ratio(Part("weighted"))


def test_density_ratio_refuses_what_cannot_work():
    rng = np.random.default_rng(3)
    with pytest.raises(DataError, match="at least 20 source"):
        DensityRatio.fit(rows(rng, 100), rows(rng, 19), seed=0)
    with pytest.raises(DataError, match="10 columns need at least 100"):
        DensityRatio.fit(rows(rng, 90, columns=10), rows(rng, 200, columns=10), seed=0)
    with pytest.raises(DataError, match=r"target rows have shape \(100, 3\)"):
        DensityRatio.fit(rows(rng, 100), rows(rng, 100, columns=3), seed=0)
    with pytest.raises(DataError, match="all finite"):
        DensityRatio.fit(rows(rng, 100), np.full((100, 2), np.nan), seed=0)
    for moved in (6.0, 1e4):
        with pytest.raises(DataError, match="unlike the source rows"):
            DensityRatio.fit(rows(rng, 100), rows(rng, 100, moved=moved), seed=0)


def refused(source, target, seed):
    """Return why a ratio is refused, or nothing."""
    try:
        DensityRatio.fit(source, target, seed=seed)
    except DataError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("made", "least", "most"),
    [
        (lambda rng, n: (rng.normal(size=(n, 3)), 1.5 * rng.normal(size=(n, 3))), 1, 1),
        (lambda rng, n: (rng.normal(size=(n, 3)), rng.normal(size=(n, 3)) * [1.5, 1, 1]), 0.3, 1),
        (lambda rng, n: (rows(rng, n, columns=3), rows(rng, n, moved=1.0, columns=3)), 0, 0.05),
        (lambda rng, n: (rng.normal(size=(n, 3)), 0.7 * rng.normal(size=(n, 3))), 0, 0),
        (lambda rng, n: (rng.standard_t(5, size=(n, 3)), rng.standard_t(5, size=(n, 3))), 0, 0.05),
        (lambda rng, n: (rng.uniform(size=(n, 3)) < 0.02, rng.uniform(size=(n, 3)) < 0.04), 0, 0.05),
    ],
    ids=["spread", "spread of one column", "moved", "drawn together", "heavy tails", "rare flags"],
)
def test_a_spread_that_weights_do_not_model_is_refused_and_a_shift_is_not(made, least, most):
    """Over 6 redraws; three columns spread 1.5 times would flag .33 at eps .05."""
    told = [refused(*made(np.random.default_rng(seed), 400), seed) for seed in range(6)]
    assert least <= np.mean(["times as widely" in sentence for sentence in told]) <= most


def test_a_column_that_did_not_vary_and_does_now_is_named_as_spread():
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(2, 300, 2))
    source[:, 1] = 0.0
    with pytest.raises(DataError, match=r"spread 1\.\d+ times as widely over all columns"):
        DensityRatio.fit(source, target, seed=0)
    target[:, 1] *= 0.1
    with pytest.raises(DataError, match="spread inf times as widely in one column"):
        DensityRatio.fit(source, target, seed=0)
    target[:, 1] = 0.0
    assert DensityRatio.fit(source, target, seed=0).overlap > 0.9


def test_anomalies_along_the_shift_cost_power():
    """One in ten of the target rows: their weights are too large, and so are their p-values. Measured: .69 and .58."""
    power = {0: [], 40: []}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        source, target = rows(rng, 400), rows(rng, 400, moved=0.5)
        reference, anomalies = rows(rng, 400), rows(rng, 300, moved=3.5)
        for n_anomalies, found in power.items():
            dirty = np.concatenate([target[n_anomalies:], rows(np.random.default_rng(seed), n_anomalies, moved=3.5)])
            ratio = DensityRatio.fit(source, dirty, seed=seed)
            fitted = WeightedCalibrator().fit(score(reference), ratio.weights(reference))
            found.append(np.mean(fitted.p_values(score(anomalies), ratio.weights(anomalies)) <= 0.05))
    lost = np.subtract(power[0], power[40])
    assert lost.mean() > 3 * lost.std(ddof=1) / np.sqrt(len(lost))


def power_with_anomalies(share, redraws=60):
    """Power at eps .05 by the squared norm, with a share of anomalies along the shift among the target rows."""
    powers, along = [], np.array([1.0, 0, 0])
    for seed in range(redraws):
        rng = np.random.default_rng(seed)
        source, reference, target, new = rng.normal(size=(4, 400, 3))
        target += np.where(np.arange(400) < share * 400, 3, 1)[:, None] * along
        ratio = DensityRatio.fit(source.astype(np.float32), target.astype(np.float32), seed=0)
        weights = [ratio.weights(part.astype(np.float32)) for part in (reference, new + 3 * along)]
        calibrator = WeightedCalibrator().fit((reference**2).sum(axis=1), weights[0])
        powers.append(np.mean(calibrator.p_values(((new + 3 * along) ** 2).sum(axis=1), weights[1]) <= 0.05))
    return np.array(powers)


def test_anomalies_among_target_rows_cost_power():
    clean, dirty = power_with_anomalies(0), power_with_anomalies(0.1)
    error = np.std(clean - dirty) / np.sqrt(clean.size)
    assert clean.mean() == pytest.approx(0.20, abs=0.03)
    assert 0.05 - 3 * error <= (clean - dirty).mean() <= 0.05 + 3 * error
