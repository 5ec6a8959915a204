"""The hypersphere classifier: labelled or auxiliary anomalies outside."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from assay.detectors.methods.deep_svdd import DeepSVDD
from assay.detectors.methods.hsc import HSC
from assay.errors import TrainingError
from assay.parts import Part

Floats = NDArray[np.float32]


def rows(n_normal: int, n_anomalous: int, seed: int) -> tuple[Floats, NDArray[np.int8]]:
    """Unlabelled normal rows, and anomalies a little off in two columns of six."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_normal + n_anomalous, 6))
    X[n_normal:, :2] += 2.5
    return X.astype(np.float32), np.repeat([-1, 1], [n_normal, n_anomalous]).astype(np.int8)


def test_it_separates_labelled_anomalies_and_others_of_their_kind() -> None:
    areas = []
    for seed in range(3):
        (X, y), (tested, truth) = rows(300, 6, seed), rows(500, 100, 100 + seed)
        detector = HSC(members=1, epochs=20, pretrain_epochs=5, seed=seed, device="cpu").fit(X, y)
        scores = detector.decision_function(X)
        assert scores[y == 1].mean() > 5 * scores[y == -1].mean()
        areas.append(roc_auc_score(truth == 1, detector.decision_function(tested)))
    assert np.mean(areas) > 0.88


@pytest.mark.parametrize("image_shape", [None, (8, 8)])
def test_auxiliary_anomalies_help_with_kinds_never_seen(image_shape: tuple[int, int] | None) -> None:
    """Outlier exposure: the digits 1 to 4 stand in for the anomalies 5 to 9 among zeros."""
    X, digit = load_digits(return_X_y=True)
    images, zeros = (X / 16).astype(np.float32), np.flatnonzero(digit == 0)
    train = np.concatenate([zeros[:100], np.flatnonzero((digit >= 1) & (digit <= 4))[:300]])
    tested = np.concatenate([zeros[100:], np.flatnonzero(digit >= 5)])
    labels = np.where(digit[train] == 0, -1, 1).astype(np.int8)
    common: dict[str, Any] = {
        "members": 1,
        "epochs": 30,
        "pretrain_epochs": 0,
        "device": "cpu",
        "image_shape": image_shape,
    }
    exposed = HSC(**common).fit(images[train], labels).decision_function(images[tested])
    plain = DeepSVDD(**common).fit(images[zeros[:100]]).decision_function(images[tested])
    area = roc_auc_score(digit[tested] > 0, exposed)
    assert area > 0.9
    assert area > roc_auc_score(digit[tested] > 0, plain)


def test_the_score_is_the_pseudo_huber_distance() -> None:
    X, y = rows(80, 4, 0)
    detector = HSC(members=2, epochs=2, pretrain_epochs=0, device="cpu").fit(X, y)
    squared = np.square(detector.embed(X) - detector.to_part().arrays["center"]).sum(axis=2)
    np.testing.assert_allclose(detector.decision_function(X), (np.sqrt(squared + 1) - 1).mean(axis=0), rtol=1e-4)


def test_it_says_that_it_needs_labelled_anomalies() -> None:
    X, y = rows(50, 3, 0)
    for labels in (None, np.minimum(y, 0)):
        with pytest.raises(TrainingError, match=r"'hsc' learns from labelled anomalies.*label some.*deep_svdd"):
            HSC(members=1, device="cpu").fit(X, labels)


def test_members_equal_those_trained_alone() -> None:
    one, two, three = (
        HSC(members=m, epochs=3, pretrain_epochs=3, batch_size=40, device="cpu").fit(*rows(100, 5, 0))
        for m in (1, 2, 3)
    )
    for name, array in two.to_part().arrays.items():
        np.testing.assert_allclose(array[:1], one.to_part().arrays[name], atol=1e-4, rtol=1e-3)
        np.testing.assert_allclose(three.to_part().arrays[name][:2], array, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("distance", ["l1", "l2", "squared"])
def test_the_other_distances_of_the_thesis(distance: str) -> None:
    (X, y), (tested, truth) = rows(300, 6, 0), rows(500, 100, 100)
    settings: dict[str, Any] = {"members": 1, "epochs": 20, "pretrain_epochs": 0, "device": "cpu"}
    detector = HSC(**settings, distance=distance).fit(X, y)
    scores = detector.decision_function(tested)
    codes = detector.embed(tested)[0] - detector.network_.center[0].numpy()
    expected = {"l1": np.abs(codes).sum(1), "l2": np.sqrt((codes**2).sum(1)), "squared": (codes**2).sum(1)}[distance]
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert roc_auc_score(truth == 1, scores) > 0.8
    part = detector.to_part()
    assert part.config["params"]["distance"] == distance
    former = Part(part.kind, {**part.config, "params": {**part.config["params"]}}, part.arrays)
    del former.config["params"]["distance"]
    assert HSC.from_part(former).distance == "pseudo_huber"
