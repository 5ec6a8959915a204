"""Expectations of the values of single rows, as entries of a suite: neither missing nor infinite."""

from __future__ import annotations

from typing import Any

import numpy as np

NOT_NULL, IS_BETWEEN = "expect_column_values_to_not_be_null", "expect_column_values_to_be_between"
MINIMUM, MAXIMUM = "row.minimum", "row.maximum"
EXTREMES = (MINIMUM, MAXIMUM)
MANY_COLUMNS = 256
_LARGEST = float(np.finfo(np.float64).max)

Expectation = dict[str, Any]


def expectation(kind: str, **kwargs: Any) -> Expectation:
    """Return one entry of a suite: the type and the arguments of a Great Expectations expectation."""
    return {"type": kind, "kwargs": kwargs, "meta": {}}


def column_expectations(columns: tuple[str, ...]) -> list[Expectation]:
    """Return two expectations per column: no value is missing, and none is infinite.

    With more than 256 columns they are of each row's smallest and largest value, ``row.minimum`` and
    ``row.maximum``, which the table has if a suite uses them: two per column would take too long.
    """
    entries = []
    for name in columns if len(columns) <= MANY_COLUMNS else EXTREMES:
        entries.append(expectation(NOT_NULL, column=name))
        entries.append(expectation(IS_BETWEEN, column=name, min_value=-_LARGEST, max_value=_LARGEST))
    return entries
