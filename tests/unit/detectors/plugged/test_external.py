"""Any class of scikit-learn or PyOD by its path: what passes the probe, what is refused, what is left as found."""

import json
import os
import random
import socket
import socketserver
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.svm import OneClassSVM
from threadpoolctl import threadpool_info

from assay.detectors.base import Detector
from assay.detectors.plugged.external import External
from assay.detectors.plugged.isolation import isolated
from assay.detectors.plugged.probe import probe_rows, require_steady
from assay.detectors.plugged.specification import fitted
from assay.detectors.registry import load_detector, make_detector, unpackageable
from assay.errors import ConfigError, InputError, ScorerError, TrainingError
from assay.parts import Part, read_part, write_part

Floats = NDArray[np.float32]
USABLE: dict[str, dict[str, Any]] = {
    "sklearn.svm.OneClassSVM": {"nu": 0.1},
    "sklearn.mixture.GaussianMixture": {"n_components": 3},
    "sklearn.neighbors.LocalOutlierFactor": {"novelty": True},
    "sklearn.ensemble.IsolationForest": {"n_estimators": 20},
    "pyod.models.hbos.HBOS": {},
    "pyod.models.iforest.IForest": {"n_estimators": 20},
    "pyod.models.knn.KNN": {"n_neighbors": 1},
    "pyod.models.lof.LOF": {},
    "pyod.models.ocsvm.OCSVM": {},
    "pyod.models.pca.PCA": {},
    "pyod.models.mcd.MCD": {},
    "pyod.models.gmm.GMM": {},
    "pyod.models.auto_encoder.AutoEncoder": {"epoch_num": 3},
    "pyod.models.deep_svdd.DeepSVDD": {"n_features": 5, "epochs": 2},
    "pyod.models.lunar.LUNAR": {"n_epochs": 3},
}
DRAWS_NUMBERS: dict[str, dict[str, Any]] = {
    "sklearn.mixture.GaussianMixture": {"n_components": 3, "init_params": "random", "max_iter": 1},
    "sklearn.ensemble.IsolationForest": {"n_estimators": 20},
    "pyod.models.iforest.IForest": {"n_estimators": 20},
    "pyod.models.auto_encoder.AutoEncoder": {"epoch_num": 1},
}
# Scores that jump where a row lies on an edge of a histogram or on a sphere, as training rows do: the rounding of a
# product of matrices, which may differ alone and in a batch, decides on some processors.
JUMPING: dict[str, dict[str, Any]] = {
    "pyod.models.loda.LODA": {},
    "pyod.models.inne.INNE": {"n_estimators": 20},
}


def rows(n: int, seed: int) -> Floats:
    """Rows near a plane in five dimensions."""
    rng = np.random.default_rng(seed)
    plane = rng.normal(size=(n, 2)) @ rng.normal(size=(2, 5))
    return np.asarray(plane + 0.1 * rng.normal(size=(n, 5)), dtype=np.float32)


TRAIN = rows(200, seed=0)
OTHERS = np.concatenate([rows(60, seed=1), 8 * rows(20, seed=2)])


def new(path: str, params: dict[str, Any] | None = None, seed: int = 0) -> Detector:
    return make_detector(path, params or {}, seed=seed)


@pytest.mark.parametrize("path", USABLE)
def test_a_usable_one_is_fitted_saved_and_fitted_again_the_same(path: str, tmp_path: Path) -> None:
    detector = new(path, USABLE[path]).fit(TRAIN)
    assert isinstance(detector, Detector)
    assert (detector.kind, detector.n_features_in_, detector.uses_labels) == ("external", 5, False)
    scores = detector.decision_function(OTHERS)
    assert scores.dtype == np.float32
    assert np.median(scores[60:]) > np.median(detector.decision_function(TRAIN))
    write_part(tmp_path, "x", detector.to_part())
    fitted.cache_clear()
    loaded = load_detector(read_part(tmp_path, "x"))
    np.testing.assert_array_equal(loaded.decision_function(OTHERS), scores)
    assert fitted.cache_info().misses == 1
    assert loaded.to_part().config == detector.to_part().config


@pytest.mark.parametrize("path", JUMPING)
def test_one_that_jumps_is_usable_exactly_where_its_scores_do_not_depend_on_the_batch(path: str) -> None:
    detector = new(path, JUMPING[path])
    assert isinstance(detector, External)
    some = probe_rows(TRAIN)
    with isolated(path, 0):
        native = fitted(detector._specification(TRAIN))
        batch, alone = native.score(some), np.concatenate([native.score(row[None]) for row in some])
    if np.allclose(alone, batch, rtol=1e-5, atol=1e-5 * np.ptp(batch)):
        assert detector.fit(TRAIN).decision_function(OTHERS).shape == (80,)
    else:
        with pytest.raises(TrainingError, match="alone and in a batch"):
            detector.fit(TRAIN)


@pytest.mark.parametrize(
    ("path", "params", "words"),
    [
        ("pyod.models.ecod.ECOD", {}, "alone and in a batch"),
        ("pyod.models.copod.COPOD", {}, "alone and in a batch"),
        ("pyod.models.dif.DIF", {"n_ensemble": 2, "n_estimators": 2}, "alone and in a batch"),
        ("pyod.models.vae.VAE", {"epoch_num": 1}, "the second time: it draws random numbers"),
        ("pyod.models.alad.ALAD", {"epochs": 1}, "the second time: it draws random numbers"),
        ("sklearn.neural_network.BernoulliRBM", {"n_iter": 1}, "alone and in a batch"),
        ("pyod.models.cof.COF", {}, "cannot score 1 rows: IndexError"),
        ("pyod.models.mad.MAD", {}, "cannot be fitted: ValueError: MAD algorithm is just for univariate"),
        ("sklearn.svm.OneClassSVM", {"nu": 7}, "cannot be fitted: InvalidParameterError"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(path: str, params: dict[str, Any], words: str) -> None:
    with pytest.raises(TrainingError, match=words) as caught:
        new(path, params).fit(TRAIN)
    assert path in str(caught.value)


def test_want_of_memory_is_no_fault_of_the_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    def lack(*_: Any) -> None:
        raise MemoryError

    detector = new("sklearn.svm.OneClassSVM", {"nu": 0.3})
    for method in ("score_samples", "fit"):
        fitted.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(OneClassSVM, method, lack)
            with pytest.raises(MemoryError):
                detector.fit(TRAIN)


def test_scores_are_those_of_the_class_with_scikit_learns_turned_round() -> None:
    from pyod.models.knn import KNN

    exact, wide = TRAIN.astype(np.float64), OTHERS.astype(np.float64)
    svm = new("sklearn.svm.OneClassSVM", {"nu": 0.1}).fit(TRAIN).decision_function(OTHERS)
    np.testing.assert_allclose(svm, -OneClassSVM(nu=0.1).fit(exact).score_samples(wide), rtol=1e-6)
    mixture = new("sklearn.mixture.GaussianMixture", {"n_components": 3}, seed=5).fit(TRAIN).decision_function(OTHERS)
    theirs = GaussianMixture(n_components=3, random_state=5).fit(exact).score_samples(wide)
    np.testing.assert_allclose(mixture, -theirs, rtol=1e-6)
    knn = new("pyod.models.knn.KNN", {"n_neighbors": 3}).fit(TRAIN).decision_function(OTHERS)
    np.testing.assert_allclose(knn, KNN(n_neighbors=3).fit(exact).decision_function(wide), rtol=1e-6)


@pytest.mark.parametrize("path", DRAWS_NUMBERS)
def test_the_seed_decides_the_scores(path: str) -> None:
    def scores(seed: int) -> Floats:
        fitted.cache_clear()
        return new(path, DRAWS_NUMBERS[path], seed).fit(TRAIN).decision_function(OTHERS)

    first = scores(0)
    np.testing.assert_array_equal(scores(0), first)
    assert not np.array_equal(scores(1), first)


def test_global_states_are_left_as_found() -> None:
    def states() -> list[Any]:
        legacy = np.random.get_state()  # noqa: NPY002
        of_torch = torch.get_rng_state().tolist()
        of_process = [random.getstate(), torch.get_num_threads(), os.environ.get("PYTHONHASHSEED")]
        return [*of_process, legacy[1].tolist(), legacy[2:], of_torch]  # type: ignore[index]

    before = states()
    fitted.cache_clear()
    detector = new("pyod.models.auto_encoder.AutoEncoder", {"epoch_num": 1}).fit(TRAIN)
    detector.decision_function(OTHERS)
    with pytest.raises(TrainingError):
        new("pyod.models.vae.VAE", {"epoch_num": 1}).fit(TRAIN)
    assert states() == before


def test_heavy_modules_wait_until_they_are_named_and_may_seed_what_they_like() -> None:
    code = """
import sys
import numpy as np
from assay.detectors.registry import make_detector
make_detector("sklearn.svm.OneClassSVM", {}, seed=0)
assert not {"torch", "pyod"} & set(sys.modules)
import torch
before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
make_detector("pyod.models.devnet.DevNet", {}, seed=0)  # seeds both when imported
assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_it_prints_and_warns_does_not_reach_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    new("pyod.models.so_gaal.SO_GAAL", {"stop_epochs": 1}).fit(TRAIN)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Epoch 1" in err


def test_foreign_code_does_not_reach_the_network() -> None:
    """Not even this machine; other threads do, and so does this one afterwards."""
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        ask = partial(socket.create_connection, server.server_address)
        with isolated("sklearn.svm.OneClassSVM", 0):
            with pytest.raises(PermissionError, match=r"sklearn\.svm\.OneClassSVM calls the network"):
                ask()
            with pytest.raises(PermissionError, match="calls the network"):
                socket.getaddrinfo("localhost", 80)
            with ThreadPoolExecutor(1) as thread:
                thread.submit(ask).result().close()
        ask().close()


def test_foreign_code_runs_in_one_thread() -> None:
    new("pyod.models.knn.KNN")  # so that numba is there
    with isolated("pyod.models.knn.KNN", 0):
        assert torch.get_num_threads() == 1
        assert sys.modules["numba"].get_num_threads() == 1
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}


@pytest.mark.parametrize(
    ("path", "params", "words"),
    [
        ("os.system", {}, ["os.system", "sklearn.", "pyod.models."]),
        ("sklearn_evil.Thing", {}, ["sklearn.", "pyod.models."]),
        ("pyod.utils.data.generate_data", {}, ["sklearn.", "pyod.models."]),
        ("sklearn..svm.OneClassSVM", {}, ["sklearn.", "pyod.models."]),
        ("sklearn.svm.OneClassSVN", {}, ["no class 'OneClassSVN'"]),
        ("sklearn.svn.OneClassSVM", {}, ["cannot be imported", "sklearn.svn"]),
        ("sklearn.utils.Path", {}, ["no class 'Path'"]),
        ("sklearn.base.clone", {}, ["no class 'clone'"]),
        ("pyod.models.auto_encoder.nn", {}, ["no class 'nn'"]),
        ("pyod.models.base_dl.TorchDataset", {}, ["no class 'TorchDataset'"]),
        ("sklearn.cluster.KMeans", {}, ["KMeans", "not an outlier or density estimator", "score_samples"]),
        ("sklearn.neighbors.LocalOutlierFactor", {}, ["novelty: true"]),
        ("sklearn.svm.OneClassSVM", {"mu": 0.1}, ["'mu'", "gamma", "nu"]),
        ("sklearn.ensemble.IsolationForest", {"random_state": 3}, ["'random_state'", "n_estimators"]),
        ("pyod.models.auto_encoder.AutoEncoder", {"device": "cuda"}, ["'device'", "epoch_num"]),
        ("pyod.models.knn.KNN", {"contamination": 2}, ["KNN", "contamination must be in"]),
        ("pyod.models.lscp.LSCP", {}, ["LSCP", "detector_list"]),
        ("sklearn.svm.OneClassSVM", {"nu": float("nan")}, ["plain JSON values"]),
        ("sklearn.svm.OneClassSVM", {"kernel": len}, ["plain JSON values"]),
    ],
)
def test_what_is_not_allowed_is_said(path: str, params: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        new(path, params)
    assert all(word in str(caught.value) for word in words), caught.value


def test_without_pyod_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyod"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyod", None)
    with pytest.raises(ConfigError, match=r"pip install 'assay\[pyod\]'"):
        new("pyod.models.hbos.HBOS")


def test_it_is_not_packaged() -> None:
    part = new("sklearn.svm.OneClassSVM").fit(TRAIN).to_part()
    assert unpackageable(part) == "OneClassSVM has no array form; it can be compared and calibrated, not packaged"
    assert unpackageable(Part("external")) != ""
    assert unpackageable(make_detector("knn", {}, seed=0).fit(TRAIN).to_part()) == ""


def test_its_part_is_plain_and_loading_runs_nothing(tmp_path: Path) -> None:
    detector = new("sklearn.svm.OneClassSVM", {"nu": 0.1}, seed=3).fit(TRAIN)
    part = detector.to_part()
    assert json.loads(json.dumps(part.config)) == {
        "path": "sklearn.svm.OneClassSVM",
        "params": {"nu": 0.1},
        "seed": 3,
        "n_features": 5,
    }
    np.testing.assert_array_equal(part.arrays["rows"], TRAIN)
    fitted.cache_clear()
    load_detector(part)
    assert fitted.cache_info().misses == 0


def test_several_loads_are_fitted_once() -> None:
    part = new("sklearn.svm.OneClassSVM").fit(TRAIN).to_part()
    other = new("sklearn.svm.OneClassSVM").fit(TRAIN[:100]).to_part()
    fitted.cache_clear()
    scores = [load_detector(part).decision_function(OTHERS) for _ in range(3)]
    np.testing.assert_array_equal(scores[0], scores[2])
    assert not np.array_equal(load_detector(other).decision_function(OTHERS), scores[0])
    assert fitted.cache_info().misses == 2


@pytest.mark.parametrize(
    "damage",
    [
        {"path": "os.system"},
        {"path": "sklearn.svm"},
        {"n_features": 4},
        {"seed": -1},
        {"params": [1]},
        {"path": None},
    ],
)
def test_a_damaged_part_is_refused(damage: dict[str, Any]) -> None:
    part = new("sklearn.svm.OneClassSVM").fit(TRAIN).to_part()
    with pytest.raises((ScorerError, ConfigError)):
        load_detector(Part(part.kind, {**part.config, **damage}, part.arrays)).decision_function(OTHERS)
    with pytest.raises(ScorerError, match="damaged"):
        load_detector(Part(part.kind, part.config, {}))
    with pytest.raises(ScorerError, match="damaged"):
        load_detector(Part(part.kind, {}, part.arrays))


def test_it_behaves_as_a_detector() -> None:
    detector = new("sklearn.svm.OneClassSVM", {"nu": 0.1})
    with pytest.raises(NotFittedError):
        detector.decision_function(TRAIN)
    with pytest.raises(NotFittedError):
        detector.to_part()
    assert clone(detector).get_params() == detector.get_params()
    assert detector.fit(TRAIN) is detector
    assert detector.decision_function(TRAIN[:0]).shape == (0,)
    with pytest.raises(InputError, match="4 columns"):
        detector.decision_function(TRAIN[:, :4])
    with pytest.raises(InputError, match="1 rows have label 1"):
        detector.fit(TRAIN, np.r_[1, np.zeros(199)])
    with pytest.raises(TrainingError, match="at least 2"):
        detector.fit(TRAIN[:1])
    with pytest.raises(TrainingError, match="every training row the score"):
        detector.fit(np.ones((30, 3), dtype=np.float32))


def test_the_training_rows_may_change_after_fitting() -> None:
    given = TRAIN.copy()
    detector = new("sklearn.svm.OneClassSVM").fit(given)
    scores = detector.decision_function(OTHERS)
    given[:] = 0
    fitted.cache_clear()
    np.testing.assert_array_equal(detector.decision_function(OTHERS), scores)


class Flawed:
    """A scorer whose scores cannot be trusted, in a way of one's choice."""

    def __init__(self, flaw: str) -> None:
        self.flaw, self.calls = flaw, 0

    def score(self, rows: Floats) -> NDArray[np.float64]:
        self.calls += 1
        plain: NDArray[np.float64] = rows.sum(axis=1, dtype=np.float64)
        flawed: dict[str, NDArray[np.float64]] = {
            "batch": plain - plain.mean(),
            "time": plain + self.calls,
            "nan": np.where(plain > 1, np.nan, plain),
            "rounding": plain * (1 + 1e-7 * (len(rows) > 1)),
        }
        return flawed[self.flaw]


@pytest.mark.parametrize(
    ("flaw", "words"), [("batch", "in a batch"), ("time", "the second time"), ("nan", "not finite")]
)
def test_the_probe_finds_scores_that_cannot_be_calibrated(flaw: str, words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        require_steady("flawed", Flawed(flaw), TRAIN[:40])


def test_the_probe_forgives_the_rounding_of_float32() -> None:
    rounded = Flawed("rounding")
    alone = np.concatenate([rounded.score(TRAIN[i : i + 1]) for i in range(40)])
    assert (alone != rounded.score(TRAIN[:40])).any()
    require_steady("rounded", rounded, TRAIN[:40])


def test_the_probe_is_not_fooled_by_many_training_rows() -> None:
    with pytest.raises(TrainingError, match="alone and in a batch"):
        new("pyod.models.ecod.ECOD").fit(rows(20_000, seed=3))
