"""Input of a scorer: rows in any common form are checked and brought into the scorer's order of columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Floats, Texts
from assay.data.categories import category_texts, codes_of, feature_texts
from assay.data.dates import seconds_of
from assay.data.dialects import UNNAMED_INDEX
from assay.data.documents import DocumentScaler
from assay.data.encoding import Encoder
from assay.data.scaling import Scaler
from assay.data.words import document_rows, plain_document
from assay.errors import DataError, InputError


def as_rows(X: Any) -> Any:
    """Return a table with Arrow's PyCapsule interface as a DataFrame, masked numbers as NaN; others unchanged.

    Decimals of such a table become the nearest float64, as those of a Parquet file do.
    """
    if isinstance(X, np.ma.MaskedArray) and X.dtype.kind in "fiu":
        return np.ma.filled(X.astype(np.float64), np.nan)
    if isinstance(X, np.ma.MaskedArray):
        return _objects(X)
    if hasattr(X, "iloc") or not (hasattr(X, "__arrow_c_stream__") or hasattr(X, "__arrow_c_array__")):
        return X
    import pandas as pd
    import pyarrow as pa

    try:
        table = pa.table(X)
    except (pa.ArrowException, TypeError, ValueError):
        return X  # an array, which has no names
    for i, field in enumerate(table.schema):
        if pa.types.is_decimal(field.type):
            table = table.set_column(i, field.name, table.column(i).cast(pa.string()).cast(pa.float64()))
    try:
        frame = table.to_pandas(ignore_metadata=True, types_mapper={pa.bool_(): pd.BooleanDtype()}.get)
    except Exception as error:  # of zones and calendars, which come from other packages
        raise InputError(f"the Arrow table holds a date or a time that cannot be read: {error}") from error
    return frame.loc[:, [not UNNAMED_INDEX.fullmatch(name) for name in table.column_names]]


def names_of(X: Any) -> list[str]:
    """Return the column names of a DataFrame; an empty list for anything else."""
    return [str(name) for name in X.columns] if hasattr(X, "columns") and hasattr(X, "to_numpy") else []


def checked_categories(categories: Any, n: int) -> Texts:
    """Return the categories of n rows as texts; raise `InputError` if one is missing."""
    values = _objects(categories)
    if values.shape != (n,):
        raise InputError(f"{values.shape} categories for {n} rows; give one for each row")
    texts = category_texts(values)
    if missing := np.flatnonzero(texts == "").tolist():
        raise InputError(f"row {missing[0]} has no category; this scorer compares rows within categories")
    return texts


def checked_ids(row_ids: Any, n: int) -> Texts:
    """Return the ids of n rows as texts; raise `InputError` if one is missing."""
    values = _objects(row_ids)
    if values.shape != (n,):
        raise InputError(f"{values.shape} row ids for {n} rows; give one for each row")
    texts = category_texts(values)
    if missing := np.flatnonzero(texts == "").tolist():
        raise InputError(f"row {missing[0]} has no id; give one for each row, or leave ids out")
    return texts


def _objects(values: Any) -> Texts:
    """Return values as an array of objects; what is masked is None."""
    objects = np.array(values, dtype=object)
    objects[np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else False] = None
    return objects


def as_numbers(frame: Any) -> Any:
    """Return a DataFrame as float64 if its columns are all numbers or booleans, else unchanged."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    all_numbers = all(is_numeric_dtype(dtype) or is_bool_dtype(dtype) for dtype in frame.dtypes)
    return frame.astype("float64") if all_numbers else frame


def column_order(expected: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return the index of each expected column in `names`.

    Raises
    ------
    InputError
        A column is unknown, missing or given twice.
    """
    index_of = {name: index for index, name in enumerate(names)}
    expected_names = set(expected)
    if unknown := [name for name in names if name not in expected_names]:
        raise InputError(f"unknown column {unknown[0]!r}; this scorer takes {_listed(expected)}")
    if missing := [name for name in expected if name not in index_of]:
        raise InputError(f"column {missing[0]!r} is missing; this scorer takes {_listed(expected)}")
    if len(names) != len(index_of):
        twice = next(name for index, name in enumerate(names) if index_of[name] != index)
        raise InputError(f"column {twice!r} is given twice; give each column once")
    return [index_of[name] for name in expected]


def as_features(X: Any, columns: Sequence[str], scaler: Scaler) -> Floats:
    """Check raw rows and return them, of shape (n, d), in the precision that the scorer's scaler states.

    Where the scaler is an encoder, texts become codes of categories, and values that may be missing NaN. Documents
    become the codes of their words (`assay.data.words`).

    Raises
    ------
    InputError
        See `assay.scorer.scorer.Scorer.decision_function`.
    """
    if isinstance(scaler, DocumentScaler):
        return _document_rows(X, columns)
    encoder = scaler if isinstance(scaler, Encoder) else None
    try:
        values = np.asarray(X, dtype=object) if encoder is not None and isinstance(X, list | tuple) else np.asarray(X)
    except ValueError as error:
        raise InputError(
            f"rows differ in length; every row needs {len(columns)} values ({_listed(columns)})"
        ) from error
    if encoder is not None and values.ndim == 2 and values.shape[1] == len(columns):
        values = _encodable(values, columns, encoder)
    if values.dtype.kind not in "fiu":
        raise InputError(f"rows must hold numbers, not {values.dtype}; every row needs {len(columns)} numbers")
    if values.ndim != 2 or values.shape[1] != len(columns):
        raise InputError(f"rows have shape {values.shape}; expected (n, {len(columns)}): {_listed(columns)}")
    with np.errstate(over="ignore"):
        features: Floats = values.astype(scaler.precision)
    usable = np.isfinite(features) if encoder is None else encoder.usable(features)
    if not usable.all():
        row, column = np.argwhere(~usable)[0]
        if encoder is not None and np.isnan(features[row, column]):
            raise InputError(f"row {row}, column {columns[column]!r} is missing; this column may not lack a value")
        allowed = "finite" if scaler.precision == "float64" else "finite and fit float32"
        raise InputError(f"row {row}, column {columns[column]!r} is {values[row, column]}; values must be {allowed}")
    return features


def _document_rows(X: Any, columns: Sequence[str]) -> Doubles:
    """Return documents, a column of texts or a sequence of them, as codes of words."""
    if isinstance(X, str):
        raise InputError("a text is given; give a list of texts, or a table with a column of them")
    try:
        values = _objects(X)
    except ValueError as error:
        raise InputError(f"rows differ in length; every row needs one text ({columns[0]})") from error
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or values.shape[1] != 1:
        raise InputError(f"rows have shape {values.shape}; expected (n, 1), a text in each: {columns[0]}")
    try:
        return document_rows([plain_document(value, f"row {row}") for row, value in enumerate(values[:, 0])])
    except DataError as error:
        raise InputError(str(error)) from error


def _encodable(values: NDArray[Any], columns: Sequence[str], encoder: Encoder) -> Doubles:
    """Return raw rows of shape (n, d) with codes instead of texts, NaN where a value is missing."""
    of_texts = [*encoder.vocabulary, *np.flatnonzero(encoder.dates).tolist()]
    if values.dtype.kind in "fiu" and of_texts:
        raise InputError(
            f"column {columns[min(of_texts)]!r} holds categories or dates; give a table with texts in it, or an array "
            "of objects"
        )
    if values.dtype.kind in "fiu":
        return values.astype(np.float64)
    rows = np.empty(values.shape, dtype=np.float64)
    for i, name in enumerate(columns):
        if i in encoder.vocabulary:
            rows[:, i], _ = codes_of(feature_texts(values[:, i]), encoder.vocabulary[i])
        elif encoder.dates[i]:
            rows[:, i] = _seconds(values[:, i], name)
        else:
            rows[:, i] = [_as_number(value, row, name) for row, value in enumerate(values[:, i])]
    return rows


def _seconds(values: NDArray[Any], column: str) -> Doubles:
    try:
        return seconds_of(column, values)
    except DataError as error:
        raise InputError(str(error)) from error


def _as_number(value: object, row: int, column: str) -> float:
    if isinstance(value, int | float | np.number | np.bool_):
        try:
            return float(value)
        except OverflowError as error:  # Python's whole numbers have no limit
            raise InputError(f"row {row}, column {column!r} is beyond float64; values must be finite") from error
    if value is None or str(value) in ("<NA>", "NaT"):
        return float("nan")
    raise InputError(f"row {row}, column {column!r} is {value!r}; it must be a number, or None where it is missing")


def _listed(columns: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(columns[:most])
    return f"{len(columns)} columns: {shown}" + (", ..." if len(columns) > most else "")
