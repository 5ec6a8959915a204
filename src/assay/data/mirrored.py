"""Files that are at no public address in the form they are read in here: a mirror folder holds them."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.errors import DataError


@dataclass(frozen=True, slots=True)
class MirroredFile:
    """A NumPy archive in a mirror folder.

    Attributes
    ----------
    file : str
        Its name.
    sha256 : str
    content : str
        The arrays that it holds, for people.
    origin : str
        Where anybody can get the original data that it was made from.
    """

    file: str
    sha256: str
    content: str
    origin: str

    def read(self, mirror: Path | None) -> dict[str, NDArray[Any]]:
        """Return the arrays of the file in a mirror folder, after its hash has been checked.

        Raises
        ------
        DataError
            There is no mirror, or the file is not there, or is another one.
        """
        if mirror is None:
            raise DataError(f"{self.file} is at no public address; {self._advice()}")
        path = mirror / self.file
        if not path.is_file():
            raise DataError(f"there is no {path}; {self._advice()}")
        data = path.read_bytes()
        if (found := hashlib.sha256(data).hexdigest()) != self.sha256:
            raise DataError(f"{path} has SHA-256 {found}; {self._advice()}")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def _advice(self) -> str:
        return (
            f"expected is an npz file with {self.content}, SHA-256 {self.sha256}, made from the original data of "
            f"{self.origin}: put it into a folder and name the folder in the environment variable ASSAY_DATA_MIRROR"
        )
