"""Detectors around a detector: rescaled, subsampled, trimmed, cross."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from assay.data.modalities.image import Image
from assay.detectors.base import Embeds, Suspects
from assay.detectors.registry import load_detector, make_detector, unpackageable
from assay.detectors.wrappers.cross import Cross
from assay.detectors.wrappers.rescaled import Rescaled
from assay.detectors.wrappers.subsampled import Subsampled
from assay.detectors.wrappers.trimmed import Trimmed
from assay.errors import ConfigError, InputError, ScorerError, TrainingError
from assay.evaluation.metrics import auprc
from assay.parts import read_part, write_part
from assay.scorer.folder import write_scorer

WRAPPERS = [Rescaled, Subsampled, Trimmed, Cross]
FEW: dict[type[Any], dict[str, Any]] = {Subsampled: {"samples": 2}, Cross: {"folds": 2}}
Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]


def cloud(n: int, seed: int, columns: int = 4) -> Floats:
    return np.random.default_rng(seed).normal(size=(n, columns)).astype(np.float32)


def cluster(n: int, seed: int, columns: int = 4) -> Floats:
    """A dense group six standard deviations from the cloud's middle."""
    middle = np.full(columns, 6 / np.sqrt(columns))
    return (middle + 0.3 * np.random.default_rng(seed).normal(size=(n, columns))).astype(np.float32)


def contaminated(n: int, n_bad: int, seed: int) -> tuple[Floats, Flags]:
    rows = np.concatenate([cloud(n, seed), cluster(n_bad, seed + 1)])
    order = np.random.default_rng(seed).permutation(len(rows))
    return rows[order], order >= n


def saved(detector: Any, folder: Path) -> bytes:
    write_part(folder, "detector", detector.to_part())
    return (folder / "detector.json").read_bytes() + (folder / "detector.safetensors").read_bytes()


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(
    "inner",
    [
        {"isolation_forest": {"n_estimators": 10}},
        {"knn": {"n_neighbors": 3}},
        {"subsampled": {"samples": 2, "detector": {"rescaled": None}}},
    ],
    ids=["forest", "knn", "nested"],
)
def test_any_detector_goes_in_and_comes_back(wrapper: type[Any], inner: Any, tmp_path: Path) -> None:
    rows, _ = contaminated(380, 20, seed=0)
    few = FEW.get(wrapper, {})
    detector = wrapper(detector=inner, device="cpu", seed=4, **few).fit(rows)
    first, again = (
        saved(detector, tmp_path / "a"),
        saved(wrapper(detector=inner, seed=4, **few).fit(rows), tmp_path / "b"),
    )
    assert first == again
    loaded = load_detector(read_part(tmp_path / "a", "detector"))
    scores = detector.decision_function(rows)
    np.testing.assert_array_equal(loaded.decision_function(rows), scores)
    np.testing.assert_array_equal(
        np.concatenate([loaded.decision_function(row[None]) for row in rows[:50]]), scores[:50]
    )
    assert saved(loaded, tmp_path / "c") == first


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(
    ("inner", "words"),
    [
        ("nobody", ["nobody", "knn"]),
        ({"knn": {"neighbours": 3}}, ["neighbours", "n_neighbors"]),
        ({"knn": {"n_neighbors": 0}}, ["n_neighbors", "integer >= 1"]),
        ({"knn": {}, "mcd": {}}, ["{name: {parameter: value}}"]),
        (["knn"], ["{name: {parameter: value}}"]),
    ],
)
def test_a_wrong_inner_detector_is_refused(wrapper: type[Any], inner: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        wrapper(detector=inner).fit(cloud(50, seed=0))
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrong_inner_detector_is_refused_before_any_rows_are_there(wrapper: type[Any]) -> None:
    for inner in ("forest", {"rescaled": {"detector": "forest"}}):
        with pytest.raises(ConfigError, match="no detector 'forest'"):
            make_detector(wrapper.kind, {"detector": inner}, seed=0)


@pytest.mark.parametrize("wrapper", [Rescaled, Subsampled, Trimmed])
def test_an_inner_detector_that_learns_from_labels_is_refused(wrapper: type[Any]) -> None:
    with pytest.raises(ConfigError, match="does not pass labels on, and 'hsc' learns from them"):
        make_detector(wrapper.kind, {"detector": "hsc"}, seed=0)


def test_suspicions_beyond_float32_stay_finite() -> None:
    far = np.full((20, 4), 3e38, dtype=np.float32)
    assert np.isfinite(Trimmed().fit(np.concatenate([cloud(300, seed=0), far])).suspicion_).all()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_labelled_anomalies_are_refused(wrapper: type[Any]) -> None:
    with pytest.raises(InputError, match="label 1"):
        wrapper().fit(cloud(50, seed=0), np.r_[1, np.zeros(49, dtype=int)])


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_too_few_rows_for_the_inner_detector_are_refused(wrapper: type[Any]) -> None:
    for n in (0, 1, 4):
        with pytest.raises((TrainingError, InputError)):
            wrapper(detector={"knn": {"n_neighbors": 5}}).fit(cloud(n, seed=0))


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_names_a_class_may_be_wrapped_and_never_packaged(wrapper: type[Any], tmp_path: Path) -> None:
    detector = wrapper(detector="sklearn.svm.OneClassSVM", **FEW.get(wrapper, {})).fit(cloud(60, seed=0))
    part = detector.to_part()
    some = cloud(5, seed=1)
    np.testing.assert_array_equal(load_detector(part).decision_function(some), detector.decision_function(some))
    assert "OneClassSVM has no array form" in unpackageable(part)
    assert unpackageable(wrapper(detector="knn").fit(cloud(60, seed=0)).to_part()) == ""
    with pytest.raises(ScorerError, match="OneClassSVM"):
        write_scorer(tmp_path, {}, {"detector": part})


def test_what_the_run_sets_reaches_the_inner_detector() -> None:
    rows = np.random.default_rng(0).uniform(size=(40, 64)).astype(np.float32)
    inner = {"autoencoder": {"epochs": 1, "members": 1}}
    detector = make_detector("trimmed", {"detector": inner}, seed=3, modality=Image((8, 8)), device="cpu").fit(rows)
    assert isinstance(detector, Trimmed)
    assert {"seed": 3, "image_shape": (8, 8), "device": "cpu"}.items() <= detector.detector_.get_params().items()


@pytest.mark.parametrize("wrapper", [Rescaled, Trimmed])
def test_the_codes_are_the_inner_detectors(wrapper: type[Any]) -> None:
    rows = cloud(300, seed=0)
    detector = wrapper(detector={"pca": {"n_components": 2}}).fit(rows)
    assert isinstance(detector, Embeds)
    given = (rows - rows.min(axis=0)) / np.ptp(rows, axis=0) if wrapper is Rescaled else rows
    inner: Any = make_detector("pca", {"n_components": 2}, seed=0).fit(given)
    codes = detector.embed(rows)
    assert codes.shape == (1, 300, 2)
    np.testing.assert_allclose(codes, inner.embed(given), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(wrapper(detector="knn").fit(rows).embed(rows)[0], given, rtol=1e-4, atol=1e-4)


def test_rescaled_undoes_the_standard_scale() -> None:
    raw = np.random.default_rng(0).lognormal(size=(200, 3)) * [1, 50, 0.1]
    standard = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    in_range = (raw - raw.min(axis=0)) / np.ptp(raw, axis=0)
    wrapped = Rescaled(detector={"knn": {"n_neighbors": 3}}).fit(standard.astype(np.float32))
    plain = make_detector("knn", {"n_neighbors": 3}, seed=0).fit(in_range.astype(np.float32))
    np.testing.assert_allclose(
        wrapped.decision_function(standard.astype(np.float32)),
        plain.decision_function(in_range.astype(np.float32)),
        atol=1e-5,
    )


def test_rescaled_bears_constant_columns_and_far_rows() -> None:
    rows = cloud(50, seed=0)
    rows[:, 1] = 7
    detector = Rescaled().fit(rows)
    far = np.full((1, 4), 3e38, dtype=np.float32)
    assert np.isfinite(detector.decision_function(np.concatenate([rows, far]))).all()


def test_subsampled_takes_all_rows_where_there_are_too_few() -> None:
    rows = cloud(100, seed=0)
    detector = Subsampled(samples=3, sample_size=256).fit(rows)
    plain = make_detector("knn", {}, seed=0).fit(rows)
    np.testing.assert_allclose(detector.decision_function(rows), plain.decision_function(rows), rtol=1e-6)


def test_subsampled_unmasks_one_percent() -> None:
    rows, bad = contaminated(1980, 20, seed=0)
    plain = make_detector("knn", {}, seed=0).fit(rows).decision_function(rows)
    unmasked = Subsampled(seed=0).fit(rows).decision_function(rows)
    assert auprc(bad.astype(np.int8), plain) < 0.3
    assert auprc(bad.astype(np.int8), unmasked) > 0.9


def test_trimmed_is_the_inner_detector_when_nothing_is_suspicious(tmp_path: Path) -> None:
    rows = cloud(500, seed=0)
    for inner in ("knn", "isolation_forest"):
        trimmed = Trimmed(detector=inner, seed=2).fit(rows)
        assert not trimmed.suspects_.any()
        assert trimmed.rho_ == trimmed.rho_low_ == 0
        plain = make_detector(inner, {}, seed=2).fit(rows)
        assert saved(trimmed.detector_, tmp_path / inner) == saved(plain, tmp_path / f"{inner}-plain")


def test_trimmed_finds_a_cluster_that_neighbours_vouch_for() -> None:
    rows, bad = contaminated(980, 20, seed=0)
    test = np.concatenate([cloud(500, seed=10), cluster(25, seed=11)])
    truth = (np.arange(525) >= 500).astype(np.int8)
    trimmed = Trimmed().fit(rows)
    assert isinstance(trimmed, Suspects)
    np.testing.assert_array_equal(trimmed.suspects_, bad)
    assert trimmed.suspicion_.dtype == np.float32
    assert trimmed.suspicion_[bad].min() > np.quantile(trimmed.suspicion_[~bad], 0.99)
    plain = make_detector("knn", {}, seed=0).fit(rows)
    clean = make_detector("knn", {}, seed=0).fit(rows[~bad])
    assert auprc(truth, plain.decision_function(test)) < 0.3
    np.testing.assert_array_equal(trimmed.decision_function(test), clean.decision_function(test))


@pytest.mark.parametrize(("n_bad", "rho"), [(0, 0.0), (12, 0.02), (48, 0.08)])
def test_the_interval_covers_the_share_of_a_cluster(n_bad: int, rho: float) -> None:
    """Over 12 redraws: of a true coverage of .95, fewer than 9 would come twice in 10,000."""
    covered = 0
    for draw in range(12):
        found = Trimmed().fit(contaminated(600 - n_bad, n_bad, seed=100 * draw)[0])
        covered += found.rho_low_ <= rho <= found.rho_high_
        assert found.rho_low_ <= found.rho_ <= found.rho_high_
    assert covered >= 9


def test_two_clusters_are_both_found() -> None:
    other = cluster(30, seed=5) * np.array([1, -1, 1, -1], dtype=np.float32)
    rows = np.concatenate([cloud(900, seed=3), cluster(30, seed=4), other])
    found = Trimmed().fit(rows)
    assert found.suspects_[900:].mean() > 0.95
    assert found.suspects_[:900].mean() < 0.02
    np.testing.assert_array_equal(found.groups_ > 0, found.suspects_)
    first, second = found.groups_[900:930], found.groups_[930:]
    assert not set(first[first > 0]) & set(second[second > 0])
    highest = [found.separation_[found.groups_ == group].max() for group in range(1, found.groups_.max() + 1)]
    assert highest == sorted(highest, reverse=True)
    assert min(np.bincount(found.groups_)[1:]) >= 12


def test_a_group_with_rows_that_are_known_to_be_normal_is_not_trimmed() -> None:
    other = cluster(30, seed=5) * np.array([1, -1, 1, -1], dtype=np.float32)
    rows = np.concatenate([cloud(900, seed=3), cluster(30, seed=4), other])
    labels = np.full(len(rows), -1)
    labels[np.r_[0:90, 900:903]] = 0
    found = Trimmed().fit(rows, labels)
    assert not found.suspects_[:930].any()
    assert found.suspects_[930:].mean() > 0.95
    assert found.rho_low_ <= found.rho_ <= found.rho_high_
    all_normal = Trimmed().fit(rows, np.zeros(len(rows), dtype=int))
    assert not all_normal.suspects_.any()
    assert all_normal.rho_high_ < 0.01


@pytest.mark.parametrize("seed", range(4))
def test_where_most_rows_are_copies_the_others_are_no_suspects(seed: int) -> None:
    rows = np.concatenate([np.zeros((500, 4), dtype=np.float32), cloud(300, seed)])
    found = Trimmed().fit(rows)
    assert np.isfinite(found.separation_).all()
    assert found.suspects_.mean() < 0.02
    found = Trimmed().fit(np.concatenate([rows, cluster(20, seed)]))
    assert found.suspects_[-20:].all()
    assert found.suspects_[:-20].mean() < 0.02


def test_a_single_column_has_no_suspects() -> None:
    assert not Trimmed().fit(cloud(500, seed=0, columns=1)).suspects_.any()


def test_many_rows_are_sampled_for_what_is_usual() -> None:
    rows = np.concatenate([cloud(21_000, seed=0, columns=2), cluster(300, seed=1, columns=2)])
    found = Trimmed(detector="isolation_forest").fit(rows)
    assert found.suspects_[21_000:].mean() > 0.95
    assert found.suspects_[:21_000].mean() < 0.005


@pytest.mark.parametrize(("classes", "size"), [(10, 100), (9, 110)])
def test_no_class_is_suspect_where_all_rows_lie_in_classes(classes: int, size: int) -> None:
    """Each stands apart from the others, which is usual here."""
    for seed in range(5):
        middles = np.repeat([(3 * (i % 5), 3 * (i // 5)) for i in range(classes)], size, axis=0)
        rows = middles + 0.4 * np.random.default_rng(seed).normal(size=middles.shape)
        assert not Trimmed().fit(rows.astype(np.float32)).suspects_.any()


@pytest.mark.parametrize("share", [0.15, 0.3, 0.45])
def test_never_trims_more_than_one_and_a_half_times_the_stated_share(share: float) -> None:
    n_bad = int(1000 * share)
    rows, _ = contaminated(1000 - n_bad, n_bad, seed=1)
    assert Trimmed().fit(rows).suspects_.mean() <= 0.15
    assert not Trimmed().fit(rows).suspects_.any()  # one group above the share is taken for a normal class
    many = np.concatenate([cloud(600, seed=1), *(cluster(40, seed=s) * (1 + s) for s in range(10))])
    assert Trimmed().fit(many).suspects_.mean() <= 0.15


def test_too_few_rows_to_suspect_anything() -> None:
    rows, _ = contaminated(90, 20, seed=0)
    assert not Trimmed().fit(rows).suspects_.any()


def test_copies_of_one_row_do_no_harm() -> None:
    rows = np.round(cloud(600, seed=0))
    found = Trimmed().fit(rows)
    assert np.isfinite(found.suspicion_).all()
    assert found.suspects_.mean() < 0.15
    half = np.concatenate([np.zeros((400, 4), dtype=np.float32), cloud(300, seed=1)])
    assert np.isfinite(Trimmed().fit(half).suspicion_).all()


@pytest.mark.parametrize("most", [0, 0.2, -1, float("nan"), "0.1"])
def test_trimmed_refuses_a_share_that_is_none(most: Any) -> None:
    with pytest.raises(ConfigError, match=r"between 0 and 0\.2"):
        Trimmed(most=most).fit(cloud(50, seed=0))
