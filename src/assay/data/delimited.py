"""CSV files as Arrow tables of texts, every record counted; and what the texts of a column are."""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, read_csv

from assay.console import say
from assay.data.dialects import MISSING, CsvLayout, Dialect, layout_of, open_bytes, open_text, records
from assay.errors import DataError

_CHUNK, _BLOCK = 20_000, 1 << 22
_COMMA_NUMBER, _INTEGER = r"^[+-]?\d*,\d+([eE][+-]?\d+)?$", r"^[+-]?\d+$"
_THOUSANDS = r"^[+-]?[1-9]\d{0,2}(,\d{3})+$"


def read_texts(path: Path, dialect: Dialect) -> tuple[pa.Table, CsvLayout]:
    """Return the table that a CSV file holds, as texts as they are written, and the file's layout.

    Blank lines are no rows, except in a file of one column, where each is a row without a value.

    Raises
    ------
    DataError
        The file is empty, or a record has more or fewer fields than the header, repeats the header, or has a quote that
        is not closed or is followed by text. The message names the line, counted from 1.
    UnicodeError
        The file has another encoding.
    """
    layout = layout_of(path, dialect)
    table = _without_quotes(path, layout, dialect)
    return _counted(path, layout, dialect) if table is None else table, layout


def _without_quotes(path: Path, layout: CsvLayout, dialect: Dialect) -> pa.Table | None:
    """Return the table of a UTF-8 file that has quotes at most in its header, in a fifth of the time.

    Where there are quotes, blank lines or faults it is None.
    """
    if layout.encoding != "utf-8-sig" or layout.separator == " ":
        return None
    with open_bytes(path) as stream:
        first = [stream.readline() for _ in range(layout.skipped + 1)][-1]
        while block := stream.read(_BLOCK):
            if b'"' in block:
                return None
    try:
        ((*fields,),) = csv.reader([first.decode("utf-8-sig")], delimiter=layout.separator, strict=True)
    except (csv.Error, UnicodeError, ValueError):
        return None
    if _is_blank(fields) or (dialect.header is False and b'"' in first) or b"\r" in first.rstrip(b"\r\n"):
        return None
    names = _names([fields], dialect)
    columns = [str(i) for i in range(len(names))]
    try:
        with open_bytes(path) as stream:
            table = read_csv(
                stream,
                ReadOptions(column_names=columns, skip_rows=layout.skipped + (dialect.header is not False)),
                ParseOptions(delimiter=layout.separator, quote_char=False, ignore_empty_lines=False),
                ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False),
            )
    except pa.ArrowInvalid:
        return None
    if dialect.header is not False and _has_row(table, names):
        return None
    return None if len(names) > 1 and _has_row(table, [""] * len(names)) else table.rename_columns(names)


def _has_row(table: pa.Table, values: list[str]) -> bool:
    equal: Any = True
    for value, column in zip(values, table.columns, strict=True):
        equal = pc.and_(pc.equal(column, value), equal)
        if not pc.any(equal).as_py():
            return False
    return True


def _counted(path: Path, layout: CsvLayout, dialect: Dialect) -> pa.Table:
    """Return the table of any CSV file, record by record."""
    names: list[str] = []
    batches, blank, line = [], 0, 0
    with open_text(path, layout) as lines:
        reader = records(lines, layout.separator)
        try:
            while rows := list(islice(reader, _CHUNK)):
                has_breaks, line = reader.line_num > line + len(rows), reader.line_num
                if not names:
                    rows = rows[next((i for i, fields in enumerate(rows) if not _is_blank(fields)), len(rows)) :]
                    names = _names(rows, dialect)
                kept = [fields for fields in rows if not _is_blank(fields)] if _has_blank(rows) else rows
                blank += len(rows) - len(kept)
                rows = kept if len(names) > 1 else [fields or [""] for fields in rows]
                if set(map(len, rows)) - {len(names)} or (dialect.header is not False and names in rows):
                    raise csv.Error
                if has_breaks and any(_fault(fields, names, layout.separator, dialect) for fields in rows):
                    raise csv.Error
                if rows:
                    batches.append(_batch(rows, len(names)))
        except csv.Error:
            _raise_fault(path, layout, dialect)
    if not names:
        raise DataError(f"{path.name} is empty; it has neither a header nor rows")
    if blank and len(names) > 1:
        say(f"{path.name}: {blank} blank line{'s are' if blank > 1 else ' is'} left out")
    schema = pa.schema([(str(i), pa.string()) for i in range(len(names))])
    return pa.Table.from_batches(batches, schema=schema).rename_columns(names)


def _names(rows: list[list[str]], dialect: Dialect) -> list[str]:
    """Return the names of the columns, and take them away from the rows; none where there is no row."""
    if not rows:
        return []
    return [str(i) for i in range(len(rows[0]))] if dialect.header is False else rows.pop(0)


def _is_blank(fields: list[str]) -> bool:
    return not fields or (len(fields) == 1 and not fields[0].strip())


def _has_blank(rows: list[list[str]]) -> bool:
    return min(map(len, rows), default=2) < 2 and any(map(_is_blank, rows))


def _fault(fields: list[str], names: list[str], separator: str, dialect: Dialect) -> str:
    """Return what is wrong with a record, or ""."""
    if len(fields) != len(names):
        settle = "" if dialect.separator else ", or name the separator: --sep"
        what = f"has {len(fields)} field{'s' * (len(fields) != 1)} where the header has {len(names)}"
        return f"{what}; correct it{settle}"
    if dialect.header is not False and fields == names:
        return "repeats the header; remove it"
    for field in fields:
        breaks = len(field.replace("\r\n", "\n").replace("\r", "\n").split("\n")) - 1
        if breaks and field.count(separator) == breaks * (len(names) - 1):
            return f"begins a field of {breaks + 1} lines that look like rows; is a quote not closed? Correct it"
    return ""


def _raise_fault(path: Path, layout: CsvLayout, dialect: Dialect) -> NoReturn:
    """Raise `DataError` for the first record that cannot be used."""
    names: list[str] = []
    line = layout.skipped + 1
    with open_text(path, layout) as lines:
        reader = records(lines, layout.separator)
        try:
            for fields in reader:
                number, line = line, reader.line_num + layout.skipped + 1
                if _is_blank(fields):
                    continue
                if not names and (names := _names([fields], dialect)) == fields:
                    continue
                if fault := _fault(fields, names, layout.separator, dialect):
                    raise DataError(f"{path.name}, line {number} {fault}")
        except csv.Error as error:
            raise DataError(
                f"{path.name}, line {line}: a quote is opened and not closed, or text follows it ({error}); correct it"
            ) from error
    raise DataError(f"{path.name} was changed while it was read; try again")


def _batch(rows: list[list[str]], width: int) -> pa.RecordBatch:
    columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    return pa.RecordBatch.from_arrays(columns, names=[str(i) for i in range(width)])


def present(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return texts without the spaces around them, those that stand for missing values as null."""
    trimmed = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.is_in(trimmed, value_set=pa.array(MISSING)), pa.scalar(None, pa.string()), trimmed)


def plain_texts(column: pa.ChunkedArray) -> pd.Series[Any]:
    """Return a column of texts as they are written."""
    return pd.Series(column.to_pandas(), dtype="str")


def typed(column: pa.ChunkedArray, name: str, decimal: str = ".") -> pd.Series[Any]:
    """Return a column of texts as numbers (float64) or booleans, if all are, else as texts; missing values are missing.

    Raises
    ------
    DataError
        A number is beyond float64.
    """
    values = column
    if (numbers := _numbers(values, decimal)) is None:
        values = present(column)
        numbers = _numbers(values, decimal)
    if numbers is None:
        lower = pc.utf8_lower(values)
        if not pc.all(pc.is_in(pc.drop_null(lower), value_set=pa.array(["true", "false"]))).as_py():
            return plain_texts(pc.if_else(pc.is_valid(values), column, pa.scalar(None, pa.string())))
        return pd.Series(pc.equal(lower, "true").to_pandas(), dtype="boolean" if values.null_count else "bool")
    if pc.any(infinite := pc.is_inf(numbers)).as_py():
        _refuse_beyond(name, values, pc.and_(infinite, pc.match_substring_regex(values, r"\d")))
    series: pd.Series[Any] = numbers.to_pandas()
    return series


def first_rounded(whole: pa.ChunkedArray) -> int | None:
    """Return the first row whose whole number, an integer or a text, is another one as float64; None without one.

    Texts that are not all whole numbers of up to 18 digits are not looked at.
    """
    try:
        exact = pc.cast(whole if pa.types.is_integer(whole.type) else present(whole), pa.int64())
    except pa.ArrowInvalid:
        return None
    again = pc.cast(pc.cast(exact, pa.float64(), safe=False), pa.int64(), safe=False)
    row: int = pc.index(pc.not_equal(exact, again), value=True).as_py()
    return row if row >= 0 else None


def _refuse_beyond(name: str, values: pa.ChunkedArray, beyond: pa.ChunkedArray) -> None:
    if (row := pc.index(beyond, value=True).as_py()) >= 0:
        raise DataError(f"column {name!r}, row {row}: {values[row].as_py()} is beyond 1e300; rescale the column")


def _numbers(values: pa.ChunkedArray, decimal: str) -> pa.ChunkedArray | None:
    """Return texts as float64; None if one is no number."""
    if decimal == ",":
        if pc.any(pc.match_substring(values, ".")).as_py():
            return None
        values = pc.replace_substring(values, ",", ".")
    try:
        return pc.cast(values, pa.float64())
    except pa.ArrowInvalid:
        return None


def decimal_of(path: Path, table: pa.Table, as_text: Collection[str]) -> str:
    """Return the decimal sign that the columns of a table of texts show.

    Raises
    ------
    DataError
        Commas in numbers may be decimal signs or not.
    """
    with_commas = {}
    others = [name for name in table.column_names if name not in as_text]
    for name in others:
        column = table[name]
        if pc.any(pc.match_substring(column, ",")).as_py():
            values = pc.drop_null(present(column))
            commas = pc.match_substring(values, ",")
            whole = pc.match_substring_regex(values, _THOUSANDS)
            fits = pc.or_(pc.match_substring_regex(values, _COMMA_NUMBER), pc.match_substring_regex(values, _INTEGER))
            if pc.all(pc.or_(fits, whole)).as_py() and pc.any(commas).as_py():
                with_commas[name] = (values.filter(commas)[0].as_py(), pc.all(pc.or_(whole, pc.invert(commas))).as_py())
    if not with_commas:
        return "."
    plain = [present(table[name]) for name in others if name not in with_commas]
    pointed = any(pc.any(pc.match_substring(v, ".")).as_py() and _numbers(v, ".") is not None for v in plain)
    if pointed or all(may_be_thousands for _, may_be_thousands in with_commas.values()):
        name, (example, _) = next(iter(with_commas.items()))
        raise DataError(
            f"{path.name}, column {name!r} has values such as {example!r}; say whether the comma is the decimal sign "
            "(--decimal ,) or not (--decimal .)"
        )
    return ","


def check_header(path: Path, table: pa.Table) -> None:
    """Raise `DataError` where the first line of a file may be a row as well as a header.

    That is where just the columns of numbers have numbers for names, or every name is among the values of its column.
    """
    names: Sequence[str] = table.column_names
    are_numbers = [_is_number(name) for name in names]
    holds = [_numbers(present(table.column(i)), ".") is not None for i in range(len(names))] if any(are_numbers) else []
    if are_numbers == holds or all(_is_among(name, table.column(i)) for i, name in enumerate(names)):
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        raise DataError(
            f"the first line of {path.name} ({shown}) may be names or values; say which: --header or --no-header"
        )


def _is_number(text: str) -> bool:
    return _numbers(pa.chunked_array([[text.strip().replace(",", ".")]]), ".") is not None


def _is_among(name: str, column: pa.ChunkedArray) -> bool:
    return bool(pc.any(pc.equal(column, name)).as_py())
