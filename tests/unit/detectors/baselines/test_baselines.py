"""scikit-learn's estimators as baselines: same scores as theirs, from arrays of ours."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.covariance import MinCovDet
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest as Forest
from sklearn.neighbors import KernelDensity as Density
from sklearn.neighbors import LocalOutlierFactor as Factor
from sklearn.neighbors import NearestNeighbors

from assay.detectors.baselines.base import Baseline
from assay.detectors.baselines.isolation_forest import IsolationForest, IsolationTrees, expected_path_length
from assay.detectors.baselines.kde import KernelDensity
from assay.detectors.baselines.knn import KNearestNeighbors
from assay.detectors.baselines.lof import LocalOutlierFactor
from assay.detectors.baselines.mcd import MinimumCovarianceDeterminant
from assay.detectors.baselines.pca import PrincipalComponents
from assay.errors import ConfigError, InputError, TrainingError

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


@pytest.mark.parametrize("bandwidth", [0.3, 2, "scott"])
def test_kde_agrees_with_scikit_learn(bandwidth: float | str) -> None:
    """With all rows in one leaf: over many leaves its sums of bounds cancel, and lose digits (here up to .013)."""
    train, rows = table()
    theirs = Density(bandwidth=bandwidth, leaf_size=len(train)).fit(train.astype(np.float64))
    ours = KernelDensity(bandwidth=bandwidth).fit(train).decision_function(rows)
    np.testing.assert_allclose(ours, -theirs.score_samples(rows.astype(np.float64)), rtol=1e-6)


def test_kde_of_one_column_integrates_to_one() -> None:
    detector = KernelDensity(bandwidth=0.5).fit(np.random.default_rng(0).normal(size=(50, 1)).astype(np.float32))
    grid = np.linspace(-10, 10, 4001, dtype=np.float32)[:, None]
    assert np.exp(-detector.decision_function(grid).astype(np.float64)).sum() * 0.005 == pytest.approx(1, abs=1e-4)


def test_kde_still_orders_rows_that_no_kernel_reaches() -> None:
    detector = KernelDensity(bandwidth=0.1).fit(table()[0])
    far = np.zeros((3, 30), dtype=np.float32)
    far[:, 0] = [1e3, 1e4, 1e5]
    scores = detector.decision_function(far)
    assert (np.diff(scores) > 0).all()
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("n_components", [1, 4, 29])
def test_pca_agrees_with_scikit_learn(n_components: int) -> None:
    train, rows = (part.astype(np.float64) for part in table())
    pca = PCA(n_components=n_components, svd_solver="full").fit(train)
    errors = np.square(rows - pca.inverse_transform(pca.transform(rows))).sum(axis=1)
    detector = PrincipalComponents(n_components=n_components).fit(table()[0])
    ours = detector.decision_function(table()[1])
    np.testing.assert_allclose(np.abs(detector.embed(table()[1])[0]), np.abs(pca.transform(rows)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours, errors / pca.noise_variance_, rtol=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_pca_chooses_components_by_share_as_scikit_learn(share: float) -> None:
    train, _ = table()
    theirs = PCA(n_components=share, svd_solver="full").fit(train.astype(np.float64)).n_components_
    detector = PrincipalComponents(n_components=share).fit(train)
    assert len(detector.to_part().arrays["components"]) == theirs


def test_pca_scores_do_not_depend_on_the_unit_and_are_about_one_for_each_direction_left_out() -> None:
    train = np.random.default_rng(0).normal(size=(5000, 6)).astype(np.float32)
    scores = PrincipalComponents(n_components=2).fit(train).decision_function(train)
    assert scores.mean() == pytest.approx(4, rel=0.01)
    np.testing.assert_allclose(
        PrincipalComponents(n_components=2).fit(64 * train).decision_function(64 * train), scores, rtol=1e-5
    )


@pytest.mark.parametrize("n_components", [0.5, 0.9, 0.999, 1, 2, 3])
def test_pca_is_safe_with_constant_and_collinear_columns(n_components: float) -> None:
    """PyOD's gives infinite scores here; the training rows have variance in two directions only."""
    rng = np.random.default_rng(0)
    pair = rng.normal(size=(200, 2))
    train = np.column_stack([pair, pair.sum(axis=1), 2 * pair[:, 0], np.full(200, 3.0)]).astype(np.float32)
    detector = PrincipalComponents(n_components=n_components).fit(train)
    on, off, moved = detector.decision_function(
        np.array([[1, 1, 2, 2, 3], [1, 1, -1, 2, 3], [1, 1, 2, 2, 9]], dtype=np.float32)
    )
    assert np.isfinite([on, off, moved]).all()
    assert off > 3 * on
    assert moved > 3 * on
    assert np.isfinite(detector.decision_function(train)).all()


def test_pca_always_leaves_a_direction_out() -> None:
    square = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    assert len(PrincipalComponents(n_components=0.999).fit(square).to_part().arrays["components"]) == 1
    padded = np.insert(square, 1, 5.0, axis=1)
    assert len(PrincipalComponents(n_components=0.999).fit(padded).to_part().arrays["components"]) == 1
    for n_components, rows in [(2, square), (2, padded), (0.9, square[:, :1]), (3, square[:, [0, 1, 0, 1]][:3])]:
        with pytest.raises(TrainingError, match="needs more of both than components"):
            PrincipalComponents(n_components=n_components).fit(rows)


@pytest.mark.parametrize("value", [0, 1.0, 1.5, -0.5, True, "mle", float("nan")])
def test_pca_refuses_other_numbers_of_components(value: float) -> None:
    with pytest.raises(ConfigError, match="an integer >= 1, or a number between 0 and 1"):
        PrincipalComponents(n_components=value).fit(table()[0])


@pytest.mark.parametrize("value", [0, -1.0, "silverman", True, float("inf"), None])
def test_kde_refuses_other_bandwidths(value: float) -> None:
    with pytest.raises(ConfigError, match="a finite number > 0, or 'scott'"):
        KernelDensity(bandwidth=value).fit(table()[0])


@pytest.mark.parametrize("k", [1, 5, 20, 177])
def test_lof_agrees_with_scikit_learn(k: int) -> None:
    train, rows = table()
    theirs = -Factor(n_neighbors=k, novelty=True).fit(train.astype(np.float64)).score_samples(rows.astype(np.float64))
    np.testing.assert_allclose(LocalOutlierFactor(n_neighbors=k).fit(train).decision_function(rows), theirs, rtol=1e-6)


def test_lof_of_duplicates_agrees_with_scikit_learn() -> None:
    """Groups of more than k equal rows have a density of 1e10; what is near them scores as high."""
    rng = np.random.default_rng(0)
    train = np.concatenate([np.repeat(rng.normal(size=(3, 4)), 8, axis=0), rng.normal(size=(50, 4))]).astype(np.float32)
    rows = np.concatenate([train[:24], train[:24] + 0.01, rng.normal(size=(50, 4))]).astype(np.float32)
    theirs = -Factor(n_neighbors=5, novelty=True).fit(train.astype(np.float64)).score_samples(rows.astype(np.float64))
    scores = LocalOutlierFactor(n_neighbors=5).fit(train).decision_function(rows)
    np.testing.assert_allclose(scores, theirs, rtol=1e-6)
    np.testing.assert_array_equal(scores[:24], 1)
    assert scores[24:48].min() > 1e6


def test_lof_needs_more_rows_than_neighbours() -> None:
    with pytest.raises(TrainingError, match="n_neighbors is 20, but a training row has 19 others"):
        LocalOutlierFactor().fit(table()[0][:20])
    assert LocalOutlierFactor().fit(table()[0][:30]).n_features_in_ == 30


FORMS = [KNearestNeighbors(), IsolationForest(), KernelDensity(), PrincipalComponents(), LocalOutlierFactor()]
EXACT = [KNearestNeighbors(), KernelDensity(), PrincipalComponents(), LocalOutlierFactor()]


@pytest.mark.parametrize("detector", EXACT, ids=lambda detector: detector.kind)
def test_a_row_has_the_same_score_in_float64_in_any_batch(detector: Baseline) -> None:
    train, rows = table()
    form = detector.fit(train).form_
    scores = form.score(rows)
    assert scores.dtype == np.float64
    for size in (1, 7, 100):
        parts = [form.score(rows[start : start + size]) for start in range(0, len(rows), size)]
        np.testing.assert_array_equal(np.concatenate(parts), scores)


@pytest.mark.parametrize("offset", [0, 3e4])
def test_kde_by_products_scores_as_by_sums_of_squared_differences_to_the_bit(offset: float) -> None:
    """With a large offset products are off by more than float32 shows, so that most rows are scored by sums."""
    rng = np.random.default_rng(0)
    train, rows = (offset + rng.normal(size=(n, 40)).astype(np.float32) for n in (300, 1000))
    scores = KernelDensity().fit(train).decision_function(rows)
    bandwidth = 300 ** (-1 / 44)
    exponents = cdist(rows.astype(np.float64), train.astype(np.float64), "sqeuclidean") / (-2 * bandwidth**2)
    largest = exponents.max(axis=1)
    total = np.exp(exponents - largest[:, None]).sum(axis=1)
    normaliser = np.log(300) + 40 * (np.log(bandwidth) + np.log(2 * np.pi) / 2)
    np.testing.assert_array_equal(scores, (normaliser - largest - np.log(total)).astype(np.float32))


@pytest.mark.parametrize("detector", FORMS, ids=lambda detector: detector.kind)
def test_the_largest_rows_have_finite_scores(detector: Baseline) -> None:
    scores = detector.fit(table()[0]).decision_function(np.full((2, 30), np.finfo(np.float32).max))
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("detector", FORMS, ids=lambda detector: detector.kind)
def test_labelled_anomalies_are_refused_and_other_labels_change_nothing(detector: Baseline) -> None:
    train, rows = table()
    plain = detector.fit(train).decision_function(rows)
    np.testing.assert_array_equal(detector.fit(train, np.resize([0, -1], len(train))).decision_function(rows), plain)
    with pytest.raises(InputError, match=f"{detector.kind!r} cannot use labelled anomalies, and 1 rows"):
        detector.fit(train, np.arange(len(train)) == 3)
