"""Headers of tables: names that cannot be used, or that may be values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from assay.data.texts import is_numeric, numbers_in
from assay.errors import DataError

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ufeff]")  # the last is a byte-order mark, as of files that were joined
_SHOWN = 50


def check_names(path: Path, names: Sequence[str], special: Sequence[str]) -> None:
    """Raise `DataError` for a header that cannot be used."""
    twice = sorted(column for column, number in Counter(names).items() if number > 1)
    if twice:
        raise DataError(f"{path.name} has more than one column named {twice[0]!r}; rename or remove the copies")
    for number, name in enumerate(names):
        if not name.strip():
            raise DataError(f"column {number} of {path.name} has no name; name it, or remove it")
        if _CONTROL.search(name):
            raise DataError(f"column {number} of {path.name} is named {name!r}; control characters are not allowed")
    for column in special:
        if column not in names:
            shown = ", ".join(names[:_SHOWN]) + ", ..." * (len(names) > _SHOWN)
            raise DataError(f"{path.name} has no column {column!r}; its columns are {shown}")


def check_parts(part: Path, names: Sequence[str], first: Path, of_first: Sequence[str]) -> None:
    """Raise `DataError` where a part has other columns than the first one."""
    if names != of_first:
        raise DataError(f"{part.name} has other columns than {first.name}; all parts need the same ones")


def check_header(path: Path, table: pa.Table) -> None:
    """Raise `DataError` where the first line of a file may be a row as well as a header.

    That is where just the columns of numbers have numbers for names, or every name is among the values of its column.
    """
    names: Sequence[str] = table.column_names
    are_numbers = [_is_number(name) for name in names]
    holds = [is_numeric(table.column(i)) for i in range(len(names))] if any(are_numbers) else []
    if are_numbers == holds or all(_is_among(name, table.column(i)) for i, name in enumerate(names)):
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        raise DataError(
            f"the first line of {path.name} ({shown}) may be names or values; say which: --header or --no-header"
        )


def _is_number(text: str) -> bool:
    return numbers_in(pa.chunked_array([[text.strip().replace(",", ".")]]), ".") is not None


def _is_among(name: str, column: pa.ChunkedArray) -> bool:
    return bool(pc.any(pc.equal(column, name)).as_py())
