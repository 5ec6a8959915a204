"""What the texts of a column are: numbers, booleans, or texts; and the decimal sign that they show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from assay.data.dialects import MISSING
from assay.errors import DataError

TextKind = Literal["number", "boolean", "text"]

_COMMA_NUMBER, _INTEGER = r"^[+-]?\d*,\d+([eE][+-]?\d+)?$", r"^[+-]?\d+$"
_PADDED = r"^[+-]?0\d+$"
_THOUSANDS = r"^[+-]?[1-9]\d{0,2}(,\d{3})+$"
_GROUPED_OR_WHOLE = r"^[+-]?(\d{1,3}(\.\d{3})+|\d+)$"


@dataclass(slots=True)
class TextShape:
    """What the texts of a column show, gathered block by block; missing values show nothing.

    Attributes
    ----------
    has_commas, has_points : bool
        Whether a value has one.
    comma_example, example : str
        The first value with a comma, and the first one.
    fits_comma : bool
        Whether all values are whole numbers, or numbers whose decimal sign or thousands sign is the comma.
    fits_thousands : bool
        Whether in all values with commas these may separate thousands.
    fits_point_thousands : bool
        Whether all values are whole numbers, perhaps with points between thousands.
    are_numbers, are_booleans : bool
        Whether all values are numbers with the point as the decimal sign, or true and false.
    are_comma_numbers : bool
        Whether all are numbers with the comma as the decimal sign.
    padded_example : str
        The first whole number with zeros before it, in a column of numbers without points.
    """

    has_commas: bool = False
    has_points: bool = False
    comma_example: str = ""
    example: str = ""
    fits_comma: bool = True
    fits_thousands: bool = True
    fits_point_thousands: bool = True
    are_numbers: bool = True
    are_booleans: bool = True
    are_comma_numbers: bool = True
    padded_example: str = ""

    def add(self, column: pa.ChunkedArray) -> None:
        """Take in the texts of a block."""
        self.are_numbers = self.are_numbers and is_numeric(column)
        undecided = self.fits_comma or self.fits_point_thousands or self.are_comma_numbers or self.are_booleans
        if self.are_numbers and not undecided:
            return  # all numbers, some with points: nothing else can change
        values = pc.drop_null(present(column))
        if not len(values):
            return
        self.example = self.example or values[0].as_py()
        commas = pc.match_substring(values, ",")
        if pc.any(commas).as_py():
            self.comma_example = self.comma_example or values.filter(commas)[0].as_py()
            self.has_commas = True
        self.has_points = self.has_points or pc.any(pc.match_substring(values, ".")).as_py()
        if not self.padded_example and self.are_numbers and not self.has_points:
            row = pc.index(_fit(values, _PADDED), value=True).as_py()
            self.padded_example = values[row].as_py() if row >= 0 else ""
        self.fits_comma = self.fits_comma and _all_fit(values, _COMMA_NUMBER, _INTEGER, _THOUSANDS)
        if self.fits_thousands:
            self.fits_thousands = pc.all(pc.or_(pc.invert(commas), _fit(values, _THOUSANDS))).as_py()
        self.fits_point_thousands = self.fits_point_thousands and _all_fit(values, _GROUPED_OR_WHOLE)
        self.are_comma_numbers = self.are_comma_numbers and numbers_in(values, ",") is not None
        self.are_booleans = self.are_booleans and _are_booleans(values)

    def kind(self, decimal: str) -> TextKind:
        """Return what the whole column is taken for."""
        if self.are_numbers if decimal == "." else self.are_comma_numbers:
            return "number"
        return "boolean" if self.are_booleans else "text"


def is_numeric(column: pa.ChunkedArray) -> bool:
    """Return whether all texts that are not missing are numbers with the point as the decimal sign."""
    return numbers_in(column, ".") is not None or numbers_in(present(column), ".") is not None


def present(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return texts without the spaces around them, those that stand for missing values as null."""
    trimmed = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.is_in(trimmed, value_set=pa.array(MISSING)), pa.scalar(None, pa.string()), trimmed)


def plain_texts(column: pa.ChunkedArray) -> pd.Series[Any]:
    """Return a column of texts as they are written."""
    return pd.Series(column.to_pandas(), dtype="str")


def typed(column: pa.ChunkedArray, name: str, decimal: str = ".", kind: TextKind | None = None) -> pd.Series[Any]:
    """Return a column of texts as numbers (float64) or booleans, if all are, else as texts; missing values are missing.

    Parameters
    ----------
    column : ChunkedArray
    name : str
        For messages.
    decimal : {".", ","}
    kind : {"number", "boolean", "text"}, optional
        What the whole column is taken for, where this is a block of it.

    Raises
    ------
    DataError
        A number is beyond float64.
    """
    values = column
    numbers = numbers_in(values, decimal) if kind in (None, "number") else None
    if numbers is None:
        values = present(column)
        numbers = numbers_in(values, decimal) if kind in (None, "number") else None
    if numbers is None:
        if kind == "text" or (kind is None and not _are_booleans(pc.drop_null(values))):
            return plain_texts(pc.if_else(pc.is_valid(values), column, pa.scalar(None, pa.string())))
        true = pc.equal(pc.utf8_lower(values), "true")
        return pd.Series(true.to_pandas(), dtype="boolean" if kind or values.null_count else "bool")
    if pc.any(infinite := pc.is_inf(numbers)).as_py():
        _refuse_beyond(name, values, pc.and_(infinite, pc.match_substring_regex(values, r"\d")))
    series: pd.Series[Any] = numbers.to_pandas()
    return series


def first_rounded(whole: pa.ChunkedArray) -> int | None:
    """Return the first row whose whole number, of any type or a text, is another one as float64; None without one.

    What comes behind a text that is no whole number is not looked at.
    """
    values = present(whole) if pa.types.is_string(whole.type) else whole
    try:
        exact = pc.cast(values, pa.int64())
    except pa.ArrowInvalid:  # one has more than 18 digits, or is not whole
        try:
            numbers = enumerate(values.to_pylist())
            return next((row for row, x in numbers if x is not None and int(x) != int(float(x))), None)
        except (ValueError, OverflowError):
            return None
    again = pc.cast(pc.cast(exact, pa.float64(), safe=False), pa.int64(), safe=False)
    row: int = pc.index(pc.not_equal(exact, again), value=True).as_py()
    return row if row >= 0 else None


def _refuse_beyond(name: str, values: pa.ChunkedArray, beyond: pa.ChunkedArray) -> None:
    if (row := pc.index(beyond, value=True).as_py()) >= 0:
        raise DataError(f"column {name!r}, row {row}: {values[row].as_py()} is beyond 1e300; rescale the column")


def numbers_in(values: pa.ChunkedArray, decimal: str) -> pa.ChunkedArray | None:
    """Return texts as float64; None if one is no number."""
    if decimal == ",":
        if pc.any(pc.match_substring(values, ".")).as_py():
            return None
        values = pc.replace_substring(values, ",", ".")
    try:
        return pc.cast(values, pa.float64())
    except pa.ArrowInvalid:
        return None


def _are_booleans(values: pa.ChunkedArray) -> bool:
    return bool(pc.all(pc.is_in(pc.utf8_lower(values), value_set=pa.array(["true", "false"]))).as_py())


def _fit(values: pa.ChunkedArray, *patterns: str) -> Any:
    return pc.match_substring_regex(values, "|".join(patterns))


def _all_fit(values: pa.ChunkedArray, *patterns: str) -> bool:
    return bool(pc.all(_fit(values, *patterns)).as_py())


def decimal_shown(path: Path, columns: Mapping[str, TextShape]) -> str:
    """Return the decimal sign that columns of texts show.

    Raises
    ------
    DataError
        Commas in numbers may be decimal signs or not.
    """
    with_commas = {name: shown for name, shown in columns.items() if shown.has_commas and shown.fits_comma}
    if not with_commas:
        return "."
    plain = [shown for name, shown in columns.items() if name not in with_commas]
    pointed = any(shown.has_points and shown.are_numbers for shown in plain)
    if pointed or all(shown.fits_thousands for shown in with_commas.values()):
        name, shown = next(iter(with_commas.items()))
        raise DataError(
            f"{path.name}, column {name!r} has values such as {shown.comma_example!r}; say whether the comma is the "
            "decimal sign (--decimal ,) or not (--decimal .)"
        )
    return ","


def refuse_point_thousands(path: Path, name: str, shown: TextShape) -> None:
    """Raise `DataError` for numbers whose points may separate thousands, where the comma is the decimal sign."""
    if shown.kind(",") == "text" and shown.has_points and shown.fits_point_thousands:
        raise DataError(
            f"{path.name}, column {name!r} has values such as {shown.example!r}, with a point, and the comma is the "
            "decimal sign; take thousands signs out of the file, or write all columns with one decimal sign"
        )
