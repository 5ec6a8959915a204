"""What is common to tables in files, CSV or Parquet or folders of their parts."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from assay.console import say
from assay.data.dialects import CsvLayout, Dialect
from assay.data.texts import TextShape, first_rounded, present, typed
from assay.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

EXACT = 2.0**53
CSV, PARQUET = ".csv", ".parquet"
_ENDINGS = {".csv": CSV, ".tsv": CSV, ".txt": CSV, ".parquet": PARQUET}


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raise `DataError` where a file cannot be read, whatever the reason."""
    from pyarrow import ArrowException

    try:
        yield
    except DataError:
        raise
    except UnicodeError as error:
        raise DataError(
            f"{path.name} is not in the encoding {getattr(error, 'encoding', 'utf-8')} ({error}); name the right one, "
            "for instance --encoding latin-1"
        ) from error
    except (ArrowException, ValueError, OSError, EOFError, zlib.error, MemoryError) as error:
        kind = kind_of_file(parts_of(path, quiet=True)[0])
        raise DataError(
            f"{path.name} cannot be read: {' '.join(str(error).split())}; is it a proper {kind} file, and whole?"
        ) from error


def kind_of_file(path: Path) -> str:
    """Return the kind of a file by the ending of its name, or ""."""
    endings = [ending.lower() for ending in path.suffixes]
    if endings[-1:] == [".gz"]:
        kind = _ENDINGS.get(endings[-2], "") if len(endings) > 1 else ""
        return kind if kind == CSV else ""
    return _ENDINGS.get(endings[-1], "") if endings else ""


def parts_of(path: Path, *, quiet: bool = False) -> list[Path]:
    """Return the files of a table, in the order of their names; empty ones only if there is no other."""
    if not path.exists():
        raise DataError(f"there is no file {path}; check the path")
    if path.is_file():
        if not kind_of_file(path):
            raise DataError(f"{path.name} is neither .csv, .tsv, .txt, .csv.gz nor .parquet; convert it to one of them")
        return [path]
    parts = sorted(part for part in path.iterdir() if not part.name.startswith(("_", ".")))
    kinds = {kind_of_file(part) if part.is_file() else "" for part in parts}
    if len(kinds) != 1 or "" in kinds:
        raise DataError(
            f"the folder {path.name} must hold part files of one kind, .csv or .parquet, and no folders; give such a "
            "folder, or one file"
        )
    if not quiet:
        say(f"{path.name}: {len(parts)} part files, in the order of their names")
    return [part for part in parts if part.stat().st_size] or parts[:1]


def may_lack_header(
    names: Sequence[str], special: Sequence[str], numbers: Collection[str] | None, dialect: Dialect
) -> bool:
    """Return whether the first line of a CSV file may hold values: nobody says, and no expected name is in it."""
    expected = {*special, *(numbers or ())}
    are_names = expected <= set(names) and (bool(numbers) or any(not name.isdigit() for name in expected))
    return dialect.header is None and not are_names


def report_layout(path: Path, layout: CsvLayout, dialect: Dialect) -> None:
    """Print what is odd about the way in which a CSV file is written, unless the user said it."""
    oddities = [] if dialect.separator and dialect.encoding else layout.oddities
    if oddities:
        say(f"{path.name}: {', '.join(oddities)}")


class Unnamed:
    """Columns without a name at the ends of a table of texts, seen block by block: are they to be left out?

    A last one without any value is, as of lines that end with a separator, and a first one that numbers the rows.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._last_is_empty = len(names) > 1 and names[-1] == ""
        self._first_counts = len(names) > 1 and names[0] == ""
        self._n_names, self._number = len(names), -1.0

    def add(self, table: pa.Table) -> None:
        """Take in a block."""
        if not len(table):
            return
        if self._last_is_empty:
            last = table.column(self._n_names - 1)
            self._last_is_empty = present(last).null_count == len(table)
        if self._first_counts:
            numbers = typed(table.column(0), "").to_numpy()
            counted = numbers if numbers.dtype == np.float64 else np.array([])
            before = self._number if self._number >= 0 else float(counted[:1].sum()) - 1
            self._first_counts = bool(len(counted) and before in (-1, 0, self._number))
            self._first_counts = self._first_counts and bool((np.diff(counted, prepend=before) == 1).all())
            self._number = float(counted[-1]) if self._first_counts else -1.0

    def taken_from(self, table: pa.Table) -> pa.Table:
        """Return a table without these columns."""
        return table.select(range(self._first, self._end))

    def without(self, names: list[str]) -> list[str]:
        """Return the names of the columns without those of these."""
        return names[self._first : self._end]

    def report(self, path: Path) -> None:
        """Print what is left out."""
        if self._last_is_empty:
            say(f"{path.name}: every line ends with a separator; the empty last column is left out")
        if self._first:
            say(f"{path.name}: the first column has no name and numbers the rows; it is left out")

    @property
    def _first(self) -> int:
        return int(self._first_counts and self._number >= 0 and self._end > 1)

    @property
    def _end(self) -> int:
        return self._n_names - self._last_is_empty


def report_decimal(path: Path, decimal: str, dialect: Dialect) -> None:
    """Print that the comma is the decimal sign, unless the user said it."""
    if dialect.decimal is None and decimal == ",":
        say(f"{path.name}: the comma is the decimal sign")


def report_padded(path: Path, columns: Mapping[str, TextShape]) -> None:
    """Print which columns of numbers look like codes."""
    for name, shown in columns.items():
        if shown.padded_example and shown.are_numbers and not shown.has_points:
            say(
                f"{path.name}: column {name!r} has whole numbers with zeros before them, such as "
                f"{shown.padded_example}; they are read as numbers: if they are codes, say --categorical {quote(name)}"
            )


def say_if_rounded(path: Path, name: str, column: pa.ChunkedArray, start: int = 0) -> bool:
    """Print where a column, or a block of it that begins at row `start`, loses digits as float64; return whether."""
    if (row := first_rounded(column)) is None:
        return False
    say(
        f"{path.name}: column {name!r} has whole numbers that float64 rounds, such as {column[row].as_py()} in row "
        f"{start + row}; if it is an id, say so or leave it out, else subtract its smallest value"
    )
    return True


def refuse_zeros(path: Path, name: str, column: pd.Series[Any]) -> None:
    """Raise `DataError` for texts with a zero byte."""
    if isinstance(column.dtype, pd.StringDtype) and (zeros := column.str.contains("\0", na=False)).any():
        raise DataError(f"{path.name}, column {name!r}, row {zeros.idxmax()} holds a zero byte; is the file damaged?")
