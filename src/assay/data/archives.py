"""NumPy archives and IDX files (the form of MNIST) that users bring, read without unpickling anything."""

from __future__ import annotations

import gzip
import re
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.data.npy import DAMAGED_ARRAYS
from assay.errors import DataError

ARCHIVE = ".npz"
MOST_UNPACKED = 2**32  # bytes
IDX_IMAGES = re.compile(r"[-.]idx3-ubyte(\.gz)?$", re.IGNORECASE)


def archive_arrays(path: Path, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Return those arrays of an .npz file that have one of some names.

    Raises
    ------
    DataError
        It cannot be read safely, or unpacks to more than 4 GiB.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            unpacked = sum(entry.file_size for entry in packed.infolist())
        if unpacked > MOST_UNPACKED:
            raise ValueError(f"it unpacks to {unpacked} bytes, and {MOST_UNPACKED} are the most that are read")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names if name in arrays.files}
    except DAMAGED_ARRAYS as error:
        raise DataError(f"{path.name} is no NumPy archive that can be read safely: {error}") from error


def holds_array(path: Path, name: str) -> bool:
    """Return whether a path is an .npz file with an array of a name."""
    if path.suffix.lower() != ARCHIVE or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as packed:
        return f"{name}.npy" in packed.namelist()


def idx_array(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the array of an IDX file of bytes (http://yann.lecun.com/exdb/mnist), which may end in .gz.

    Raises `DataError` where it is no such file, or is longer or shorter than it says.
    """
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as stream:
            head = stream.read(4 + 4 * dimensions)
            shape = tuple(np.frombuffer(head[4:], dtype=">u4").tolist())
            if head[:4] != bytes([0, 0, 8, dimensions]) or len(shape) != dimensions or not np.prod(shape, dtype=object):
                raise ValueError(f"its head is not that of bytes in {dimensions} dimensions")
            if (size := int(np.prod(shape, dtype=object))) > MOST_UNPACKED:
                raise ValueError(f"it has {size} bytes, and {MOST_UNPACKED} are the most that are read")
            body = stream.read(size + 1)
        if len(body) != size:
            raise ValueError(f"its head names {size} bytes, and it holds {'more' if len(body) > size else len(body)}")
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} is no IDX file that can be read: {error}; get it again") from error
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)
