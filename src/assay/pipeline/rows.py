"""Reading rows by their purpose: training rows of a level, presumed normals, evidence."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from assay.arrays import Flags, Integers, Labels, Texts
from assay.data.answers import ANSWERED
from assay.data.dataset import ANOMALY, NORMAL, UNKNOWN, RowSet, key_hashes, read_rows, row_keys
from assay.data.mapped import new_array, row_blocks
from assay.hashing import uniform_hashes

HELD_OUT_PART = "held_out"
RATIO_PART = "ratio"
LABELLED = "labelled"
FAILURES = "failures.json"
HELD = "held.json"
MOST_TRAINED = 50_000
MOST_ADAPT = MOST_CALIBRATION = MOST_JUDGED = 20_000
FEWEST_A_CATEGORY = 500


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


def sampled_level_rows(train: Path, contaminated: Path, level: str, *, seed: int) -> tuple[RowSet, int]:
    """Return `level_rows`, held to `MOST_TRAINED` of them (see `held_to`), and how many there are.

    An added column ``verified`` is 1 for the rows that `verified` names, else 0.
    """
    paths = [train / name for name in ("features.npy", "rows.csv")]
    clean, n_clean = _sampled(train, seed, tuple((path.stat().st_size, path.stat().st_mtime_ns) for path in paths))
    injected = read_rows(contaminated / level)
    n = n_clean + len(injected)
    injected = RowSet(injected.features, injected.rows.assign(injected=1, verified=0))
    return held_to(joined(clean, injected), MOST_TRAINED, seed=seed), n


@lru_cache(maxsize=1)
def _sampled(train: Path, seed: int, stamp: object) -> tuple[RowSet, int]:
    """Return the rows of train that may be in the sample of a level, and how many rows there are.

    Where each row is a unit, no row is in the sample of a level that is not in that of train: more rows only take
    places. Where rows form groups, all of them may be. Every level of every cell begins with these rows.
    """
    clean = read_rows(train)
    clean = RowSet(clean.features, clean.rows.assign(injected=0, verified=verified(clean).astype(np.int8)))
    in_groups = (clean.rows["group"] != "").any()
    return clean if in_groups else held_to(clean, MOST_TRAINED, seed=seed), len(clean)


def training_rows(rows: RowSet, contaminated: Path, *, labelled: bool) -> tuple[RowSet, Labels]:
    """Return the training rows of a level (`level_rows`), and the labels that a detector may use, int8 of shape (n,).

    Injected rows and, in general, all rows of train are unknown (-1), since nobody has verified them. Only those that
    `verified` names are 0. With `labelled`, the anomalies set aside for detectors that learn from labels follow, with
    label 1.
    """
    trusted = rows.rows["verified"].to_numpy() == 1 if "verified" in rows.rows else verified(rows)
    labels = np.where(trusted & (rows.rows["injected"].to_numpy() == 0), NORMAL, UNKNOWN).astype(np.int8)
    folder = contaminated / LABELLED
    if not labelled or not folder.is_dir():
        return rows, labels
    extra = read_rows(folder)
    all_rows = joined(rows, RowSet(extra.features, extra.rows.assign(injected=0)))
    return all_rows, np.concatenate([labels, np.ones(len(extra), dtype=np.int8)])


def verified(rows: RowSet) -> Flags:
    """Return which training rows somebody has found normal, shape (n,).

    These are the rows that were answered good, and, if the dataset itself distinguishes normal (0) from unknown rows
    (-1), the former.
    """
    injected = rows.rows["injected"].to_numpy() == 1 if "injected" in rows.rows else np.zeros(len(rows), dtype=np.bool_)
    distinguished = (rows.labels[~injected] == UNKNOWN).any()
    return np.asarray(((rows.labels == NORMAL) & ~injected & distinguished) | marked(rows, ANSWERED))


def joined(first: RowSet, second: RowSet) -> RowSet:
    """Return the rows of both, in this order."""
    import pandas as pd

    table = pd.concat([first.rows, second.rows], ignore_index=True)
    if not len(second):
        return RowSet(first.features, table)
    features = new_array((len(table), first.features.shape[1]))
    for part, start in ((first.features, 0), (second.features, len(first))):
        for block in row_blocks(part, features):
            features[start + block.start : start + block.stop] = part[block]
    return RowSet(features, table)


def units(data: RowSet) -> Texts:
    """Return each row's group; a row without one is a group by itself, as in the split."""
    group = data.rows["group"].to_numpy(dtype=object)
    return np.where(group == "", "row:" + row_keys(data.rows), "group:" + group)


def swap_units(normals: RowSet, anomalies: RowSet, *, probes: bool) -> Integers:
    """Return which rows belong together, of the normals, then of the anomalies, as numbers.

    Those of a group; copies of an anomaly, since these have one role; a probe and the normal that it was made from.
    """
    import pandas as pd

    of_normals = _groups_or(normals, np.array([f"row:{key}" for key in row_keys(normals.rows)], dtype=object))
    marks = [f"anomaly:{mark}" for mark in anomalies.rows["fingerprint"]]
    of_anomalies = _groups_or(anomalies, np.array(marks, dtype=object))
    if probes:
        made_from = dict(zip(normals.rows["row_id"], of_normals, strict=True))
        sources = zip(anomalies.rows["source_row"], of_anomalies, strict=True)
        of_anomalies = np.array([made_from.get(source, own) for source, own in sources], dtype=object)
    return np.asarray(pd.factorize(np.concatenate([of_normals, of_anomalies]))[0], dtype=np.int64)


def _groups_or(data: RowSet, keys: Texts) -> Texts:
    """Return the group of each row, or its key where it has none."""
    group = data.rows["group"].to_numpy(dtype=object)
    return np.where(group != "", "group:" + group, keys)


def presumed_normals(data: RowSet) -> RowSet:
    """Return the rows not labelled as anomalies."""
    return data.take(data.labels != ANOMALY)


def held_to(data: RowSet, most: int, *, seed: int) -> RowSet:
    """Return the rows, of more than `most` a random sample of that many, in their order.

    Rows are picked by a hash of seed, content and copy, which has nothing to do with what a detector makes of them: a
    sample of exchangeable rows is exchangeable. Of rows that form groups, as many groups as can be are kept: the large
    ones give up rows first, since groups are what counts. Most of a sample stays the same when rows are added.
    """
    if len(data) <= most:
        return data
    import pandas as pd

    hashes = key_hashes(data.rows, f"held:{seed}", "row:")
    if not (data.rows["group"] != "").any() and len(np.unique(hashes)) == len(data):  # each row is a unit
        kept = np.zeros(len(data), dtype=np.bool_)
        kept[np.argsort(hashes)[:most]] = True
        return data.take(kept)
    codes, names = pd.factorize(units(data))
    sizes = np.bincount(codes)
    order = np.lexsort((uniform_hashes(row_keys(data.rows), f"held:{seed}"), codes))
    place = np.empty(len(data), dtype=np.int64)
    place[order] = np.arange(len(data)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    groups = np.argsort(uniform_hashes(names, f"held:{seed}"), kind="stable")[:most]
    return data.take((place < most_each(sizes, most)) & np.isin(codes, groups))


def most_each(sizes: Integers, most: int) -> int:
    """Return the largest k >= 1 for which groups of these sizes, cut to k rows each, have at most `most` rows."""
    low, high = 1, int(sizes.max())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(sizes, middle).sum() <= most else (low, middle - 1)
    return low


def calibration_rows(folder: Path, *, within: str, seed: int) -> RowSet:
    """Return the calibration rows: presumed normals, at most `MOST_CALIBRATION`; see `held_to`.

    Where rows are compared within categories, the largest categories give up rows first, and none goes below
    `FEWEST_A_CATEGORY`, whatever their number: a category needs 1 / eps rows before anything in it can be flagged.
    """
    data = presumed_normals(read_rows(folder))
    if within != "category" or "category" not in data.rows or len(data) <= MOST_CALIBRATION:
        return held_to(data, MOST_CALIBRATION, seed=seed)
    categories = data.rows["category"].to_numpy(dtype=object)
    names, sizes = np.unique(categories, return_counts=True)
    most = max(FEWEST_A_CATEGORY, most_each(sizes, MOST_CALIBRATION))
    parts = [held_to(data.take(np.flatnonzero(categories == name)), most, seed=seed) for name in names]
    return data.take(np.isin(row_keys(data.rows), np.concatenate([row_keys(part.rows) for part in parts])))


def marked(data: RowSet, name: str) -> Flags:
    """Return which rows have a 1 in a column that split adds; none where there is no such column, as for probes."""
    none = np.zeros(len(data), dtype=np.bool_)
    return data.rows[name].to_numpy() == 1 if name in data.rows else none


def evidence_rows(folder: Path) -> tuple[RowSet, RowSet, str]:
    """Return the normals, the anomalies and the kind of evidence of the selection or test rows.

    - "labels": labelled normals and labelled anomalies.
    - "anomalies": labelled anomalies; no row is labelled normal, so all other rows are presumed normal.
    - "probes": presumed normals, and probes instead of anomalies.

    Both are held to `MOST_JUDGED`, see `held_to`.
    """
    normals, anomalies, evidence = _all_evidence(folder)
    return held_to(normals, MOST_JUDGED, seed=0), held_to(anomalies, MOST_JUDGED, seed=0), evidence


def _all_evidence(folder: Path) -> tuple[RowSet, RowSet, str]:
    data = read_rows(folder)
    if (folder / "probes").is_dir():
        return presumed_normals(data), read_rows(folder / "probes"), "probes"
    normal = data.labels == NORMAL
    anomalies = data.take(data.labels == ANOMALY)
    return (
        (data.take(normal), anomalies, "labels") if normal.any() else (presumed_normals(data), anomalies, "anomalies")
    )
