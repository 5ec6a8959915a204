"""Tables in files, CSV or Parquet or folders of their parts, as frames whose columns are numbers, booleans or texts."""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from assay.console import say
from assay.data.decoded import require_memory
from assay.data.dialects import OBSERVED, UNNAMED_INDEX, Dialect
from assay.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_EXACT = 2.0**53
_CSV, _PARQUET = ".csv", ".parquet"
_ENDINGS = {".csv": _CSV, ".tsv": _CSV, ".txt": _CSV, ".parquet": _PARQUET}
_GROUPED_OR_WHOLE = r"[+-]?(\d{1,3}(\.\d{3})+|\d+)"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


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
    texts. The `special` columns and those in `texts` stay as they are.

    Parameters
    ----------
    path : Path
        A CSV file (.csv, .tsv or .txt, perhaps with .gz), a Parquet file, or a folder of part files of one kind, as
        Spark writes it.
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
    from pyarrow import ArrowException

    parts = _parts(path)
    kind = _kind(parts[0])
    try:
        table = _csv_table(path, parts, special, numbers, dialect) if kind == _CSV else _parquet_table(path, parts)
        names = table.column_names
        _check_names(path, names, special)
        kept = {*special, *texts, *(() if numbers is None else set(names) - set(numbers))}
        frame = _csv_frame(path, table, kept, dialect) if kind == _CSV else _parquet_frame(path, table, kept)
    except DataError:
        raise
    except UnicodeError as error:
        raise DataError(
            f"{path.name} is not in the encoding {getattr(error, 'encoding', 'utf-8')} ({error}); name the right one, "
            "for instance --encoding latin-1"
        ) from error
    except (ArrowException, ValueError, OSError, EOFError, zlib.error, MemoryError) as error:
        raise DataError(
            f"{path.name} cannot be read: {' '.join(str(error).split())}; is it a proper {kind} file, and whole?"
        ) from error
    if frame.empty:
        raise DataError(f"{path.name} has no rows")
    return frame


def _kind(path: Path) -> str:
    """Return the kind of a file by the ending of its name, or ""."""
    endings = [ending.lower() for ending in path.suffixes]
    if endings[-1:] == [".gz"]:
        kind = _ENDINGS.get(endings[-2], "") if len(endings) > 1 else ""
        return kind if kind == _CSV else ""
    return _ENDINGS.get(endings[-1], "") if endings else ""


def _parts(path: Path) -> list[Path]:
    """Return the files of a table, in the order of their names; empty ones only if there is no other."""
    if not path.exists():
        raise DataError(f"there is no file {path}; check the path")
    if path.is_file():
        if not _kind(path):
            raise DataError(f"{path.name} is neither .csv, .tsv, .txt, .csv.gz nor .parquet; convert it to one of them")
        return [path]
    parts = sorted(part for part in path.iterdir() if not part.name.startswith(("_", ".")))
    kinds = {_kind(part) if part.is_file() else "" for part in parts}
    if len(kinds) != 1 or "" in kinds:
        raise DataError(
            f"the folder {path.name} must hold part files of one kind, .csv or .parquet, and no folders; give such a "
            "folder, or one file"
        )
    say(f"{path.name}: {len(parts)} part files, in the order of their names")
    return [part for part in parts if part.stat().st_size] or parts[:1]


def _united(parts: list[Path], tables: list[pa.Table]) -> pa.Table:
    import pyarrow as pa

    for part, table in zip(parts, tables, strict=True):
        if table.column_names != tables[0].column_names:
            raise DataError(f"{part.name} has other columns than {parts[0].name}; all parts need the same ones")
    return pa.concat_tables(tables, promote_options="permissive") if len(tables) > 1 else tables[0]


def _check_names(path: Path, names: Sequence[str], special: Sequence[str]) -> None:
    """Raise `DataError` for a header that cannot be used."""
    twice = sorted({column for column in names if names.count(column) > 1})
    if twice:
        raise DataError(f"{path.name} has more than one column named {twice[0]!r}; rename or remove the copies")
    for number, name in enumerate(names):
        if not name:
            raise DataError(f"column {number} of {path.name} has no name; name it, or remove it")
        if _CONTROL.search(name):
            raise DataError(f"column {number} of {path.name} is named {name!r}; control characters are not allowed")
    for column in special:
        if column not in names:
            raise DataError(f"{path.name} has no column {column!r}; its columns are {', '.join(names)}")


def _csv_table(
    path: Path, parts: list[Path], special: Sequence[str], numbers: Collection[str] | None, dialect: Dialect
) -> pa.Table:
    from assay.data.delimited import check_header, read_texts

    tables, layouts = zip(*(read_texts(part, dialect) for part in parts), strict=True)
    table = _without_unnamed(path, _united(parts, list(tables)))
    expected = {*special, *(numbers or ())}
    are_names = expected <= set(table.column_names) and any(not name.isdigit() for name in expected)
    if dialect.header is None and not are_names and not (numbers and expected <= set(table.column_names)):
        check_header(path, table)
    observed = [] if dialect.separator and dialect.encoding else layouts[0].oddities
    if observed:
        say(f"{path.name}: {', '.join(observed)}")
    return table


def _without_unnamed(path: Path, table: pa.Table) -> pa.Table:
    """Return a table without a first column that has no name and counts rows, and without an empty last one."""
    import numpy as np

    from assay.data.delimited import present, typed

    names = table.column_names
    if len(names) > 1 and names[-1] == "" and present(table.column(len(names) - 1)).null_count == len(table):
        say(f"{path.name}: every line ends with a separator; the empty last column is left out")
        table, names = table.remove_column(len(names) - 1), names[:-1]
    if len(names) > 1 and names[0] == "" and len(table):
        numbers = typed(table.column(0), "").to_numpy()
        counted = numbers.dtype == np.float64 and numbers[0] in (0, 1) and bool((np.diff(numbers) == 1).all())
        if counted:
            say(f"{path.name}: the first column has no name and numbers the rows; it is left out")
            return table.remove_column(0)
    return table


def _csv_frame(path: Path, table: pa.Table, kept: Collection[str], dialect: Dialect) -> pd.DataFrame:
    from assay.data.delimited import decimal_of, plain_texts, typed

    decimal = dialect.decimal or decimal_of(path, table, kept)
    if dialect.decimal is None and decimal == ",":
        say(f"{path.name}: the comma is the decimal sign")
    columns = {}
    for name in table.column_names:
        columns[name] = plain_texts(table[name]) if name in kept else typed(table[name], name, decimal)
        _refuse_zeros(path, name, columns[name])
        if decimal == "," and name not in kept:
            _refuse_points(path, name, columns[name])
        if columns[name].dtype == "float64" and columns[name].abs().max() > _EXACT:
            _say_if_rounded(path, name, table[name])
    return pd.DataFrame(columns)


def _say_if_rounded(path: Path, name: str, column: pa.ChunkedArray) -> None:
    from assay.data.delimited import first_rounded

    if (row := first_rounded(column)) is not None:
        say(
            f"{path.name}: column {name!r} has whole numbers that float64 rounds, such as {column[row].as_py()} in row "
            f"{row}; if it is an id, say so or leave it out, else subtract its smallest value"
        )


def _refuse_points(path: Path, name: str, column: pd.Series[Any]) -> None:
    """Raise `DataError` for numbers whose points may separate thousands, where the comma is the decimal sign."""
    if not isinstance(column.dtype, pd.StringDtype):
        return
    given = column.dropna()
    if given.str.contains(".", regex=False).any() and given.str.strip().str.fullmatch(_GROUPED_OR_WHOLE).all():
        raise DataError(
            f"{path.name}, column {name!r} has values such as {given.iloc[0]!r}, with a point, and the comma is the "
            "decimal sign; take thousands signs out of the file, or write all columns with one decimal sign"
        )


def _refuse_zeros(path: Path, name: str, column: pd.Series[Any]) -> None:
    if isinstance(column.dtype, pd.StringDtype) and (zeros := column.str.contains("\0", na=False)).any():
        raise DataError(f"{path.name}, column {name!r}, row {zeros.idxmax()} holds a zero byte; is the file damaged?")


def _parquet_table(path: Path, parts: list[Path]) -> pa.Table:
    from pyarrow.parquet import ParquetFile

    tables = []
    for part in parts:
        with ParquetFile(part, page_checksum_verification=True) as file:
            require_memory(part, file.metadata)
            table, metadata = file.read(), file.metadata
            paths = [file.schema.column(i).path for i in range(metadata.num_columns)]
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        if len(table) != metadata.num_rows or any(_paths_in(group) != paths for group in groups):
            raise DataError(f"{part.name} is damaged: its rows or columns are not those that it lists; get it anew")
        _check_names(part, table.column_names, ())
        tables.append(_with_index(table))
    table = _united(parts, tables)
    unnamed = [name for name in table.column_names if UNNAMED_INDEX.fullmatch(name)]
    if unnamed:
        say(f"{path.name}: an index without a name is left out; it becomes a column if it gets one")
    return table.drop_columns(unnamed)


def _paths_in(group: Any) -> list[str]:
    return [group.column(i).path_in_schema for i in range(group.num_columns)]


def _with_index(table: pa.Table) -> pa.Table:
    """Return a table with the index of the frame that it was written from as its first columns, if it has a name."""
    import pyarrow as pa

    try:
        index = (table.schema.pandas_metadata or {}).get("index_columns", [])
        stored = [name for name in index if isinstance(name, str) and name in table.column_names]
        ranges = [level for level in index if isinstance(level, dict) and level["name"] is not None]
        counted = {str(level["name"]): range(level["start"], level["stop"], level["step"]) for level in ranges}
    except (ValueError, TypeError, AttributeError, KeyError):  # no metadata that pandas wrote
        return table
    table = table.select([*stored, *(name for name in table.column_names if name not in stored)])
    for name, numbers in counted.items():
        if name not in table.column_names and len(numbers) == len(table):
            table = table.add_column(0, name, pa.array(numbers, pa.int64()))
    return table


def _parquet_frame(path: Path, table: pa.Table, kept: Collection[str]) -> pd.DataFrame:
    import pyarrow as pa

    from assay.data.delimited import typed

    nullable = {pa.bool_(): pd.BooleanDtype(), pa.uint64(): pd.UInt64Dtype()}
    nullable |= {getattr(pa, name)(): pd.Int64Dtype() for name in ("int8", "int16", "int32", "int64")}
    nullable |= {getattr(pa, name)(): pd.Int64Dtype() for name in ("uint8", "uint16", "uint32")}
    columns = {}
    for name in table.column_names:
        column = table[name]
        kind = column.type
        if pa.types.is_integer(kind) and name not in kept:
            _say_if_rounded(path, name, column)
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            column = column.cast(pa.string())  # as some writers store text; what is no UTF-8 raises an error
        if pa.types.is_dictionary(kind):
            column = column.cast(kind.value_type)
        elif name not in kept and pa.types.is_decimal(kind):
            column = column.cast(pa.float64())
        elif name not in kept and pa.types.is_date(kind):
            column = column.cast(pa.timestamp("ms"))
        is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        if is_text and name not in kept:
            columns[name] = typed(column.cast(pa.string()), name)
        elif column.null_count and kind in nullable:
            columns[name] = pd.Series(pd.array(column.to_pandas(types_mapper=nullable.get), dtype=nullable[kind]))
        else:
            columns[name] = column.cast(pa.float64()).to_pandas() if pa.types.is_null(kind) else column.to_pandas()
    return pd.DataFrame(columns)
