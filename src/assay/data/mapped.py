"""Arrays that may be larger than memory should hold: in files, of which only what is worked on is in memory."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles
from assay.errors import DataError

MOST_IN_MEMORY, BYTES_IN_BLOCK = 1 << 26, 1 << 24  # bytes


def new_array(shape: tuple[int, ...], dtype: Any = np.float64) -> NDArray[Any]:
    """Return an array of zeros; from 64 MB on in a temporary file without a name, which goes with the array.

    Raises
    ------
    DataError
        There is no room for the file.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size <= MOST_IN_MEMORY:
        return np.zeros(shape, dtype=dtype)
    with tempfile.TemporaryFile() as file:
        try:
            if hasattr(os, "posix_fallocate"):  # a full disk would end the process at the first value without room
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
            memory = mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise DataError(
                f"there is no room for {size / 1e9:.1f} GB of temporary data in {tempfile.gettempdir()} ({error}); "
                "make some, or set TMPDIR to a folder that has it"
            ) from error
    return np.frombuffer(memory, dtype=dtype).reshape(shape)


def in_file(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of that content as `new_array` makes them, which is released: itself, where it is one already."""
    if array.nbytes <= MOST_IN_MEMORY or isinstance(_ground(array), mmap.mmap):
        release(array)
        return array
    copy = new_array(array.shape, array.dtype)
    copy[...] = array
    release(copy)
    return copy


def release(*arrays: NDArray[Any]) -> None:
    """Let arrays in files leave memory until they are used again; nothing happens to others."""
    for array in arrays:
        if isinstance(memory := _ground(array), mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            memory.madvise(mmap.MADV_DONTNEED)


def _ground(array: NDArray[Any]) -> Any:
    """Return what the values of an array are in."""
    base: Any = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base


def flattened_rows(*parts: NDArray[Any]) -> Doubles:
    """Return numbers of shape (n, ...), those of each part behind those before, as rows (n, d) by `new_array`."""
    width = int(np.prod(parts[0].shape[1:]))
    rows: Doubles = new_array((sum(map(len, parts)), width))
    end = 0
    for part in parts:
        place = rows[end : end + len(part)]
        for block in row_blocks(place, part):
            place[block] = part[block].reshape(-1, width)
        end += len(part)
    return rows


def row_blocks(values: NDArray[Any], *others: NDArray[Any]) -> Iterator[slice]:
    """Yield slices of the rows of an array, some megabytes each, and release it and the others after each."""
    width = max(1, values[:1].nbytes, values.itemsize)
    rows = max(1, BYTES_IN_BLOCK // width)
    for start in range(0, len(values), rows):
        yield slice(start, min(len(values), start + rows))
        release(values, *others)


def picked_rows(values: Doubles, picked: NDArray[np.intp]) -> Doubles:
    """Return the rows (m, d) of `values` (n, d) at the positions `picked` (m,)."""
    if max(values.nbytes, len(picked) * values.itemsize * values.shape[1]) <= MOST_IN_MEMORY:
        return values[picked]
    taken: Doubles = new_array((len(picked), *values.shape[1:]))
    for block in row_blocks(taken, values):
        taken[block] = values[picked[block]]
    return taken
