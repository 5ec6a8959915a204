"""CSV files as Arrow tables of texts, every record counted, in blocks."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, open_csv

from assay.console import say
from assay.data.dialects import CsvLayout, Dialect, layout_of, open_bytes, open_text, records
from assay.errors import DataError

_CHUNK, _BLOCK = 20_000, 1 << 22


class Collector(Protocol):
    """Takes in a table block by block."""

    def add(self, table: pa.Table) -> None:
        """Take in a block of texts."""


_C = TypeVar("_C", bound=Collector)


class _NotPlainError(Exception):
    """A CSV file has quotes, blank lines or faults: it has to be read record by record."""


class TextBlocks:
    """The table that a CSV file holds, as texts as they are written, as often as needed, in blocks of some megabytes.

    Blank lines are no rows, except in a file of one column, where each is a row without a value.

    Attributes
    ----------
    path : Path
    layout : CsvLayout
    names : list of str
        Of the columns, once the file was surveyed.
    """

    def __init__(self, path: Path, dialect: Dialect) -> None:
        self.path, self._dialect, self._is_plain = path, dialect, False
        self.layout, self.names = layout_of(path, dialect), list[str]()

    def survey(self, collector: _C) -> _C:
        """Show a collector the whole file; to be called first.

        Raises
        ------
        DataError
            The file is empty, or a record has more or fewer fields than the header, repeats the header, or has a quote
            that is not closed or is followed by text. The message names the line, counted from 1.
        UnicodeError
            The file has another encoding.
        """
        fresh = deepcopy(collector)
        try:
            for table in _plain(self.path, self.layout, self._dialect):
                collector.add(table)
        except _NotPlainError:
            collector = fresh
            for table in _counted(self.path, self.layout, self._dialect):
                collector.add(table)
        else:
            self._is_plain = True
        self.names = table.column_names
        return collector

    def __iter__(self) -> Iterator[pa.Table]:
        if not self._is_plain:
            yield from _counted(self.path, self.layout, self._dialect, repeated=True)
            return
        try:
            yield from _plain(self.path, self.layout, self._dialect)
        except _NotPlainError:
            _raise_fault(self.path, self.layout, self._dialect)


def _plain(path: Path, layout: CsvLayout, dialect: Dialect) -> Iterator[pa.Table]:
    """Yield the tables of a UTF-8 file that has quotes at most in its header, in a fifth of the time.

    Quotes, blank lines and faults raise `_NotPlainError`.
    """
    names = _plain_names(path, layout, dialect)
    columns = [str(i) for i in range(len(names))]
    try:
        with open_bytes(path) as stream:
            batches = open_csv(
                stream,
                ReadOptions(
                    column_names=columns,
                    skip_rows=layout.skipped + (dialect.header is not False),
                    block_size=_BLOCK,
                ),
                ParseOptions(delimiter=layout.separator, quote_char=False, ignore_empty_lines=False),
                ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False),
            )
            is_empty = True
            for batch in batches:
                is_empty = False
                is_header = dialect.header is not False and _has_row(batch, names)
                if is_header or (len(names) > 1 and _has_row(batch, [""] * len(names))):
                    raise _NotPlainError
                yield pa.Table.from_batches([batch]).rename_columns(names)
            if is_empty:
                raise _NotPlainError
    except pa.ArrowInvalid as error:
        raise _NotPlainError from error


def _plain_names(path: Path, layout: CsvLayout, dialect: Dialect) -> list[str]:
    """Return the names of the columns of a plain file."""
    if layout.encoding != "utf-8-sig" or layout.separator == " ":
        raise _NotPlainError
    with open_bytes(path) as stream:
        first = [stream.readline() for _ in range(layout.skipped + 1)][-1]
        while block := stream.read(_BLOCK):
            if dialect.quotes and b'"' in block:
                raise _NotPlainError
    try:
        ((*fields,),) = records([first.decode("utf-8-sig")], layout.separator, quotes=dialect.quotes)
    except (csv.Error, UnicodeError, ValueError) as error:
        raise _NotPlainError from error
    if (
        _is_blank(fields)
        or (dialect.quotes and dialect.header is False and b'"' in first)
        or b"\r" in first.rstrip(b"\r\n")
    ):
        raise _NotPlainError
    return _names([fields], dialect)


def _has_row(batch: pa.RecordBatch, values: list[str]) -> bool:
    equal: Any = True
    for value, column in zip(values, batch.columns, strict=True):
        equal = pc.and_(pc.equal(column, value), equal)
        if not pc.any(equal).as_py():
            return False
    return True


def _counted(path: Path, layout: CsvLayout, dialect: Dialect, *, repeated: bool = False) -> Iterator[pa.Table]:
    """Yield the tables of any CSV file, record by record; what is left out is said unless it is `repeated`."""
    names: list[str] = []
    blank, line = 0, 0
    with open_text(path, layout) as lines:
        reader = records(lines, layout.separator, quotes=dialect.quotes)
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
                if names:
                    yield _text_table(rows, names)
        except csv.Error:
            _raise_fault(path, layout, dialect)
    if not names:
        raise DataError(f"{path.name} is empty; it has neither a header nor rows")
    if blank and len(names) > 1 and not repeated:
        say(f"{path.name}: {blank} blank line{'s are' if blank > 1 else ' is'} left out")


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
        reader = records(lines, layout.separator, quotes=dialect.quotes)
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
                f"{path.name}, line {line}: a quote is opened and not closed, or text follows it ({error}); correct "
                "it, or say --no-quotes where quotes are signs as any other"
            ) from error
    raise DataError(f"{path.name} was changed while it was read; try again")


def _text_table(rows: list[list[str]], names: list[str]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [[]] * len(names)
    numbered = [str(i) for i in range(len(names))]
    return pa.table([pa.array(column, pa.string()) for column in columns], names=numbered).rename_columns(names)
