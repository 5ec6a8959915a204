"""Bodies of requests and answers that are not JSON: .npy and Arrow IPC."""

from __future__ import annotations

import io
import json
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assay.errors import InputError, RequestError
from assay.names import CONTROL
from assay.service.limits import CONTROL_IN_DOCUMENT, HOLDS_CONTROL, Limits
from assay.service.requests import Question
from assay.service.rows import ColumnLayout

if TYPE_CHECKING:
    import pyarrow as pa

ARROW = "application/vnd.apache.arrow.stream"
_NPY_HEAD = 2**17  # bytes that hold it; numpy takes at most 10,000 signs
_NPY_MAGIC = b"\x93NUMPY"
_STREAM_MAGIC, _FILE_MAGIC = b"\xff\xff\xff\xff", b"ARROW1\0\0"
_DICTIONARY, _RECORDS = 2, 3  # kinds of messages, by their number in Arrow's Message.fbs


def is_npy(body: bytes | bytearray) -> bool:
    """Return whether a body is a file of numpy."""
    return body.startswith(_NPY_MAGIC)


def is_arrow(body: bytes | bytearray) -> bool:
    """Return whether a body is a stream or a file of Arrow."""
    return body.startswith((_STREAM_MAGIC, _FILE_MAGIC))


def read_npy_question(body: bytes | bytearray, layout: ColumnLayout, limits: Limits) -> Question:
    """Return the rows of a .npy file, an array of numbers of shape (n, d) in the scorer's order of columns.

    Raises
    ------
    InputError
        It is another array, not whole, or the scorer takes more than numbers.
    RequestError
        It has too many rows (413).
    """
    stream = io.BytesIO(body[:_NPY_HEAD])
    try:
        version = np.lib.format.read_magic(stream)
        read_head = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, is_fortran, dtype = read_head(stream)
    except Exception as error:  # numpy's parser of heads raises whatever Python's own does
        raise InputError("the body is a .npy file whose head cannot be read; write it with numpy.save") from error
    if dtype.kind not in "fiu":
        raise InputError(f"the body is a .npy file of {dtype}; send numbers, such as float64")
    if len(shape) != 2 or shape[1] != len(layout.columns):
        raise InputError(
            f"the body is a .npy file of shape {shape}; send (n, {len(layout.columns)}), with the columns in the order "
            "of /info"
        )
    if layout.category_column is not None:
        raise InputError(f"a .npy file has no place for the column {layout.category_column!r}; send JSON or Arrow")
    limits.check_rows(shape[0])
    content = memoryview(body)[stream.tell() :]
    if len(content) != shape[0] * shape[1] * dtype.itemsize:
        raise InputError(
            f"the body is a .npy file of shape {shape} with {len(content)} bytes of numbers; send it whole"
        )
    rows = np.frombuffer(content, dtype=dtype).reshape(shape, order="F" if is_fortran else "C")
    return Question(rows)


def read_arrow_question(body: bytes | bytearray, layout: ColumnLayout, limits: Limits) -> Question:
    """Return the rows of an Arrow stream or file, a table with the scorer's columns in any order.

    Raises
    ------
    InputError
        It is damaged, packed, or has a column of lists or the like.
    RequestError
        It has too many rows or too long texts (413), or pyarrow is not installed (415).
    """
    pa = require_arrow(415)
    content = pa.py_buffer(memoryview(body)[len(_FILE_MAGIC) :] if body.startswith(_FILE_MAGIC) else body)
    try:
        if any(_is_packed(message) for message in pa.ipc.MessageReader.open_stream(content)):
            raise InputError("the buffers of the Arrow body are packed; write it without, or pack all of it by gzip")
        reader = pa.ipc.open_stream(content)
        for field in reader.schema:
            if not _is_plain(field.type):
                raise InputError(f"column {field.name!r} is of type {field.type}; send numbers, texts, dates or times")
        batches, n = [], 0
        for batch in reader:
            n += batch.num_rows
            limits.check_rows(n)
            batch.validate(full=True)
            batches.append(batch)
        table = pa.Table.from_batches(batches, reader.schema)
    except (InputError, RequestError):
        raise
    except (pa.ArrowException, ValueError, TypeError, OSError, EOFError, struct.error) as error:
        raise InputError("the body is no Arrow IPC stream that can be read; write it with pyarrow.ipc") from error
    for name, column in zip(table.column_names, table.columns, strict=True):
        _check_texts(name, column, limits, CONTROL_IN_DOCUMENT if layout.of_documents else CONTROL)
    return Question(table)


def write_arrow(columns: dict[str, NDArray[Any] | list[Any]], rest: dict[str, Any]) -> bytes:
    """Return an Arrow stream of columns of equal length; the rest of the answer is JSON in its metadata, ``assay``."""
    pa = require_arrow(406)
    table = pa.table(columns).replace_schema_metadata({"assay": json.dumps(rest)})
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    return bytes(stream.getvalue())


def require_arrow(status: int) -> Any:
    """Return pyarrow, and make sure that pandas is there, which tables are read with.

    Raises
    ------
    RequestError
        One of them is not installed.
    """
    try:
        import pandas  # noqa: F401
        import pyarrow as pa
        import pyarrow.ipc
    except ImportError as error:
        raise RequestError(
            status, f"{error.name} is not installed where this service runs, and Arrow needs it; use JSON or .npy"
        ) from error
    return pa


def _is_plain(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    numbers = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_null(kind)
    texts = types.is_string(kind) or types.is_large_string(kind)
    return bool(numbers or types.is_decimal(kind) or texts or types.is_timestamp(kind) or types.is_date(kind))


def _check_texts(name: str, column: pa.ChunkedArray, limits: Limits, control: str) -> None:
    import pyarrow.compute as pc
    import pyarrow.types as types

    for chunk in column.chunks:
        texts = chunk.dictionary if types.is_dictionary(chunk.type) else chunk
        if types.is_string(texts.type) or types.is_large_string(texts.type):
            longest = pc.max(pc.utf8_length(texts)).as_py() or 0
            if longest > limits.text:
                raise RequestError(
                    413, f"column {name!r} has a text of {longest} characters; a text has at most {limits.text}"
                )
            if pc.any(pc.match_substring_regex(texts, control)).as_py():
                raise RequestError(400, f"column {name!r} {HOLDS_CONTROL}")


def _is_packed(message: Any) -> bool:
    """Return whether the buffers of a message are packed: they could become any size, and reading makes room first.

    Read from the message's head, a flatbuffer that pyarrow has checked.
    """
    head = message.metadata.to_pybytes()
    root = struct.unpack_from("<I", head, 0)[0]
    kind_at, table = _field(head, root, 1), _child(head, root, 2)
    if kind_at is None or table is None or head[kind_at] not in (_DICTIONARY, _RECORDS):
        return False
    batch = _child(head, table, 1) if head[kind_at] == _DICTIONARY else table
    return batch is not None and _field(head, batch, 3) is not None


def _field(head: bytes, table: int, number: int) -> int | None:
    """Return where a field of a table of a flatbuffer begins, or None where it is left out."""
    fields = table - struct.unpack_from("<i", head, table)[0]
    entry = 4 + 2 * number
    if entry >= struct.unpack_from("<H", head, fields)[0]:
        return None
    offset = struct.unpack_from("<H", head, fields + entry)[0]
    return table + offset if offset else None


def _child(head: bytes, table: int, number: int) -> int | None:
    place = _field(head, table, number)
    return None if place is None else place + struct.unpack_from("<I", head, place)[0]
