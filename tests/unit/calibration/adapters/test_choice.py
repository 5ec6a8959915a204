"""The choice of a score adapter without labels."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from assay.calibration.adapters.auto import choose_adapter
from assay.calibration.adapters.cadet import Cadet
from assay.calibration.adapters.outputs import Outputs, observe
from assay.calibration.adapters.probes import make_probes_by_kind
from assay.calibration.adapters.registry import Identity
from assay.data.modalities.image import Image
from assay.data.modalities.series import Series
from assay.data.modalities.tabular import TABULAR
from assay.data.recipes import RECIPES
from assay.detectors.registry import make_detector
from assay.errors import ConfigError, DataError
from assay.evaluation.metrics import auroc

CANDIDATES = {"none": Identity(), "cadet": Cadet(), "cadet-no-prior": Cadet(prior_weight=0)}


class ByHardness(Identity):
    """Puts the hardness in place of the score."""

    def transform(self, outputs):
        return np.array(outputs.hardness, dtype=np.float64)


class Fails(Identity):
    """Cannot be fitted."""

    def fit(self, outputs):
        raise DataError("too odd")


def biased(rng, n, *, harder=1.0, excess=0.0):
    """Scores whose level and spread grow with hardness; `excess` in standard deviations at the same hardness."""
    hardness = harder * rng.gamma(3, 1, n)
    return Outputs(hardness * (1 + 0.3 * (rng.standard_normal(n) + excess)), hardness)


def redraw(kinds, n, redraws):
    """Yield the choice for each redraw of adapt rows and probes."""
    candidates = {"none": Identity(), "cadet": Cadet(prior_weight=0)}
    for seed in range(redraws):
        rng = np.random.default_rng(seed)
        outputs = biased(rng, n)
        probes = {name: biased(rng, 100, **kind) for name, kind in kinds.items()}
        yield choose_adapter(candidates, outputs, probes, seed=seed)


def test_an_adapter_is_taken_where_hardness_hides_anomalies_and_it_pays():
    hidden = {"weak": {"excess": 3}, "strong": {"excess": 5}, "harder": {"harder": 1.3, "excess": 4}}
    gains = []
    for seed, chosen in enumerate(redraw(hidden, 120, 20)):
        assert chosen.label != "none"
        rng = np.random.default_rng(1000 + seed)
        normals, anomalies = biased(rng, 2000), biased(rng, 300, excess=3)
        both = Outputs(np.r_[normals.scores, anomalies.scores], np.r_[normals.hardness, anomalies.hardness])
        labels = np.repeat([0, 1], [2000, 300])
        gains.append(auroc(labels, chosen.adapter.transform(both)) - auroc(labels, both.scores))
    assert np.mean(gains) > 0.1
    assert min(gains) > 0


def test_the_plain_score_is_kept_where_hardness_itself_tells_anomalies():
    told = {"far": {"harder": 2}, "farther": {"harder": 3}, "hidden": {"excess": 3}}
    labels = Counter(chosen.label for chosen in redraw(told, 120, 20))
    assert labels["none"] >= 19


def test_standard_errors_are_those_of_redraws_and_a_mere_equal_is_not_taken():
    """Scores and hardness are equally good, so that the gain of one over the other is 0 on average."""
    gains, errors, labels = [], [], Counter()
    for seed in range(300):
        rng = np.random.default_rng(seed)
        outputs = Outputs(*rng.standard_normal((2, 100)))
        probes = {str(shift): Outputs(*(rng.standard_normal((2, 60)) + shift)) for shift in (1, 2)}
        chosen = choose_adapter({"none": Identity(), "other": ByHardness()}, outputs, probes, seed=seed)
        found = chosen.evidence["candidates"]["other"]
        gains.append(found["gain"])
        errors.append(found["standard_error"])
        labels[chosen.label] += 1
    assert abs(np.mean(gains)) < 3 * np.std(gains) / np.sqrt(300)
    assert np.std(gains) == pytest.approx(np.mean(errors), rel=0.2)
    assert labels["other"] <= 14  # 7.5 expected at most, a standard deviation is 2.7


def test_a_gain_on_probes_must_be_great_not_only_significant():
    rng = np.random.default_rng(0)
    outputs = Outputs(*rng.standard_normal((2, 2000)))
    for extra, label in ((0.3, "none"), (1.5, "other")):
        probes = {"a": Outputs(rng.standard_normal(2000) + 2, rng.standard_normal(2000) + 2 + extra)}
        chosen = choose_adapter({"none": Identity(), "other": ByHardness()}, outputs, probes, seed=0)
        found = chosen.evidence["candidates"]["other"]
        assert found["gain"] > 3 * found["standard_error"]
        assert chosen.label == label


def test_one_kind_of_loss_outweighs_any_mean_gain():
    rng = np.random.default_rng(0)
    outputs = Outputs(rng.standard_normal(200), rng.standard_normal(200))
    probes = {str(i): Outputs(rng.standard_normal(100), rng.standard_normal(100) + 5) for i in range(5)}
    better = choose_adapter({"none": Identity(), "other": ByHardness()}, outputs, probes, seed=0)
    probes["lost"] = Outputs(rng.standard_normal(100) + 2, rng.standard_normal(100) + 1.2)
    worse = choose_adapter({"none": Identity(), "other": ByHardness()}, outputs, probes, seed=0)
    assert (better.label, worse.label) == ("other", "none")
    assert worse.evidence["candidates"]["other"]["gain"] > 0.5
    assert worse.evidence["candidates"]["other"]["verdict"] == "worse on lost"


def test_the_best_of_several_is_taken_and_fitted_on_all_rows():
    rng = np.random.default_rng(1)
    outputs, probes = biased(rng, 300), {"hidden": biased(rng, 100, excess=4)}
    chosen = choose_adapter(CANDIDATES, outputs, probes, seed=0)
    gains = {name: found["gain"] for name, found in chosen.evidence["candidates"].items()}
    assert chosen.label == max(gains, key=gains.get)
    expected = Cadet(prior_weight=CANDIDATES[chosen.label].prior_weight).fit(outputs)
    np.testing.assert_array_equal(chosen.adapter.transform(outputs), expected.transform(outputs))
    assert not hasattr(CANDIDATES["cadet"], "curves_")


def test_the_choice_is_the_same_for_the_same_seed_and_its_evidence_is_small_json():
    rng = np.random.default_rng(2)
    outputs, probes = biased(rng, 200), {"hidden": biased(rng, 100, excess=4), "far": biased(rng, 100, harder=2)}
    first, again = (choose_adapter(CANDIDATES, outputs, probes, seed=3) for _ in range(2))
    assert first.evidence == again.evidence
    text = json.dumps(first.evidence, allow_nan=False)
    assert len(text) < 1500
    assert json.loads(text)["rows"] == 200
    assert set(first.evidence["candidates"]) == {"cadet", "cadet-no-prior"}


@pytest.mark.parametrize("n", [1, 2, 39])
def test_few_rows_keep_the_plain_score(n):
    rng = np.random.default_rng(0)
    chosen = choose_adapter(CANDIDATES, biased(rng, n), {"hidden": biased(rng, 50, excess=9)}, seed=0)
    assert chosen.label == "none"
    assert f"{n} adapt rows are too few" in chosen.evidence["reason"]


@pytest.mark.parametrize(
    ("scores", "hardness"),
    [(np.ones(50), np.arange(50.0)), (np.arange(50.0), np.ones(50)), (np.ones(50), np.ones(50))],
)
def test_constant_and_tied_values_keep_the_plain_score(scores, hardness):
    probes = {"same": Outputs(np.ones(10), np.ones(10)), "higher": Outputs(np.repeat([2.0, 99.0], 5), np.arange(10.0))}
    chosen = choose_adapter(
        {"none": Identity(), "cadet": Cadet(prior_weight=0)}, Outputs(scores, hardness), probes, seed=0
    )
    assert chosen.label == "none"
    json.dumps(chosen.evidence, allow_nan=False)


def test_what_cannot_be_judged_is_named_and_left_out():
    rng = np.random.default_rng(0)
    infinite = Outputs(np.r_[np.inf, -np.inf, rng.standard_normal(60)], rng.standard_normal(62))
    probes = {"higher": Outputs(np.array([3.0, np.inf]), np.zeros(2))}
    candidates = {"none": Identity(), "cadet": Cadet(), "odd": Fails()}
    chosen = choose_adapter(candidates, infinite, probes, seed=0)
    assert chosen.label == "none"
    verdicts = {name: found["verdict"] for name, found in chosen.evidence["candidates"].items()}
    assert verdicts["odd"] == "cannot be judged: too odd"
    assert "finite" in verdicts["cadet"]


def test_latent_codes_are_asked_for_once_and_cut_like_the_rows():
    asked = []

    class Latent(Identity):
        def transform(self, outputs):
            assert outputs.latents().shape == (2, len(outputs), 1)
            np.testing.assert_array_equal(outputs.latents()[1, :, 0], outputs.scores)
            return super().transform(outputs)

    def with_latents(scores):
        return Outputs(scores, scores, lambda: asked.append(1) or np.stack([scores, scores])[..., None])

    rng = np.random.default_rng(0)
    outputs, probes = with_latents(rng.standard_normal(80)), {"a": with_latents(rng.standard_normal(9))}
    choose_adapter({"none": Identity(), "latent": Latent()}, outputs, probes, seed=0)
    assert len(asked) == 2


def test_bad_arguments_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="'none'"):
        choose_adapter({"cadet": Cadet()}, biased(rng, 50), {"a": biased(rng, 5)}, seed=0)
    with pytest.raises(DataError, match="1 probes of kind 'a'"):
        choose_adapter(CANDIDATES, biased(rng, 50), {"a": biased(rng, 1)}, seed=0)
    assert "no probes" in choose_adapter(CANDIDATES, biased(rng, 50), {}, seed=0).evidence["reason"]


SHAPES = [(TABULAR, 12), (Image((3, 4)), 12), (Image((8, 8)), 64), (Series((6, 2)), 12), (Series((1, 3)), 3)]


@pytest.mark.parametrize(("modality", "width"), SHAPES)
def test_probes_are_few_seeded_and_new(modality, width):
    rows = np.random.default_rng(0).gamma(2, size=(60, width)).astype(np.float32)
    before = rows.copy()
    made = make_probes_by_kind(rows, modality, seed=4)
    assert len(made) == 4
    assert sum(len(found) for found in made.values()) <= 500
    for kind, found in make_probes_by_kind(rows, modality, seed=4).items():
        assert found.dtype == np.float64
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found, made[kind])
    other = make_probes_by_kind(rows, modality, seed=5)
    assert all(not np.array_equal(other[kind], made[kind]) for kind in made)
    np.testing.assert_array_equal(rows, before)
    assert make_probes_by_kind(rows[:1], modality, seed=4) == {}
    assert all(np.isfinite(found).all() for found in make_probes_by_kind(0 * rows[:2], modality, seed=4).values())


def test_tabular_probes_are_the_recipes_and_the_far_ones_are_of_every_strength():
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((400, 3)) @ rng.standard_normal((3, 6))).astype(np.float32)
    made = make_probes_by_kind(rows, TABULAR, seed=0)
    assert list(made) == list(RECIPES)
    null = TABULAR.null_model().fit(rows)
    for kind in ("global", "cluster"):
        above = (null.hardness(made[kind])[:, None] > null.hardness(rows)).mean(axis=1)
        assert 0.1 < (above < 0.9).mean() < 0.9


def test_images_and_series_have_probes_that_are_easier_as_hard_and_harder_than_normal_rows():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((300, 144))
    walks = np.cumsum(rng.standard_normal((300, 40)), axis=1)
    for rows, modality, easier, same, harder in (
        (images, Image((12, 12)), "erased", ("turned", "patch"), ("confetti",)),
        (walks, Series((40, 1)), "stuck", ("backwards",), ("spike", "shift")),
    ):
        null = modality.null_model().fit(rows)
        usual = null.hardness(rows).mean()
        ratio = {
            kind: null.hardness(x).mean() / usual for kind, x in make_probes_by_kind(rows, modality, seed=0).items()
        }
        assert ratio[easier] < 0.995
        assert all(ratio[kind] == pytest.approx(1, abs=0.03) for kind in same)
        assert all(ratio[kind] > 1.05 for kind in harder)


def test_with_a_detector_and_probes_of_its_own_rows_the_plain_score_is_kept_on_blobs():
    """Distances to neighbours among Gaussian rows: hardness itself tells what lies outside."""
    labels = Counter()
    for seed in range(4):
        rng = np.random.default_rng(seed)
        train, adapt = rng.standard_normal((2, 150, 5)).astype(np.float32)
        null, detector = TABULAR.null_model().fit(train), make_detector("knn", {}, seed=seed).fit(train)
        probes = {
            kind: observe(detector, null, rows) for kind, rows in make_probes_by_kind(adapt, TABULAR, seed=seed).items()
        }
        labels[choose_adapter(CANDIDATES, observe(detector, null, adapt), probes, seed=seed).label] += 1
    assert labels["none"] == 4
