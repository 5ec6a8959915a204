"""Deep SAD: Deep SVDD that learns from labels."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from assay.detectors.methods.deep_sad import DeepSAD
from assay.detectors.methods.deep_svdd import DeepSVDD
from assay.errors import ConfigError

Floats = NDArray[np.float32]


def rows(n_normal: int, n_anomalous: int, seed: int) -> tuple[Floats, NDArray[np.int8]]:
    """Unlabelled normal rows, and anomalies a little off in two columns of six."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_normal + n_anomalous, 6))
    X[n_normal:, :2] += 2.5
    return X.astype(np.float32), np.repeat([-1, 1], [n_normal, n_anomalous]).astype(np.int8)


def test_a_few_labels_help() -> None:
    gains = []
    for seed in range(4):
        (X, y), (tested, truth) = rows(300, 6, seed), rows(500, 100, 100 + seed)
        with_labels = DeepSAD(members=1, epochs=25, pretrain_epochs=5, seed=seed, device="cpu").fit(X, y)
        without = DeepSVDD(members=1, epochs=25, pretrain_epochs=5, seed=seed, device="cpu").fit(X[y == -1])
        areas = [roc_auc_score(truth == 1, d.decision_function(tested)) for d in (with_labels, without)]
        gains.append(areas[0] - areas[1])
        assert areas[0] > 0.85
    assert np.mean(gains) > 0.05


def test_eta_pushes_labelled_anomalies_away() -> None:
    def ratio(eta: float, seed: int) -> float:
        X, y = rows(200, 5, seed)
        detector = DeepSAD(eta=eta, members=1, epochs=15, pretrain_epochs=0, seed=seed, device="cpu").fit(X, y)
        scores = detector.decision_function(X)
        return float(np.log(scores[y == 1].mean() / scores[y == -1].mean()))

    weak, strong = ([ratio(eta, seed) for seed in range(4)] for eta in (0.01, 10.0))
    assert np.mean(strong) > np.mean(weak) + 0.5


def test_eta_draws_labelled_normal_rows_in() -> None:
    def ratio(eta: float, seed: int) -> float:
        X, y = rows(200, 20, seed)
        y[y == 1] = 0
        detector = DeepSAD(eta=eta, members=1, epochs=15, pretrain_epochs=0, seed=seed, device="cpu").fit(X, y)
        scores = detector.decision_function(X)
        return float(np.log(scores[y == 0].mean() / scores[y == -1].mean()))

    weak, strong = ([ratio(eta, seed) for seed in range(4)] for eta in (0.01, 20.0))
    assert np.mean(strong) < np.mean(weak) - 0.3


@pytest.mark.parametrize("y", [None, np.full(80, -1)])
def test_without_labels_it_is_deep_svdd_and_says_so(y: NDArray[np.int8] | None) -> None:
    X, _ = rows(80, 0, 0)
    detector = DeepSAD(members=2, epochs=2, pretrain_epochs=2, device="cpu").fit(X, y)
    assert any("Deep SVDD" in note for note in detector.notes_)
    plain = DeepSVDD(members=2, epochs=2, pretrain_epochs=2, device="cpu").fit(X)
    np.testing.assert_allclose(detector.decision_function(X), plain.decision_function(X), rtol=1e-5)
    labelled = DeepSAD(members=1, epochs=1, device="cpu").fit(*rows(80, 3, 0))
    assert not any("Deep SVDD" in note for note in labelled.notes_)


def test_the_centre_is_placed_without_the_labelled_anomalies() -> None:
    X, y = rows(80, 8, 0)
    far = X + 1000 * (y == 1)[:, None]
    near, moved = (DeepSAD(members=1, epochs=1, pretrain_epochs=0, device="cpu").fit(x, y) for x in (X, far))
    np.testing.assert_array_equal(near.to_part().arrays["center"], moved.to_part().arrays["center"])


def test_members_equal_those_trained_alone() -> None:
    one, two, three = (
        DeepSAD(members=m, epochs=3, pretrain_epochs=3, batch_size=40, device="cpu").fit(*rows(100, 5, 0))
        for m in (1, 2, 3)
    )
    for name, array in two.to_part().arrays.items():
        np.testing.assert_allclose(array[:1], one.to_part().arrays[name], atol=1e-4, rtol=1e-3)
        np.testing.assert_allclose(three.to_part().arrays[name][:2], array, atol=1e-4, rtol=1e-3)


def test_eta_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="eta is 0; it must be a finite number > 0"):
        DeepSAD(eta=0).fit(*rows(20, 2, 0))
