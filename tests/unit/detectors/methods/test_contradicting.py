"""Contradicting training, with the paper's monotone sequences: increasing ones are normal, decreasing ones not."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score

from assay.detectors.methods.contradicting import Contradicting
from assay.detectors.methods.lstm_predictor import LSTMPredictor
from assay.errors import ConfigError, TrainingError

Floats = NDArray[np.float32]
BASES = ("autoencoder", "lstm_predictor", "deep_svdd")
SIZES: dict[str, Any] = {"units": 16, "epochs": 25, "learning_rate": 2e-2, "members": 1, "device": "cpu"}


def sequences(n: int, seed: int, *, falling: int = 0) -> Floats:
    """Sorted uniform numbers, scaled; the last ones fall."""
    x = np.sort(np.random.default_rng(seed).random((n, 10)), axis=1)
    x[n - falling :] = x[n - falling :, ::-1]
    return np.asarray((x - 0.5) * np.sqrt(12), dtype=np.float32)


def last(n: int, labelled: int) -> NDArray[np.int8]:
    """Labels of n rows, of which the last ones are known anomalies."""
    return np.where(np.arange(n) < n - labelled, -1, 1).astype(np.int8)


def found(detector: Any, seed: int, hidden: int, labelled: int) -> float:
    """Return the AUROC on new sequences after training on 600 with some falling ones among them."""
    train = sequences(600 + labelled, seed, falling=hidden + labelled)
    detector.fit(train, last(len(train), labelled) if labelled else None)
    test = sequences(400, 1000 + seed, falling=200)
    return float(roc_auc_score(last(400, 200) == 1, detector.decision_function(test)))


def test_contamination_ruins_the_base_and_a_high_weight_mends_it() -> None:
    """AUROC over three seeds; 5 % hidden and 1 % labelled decreasing sequences (figure 1 of the paper)."""

    def mean(make: Any, hidden: int, labelled: int) -> float:
        return float(np.mean([found(make(seed), seed, hidden, labelled) for seed in range(3)]))

    assert mean(lambda seed: LSTMPredictor(**SIZES, seed=seed), 0, 0) > 0.97
    assert mean(lambda seed: LSTMPredictor(**SIZES, seed=seed), 30, 0) < 0.8
    assert mean(lambda seed: Contradicting(base="lstm_predictor", **SIZES, seed=seed), 30, 6) > 0.95
    ramp = {**SIZES, "weight": 1.0, "bound": "none"}
    assert mean(lambda seed: Contradicting(base="lstm_predictor", **ramp, seed=seed), 30, 6) < 0.85


@pytest.mark.parametrize("bound", ["log", "clip", "none"])
@pytest.mark.parametrize("base", BASES)
def test_every_base_and_bound_finds_what_was_labelled(base: str, bound: str) -> None:
    """Anomalies hidden in the training rows of a table, a few of the kind labelled."""
    X, benign = load_breast_cancer(return_X_y=True)
    normal, odd = X[benign == 1], X[benign == 0]
    train = np.concatenate([normal[:250], odd[:15], odd[15:25]])
    test = np.concatenate([normal[250:], odd[25:]])
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    train, test = (((rows - mean) / deviation).astype(np.float32) for rows in (train, test))
    detector = Contradicting(base=base, bound=bound, members=2, epochs=40, units=8, device="cpu")
    scores = detector.fit(train, last(275, 10)).decision_function(test)
    assert roc_auc_score(np.arange(len(test)) >= 107, scores) > 0.85
    loaded = Contradicting.from_part(detector.to_part())
    np.testing.assert_array_equal(loaded.decision_function(test), scores)


def test_a_bound_holds_the_loss_of_the_labelled_rows() -> None:
    """Eq 5 lets it grow without end, the logarithm slowly; a clipped loss stays where it is."""
    train = sequences(810, 0, falling=10)
    high = {}
    for bound in ("none", "log", "clip"):
        detector = Contradicting(base="autoencoder", bound=bound, members=1, epochs=30, device="cpu")
        high[bound] = np.median(detector.fit(train, last(810, 10)).decision_function(train[-10:]))
    assert 1 < high["clip"] < 15
    assert high["clip"] < high["log"] / 2
    assert high["log"] < high["none"] / 2


@pytest.mark.parametrize("base", BASES)
def test_stacked_members_equal_separate_ones(base: str) -> None:
    train, labels = sequences(210, 0, falling=10), last(210, 10)
    one, two = (Contradicting(base=base, members=m, epochs=4, units=8, device="cpu").fit(train, labels) for m in (1, 2))
    for name, value in one.network_.state_dict().items():
        torch.testing.assert_close(two.network_.state_dict()[name][:1], value, atol=1e-5, rtol=1e-4)


def test_the_labelled_rows_weigh_what_the_equation_says() -> None:
    """With all rows in one batch the loss is mean(noisy) - weight * m / n * mean(labelled) before any step."""
    train, labels = sequences(90, 0, falling=10), last(90, 10)
    told: list[float] = []
    detector = Contradicting(base="autoencoder", bound="none", epochs=1, batch_size=500, learning_rate=1e-9, members=1)
    detector.set_params(device="cpu").fit(train, labels, progress=lambda epoch, epochs, loss: told.append(loss))
    losses = detector.decision_function(train)
    expected = losses[:80].mean() - 20 * 10 / 80 * losses[80:].mean()
    assert told[0] == pytest.approx(expected, rel=0.05)  # a tenth of the 80 rows was held out


def test_it_needs_labelled_anomalies() -> None:
    for labels in (None, np.zeros(50)):
        with pytest.raises(TrainingError, match="no row has label 1: label some, or use the detector 'autoencoder'"):
            Contradicting(device="cpu").fit(sequences(50, 0), labels)


def test_training_that_destroys_the_rest_is_refused() -> None:
    train, labels = sequences(110, 0, falling=10), last(110, 10)
    detector = Contradicting(bound="none", weight=1e6, epochs=3, learning_rate=1.0, members=1, device="cpu")
    with pytest.raises(TrainingError, match=r"times the untrained network's.*lower weight.*bound is 'none'"):
        detector.fit(train, labels)
    huge = (train * 1e20).astype(np.float32)
    with pytest.raises(TrainingError, match="must be finite"):
        Contradicting(bound="none", device="cpu").fit(huge, labels)


def test_a_contradiction_without_effect_is_noted() -> None:
    """One labelled row, of which the other rows hold a hundred copies."""
    train = np.concatenate([sequences(200, 0), np.repeat(sequences(1, 1), 101, axis=0)])
    detector = Contradicting(weight=0.01, members=1, epochs=20, device="cpu").fit(train, last(301, 1))
    assert any("score no higher" in note for note in detector.notes_)
    detector = Contradicting(members=1, epochs=20, device="cpu").fit(sequences(210, 0, falling=10), last(210, 10))
    assert not any("score no higher" in note for note in detector.notes_)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"base": "knn"}, "'autoencoder', 'lstm_predictor', 'deep_svdd'"),
        ({"bound": "ramp"}, "'log', 'clip', 'none'"),
        ({"weight": 0.0}, "weight is 0.0"),
        ({"base": "lstm_predictor", "series_shape": (3, 3)}, "detector 'contradicting': series_shape is 3 steps"),
    ],
)
def test_wrong_arguments_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Contradicting(device="cpu", **given).fit(sequences(50, 0), last(50, 5))


def test_codes_are_those_of_the_base() -> None:
    train, labels = sequences(110, 0, falling=10), last(110, 10)
    sizes: dict[str, Any] = {"members": 2, "epochs": 2, "units": 8, "device": "cpu"}
    coded, distant, predicted = (
        Contradicting(base=base, **sizes).fit(train, labels) for base in BASES[::2] + BASES[1:2]
    )
    assert coded.embed(train).shape == (2, 110, 8)
    centre = distant.to_part().arrays["centre"]
    distances = np.square(distant.embed(train) - centre).mean(axis=2).mean(axis=0)
    np.testing.assert_allclose(distances, distant.decision_function(train), rtol=1e-4)
    np.testing.assert_array_equal(predicted.embed(train), train[None])
