"""Tables in files read in blocks of rows, as the whole is read, whatever their number."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Protocol

import pandas as pd
import pyarrow as pa

from assay.data.delimited import TextBlocks
from assay.data.dialects import OBSERVED, Dialect
from assay.data.headers import check_header, check_names, check_parts
from assay.data.parquet import ParquetParts, holds_texts, parquet_frame, plain_column
from assay.data.tables import (
    CSV,
    EXACT,
    Unnamed,
    kind_of_file,
    may_lack_header,
    parts_of,
    readable,
    refuse_zeros,
    report_decimal,
    report_layout,
    say_if_rounded,
)
from assay.data.texts import TextShape, decimal_shown, plain_texts, refuse_point_thousands, typed
from assay.errors import AssayError, DataError

VALUES_AT_ONCE = 1 << 20
_ROW = re.compile(r"('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")|\brow (\d+)")


class Blocks(Protocol):
    """A table in a file, as often as needed.

    Attributes
    ----------
    n_rows : int
        At least 1.
    types : mapping of str to pyarrow.DataType
        The columns and the types that they are stored as, if no column of numbers.
    """

    n_rows: int
    types: dict[str, pa.DataType]

    def frames(self, rows: int) -> Iterator[pd.DataFrame]:
        """Yield frames as `assay.data.tables.read_frame` returns the whole; of Parquet files with at most `rows` rows.

        What looks like a mistake is printed by the first call alone.

        Raises
        ------
        DataError
            See `assay.data.tables.read_frame`.
        """
        ...


def open_blocks(path: Path, special: Sequence[str], *, numbers: Collection[str], dialect: Dialect = OBSERVED) -> Blocks:
    """Open a table for reading in blocks; see `assay.data.tables.read_frame` for the parameters and what is raised.

    What its columns are is decided by all of their rows: columns of texts that may hold numbers are read once for it.
    """
    parts = parts_of(path)
    with readable(path):
        if kind_of_file(parts[0]) == CSV:
            blocks: Blocks = _CsvBlocks(path, parts, special, numbers, dialect)
        else:
            blocks = _ParquetBlocks(path, parts, special, numbers)
    if not blocks.n_rows:
        raise DataError(f"{path.name} has no rows")
    return blocks


@contextmanager
def counted_from(start: int) -> Iterator[None]:
    """Let errors about a row of a block that begins at row `start` name its number in the whole table."""
    try:
        yield
    except AssayError as error:
        if not start:
            raise
        message = _ROW.sub(lambda match: match[1] or f"row {start + int(match[2])}", str(error))
        raise type(error)(message) from error


class Unchanged:
    """Notices whether the files of a table, which are read more than once, change meanwhile.

    Parameters
    ----------
    path : Path
        Of the table; its files are looked at now and when the context ends.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._before = path, _states(path)

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Raise `DataError` if a file changed; an error that was raised meanwhile is then taken for a consequence."""
        if (error is None or isinstance(error, Exception)) and _states(self._path) != self._before:
            raise DataError(f"{self._path.name} was changed while it was read; try again once it is whole") from error


def _states(path: Path) -> list[tuple[str, int, int]] | None:
    """Return names, sizes and times of change of the files of a table; None if there is none that can be read."""
    try:
        stats = [(part.name, part.stat()) for part in parts_of(path, quiet=True)]
    except (OSError, DataError):
        return None
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


class _Survey:
    """What the columns of a CSV file show."""

    def __init__(self, numbers: Collection[str]) -> None:
        self.n_rows, self.names, self._numbers = 0, list[str](), numbers
        self.shown: dict[str, TextShape] = {}

    def add(self, table: pa.Table) -> None:
        """Take in a block; see `assay.data.delimited.Collector`."""
        if not self.names:
            self.names = table.column_names
            self.unnamed = Unnamed(self.names)
        if table.column_names != self.names:
            return  # such parts are refused afterwards
        self.n_rows += len(table)
        self.unnamed.add(table)
        for name, column in zip(table.column_names, table.columns, strict=True):
            if name in self._numbers:
                self.shown.setdefault(name, TextShape()).add(column)


class _CsvBlocks:
    def __init__(
        self, path: Path, parts: Sequence[Path], special: Sequence[str], numbers: Collection[str], dialect: Dialect
    ) -> None:
        self._path, self._parts = path, [TextBlocks(part, dialect) for part in parts]
        survey = _Survey(numbers)
        for part in self._parts:
            survey = part.survey(survey)
            check_parts(part.path, part.names, parts[0], self._parts[0].names)
        self._unnamed, self._shown, self.n_rows = survey.unnamed, survey.shown, survey.n_rows
        names = self._unnamed.without(self._parts[0].names)
        self._unnamed.report(path)
        if may_lack_header(names, special, numbers, dialect):
            check_header(path, self._unnamed.taken_from(next(iter(self._parts[0]))))
        report_layout(path, self._parts[0].layout, dialect)
        check_names(path, names, special)
        self.types = dict.fromkeys(names, pa.large_string())
        self._kept = {*special, *(set(self.types) - set(numbers))}
        shown = {name: each for name, each in self._shown.items() if name not in self._kept}
        self._decimal = dialect.decimal or decimal_shown(path, shown)
        report_decimal(path, self._decimal, dialect)
        if self._decimal == ",":
            for name, each in shown.items():
                refuse_point_thousands(path, name, each)
        self._rounded: set[str] = set()

    def frames(self, rows: int) -> Iterator[pd.DataFrame]:
        start = 0
        for table in chain.from_iterable(self._parts):
            if not len(table):
                continue
            with readable(self._path), counted_from(start):
                frame = self._frame(self._unnamed.taken_from(table), start)
            yield frame
            start += len(frame)

    def _frame(self, table: pa.Table, start: int) -> pd.DataFrame:
        columns = {}
        for name in table.column_names:
            if name in self._kept:
                columns[name] = plain_texts(table[name])
            else:
                kind = self._shown[name].kind(self._decimal)
                columns[name] = typed(table[name], name, self._decimal, kind)
                is_wide = kind == "number" and columns[name].abs().max() > EXACT
                if is_wide and name not in self._rounded and say_if_rounded(self._path, name, table[name], start):
                    self._rounded.add(name)
            refuse_zeros(self._path, name, columns[name])
        return pd.DataFrame(columns)


class _ParquetBlocks:
    def __init__(self, path: Path, parts: Sequence[Path], special: Sequence[str], numbers: Collection[str]) -> None:
        self._path, self._parts = path, ParquetParts(path, parts)
        names, self.n_rows = self._parts.schema.names, self._parts.n_rows
        check_names(path, names, special)
        self._kept = {*special, *(set(names) - set(numbers))}
        empty = self._parts.schema.empty_table()
        self.types = {name: plain_column(empty[name]).type for name in names}
        of_texts = [name for name in names if name not in self._kept and holds_texts(self.types[name])]
        shown = {name: TextShape() for name in of_texts}
        for table in self._parts.blocks(VALUES_AT_ONCE, of_texts) if of_texts else ():
            for name in of_texts:
                shown[name].add(plain_column(table[name]).cast(pa.string()))
        self._kinds = {name: each.kind(".") for name, each in shown.items()}
        self._rounded: set[str] = set()

    def frames(self, rows: int) -> Iterator[pd.DataFrame]:
        start = 0
        tables = self._parts.blocks(rows)
        while True:
            with readable(self._path), counted_from(start):
                if (table := next(tables, None)) is None:
                    return
                self._say_of_rounded(table, start)
                frame = parquet_frame(table, self._kept, self._parts.lacking, self._kinds)
            yield frame
            start += len(frame)

    def _say_of_rounded(self, table: pa.Table, start: int) -> None:
        for name in table.column_names:
            is_whole = pa.types.is_integer(table[name].type) and name not in self._kept | self._rounded
            if is_whole and say_if_rounded(self._path, name, table[name], start):
                self._rounded.add(name)
