"""Telemetry in the layout of SMAP and MSL: arrays of steps in folders, and a table of the anomalies in them."""

from __future__ import annotations

import json
from operator import index
from pathlib import Path

import numpy as np
import pandas as pd

from assay.arrays import Doubles
from assay.console import say
from assay.data.dataset import ANOMALY, NORMAL, UNKNOWN, Dataset
from assay.data.npy import DAMAGED_ARRAYS
from assay.data.series_files import SeriesColumns, series_dataset
from assay.errors import DataError

LIST = "labeled_anomalies.csv"
LISTED_COLUMNS = ("chan_id", "anomaly_sequences")


def holds_telemetry(path: Path) -> bool:
    """Return whether a path is a folder in the layout that `read_telemetry` reads."""
    return path.is_dir() and (path / LIST).is_file()


def read_telemetry(path: Path, *, name: str, window: int, stride: int | None = None) -> Dataset:
    """Read the telemetry of a spacecraft as a dataset of windows of series.

    ``labeled_anomalies.csv`` lists channels (``chan_id``) and the first and last anomalous steps of their tests
    (``anomaly_sequences``, as "[[10, 20], [50, 51]]"). ``train/ID.npy`` and ``test/ID.npy`` hold the steps (n, d) of
    each channel that is listed (Hundman et al. 2018, "Detecting spacecraft anomalies using LSTMs and nonparametric
    dynamic thresholding"). Each file becomes a series, "ID/train" or "ID/test", with its steps, counted from 0, as
    times. Steps of training files are unlabelled: nobody has looked for anomalies in them.

    Raises
    ------
    DataError
        The list or an array cannot be used, files have different numbers of columns, or there is no window.
    """
    anomalies = _listed(path / LIST)
    frames, widths = [], {}
    for channel, spans in anomalies.items():
        for part in ("train", "test"):
            steps = _steps(path / part / f"{channel}.npy")
            widths[f"{channel}/{part}"] = steps.shape[1]
            labels = np.full(len(steps), UNKNOWN if part == "train" else NORMAL)
            for first, last in spans if part == "test" else ():
                if not 0 <= first <= last < len(steps):
                    raise DataError(
                        f"{LIST} has anomalous steps {first} to {last} of {channel}, and test/{channel}.npy has steps "
                        f"0 to {len(steps) - 1}; correct the list"
                    )
                labels[first : last + 1] = ANOMALY
            frame = pd.DataFrame(steps, columns=[str(column) for column in range(steps.shape[1])])
            frames.append(frame.assign(series=f"{channel}/{part}", step=np.arange(len(steps)), label=labels))
    if len({*widths.values()}) > 1:
        one, width = next(iter(widths.items()))
        other, another = next(item for item in widths.items() if item[1] != width)
        raise DataError(
            f"{one} has {width} columns and {other} {another}, and windows of a dataset have the same channels; keep "
            f"the rows of one spacecraft in {LIST}: files that it does not list are not read"
        )
    left = sum(file.stem not in anomalies for part in ("train", "test") for file in (path / part).glob("*.npy"))
    if left:
        say(f"{path.name}: {left} files that {LIST} does not list are left out")
    given = SeriesColumns("step", window, "series", stride, label="label")
    return series_dataset(path, pd.concat(frames, ignore_index=True), given, name=name)


def _listed(path: Path) -> dict[str, list[tuple[int, int]]]:
    """Return the anomalous stretches of each channel; those of several rows about it together."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name} is no table that can be read: {error}; it is written as CSV, in UTF-8") from error
    if missing := [column for column in LISTED_COLUMNS if column not in table.columns]:
        raise DataError(f"{path.name} has no column {missing[0]!r}; it needs {' and '.join(LISTED_COLUMNS)}")
    anomalies: dict[str, list[tuple[int, int]]] = {}
    for row, (channel, text) in enumerate(zip(table["chan_id"], table["anomaly_sequences"], strict=True)):
        try:
            spans = [(index(first), index(last)) for first, last in json.loads(text)]
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(
                f"row {row} of {path.name} has the anomalous steps {text[:40]!r}; they are whole numbers, written as "
                "[[10, 20], [50, 51]]"
            ) from error
        if not channel or Path(channel).name != channel:
            raise DataError(f"row {row} of {path.name} has the channel {channel!r}, which is no name of a file")
        anomalies.setdefault(channel, []).extend(spans)
    if not anomalies:
        raise DataError(f"{path.name} lists no channel")
    return anomalies


def _steps(path: Path) -> Doubles:
    where = f"{path.parent.name}/{path.name}"
    try:
        steps = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{where} is missing, and {LIST} lists it; bring it, or take its row out") from None
    except DAMAGED_ARRAYS as error:
        raise DataError(f"{where} is no array that can be read safely: {error}") from error
    if not isinstance(steps, np.ndarray):
        raise DataError(f"{where} is an archive of arrays; it must hold one, of numbers (steps, columns)")
    if steps.ndim != 2 or steps.dtype.kind not in "fiu" or not steps.size:
        raise DataError(f"{where} holds {steps.dtype} of shape {steps.shape}; it must hold numbers (steps, columns)")
    return np.asarray(steps, dtype=np.float64)
