"""The size of a Parquet file in memory, which a file of a thousandth of that may have."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assay.data.mapped import MOST_IN_MEMORY
from assay.errors import DataError

_COPIES = 3  # the decoded columns, pandas' and the matrix of features are there at the same time
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 16}
_GROUP = Path("/sys/fs/cgroup")


def require_room(path: Path, metadata: Any, kept: Callable[[str], bool]) -> None:
    """Refuse a Parquet file that there is no room for: memory for texts and rows, temporary files for numbers.

    Parameters
    ----------
    path : Path
    metadata : pyarrow.parquet.FileMetaData
    kept : callable
        Whether a column stays as it is: such columns are in memory, whatever they hold.

    Raises
    ------
    DataError
        Read, it would take more memory or room on the disk than there is.
    """
    schemas = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    numbers = [each for each in schemas if "BYTE_ARRAY" not in each.physical_type and not kept(each.path)]
    on_disk = _COPIES * 8 * len(numbers) * metadata.num_rows
    in_memory = _COPIES * (decoded_bytes(metadata) - sum(map(_width, numbers)) * metadata.num_rows)
    if not numbers or 8 * metadata.num_rows <= MOST_IN_MEMORY:
        in_memory, on_disk = in_memory + on_disk, 0
    places = {"memory": (in_memory, available_bytes())}
    places |= {"temporary files": (on_disk, shutil.disk_usage(tempfile.gettempdir()).free)}
    for place, (needed, available) in places.items():
        if needed > available:
            raise DataError(
                f"{path.name} holds {metadata.num_rows:,} rows of {metadata.num_columns} columns: reading it takes "
                f"{needed / 1e9:.1f} GB of {place}, and {available / 1e9:.1f} GB are available; take fewer rows or "
                "columns, or a machine with more"
            )


def decoded_bytes(metadata: Any) -> int:
    """Return how many bytes the columns of a Parquet file have at least when they are decoded.

    Repeated values take next to nothing in the file, even before compression, so that the number of rows counts.
    """
    widths = [_width(metadata.schema.column(number)) for number in range(metadata.num_columns)]
    plain = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    return int(max(plain, metadata.num_rows * sum(widths)))


def _width(column: Any) -> int:
    return int(column.length if column.physical_type == "FIXED_LEN_BYTE_ARRAY" else _WIDTHS[column.physical_type])


def available_bytes() -> int:
    """Return how much memory this process may still take: what the machine, or its control group, has left."""
    import psutil

    available = int(psutil.virtual_memory().available)
    try:
        limit = int((_GROUP / "memory.max").read_text())
        return int(min(available, max(0, limit - int((_GROUP / "memory.current").read_text()))))
    except (OSError, ValueError):  # no such group, or "max": no limit
        return available
