"""Scalers: what they do to rows, what they refuse, and that they survive as parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from assay.data.modalities.registry import load_scaler
from assay.data.scaling import MinMax, Standard
from assay.errors import DataError, ScorerError
from assay.parts import Part, read_part, write_part


def rows(n: int = 50, d: int = 4, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(5.0, [1, 10, 100, 0.1], size=(n, d)).astype(np.float32)


def test_standard_gives_zero_mean_and_unit_deviation() -> None:
    scaled = Standard().fit(rows()).transform(rows())
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("value", [0.1, 123456.789, 3e38, 0.0])
def test_a_constant_column_becomes_zero_and_is_not_blown_up(value: float) -> None:
    X = rows()
    X[:, 2] = value
    scaler = Standard().fit(X)
    assert (scaler.transform(X)[:, 2] == 0).all()
    assert scaler.scale_[2] == 1


@pytest.mark.parametrize("scaler", [Standard(), MinMax()])
def test_huge_values_stay_finite(scaler: Standard | MinMax) -> None:
    X = np.array([[-3e38, 1e-45], [3e38, 0.0], [1e38, 0.0]], dtype=np.float32)
    assert np.isfinite(scaler.fit(X).transform(X)).all()
    assert np.isfinite(scaler.transform(np.full((1, 2), 3e38, dtype=np.float32))).all()


def test_minmax_keeps_the_order_of_all_pixels() -> None:
    images = np.array([[0, 8], [4, 16]], dtype=np.float32)
    np.testing.assert_array_equal(MinMax().fit(images).transform(images), [[0, 0.5], [0.25, 1]])
    np.testing.assert_array_equal(MinMax().fit(images[:1] * 0 + 7).transform(images), images - 7)


@pytest.mark.parametrize("scaler", [Standard(), MinMax()])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_value_that_is_not_finite_is_named(scaler: Standard | MinMax, bad: float) -> None:
    X = rows()
    scaler.fit(X)
    X[7, 3] = X[9, 0] = bad
    for method in (scaler.fit, scaler.transform):
        with pytest.raises(DataError, match="row 7, column 3"):
            method(X)


@pytest.mark.parametrize("scaler", [Standard(), MinMax()])
def test_what_has_no_rows_or_is_no_table_is_refused(scaler: Standard | MinMax) -> None:
    with pytest.raises(DataError, match=r"\(0, 4\)"):
        scaler.fit(rows()[:0])
    with pytest.raises(DataError, match="2-D"):
        scaler.fit(rows()[0])


def test_another_number_of_columns_is_refused() -> None:
    with pytest.raises(DataError, match="1 columns; the scaler was fitted on 4"):
        Standard().fit(rows()).transform(rows()[:, :1])


@pytest.mark.parametrize("scaler", [Standard(), MinMax()])
def test_a_scaler_read_from_its_part_does_the_same(scaler: Standard | MinMax, tmp_path: Path) -> None:
    scaler.fit(rows())
    write_part(tmp_path, "scaler", scaler.to_part())
    again = load_scaler(read_part(tmp_path, "scaler"))
    np.testing.assert_array_equal(again.transform(rows(seed=1)), scaler.transform(rows(seed=1)))


def test_a_row_is_scaled_alike_alone_and_in_a_batch() -> None:
    X = rows()
    for scaler in (Standard().fit(X), MinMax().fit(X)):
        np.testing.assert_array_equal(scaler.transform(X[3:4]), scaler.transform(X)[3:4])


def test_unknown_kinds_are_named() -> None:
    with pytest.raises(ScorerError, match="'robust'"):
        load_scaler(Part("robust"))
    with pytest.raises(ScorerError, match="'mean'"):
        load_scaler(Part("standard"))
