"""More steps of series that are in a dataset already, or of new series, as windows that join it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from assay.arrays import Doubles, Flags, Texts
from assay.console import say
from assay.data.blocks import read_frame
from assay.data.columns import features_of
from assay.data.dataset import Dataset, RowSet
from assay.data.dialects import OBSERVED, Dialect
from assay.data.series_files import (
    as_texts,
    block_names,
    elapsed_beside,
    flattened,
    groups_of,
    labels_of_steps,
    report,
    report_roles,
    steps_of,
    window_rows,
)
from assay.data.windows import UNEVEN, Steps, Windows, cut, unlike
from assay.errors import DataError


def read_more_steps(
    path: Path,
    dataset: Dataset,
    *,
    label: str | None = None,
    group: str | None = None,
    normal: str | None = None,
    anomaly: str | None = None,
    dialect: Dialect = OBSERVED,
) -> Dataset:
    """Read a file of steps as windows that join a dataset of windows; what is odd is printed.

    Steps of a series that the dataset has must be later than its last window. Where roles are those of blocks, they
    begin a block of their own, numbered on, at least the length of one window behind that window: which steps lie
    between two windows is not kept, so that a block which was begun is not continued. So no step is in windows of two
    roles, and rows that the dataset has keep theirs. Windows that would begin before the file are not made.

    Parameters
    ----------
    path : Path
        See `assay.data.blocks.read_frame`.
    dataset : Dataset
        Made by `assay.data.series_files.read_series`, perhaps grown since.
    label, group, normal, anomaly : str, optional
        As for `read_series`.

    Raises
    ------
    DataError
        The file cannot be used, its columns are others, its steps are spaced otherwise, a step is not later than the
        windows of its series, a series has another group than before, or there is no window.
    """
    windows = dataset.card.windows
    if windows is None:
        raise DataError(f"{dataset.card.name} holds no windows of a file of steps")
    special = [name for name in dict.fromkeys((windows.time, windows.entity, label, group)) if name is not None]
    frame = read_frame(path, special, numbers=windows.channels, dialect=dialect)
    expected = {*windows.channels, *special, *dataset.card.left_out}
    odd = [name for name in map(str, frame.columns) if name not in expected]
    if odd := [*odd, *(name for name in windows.channels if name not in frame.columns)]:
        raise DataError(f"{path.name} has other channels than {dataset.card.name}: {odd[0]!r} is only in one of them")
    features = features_of(frame, windows.channels).rows
    steps, names, times = steps_of(path, frame, windows.time, windows.entity, features)
    since = _since_the_last_window(path, dataset, names[steps.entities], times[steps.order])
    if how := unlike(steps, windows):
        raise DataError(f"the usual step of {path.name} {how}; bring the file to that step, or make it a dataset")
    by_block = windows.roles_by == "block"
    if by_block:
        steps = _behind(path, steps, since, windows)
    made = cut(steps, windows, by_block=by_block)
    report(path, steps, windows, made)
    labels = labels_of_steps(path, frame, label, normal, anomaly)
    rows = window_rows(made, windows, labels[steps.order], names[steps.entities], times[steps.order])
    before = dataset.data.rows
    if by_block:
        numbers = before["group"].str.rpartition("#")[2].astype("int64").groupby(before["entity"]).max() + 1
        rows["group"] = block_names(rows["entity"], made.blocks + rows["entity"].map(numbers).fillna(0).astype("int64"))
    else:
        groups = names if group is None else groups_of(path, frame, group, steps)
        rows["group"] = groups[steps.entities[made.starts]]
        _require_same_groups(path, before, rows)
    report_roles(path, windows, rows["group"], {*before["group"]})
    card = replace(dataset.card, source=path.name, batches=())
    return Dataset(card, RowSet(flattened(features, steps, made.starts, windows.length), as_texts(rows)))


def _since_the_last_window(path: Path, dataset: Dataset, entities: Texts, times: Texts) -> Doubles:
    """Return the time of each step since the end of the last window of its series, infinite where there is none."""
    before = dataset.data.rows
    passed, ends = elapsed_beside(path, times, before["end"].to_numpy(dtype=object))
    last = pd.Series(ends).groupby(before["entity"].to_numpy(dtype=object)).max()
    if unseen := sorted({*entities} - {*last.index}):
        named = f"{', '.join(map(repr, unseen[:5]))}{', ...' * (len(unseen) > 5)}"
        say(f"{path.name}: {len(unseen)} of its series are new, with no window in {dataset.card.name}: {named}")
    since: Doubles = passed - pd.Series(entities).map(last).fillna(-np.inf).to_numpy(dtype=np.float64)
    if (late := np.flatnonzero(since <= 0)).size:
        step = int(late[0])
        whose = f" {entities[step]!r}" if entities[step] else ""
        raise DataError(
            f"{path.name} has the time {times[step]!r}, and dataset {dataset.card.name} has windows of the series"
            f"{whose} that end later ({len(late)} such steps); leave out steps that were brought in before, or bring "
            "the whole file in again without --append"
        )
    return since


def _behind(path: Path, steps: Steps, since: Doubles, windows: Windows) -> Steps:
    """Return the steps that lie the length of a window behind the last window of their series, in steps or in time."""
    firsts = np.flatnonzero(np.r_[True, np.diff(steps.entities) != 0])
    place = np.arange(len(since)) - np.repeat(firsts, np.diff(np.r_[firsts, len(since)]))
    far: Flags = (place >= windows.length) | (since > windows.length * windows.step * (1 + UNEVEN))
    if not far.any():
        raise DataError(
            f"{path.name} has no step more than {windows.length} steps behind the last window of its series, where the "
            "next block begins; bring in more steps at once"
        )
    return Steps(steps.order[far], steps.entities[far], steps.times[far], steps.usable[far])


def _require_same_groups(path: Path, before: pd.DataFrame, rows: pd.DataFrame) -> None:
    groups = before.drop_duplicates("entity").set_index("entity")["group"]
    former = rows["entity"].map(groups)
    if (moved := np.flatnonzero(former.notna() & (former != rows["group"]))).size:
        row = rows.iloc[int(moved[0])]
        raise DataError(
            f"{path.name} has the series {row['entity']!r} in the group {row['group']!r}, and it is in "
            f"{former.iloc[int(moved[0])]!r} in the dataset; a series keeps its group"
        )
