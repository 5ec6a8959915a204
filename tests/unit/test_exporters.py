"""scikit-learn's estimators through the adapter: same scores as theirs, from arrays of ours."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.covariance import MinCovDet
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import IsolationForest as Forest
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.svm import OneClassSVM

from assay.detectors.adapter import (
    IsolationForest,
    KNearestNeighbors,
    MinimumCovarianceDeterminant,
    SklearnDetector,
)
from assay.detectors.exporters import IsolationTrees, expected_path_length
from assay.errors import ConfigError, ScorerError, TrainingError

Floats = NDArray[np.float32]


def table() -> tuple[Floats, Floats]:
    """Return training rows (half of the benign ones) and all rows, z-scored."""
    X, benign = load_breast_cancer(return_X_y=True)
    train = X[benign == 1][::2]
    scaled = ((X - train.mean(axis=0)) / train.std(axis=0)).astype(np.float32)
    return scaled[benign == 1][::2], scaled


@pytest.mark.parametrize("k", [1, 5, 17])
def test_neighbours_agree_with_scikit_learn(k: int) -> None:
    train, rows = table()
    theirs = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(train.astype(np.float64)).kneighbors(rows)[0]
    ours = KNearestNeighbors(n_neighbors=k).fit(train).decision_function(rows)
    np.testing.assert_allclose(ours, theirs[:, -1], rtol=1e-6, atol=1e-6)


def test_neighbours_of_many_columns_and_with_ties() -> None:
    digits = (load_digits().data / 16).astype(np.float32)
    train = np.concatenate([digits[:300], digits[:300]])
    ours = KNearestNeighbors(n_neighbors=2).fit(train).decision_function(digits[:600])
    np.testing.assert_array_equal(ours[:300], 0.0)
    assert (ours[300:] > 0).all()


def test_more_neighbours_than_rows_are_refused() -> None:
    with pytest.raises(TrainingError, match="n_neighbors is 5, but there are 4"):
        KNearestNeighbors().fit(table()[0][:4])


@pytest.mark.parametrize("n_train", [3, 100, 178])
@pytest.mark.parametrize("seed", [0, 1])
def test_isolation_forest_agrees_with_scikit_learn(n_train: int, seed: int) -> None:
    train, rows = table()
    theirs = -Forest(n_estimators=50, random_state=seed).fit(train[:n_train]).score_samples(rows)
    ours = IsolationForest(n_estimators=50, seed=seed).fit(train[:n_train]).decision_function(rows)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_isolation_forest_splits_exactly_as_scikit_learn_at_its_thresholds() -> None:
    train, _ = table()
    forest = Forest(random_state=0).fit(train)
    thresholds = np.concatenate([tree.tree_.threshold for tree in forest.estimators_]).astype(np.float32)
    rows = np.repeat(thresholds[:, None], train.shape[1], axis=1)
    np.testing.assert_allclose(
        IsolationForest().fit(train).decision_function(rows), -forest.score_samples(rows), rtol=1e-6
    )


def test_a_value_at_the_threshold_goes_left() -> None:
    tree = IsolationTrees(
        roots=np.array([0], dtype=np.int32),
        feature=np.zeros(3, dtype=np.int32),
        threshold=np.array([1.0, 0.0, 0.0]),
        children=np.array([[1, 2], [1, 1], [2, 2]], dtype=np.int32),
        length=np.array([0.0, 1.0, 5.0]),
        depth=np.array([1], dtype=np.int32),
        expected=np.array([1.0]),
    )
    rows = np.array([[1.0], [np.nextafter(np.float32(1), np.float32(2))]], dtype=np.float32)
    np.testing.assert_array_equal(tree.score(rows), [2.0**-1, 2.0**-5])


def test_expected_path_length() -> None:
    """Liu, Ting and Zhou (2008), eq 1, with H(n) the harmonic number: c(n) = 2 H(n-1) - 2 (n-1)/n."""
    np.testing.assert_array_equal(expected_path_length(np.array([0, 1, 2])), [0, 0, 1])
    exact = 2 * np.sum(1 / np.arange(1, 256)) - 2 * 255 / 256
    assert expected_path_length(np.array([256]))[0] == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("seed", [0, 1])
def test_mcd_agrees_with_scikit_learn(seed: int) -> None:
    train, rows = table()
    theirs = MinCovDet(random_state=seed).fit(train.astype(np.float64)).mahalanobis(rows.astype(np.float64))
    ours = MinimumCovarianceDeterminant(seed=seed).fit(train).decision_function(rows)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_mcd_sees_a_row_that_leaves_the_plane_of_the_training_rows() -> None:
    rng = np.random.default_rng(0)
    pair = rng.normal(size=(200, 2))
    train = np.column_stack([pair, pair.sum(axis=1), np.full(200, 3.0)]).astype(np.float32)
    detector = MinimumCovarianceDeterminant().fit(train)
    on, off = detector.decision_function(np.array([[1, 1, 2, 3], [1, 1, 0, 3]], dtype=np.float32))
    assert off > 100 * on
    assert on < np.quantile(detector.decision_function(train), 0.99)


def test_mcd_withstands_what_would_pull_a_plain_covariance() -> None:
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(300, 3))
    dirty = np.concatenate([clean, rng.normal(8.0, 0.1, size=(90, 3))]).astype(np.float32)
    detector = MinimumCovarianceDeterminant().fit(dirty)
    scores = detector.decision_function(dirty)
    assert scores[300:].min() > scores[:300].max()


def test_mcd_drops_constant_columns() -> None:
    train, rows = table()
    padded = [np.insert(part, [0, 15], 2.5, axis=1) for part in (train, rows)]
    plain = MinimumCovarianceDeterminant().fit(train).decision_function(rows)
    np.testing.assert_array_equal(MinimumCovarianceDeterminant().fit(padded[0]).decision_function(padded[1]), plain)


def test_mcd_says_what_it_cannot_do() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(TrainingError, match="10 training rows and 20 columns"):
        MinimumCovarianceDeterminant().fit(rng.normal(size=(10, 20)).astype(np.float32))
    with pytest.raises(TrainingError, match="300 columns vary"):
        MinimumCovarianceDeterminant().fit(rng.normal(size=(400, 300)).astype(np.float32))
    mostly_alike = np.concatenate([np.ones((180, 5)), rng.normal(size=(20, 5))]).astype(np.float32)
    with pytest.raises(TrainingError, match="'mcd' cannot be fitted"):
        MinimumCovarianceDeterminant().fit(mostly_alike)


def test_mcd_of_very_many_rows_takes_a_seeded_sample() -> None:
    rows = np.random.default_rng(0).normal(size=(10_500, 2)).astype(np.float32)
    first, other = (MinimumCovarianceDeterminant(seed=s).fit(rows) for s in (0, 1))
    scores = first.decision_function(rows)
    assert not np.array_equal(scores, other.decision_function(rows))
    np.testing.assert_allclose(scores, np.square(rows).sum(axis=1), rtol=0.15, atol=0.1)


@pytest.mark.parametrize("estimator", [OneClassSVM(), LocalOutlierFactor(novelty=True)])
def test_any_estimator_with_score_samples_can_be_compared_but_not_packaged(estimator: Any) -> None:
    train, rows = table()
    detector = SklearnDetector(estimator).fit(train)
    scores = detector.decision_function(rows)
    np.testing.assert_allclose(scores, -estimator.fit(train).score_samples(rows), rtol=1e-6, atol=1e-6)
    assert np.median(scores[rows[:, 0] > 3]) > np.median(detector.decision_function(train))
    with pytest.raises(ScorerError, match=f"{type(estimator).__name__} cannot be packaged"):
        detector.to_part()


class Flawed(BaseEstimator):  # type: ignore[misc]
    """An estimator whose scores cannot be trusted, in a way of one's choice."""

    def __init__(self, flaw: str) -> None:
        self.flaw = flaw

    def fit(self, X: Floats) -> "Flawed":
        self.calls_ = 0
        return self

    def score_samples(self, X: Floats) -> Any:
        self.calls_ += 1
        plain = X.sum(axis=1)
        return {
            "batch": plain - plain.mean(),
            "time": plain + self.calls_,
            "infinite": plain / np.where(X[:, 0] > X[0, 0], np.inf, 0.0),
            "constant": np.zeros(len(X)),
        }[self.flaw]


@pytest.mark.parametrize(
    ("flaw", "words"),
    [
        ("batch", "alone and in a batch"),
        ("time", "when asked again"),
        ("infinite", "not finite"),
        ("constant", "every training row the score 0;"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_the_probe_finds_scores_that_cannot_be_calibrated(flaw: str, words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        SklearnDetector(Flawed(flaw)).fit(table()[0])


def test_an_estimator_without_scores_is_refused() -> None:
    with pytest.raises(ConfigError, match="score_samples"):
        SklearnDetector(NearestNeighbors()).fit(table()[0])
