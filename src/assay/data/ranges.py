"""What is expected of the values of rows, as entries of an expectation suite: no nulls, and ranges."""

from __future__ import annotations

from typing import Any

import numpy as np

from assay.arrays import Singles

MINIMUM, MAXIMUM = "row.minimum", "row.maximum"
EXTREMES = (MINIMUM, MAXIMUM)

Entry = dict[str, Any]


def entry(kind: str, **kwargs: Any) -> Entry:
    """Return an entry of a suite: an expectation of Great Expectations by its type, and its arguments."""
    return {"type": kind, "kwargs": kwargs, "meta": {}}


def column_entries(columns: tuple[str, ...], features: Singles) -> list[Entry]:
    """Return, for each column, that it has no null and lies in ``[min - range, max + range]`` of its finite values."""
    return [e for name, values in zip(columns, features.T, strict=True) for e in _of_values(name, values)]


def extreme_entries(features: Singles) -> list[Entry]:
    """Return the same of each row's smallest and largest value, by the range of all values.

    For many columns that share a scale: an expectation takes milliseconds, and there are two per column. They are about
    ``row.minimum`` and ``row.maximum``, which the table has where a suite asks for them.
    """
    return [e for name in EXTREMES for e in _of_values(name, features)]


def _of_values(name: str, values: Singles) -> list[Entry]:
    not_null = entry("expect_column_values_to_not_be_null", column=name)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return [not_null]
    low, high = float(finite.min()), float(finite.max())
    margin = high - low if high > low else max(1.0, abs(low))
    bounds = {"min_value": _as_float32(low - margin), "max_value": _as_float32(high + margin)}
    return [not_null, entry("expect_column_values_to_be_between", column=name, **bounds)]


def _as_float32(value: float) -> float:
    """Return the shortest decimal for the nearest finite float32 (0.1, not 0.10000000149011612)."""
    limit = float(np.finfo(np.float32).max)
    return float(str(np.float32(min(max(value, -limit), limit))))
