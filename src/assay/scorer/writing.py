"""Scored rows written to a file as they come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import pandas as pd

from assay.parts import replacing

if TYPE_CHECKING:
    import pyarrow as pa


class Writer(Protocol):
    """Takes frames of the same columns, one below the other."""

    def write(self, frame: pd.DataFrame) -> None:
        """Write the rows of a frame."""
        ...


@contextmanager
def row_writer(path: Path, types: Mapping[str, pa.DataType]) -> Iterator[Writer]:
    """Open a CSV or Parquet file, which is at `path` only once the block has ended as usual.

    `types` are those of the columns in a Parquet file.
    """
    with replacing(path) as stream:
        if path.suffix.lower() != ".parquet":
            yield _CsvWriter(stream)
            return
        with closing(_ParquetWriter(stream, types)) as writer:
            yield writer


class _CsvWriter:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._is_first = stream, True

    def write(self, frame: pd.DataFrame) -> None:
        # As texts one by one: pandas leaves out the time of day only where all times of a frame are midnight.
        times = frame.select_dtypes(["datetime", "datetimetz", "timedelta"]).columns
        frame = frame.astype(dict.fromkeys(times, object))
        self._stream.write(frame.to_csv(index=False, lineterminator="\n", header=self._is_first).encode())
        self._is_first = False


class _ParquetWriter:
    def __init__(self, stream: BinaryIO, types: Mapping[str, pa.DataType]) -> None:
        import pyarrow as pa

        self._stream, self._schema = stream, pa.schema(dict(types))
        self._writer: Any = None

    def write(self, frame: pd.DataFrame) -> None:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        table = pa.Table.from_pandas(frame, schema=self._schema, preserve_index=False)
        if self._writer is None:
            self._schema = table.schema
            self._writer = ParquetWriter(self._stream, self._schema)
        self._writer.write_table(table.replace_schema_metadata(self._schema.metadata))

    def close(self) -> None:
        """Write the end of the file; one without rows has its columns all the same."""
        if self._writer is None:
            self.write(self._schema.empty_table().to_pandas())
        self._writer.close()
