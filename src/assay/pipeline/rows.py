"""Reading rows by their purpose: training rows of a level, presumed normals, evidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from assay.arrays import Flags, Labels, Texts
from assay.data.dataset import ANOMALY, NORMAL, UNKNOWN, RowSet, read_rows, row_keys

HELD_OUT_PART = "held_out"
RATIO_PART = "ratio"
LABELLED = "labelled"
FAILURES = "failures.json"


def level_name(rho: float) -> str:
    """Return the folder name of a contamination level."""
    return f"level-{rho:g}"


def rho_of(level: str) -> float:
    """Return the contamination of the level with the folder name `level`."""
    return float(level.removeprefix("level-"))


def levels_of(folder: Path) -> list[str]:
    """Return the names of the level folders in a stage's folder, by increasing rho."""
    names = [path.name for path in folder.iterdir() if path.is_dir() and path.name.startswith("level-")]
    return sorted(names, key=rho_of)


def level_rows(train: Path, contaminated: Path, level: str) -> RowSet:
    """Return the training rows of a level: the train role, then the injected rows.

    An added column ``injected`` is 1 for injected rows, else 0.
    """
    parts = [(read_rows(train), 0), (read_rows(contaminated / level), 1)]
    clean, injected = (RowSet(part.features, part.rows.assign(injected=mark)) for part, mark in parts)
    return joined(clean, injected)


def training_rows(train: Path, contaminated: Path, level: str, *, labelled: bool) -> tuple[RowSet, Labels]:
    """Return the training rows of a level and the labels that a detector may use, int8 of shape (n,).

    Injected rows and, in general, all rows of train are unknown (-1), since nobody has verified them. Only if the
    dataset itself distinguishes verified normals (0) from unknown rows (-1) do the former stay 0. With `labelled`, the
    anomalies set aside for detectors that learn from labels follow, with label 1.
    """
    rows = level_rows(train, contaminated, level)
    injected = rows.rows["injected"].to_numpy() == 1
    verified = (rows.labels == NORMAL) & ~injected
    trusted = verified if (rows.labels[~injected] == UNKNOWN).any() else np.zeros_like(verified)
    labels = np.where(trusted, NORMAL, UNKNOWN).astype(np.int8)
    folder = contaminated / LABELLED
    if not labelled or not folder.is_dir():
        return rows, labels
    extra = read_rows(folder)
    all_rows = joined(rows, RowSet(extra.features, extra.rows.assign(injected=0)))
    return all_rows, np.concatenate([labels, np.ones(len(extra), dtype=np.int8)])


def joined(first: RowSet, second: RowSet) -> RowSet:
    """Return the rows of both, in this order."""
    import pandas as pd

    table = pd.concat([first.rows, second.rows], ignore_index=True)
    return RowSet(np.concatenate([first.features, second.features]), table)


def units(data: RowSet) -> Texts:
    """Return each row's group; a row without one is a group by itself, as in the split."""
    group = data.rows["group"].to_numpy(dtype=object)
    return np.where(group == "", "row:" + row_keys(data.rows), "group:" + group)


def presumed_normals(data: RowSet) -> RowSet:
    """Return the rows not labelled as anomalies."""
    return data.take(data.labels != ANOMALY)


def marked(data: RowSet, name: str) -> Flags:
    """Return which rows have a 1 in a column that split adds; none where there is no such column, as for probes."""
    none = np.zeros(len(data), dtype=np.bool_)
    return data.rows[name].to_numpy() == 1 if name in data.rows else none


def evidence_rows(folder: Path) -> tuple[RowSet, RowSet, str]:
    """Return the normals, the anomalies and the kind of evidence of the selection or test rows.

    - "labels": labelled normals and labelled anomalies.
    - "anomalies": labelled anomalies; no row is labelled normal, so all other rows are presumed normal.
    - "probes": presumed normals, and probes instead of anomalies.
    """
    data = read_rows(folder)
    if (folder / "probes").is_dir():
        return presumed_normals(data), read_rows(folder / "probes"), "probes"
    normal = data.labels == NORMAL
    anomalies = data.take(data.labels == ANOMALY)
    return (
        (data.take(normal), anomalies, "labels") if normal.any() else (presumed_normals(data), anomalies, "anomalies")
    )
