"""The scores that a service gave, for the monitors: a file that all workers of a machine append to, as rows come."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path
from typing import Self

import numpy as np

from assay.arrays import Singles
from assay.calibration.decisions import BATCHED
from assay.errors import DataError
from assay.scorer.scorer import Scorer

MONITORED = "ASSAY_MONITOR"
_ITEM = np.dtype("<f4")
_LOGGER = logging.getLogger(__name__)


class Spool:
    """Keeps the scores of every answer in a file, or nowhere.

    An answer never fails for want of it: if the file cannot be written, that is logged once, and the monitors miss
    these scores.

    Parameters
    ----------
    path : Path or None
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._failed = False

    @classmethod
    def of(cls, scorer: Scorer) -> Self:
        """Return that of a scorer: in the folder that the variable ASSAY_MONITOR names, if scores can be monitored."""
        folder = os.environ.get(MONITORED)
        return cls(spool_path(Path(folder), scorer.tag) if folder and scorer.calibrator.kind in BATCHED else None)

    def append(self, scores: Singles) -> None:
        """Append the scores of an answer, shape (n,)."""
        if self.path is None or not scores.size:
            return
        try:
            append_scores(self.path, scores)
        except OSError as error:
            if not self._failed:
                _LOGGER.error("%s: %s; the monitors miss the scores of this worker", self.path, error.strerror)
            self._failed = True


def monitored_folder(root: Path) -> Path:
    """Return where `assay serve` in a project keeps scores: ASSAY_MONITOR, or else a folder in ``.assay``."""
    return Path(os.environ.get(MONITORED) or root / ".assay" / "monitor").resolve()


def spool_path(folder: Path, tag: str) -> Path:
    """Return the file of a scorer's scores in a folder; its tag is ``name:version``."""
    return folder / f"{tag.replace(':', '-')}.scores"


def append_scores(path: Path, scores: Singles) -> None:
    """Append scores of shape (n,) as little-endian float32, all together, whatever other processes append.

    The file is locked while it is written. What a process appended before it was killed stays; the part of a score that
    a full disk or a crash of the machine left is removed first. Nothing is synced to disk: a crash of the machine may
    lose the last seconds.

    Raises
    ------
    OSError
        The file cannot be opened or written.
    """
    # A file of its own for every call: the lock then holds between the threads of a process as well.
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        if rest := os.fstat(file).st_size % _ITEM.itemsize:
            os.ftruncate(file, os.fstat(file).st_size - rest)
        left = memoryview(np.ascontiguousarray(scores, dtype=_ITEM).tobytes())
        while left:
            left = left[os.write(file, left) :]
    finally:
        os.close(file)


def read_spool(path: Path) -> Singles:
    """Return the whole scores in a file, in their order, float32 of shape (n,).

    Raises
    ------
    DataError
        There is no such file, or it holds NaN.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; a service that has answered /score writes this file") from error
    scores = np.frombuffer(content, dtype=_ITEM, count=len(content) // _ITEM.itemsize).astype(np.float32)
    if np.isnan(scores).any():
        raise DataError(f"{path} holds NaN at row {np.flatnonzero(np.isnan(scores))[0] + 1}; it is no file of scores")
    return scores
