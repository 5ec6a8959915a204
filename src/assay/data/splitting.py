"""Roles of rows: training, adapting, calibration, selection and test."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from hashlib import blake2b

import numpy as np
import pandas as pd

from assay.arrays import Doubles, Flags, Integers
from assay.data.dataset import ANOMALY, RowSet, fingerprints
from assay.errors import DataError

ROLES = ("train", "pool", "adapt", "calibration", "selection", "test")
EXCLUDED = "excluded"
QUARANTINED = "quarantined"
MIN_LABELLED = 5

_TRAIN, _POOL, _ADAPT, _CALIBRATION, _SELECTION, _TEST = range(len(ROLES))
_NORMAL_CUTS = np.array([0.40, 0.55, 0.70, 0.85])
_NORMAL_ROLES = np.array([_TRAIN, _ADAPT, _CALIBRATION, _SELECTION, _TEST])
_ANOMALY_CUTS = np.array([0.50, 0.75])
_ANOMALY_ROLES = np.array([_POOL, _SELECTION, _TEST])


def uniform_hashes(keys: Iterable[str], salt: str) -> Doubles:
    """Return a number in [0, 1) for each key: the first 53 bits of a BLAKE2b hash of salt and key.

    Equal keys get equal numbers on every machine; another salt gives independent numbers.

    Parameters
    ----------
    keys : iterable of str, n of them
    salt : str

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    start = blake2b(salt.encode() + b"\x1f", digest_size=8)
    digests = []
    for key in keys:
        digest = start.copy()
        digest.update(key.encode())
        digests.append(digest.digest())
    bits = np.frombuffer(b"".join(digests), dtype="<u8") >> np.uint64(11)
    return bits.astype(np.float64) / 2.0**53


def split_rows(
    data: RowSet, columns: tuple[str, ...], *, seed: int, quarantined: Collection[str] = ()
) -> dict[str, RowSet]:
    """Assign one role to every row, as independent of the other rows as possible.

    Without times, the role is a function of the label and of a hash of the seed and the group id (without a
    group, the row's fingerprint). So it does not change when rows are added, reordered or relabelled or columns
    reordered, and duplicates and groups stay together. Normal and unknown rows: train .40, adapt .15,
    calibration .15, selection .15, test .15. Labelled anomalies: pool .50, selection .25, test .25; those of a
    group whose normal rows are in selection or test are in that role too.

    With times, normals are cut at the same fractions in time order, and anomalies separately in theirs;
    times are compared as text (`assay.data.files.read_table` writes them so that this is the time order).
    Equal times get one role. Groups are ignored: a group may span several roles, and roles can change
    when rows are added.

    Finally, rows with the same fingerprint in several roles stay in the first of these in the order of
    `ROLES`; the other copies are excluded. These are rows with contradictory labels, and duplicates in
    different groups or at different times.

    All copies of a quarantined row are excluded; no other row's role depends on them. If the quarantine is not
    empty, the excluded rows get a column ``reason``: "quarantined" or "copy".

    Parameters
    ----------
    data : RowSet, features of shape (n, d)
    columns : tuple of str, length d
    seed : int
    quarantined : collection of str
        Fingerprints of rows that must not be used.

    Returns
    -------
    dict of str to RowSet
        One for each of `ROLES` and "excluded", possibly empty; together they hold every row once, in the
        original order, with the column ``fingerprint`` added.

    Raises
    ------
    DataError
        Some rows have a time and others do not.
    """
    marked = RowSet(data.features, data.rows.assign(fingerprint=fingerprints(data.features, columns)))
    timed = (data.rows["time"] != "").to_numpy(dtype=bool)
    if timed.any() and not timed.all():
        row = int(np.flatnonzero(~timed)[0])
        raise DataError(
            f"row {data.rows['row_id'].iloc[row]!r} has no time but others have one; "
            "give every row a time, or none of them"
        )
    roles = _roles_by_time(marked) if timed.any() else _roles_by_hash(marked.rows, seed)
    is_quarantined = marked.rows["fingerprint"].isin(quarantined).to_numpy(dtype=bool)
    excluded = _is_later_copy(marked.rows["fingerprint"], roles) | is_quarantined
    parts = {name: marked.take((roles == i) & ~excluded) for i, name in enumerate(ROLES)}
    left_out = marked.take(excluded)
    if len(quarantined):
        reasons = np.where(is_quarantined[excluded], QUARANTINED, "copy")
        left_out = RowSet(left_out.features, left_out.rows.assign(reason=reasons))
    return parts | {EXCLUDED: left_out}


def evidence(parts: dict[str, RowSet]) -> str:
    """Return "labels" if selection and test both hold `MIN_LABELLED` labelled anomalies, else "probes"."""
    counts = [int((parts[role].labels == ANOMALY).sum()) for role in ("selection", "test")]
    return "labels" if min(counts) >= MIN_LABELLED else "probes"


def _roles_by_hash(rows: pd.DataFrame, seed: int) -> Integers:
    """Return the index in `ROLES` of each row of data without times."""
    group = rows["group"].to_numpy(dtype=object)
    keys = np.where(group != "", "group:" + group, "row:" + rows["fingerprint"].to_numpy(dtype=object))
    codes, unique = pd.factorize(keys)
    position = uniform_hashes(unique, f"role:{seed}")[codes]
    coin = uniform_hashes(unique, f"coin:{seed}")[codes] < 0.5
    roles = _NORMAL_ROLES[np.searchsorted(_NORMAL_CUTS, position, side="right")]
    normals_only = (position < 0.70) & (position >= 0.50)  # where normals adapt or calibrate, which anomalies never do
    for_anomalies = np.where(position < 0.50, _POOL, np.where(normals_only, np.where(coin, _SELECTION, _TEST), roles))
    return np.where((rows["label"] == ANOMALY).to_numpy(), for_anomalies, roles)


def _roles_by_time(data: RowSet) -> Integers:
    """Return the index in `ROLES` of each row of time-ordered data."""
    roles = np.empty(len(data), dtype=np.int64)
    anomalous = data.labels == ANOMALY
    for mask, cuts, names in (
        (~anomalous, _NORMAL_CUTS, _NORMAL_ROLES),
        (anomalous, _ANOMALY_CUTS, _ANOMALY_ROLES),
    ):
        if mask.any():
            roles[mask] = names[np.searchsorted(cuts, _share_before(data.rows.loc[mask, "time"]), side="right")]
    return roles


def _share_before(times: pd.Series[str]) -> Doubles:
    """Return, for each row, the share of rows with an earlier time; equal for equal times."""
    codes, _ = pd.factorize(times.to_numpy(dtype=object), sort=True)
    counts = np.bincount(codes)
    n_earlier = np.cumsum(counts) - counts
    return n_earlier[codes] / len(codes)


def _is_later_copy(prints: pd.Series[str], roles: Integers) -> Flags:
    """Return the mask of rows whose fingerprint also occurs in an earlier role."""
    codes, unique = pd.factorize(prints.to_numpy(dtype=object))
    first_role = np.full(len(unique), len(ROLES))
    np.minimum.at(first_role, codes, roles)
    return roles > first_role[codes]
