"""Roles of rows: training, adapting, calibration, selection, gate and test."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assay.arrays import Doubles, Flags, Integers, Labels
from assay.data.dataset import (
    ANOMALY,
    NORMAL,
    RowSet,
    RowSets,
    equal_rows,
    key_hashes,
    number_copies,
    print_texts,
)
from assay.data.fingerprints import ONLY_NUMBERS, SCHEME, digests
from assay.data.quarantine import is_listed
from assay.errors import DataError
from assay.hashing import uniform_hashes

ROLES = ("train", "pool", "adapt", "calibration", "selection", "gate", "test")
JUDGED = ("selection", "gate", "test")
EXCLUDED = "excluded"
MIN_LABELLED = 5

_TRAIN, _POOL, _ADAPT, _CALIBRATION, _SELECTION, _GATE, _TEST = range(len(ROLES))
_NORMAL_CUTS = np.array([0.38, 0.51, 0.65, 0.78, 0.88])
_NORMAL_ROLES = np.array([_TRAIN, _ADAPT, _CALIBRATION, _SELECTION, _GATE, _TEST])
_ANOMALY_CUTS = np.array([0.50, 0.68, 0.82])
_ANOMALY_ROLES = np.array([_POOL, _SELECTION, _GATE, _TEST])
# Anomalies between .50 and .65, where normals adapt or calibrate: so many to each that the shares are those above.
_APART_CUTS = np.array([5 / 15, 9 / 15])
_APART_ROLES = np.array([_SELECTION, _GATE, _TEST])


def split_rows(
    data: RowSet,
    columns: tuple[str, ...],
    *,
    seed: int,
    quarantined: pd.DataFrame | None = None,
    scheme: int = SCHEME,
    vocabulary: Mapping[str, tuple[str, ...]] = ONLY_NUMBERS,
    overlap: bool = False,
) -> RowSets:
    """Assign one role to every row, as independent of the other rows as possible.

    Without times, the role is a function of the label and of a hash of the seed and the group id. Without a group it
    is, for a normal or unknown row, a hash of its fingerprint and the number of its copy: rows that repeat have roles
    independent of each other, which keeps calibration and new rows exchangeable. (By content alone, a state that makes
    up a fifth of the rows would lie in one role.) So roles do not change when rows are added or other rows relabelled,
    or when rows or columns are reordered. Normal and unknown rows: train .38, adapt .13, calibration .14, selection
    .13, gate .10, test .12. Labelled anomalies: pool .50, selection .18, gate .14, test .18; those of a group whose
    normal rows are in selection, gate or test are in that role too.

    With times, normals are cut at the same fractions in time order, and anomalies separately in theirs;
    times are compared as text (`assay.data.files.read_table` writes them so that this is the time order).
    Equal times get one role. Groups are ignored: a group may span several roles, and roles can change
    when rows are added.

    All copies of a labelled anomaly have one role, since a copy in the pool would teach what its twin judges: without
    group and time that of a hash of the content, else the first of the copies' roles in the order of `ROLES`. Normals
    keep their roles whatever their copies' labels are.

    Quarantined rows are excluded; no other row's role depends on them. So are, where rows of a group `overlap`,
    labelled anomalies whose role is not that of the normal rows of their group, nor the pool where these train or
    adapt.

    Parameters
    ----------
    data : RowSet, features of shape (n, d)
        Rows without a column ``copy`` are numbered in their order.
    columns : tuple of str, length d
    seed : int
    quarantined : DataFrame, optional
        Rows that must not be used, as `assay.data.quarantine.read_quarantine` returns them.
    scheme : {1, 2}
        Scheme of the fingerprints that decide roles (`assay.data.fingerprints.fingerprints`).
    vocabulary : mapping of str to tuple of str
        The texts of each column of categories.
    overlap : bool
        Whether rows of a group share values, as windows of a series do. Then no value is in two of the roles that
        learn (with the pool), calibrate and judge.

    Returns
    -------
    RowSets
        One for each of `ROLES` and "excluded", possibly empty; together they hold every row once, in the
        original order, with the columns ``fingerprint`` and ``copy``. The pool and the roles `JUDGED` also have
        ``contradicted`` (1: rows that are used carry both labels, 0 and 1, for this content), and the latter ``seen``
        (1: a row of train or adapt has this content).

    Raises
    ------
    DataError
        Some rows have a time and others do not.
    """
    contents = digests(data.features, columns, scheme=scheme, vocabulary=vocabulary)
    copies = data.rows["copy"] if "copy" in data.rows else number_copies(contents)
    prints = print_texts(contents).set_axis(data.rows.index)
    marked = RowSet(data.features, data.rows.assign(copy=copies, fingerprint=prints))
    timed = (data.rows["time"] != "").to_numpy(dtype=bool)
    if timed.any() and not timed.all():
        row = int(np.flatnonzero(~timed)[0])
        raise DataError(
            f"row {data.rows['row_id'].iloc[row]!r} has no time but others have one; "
            "give every row a time, or none of them"
        )
    roles = _roles_by_time(marked) if timed.any() else _roles_by_hash(marked.rows, seed)
    roles = _joined(marked.rows, roles)
    excluded = np.zeros(len(data), dtype=bool) if quarantined is None else is_listed(quarantined, marked.rows)
    if overlap:
        excluded |= _astray(marked.rows, roles, seed)
    roles[excluded] = len(ROLES)
    marks = _marks(contents, data.labels, roles)
    return RowSets({name: partial(_part, marked, roles == i, name, marks) for i, name in enumerate((*ROLES, EXCLUDED))})


def evidence(anomalies: Mapping[str, int]) -> str:
    """Return "labels" if selection and test both hold `MIN_LABELLED` labelled anomalies, else "probes".

    Parameters
    ----------
    anomalies : mapping of str to int
        The number of labelled anomalies of each role.
    """
    return "labels" if min(anomalies["selection"], anomalies["test"]) >= MIN_LABELLED else "probes"


def _marks(contents: NDArray[np.uint64], labels: Labels, roles: Integers) -> dict[str, Flags]:
    """Return which rows (n,) are ``contradicted``, and which are ``seen``; see `split_rows`."""
    codes = equal_rows(*contents.T)
    used = roles != len(ROLES)
    of_either = [np.bincount(codes[used & (labels == label)], minlength=len(codes)) > 0 for label in (NORMAL, ANOMALY)]
    learned = np.bincount(codes[np.isin(roles, (_TRAIN, _ADAPT))], minlength=len(codes)) > 0
    return {"contradicted": (of_either[0] & of_either[1])[codes], "seen": learned[codes]}


def _part(data: RowSet, picked: Flags, role: str, marks: dict[str, Flags]) -> RowSet:
    """Return the rows of a role, with the marks that it has."""
    part = data.take(picked)
    having = ("contradicted", "seen") if role in JUDGED else ("contradicted",) if role == "pool" else ()
    return RowSet(part.features, part.rows.assign(**{name: marks[name][picked].astype(np.int8) for name in having}))


def _roles_by_hash(rows: pd.DataFrame, seed: int) -> Integers:
    """Return the index in `ROLES` of each row of data without times."""
    anomalous = (rows["label"] == ANOMALY).to_numpy()
    in_group = (rows["group"] != "").to_numpy()
    alone = anomalous & ~in_group
    position, coin = (_hashes(rows, in_group, alone, f"{what}:{seed}") for what in ("role", "coin"))
    roles = _normal_roles(position)
    apart = _APART_ROLES[np.searchsorted(_APART_CUTS, coin, side="right")]
    for_anomalies = np.where(position < 0.50, _POOL, np.where(position < 0.65, apart, roles))
    return np.where(anomalous, for_anomalies, roles)


def _hashes(rows: pd.DataFrame, in_group: Flags, alone: Flags, salt: str) -> Doubles:
    """Return the hash of each row: of its group, of its content where it is an anomaly `alone`, else of its key."""
    hashes = np.empty(len(rows))
    others = ~(in_group | alone)
    hashes[in_group] = uniform_hashes("group:" + rows.loc[in_group, "group"], salt)
    hashes[alone] = uniform_hashes("anomaly:" + rows.loc[alone, "fingerprint"], salt)
    hashes[others] = key_hashes(rows[others], salt, "row:")
    return hashes


def _normal_roles(position: Doubles) -> Integers:
    return np.asarray(_NORMAL_ROLES[np.searchsorted(_NORMAL_CUTS, position, side="right")])


def _astray(rows: pd.DataFrame, roles: Integers, seed: int) -> Flags:
    """Return which rows are anomalies whose role does not go with that of the normal rows of their group."""
    astray = ((rows["label"] == ANOMALY) & (rows["group"] != "")).to_numpy(dtype=np.bool_, copy=True)
    own = roles[astray]
    of_group = _normal_roles(uniform_hashes("group:" + rows.loc[astray, "group"], f"role:{seed}"))
    astray[astray] = (own != of_group) & ~((own == _POOL) & np.isin(of_group, [_TRAIN, _ADAPT]))
    return astray


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


def _joined(rows: pd.DataFrame, roles: Integers) -> Integers:
    """Return the roles, those of labelled anomalies of equal content all the first of theirs."""
    anomalous = (rows["label"] == ANOMALY).to_numpy()
    codes, unique = pd.factorize(rows.loc[anomalous, "fingerprint"])
    first_role = np.full(len(unique), len(ROLES))
    np.minimum.at(first_role, codes, roles[anomalous])
    joined = roles.copy()
    joined[anomalous] = first_role[codes]
    return joined
