"""The rows that a service scored, kept for later batches of data: all of them, or a random sample, never by score."""

from __future__ import annotations

import csv
import fcntl
import io
import logging
import threading
import uuid
from datetime import UTC, datetime
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from assay.data.dialects import MISSING
from assay.parts import go_on_after
from assay.scorer.features import as_rows, names_of
from assay.scorer.scorer import Scorer
from assay.service.requests import Question

_SEED = 0
_BLOCK = 2**12
_LOGGER = logging.getLogger(__name__)
Extra = tuple[tuple[str, str], ...]  # pairs of a role, "id", "label", "group" or "time", and the name of its column


class Recorder:
    """Appends scored rows to ``folder/NAME-VERSION.csv``, with the columns that the dataset's files have.

    `assay ingest --append` takes the file as it is: ids are those of the requests, or made up where these
    give none or a word for missing ones; labels and groups are
    empty, times those of the answers. Which rows are kept is drawn by a seed and their order alone. An answer never
    fails for want of the file: that is logged once.

    Parameters
    ----------
    folder : Path
    share : float
        Of the rows that are kept, above 0 and up to 1.
    extra : tuple of (str, str)
        The columns of the dataset's files that are no features, each after what it is.
    """

    def __init__(self, folder: Path, share: float, extra: Extra) -> None:
        self.folder, self.share, self.extra = folder, share, extra
        self._draws = np.random.default_rng(_SEED)
        self._lock = threading.Lock()
        self._failed = False

    def keep(self, scorer: Scorer, question: Question) -> None:
        """Keep the rows of a request, or some of them."""
        with self._lock:
            kept = (self._draws.random(len(question.rows)) < self.share).tolist()
            if not any(kept):
                return
            rows = list(compress(_values(scorer, question), kept))
            given = [
                text if text and text.strip() not in MISSING else f"served-{uuid.uuid4().hex[:12]}-{i}"
                for i, text in enumerate(question.ids or [""] * len(kept))
            ]
            filled = {"id": list(compress(given, kept)), "time": [datetime.now(UTC).isoformat()] * len(rows)}
            columns = [filled.get(role, [""] * len(rows)) for role, _ in self.extra]
            lines = [[*row, *(column[i] for column in columns)] for i, row in enumerate(rows)]
            try:
                self._append(scorer, lines)
            except OSError as error:
                if not self._failed:
                    _LOGGER.error("%s: %s; rows are not recorded", self.folder, error.strerror)
                self._failed = True

    def _append(self, scorer: Scorer, lines: list[list[Any]]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{scorer.name}-{scorer.version}.csv").open("a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not (size := _whole(file)):
                writer.writerow([*_columns(scorer), *(name for _, name in self.extra)])
            writer.writerows(lines)
            go_on_after(file, size, text.getvalue().encode())


def _whole(file: io.FileIO) -> int:
    """Return how long a file is without part of a line, which a crash may have left at its end."""
    end = file.seek(0, io.SEEK_END)
    while end:
        start = max(0, end - _BLOCK)
        file.seek(start)
        if (line_end := file.read(end - start).rfind(b"\n")) >= 0:
            return start + line_end + 1
        end = start
    return end


def _columns(scorer: Scorer) -> list[str]:
    return [*scorer.columns, *([] if scorer.category_column is None else [scorer.category_column])]


def _values(scorer: Scorer, question: Question) -> list[list[Any]]:
    """Return the values of rows in the order of `_columns`; "" where one is missing."""
    rows = as_rows(question.rows)
    if names_of(rows):
        rows = rows.loc[:, _columns(scorer)].to_numpy(dtype=object, na_value=None)
    values = [["" if value is None or value != value else value for value in row] for row in rows.tolist()]
    if question.categories is None:
        return values
    return [[*row, category] for row, category in zip(values, question.categories, strict=True)]
