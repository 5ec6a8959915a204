"""A user's series, in a CSV or Parquet file, as a dataset of windows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from assay.arrays import Doubles, Integers, Labels, Texts
from assay.console import say
from assay.data.archives import archive_arrays
from assay.data.blocks import read_frame
from assay.data.card import Card
from assay.data.columns import AS_THEY_ARE, Treatment, features_of, kind_of
from assay.data.dataset import ANOMALY, NORMAL, UNKNOWN, Dataset, RowSet
from assay.data.dialects import OBSERVED, Dialect
from assay.data.files import labels_of, printable, texts_of
from assay.data.mapped import flattened_rows, new_array, row_blocks
from assay.data.modalities.series import Series
from assay.data.times import sortable_times
from assay.data.windows import BLOCK_WINDOWS, Cut, Steps, Windows, cut, irregularities
from assay.errors import DataError
from assay.names import check_name

FEWEST_ENTITIES = 140  # so that about 20 fall to calibration, which eps .05 takes
CALIBRATING = 0.14  # of the blocks or groups
MOST_WINDOW_VALUES = 128 * 128


@dataclass(frozen=True, slots=True)
class SeriesColumns:
    """What the columns of a file of series are, and how windows are made of them; see `read_series`."""

    time: str
    window: int
    entity: str | None = None
    stride: int | None = None
    label: str | None = None
    group: str | None = None

    @property
    def special(self) -> list[str]:
        """The columns that are no channels."""
        columns = (self.time, self.entity, self.label, self.group)
        return [column for column in dict.fromkeys(columns) if column is not None]


def series_columns(series: Mapping[str, Any], text: str | None, special: Mapping[str, Any]) -> SeriesColumns:
    """Return what the columns of a file of series are; raise `DataError` for a missing option, or one of tables."""
    if series["series"] is None or series["window"] is None:
        given = next(option for option, value in series.items() if value is not None)
        raise DataError(f"--{given}: series need --series COLUMN, their column of times, and --window STEPS")
    for option, value in (("text", text), *((o, special.get(o)) for o in ("id_column", "time", "category"))):
        if value is not None:
            raise DataError(
                f"--{option.removesuffix('_column')} {value}: windows of series take --series, --entity, --label and "
                "--group; leave the option out"
            )
    return SeriesColumns(
        series["series"],
        series["window"],
        series["entity"],
        series["stride"],
        special.get("label"),
        special.get("group"),
    )


def read_series(
    path: Path,
    given: SeriesColumns,
    *,
    name: str,
    treatment: Treatment = AS_THEY_ARE,
    normal: str | None = None,
    anomaly: str | None = None,
    dialect: Dialect = OBSERVED,
) -> Dataset:
    """Read a table with a row for each step as a dataset with a row for each window; what is odd is printed.

    - Rows are brought into the order of their times, series by series. Columns that have no other purpose are the
      channels, all numbers.
    - Windows are those of `assay.data.windows.cut`: `window` steps long, `stride` apart, by default half a window.
    - A window is labelled as an anomaly if one of its steps is, else unknown if one is, else normal.
    - Roles are those of groups (`group`), which whole series belong to; without it, those of series where there are
      `FEWEST_ENTITIES` of them, else those of contiguous blocks of a series, with the length of a window between them.

    Returns
    -------
    Dataset
        ``row_id`` names series and time of the first step, ``group`` the group, series or block; ``entity``, ``start``
        and ``end`` (times as in the file) and ``anomalous_steps`` ("3-7;12", counted from 0) are columns of their own.

    Raises
    ------
    DataError
        The file, a column or a value cannot be used, two rows of a series have the same time, or there is no window.
    """
    if given.label is None and (normal, anomaly) != (None, None):
        raise DataError("the label of normal steps or of anomalies is given, but no column of labels (--label)")
    purposes = {"series": given.time, "entity": given.entity, "label": given.label}
    special = [column for column in purposes.values() if column is not None]
    if len(set(special)) < len(special):
        raise DataError(f"one column is named for two purposes in {purposes}; give each its own column")
    frame = read_frame(path, given.special, dialect=dialect)
    return series_dataset(path, frame, given, name=name, treatment=treatment, normal=normal, anomaly=anomaly)


def series_dataset(
    path: Path,
    frame: pd.DataFrame,
    given: SeriesColumns,
    *,
    name: str,
    treatment: Treatment = AS_THEY_ARE,
    normal: str | None = None,
    anomaly: str | None = None,
) -> Dataset:
    """Return the dataset of windows of a table of steps that was read from `path`; see `read_series`."""
    check_name(name, "the dataset's name")
    channels, left_out = _channels(path, frame, given.special, treatment)
    features = features_of(frame, channels).rows
    steps, names, times = steps_of(path, frame, given.time, given.entity, features)
    groups = None if given.group is None else groups_of(path, frame, given.group, steps)
    if groups is None and len(names) >= FEWEST_ENTITIES:
        groups = names
    windows = _plan(path, given, channels, steps, by_block=groups is None)
    made = cut(steps, windows, by_block=groups is None)
    report(path, steps, windows, made)
    labels = labels_of_steps(path, frame, given.label, normal, anomaly)
    rows = window_rows(made, windows, labels[steps.order], names[steps.entities], times[steps.order])
    rows["group"] = block_names(rows["entity"], made.blocks) if groups is None else groups[steps.entities[made.starts]]
    report_roles(path, windows, rows["group"])
    card = Card(
        name,
        Series((windows.length, len(channels))),
        windows.columns,
        path.name,
        label_column=given.label,
        group_column=given.group,
        left_out=left_out,
        normal_label=normal,
        anomaly_label=anomaly,
        windows=windows,
    )
    return Dataset(card, RowSet(flattened(features, steps, made.starts, windows.length), as_texts(rows)))


def read_windows(path: Path, *, name: str, normal: str | None = None, anomaly: str | None = None) -> Dataset:
    """Read an .npz file of windows as a dataset of series.

    Its arrays are ``windows`` (n, length, channels) of numbers, and maybe ``labels`` (n,), as in `read_series`, and
    ``groups`` (n,): without groups, windows get their roles one by one, as if none overlapped another one.

    Raises
    ------
    DataError
        An array is missing, or is not what it has to be.
    """
    check_name(name, "the dataset's name")
    arrays = archive_arrays(path, ("windows", "labels", "groups"))
    windows = arrays.get("windows")
    if windows is None or windows.ndim != 3 or windows.dtype.kind not in "fiu" or not windows.size:
        held = "none" if windows is None else f"one of {windows.dtype} and shape {windows.shape}"
        raise DataError(f"{path.name} needs numbers `windows` of shape (n, length, channels); it holds {held}")
    n, length, channels = windows.shape
    if length * channels > MOST_WINDOW_VALUES:
        raise DataError(
            f"the windows of {path.name} have {length * channels} values; {MOST_WINDOW_VALUES} are the most"
        )
    for kind in ("labels", "groups"):
        if kind in arrays and (arrays[kind].shape != (n,) or arrays[kind].dtype.kind not in "biufU"):
            raise DataError(f"{path.name}: `{kind}` must be {n} numbers or texts, one for each window")
    if "labels" not in arrays and (normal, anomaly) != (None, None):
        raise DataError(f"the label of normal windows or of anomalies is given, but {path.name} has no array `labels`")
    texts = {kind: texts_of(pd.Series(array)) for kind, array in arrays.items() if kind != "windows"}
    labels = labels_of(path, texts["labels"], normal, anomaly) if "labels" in texts else np.full(n, UNKNOWN, np.int8)
    groups = printable("group", texts["groups"]) if "groups" in texts else ""
    rows = pd.DataFrame({"row_id": [f"{name}-{i:07d}" for i in range(n)], "label": labels, "group": groups, "time": ""})
    width = len(str(length - 1))
    columns = tuple(f"{channel}@{step:0{width}d}" for step in range(length) for channel in range(channels))
    card = Card(name, Series((length, channels)), columns, path.name, normal_label=normal, anomaly_label=anomaly)
    return Dataset(card, RowSet(flattened_rows(windows), as_texts(rows)))


def as_texts(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a table of rows whose ids, groups and times are texts, also where all are the same."""
    return rows.astype({"row_id": "str", "group": "str", "time": "str"})


def labels_of_steps(
    path: Path, frame: pd.DataFrame, label: str | None, normal: str | None, anomaly: str | None
) -> Labels:
    """Return the label of each row of a file of steps; all are unknown where there is no column of labels."""
    if label is None:
        return np.full(len(frame), UNKNOWN, dtype=np.int8)
    return labels_of(path, texts_of(frame[label]), normal, anomaly)


def block_names(entities: pd.Series[Any], blocks: Integers) -> pd.Series[Any]:
    """Return the group of each window whose role is that of its block: series and number of the block."""
    return entities + " #" + pd.Series(blocks).astype("str")


def flattened(features: Doubles, steps: Steps, starts: Integers, length: int) -> Doubles:
    """Return the windows that begin at some steps, of shape (n, length * channels), of the rows of a file."""
    windows: Doubles = new_array((len(starts), length * features.shape[1]))
    for block in row_blocks(windows, features):
        rows = steps.order[starts[block, None] + np.arange(length)]
        windows[block] = features[rows].reshape(len(rows), -1)
    return windows


def steps_of(
    path: Path, frame: pd.DataFrame, time: str, entity: str | None, features: Doubles
) -> tuple[Steps, Texts, Texts]:
    """Return the steps of series in order, the names of the series, and the times as they are in the file.

    Raises
    ------
    DataError
        A time or an entity is missing, times are of two kinds, or two rows of a series have the same one.
    """
    texts = texts_of(frame[time]).to_numpy(dtype=object)
    if lacking := np.flatnonzero(texts == "").tolist():
        raise DataError(f"row {lacking[0]} of {path.name} has no time in column {time!r}; every step needs one")
    keys = sortable_times(texts)
    whose = np.full(len(frame), "", dtype=object)
    if entity is not None:
        whose = printable("entity", texts_of(frame[entity])).to_numpy(dtype=object)
        if lacking := np.flatnonzero(whose == "").tolist():
            raise DataError(f"row {lacking[0]} of {path.name} has nothing in column {entity!r}, which names its series")
    codes, names = pd.factorize(whose)
    ranks, _ = pd.factorize(keys, sort=True)
    order = np.lexsort((ranks, codes))
    usable = np.ones(len(order), dtype=np.bool_)
    for block in row_blocks(features):
        usable[block] = ~np.isnan(features[block]).any(axis=1)
    same = (np.diff(ranks[order]) == 0) & (np.diff(codes[order]) == 0)
    if same.any():
        row = int(order[1:][same][0])
        raise DataError(
            f"row {row} of {path.name} has the time {texts[row]!r} of another row of its series; a series has one row "
            "for each time: name the column that tells series apart with --entity, remove one of the rows, or, where "
            "clocks went back, give times with their offset from UTC"
        )
    return (
        Steps(order, codes[order], elapsed(texts, keys)[order], usable[order]),
        np.asarray(names, dtype=object),
        texts,
    )


def elapsed(texts: Texts, keys: Texts) -> Doubles:
    """Return times since the first, with what `sortable_times` makes of them; timestamps in seconds."""
    if not str(keys[0]).endswith("Z"):
        first = min(map(Decimal, texts))  # of nanoseconds since 1970 a float64 keeps every 256th alone
        return np.fromiter((float(Decimal(text) - first) for text in texts), np.float64, len(texts))
    stamps = np.array([key[:-1] for key in keys], dtype="datetime64[ns]").astype(np.int64)
    return np.asarray((stamps - stamps.min()) / 1e9, dtype=np.float64)


def elapsed_beside(path: Path, texts: Texts, others: Texts) -> tuple[Doubles, Doubles]:
    """Return times of a file, and those of a dataset, since the first of all; raise `DataError` for two kinds."""
    keys, keys_of_others = sortable_times(texts), sortable_times(others)
    if str(keys[0]).endswith("Z") != str(keys_of_others[0]).endswith("Z"):
        raise DataError(
            f"{path.name} has the time {texts[0]!r}, and the dataset {others[0]!r}; give all as timestamps, or all as "
            "numbers"
        )
    times = elapsed(np.r_[texts, others], np.r_[keys, keys_of_others])
    return times[: len(texts)], times[len(texts) :]


def _channels(
    path: Path, frame: pd.DataFrame, special: Sequence[str], treatment: Treatment
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns that are channels, and those that are left out."""
    if treatment.categorical or treatment.impute or treatment.refuse:
        raise DataError("--series takes channels of numbers as they are; of the options for columns, give --leave-out")
    columns = [str(column) for column in frame.columns if column not in special]
    treatment.check(path.name, columns)
    kinds = {column: kind_of(column, frame[column]) for column in columns if column not in treatment.leave_out}
    for column, kind in kinds.items():
        if kind not in ("number", "empty"):
            raise DataError(
                f"column {column!r} of {path.name} holds {'dates' if kind == 'date' else 'texts'}, and channels of "
                f"series are numbers; leave it out: --leave-out {column!r}"
            )
    channels = tuple(column for column, kind in kinds.items() if kind == "number")
    if not channels:
        raise DataError(f"{path.name} has no channel, only {list(special)}")
    return channels, tuple(column for column in columns if column not in channels)


def groups_of(path: Path, frame: pd.DataFrame, group: str, steps: Steps) -> Texts:
    """Return the group of each series."""
    texts = printable("group", texts_of(frame[group])).to_numpy(dtype=object)[steps.order]
    firsts = np.flatnonzero(np.r_[True, np.diff(steps.entities) != 0])
    groups = texts[firsts]
    if wrong := np.flatnonzero((groups[steps.entities] != texts) | (texts == "")).tolist():
        row = int(steps.order[wrong[0]])
        raise DataError(
            f"row {row} of {path.name} has the group {texts[wrong[0]]!r}, and its series begins with "
            f"{groups[steps.entities[wrong[0]]]!r}; all steps of a series need one group: leave --group out, or name "
            "the column that tells series apart with --entity"
        )
    return groups


def _plan(path: Path, given: SeriesColumns, channels: tuple[str, ...], steps: Steps, *, by_block: bool) -> Windows:
    stride = given.stride or max(1, given.window // 2)
    if stride > given.window:
        raise DataError(f"--stride {stride} is more than --window {given.window}, so that steps would lie in no window")
    if given.window * len(channels) > MOST_WINDOW_VALUES:
        raise DataError(
            f"windows of {given.window} steps of the {len(channels)} channels of {path.name} have "
            f"{given.window * len(channels)} values, and {MOST_WINDOW_VALUES} are the most that a row may have; give a "
            "smaller --window, or --leave-out channels"
        )
    return Windows(
        time=given.time,
        entity=given.entity,
        channels=channels,
        length=given.window,
        stride=stride,
        step=steps.usual_step(),
        roles_by="block" if by_block else "group",
    )


def report(path: Path, steps: Steps, windows: Windows, made: Cut) -> None:
    """Print what is odd about series; raise `DataError` if there is no window."""
    for sentence in irregularities(steps, windows.step):
        say(f"{path.name}: {sentence}")
    if made.n_broken:
        say(f"{path.name}: {made.n_broken} windows with a gap or a missing value in them are not made")
    if not len(made.starts):
        raise DataError(
            f"{path.name} has no {windows.length} steps in a row without a gap or a missing value; give a smaller "
            "--window"
        )


def report_roles(path: Path, windows: Windows, groups: pd.Series, before: Collection[str] = ()) -> None:
    """Print how windows get their roles, by their groups and those of the windows that they join."""
    n_groups = len({*groups, *before})
    units, more = "groups", "give more groups"
    by = f"{n_groups} groups"
    if windows.roles_by == "block":
        units, more = "blocks", "give longer series, or a smaller --window"
        by = f"{n_groups} blocks of {BLOCK_WINDOWS * windows.length} steps, with {windows.length} between two that are "
        by += "not used"
    calibrating = round(CALIBRATING * n_groups)
    by += f"{', those before included' * bool(before)}; some {calibrating} calibrate, by which nothing is flagged "
    by += f"below eps {1 / (calibrating + 1):.2g}"
    if n_groups < FEWEST_ENTITIES:
        by += f" (0.05 takes some {FEWEST_ENTITIES} {units}: {more})"
    say(f"{path.name}: {len(groups)} windows of {windows.length} steps; roles are given by {by}")


def window_rows(made: Cut, windows: Windows, labels: Labels, entities: Texts, times: Texts) -> pd.DataFrame:
    """Return the table of windows; labels, entities and times are those of steps."""
    ends, anomalous = made.starts + windows.length, labels == ANOMALY
    sums = (np.r_[0, np.cumsum(marks)] for marks in (anomalous, labels == UNKNOWN))
    has_anomaly, has_unknown = (each[ends] > each[made.starts] for each in sums)
    of_window = np.where(has_anomaly, ANOMALY, np.where(has_unknown, UNKNOWN, NORMAL))
    spans = zip(made.starts, ends, has_anomaly, strict=True)
    starts = times[made.starts]
    named = entities[made.starts]
    content: dict[str, Any] = {
        "row_id": [
            f"{entity} @ {time}" if entity else f"at {time}"  # a time alone spreadsheet programs write in their own way
            for entity, time in zip(named, starts, strict=True)
        ],
        "label": of_window.astype(np.int8),
        "group": "",
        "time": "",
        "entity": named,
        "start": starts,
        "end": times[ends - 1],
        "anomalous_steps": [_ranges(anomalous[first:end]) if has_any else "" for first, end, has_any in spans],
    }
    return pd.DataFrame(content)


def _ranges(marks: Any) -> str:
    """Return the places of True as text, "3-7;12", counted from 0."""
    edges = np.flatnonzero(np.diff(np.r_[False, marks, False]))
    pairs = zip(edges[::2], edges[1::2] - 1, strict=True)
    return ";".join(f"{first}" if first == last else f"{first}-{last}" for first, last in pairs)
