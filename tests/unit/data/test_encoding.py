"""Missing values and categories: what rows become, and how hard they are to model."""

import numpy as np
import pytest

from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.data.encoding import MISMATCH, Encoder
from assay.data.modalities.registry import load_null_model, load_scaler
from assay.data.observed_mean import ObservedMean
from assay.detectors.registry import make_detector
from assay.errors import DataError

NAN = np.nan
TEXTS = {1: ("blue", "green", "red")}


def table(n: int = 400, seed: int = 0) -> np.ndarray:
    """Return rows: a number that is often missing, a category, a number that rarely is, and one that never is."""
    rng = np.random.default_rng(seed)
    rows = np.column_stack([rng.normal(5, 2, n), rng.integers(0, 3, n), rng.normal(size=n), rng.normal(size=n)])
    rows[rng.random(n) < 0.2, 0] = NAN
    rows[rng.random(n) < 0.1, 1] = NAN
    rows[0, 2] = NAN
    return rows


def fitted() -> Encoder:
    return Encoder(4, TEXTS, (0, 1, 2)).fit(table())


def test_numbers_are_scaled_by_what_was_observed_and_missing_ones_lie_at_the_median():
    rows = table()
    encoded = fitted().transform(rows)
    seen = rows[~np.isnan(rows[:, 0]), 0]
    expected = (np.where(np.isnan(rows[:, 0]), np.median(seen), rows[:, 0]) - seen.mean()) / seen.std()
    np.testing.assert_allclose(encoded[:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(encoded[:, 1], np.isnan(rows[:, 0]) * MISMATCH, rtol=1e-6)


def test_a_column_that_is_rarely_missing_gets_no_indicator():
    assert fitted().origins.tolist() == [0, 0, 1, 1, 1, 1, 1, 2, 3]


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (1, NAN), (2, 77)])
def test_any_two_categories_are_as_far_apart(pair):
    rows = np.tile(table()[5], (2, 1))
    rows[:, 1] = pair
    one, other = fitted().transform(rows)
    assert np.linalg.norm(one - other) == pytest.approx(MISMATCH)


def test_unseen_categories_are_one_value_of_their_own_and_are_known_as_lacking():
    rows = np.tile(table()[5], (4, 1))
    rows[:, 1] = (3, 4, 0, NAN)
    encoder = fitted()
    encoded = encoder.transform(rows)
    np.testing.assert_array_equal(encoded[0], encoded[1])
    assert encoder.lacks(rows).tolist() == [True, True, False, True]


def test_of_many_categories_the_rare_ones_share_a_slot():
    codes = np.concatenate([np.repeat(np.arange(40.0), 5), np.arange(20.0)])
    encoder = Encoder(1, {0: tuple(f"c{i}" for i in range(41))}, ()).fit(codes[:, None])
    encoded = encoder.transform(np.array([[0.0], [19.0], [38.0], [39.0], [40.0]]))
    assert encoded.shape == (5, 33)
    np.testing.assert_array_equal(encoded[2], encoded[3])
    assert len(np.unique(encoded, axis=0)) == 4


def test_texts_that_training_rows_do_not_have_are_not_kept():
    rows = table()
    rows[rows[:, 1] == 0, 1] = 2
    rows[rows[:, 1] == 1, 1] = NAN
    encoder = Encoder(4, {1: ("blue", "green", "red", "black")}, (0, 1, 2)).fit(rows)
    assert encoder.to_part().config["vocabulary"] == {"1": ["", "", "red"]}


@pytest.mark.parametrize("cell", [(3, NAN), (0, np.inf), (3, -np.inf)])
def test_what_may_not_be_missing_and_what_is_infinite_is_refused(cell):
    rows = table()
    rows[7, cell[0]] = cell[1]
    with pytest.raises(DataError, match=f"row 7, column {cell[0]}"):
        fitted().transform(rows)


def test_a_column_that_training_rows_never_have_says_nothing_but_that_it_is_there():
    rows = table()
    rows[:, 0] = NAN
    encoder = Encoder(4, TEXTS, (0, 1, 2)).fit(rows)
    rows[3, 0] = 1e6
    encoded = encoder.transform(rows)
    assert (encoded[:, 0] == 0).sum() == len(rows) - 1
    assert abs(encoded[3, 0]) < 1e-30
    assert encoded[3, 1] == 0


def test_the_same_encoder_comes_back_from_its_part():
    encoder = fitted()
    loaded = load_scaler(encoder.to_part())
    np.testing.assert_array_equal(loaded.transform(table(seed=1)), encoder.transform(table(seed=1)))
    assert loaded.to_part().config == encoder.to_part().config


def test_hardness_is_of_what_was_observed():
    rows = table(4000)
    encoder = Encoder(4, TEXTS, (0, 1, 2)).fit(rows)
    encoded = encoder.transform(rows)
    model = ObservedMean(encoder.fills).fit(encoded)
    observed = ~np.isnan(rows[:, 0])
    whole = observed & ~np.isnan(rows[:, 2])
    np.testing.assert_allclose(model.mean_[0], encoded[observed, 0].mean(), atol=1e-6)
    away = np.linalg.norm(encoded - model.mean_, axis=1)
    np.testing.assert_allclose(model.hardness(encoded)[whole], away[whole])
    k = encoded.shape[1]
    without = np.linalg.norm(np.delete(encoded - model.mean_, 0, axis=1), axis=1) * np.sqrt(k / (k - 1))
    lacking = ~observed & ~np.isnan(rows[:, 2])
    np.testing.assert_allclose(model.hardness(encoded)[lacking], without[lacking])
    np.testing.assert_array_equal(load_null_model(model.to_part()).hardness(encoded), model.hardness(encoded))


def test_an_observed_number_at_the_median_is_not_taken_for_a_missing_one():
    rows = np.array([[1.0], [2.0], [3.0], [NAN], [2.0]])
    encoder = Encoder(1, {}, (0,)).fit(rows)
    encoded = encoder.transform(rows)
    assert (encoded[:, 0] == encoder.fills[0]).tolist() == [False, False, False, True, False]
    assert encoded[1, 0] == pytest.approx(encoded[3, 0], abs=1e-30)


def test_dates_are_time_that_passed_and_two_cycles():
    monday = np.datetime64("2026-11-23T00:00").astype("datetime64[s]").astype(float)
    seconds = monday + 3600.0 * np.arange(0, 24 * 14, 6)
    encoder = Encoder(1, {}, (0,), (0,)).fit(np.append(seconds, NAN)[:, None])
    encoded = encoder.transform(np.append(seconds, NAN)[:, None])
    assert encoder.origins.tolist() == [0] * 6  # with an indicator
    assert encoded[:5, 1:3].round(6).tolist() == [[1, 0], [0, 1], [-1, 0], [0, -1], [1, 0]]
    np.testing.assert_allclose(encoded[28, 1:5], encoded[0, 1:5], atol=1e-5)  # a week later
    np.testing.assert_allclose(np.diff(encoded[:-1, 0]), np.diff(encoded[:2, 0])[0], rtol=1e-4)
    assert (encoded[:, 1:5] == 0).all(axis=1).tolist() == [False] * len(seconds) + [True]
    assert (encoder.fills == encoded)[:, :5].any(axis=1).tolist() == [False] * len(seconds) + [True]


def test_the_promise_holds_for_tables_with_gaps_and_categories():
    """P(p <= .05) over 100 redraws of all rows is .05, which 99 calibration rows allow exactly."""
    rates = []
    for seed in range(100):
        rows = table(99 + 300, seed)
        train, calibration, new = np.split(rows, [150, 249])
        encoder = Encoder(4, TEXTS, (0, 1, 2)).fit(train)
        detector = make_detector("knn", {}, seed=0, device="cpu").fit(encoder.transform(train))
        calibrator = ConformalCalibrator().fit(detector.decision_function(encoder.transform(calibration)))
        rates.append(calibrator.predict(detector.decision_function(encoder.transform(new)), 0.05).mean())
    assert abs(np.mean(rates) - 0.05) < 3 * np.std(rates) / np.sqrt(len(rates))
