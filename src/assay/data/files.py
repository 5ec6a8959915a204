"""A user's CSV or Parquet file as a dataset."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from decimal import ROUND_FLOOR, Decimal, InvalidOperation, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from assay.arrays import Doubles, Labels, Texts
from assay.data.dataset import ANOMALY, NORMAL, UNKNOWN, Card, Dataset, RowSet
from assay.data.decoded import require_memory
from assay.data.modalities.tabular import TABULAR
from assay.errors import DataError
from assay.names import check_name

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MISSING = ["", "NA", "N/A", "<NA>", "NaN", "nan", "null", "NULL", "None"]
_LABELS = {
    **dict.fromkeys(("0", "0.0", "false"), NORMAL),
    **dict.fromkeys(("1", "1.0", "true"), ANOMALY),
    **dict.fromkeys(("-1", "-1.0", "", "nan"), UNKNOWN),
}
LARGEST_NUMBER = 1e300  # so that differences and ranges of columns stay finite
_TIME_DIGITS, _TIME_DECIMALS = 20, 60


def read_table(
    path: Path,
    *,
    name: str,
    label: str | None = None,
    id_column: str | None = None,
    group: str | None = None,
    time: str | None = None,
    category: str | None = None,
) -> Dataset:
    """Read a CSV (UTF-8, comma, one header line) or Parquet file as a tabular dataset.

    All columns that no option names are features: numbers (or booleans, as 0 and 1), kept as float64.
    Missing and infinite features are kept; validation reports them.

    Parameters
    ----------
    path : Path
        Ends in ``.csv`` or ``.parquet``.
    name : str
        Name of the dataset: lower-case letters, digits, "_" and "-".
    label : str, optional
        Column of 0 or false (normal), 1 or true (anomaly), -1 or missing (unknown). Default: all unknown.
    id_column : str, optional
        Column of unique row ids. Default: "<name>-<row number>", from 0, at least seven digits.
    group : str, optional
        Column of group ids; rows of a group get one role. Without an id a row is a group by itself.
    time : str, optional
        Column of ISO 8601 timestamps or of numbers, never missing. Times are stored as text whose
        alphabetical order is the order in time: timestamps in UTC with nine decimals of a second (without
        a time zone they count as UTC); numbers as exact decimals with 20 digits before the point,
        negative ones as "-" and the complement to 10**20 (-1.25 is "-99999999999999999998.75").
    category : str, optional
        Column of categories, never missing, for calibration within categories (a machine type, a site). Text, stripped
        of spaces, or numbers: 3, 3.0 and "3" are the same.

    Returns
    -------
    Dataset
        Tabular; the card's source is the file name without its folder.

    Raises
    ------
    DataError
        The file, a column or a value cannot be used; the message names it. Rows are counted from 0.
    """
    check_name(name, "the dataset's name")
    roles = {"label": label, "id_column": id_column, "group": group, "time": time, "category": category}
    special = [column for column in roles.values() if column is not None]
    if len(set(special)) < len(special):
        raise DataError(f"one column is named for two purposes in {roles}; give each its own column")
    frame = read_frame(path, special)
    columns = tuple(column for column in frame.columns if column not in special)
    if not columns:
        raise DataError(f"{path.name} has no feature column, only {special}")
    texts = {role: texts_of(frame[column]) for role, column in roles.items() if column is not None}
    blank = np.full(len(frame), "", dtype=object)
    rows = pd.DataFrame(
        {
            "row_id": _ids(texts["id_column"]) if id_column else [f"{name}-{i:07d}" for i in range(len(frame))],
            "label": _labels(texts["label"]) if label else np.full(len(frame), UNKNOWN, dtype=np.int8),
            "group": _printable("group", texts["group"]) if group else blank,
            "time": sortable_times(texts["time"]) if time else blank,
        }
    ).astype({"row_id": "str", "group": "str", "time": "str"})
    if category:
        rows["category"] = pd.Series(_categories(texts["category"]), dtype="str")
    card = Card(name, TABULAR, columns, path.name, id_column, label, group, time, category)
    return Dataset(card, RowSet(features_of(frame, columns), rows))


def sortable_times(texts: Texts) -> Texts:
    """Return times as texts whose alphabetical order is the order in time (see `read_table`).

    Raises
    ------
    DataError
        A time is missing, or is not a number or timestamp as the first one is.
    """
    codes, unique = pd.factorize(texts)
    if _is_number(unique[0]):
        bad = [not _is_number(text) for text in unique]
        kind, allowed = (
            "number",
            f"all must be numbers under 1e{_TIME_DIGITS} with at most {_TIME_DECIMALS} decimals",
        )
    else:
        stamps = pd.Series(pd.to_datetime(pd.Series(unique), utc=True, format="ISO8601", errors="coerce"))
        bad = stamps.isna().tolist()
        kind, allowed = "timestamp", "all must be ISO 8601 timestamps (or all numbers)"
    if any(bad):
        row = int(np.flatnonzero(np.array(bad)[codes])[0])
        raise DataError(f"row {row} has the time {texts[row]!r}; {allowed}")
    keys = [_number_key(text) for text in unique] if kind == "number" else _stamp_keys(stamps)
    return np.array(keys, dtype=object)[codes]


def read_frame(
    path: Path, special: Sequence[str], *, texts: Collection[str] = (), numbers: Collection[str] | None = None
) -> pd.DataFrame:
    """Read a CSV or Parquet file; in a CSV file, keep the `special` columns and those in `texts` as text.

    If `numbers` are given, all columns but these stay text: "007" stays "007".

    Raises
    ------
    DataError
        The file cannot be used, has no rows, or lacks a special column.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise DataError(f"{path.name} is neither .csv nor .parquet; convert it to one of them")
    if not path.is_file():
        raise DataError(f"there is no file {path}; check the path")
    try:
        frame = _read_csv(path, special, texts, numbers) if path.suffix == ".csv" else _read_parquet(path, special)
    except DataError:
        raise
    except (ValueError, OSError) as error:  # pandas' and pyarrow's parsing errors are ValueErrors
        raise DataError(
            f"{path.name} cannot be read: {' '.join(str(error).split())}; is it a proper {path.suffix} file?"
        ) from error
    if frame.empty:
        raise DataError(f"{path.name} has no rows")
    return frame


def _read_csv(
    path: Path, special: Sequence[str], texts: Collection[str], numbers: Collection[str] | None
) -> pd.DataFrame:
    header = pd.read_csv(path, header=None, nrows=1, dtype=str, na_filter=False, encoding="utf-8-sig")
    names = [str(name) for name in header.iloc[0]]
    _check_names(path, names, special)
    not_numbers = set(names) - set(names if numbers is None else numbers)
    text_columns = [name for name in names if name in special or name in texts or name in not_numbers]
    frame = pd.read_csv(
        path,
        dtype=dict.fromkeys(text_columns, str),
        keep_default_na=False,
        na_values={column: _MISSING for column in names if column not in text_columns},
        encoding="utf-8-sig",
        low_memory=False,  # in chunks, pandas could give one column several types
    )
    if not isinstance(frame.index, pd.RangeIndex):
        raise DataError(f"{path.name} has rows with more fields than its header; give every column a name")
    return frame


def _read_parquet(path: Path, special: Sequence[str]) -> pd.DataFrame:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        require_memory(path, file.metadata)
        frame: pd.DataFrame = file.read().to_pandas()
    frame = frame if frame.index.names == [None] else frame.reset_index()
    frame.columns = frame.columns.map(str)
    _check_names(path, list(frame.columns), special)
    return frame


def _check_names(path: Path, names: Sequence[str], special: Sequence[str]) -> None:
    """Raise `DataError` for a header that cannot be used."""
    twice = sorted({column for column in names if names.count(column) > 1})
    if twice:
        raise DataError(f"{path.name} has more than one column named {twice[0]!r}; rename or remove the copies")
    if "" in names:
        raise DataError(f"column {names.index('')} of {path.name} has no name; name it, or remove it (an index?)")
    for column in special:
        if column not in names:
            raise DataError(f"{path.name} has no column {column!r}; its columns are {', '.join(names)}")


def features_of(frame: pd.DataFrame, columns: Sequence[str]) -> Doubles:
    """Return columns of a frame from `read_frame` as features of shape (n, d), in float64."""
    features = np.empty((len(frame), len(columns)), dtype=np.float64)
    for i, column in enumerate(columns):
        features[:, i] = _numbers(column, frame[column])
    return features


def texts_of(column: pd.Series[Any]) -> Texts:
    """Return a column as texts: missing values as "", whole numbers without a decimal point."""
    texts = column.convert_dtypes().astype("str").to_numpy(dtype=object, copy=True)
    texts[column.isna().to_numpy(dtype=bool)] = ""
    return texts


def _printable(role: str, texts: Texts) -> Texts:
    """Return `texts`; raise `DataError` for control characters, which a CSV file would not preserve."""
    for row, text in enumerate(texts):
        if _CONTROL.search(text):
            raise DataError(f"row {row} has the {role} {text!r}; line breaks and control characters are not allowed")
    return texts


def _ids(texts: Texts) -> Texts:
    """Return row ids, checked."""
    missing = np.flatnonzero(texts == "")
    if len(missing):
        raise DataError(f"row {missing[0]} has no row id; every row needs its own")
    repeated = np.flatnonzero(pd.Series(texts).duplicated().to_numpy())
    if len(repeated):
        raise DataError(
            f"row {repeated[0]} has the row id {texts[repeated[0]]!r} of an earlier row; ids must be unique"
        )
    return _printable("row id", texts)


def _categories(texts: Texts) -> Texts:
    """Return categories, checked; see `assay.data.categories.category_texts`."""
    from assay.data.categories import category_texts

    texts = category_texts(texts)
    missing = np.flatnonzero(texts == "")
    if len(missing):
        raise DataError(f"row {missing[0]} has no category; every row needs one")
    return _printable("category", texts)


def _labels(texts: Texts) -> Labels:
    """Return labels as 0, 1 and -1."""
    codes, unique = pd.factorize(texts)
    labels = np.array([_LABELS.get(text.strip().lower(), 2) for text in unique], dtype=np.int8)[codes]
    bad = np.flatnonzero(labels == 2)
    if len(bad):
        raise DataError(
            f"row {bad[0]} has the label {texts[bad[0]]!r}; allowed are 0 or false (normal), "
            "1 or true (anomaly), -1 or nothing (unknown)"
        )
    return labels


def _numbers(name: str, column: pd.Series[Any]) -> Doubles:
    """Return a feature column as float64; text that reads as a number counts as one."""
    if column.dtype == object or isinstance(column.dtype, pd.StringDtype):
        numbers = pd.Series([_number(str(value)) for value in column], dtype=np.float64)
        bad = np.flatnonzero(numbers.isna().to_numpy() & column.notna().to_numpy())
    elif pd.api.types.is_numeric_dtype(column.dtype):
        numbers, bad = column, np.array([], dtype=np.intp)
    else:
        numbers, bad = column, np.array([0])
    if len(bad):
        raise DataError(
            f"column {name!r} is not numeric: row {bad[0]} has {column.iloc[bad[0]]!r}; "
            "turn it into numbers, remove it, or name it as label, id, group, time or category"
        )
    values: Doubles = np.asarray(numbers.to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)
    beyond = np.flatnonzero((np.abs(values) > LARGEST_NUMBER) & np.isfinite(values))
    if len(beyond):
        raise DataError(
            f"column {name!r}, row {beyond[0]}: {values[beyond[0]]} is beyond {LARGEST_NUMBER:g}; rescale the column"
        )
    return values


def _number(text: str) -> float:
    """Return the number that a text holds, NaN if it holds none."""
    try:
        return float("nan" if "_" in text else text)
    except ValueError:
        return float("nan")


def _is_number(text: str) -> bool:
    """Return whether `_number_key` can convert a text."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        return False
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -_TIME_DECIMALS and abs(value) < 10**_TIME_DIGITS


def _number_key(text: str) -> str:
    """Return a number as text that sorts by its value (see `read_table`)."""
    with localcontext(prec=_TIME_DIGITS + _TIME_DECIMALS + 1):
        value = Decimal(text)
        whole = value.to_integral_value(ROUND_FLOOR)  # so that the fraction of a negative number is positive too
        fraction = value - whole
    digits = f"{fraction:f}".partition(".")[2].rstrip("0")
    sign, shown = ("", int(whole)) if whole >= 0 else ("-", 10**_TIME_DIGITS + int(whole))
    return f"{sign}{shown:0{_TIME_DIGITS}d}{'.' if digits else ''}{digits}"


def _stamp_keys(stamps: pd.Series[Any]) -> list[str]:
    """Return timestamps in UTC as ISO 8601 of fixed width."""
    try:
        exact = stamps.dt.tz_localize(None).dt.as_unit("ns").to_numpy()
    except pd.errors.OutOfBoundsDatetime as error:
        raise DataError(f"a time is outside the years 1678 to 2261: {error}") from error
    return [f"{text}Z" for text in np.datetime_as_string(exact, unit="ns")]
