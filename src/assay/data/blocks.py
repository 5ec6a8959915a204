"""Tables in files, read in blocks of rows, whatever their number, or whole as frames."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow.parquet import read_metadata

from assay.data.decoded import require_room
from assay.data.delimited import TextBlocks
from assay.data.dialects import OBSERVED, Dialect
from assay.data.headers import check_header, check_names, check_parts
from assay.data.mapped import new_array, release
from assay.data.parquet import ParquetParts, holds_texts, parquet_frame, plain_column
from assay.data.tables import (
    CSV,
    EXACT,
    PARQUET,
    Unnamed,
    kind_of_file,
    may_lack_header,
    parts_of,
    readable,
    refuse_zeros,
    report_decimal,
    report_layout,
    report_padded,
    say_if_rounded,
)
from assay.data.text_files import TextFiles, holds_text_files
from assay.data.texts import TextShape, decimal_shown, plain_texts, refuse_point_thousands, typed
from assay.errors import AssayError, DataError

VALUES_AT_ONCE = 1 << 20
_WITH_MISSING = (pd.arrays.IntegerArray, pd.arrays.BooleanArray)
_ROW = re.compile(r"('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")|\brow (\d+)")


class Blocks(Protocol):
    """A table in a file, as often as needed.

    Attributes
    ----------
    n_rows : int
        Of the whole table, at least 1.
    start : int
        Rows of the table before the first frame.
    types : mapping of str to pyarrow.DataType
        The columns and the types that they are stored as, if no column of numbers.
    """

    n_rows: int
    start: int
    types: dict[str, pa.DataType]

    def frames(self, rows: int) -> Iterator[pd.DataFrame]:
        """Yield frames as `read_frame` returns the whole; of Parquet files with at most `rows` rows.

        What looks like a mistake is printed by the first call alone.

        Raises
        ------
        DataError
            See `read_frame`.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Roles:
    """What is asked for columns; see `read_frame`."""

    special: Sequence[str]
    texts: Collection[str]
    numbers: Collection[str] | None

    def keeps(self, name: str) -> bool:
        """Return whether a column stays as it is in the file."""
        return name in (*self.special, *self.texts) or (self.numbers is not None and name not in self.numbers)


def read_frame(
    path: Path,
    special: Sequence[str],
    *,
    texts: Collection[str] = (),
    numbers: Collection[str] | None = None,
    dialect: Dialect = OBSERVED,
) -> pd.DataFrame:
    """Read a table; what is taken from the file because nobody said it is printed.

    Columns of numbers become numbers, those of true and false booleans, with missing values or without; others are
    texts. The `special` columns and those in `texts` stay as they are. Large columns of numbers are in temporary files
    (`assay.data.mapped`).

    Parameters
    ----------
    path : Path
        A CSV file (.csv, .tsv or .txt, perhaps with .gz), a Parquet file, or a folder of part files of one kind, as
        Spark writes it; or texts (`assay.data.text_files`).
    special : sequence of str
        Columns that must be there.
    texts, numbers : collection of str
        Columns that stay text; if `numbers` are given, all columns but these do: "007" stays "007".
    dialect : Dialect
        How a CSV file is written; by default what the file shows.

    Raises
    ------
    DataError
        The file cannot be used, or can be read in more than one way, which the message names with the option that
        settles it; a line has more or fewer fields than the header; there are no rows; a special column is missing.
    """
    with Unchanged(path):
        with readable(path):
            for part in [] if holds_text_files(path) else parts_of(path, quiet=True):
                if kind_of_file(part) == PARQUET:
                    require_room(part, read_metadata(part), _Roles(special, texts, numbers).keeps)
        blocks = open_blocks(path, special, texts=texts, numbers=numbers, dialect=dialect)
        columns = {name: _Column(blocks.n_rows) for name in blocks.types}
        for frame in blocks.frames(max(1, VALUES_AT_ONCE // len(columns))):
            for name, column in columns.items():
                column.add(frame[name])
    return pd.DataFrame({name: column.whole() for name, column in columns.items()}, copy=False)


def open_blocks(
    path: Path,
    special: Sequence[str],
    *,
    texts: Collection[str] = (),
    numbers: Collection[str] | None = None,
    dialect: Dialect = OBSERVED,
    only: Path | None = None,
) -> Blocks:
    """Open a table for reading in blocks; see `read_frame` for the parameters and what is raised.

    With `only`, one of its Parquet files, the blocks are those of this file, as they are in the whole table.
    What its columns are is decided by all of their rows: columns of texts that may hold numbers are read once for it.
    """
    if holds_text_files(path):
        of_texts = TextFiles(path, dialect)
        check_names(path, list(of_texts.types), special)
        return of_texts
    parts, roles = parts_of(path), _Roles(special, texts, numbers)
    with readable(path):
        if kind_of_file(parts[0]) == CSV:
            blocks: Blocks = _CsvBlocks(path, parts, roles, dialect)
        else:
            blocks = _ParquetBlocks(path, parts, roles, only)
    if not blocks.n_rows:
        raise DataError(f"{path.name} has no rows")
    return blocks


class _Column:
    """A column of n rows that arrives in blocks."""

    def __init__(self, n: int) -> None:
        self._n, self._filled = n, 0
        self._dtype: Any = None
        self._numbers: list[NDArray[Any]] = []
        self._blocks: list[pd.Series[Any]] = []

    def add(self, column: pd.Series[Any]) -> None:
        """Take in a block; all blocks have the same type."""
        if isinstance(column.array, _WITH_MISSING):
            kind: Any = column.dtype
            parts = [column.array.to_numpy(dtype=kind.numpy_dtype, na_value=0), column.isna().to_numpy()]
        elif isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf":
            parts = [column.to_numpy()]
        else:
            self._blocks.append(column)
            return
        self._dtype = column.dtype
        self._numbers = self._numbers or [new_array((self._n,), part.dtype) for part in parts]
        for whole, part in zip(self._numbers, parts, strict=True):
            whole[self._filled : self._filled + len(part)] = part
            release(whole)
        self._filled += len(column)

    def whole(self) -> pd.Series[Any]:
        """Return the column; one of whole numbers or booleans has a type with missing values only if it has some."""
        if not self._numbers:
            return pd.concat(self._blocks, ignore_index=True)
        values, *mask = self._numbers
        if not mask or not mask[0].any():
            return pd.Series(values, copy=False)
        return pd.Series(self._dtype.construct_array_type()(values, mask[0], copy=False), copy=False)


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
        self._path, self.states = path, _states(path)

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Raise `DataError` if a file changed; an error that was raised meanwhile is then taken for a consequence."""
        if (error is None or isinstance(error, Exception)) and _states(self._path) != self.states:
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

    def __init__(self, roles: _Roles) -> None:
        self.n_rows, self.names, self._roles = 0, list[str](), roles
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
            if not self._roles.keeps(name):
                self.shown.setdefault(name, TextShape()).add(column)


class _CsvBlocks:
    start = 0

    def __init__(self, path: Path, parts: Sequence[Path], roles: _Roles, dialect: Dialect) -> None:
        self._path, self._parts = path, [TextBlocks(part, dialect) for part in parts]
        survey = _Survey(roles)
        for part in self._parts:
            survey = part.survey(survey)
            check_parts(part.path, part.names, parts[0], self._parts[0].names)
        self._unnamed, self._shown, self.n_rows = survey.unnamed, survey.shown, survey.n_rows
        names = self._unnamed.without(self._parts[0].names)
        self._unnamed.report(path)
        if may_lack_header(names, roles.special, roles.numbers, dialect):
            check_header(path, self._unnamed.taken_from(next(iter(self._parts[0]))))
        report_layout(path, self._parts[0].layout, dialect)
        check_names(path, names, roles.special)
        self.types = dict.fromkeys(names, pa.large_string())
        self._kept = {name for name in names if roles.keeps(name)}
        shown = {name: each for name, each in self._shown.items() if name not in self._kept}
        self._decimal = dialect.decimal or decimal_shown(path, shown)
        report_decimal(path, self._decimal, dialect)
        report_padded(path, shown)
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
                is_wide = kind == "number" and columns[name].abs().max() >= EXACT
                if is_wide and name not in self._rounded and say_if_rounded(self._path, name, table[name], start):
                    self._rounded.add(name)
            refuse_zeros(self._path, name, columns[name])
        return pd.DataFrame(columns)


class _ParquetBlocks:
    def __init__(self, path: Path, parts: Sequence[Path], roles: _Roles, only: Path | None = None) -> None:
        self._path, self._parts, self._only = path, ParquetParts(path, parts), only
        self.start = 0 if only is None else self._parts.starts[only]
        names, self.n_rows = self._parts.schema.names, self._parts.n_rows
        check_names(path, names, roles.special)
        self._kept = {name for name in names if roles.keeps(name)}
        empty = self._parts.schema.empty_table()
        self.types = {name: plain_column(empty[name]).type for name in names}
        of_texts = [name for name in names if name not in self._kept and holds_texts(self.types[name])]
        shown = {name: TextShape() for name in of_texts}
        for table in self._parts.blocks(VALUES_AT_ONCE, of_texts) if of_texts else ():
            for name in of_texts:
                shown[name].add(plain_column(table[name]).cast(pa.string()))
        report_padded(path, shown)
        self._kinds = {name: each.kind(".") for name, each in shown.items()}
        self._rounded: set[str] = set()

    def frames(self, rows: int) -> Iterator[pd.DataFrame]:
        start = self.start
        tables = self._parts.blocks(rows, only=self._only)
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
            kind = table[name].type
            is_whole = pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale <= 0)
            is_whole = is_whole and name not in self._kept | self._rounded
            if is_whole and say_if_rounded(self._path, name, table[name], start):
                self._rounded.add(name)
