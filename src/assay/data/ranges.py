"""Expectations of the values of rows, as entries of an expectation suite: no nulls, and ranges."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np

from assay.arrays import Doubles

NOT_NULL = "expect_column_values_to_not_be_null"
MINIMUM, MAXIMUM = "row.minimum", "row.maximum"
EXTREMES = (MINIMUM, MAXIMUM)

Expectation = dict[str, Any]


def expectation(kind: str, **kwargs: Any) -> Expectation:
    """Return one entry of a suite: the type and the arguments of a Great Expectations expectation."""
    return {"type": kind, "kwargs": kwargs, "meta": {}}


def column_expectations(columns: tuple[str, ...], features: Doubles) -> list[Expectation]:
    """Return two expectations per column: no null, and values in ``[min - range, max + range]`` of the finite ones."""
    return [e for name, values in zip(columns, features.T, strict=True) for e in _of_values(name, values)]


def extreme_expectations(features: Doubles) -> list[Expectation]:
    """Return the same two expectations of each row's smallest and largest value, by the range of all values.

    For many columns that share a scale: two expectations per column, of milliseconds each, would take too long. They
    refer to the columns ``row.minimum`` and ``row.maximum``, which the table has if a suite uses them.
    """
    return [e for name in EXTREMES for e in _of_values(name, features)]


def _of_values(name: str, values: Doubles) -> list[Expectation]:
    not_null = expectation(NOT_NULL, column=name)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return [not_null]
    low, high = float(finite.min()), float(finite.max())
    margin = high - low if high > low else max(1.0, abs(low))
    bounds = {"min_value": _rounded(low - margin, margin), "max_value": _rounded(high + margin, margin)}
    return [not_null, expectation("expect_column_values_to_be_between", column=name, **bounds)]


def _rounded(value: float, margin: float) -> float:
    """Return a bound rounded to less than a millionth of the margin: -0.2, not -0.19999999999999998."""
    return round(value, 6 - Decimal(margin).adjusted())
