"""CADET and the registry of score adapters."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import QuantileRegressor
from sklearn.preprocessing import SplineTransformer

from assay.calibration.adapters.cadet import Cadet
from assay.calibration.adapters.outputs import Outputs, observe
from assay.calibration.adapters.registry import ADAPTERS, Identity, load_adapter, make_adapter
from assay.calibration.hardness import Strata
from assay.data.null_models import MeanNull
from assay.detectors.registry import make_detector
from assay.errors import ConfigError, DataError, ScorerError
from assay.evaluation.metrics import stratum_flag_rates
from assay.parts import Part, read_part, write_part


def biased(n, seed, sides=0.3):
    """Scores whose level and spread both grow with hardness."""
    rng = np.random.default_rng(seed)
    hardness = rng.gamma(3, 1, n)
    return hardness * (1 + sides * rng.standard_normal(n)), hardness


@pytest.mark.parametrize("n", [40, 150, 600])
def test_curves_are_those_of_scikit_learn_without_crossing(n):
    scores, hardness = biased(n, seed=3)
    fitted = Cadet(prior_weight=0).fit(Outputs(scores, hardness))
    grid = np.linspace(hardness.min(), hardness.max(), 40)
    splines = SplineTransformer(degree=1, knots=fitted.knots_[:, None]).fit(hardness[:, None])
    expected = []
    for level in (0.25, 0.75, 0.95):
        model = QuantileRegressor(quantile=level, alpha=0, fit_intercept=False, solver="highs")
        model.fit(splines.transform(hardness[:, None]), scores)
        expected.append(model.predict(splines.transform(grid[:, None])))
    low, high, base = np.sort(np.array(expected), axis=0)
    assert (np.array(expected) == [low, high, base]).all(), "the example should not cross"
    found = fitted.transform(Outputs(scores[:40], grid))
    np.testing.assert_allclose(found, (scores[:40] - base) / np.maximum(high - low, fitted.floor_), rtol=1e-6)


def test_scores_lose_their_dependence_on_hardness():
    fitted = Cadet(prior_weight=0).fit(Outputs(*biased(1000, seed=0)))
    scores, hardness = biased(20_000, seed=1)
    adapted = fitted.transform(Outputs(scores, hardness))
    assert spearmanr(scores, hardness)[0] > 0.7
    assert abs(spearmanr(adapted, hardness)[0]) < 0.1
    assert np.mean(adapted > 0) == pytest.approx(0.05, abs=0.02)


def test_false_positive_rates_of_the_strata_come_together():
    gaps = {"none": [], "cadet": []}
    for seed in range(10):
        train_scores, train_hardness = biased(500, seed=seed)
        scores, hardness = biased(4000, seed=100 + seed)
        strata = Strata.fit(train_hardness).assign(hardness, hardness)
        for name, found in gaps.items():
            params = {"prior_weight": 0} if name == "cadet" else {}
            adapted = (
                make_adapter(name, params)
                .fit(Outputs(train_scores, train_hardness))
                .transform(Outputs(scores, hardness))
            )
            rates = stratum_flag_rates(adapted > np.quantile(adapted, 0.95), strata)
            found.append(max(rates.values()) - min(rates.values()))
    assert np.mean(gaps["none"]) > 0.15
    assert np.mean(gaps["cadet"]) < 0.05


def test_where_no_row_is_unseen_scores_from_outside_the_fold_do_as_well():
    """New rows exceed q_a at about the same rate whether its fit read unseen rows or out-of-fold scores.

    A principal-component detector's errors on the rows that it was fitted on are too small: read by the fit, they
    make the rate too high.
    """
    rates = {"unseen": [], "in-sample": [], "out-of-fold": []}
    for seed in range(12):
        rng = np.random.default_rng(seed)
        spread = np.exp(0.2 * rng.standard_normal(2600))
        train, unseen, new = np.split(spread[:, None] * rng.standard_normal((2600, 12)), [300, 600])
        null, detector = MeanNull().fit(train), make_detector("pca", {}, seed=0).fit(train)
        fold, held_out = np.arange(300) % 10, np.empty(300)
        for k in range(10):
            part = make_detector("pca", {}, seed=0).fit(train[fold != k])
            held_out[fold == k] = part.decision_function(train[fold == k])
        read = {
            "unseen": Outputs(detector.decision_function(unseen), null.hardness(unseen)),
            "in-sample": Outputs(detector.decision_function(train), null.hardness(train)),
            "out-of-fold": Outputs(held_out, null.hardness(train)),
        }
        for name, outputs in read.items():
            fitted = Cadet(prior_weight=0).fit(outputs)
            tested = Outputs(detector.decision_function(new), null.hardness(new))
            rates[name].append(np.mean(fitted.transform(tested) > 0))
    assert np.mean(rates["unseen"]) == pytest.approx(0.05, abs=0.02)
    assert np.mean(rates["in-sample"]) > 0.09
    difference = np.subtract(rates["out-of-fold"], rates["unseen"])
    assert abs(difference.mean()) < 3 * difference.std(ddof=1) / np.sqrt(12)


@pytest.mark.parametrize(("factor", "shift"), [(1e-4, 0.0), (730.0, 0.0), (1.0, 50.0), (3.3, -20.0)])
def test_unit_and_origin_of_the_score_do_not_matter(factor, shift):
    scores, hardness = biased(300, seed=5)
    fitted = Cadet(prior_weight=0.5).fit(Outputs(scores, hardness))
    moved = Cadet(prior_weight=0.5).fit(Outputs(factor * scores + shift, hardness))
    expected = fitted.transform(Outputs(scores, hardness))
    np.testing.assert_allclose(
        moved.transform(Outputs(factor * scores + shift, hardness)), expected, rtol=1e-6, atol=1e-6
    )
    restretched = Cadet(prior_weight=0.5).fit(Outputs(scores, 10 * hardness)).transform(Outputs(scores, 10 * hardness))
    np.testing.assert_allclose(restretched, expected, rtol=1e-6, atol=1e-6)


def test_hardness_beyond_the_fitted_range_is_clamped_but_counts_in_the_prior():
    scores, hardness = biased(400, seed=6)
    fitted = Cadet(prior_weight=0).fit(Outputs(scores, hardness))
    ends = np.array([hardness.min(), hardness.max()])
    np.testing.assert_array_equal(
        fitted.transform(Outputs(np.ones(2), np.array([-1e9, 1e9]))), fitted.transform(Outputs(np.ones(2), ends))
    )
    weighed = Cadet(prior_weight=2.0).fit(Outputs(scores, hardness))
    added = weighed.transform(Outputs(scores, hardness)) - fitted.transform(Outputs(scores, hardness))
    inner = np.clip(hardness, *np.sort(hardness)[[4, -5]])  # without 1 % at either end
    np.testing.assert_allclose(added, 2 * np.abs(hardness - inner.mean()) / inner.std())


def test_order_of_scores_at_one_hardness_is_kept():
    fitted = Cadet(prior_weight=1.0).fit(Outputs(*biased(100, seed=7)))
    assert (np.diff(fitted.transform(Outputs(np.linspace(-5, 50, 200), np.full(200, 2.0)))) > 0).all()


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("n", [20, 25, 61])
def test_quantiles_do_not_cross_and_the_spread_has_a_floor(n, quantile):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scores, hardness = rng.standard_cauchy(n), rng.choice(5, n) + rng.choice([0, 1e-3], n)
        fitted = Cadet(quantile=quantile).fit(Outputs(scores, hardness))
        low, high, base = fitted.curves_.T
        assert (low <= high).all()
        assert ((base <= low) if quantile < 0.25 else (base >= low)).all()
        adapted = fitted.transform(Outputs(scores, hardness))
        assert np.isfinite(adapted).all()
        assert np.ptp(adapted) <= 2 * np.ptp(scores) / (0.1 * np.subtract(*np.quantile(scores, [0.75, 0.25])))


@pytest.mark.parametrize(
    ("scores", "hardness", "reason"),
    [
        (np.arange(19.0), np.arange(19.0), "19 rows"),
        (np.array([3.0]), np.array([1.0]), "1 rows"),
        (np.arange(50.0), np.ones(50), "hardness"),
        (np.ones(50), np.arange(50.0), "scores"),
    ],
)
def test_too_little_to_learn_from_gives_unconditional_quantiles(scores, hardness, reason):
    fitted = Cadet(prior_weight=0.0).fit(Outputs(scores, hardness))
    assert reason in fitted.to_part().config["fallback"]
    adapted = fitted.transform(Outputs(scores, hardness))
    np.testing.assert_array_equal(fitted.transform(Outputs(scores, hardness + 7)), adapted)
    assert np.isfinite(adapted).all()
    assert (np.argsort(adapted, kind="stable") == np.argsort(scores, kind="stable")).all()


def test_constant_hardness_with_a_prior_is_no_division_by_zero():
    fitted = Cadet(prior_weight=1.0).fit(Outputs(np.arange(50.0), np.full(50, 0.1)))
    assert np.isfinite(fitted.transform(Outputs(np.arange(3.0), np.array([0.1, 0.2, 5.0])))).all()


def test_adapted_score_of_a_row_does_not_depend_on_its_batch():
    fitted = Cadet(prior_weight=0.3).fit(Outputs(*biased(500, seed=13)))
    scores, hardness = biased(1000, seed=14)
    alone = [fitted.transform(Outputs(scores[i : i + 1], hardness[i : i + 1]))[0] for i in range(1000)]
    np.testing.assert_array_equal(fitted.transform(Outputs(scores, hardness)), alone)


def test_mostly_tied_scores_still_have_a_spread():
    scores = np.r_[np.zeros(90), np.arange(10.0)]
    adapted = Cadet(prior_weight=0).fit(Outputs(scores, np.arange(100.0))).transform(Outputs(scores, np.arange(100.0)))
    assert np.isfinite(adapted).all()
    assert np.abs(adapted).max() < 100


def test_almost_constant_hardness_is_no_crash():
    rng = np.random.default_rng(8)
    hardness = 1 + 1e-16 * rng.standard_normal(200)
    assert np.isfinite(
        Cadet(prior_weight=0)
        .fit(Outputs(rng.standard_normal(200), hardness))
        .transform(Outputs(np.ones(3), hardness[:3]))
    ).all()


def test_large_sets_are_sampled_by_the_seed():
    scores, hardness = biased(3000, seed=9)
    first, again, other = (Cadet(max_rows=200, seed=seed).fit(Outputs(scores, hardness)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.curves_, again.curves_)
    assert not np.array_equal(first.curves_, other.curves_)


def test_fit_leaves_its_arguments_alone():
    scores, hardness = biased(100, seed=10)
    before = scores.copy(), hardness.copy()
    Cadet(max_rows=50).fit(Outputs(scores, hardness)).transform(Outputs(scores, hardness))
    np.testing.assert_array_equal(scores, before[0])
    np.testing.assert_array_equal(hardness, before[1])


def test_a_square_counts_as_its_root_and_any_other_score_as_it_is():
    errors, hardness = biased(400, seed=20)
    new_errors, new_hardness = biased(100, seed=21)
    errors, new_errors = np.abs(errors), np.abs(new_errors)
    expected = Cadet().fit(Outputs(errors, hardness)).transform(Outputs(new_errors, new_hardness))
    squares = Cadet().fit(Outputs(7 * errors**2, hardness, squared=True))
    found = squares.transform(Outputs(7 * new_errors**2, new_hardness, squared=True))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    as_they_are = Cadet().fit(Outputs(errors**2, hardness)).transform(Outputs(new_errors**2, new_hardness))
    assert not np.allclose(as_they_are, expected, atol=1e-2)


def test_a_logarithm_is_the_same_of_an_error_and_of_its_square():
    errors, hardness = biased(400, seed=22)
    errors = np.abs(errors)
    seen = [Outputs(errors, hardness), Outputs(errors**2, hardness, squared=True)]
    of_errors, of_squares = (Cadet(error="log").fit(outputs).transform(outputs) for outputs in seen)
    np.testing.assert_allclose(of_squares, of_errors, atol=1e-6)


def test_errors_in_proportion_to_a_power_of_hardness_are_judged_alike_at_every_hardness():
    """The model of the log form: log Err = a + b log H + noise; half of the rows is hard beyond the fitted ones."""
    rng = np.random.default_rng(23)
    hardness = np.exp(rng.normal(size=2000))
    errors = 3 * hardness**1.7 * np.exp(0.3 * rng.normal(size=2000))
    fitted = Cadet(error="log", prior_weight=0).fit(Outputs(errors, hardness))
    slopes = np.diff(fitted.curves_, axis=0) / np.diff(fitted.knots_)[:, None]
    assert fitted.knots_.size == 2
    np.testing.assert_allclose(slopes, 1.7, atol=0.1)
    doubled = fitted.transform(Outputs(2 * errors, hardness)) - fitted.transform(Outputs(errors, hardness))
    assert doubled.std() < 0.1 * doubled.mean()


@pytest.mark.parametrize("error", ["norm", "log"])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("wild", [0.0, 1e-45, 3e38, np.finfo(np.float32).max])
def test_one_wild_adapt_row_moves_little_and_wild_served_rows_overflow_nothing(error, squared, wild):
    scores, hardness = biased(300, seed=24)
    scores = np.abs(scores) ** (2 if squared else 1)
    fitted = Cadet(error=error).fit(Outputs(np.r_[scores, wild], np.r_[hardness, wild], squared=squared))
    without = Cadet(error=error).fit(Outputs(scores, hardness, squared=squared))
    outputs = Outputs(scores, hardness, squared=squared)
    moved = np.abs(fitted.transform(outputs) - without.transform(outputs))
    assert np.median(moved) < 0.05
    assert moved.max() < 2
    most = float(np.finfo(np.float32).max)
    served = Outputs(np.array([most, -most, 0.0, most]), np.array([1e77, 1e77, 0.0, 0.0]), squared=squared)
    with np.errstate(all="raise"):
        judged = fitted.transform(served).astype(np.float32)
    assert np.isfinite(judged).all()
    assert judged[0] > fitted.transform(outputs).max()


def test_a_degenerate_spread_overflows_nothing():
    tiny = 1e-300 * np.arange(1.0, 101.0)
    for error in ("norm", "log"):
        fitted = Cadet(error=error).fit(Outputs(tiny, tiny))
        assert np.isfinite(fitted.transform(Outputs(np.array([3e38]), np.array([3e38]))).astype(np.float32)).all()


def test_scores_below_zero_have_no_logarithm_and_are_taken_as_they_are():
    """They are log densities, or differences; a negative score of a later row alone counts as the smallest error."""
    scores, hardness = biased(300, seed=25)
    below = Cadet(error="log", prior_weight=0).fit(Outputs(scores - 5, hardness))
    assert below.to_part().config["scale"] == "given"
    moved = Cadet(error="log", prior_weight=0).fit(Outputs(scores - 7, hardness))
    found = [each.transform(Outputs(scores - shift, hardness)) for each, shift in ((below, 5), (moved, 7))]
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    above = Cadet(error="log").fit(Outputs(np.abs(scores), hardness))
    negative, zero = above.transform(Outputs(np.array([-1.0, 0.0]), np.full(2, hardness[0])))
    assert negative == zero < above.transform(Outputs(np.abs(scores), np.full(300, hardness[0]))).min()


def test_a_part_of_before_there_was_a_choice_answers_with_the_score_itself():
    """Kept bits: neither root nor logarithm, and no limit, for a detector that says now that its score is a square."""
    config = {"quantile": 0.95, "prior_weight": 0.5, "max_rows": 5000, "seed": 0}
    config |= {"floor": 0.5, "hardness_mean": 1.0, "hardness_std": 2.0, "fallback": ""}
    arrays = {"knots": np.array([0.0, 4.0]), "curves": np.array([[1.0, 2.0, 3.0], [2.0, 6.0, 9.0]])}
    adapter = load_adapter(Part("cadet", config, arrays))
    found = adapter.transform(Outputs(np.array([9.0, 1e300]), np.array([2.0, 5.0]), squared=True))
    np.testing.assert_array_equal(found, [(9.0 - 6.0) / 2.5 + 0.25, (1e300 - 9.0) / 4.0 + 1.0])
    again = adapter.to_part()
    assert again.config == config
    np.testing.assert_array_equal(load_adapter(again).transform(Outputs(np.ones(1), np.ones(1))), [-3.5 / 1.75])


SMALL = {"epochs": 1, "members": 1}


@pytest.mark.parametrize(
    ("detector", "params", "squared"),
    [
        ("autoencoder", SMALL, True),
        ("pca", {}, True),
        ("mcd", {}, True),
        ("deep_svdd", SMALL, True),
        ("deep_svdd", {"objective": "soft-boundary", **SMALL}, False),
        ("subsampled", {"detector": "pca"}, True),
        ("subsampled", {"detector": "knn"}, False),
    ],
)
def test_detectors_say_whether_their_score_is_a_square(detector, params, squared):
    rows = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    null = MeanNull().fit(rows)
    assert observe(make_detector(detector, params, seed=0).fit(rows), null, rows).squared is squared


@pytest.mark.parametrize(
    "params", [{}, {"error": "log"}, {"quantile": 0.9, "prior_weight": 0.3, "max_rows": 60, "seed": 4}]
)
@pytest.mark.parametrize("n", [10, 243])
def test_adapters_come_back_from_disk_the_same(tmp_path, params, n):
    scores, hardness = biased(n, seed=11)
    codes = np.random.default_rng(1).standard_normal((2, n, 3))
    outputs = Outputs(scores, hardness, lambda: codes)
    for name in ADAPTERS:
        fitted = make_adapter(name, params if name == "cadet" else {}).fit(outputs)
        write_part(tmp_path, name, fitted.to_part())
        again = load_adapter(read_part(tmp_path, name))
        assert again.to_part().config == fitted.to_part().config
        found = again.transform(outputs)
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, fitted.transform(outputs))


def test_loading_needs_neither_scikit_learn_nor_scipy(tmp_path):
    write_part(tmp_path, "a", Cadet(prior_weight=0).fit(Outputs(*biased(100, seed=12))).to_part())
    code = (
        "import sys, pathlib, numpy as np\n"
        "from assay.calibration.adapters.registry import load_adapter\n"
        "from assay.calibration.adapters.outputs import Outputs\n"
        "from assay.parts import read_part\n"
        "load_adapter(read_part(pathlib.Path(sys.argv[1]), 'a')).transform(Outputs(np.ones(2), np.ones(2)))\n"
        "sys.exit(str([m for m in ('sklearn', 'scipy', 'torch') if m in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_identity_keeps_scores():
    scores = np.array([1.5, -np.inf, np.inf], dtype=np.float32)
    found = Identity().fit(Outputs(scores, scores)).transform(Outputs(scores, scores))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, scores)


@pytest.mark.parametrize(
    ("name", "params", "match"),
    [
        ("magic", {}, "'magic'.*cadet"),
        ("none", {"quantile": 0.9}, "'quantile'"),
        ("cadet", {"eps": 0.05}, "'eps'.*prior_weight"),
        ("cadet", {"quantile": 1.0}, "quantile"),
        ("cadet", {"prior_weight": -1.0}, "prior_weight"),
        ("cadet", {"prior_weight": float("nan")}, "prior_weight"),
        ("cadet", {"max_rows": 5}, "max_rows"),
    ],
)
def test_bad_adapters_are_refused(name, params, match):
    with pytest.raises(ConfigError, match=match):
        make_adapter(name, params)


def test_unknown_parts_are_refused():
    with pytest.raises(ScorerError, match="'magic'"):
        load_adapter(Part("magic"))


@pytest.mark.parametrize(
    ("scores", "hardness"),
    [([], []), ([1.0, np.nan], [1.0, 2.0]), ([1.0, 2.0], [1.0, np.inf]), ([1.0, 2.0], [1.0])],
)
def test_bad_rows_are_refused(scores, hardness):
    with pytest.raises(DataError):
        Cadet(prior_weight=0).fit(Outputs(np.array(scores), np.array(hardness)))
