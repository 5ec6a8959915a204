"""Null models and hardness strata."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from assay.calibration.hardness import (
    BLOCK_ROWS,
    NULL_MODELS,
    Strata,
    load_null_model,
    make_null_model,
)
from assay.errors import ConfigError, DataError, InputError, ScorerError
from assay.parts import Part, read_part, write_part


@pytest.fixture
def digits():
    return load_digits().data.astype(np.float32)


def test_tabular_hardness_is_the_distance_to_the_training_mean():
    rng = np.random.default_rng(0)
    train, rows = rng.normal(3, 1, (50, 4)), rng.normal(size=(7, 4))
    found = make_null_model("tabular").fit(train).hardness(rows)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [np.sqrt(sum((row - train.mean(axis=0)) ** 2)) for row in rows])


def test_image_hardness_is_the_distance_to_the_neighbour_average(digits):
    found = make_null_model("image", (8, 8)).fit(digits).hardness(digits[:3])
    for row, hardness in zip(digits[:3].astype(np.float64), found, strict=True):
        image, null = row.reshape(8, 8), np.empty((8, 8))
        for i in range(8):
            for j in range(8):
                up, down, left, right = max(i - 1, 0), min(i + 1, 7), max(j - 1, 0), min(j + 1, 7)
                null[i, j] = (image[up, j] + image[down, j] + image[i, left] + image[i, right]) / 4
        assert hardness == pytest.approx(np.linalg.norm(image - null))


def test_flat_images_are_not_hard_and_shape_is_respected():
    model = make_null_model("image", (2, 6))
    stripes = np.repeat([[0.0] * 6, [1.0] * 6], 1, axis=0).reshape(1, 12)
    np.testing.assert_array_equal(model.hardness(np.full((2, 12), 5.0)), [0, 0])
    # every pixel misses a quarter of the step between the two rows
    np.testing.assert_allclose(model.hardness(stripes), np.sqrt(12 * 0.25**2))


@pytest.mark.parametrize(("modality", "shape"), [("tabular", None), ("image", (8, 8))])
def test_hardness_of_a_row_does_not_depend_on_its_batch(digits, modality, shape):
    model = make_null_model(modality, shape).fit(digits)
    rows = np.tile(digits, (3, 1))[: BLOCK_ROWS + 3]
    alone = np.concatenate([model.hardness(rows[i : i + 1]) for i in (0, 9, BLOCK_ROWS)])
    np.testing.assert_array_equal(model.hardness(rows)[[0, 9, BLOCK_ROWS]], alone)
    np.testing.assert_array_equal(model.hardness(np.asfortranarray(rows))[[0, 9, BLOCK_ROWS]], alone)


@pytest.mark.parametrize(("modality", "shape"), [("tabular", None), ("image", (8, 8))])
def test_null_models_come_back_from_disk_the_same(tmp_path, digits, modality, shape):
    model = make_null_model(modality, shape).fit(digits)
    write_part(tmp_path, "null", model.to_part())
    part = read_part(tmp_path, "null")
    assert part.kind in NULL_MODELS
    np.testing.assert_array_equal(load_null_model(part).hardness(digits), model.hardness(digits))


def test_bad_null_models_and_rows_are_refused(digits):
    with pytest.raises(ConfigError, match="'text'"):
        make_null_model("text")
    with pytest.raises(ConfigError, match="image_shape"):
        make_null_model("image")
    with pytest.raises(ScorerError, match="'magic'"):
        load_null_model(Part("magic"))
    with pytest.raises(InputError, match="64"):
        make_null_model("image", (8, 8)).hardness(digits[:, :60])
    with pytest.raises(InputError, match="64"):
        make_null_model("tabular").fit(digits).hardness(digits[:, :60])
    for rows in (digits[:0], np.array([[np.nan]])):
        with pytest.raises(DataError):
            make_null_model("tabular").fit(rows)


def test_strata_are_quartiles_of_the_fitted_rows():
    hardness = np.random.default_rng(1).gamma(2, size=1000)
    strata = Strata.fit(hardness)
    assert strata.n_strata == 4
    assert np.bincount(strata.assign(hardness)).tolist() == [250] * 4
    order = np.argsort(hardness)
    assert (np.diff(strata.assign(hardness)[order]) >= 0).all()
    assert strata.assign(np.array([-1.0, 1e9])).tolist() == [0, 3]


@pytest.mark.parametrize(
    ("hardness", "n_strata"),
    [
        ([2.0] * 30, 1),
        ([5.0], 1),
        ([0.0] * 29 + [1.0], 2),
        ([0.0] * 10 + [1.0] * 10, 2),
        ([0, 0, 1, 1, 2, 2], 3),
    ],
)
def test_ties_give_fewer_strata_and_none_is_empty(hardness, n_strata):
    hardness = np.array(hardness, dtype=np.float64)
    strata = Strata.fit(hardness)
    assert strata.to_part().config["n_strata"] == strata.n_strata == n_strata
    assert sorted(set(strata.assign(hardness))) == list(range(n_strata))


def test_strata_come_back_from_disk_the_same(tmp_path):
    hardness = np.random.default_rng(2).gamma(2, size=101)
    for values in (hardness, np.ones(5)):
        strata = Strata.fit(values)
        write_part(tmp_path, "strata", strata.to_part())
        again = Strata.from_part(read_part(tmp_path, "strata"))
        np.testing.assert_array_equal(again.assign(hardness), strata.assign(hardness))
    with pytest.raises(ScorerError, match="'mean'"):
        Strata.from_part(Part("mean"))


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf]])
def test_strata_need_finite_rows(values):
    with pytest.raises(DataError, match="at least one"):
        Strata.fit(np.array(values))
