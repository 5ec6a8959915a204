"""Parquet files as Arrow tables in blocks, and as frames whose columns are numbers, booleans or texts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow.parquet import ParquetFile

from assay.console import say
from assay.data.dialects import UNNAMED_INDEX
from assay.data.headers import check_names, check_parts
from assay.data.texts import TextKind, typed
from assay.errors import DataError

_BUFFER = 1 << 18  # bytes of a column that are read at once, instead of all of a group of rows
_NULLABLE = {pa.bool_(): pd.BooleanDtype(), pa.uint64(): pd.UInt64Dtype()}
_NULLABLE |= {getattr(pa, name)(): pd.Int64Dtype() for name in ("int8", "int16", "int32", "int64")}
_NULLABLE |= {getattr(pa, name)(): pd.Int64Dtype() for name in ("uint8", "uint16", "uint32")}


class ParquetParts:
    """The table in a Parquet file or in several of the same columns.

    Attributes
    ----------
    schema : pyarrow.Schema
        Of the whole table: index levels with a name come first, those without one are left out.
    n_rows : int
    starts : dict of Path to int
        The number of rows before each file.
    lacking : set of str
        The columns that may have missing values, by the statistics of the files.

    Raises
    ------
    DataError
        A file is damaged, or has other columns than the first.
    """

    def __init__(self, path: Path, parts: Sequence[Path]) -> None:
        self._parts, self.n_rows, self.lacking = parts, 0, set[str]()
        schemas = []
        self.starts: dict[Path, int] = {}
        for part in parts:
            self.starts[part] = self.n_rows
            with ParquetFile(part) as file:
                metadata = file.metadata
                paths = [file.schema.column(i).path for i in range(metadata.num_columns)]
                groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
                if any(_paths_in(group) != paths for group in groups):
                    raise _damaged(part)
                check_names(part, file.schema_arrow.names, ())
                self.lacking |= {name for group in groups for name in _lacking_in(group)}
                schemas.append(_with_index(file.schema_arrow.empty_table(), 0, metadata.num_rows).schema)
                self.n_rows += metadata.num_rows
            check_parts(part, schemas[-1].names, parts[0], schemas[0].names)
        united = pa.unify_schemas(schemas, promote_options="permissive") if len(parts) > 1 else schemas[0]
        unnamed = [name for name in united.names if UNNAMED_INDEX.fullmatch(name)]
        if unnamed:
            say(f"{path.name}: an index without a name is left out; it becomes a column if it gets one")
        self.schema = pa.schema([each for each in united if each.name not in unnamed])

    def blocks(self, rows: int, columns: Sequence[str] | None = None, only: Path | None = None) -> Iterator[pa.Table]:
        """Yield the table, or one file of it, in blocks of at most so many rows, by default with all of its columns.

        Raises
        ------
        DataError
            A file is damaged: it has not as many rows as it lists.
        """
        schema = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        for part in self._parts if only is None else [only]:
            start = 0
            with ParquetFile(part, page_checksum_verification=True, buffer_size=_BUFFER, pre_buffer=False) as file:
                for batch in file.iter_batches(rows, columns=columns):
                    table = pa.Table.from_batches([batch]).replace_schema_metadata(file.schema_arrow.metadata)
                    table = _with_index(table, start, file.metadata.num_rows)
                    start += len(table)
                    yield table.select(schema.names).cast(schema)
                if start != file.metadata.num_rows:
                    raise _damaged(part)


def _damaged(part: Path) -> DataError:
    return DataError(f"{part.name} is damaged: its rows or columns are not those that it lists; get it anew")


def _paths_in(group: Any) -> list[str]:
    return [group.column(i).path_in_schema for i in range(group.num_columns)]


def _lacking_in(group: Any) -> list[str]:
    """Return the paths of the columns of a group of rows that may have missing values."""
    chunks = [group.column(i) for i in range(group.num_columns)]
    return [chunk.path_in_schema for chunk in chunks if _may_lack(chunk.statistics)]


def _may_lack(statistics: Any) -> bool:
    return statistics is None or not statistics.has_null_count or statistics.null_count > 0


def _with_index(table: pa.Table, start: int, n_rows: int) -> pa.Table:
    """Return a table with the index of the frame that it was written from as its first columns, if it has a name.

    The table is a block of one of `n_rows` rows that begins at `start`.
    """
    try:
        index = (table.schema.pandas_metadata or {}).get("index_columns", [])
        stored = [name for name in index if isinstance(name, str) and name in table.column_names]
        ranges = [level for level in index if isinstance(level, dict) and level["name"] is not None]
        counted = {str(level["name"]): range(level["start"], level["stop"], level["step"]) for level in ranges}
    except (ValueError, TypeError, AttributeError, KeyError):  # no metadata that pandas wrote
        return table
    table = table.select([*stored, *(name for name in table.column_names if name not in stored)])
    for name, numbers in counted.items():
        if name not in table.column_names and len(numbers) == n_rows:
            table = table.add_column(0, name, pa.array(numbers[start : start + len(table)], pa.int64()))
    return table


def plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column with texts instead of bytes, which some writers store, and values instead of codes."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return column.cast(pa.string())  # what is no UTF-8 raises an error
    return column.cast(pa.float64()) if pa.types.is_null(kind) else column


def holds_texts(kind: pa.DataType) -> bool:
    """Return whether a column of `plain_column` holds texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def parquet_frame(
    table: pa.Table, kept: Collection[str], lacking: Collection[str], kinds: Mapping[str, TextKind] | None = None
) -> pd.DataFrame:
    """Return a table as a frame.

    Parameters
    ----------
    table : pyarrow.Table
    kept : collection of str
        Columns that stay as they are; in others decimals become numbers, and texts what `assay.data.texts.typed` makes
        of them.
    lacking : collection of str
        Columns of whole numbers and booleans that get a type with missing values.
    kinds : mapping of str to str, optional
        What the columns of texts are taken for, where the table is a block of a larger one.
    """
    columns = {}
    for name in table.column_names:
        column = plain_column(table[name])
        kind = column.type
        if name not in kept and pa.types.is_decimal(kind):
            column = column.cast(pa.string()).cast(pa.float64())  # from decimals at once it is not the nearest number
        elif name not in kept and pa.types.is_date(kind):
            column = column.cast(pa.timestamp("ms"))
        if holds_texts(kind) and name not in kept:
            columns[name] = typed(column.cast(pa.string()), name, kind=(kinds or {}).get(name))
        elif name in lacking and kind in _NULLABLE:
            columns[name] = pd.Series(pd.array(column.to_pandas(types_mapper=_NULLABLE.get), dtype=_NULLABLE[kind]))
        else:
            columns[name] = column.to_pandas()
    return pd.DataFrame(columns)
