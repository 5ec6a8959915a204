"""Reading rows by what they are for: a level's training rows, presumed normals, evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.data.dataset import ANOMALY, NORMAL, UNKNOWN, RowSet, fingerprints, read_rows

Labels = NDArray[np.int8]
HELD_OUT = "held_out"
LABELLED = "labelled"


def level_name(rho: float) -> str:
    """Folder name of a contamination level."""
    return f"level-{rho:g}"


def rho_of(level: str) -> float:
    """Contamination of the level whose folder is named `level`."""
    return float(level.removeprefix("level-"))


def levels_of(folder: Path) -> list[str]:
    """Names of the level folders in a stage's folder, by increasing rho."""
    found = [path.name for path in folder.iterdir() if path.is_dir() and path.name.startswith("level-")]
    return sorted(found, key=rho_of)


def level_rows(train: Path, contaminated: Path, level: str) -> RowSet:
    """Training rows of a level: the train role, then the rows that the level injects.

    The rows gain a column ``injected``, 1 for those.
    """
    import pandas as pd

    clean, injected = read_rows(train), read_rows(contaminated / level)
    rows = pd.concat([clean.rows.assign(injected=0), injected.rows.assign(injected=1)], ignore_index=True)
    return RowSet(np.concatenate([clean.features, injected.features]), rows)


def training_rows(train: Path, contaminated: Path, level: str, *, labelled: bool) -> tuple[RowSet, Labels]:
    """Rows of a level as a detector gets them, and what it may know of their labels, int8 of shape (n,).

    Injected rows are unknown (-1), like every row of train: nobody has verified those. Only where a dataset itself
    tells verified normals (0) from unknown rows (-1), the former stay 0. With `labelled`, the anomalies set
    aside for the detectors that learn from them follow, labelled 1.
    """
    rows = level_rows(train, contaminated, level)
    injected = rows.rows["injected"].to_numpy() == 1
    verified = (rows.labels == NORMAL) & ~injected
    known = verified if (rows.labels[~injected] == UNKNOWN).any() else np.zeros_like(verified)
    labels = np.where(known, NORMAL, UNKNOWN).astype(np.int8)
    folder = contaminated / LABELLED
    if not labelled or not folder.is_dir():
        return rows, labels
    import pandas as pd

    extra = read_rows(folder)
    table = pd.concat([rows.rows, extra.rows.assign(injected=0)], ignore_index=True)
    both = RowSet(np.concatenate([rows.features, extra.features]), table)
    return both, np.concatenate([labels, np.ones(len(extra), dtype=np.int8)])


def presumed_normals(data: RowSet) -> RowSet:
    """Return the rows that are not labelled as anomalies."""
    return data.take(data.labels != ANOMALY)


def evidence_rows(folder: Path) -> tuple[RowSet, RowSet, str]:
    """Return normals, anomalies and the kind of evidence of the selection or test rows.

    "labels": labelled normals and labelled anomalies. "anomalies": no row is labelled normal, so that all
    others are presumed to be, against the labelled anomalies. "probes": presumed normals, and probes.
    """
    data = read_rows(folder)
    if (folder / "probes").is_dir():
        return presumed_normals(data), read_rows(folder / "probes"), "probes"
    known = data.labels == NORMAL
    anomalies = data.take(data.labels == ANOMALY)
    return (data.take(known), anomalies, "labels") if known.any() else (presumed_normals(data), anomalies, "anomalies")


def packed_fingerprints(data: RowSet, columns: tuple[str, ...]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Fingerprints as bytes, uint8 of shape (n, 16), sorted."""
    found = sorted(bytes.fromhex(str(text)) for text in fingerprints(data.features, columns))
    return np.frombuffer(b"".join(found), dtype=np.uint8).reshape(len(found), 16)
