"""What every registered detector must do. A new detector is covered as soon as it is in the registry."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.damage import assert_damaged_parts_are_refused, assert_wrong_parameters_are_refused, crafted_parts

from assay.data.modalities.image import Image
from assay.data.modalities.series import Series
from assay.detectors.base import Detector, Embeds, n_stored_floats
from assay.detectors.registry import DETECTORS, detector_class, load_detector, make_detector
from assay.errors import ConfigError, InputError, ScorerError, TrainingError
from assay.parameters import parameters_of
from assay.parts import Part, read_part, write_part

QUICK = {  # for those that take them
    **{"epochs": 20, "pretrain_epochs": 5, "members": 2, "sample_size": 64, "folds": 3},
    "of": ["knn", {"isolation_forest": {"n_estimators": 20}}],
}
FEW = 110  # `blend` takes 100
NEED_LABELS = {"contradicting", "devnet", "hsc"}
# mcd: the seed only says where a search starts, here always with the same end; reach: which of very many rows are
# kept; the wrappers wrap knn
SEED_RARELY_MATTERS = {"mcd", "reach", "rescaled", "trimmed"}
READ_WORDS = {"cvdd"}  # rows of words, not of numbers: methods/test_cvdd.py
NAMES = sorted(DETECTORS.keys() - READ_WORDS)
EMBEDDING = [name for name in NAMES if hasattr(detector_class(name), "embed")]

Floats = NDArray[np.float32]


def rows(n: int, seed: int) -> Floats:
    """Rows near a plane in five dimensions, with one constant column."""
    rng = np.random.default_rng(seed)
    plane = rng.normal(size=(n, 2)) @ np.array([[1.0, 0.5, -0.5, 0.2, 0.0], [0.0, 1.0, 0.5, -0.7, 0.0]])
    noise = 0.1 * rng.normal(size=(n, 5)) * [1, 1, 1, 1, 0]
    return np.asarray(plane + noise, dtype=np.float32)


def labels(name: str, given: Floats) -> NDArray[np.int8] | None:
    """Label every tenth row as an anomaly, for the detectors that need some."""
    if name not in NEED_LABELS:
        return None
    return np.where(np.arange(len(given)) % 10 == 9, 1, -1).astype(np.int8)


def learn(detector: Detector, given: Floats) -> Detector:
    """Fit on rows; where anomalies are needed, every tenth row is moved away and labelled as one."""
    known = labels(detector.kind, given)
    if known is None:
        return detector.fit(given)
    far = np.where(known[:, None] == 1, given + np.float32([6, -6, 6, 6, 0][: given.shape[1]]), given)
    return detector.fit(far, known)


def new(name: str, seed: int = 0, device: str = "cpu") -> Detector:
    allowed = parameters_of(detector_class(name))
    quick = {key: value for key, value in QUICK.items() if key in allowed}
    return make_detector(name, quick, seed=seed, device=device)


@pytest.fixture(scope="module", params=NAMES)
def fitted(request: pytest.FixtureRequest) -> Detector:
    return learn(new(request.param), rows(300, seed=0))


def saved_bytes(detector: Detector, folder: Path) -> bytes:
    write_part(folder, "detector", detector.to_part())
    return (folder / "detector.json").read_bytes() + (folder / "detector.safetensors").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_the_registry_and_the_class_agree(name: str) -> None:
    cls = detector_class(name)
    assert cls.kind == name
    assert set(cls().get_params()) == set(parameters_of(cls))
    assert isinstance(learn(new(name), rows(FEW, seed=0)), Detector)


@pytest.mark.parametrize("name", NAMES)
def test_keeps_constructor_arguments(name: str) -> None:
    detector = new(name)
    before = detector.get_params()
    copy = clone(detector)
    assert copy.get_params() == before
    copy.set_params(**before)
    assert learn(detector, rows(FEW, seed=0)) is detector
    assert detector.get_params() == before


def test_a_detector_is_a_step_of_a_pipeline_of_scikit_learn():
    raw = 5 + 3 * np.random.default_rng(0).normal(size=(100, 4))
    pipeline = make_pipeline(StandardScaler(), make_detector("knn", {}, seed=0, device="cpu")).fit(raw)
    alone = make_detector("knn", {}, seed=0, device="cpu").fit(StandardScaler().fit_transform(raw).astype(np.float32))
    scaled = StandardScaler().fit(raw).transform(raw).astype(np.float32)
    np.testing.assert_array_equal(pipeline.decision_function(raw), alone.decision_function(scaled))


@pytest.mark.parametrize("name", NAMES)
def test_needs_fitting_first(name: str) -> None:
    with pytest.raises(NotFittedError):
        new(name).decision_function(rows(3, seed=1))
    with pytest.raises(NotFittedError):
        new(name).to_part()


def test_knows_its_width(fitted: Detector) -> None:
    assert fitted.n_features_in_ == 5


def test_an_outlier_scores_high(fitted: Detector) -> None:
    usual = fitted.decision_function(rows(300, seed=0))
    outliers = np.array([[6, -6, 6, 6, 0], [-3, 3, 3, -3, 0]], dtype=np.float32)
    outliers = outliers[:1] if fitted.kind == "devnet" else outliers  # it learns a direction, not a region
    assert (fitted.decision_function(outliers) > np.quantile(usual, 0.95)).all()


def test_scores_are_float32_and_none_for_no_rows(fitted: Detector) -> None:
    scores = fitted.decision_function(rows(4, seed=1))
    assert scores.dtype == np.float32
    assert scores.shape == (4,)
    empty = fitted.decision_function(np.empty((0, 5), dtype=np.float32))
    assert empty.dtype == np.float32
    assert empty.shape == (0,)


def test_a_row_scores_the_same_in_any_company(fitted: Detector) -> None:
    many = np.concatenate([rows(1200, seed=1), 20 * rows(300, seed=2)])
    scores = fitted.decision_function(many)
    order = np.random.default_rng(3).permutation(len(many))
    np.testing.assert_array_equal(fitted.decision_function(many[order]), scores[order])
    some = order[:60]
    alone = np.concatenate([fitted.decision_function(many[i : i + 1]) for i in some])
    np.testing.assert_array_equal(alone, scores[some])


def test_rows_far_beyond_all_others_have_finite_scores(fitted: Detector) -> None:
    far = np.array([[1e30] * 5, [-3e38] * 5], dtype=np.float32)
    assert np.isfinite(fitted.decision_function(far)).all()


def test_scores_survive_saving_exactly(fitted: Detector, tmp_path: Path) -> None:
    many = np.concatenate([rows(1000, seed=1), 20 * rows(200, seed=2)])
    write_part(tmp_path, "detector", fitted.to_part())
    loaded = load_detector(read_part(tmp_path, "detector"))
    assert loaded.n_features_in_ == fitted.n_features_in_
    np.testing.assert_array_equal(loaded.decision_function(many), fitted.decision_function(many))
    assert saved_bytes(loaded, tmp_path / "a") == saved_bytes(fitted, tmp_path / "b")


@pytest.mark.parametrize("fitted", EMBEDDING, indirect=True)
def test_codes_are_finite_float32_for_every_member(fitted: Detector) -> None:
    assert isinstance(fitted, Embeds)
    codes = fitted.embed(rows(600, seed=1))
    members, n, width = codes.shape
    assert n == 600
    assert min(members, width) > 0
    assert codes.dtype == np.float32
    assert (codes.std(axis=1).max(axis=1) > 0).all()
    assert fitted.embed(np.empty((0, 5), dtype=np.float32)).shape == (members, 0, width)
    far = np.array([[1e30] * 5, [-3e38] * 5, [3e38, -3e38, 3e38, -3e38, 0]], dtype=np.float32)
    assert np.isfinite(fitted.embed(np.concatenate([far, rows(2, seed=1)]))).all()


@pytest.mark.parametrize("fitted", EMBEDDING, indirect=True)
def test_codes_of_a_row_are_the_same_in_any_company_and_after_saving(fitted: Any, tmp_path: Path) -> None:
    many = np.concatenate([rows(1000, seed=1), 20 * rows(200, seed=2)])
    codes, order = fitted.embed(many), np.random.default_rng(3).permutation(len(many))
    np.testing.assert_array_equal(fitted.embed(many[order]), codes[:, order])
    some = order[:60]
    alone = np.concatenate([fitted.embed(many[i : i + 1]) for i in some], axis=1)
    np.testing.assert_array_equal(alone, codes[:, some])
    write_part(tmp_path, "detector", fitted.to_part())
    loaded: Any = load_detector(read_part(tmp_path, "detector"))
    np.testing.assert_array_equal(loaded.embed(many), codes)


@pytest.mark.parametrize("fitted", EMBEDDING, indirect=True)
def test_codes_need_a_fitted_detector_and_rows_that_fit(fitted: Any) -> None:
    with pytest.raises(NotFittedError):
        clone(fitted).embed(rows(3, seed=1))
    for bad in (np.zeros((2, 4)), np.zeros(5), np.full((2, 5), np.nan)):
        with pytest.raises(InputError):
            fitted.embed(bad)


def test_those_with_a_latent_space_embed() -> None:
    latent = {
        "autoencoder",
        "contradicting",
        "dagmm",
        "deep_sad",
        "deep_svdd",
        "denoising_autoencoder",
        "devnet",
        "hsc",
    }
    assert set(EMBEDDING) >= latent | {"loe", "ncae", "pca", "rapp", "realnvp", "rescaled", "trimmed", "vae"}


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_bytes(name: str, tmp_path: Path) -> None:
    def trained(seed: int, folder: str) -> bytes:
        arrays = learn(new(name, seed), rows(150, seed=0)).to_part().arrays
        return saved_bytes_of(arrays, tmp_path / folder)

    first = trained(0, "a")
    assert trained(0, "b") == first
    if "seed" in parameters_of(detector_class(name)) and name not in SEED_RARELY_MATTERS:
        assert trained(1, "c") != first


def saved_bytes_of(arrays: dict[str, NDArray[np.generic]], folder: Path) -> bytes:
    write_part(folder, "x", Part("x", {}, arrays))
    return (folder / "x.safetensors").read_bytes()


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, 4)),
        np.zeros((2, 6)),
        np.zeros(5),
        np.zeros((1, 2, 5)),
        np.full((2, 5), np.nan),
        np.full((2, 5), -np.inf),
        np.full((2, 5), 1e300),
        np.full((2, 5), "1"),
        [[1.0, 2.0], [3.0]],
    ],
    ids=["narrow", "wide", "1-D", "3-D", "NaN", "infinite", "beyond float32", "text", "ragged"],
)
def test_refuses_rows_that_do_not_fit(fitted: Detector, bad: object) -> None:
    with pytest.raises(InputError):
        fitted.decision_function(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_refuses_training_rows_that_teach_nothing(name: str) -> None:
    with pytest.raises(InputError, match="row 1, column 2"):
        new(name).fit(np.array([[1, 2, 3], [4, 5, np.nan], [7, 8, 9]], dtype=np.float32))
    for given in (rows(1, seed=0), np.ones((60, 3), dtype=np.float32)):
        with pytest.raises(TrainingError):
            new(name).fit(given, labels(name, given))


def test_reads_only_memory_and_leaves_rows_alone(fitted: Detector) -> None:
    given = rows(FEW, seed=1)
    given.setflags(write=False)
    fitted.decision_function(given)
    again = clone(fitted)
    again.fit(given, labels(fitted.kind, given)).decision_function(given)
    np.testing.assert_array_equal(given, rows(FEW, seed=1))


def test_counts_what_it_stores(fitted: Detector) -> None:
    part = fitted.to_part()
    assert n_stored_floats(part) == sum(array.size for array in part.arrays.values()) > 0


@pytest.mark.parametrize("name", NAMES)
def test_labelled_anomalies_are_used_or_refused(name: str) -> None:
    cls = detector_class(name)
    given = rows(FEW, seed=0)
    labels = np.where(np.arange(FEW) % 10 == 9, 1, -1)
    if cls.uses_labels:
        far = np.where(labels[:, None] == 1, given + np.float32([6, -6, 6, 6, 0]), given)
        informed = new(name).fit(far, labels).decision_function(far)
        assert informed[labels == 1].mean() > informed[labels == -1].mean()
    else:
        with pytest.raises(InputError, match="cannot use labelled anomalies, and 11 rows"):
            new(name).fit(given, labels)
    for wrong in (labels[1:], labels * 2, labels.astype(float) + 0.5):
        with pytest.raises(InputError, match="label"):
            new(name).fit(given, wrong)


@pytest.mark.parametrize("name", sorted(NEED_LABELS & DETECTORS.keys()))
def test_those_that_need_labelled_anomalies_say_so(name: str) -> None:
    with pytest.raises(TrainingError, match="label"):
        new(name).fit(rows(FEW, seed=0))


def test_damaged_parts_are_refused(fitted: Detector) -> None:
    assert_damaged_parts_are_refused("detector", load_detector, fitted.to_part())


def test_crafted_parts_are_refused_or_score(fitted: Detector) -> None:
    """No number in a part ends the process, or gives scores that are not numbers."""
    n_refused = 0
    for what, crafted in crafted_parts(fitted.to_part()):
        try:
            loaded = load_detector(crafted)
        except ScorerError:
            n_refused += 1
            continue
        assert not what.endswith(("nan", "inf")), what
        scores, trial = loaded.decision_function(rows(5, seed=1)), loaded.decision_function(np.zeros((1, 5), "f"))
        assert np.isfinite(scores).all() or not np.isfinite(trial).all(), what  # a scorer is loaded after such a trial
    assert n_refused > 0


@pytest.mark.parametrize("name", NAMES)
def test_what_is_declared_is_checked(name: str) -> None:
    cls = detector_class(name)
    assert "__dataclass_params__" in vars(cls)  # else its own declarations would be passed over

    needed = {"of": QUICK["of"]} if name == "blend" else {}  # which names no members by default

    def make(params: Mapping[str, Any]) -> None:
        cls(**{**needed, **params}).fit(rows(50, seed=0))

    assert_wrong_parameters_are_refused(f"detector {name!r}", cls, make)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ScorerError, match="autoencoder"):
        load_detector(Part("os.system", {}, {}))


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [
        ("forest", {}, ["forest", "isolation_forest", "knn"]),
        ("knn", {"neighbours": 3}, ["neighbours", "n_neighbors"]),
        ("knn", {"n_neighbors": 0}, ["n_neighbors", "0", "integer >= 1"]),
        ("knn", {"n_neighbors": True}, ["True", "integer >= 1"]),
        ("isolation_forest", {"n_estimators": "many"}, ["'many'", "integer from 1 to 100000"]),
        ("isolation_forest", {"n_estimators": 10**9}, ["1000000000", "integer from 1 to 100000"]),
        ("autoencoder", {"latent_dim": 10**9}, ["1000000000", "integer from 1 to 65536"]),
        ("autoencoder", {"members": 10**6}, ["1000000", "integer from 1 to 1000"]),
        ("isolation_forest", {"seed": 1}, ["seed", "n_estimators"]),
        ("autoencoder", {"hidden": 64}, ["hidden", "list of integers"]),
        ("autoencoder", {"learning_rate": float("nan")}, ["learning_rate", "nan", "> 0"]),
        ("autoencoder", {"device": "cpu"}, ["device", "latent_dim"]),
        ("mcd", {"n_estimators": 3}, ["mcd", "none"]),
    ],
)
def test_wrong_parameters_are_refused_by_name(name: str, params: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        make_detector(name, params, seed=0)
    assert all(word in str(caught.value) for word in words), caught.value


def test_wrong_parameters_are_refused_when_fitting() -> None:
    with pytest.raises(ConfigError, match="epochs is 0"):
        detector_class("autoencoder")(epochs=0).fit(rows(50, seed=0))


def test_what_the_run_sets_reaches_those_that_take_it() -> None:
    by_run: dict[str, Any] = {"seed": 7, "modality": Image((8, 8)), "device": "cpu"}
    assert {"series_shape": (10, 2)}.items() <= make_detector(
        "lstm_predictor", {}, seed=0, modality=Series((10, 2))
    ).get_params().items()
    given = {"seed": 7, "image_shape": (8, 8), "device": "cpu"}
    assert given.items() <= make_detector("autoencoder", {}, **by_run).get_params().items()
    assert not given.keys() & make_detector("knn", {}, **by_run).get_params().keys()
    with pytest.raises(ConfigError, match="'tpu'; it must be one of 'auto', 'cpu', 'cuda'"):
        make_detector("autoencoder", {}, seed=0, device="tpu")
    with pytest.raises(ConfigError, match="seed is -1"):
        make_detector("mcd", {}, seed=-1)
    for name in ("mcd", "isolation_forest", "sklearn.ensemble.IsolationForest"):
        with pytest.raises(ConfigError, match="seed is 4294967296; it must be an integer from 0 to 4294967295"):
            make_detector(name, {}, seed=2**32)


def test_the_names_are_known_without_torch() -> None:
    code = "import sys; from assay.detectors.registry import DETECTORS; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_trained_on_a_gpu_it_scores_on_a_cpu(tmp_path: Path) -> None:
    detector = new("autoencoder", device="cuda").fit(rows(300, seed=0))
    write_part(tmp_path, "detector", detector.to_part())
    loaded = load_detector(read_part(tmp_path, "detector"))
    np.testing.assert_array_equal(
        loaded.decision_function(rows(50, seed=1)), detector.decision_function(rows(50, seed=1))
    )
