"""Dataset files that are not published in the form they are read in; a mirror folder holds them."""

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
        A description of its arrays, for people.
    origin : str
        Where the original data are published.
    """

    file: str
    sha256: str
    content: str
    origin: str

    def read(self, mirror: Path | None) -> dict[str, NDArray[Any]]:
        """Return the arrays of the file in a mirror folder, after checking its hash.

        Raises
        ------
        DataError
            There is no mirror folder, or the file is missing or has another hash.
        """
        if mirror is None:
            raise DataError(f"{self.file} is not published in this form; {self._advice()}")
        path = mirror / self.file
        if not path.is_file():
            raise DataError(f"there is no {path}; {self._advice()}")
        data = path.read_bytes()
        if (actual := hashlib.sha256(data).hexdigest()) != self.sha256:
            raise DataError(f"{path} has SHA-256 {actual}; {self._advice()}")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def _advice(self) -> str:
        return (
            f"expected is an npz file with {self.content}, SHA-256 {self.sha256}, made from the original data of "
            f"{self.origin}: put it into a folder and name the folder in the environment variable ASSAY_DATA_MIRROR"
        )
