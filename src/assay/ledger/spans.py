"""The windows of series that hold any step of a user's file of steps, or lie over a stretch of time that it names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from assay.arrays import Doubles, Flags, Texts
from assay.data.card import read_card
from assay.data.dataset import read_dataset
from assay.data.files import texts_of
from assay.data.series_files import elapsed_beside
from assay.data.windows import Windows
from assay.errors import DataError
from assay.ledger.ledger import CARRIED_ROWS, Ledger, quoted

STRETCH_COLUMNS = ("start", "end")


def stretch_columns(windows: Windows, header: list[str]) -> tuple[str, str] | None:
    """Return the columns of a file that tell when its steps, or its stretches of time, begin and end; None if none."""
    if windows.entity is not None and windows.entity not in header:
        return None
    if windows.time in header:
        return windows.time, windows.time
    return STRETCH_COLUMNS if set(STRETCH_COLUMNS) <= set(header) else None


def spans_of(ledger: Ledger, name: str) -> pd.DataFrame:
    """Return ``row_id``, ``entity``, ``start``, ``end`` and ``length`` of the windows of a dataset, now or in a run.

    Of windows that are not in ``data/`` now, series and start are those of their ids, `end` is "" and `length` the
    number of their steps.
    """
    folder = ledger.root / "data" / name
    windows = read_card(folder).windows
    if windows is None:
        raise DataError(f"{name} holds no windows of a file of steps")
    spans = read_dataset(folder).data.rows[["row_id", "entity", *STRETCH_COLUMNS]].assign(length=windows.length)
    present = {*spans["row_id"]}
    with ledger.connect() as connection:
        files = connection.execute("SELECT path, columns FROM files WHERE dataset = ?", [name]).fetchall()
        files = [file for file in files if not Path(file[0]).name.startswith(CARRIED_ROWS)]  # these have no ids
        lengths = [(path, len({column.rpartition("@")[2] for column in columns})) for path, columns in files if columns]
        for length in sorted({length for _, length in lengths}):
            paths = [quoted(ledger.root / path) for path, of_path in lengths if of_path == length]
            former = connection.execute(
                f"SELECT DISTINCT row_id FROM read_parquet([{', '.join(paths)}], union_by_name = true) "
                "WHERE row_id LIKE '% @ %' OR row_id LIKE 'at %' ORDER BY ALL"
            ).fetchall()
            # A window of another length may have begun where one of now begins.
            ids = [row_id for (row_id,) in former if length != windows.length or row_id not in present]
            parts = [i.rpartition(" @ ") if " @ " in i else ("", "", i.removeprefix("at ")) for i in ids]
            gone = {"row_id": ids, "entity": [part[0] for part in parts], "start": [part[2] for part in parts]}
            gone_spans = pd.DataFrame(gone, dtype="str").assign(end="", length=length)
            spans = pd.concat([spans, gone_spans], ignore_index=True)
    return spans


def spans_over(
    path: Path, frame: pd.DataFrame, windows: Windows, spans: pd.DataFrame, between: tuple[str, str]
) -> tuple[Texts, int]:
    """Return the ids of the windows that hold any of the rows of a file, and how many rows no window holds.

    A row is a step, or a stretch of time. A window whose `end` is not known is taken to last ``length - 1`` usual
    steps.

    Raises
    ------
    DataError
        A time or an entity is missing, or times are of another kind than those of the dataset.
    """
    begin, end = (texts_of(frame[column]).to_numpy(dtype=object) for column in between)
    whose = np.full(len(frame), "", dtype=object)
    if windows.entity is not None:
        whose = texts_of(frame[windows.entity]).to_numpy(dtype=object)
    for column, texts in (*zip(between, (begin, end), strict=True), (windows.entity or "", whose)):
        if column and (lacking := np.flatnonzero(texts == "")).size:
            raise DataError(f"row {lacking[0]} of {path.name} has nothing in column {column!r}; every row needs one")
    starts = spans["start"].to_numpy(dtype=object)
    is_open = (spans["end"] == "").to_numpy(dtype=bool)
    ends = np.where(is_open, starts, spans["end"].to_numpy(dtype=object))
    of_file, of_windows = elapsed_beside(path, np.r_[begin, end], np.r_[starts, ends])
    (first, last), (start, stop) = np.split(of_file, 2), np.split(of_windows, 2)
    if (reversed_rows := np.flatnonzero(last < first)).size:
        raise DataError(f"row {reversed_rows[0]} of {path.name} ends before it begins; correct it")
    stop = stop + is_open * (spans["length"].to_numpy(dtype=np.float64) - 1) * windows.step
    held, outside = np.zeros(len(spans), dtype=bool), 0
    of_entity = spans.groupby("entity", sort=False).indices
    for entity, rows in pd.Series(whose).groupby(whose, sort=False).indices.items():
        those = of_entity.get(entity, np.empty(0, dtype=np.intp))
        held[those] = _meet(start[those], stop[those], first[rows], last[rows])
        outside += int((~_meet(first[rows], last[rows], start[those], stop[those])).sum())
    return spans["row_id"][held].unique().astype(object), outside


def _meet(first: Doubles, last: Doubles, others_first: Doubles, others_last: Doubles) -> Flags:
    """Return which stretches of time meet any other one: as many begin before their end as end before their start."""
    begun = np.searchsorted(np.sort(others_first), last, side="right")
    ended = np.searchsorted(np.sort(others_last), first, side="left")
    return np.asarray(begun > ended)
