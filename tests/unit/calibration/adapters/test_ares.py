"""ARES: its two terms, what it survives, and how it is stored."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.neighbors import LocalOutlierFactor

from assay.calibration.adapters.ares import Ares
from assay.calibration.adapters.outputs import Outputs
from assay.errors import ConfigError, DataError
from assay.evaluation.metrics import auroc
from assay.parts import read_part, write_part


def outputs(scores, latents):
    """Outputs of a detector whose codes (n, k) or (S, n, k) are given."""
    latents = np.asarray(latents)
    return Outputs(np.asarray(scores), np.zeros(len(scores)), lambda: latents if latents.ndim == 3 else latents[None])


def local(n, seed, columns=3, members=1):
    """Scores whose level depends on where the codes lie."""
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(members, n, columns))
    return outputs(np.exp(latents[0, :, 0] + 0.3 * rng.normal(size=n)), latents)


def take(seen, rows):
    latents = seen.latents()[:, rows]
    return Outputs(seen.scores[rows], seen.hardness[rows], lambda: latents)


def by_hand(adapt, tested, k, weight):
    """ARES, loop by loop, from eq 1 and 6 to 8; one member."""
    codes, queries = adapt.latents()[0], tested.latents()[0]

    def nearest(code, without=None):
        distances = np.sqrt(((codes - code) ** 2).sum(axis=1))
        order = [i for i in np.argsort(distances, kind="stable") if i != without][:k]
        return order, distances[order]

    stored = [nearest(code, i) for i, code in enumerate(codes)]
    reach = np.array([distances.max() for _, distances in stored])

    def density(found):
        return 1 / np.mean([max(reach[j], d) for j, d in zip(*found, strict=True)])

    densities = np.array([density(found) for found in stored])

    def terms(score, found):
        near = found[0]
        return score - np.median(adapt.scores[near]), np.log(np.mean(densities[near]) / density(found))

    own = np.array([terms(*pair) for pair in zip(adapt.scores, stored, strict=True)])
    new = np.array([terms(score, nearest(code)) for score, code in zip(tested.scores, queries, strict=True)])
    low, centre, high = np.quantile(own, [0.25, 0.5, 0.75], axis=0)
    return (new - centre) / (high - low) @ np.array([1, weight])


@pytest.mark.parametrize(("n", "k", "weight"), [(20, 1, 1.0), (25, 24, 0.5), (90, 7, 0.0), (90, 10, 2.0)])
def test_scores_are_those_of_the_equations(n, k, weight):
    adapt, tested = local(n, seed=0), local(40, seed=1)
    adapted = Ares(neighbours=k, density_weight=weight).fit(adapt).transform(tested)
    assert adapted.dtype == np.float64
    np.testing.assert_allclose(adapted, by_hand(adapt, tested, k, weight), rtol=1e-3, atol=1e-3)


def test_local_reconstruction_term_in_figures():
    codes, scores = np.arange(20.0)[:, None], np.arange(20.0) ** 2
    fitted = Ares(neighbours=3, density_weight=0).fit(outputs(scores, codes))
    # Neighbours of code 5.1 are 4, 5 and 6, whose scores are 16, 25 and 36. Left out, row 9 has two of 8, 10 and
    # 7 or 11, hence a median of 64 or 100, and the quartiles of r over all rows follow.
    r = fitted.transform(outputs([30.0, 5.0], [[5.1], [5.1]])) * fitted.spreads_[0] + fitted.centres_[0]
    np.testing.assert_allclose(r, [30 - 25, 5 - 25])


@pytest.mark.parametrize("k", [4, 20, 63])
def test_density_term_is_the_local_outlier_factor_of_scikit_learn(k):
    adapt, tested = local(300, seed=2), local(100, seed=3)
    fitted = Ares(neighbours=k).fit(adapt)
    estimator = LocalOutlierFactor(n_neighbors=k, novelty=True).fit(adapt.latents()[0])
    local_only = Ares(neighbours=k, density_weight=0).fit(adapt)
    d = (fitted.transform(tested) - local_only.transform(tested)) * fitted.spreads_[1] + fitted.centres_[1]
    np.testing.assert_allclose(d, np.log(-estimator.score_samples(tested.latents()[0])), atol=1e-4)
    of_adapt = np.log(-estimator.negative_outlier_factor_)
    assert fitted.centres_[1] == pytest.approx(np.median(of_adapt), abs=1e-4)
    assert fitted.spreads_[1] == pytest.approx(np.subtract(*np.quantile(of_adapt, [0.75, 0.25])), rel=1e-3)
    np.testing.assert_allclose(fitted.density_ / fitted.units_[0], estimator._lrd, rtol=1e-3)


def test_scores_lose_their_dependence_on_where_a_row_lies():
    fitted = Ares(neighbours=20, density_weight=0).fit(local(1500, seed=4, columns=2))
    tested = local(3000, seed=5, columns=2)
    place = tested.latents()[0, :, 0]
    assert spearmanr(tested.scores, place)[0] > 0.9
    assert abs(spearmanr(fitted.transform(tested), place)[0]) < 0.2


@pytest.mark.parametrize("factors", [(1e-6, 1.0, 1.0), (1.0, 1e5, 1e-5), (700.0, 3.0, 0.001), (1.0, 2.0**30, 2.0**-40)])
def test_units_of_scores_and_codes_do_not_matter(factors):
    def moved(seen):
        latents = (seen.latents() + 7) * np.array(factors[1:])[:, None, None]
        return Outputs(factors[0] * seen.scores - 3, seen.hardness, lambda: latents)

    adapt, tested = local(400, seed=6, members=2), local(200, seed=7, members=2)
    expected = Ares().fit(adapt).transform(tested)
    found = Ares().fit(moved(adapt)).transform(moved(tested))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    assert spearmanr(found, expected)[0] > 0.9999


def test_every_member_has_a_say_in_who_is_near():
    rng = np.random.default_rng(8)
    adapt, tested = (np.stack([1000 * rng.normal(size=(n, 2)), rng.normal(size=(n, 2))]) for n in (400, 300))

    def error_beyond_neighbours(members):
        fitted = Ares(neighbours=10, density_weight=0).fit(outputs(np.exp(adapt[1, :, 0]), adapt[members]))
        adapted = fitted.transform(outputs(np.exp(tested[1, :, 0]), tested[members]))
        return np.abs(adapted * fitted.spreads_[0] + fitted.centres_[0]).mean()

    assert error_beyond_neighbours([0, 1]) < 0.5 * error_beyond_neighbours([0])
    assert error_beyond_neighbours([1]) < error_beyond_neighbours([0, 1])


@pytest.mark.parametrize(
    ("n", "contamination", "k"),
    [(20, 0.25, 11), (500, 0.0, 10), (500, 0.01, 11), (499, 0.01, 10), (5000, 0.01, 101), (1000, 0.05, 101)],
)
def test_auto_neighbours_outvote_the_suspected_contamination(n, contamination, k):
    fitted = Ares(contamination=contamination).fit(local(n, seed=9))
    assert fitted.k_ == k
    assert fitted.k_ == 10 or fitted.k_ > 2 * n * contamination >= fitted.k_ - 1


@pytest.mark.parametrize(("unlabelled", "k"), [(1.0, 121), (0.5, 61), (0.0, 10)])
def test_the_default_suspects_one_in_twenty_of_the_rows_that_nobody_has_labelled_normal(unlabelled, k):
    assert Ares().fit(replace(local(1200, seed=10), unlabelled=unlabelled)).k_ == k
    assert Ares(contamination=0.05).fit(replace(local(1200, seed=10), unlabelled=unlabelled)).k_ == 121


def test_a_cluster_among_the_adapt_rows_does_not_vouch_for_its_kind():
    ranked = {10: [], "auto": []}
    for seed in range(8):
        rng = np.random.default_rng(seed)

        def rows(n, n_odd, rng=rng):
            latents = np.concatenate([rng.normal(size=(n, 4)), 3 + 0.1 * rng.normal(size=(n_odd, 4))])
            scores = np.concatenate([rng.gamma(4, size=n), 12 + rng.normal(size=n_odd)])
            return outputs(scores, latents)

        adapt, tested = rows(980, 20), rows(300, 100)
        for neighbours, found in ranked.items():
            adapted = Ares(neighbours=neighbours, contamination=0.02).fit(adapt).transform(tested)
            found.append(auroc(np.r_[np.zeros(300), np.ones(100)].astype(np.int8), adapted))
    assert np.mean(ranked[10]) < 0.7
    assert np.mean(ranked["auto"]) > 0.97


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("kind", ["real", "ties", "two members"])
@pytest.mark.parametrize("k", [1, 9, 10])
def test_adapted_score_of_a_row_does_not_depend_on_its_batch(monkeypatch, lists, kind, k):
    monkeypatch.setattr("assay.calibration.neighbours.MOST_EXACT", 300 if lists else 5000)
    members = 2 if kind == "two members" else 1
    adapt, tested = local(900, seed=11, members=members), local(150, seed=12, members=members)
    if kind == "ties":
        adapt, tested = (outputs(np.rint(o.scores), np.rint(o.latents())) for o in (adapt, tested))
    fitted = Ares(neighbours=k).fit(adapt)
    assert fitted.index_.is_exact != lists
    alone = [fitted.transform(take(tested, slice(i, i + 1)))[0] for i in range(150)]
    np.testing.assert_array_equal(fitted.transform(tested), alone)
    np.testing.assert_array_equal(fitted.transform(take(tested, slice(None, None, -1)))[::-1], alone)
    assert fitted.transform(take(tested, slice(0, 0))).shape == (0,)


def test_large_batches_are_scored_in_chunks(monkeypatch):
    fitted, tested = Ares().fit(local(200, seed=13)), local(100, seed=14)
    expected = fitted.transform(tested)
    monkeypatch.setattr("assay.calibration.adapters.ares._CHUNK_ROWS", 33)
    np.testing.assert_array_equal(fitted.transform(tested), expected)


@pytest.mark.parametrize("n_copies", [30, 280])
def test_copies_of_one_row_leave_scores_finite(n_copies):
    rng = np.random.default_rng(15)
    latents = np.concatenate([np.zeros((n_copies, 2)), rng.normal(size=(300 - n_copies, 2))])
    fitted = Ares().fit(outputs(np.ones(300), latents))
    adapted = fitted.transform(outputs(np.ones(4), [[0, 0], [1e-9, 0], [0.5, 0.5], [1e30, 0]]))
    assert np.isfinite(adapted).all()
    assert adapted[3] > adapted[0]


def test_equal_scores_leave_the_density_to_tell():
    adapted = (
        Ares()
        .fit(outputs(np.ones(100), local(100, seed=16).latents()))
        .transform(outputs(np.ones(2), [[0, 0, 0], [9, 9, 9.0]]))
    )
    assert np.isfinite(adapted).all()
    assert adapted[1] > adapted[0] + 1


def test_huge_scores_stay_within_float32():
    fitted = Ares().fit(local(100, seed=17))
    adapted = fitted.transform(outputs([3e38, -3e38, np.inf], np.zeros((3, 3))))
    assert np.isfinite(adapted.astype(np.float32)).all()


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (local(19, seed=18), "19 rows"),
        (outputs([3.0], [[1.0]]), "1 rows"),
        (outputs(np.arange(50.0), np.ones((2, 50, 3))), "codes are equal"),
    ],
)
def test_too_little_to_learn_from_only_centres_and_scales(seen, reason):
    fitted = Ares().fit(seen)
    assert reason in fitted.fallback_
    assert fitted.k_ == 0
    np.testing.assert_array_equal(fitted.transform(seen).argsort(kind="stable"), seen.scores.argsort(kind="stable"))
    assert np.median(fitted.transform(seen)) == pytest.approx(0)


def test_twenty_rows_are_enough():
    fitted = Ares().fit(local(20, seed=19))
    assert (fitted.fallback_, fitted.k_) == ("", 10)


def test_a_member_that_says_nothing_is_no_trouble():
    latents = np.concatenate([np.full((1, 80, 3), 2.0), local(80, seed=20).latents()])
    scores = local(80, seed=20).scores
    np.testing.assert_allclose(
        Ares().fit(outputs(scores, latents)).transform(outputs(scores, latents)),
        Ares().fit(outputs(scores, latents[1:])).transform(outputs(scores, latents[1:])),
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("params", [{}, {"neighbours": 7, "density_weight": 0.3, "max_rows": 700, "seed": 4}])
@pytest.mark.parametrize("n", [10, 800])
def test_adapter_comes_back_from_disk_the_same(monkeypatch, tmp_path, lists, params, n):
    monkeypatch.setattr("assay.calibration.neighbours.MOST_EXACT", 300 if lists else 5000)
    adapt, tested = local(n, seed=21, members=2), local(50, seed=22, members=2)
    fitted, twin = (Ares(**params).fit(adapt) for _ in range(2))
    for name, one in (("a", fitted), ("b", twin)):
        write_part(tmp_path, name, one.to_part())
    for ending in ("json", "safetensors"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    again = Ares.from_part(read_part(tmp_path, "a"))
    assert again.to_part().config == fitted.to_part().config
    assert again.fallback_ == fitted.fallback_
    np.testing.assert_array_equal(again.transform(tested), fitted.transform(tested))


def test_neighbourhoods_that_are_not_kept_are_searched_again(monkeypatch):
    adapt, tested = local(300, seed=27), local(50, seed=28)
    expected = Ares().fit(adapt).transform(tested)
    monkeypatch.setattr("assay.calibration.adapters.ares.MOST_PAIRS", 100)
    np.testing.assert_array_equal(Ares().fit(adapt).transform(tested), expected)


def test_large_sets_are_sampled_by_the_seed():
    adapt = local(600, seed=23)
    first, again, other = (Ares(max_rows=100, seed=seed).fit(adapt) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.errors_, again.errors_)
    assert len(first.errors_) == 100
    assert not np.array_equal(first.errors_, other.errors_)


def test_loading_needs_numpy_alone(tmp_path):
    write_part(tmp_path, "a", Ares().fit(local(100, seed=24)).to_part())
    code = (
        "import sys, pathlib, numpy as np\n"
        "from assay.calibration.adapters.ares import Ares\n"
        "from assay.calibration.adapters.outputs import Outputs\n"
        "from assay.parts import read_part\n"
        "seen = Outputs(np.ones(2), np.ones(2), lambda: np.ones((1, 2, 3)))\n"
        "Ares.from_part(read_part(pathlib.Path(sys.argv[1]), 'a')).transform(seen)\n"
        "sys.exit(str([m for m in ('sklearn', 'scipy', 'torch', 'pandas') if m in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_fit_leaves_its_arguments_alone():
    adapt = local(100, seed=25)
    before = adapt.scores.copy(), adapt.latents().copy()
    Ares(max_rows=50).fit(adapt).transform(adapt)
    np.testing.assert_array_equal(adapt.scores, before[0])
    np.testing.assert_array_equal(adapt.latents(), before[1])


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"neighbours": 0}, "neighbours is 0"),
        ({"neighbours": 2.0}, "neighbours is 2.0"),
        ({"neighbours": True}, "neighbours is True"),
        ({"neighbours": "many"}, "'many'.*'auto'"),
        ({"contamination": -0.1}, "contamination"),
        ({"contamination": 0.3}, "contamination"),
        ({"contamination": float("nan")}, "contamination"),
        ({"density_weight": -1.0}, "density_weight"),
        ({"density_weight": float("inf")}, "density_weight"),
        ({"max_rows": 5}, "max_rows"),
    ],
)
def test_bad_parameters_are_refused(params, match):
    with pytest.raises(ConfigError, match=match):
        Ares(**params)


@pytest.mark.parametrize(
    ("scores", "latents", "match"),
    [
        ([], np.zeros((1, 0, 2)), "scores"),
        ([1.0, np.nan], np.zeros((1, 2, 2)), "scores"),
        (np.ones(30), np.full((1, 30, 2), np.inf), "latent codes"),
        (np.ones(30), np.zeros((1, 29, 2)), "30 rows"),
        (np.ones(30), np.zeros((30, 2, 1, 1)), "latent codes"),
        (np.arange(30.0), np.arange(60.0).reshape(1, 30, 2), "29 others"),
    ],
)
def test_bad_rows_are_refused(scores, latents, match):
    with pytest.raises(DataError, match=match):
        Ares(neighbours=30).fit(Outputs(np.array(scores), np.zeros(len(scores)), lambda: latents))


def test_bad_codes_are_refused_when_scoring_too():
    fitted = Ares().fit(local(30, seed=26))
    with pytest.raises(DataError, match="finite"):
        fitted.transform(outputs([1.0], [[np.nan, 0, 0]]))
    with pytest.raises(DataError, match="2 rows"):
        fitted.transform(outputs([1.0, 2.0], [[0.0, 0, 0]]))
