"""What a command has judged of a large file, kept beside its result until that is whole.

A command that was killed, and is given again, reads and writes all rows anew, and judges only those that are missing.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self
from zlib import crc32

import numpy as np

from assay.arrays import Singles
from assay.calibration.decisions import Compared
from assay.errors import DataError, InputError
from assay.parts import go_on_after

RESUMABLE_ROWS = 100_000
_KEY_BYTES = 64
_HEAD = struct.Struct("<QQI??")  # first row, rows, checksum, and which arrays there are
_ROW = np.dtype([("score", "<f4"), ("p_value", "<f8"), ("counted", "<f8"), ("of_row", "<i8")])


@dataclass(frozen=True, slots=True)
class JudgedRows:
    """Scores of n rows, and how they compare with their references.

    Attributes
    ----------
    scores : ndarray of float32, shape (n,)
    compared : Compared
    """

    scores: Singles
    compared: Compared


class KeptBlocks:
    """The blocks of rows that were judged, in a file which is removed at the end of the ``with`` block.

    It stays where that is cut off, and goes where the rows are refused. A file of another key is begun anew; nothing is
    kept while another process holds it, or if it is another user's. A block that is not whole, or damaged, is missing.

    Parameters
    ----------
    path : Path
    key : str
        SHA-256, in hex, of all that the judgements depend on.
    stays : bool
        Whether the file stays at the end all the same, for another pass.
    """

    def __init__(self, path: Path, key: str, *, stays: bool = False) -> None:
        self._path, self._key, self._stays = path, key.encode(), stays
        self._file: FileIO | None = None
        self._blocks: dict[tuple[int, int], int] = {}
        self._end = self.n_rows = 0

    def __enter__(self) -> Self:
        file = FileIO(self._path, "a+", opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW, 0o666))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return self
        if os.fstat(file.fileno()).st_uid != os.geteuid():
            file.close()
            return self
        self._file, self._end = file, self._survey(file)
        if not self._end:
            self._append(self._key)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        if isinstance(error, DataError | InputError) or (error is None and not self._stays):
            with suppress(OSError):
                self._path.unlink()
        self._file.close()

    def _survey(self, file: FileIO) -> int:
        """Take note of the whole blocks, and return where they end."""
        size = file.seek(0, 2)
        file.seek(0)
        if file.read(_KEY_BYTES) != self._key:
            return 0
        end = _KEY_BYTES
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            start, n_rows, *_ = _HEAD.unpack(head)
            after = end + _HEAD.size + n_rows * _ROW.itemsize
            if after > size:
                break
            self._blocks[start, n_rows] = end
            self.n_rows += n_rows
            end = file.seek(after)
        return end

    def _append(self, content: bytes) -> None:
        if self._file is not None:
            go_on_after(self._file, self._end, content)
            self._end += len(content)

    def get(self, start: int, n_rows: int) -> JudgedRows | None:
        """Return what a block was judged as; None if it is missing."""
        place = self._blocks.get((start, n_rows))
        if place is None or self._file is None:
            return None
        self._file.seek(place)
        *_, checksum, has_counted, has_of_row = _HEAD.unpack(self._file.read(_HEAD.size))
        content = self._file.read(n_rows * _ROW.itemsize)
        if crc32(content) != checksum:
            del self._blocks[start, n_rows]
            return None
        rows = np.frombuffer(content, dtype=_ROW)
        counted, of_row = (
            rows[name].copy() if there else None
            for name, there in zip(("counted", "of_row"), (has_counted, has_of_row), strict=True)
        )
        return JudgedRows(rows["score"].copy(), Compared(rows["p_value"].copy(), counted, of_row))

    def add(self, start: int, judged: JudgedRows) -> None:
        """Keep what a block was judged as, unless that was done before."""
        if (start, len(judged.scores)) in self._blocks:
            return
        compared = judged.compared
        rows = np.zeros(len(judged.scores), dtype=_ROW)
        rows["score"], rows["p_value"] = judged.scores, compared.p_values
        for name, values in (("counted", compared.counted), ("of_row", compared.of_row)):
            if values is not None:
                rows[name] = values
        content = rows.tobytes()
        there = compared.counted is not None, compared.of_row is not None
        self._append(_HEAD.pack(start, len(rows), crc32(content), *there) + content)
