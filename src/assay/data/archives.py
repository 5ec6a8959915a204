"""NumPy archives that users bring, read without unpickling anything."""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.data.npy import DAMAGED_ARRAYS
from assay.errors import DataError

ARCHIVE = ".npz"
MOST_UNPACKED = 2**32  # bytes


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
