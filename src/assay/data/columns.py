"""Feature columns of a user's table: what each is taken for, and its values as numbers or codes of categories."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any, Literal

import numpy as np
import pandas as pd

from assay.arrays import Doubles, Flags, Texts
from assay.data.categories import codes_of, feature_texts
from assay.data.dates import seconds_of
from assay.data.mapped import flattened_rows, in_file, new_array, row_blocks
from assay.errors import DataError, InputError
from assay.names import CONTROL

Kind = Literal["number", "category", "date", "empty"]

LARGEST_NUMBER = 1e300  # so that differences and ranges of columns stay finite
MOST_DISTINCT = 100
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}.*)?")
_MARKED = re.compile(r"[+\-−]?[$€£¥]?\s?\d{1,3}([.,'’\s]?\d{3})*([.,]\d+)?\s?[%€$£¥]?")
_DAYS = r"\d{1,4}/\d{1,2}/\d{1,4}|\d{1,2}\.\d{1,2}\.\d{4}|\d{1,2}[- ][A-Za-z]{3}[- ]\d{2,4}"
_FOREIGN_DATE = re.compile(rf"({_DAYS})([ T]\d.*)?")
_PLAIN = (str, int, float, np.number, np.bool_)
_REMEDY = "correct it, leave the column out (--leave-out {0}), or take it as categories (--categorical {0})"


@dataclass(frozen=True, slots=True)
class Treatment:
    """What a user asks for feature columns of a file.

    Attributes
    ----------
    categorical : tuple of str
        Columns whose values are categories although they look like numbers, ids or free text.
    impute : tuple of str
        Columns that may be missing in later rows although they are not in this file.
    refuse : tuple of str
        Columns that may never be missing.
    leave_out : tuple of str
        Columns that are not used at all.
    """

    categorical: tuple[str, ...] = ()
    impute: tuple[str, ...] = ()
    refuse: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()

    def check(self, source: str, features: Sequence[str]) -> None:
        """Raise `DataError` for a column that two options treat differently, or that the file does not have."""
        for option, names in (
            ("--categorical", self.categorical),
            ("--impute", self.impute),
            ("--refuse-missing", self.refuse),
            ("--leave-out", self.leave_out),
        ):
            if wrong := [name for name in names if name not in features]:
                raise DataError(
                    f"{option} {wrong[0]}: {wrong[0]!r} is no feature column of {source}; these are "
                    + ", ".join(features)
                )
        for first, second in (
            (self.impute, self.refuse),
            (self.leave_out, (*self.categorical, *self.impute, *self.refuse)),
        ):
            if both := sorted(set(first) & set(second)):
                raise DataError(f"column {both[0]!r} is named for two purposes; choose one of them")


AS_THEY_ARE = Treatment()


@dataclass(frozen=True, slots=True)
class Features:
    """The feature columns of a table.

    Attributes
    ----------
    rows : ndarray of float64, shape (n, d)
        Numbers; in columns of categories the positions of their texts in the vocabulary; NaN where missing.
    columns : tuple of str, length d
    vocabulary : mapping of str to tuple of str
        The texts of each column of categories.
    dates : tuple of str
        The columns of dates: seconds since 1970 in UTC.
    """

    rows: Doubles
    columns: tuple[str, ...]
    vocabulary: Mapping[str, tuple[str, ...]]
    dates: tuple[str, ...] = ()

    def lacking(self) -> tuple[str, ...]:
        """Return the columns that have missing values."""
        lacks = np.zeros(len(self.columns), dtype=bool)
        for block in row_blocks(self.rows):
            lacks |= np.isnan(self.rows[block]).any(axis=0)
        return tuple(np.array(self.columns, dtype=object)[lacks])

    def table(self) -> pd.DataFrame:
        """Return the columns with the texts of categories and dates, None where one is missing."""
        return decoded(self.rows, self.columns, self.vocabulary, self.dates)


def kind_of(name: str, column: pd.Series[Any], categorical: Collection[str] = ()) -> Kind:
    """Return what a feature column is taken for.

    Numbers, booleans, and texts that all read as numbers are numbers; ISO 8601 dates and times are dates; other texts
    are categories, as is every column that `categorical` names.

    Raises
    ------
    DataError
        Some texts of the column read as numbers and others do not; or most of more than 100 texts are different, as in
        a column of ids.
    """
    if column.isna().all():
        return "empty"
    if name in categorical:
        return "category" if (_texts(name, column) != "").any() else "empty"
    if pd.api.types.is_numeric_dtype(column.dtype):
        return "number"
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return "date"
    texts = pd.Series(_texts(name, column))
    given = texts[texts != ""].unique()
    is_number = np.array([not np.isnan(_number(text)) for text in given])
    if is_number.all():
        return "number"
    if is_number.any():
        number = texts.isin(given[is_number])
        odd = number if number.sum() < (texts != "").sum() / 2 else ~number & (texts != "")
        row = int(np.flatnonzero(odd.to_numpy())[0])
        raise DataError(
            f"column {name!r} holds numbers and text: row {row} has {texts[row]!r}; {_REMEDY.format(quote(name))}"
        )
    if all(_DATE.fullmatch(text) for text in given):
        return "date"
    if len(marked := [text for text in given if _MARKED.fullmatch(text)]) > len(given) / 2:
        raise DataError(
            f"column {name!r} holds numbers with thousands signs, with the comma as the decimal sign, in percent or in "
            f"money, such as {marked[0]!r}; write them as plain numbers, say --decimal , or take them as categories "
            f"(--categorical {quote(name)})"
        )
    if len(dates := [text for text in given if _FOREIGN_DATE.fullmatch(text)]) > len(given) / 2:
        raise DataError(
            f"column {name!r} holds dates such as {dates[0]!r}; write them as 2026-05-01 or 2026-05-01T12:30:00Z, "
            f"leave the column out (--leave-out {quote(name)}), or take it as categories (--categorical {quote(name)})"
        )
    if len(given) > max(MOST_DISTINCT, len(texts) // 2):
        raise DataError(
            f"column {name!r} has {len(given)} different texts in {len(texts)} rows, such as {given[0]!r}: it looks "
            f"like ids or free text; name it as --id, leave it out (--leave-out {quote(name)}), or take it as "
            f"categories all the same (--categorical {quote(name)})"
        )
    return "category"


def features_of(
    frame: pd.DataFrame,
    columns: Sequence[str],
    vocabulary: Mapping[str, tuple[str, ...]] | None = None,
    dates: Collection[str] = (),
) -> Features:
    """Return columns of a frame from `assay.data.blocks.read_frame`.

    Parameters
    ----------
    frame : DataFrame
    columns : sequence of str
    vocabulary : mapping of str to sequence of str, optional
        The columns of categories, with their known texts. New texts follow the known ones, in alphabetical order.
    dates : collection of str
        The columns of dates.

    Raises
    ------
    DataError
        A column of numbers or dates holds something else, or a number is beyond 1e300.
    """
    read, extended = list[Doubles](), {}
    for name in columns:
        if vocabulary is not None and name in vocabulary:
            column, extended[name] = codes_of(_texts(name, frame[name]), vocabulary[name])
        elif name in dates:
            column = seconds_of(name, frame[name].to_numpy(dtype=object))
        else:
            column = _numbers(name, frame[name])
        read.append(in_file(column))
    values: Doubles = new_array((len(frame), len(columns)))
    for block in row_blocks(values, *read):
        for i, column in enumerate(read):
            values[block, i] = column[block]
    return Features(values, tuple(columns), extended, tuple(name for name in columns if name in dates))


def recoded(values: Doubles, columns: Sequence[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> Doubles:
    """Return features with the codes of another vocabulary, which has all texts of the old one."""
    if not old:
        return values
    changed = flattened_rows(values)
    for name, texts in old.items():
        i = list(columns).index(name)
        places = {text: place for place, text in enumerate(new[name])}
        table = np.array([*(places[text] for text in texts), np.nan])
        changed[:, i] = table[np.where(np.isnan(values[:, i]), len(texts), values[:, i]).astype(np.intp)]
    return changed


def decoded(
    features: Doubles,
    columns: Sequence[str],
    vocabulary: Mapping[str, tuple[str, ...]],
    dates: Collection[str] = (),
) -> pd.DataFrame:
    """Return features as a table with the texts of categories, and of `dates`, None where one is missing."""
    table = pd.DataFrame(features, columns=list(columns))
    for name, texts in vocabulary.items():
        words = np.array([*texts, None], dtype=object)
        codes = table[name].to_numpy()
        places = np.where(np.isnan(codes), len(texts), codes).astype(np.intp)
        table[name] = pd.Series(words[places], dtype=object)
    for name in dates:
        seconds = table[name].to_numpy()
        stamps = np.where(np.isnan(seconds), 0, np.round(seconds * 1e6)).astype("int64").astype("datetime64[us]")
        moments = np.char.add(np.datetime_as_string(stamps), "Z").astype(object)
        moments[np.isnan(seconds)] = None
        table[name] = pd.Series(moments, dtype=object)
    return table


def _texts(name: str, column: pd.Series[Any]) -> Texts:
    """Return the values of a column of categories as texts; see `assay.data.categories.category_texts`."""
    values = column.to_numpy(dtype=object, copy=True)
    missing: Flags = column.isna().to_numpy(dtype=bool)
    values[missing] = None
    try:
        texts = feature_texts(values)
    except InputError as error:
        row = next(row for row, value in enumerate(values) if value is not None and not isinstance(value, _PLAIN))
        raise DataError(
            f"column {name!r} is not numeric: row {row} has {values[row]!r}; turn it into numbers or text, or leave it "
            f"out (--leave-out {quote(name)})"
        ) from error
    for row, text in enumerate(texts):
        if re.search(CONTROL, text):
            raise DataError(
                f"column {name!r}, row {row}: {text!r} has control characters; remove them, or leave the column out "
                f"(--leave-out {quote(name)})"
            )
    return texts


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
            f"column {name!r} is not numeric: row {bad[0]} has {column.iloc[bad[0]]!r}; {_REMEDY.format(quote(name))}"
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
