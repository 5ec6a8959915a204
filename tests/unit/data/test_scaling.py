"""Scalers: what they do to rows, what they refuse, and that they survive as parts."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from assay.data.modalities.registry import load_scaler
from assay.data.scaling import MinMax, Standard, centre_and_spread
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
    X = np.array([[-1e300, 5e-324], [1e300, 0.0], [1e299, 0.0]])
    assert np.isfinite(scaler.fit(X).transform(X)).all()
    far = scaler.transform(np.full((1, 2), 1.7e308))
    assert np.isfinite(far).all()


@pytest.mark.parametrize("scaler", [Standard(), MinMax()])
def test_values_that_float32_merges_stay_apart(scaler: Standard | MinMax) -> None:
    near = 2.4e9 + np.array([[-5.0], [0.0], [5.0]])
    assert len(np.unique(near.astype(np.float32))) == 1
    scaled = scaler.fit(near).transform(near)
    expected = Standard() if isinstance(scaler, Standard) else MinMax()
    np.testing.assert_allclose(scaled, expected.fit(near - 2.4e9).transform(near - 2.4e9), atol=1e-6)
    tiny = np.array([[0.0], [1e-50], [3e-50]])
    np.testing.assert_allclose(
        scaler.fit(tiny).transform(tiny), expected.fit(tiny * 1e50).transform(tiny * 1e50), rtol=1e-6
    )


@pytest.mark.parametrize("scaler", [Standard(), MinMax()])
def test_a_part_without_precision_casts_first_as_it_always_did(scaler: Standard | MinMax) -> None:
    X = 0.1 + rows().astype(np.float64)
    part = scaler.fit(X).to_part()
    assert part.config == {"precision": "float64"}
    old = load_scaler(Part(part.kind, {}, part.arrays))
    assert old.precision == "float32"
    assert old.to_part().config == {}
    np.testing.assert_array_equal(old.transform(X), scaler.transform(X.astype(np.float32)))
    assert (old.transform(X) != scaler.transform(X)).any()
    with pytest.raises(DataError, match="row 0, column 0 is inf"):
        old.transform(np.full((1, 4), 1e39))
    with pytest.raises(ScorerError, match="precision"):
        load_scaler(Part(part.kind, {"precision": "float16"}, part.arrays))


@example(np.array([[2.22507386e-313, 0.0], *[[0.0, 0.0]] * 6]))
@given(arrays(np.float64, (7, 2), elements=st.floats(-1e300, 1e300)))
def test_centre_and_spread_are_those_of_exact_arithmetic(X: np.ndarray) -> None:
    centre, spread = centre_and_spread(X)
    for column, found, deviation in zip(X.T, centre, spread, strict=True):
        exact = [Fraction(value) for value in column]
        mean = sum(exact) / len(exact)
        variance = sum((value - mean) ** 2 for value in exact) / len(exact)
        largest = max(map(abs, exact))
        assert abs(Fraction(found) - mean) <= largest * Fraction(1, 10**15) + Fraction(5e-324)
        if len(set(exact)) == 1:
            assert deviation == 0
        else:
            assert deviation > 0
            error, unit = abs(Fraction(deviation) ** 2 - variance), Fraction(5e-324)
            # A spread below 2.3e-308 is a whole number of units, and so off by up to one.
            rounding = 2 * Fraction(deviation) * unit + unit**2
            assert error <= variance * Fraction(1, 10**12) + (largest * Fraction(1, 10**15)) ** 2 + rounding


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
