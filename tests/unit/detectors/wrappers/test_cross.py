"""A detector fitted once for each fold: what is held out, what is scaled, and the p-values that follow."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from assay.data.modalities.base import Modality
from assay.data.modalities.image import Image
from assay.data.modalities.series import Series
from assay.data.modalities.tabular import TABULAR
from assay.detectors.base import CrossFitted
from assay.detectors.registry import learns_from_labels, load_detector, make_detector
from assay.detectors.wrappers.cross import Cross, fold_of
from assay.errors import ConfigError, InputError, TrainingError
from assay.parts import read_part, write_part

Floats = NDArray[np.float32]
KNN = {"knn": {"n_neighbors": 2}}
FOREST = {"isolation_forest": {"n_estimators": 10}}
HSC = {"hsc": {"epochs": 5, "members": 1, "pretrain_epochs": 0, "latent_dim": 2, "hidden": [4]}}


def cloud(n: int, seed: int, columns: int = 3) -> Floats:
    return np.random.default_rng(seed).normal(size=(n, columns)).astype(np.float32)


def cross_p_values(found: CrossFitted, X: Floats, held_out: Floats) -> NDArray[np.float64]:
    """(1 + sum over folds k of #{i in fold k: held_out_i >= s_k(x)}) / (m + 1)."""
    at_least = np.zeros(len(X))
    for fold, scores in enumerate(found.fold_scores(X)):
        at_least += (held_out[found.fold_of_ == fold] >= scores[:, None]).sum(axis=1)
    return np.asarray((1 + at_least) / (len(held_out) + 1))


def seen_scores(found: CrossFitted, X: Floats) -> Floats:
    """Score each training row by the fold after its own, which was fitted on it."""
    return found.fold_scores(X)[(found.fold_of_ + 1) % found.n_folds, np.arange(len(X))]


@pytest.mark.parametrize(("k", "seen_from"), [(1, 0.99), (2, 0.15)])
def test_p_values_of_held_out_rows_are_valid_and_those_of_seen_rows_are_not(k: int, seen_from: float) -> None:
    """False-positive rate at eps .1 over 30 redraws of 99 training and 200 new rows; its standard error is .006.

    A seen row is its own first neighbour.
    """
    eps, unseen, seen = 0.1, [], []
    for draw in range(30):
        train, new = np.split(cloud(299, seed=draw), [99])
        found = Cross(detector={"knn": {"n_neighbors": k}}, folds=5, seed=draw).fit(train)
        assert isinstance(found, CrossFitted)
        unseen.append((cross_p_values(found, new, found.held_out_scores_) <= eps).mean())
        seen.append((cross_p_values(found, new, seen_scores(found, train)) <= eps).mean())
    assert 0.07 < np.mean(unseen) < 0.12 < 2 * eps
    assert np.mean(seen) > seen_from


def test_p_values_of_folds_that_differ_by_chance_are_valid_and_cautious() -> None:
    """Forests of few trees, 12 redraws (standard error .01): a fold's scores are noisy, and so p is rarely small."""
    rates = []
    for draw in range(12):
        train, new = np.split(cloud(299, seed=draw), [99])
        found = Cross(detector=FOREST, folds=5, seed=draw).fit(train)
        assert isinstance(found, CrossFitted)
        rates.append((cross_p_values(found, new, found.held_out_scores_) <= 0.1).mean())
    assert 0.04 < np.mean(rates) < 0.12


@pytest.mark.parametrize(
    ("shape", "modality"),
    [({}, TABULAR), ({"image_shape": (2, 3)}, Image((2, 3))), ({"series_shape": (3, 2)}, Series((3, 2)))],
)
def test_a_fold_is_the_detector_on_raw_rows_scaled_without_that_fold(shape: dict[str, Any], modality: Modality) -> None:
    """Wild rows would give the scale away: the scale of all rows differs from that without them."""
    raw = cloud(60, seed=0, columns=6) * [1, 50, 0.1, 1, 2, 7] + 5
    raw[:3] *= 30
    rows = modality.scaler().fit(raw).transform(raw)
    found = Cross(detector=KNN, folds=4, **shape).fit(rows)
    for fold in range(4):
        others = found.fold_of_ != fold
        own = modality.scaler().fit(raw[others])
        alone = make_detector("knn", KNN["knn"], seed=0).fit(own.transform(raw[others]))
        scores = alone.decision_function(own.transform(raw))
        np.testing.assert_allclose(found.fold_scores(rows)[fold], scores, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.held_out_scores_[~others], scores[~others], rtol=1e-4, atol=1e-4)


def test_the_score_is_the_mean_and_a_training_rows_is_that_of_its_fold() -> None:
    rows = cloud(80, seed=0)
    found = Cross(detector=FOREST, folds=4, seed=3).fit(rows)
    scores = found.fold_scores(rows)
    assert scores.shape == (4, 80)
    assert scores.dtype == found.held_out_scores_.dtype == np.float32
    np.testing.assert_array_equal(found.held_out_scores_, scores[found.fold_of_, np.arange(80)])
    np.testing.assert_allclose(found.decision_function(rows), scores.mean(axis=0), rtol=1e-6)
    assert len({member.get_params()["seed"] for member in found.detectors_}) == 4


def test_the_folds_of_a_content_depend_on_nothing_but_the_number_of_its_copies() -> None:
    rows = np.repeat(np.round(cloud(100, seed=0)), 2, axis=0)
    rows[1::2][rows[1::2] == 0] = -0.0
    assert np.signbit(rows[rows == 0]).any()
    order = np.random.default_rng(0).permutation(len(rows))
    folds: list[list[tuple[bytes, int]]] = []
    for arranged in (rows, rows[order]):
        found = Cross(detector=KNN, folds=5).fit(arranged)
        contents = [row.tobytes() for row in arranged + np.float32(0)]
        folds.append(sorted(zip(contents, found.fold_of_.tolist(), strict=True)))
    assert folds[0] == folds[1]


def test_copies_are_in_folds_independent_of_each_other_and_of_those_of_new_rows() -> None:
    """A fifth of 1,000 pairs agree by chance, give or take .013."""
    rows = np.repeat(cloud(1000, seed=0), 2, axis=0)
    found = Cross(detector=KNN, folds=5).fit(rows)
    assert abs((found.fold_of_[::2] == found.fold_of_[1::2]).mean() - 0.2) < 0.05
    assert abs((found.fold_of_new(rows) == found.fold_of_).mean() - 0.2) < 0.05
    one = np.ones((1000, 3), dtype=np.float32)
    for folds in (fold_of(one, 5, salt="training:0"), found.fold_of_new(one)):
        assert np.abs(np.bincount(folds, minlength=5) - 200).max() < 60


def test_p_values_are_valid_where_a_fifth_of_the_rows_are_one_state() -> None:
    """60 redraws of 200 training and 200 new rows at eps .1; the standard error of their mean is .004.

    By content, all of that state was in one fold: new rows of it, which four of five models know, were never flagged,
    and the others more often.
    """
    rates = []
    for draw in range(60):
        rows = cloud(400, seed=draw)
        rows[np.random.default_rng(draw).random(400) < 0.2] = 1.5
        found = Cross(detector={"knn": {"n_neighbors": 3}}, folds=5, seed=draw).fit(rows[:200])
        assert isinstance(found, CrossFitted)
        rates.append((cross_p_values(found, rows[200:], found.held_out_scores_) <= 0.1).mean())
    assert 0.075 < np.mean(rates) < 0.115


def test_folds_are_about_equal_and_the_seed_draws_them() -> None:
    """Of 10,000 rows in 10 folds each has 1,000, give or take a standard deviation of 30."""
    rows = cloud(10_000, seed=0)
    folds = Cross(seed=1).fit(cloud(200, seed=1)).fold_of_new(rows)
    assert np.abs(np.bincount(folds, minlength=10) - 1000).max() < 150
    other = Cross(seed=2).fit(cloud(200, seed=1)).fold_of_new(rows)
    assert 0.05 < (folds == other).mean() < 0.15


def test_it_comes_back_with_its_held_out_scores(tmp_path: Path) -> None:
    rows = cloud(60, seed=0, columns=6)
    for shape in ({}, {"image_shape": (2, 3)}, {"series_shape": (3, 2)}):
        found = Cross(detector=KNN, folds=3, **shape).fit(rows)  # type: ignore[arg-type]
        write_part(tmp_path, "detector", found.to_part())
        loaded = load_detector(read_part(tmp_path, "detector"))
        assert isinstance(loaded, CrossFitted)
        np.testing.assert_array_equal(loaded.held_out_scores_, found.held_out_scores_)
        np.testing.assert_array_equal(loaded.fold_of_, found.fold_of_)
        np.testing.assert_array_equal(loaded.fold_scores(rows), found.fold_scores(rows))
        np.testing.assert_array_equal(loaded.fold_of_new(rows), found.fold_of_new(rows))


def test_labelled_anomalies_are_known_to_every_fold_and_in_none() -> None:
    """A single labelled row: a fold fitted without it would have none to learn from."""
    rows, labels = cloud(40, seed=0), np.full(40, -1)
    rows[7], labels[7] = 8, 1
    unfitted = make_detector("cross", {"detector": HSC, "folds": 3}, seed=0, device="cpu")
    assert unfitted.uses_labels
    found = unfitted.fit(rows, labels)
    assert isinstance(found, Cross)
    assert len(found.fold_of_) == len(found.held_out_scores_) == 39
    usual = np.delete(rows, 7, axis=0)
    np.testing.assert_array_equal(found.held_out_scores_, found.fold_scores(usual)[found.fold_of_, np.arange(39)])
    for fold, scaler in enumerate(found.scalers_):  # nor does a labelled row move the scale
        mean = usual[found.fold_of_ != fold].mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(scaler.to_part().arrays["mean"], mean)
    assert learns_from_labels(found.to_part())
    assert load_detector(found.to_part()).uses_labels


def test_labels_are_refused_where_the_inner_detector_cannot_use_them() -> None:
    plain = make_detector("cross", {"detector": KNN}, seed=0)
    assert not plain.uses_labels
    with pytest.raises(InputError, match="cannot use labelled anomalies"):
        plain.fit(cloud(50, seed=0), np.arange(50) % 10 == 0)
    assert not learns_from_labels(plain.fit(cloud(90, seed=0)).to_part())
    with pytest.raises(ConfigError, match="does not pass labels on, and 'cross' learns from them"):
        make_detector("rescaled", {"detector": {"cross": {"detector": HSC}}}, seed=0)


def test_folds_that_cannot_be_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"\d of 10 folds would hold none of the 8 training rows.*lower folds"):
        Cross(detector=KNN).fit(cloud(8, seed=0))
    with pytest.raises(TrainingError, match=r"of 3, fitted on the \d+ rows outside it: n_neighbors is 50"):
        Cross(detector={"knn": {"n_neighbors": 50}}, folds=3).fit(cloud(60, seed=0))
    with pytest.raises(ConfigError, match="folds is 1; it must be an integer >= 2"):
        make_detector("cross", {"folds": 1}, seed=0)


def test_progress_goes_once_from_nothing_to_the_end() -> None:
    told: list[float] = []
    inner = {"autoencoder": {"epochs": 4, "members": 1, "hidden": [4], "latent_dim": 2}}
    Cross(detector=inner, folds=3, device="cpu").fit(
        cloud(60, seed=0), progress=lambda epoch, epochs, _: told.append(epoch / epochs)
    )
    np.testing.assert_allclose(told, np.arange(1, 13) / 12)
