"""Rows in any decent form as a scorer takes them: which column is which, and whether every value is a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Texts
from assay.data.categories import category_texts
from assay.errors import InputError


def names_of(X: Any) -> list[str]:
    """Return the column names of a DataFrame, and none for anything else."""
    return [str(name) for name in X.columns] if hasattr(X, "columns") and hasattr(X, "to_numpy") else []


def checked_categories(categories: Any, n: int) -> Texts:
    """Return the categories of n rows as texts; raise `InputError` where one is missing."""
    given = np.asarray(categories, dtype=object)
    if given.shape != (n,):
        raise InputError(f"{given.shape} categories for {n} rows; give one for each row")
    texts = category_texts(given)
    if missing := np.flatnonzero(texts == "").tolist():
        raise InputError(f"row {missing[0]} has no category; this scorer compares rows within categories")
    return texts


def as_numbers(frame: Any) -> Any:
    """Return a DataFrame of float64 where its columns are all numbers or booleans, else the frame as it is."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    plain = all(is_numeric_dtype(dtype) or is_bool_dtype(dtype) for dtype in frame.dtypes)
    return frame.astype("float64") if plain else frame


def column_order(expected: Sequence[str], given: Sequence[str]) -> list[int]:
    """Return where each expected column stands among the given ones.

    Raises
    ------
    InputError
        A column is unknown, missing or given twice.
    """
    known, where = set(expected), {name: place for place, name in enumerate(given)}
    if unknown := [name for name in given if name not in known]:
        raise InputError(f"unknown column {unknown[0]!r}; this scorer takes {_listed(expected)}")
    if missing := [name for name in expected if name not in where]:
        raise InputError(f"column {missing[0]!r} is missing; this scorer takes {_listed(expected)}")
    if len(given) != len(where):
        twice = next(name for place, name in enumerate(given) if where[name] != place)
        raise InputError(f"column {twice!r} is given twice; give each column once")
    return [where[name] for name in expected]


def as_features(X: Any, columns: Sequence[str]) -> NDArray[np.float32]:
    """Check raw rows and return them as float32 of shape (n, d); see `Scorer.decision_function`."""
    try:
        values = np.asarray(X)
    except ValueError as error:
        raise InputError(
            f"rows differ in length; every row needs {len(columns)} values ({_listed(columns)})"
        ) from error
    if values.dtype.kind not in "fiu":
        raise InputError(f"rows must hold numbers, not {values.dtype}; every row needs {len(columns)} numbers")
    if values.ndim != 2 or values.shape[1] != len(columns):
        raise InputError(f"rows have shape {values.shape}; expected (n, {len(columns)}): {_listed(columns)}")
    with np.errstate(over="ignore"):
        features = values.astype(np.float32)
    if not np.isfinite(features).all():
        row, column = np.argwhere(~np.isfinite(features))[0]
        raise InputError(
            f"row {row}, column {columns[column]!r} is {values[row, column]}; values must be finite and fit float32"
        )
    return features


def _listed(columns: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(columns[:most])
    return f"{len(columns)} columns: {shown}" + (", ..." if len(columns) > most else "")
