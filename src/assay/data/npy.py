"""Arrays of float64 as .npy files whose bytes depend on no library's version."""

from __future__ import annotations

import lzma
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from assay.arrays import Doubles, Floats
from assay.data.mapped import MOST_IN_MEMORY, row_blocks
from assay.errors import DataError

# What NumPy raises for a damaged .npy or .npz file: in its header, or where it is unpacked (RuntimeError: encrypted, or
# packed in an unknown way).
DAMAGED_ARRAYS = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, SyntaxError, RuntimeError, MemoryError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)
_MAGIC, _ALIGNMENT = b"\x93NUMPY\x01\x00", 64


def npy_pieces(values: Floats) -> Iterator[bytes]:
    """Yield an array of shape (n, d) as a .npy file, in pieces of some megabytes.

    It is of format 1.0, little-endian float64, in C order, with one NaN (NEP 1,
    https://numpy.org/neps/nep-0001-npy-format.html).
    """
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {values.shape}, }}"
    padding = -(len(_MAGIC) + 2 + len(head) + 1) % _ALIGNMENT
    text = head.encode() + b" " * padding + b"\n"
    yield _MAGIC + len(text).to_bytes(2, "little") + text
    for block in row_blocks(values):
        stored = np.array(values[block], dtype="<f8", order="C")
        stored[np.isnan(stored)] = np.nan
        yield stored.tobytes()


def read_npy(path: Path) -> Doubles:
    """Read a .npy file of numbers as float64; the float32 of format 1 become float64 exactly.

    A large file of float64 stays where it is (`assay.data.mapped`), and its values cannot be set.

    Raises
    ------
    DataError
        It is no such file.
    """
    try:
        is_large = path.stat().st_size > MOST_IN_MEMORY
        values = np.load(path, allow_pickle=False, mmap_mode="r" if is_large else None)
    except DAMAGED_ARRAYS as error:
        raise DataError(f"{path} cannot be read: {error}; restore it with `dvc checkout`") from error
    if values.dtype not in (np.float32, np.float64):
        raise DataError(f"{path} holds {values.dtype}; it must hold float64, or float32 (format 1)")
    return np.asarray(values, dtype=np.float64)
