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
from assay.calibration.adapters.outputs import Outputs
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
        strata = Strata.fit(train_hardness).assign(hardness)
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
    np.testing.assert_allclose(added, 2 * np.abs(hardness - hardness.mean()) / hardness.std())


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


@pytest.mark.parametrize("params", [{}, {"quantile": 0.9, "prior_weight": 0.3, "max_rows": 60, "seed": 4}])
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
