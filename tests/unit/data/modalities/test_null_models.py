"""Null models of the modalities, and hardness by them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from assay.data.modalities.image import Image
from assay.data.modalities.registry import load_null_model
from assay.data.modalities.series import MAX_ORDER, AutoregressiveNull, Series
from assay.data.modalities.tabular import TABULAR
from assay.data.null_models import HARDNESS_ROWS
from assay.errors import ConfigError, DataError, InputError, ScorerError
from assay.parts import Part, read_part, write_part

EVERY_MODALITY = [TABULAR, Image((8, 8)), Series((32, 2))]


def second_order(n, length, coefficients, constant, rng, sigma=1.0):
    """Windows of an autoregression of order 2, shape (n, length)."""
    series = np.zeros((n, 50 + length))
    for step in range(2, 50 + length):
        past = coefficients[0] * series[:, step - 1] + coefficients[1] * series[:, step - 2]
        series[:, step] = constant + past + sigma * rng.standard_normal(n)
    return series[:, 50:]


@pytest.fixture
def digits():
    return load_digits().data.astype(np.float32)


def test_tabular_hardness_is_the_distance_to_the_training_mean():
    rng = np.random.default_rng(0)
    train, rows = rng.normal(3, 1, (50, 4)), rng.normal(size=(7, 4))
    found = TABULAR.null_model().fit(train).hardness(rows)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [np.sqrt(sum((row - train.mean(axis=0)) ** 2)) for row in rows])


def test_image_hardness_is_the_distance_to_the_neighbour_average(digits):
    found = Image((8, 8)).null_model().fit(digits).hardness(digits[:3])
    for row, hardness in zip(digits[:3].astype(np.float64), found, strict=True):
        image, null = row.reshape(8, 8), np.empty((8, 8))
        for i in range(8):
            for j in range(8):
                up, down, left, right = max(i - 1, 0), min(i + 1, 7), max(j - 1, 0), min(j + 1, 7)
                null[i, j] = (image[up, j] + image[down, j] + image[i, left] + image[i, right]) / 4
        assert hardness == pytest.approx(np.linalg.norm(image - null))


def test_flat_images_are_not_hard_and_shape_is_respected():
    model = Image((2, 6)).null_model()
    stripes = np.repeat([[0.0] * 6, [1.0] * 6], 1, axis=0).reshape(1, 12)
    np.testing.assert_array_equal(model.hardness(np.full((2, 12), 5.0)), [0, 0])
    # every pixel misses a quarter of the step between the two rows
    np.testing.assert_allclose(model.hardness(stripes), np.sqrt(12 * 0.25**2))


@pytest.mark.parametrize("modality", EVERY_MODALITY)
def test_hardness_of_a_row_does_not_depend_on_its_batch(digits, modality):
    model = modality.null_model().fit(digits)
    rows = np.tile(digits, (3, 1))[: HARDNESS_ROWS + 3]
    alone = np.concatenate([model.hardness(rows[i : i + 1]) for i in (0, 9, HARDNESS_ROWS)])
    np.testing.assert_array_equal(model.hardness(rows)[[0, 9, HARDNESS_ROWS]], alone)
    np.testing.assert_array_equal(model.hardness(np.asfortranarray(rows))[[0, 9, HARDNESS_ROWS]], alone)


@pytest.mark.parametrize("modality", EVERY_MODALITY)
def test_null_models_come_back_from_disk_the_same(tmp_path, digits, modality):
    model = modality.null_model().fit(digits)
    write_part(tmp_path, "null", model.to_part())
    np.testing.assert_array_equal(load_null_model(read_part(tmp_path, "null")).hardness(digits), model.hardness(digits))


def test_bad_null_models_and_rows_are_refused(digits):
    for order in (-1, 32):
        with pytest.raises(ConfigError, match=f"{order}.*31"):
            AutoregressiveNull((32, 2), order=order)
    with pytest.raises(ScorerError, match="'magic'"):
        load_null_model(Part("magic"))
    with pytest.raises(InputError, match="64"):
        Image((8, 8)).null_model().hardness(digits[:, :60])
    with pytest.raises(InputError, match="64"):
        TABULAR.null_model().fit(digits).hardness(digits[:, :60])
    with pytest.raises(InputError, match="64"):
        Series((32, 2)).null_model().fit(digits[:, :60])
    for rows in (digits[:0], np.full((1, 64), np.nan)):
        for model in (TABULAR.null_model(), Series((32, 2)).null_model()):
            with pytest.raises(DataError):
                model.fit(rows)


def test_series_hardness_is_the_distance_to_the_prediction_from_the_steps_before():
    rng = np.random.default_rng(3)
    windows = rng.standard_normal((40, 9, 2)) + np.array([5.0, -1.0])
    model = AutoregressiveNull((9, 2), order=2).fit(windows.reshape(40, 18))
    expected, rests = np.zeros(40), [[], []]
    for channel in range(2):
        x = windows[:, :, channel]
        lags = np.stack([np.ones_like(x[:, 2:]), x[:, 1:-1], x[:, :-2]], axis=-1).reshape(-1, 3)
        solution = np.linalg.lstsq(lags, x[:, 2:].ravel())[0]
        np.testing.assert_allclose(model.intercepts_[channel], solution[0], rtol=1e-6)
        np.testing.assert_allclose(model.coefficients_[channel], solution[1:], rtol=1e-6)
        rests[channel] = (x[:, 2:] - (lags @ solution).reshape(40, 7)) ** 2
        expected += rests[channel].sum(axis=1)
    np.testing.assert_allclose(model.hardness(windows.reshape(40, 18)), np.sqrt(expected), rtol=1e-6)


def test_the_coefficients_of_autoregressions_are_found_channel_by_channel():
    truth = np.array([[1.2, -0.5], [-0.4, 0.3]])
    found, constants, orders = [], [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        channels = [second_order(30, 40, truth[0], 0.7, rng), second_order(30, 40, truth[1], -2.0, rng, sigma=0.2)]
        rows = np.stack(channels, axis=2).reshape(30, 80)
        model = AutoregressiveNull((40, 2), order=2).fit(rows)
        found.append(model.coefficients_)
        constants.append(model.intercepts_)
        orders.append(AutoregressiveNull((40, 2)).fit(rows).coefficients_.shape[1])
    for values, target in ((found, truth), (constants, [0.7, -2.0])):
        error = np.std(values, axis=0, ddof=1) / np.sqrt(40)
        assert (np.abs(np.mean(values, axis=0) - target) < 4 * error).all()
        assert (error < 0.02).all()
    assert min(orders) >= 2  # AIC never takes too few lags here, and sometimes too many
    assert np.mean(np.array(orders) == 2) > 0.6
    assert max(orders) <= MAX_ORDER


def test_windows_that_the_past_does_not_tell_are_hard_however_usual_their_values():
    rng = np.random.default_rng(0)
    model = AutoregressiveNull((60, 1)).fit(second_order(200, 60, (1.2, -0.5), 0.0, rng))
    usual = second_order(200, 60, (1.2, -0.5), 0.0, rng)
    noisy = usual + 0.5 * usual.std() * rng.standard_normal(usual.shape)
    shuffled = rng.permuted(usual, axis=1)
    hardness = model.hardness(usual)
    for harder in (noisy, shuffled):
        assert np.mean(model.hardness(harder)[:, None] > hardness) > 0.99
    mean = TABULAR.null_model().fit(usual)
    assert np.mean(mean.hardness(shuffled)[:, None] > mean.hardness(usual)) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_series_without_noise_and_constant_channels_are_not_hard(offset):
    waves = np.sin(np.add.outer(np.arange(9.0), 0.3 * np.arange(50)))
    rows = np.stack([waves + offset, np.full_like(waves, offset), 2 * waves], axis=2).reshape(9, 150)
    model = AutoregressiveNull((50, 3)).fit(rows)
    assert np.isfinite(model.coefficients_).all()
    np.testing.assert_allclose(model.hardness(rows), 0, atol=1e-4 * max(1, offset * 1e-2))


@pytest.mark.parametrize(("length", "n"), [(1, 1), (1, 9), (2, 3), (4, 1), (50, 1)])
def test_the_shortest_windows_have_hardness(length, n):
    rows = np.random.default_rng(length).standard_normal((n, 2 * length)).astype(np.float32)
    model = AutoregressiveNull((length, 2)).fit(rows)
    assert model.coefficients_.shape[1] <= length // 4
    hardness = model.hardness(rows)
    assert np.isfinite(hardness).all()
    if length < 4:
        values = rows.reshape(n, length, 2).astype(np.float64)
        distances = np.sqrt(np.square(values - values.mean(axis=(0, 1))).sum(axis=(1, 2)))
        np.testing.assert_allclose(hardness, distances, atol=1e-9)
