"""Cross-conformal calibration with models that are fitted anew for every fold."""

from __future__ import annotations

import numpy as np
import pytest

from assay.calibration.calibrators.cross import CrossCalibrator
from assay.calibration.calibrators.registry import load_calibrator
from assay.errors import DataError, InputError, ScorerError
from assay.parts import Part

LEVELS = np.array([0.01, 0.05, 0.1])


def to_mean(train, X):
    """Score rows by their distance to the mean of the training rows."""
    return np.linalg.norm(X - train.mean(axis=0), axis=1)


def to_third_neighbour(train, X):
    """Score rows by the distance to their third neighbour in training."""
    return np.sort(np.linalg.norm(X[:, None] - train, axis=2), axis=1)[:, 2]


def calibrated(fit_score, X, new, n_folds, unseen=None):
    """Return a calibrator fitted on X in folds, and the scores of new rows by every fold's model."""
    fold = np.arange(len(X)) % n_folds
    references, of_new = [], []
    for k in range(n_folds):
        train, left_out = X[fold != k], X[fold == k]
        if unseen is not None:
            left_out = np.concatenate([left_out, unseen[np.arange(len(unseen)) % n_folds == k]])
        references.append(fit_score(train, left_out))
        of_new.append(fit_score(train, new))
    return CrossCalibrator().fit(references), np.stack(of_new)


def test_rows_are_compared_inside_each_fold_with_its_models_scores():
    calibrator = CrossCalibrator().fit([np.array([1.0, 3]), np.array([10.0, 30, 40])])
    scores = np.array([[2.0, 0.0, 9.0], [20.0, 0.0, 99.0]])
    np.testing.assert_array_equal(calibrator.p_values(scores), np.array([1 + 1 + 2, 6, 1]) / 6)
    assert (calibrator.n_rows, calibrator.n_folds, calibrator.smallest_eps) == (5, 2, 1 / 6)


@pytest.mark.parametrize(
    ("fit_score", "m", "n_folds"),
    [(to_mean, 30, 5), (to_mean, 40, 40), (to_third_neighbour, 60, 10), (to_third_neighbour, 30, 30)],
)
def test_false_positive_rate_is_within_its_bound_and_near_eps(fit_score, m, n_folds):
    redraws, found = 200, []
    for seed in range(redraws):
        rng = np.random.default_rng(seed)
        calibrator, scores = calibrated(fit_score, rng.normal(size=(m, 3)), rng.normal(size=(40, 3)), n_folds)
        p = calibrator.p_values(scores)
        found.append([(p <= eps).mean() for eps in LEVELS])
    mean, error = np.mean(found, axis=0), 3 * np.std(found, axis=0) / np.sqrt(redraws)
    assert (mean <= 2 * LEVELS + error).all()
    assert (mean[1:] <= 1.2 * LEVELS[1:] + error[1:]).all()
    assert (mean[1:] >= 0.5 * LEVELS[1:] - error[1:]).all()


def test_rows_that_no_model_saw_may_join_the_folds():
    redraws, found = 200, []
    for seed in range(redraws):
        rng = np.random.default_rng(seed)
        X, unseen, new = (rng.normal(size=(n, 3)) for n in (30, 37, 40))
        calibrator, scores = calibrated(to_mean, X, new, 5, unseen)
        assert calibrator.n_rows == 67
        p = calibrator.p_values(scores)
        found.append([(p <= eps).mean() for eps in LEVELS])
    mean, error = np.mean(found, axis=0), 3 * np.std(found, axis=0) / np.sqrt(redraws)
    assert (mean <= 2 * LEVELS + error).all()
    assert (mean[1:] >= 0.5 * LEVELS[1:] - error[1:]).all()


def test_the_factor_of_two_is_needed_where_folds_disagree_as_much_as_they_can():
    """The second model ranks the highest scores of the first in reverse, so that their mean p-value is constant."""
    level, eps, found = 0.18, 0.1, []
    for seed in range(200):
        first = np.random.default_rng(seed).random(1050)
        second = np.where(first > 1 - level, 2 - level - first, first)
        calibrator = CrossCalibrator().fit([first[:500], second[500:1000]])
        found.append((calibrator.p_values(np.stack([first, second])[:, 1000:]) <= eps).mean())
    error = 3 * np.std(found) / np.sqrt(200)
    assert 1.5 * eps < np.mean(found) <= 2 * eps + 2 / 1002 + error


def test_guarantees_tell_what_the_folds_are_worth():
    ten = CrossCalibrator().fit([np.arange(9.0)] * 10)
    assert "2 eps + 0.18 for" in ten.guarantee
    alone = CrossCalibrator().fit([np.zeros(1)] * 30)
    assert "<= 2 eps for" in alone.guarantee
    assert "all of them but one" in alone.guarantee


def test_randomised_ties_are_broken_in_every_fold():
    calibrator = CrossCalibrator().fit([np.zeros(3), np.zeros(5)])
    p = calibrator.p_values(np.zeros((2, 3)), tie_breaks=np.array([0, 0.5, 0.99]))
    np.testing.assert_array_equal(p, np.array([1, 1 + 2 + 3, 9]) / 9)


def test_what_does_not_fit_is_refused():
    for folds in ([], [np.ones(3)], [np.ones(3), np.empty(0)], [np.ones(3), np.array([np.nan])]):
        with pytest.raises(DataError):
            CrossCalibrator().fit(folds)
    calibrator = CrossCalibrator().fit([np.ones(2), np.ones(3)])
    for scores in (np.ones(4), np.ones((3, 4)), np.ones((4, 2))):
        with pytest.raises(InputError, match=r"give \(2, n\)"):
            calibrator.p_values(scores)
    part = calibrator.to_part()
    for sizes in ([5], [2, 2], [5, 0], [6, -1]):
        with pytest.raises(ScorerError, match="damaged"):
            load_calibrator(Part("cross", {}, {**part.arrays, "sizes": np.array(sizes)}))
