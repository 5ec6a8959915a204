"""The deviation network."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from assay.detectors.methods.devnet import DevNet
from assay.errors import TrainingError

Floats = NDArray[np.float32]


def rows(n_normal: int, n_anomalous: int, seed: int) -> tuple[Floats, NDArray[np.int8]]:
    """Unlabelled normal rows, and anomalies a little off in two columns of six."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_normal + n_anomalous, 6))
    X[n_normal:, :2] += 2.5
    return X.astype(np.float32), np.repeat([-1, 1], [n_normal, n_anomalous]).astype(np.int8)


def test_it_finds_others_of_the_labelled_kind() -> None:
    for seed in range(3):
        (X, y), (tested, truth) = rows(300, 6, seed), rows(500, 100, 100 + seed)
        detector = DevNet(members=2, seed=seed, device="cpu").fit(X, y)
        assert roc_auc_score(truth == 1, detector.decision_function(tested)) > 0.88


def test_anomalies_deviate_by_the_margin_and_no_further() -> None:
    X, y = rows(300, 30, 0)
    X[y == 1] += 5
    scores = DevNet(members=1, epochs=300, weight_decay=1e-6, device="cpu").fit(X, y).decision_function(X)
    assert abs(np.median(scores[y == -1])) < 0.3
    assert 4 < np.median(scores[y == 1]) < 9


def test_it_says_that_it_needs_labelled_anomalies() -> None:
    X, y = rows(50, 3, 0)
    for labels in (None, np.minimum(y, 0)):
        with pytest.raises(TrainingError, match=r"'devnet' learns from labelled anomalies.*label some.*deep_svdd"):
            DevNet(members=1, device="cpu").fit(X, labels)


def test_one_labelled_anomaly_is_enough_to_train() -> None:
    X, y = rows(60, 1, 0)
    scores = DevNet(members=1, device="cpu").fit(X, y).decision_function(X)
    assert scores[-1] > np.quantile(scores, 0.95)


def test_members_equal_those_trained_alone() -> None:
    one, two, three = (
        DevNet(members=m, epochs=5, batch_size=40, device="cpu").fit(*rows(100, 5, 0)) for m in (1, 2, 3)
    )
    for name, array in two.to_part().arrays.items():
        np.testing.assert_allclose(array[:1], one.to_part().arrays[name], atol=1e-5)
        np.testing.assert_allclose(three.to_part().arrays[name][:2], array, atol=1e-5)


def test_scores_are_linear_in_the_codes() -> None:
    X, y = rows(100, 5, 0)
    detector = DevNet(members=2, epochs=5, device="cpu").fit(X, y)
    codes, arrays = detector.embed(X), detector.to_part().arrays
    assert codes.shape == (2, 105, 20)
    scores = codes @ arrays["2.weight"] + arrays["2.bias"]
    np.testing.assert_allclose(scores.mean(axis=0)[:, 0], detector.decision_function(X), atol=1e-5)
