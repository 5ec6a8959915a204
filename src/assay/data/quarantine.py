"""The quarantine of a dataset: a small file for Git that lists the rows that no later run may use."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from assay.arrays import Flags
from assay.data.dataset import by_either_scheme, row_keys
from assay.data.fingerprints import FINGERPRINT_PATTERN
from assay.data.spreadsheets import guarded, unguarded
from assay.errors import DataError
from assay.parts import is_there, write_bytes

QUARANTINE_COLUMNS = ("fingerprint", "copy", "row_id", "why", "when")
_WITHOUT_COPIES = ("fingerprint", "row_id", "why", "when")
_FREE_TEXTS = ("row_id", "why")
EVERY_COPY = ""
_COPY_PATTERN = re.compile(r"(0|[1-9][0-9]*)?")


def quarantine_path(root: Path, name: str) -> Path:
    """Return the path of a dataset's quarantine file."""
    return root / "quarantine" / f"{name}.csv"


def read_quarantine(path: Path) -> pd.DataFrame:
    """Read a quarantine file; a missing one lists no rows.

    Returns
    -------
    DataFrame of str
        The columns `QUARANTINE_COLUMNS`: fingerprint of the content, number of the copy that is listed ("" lists all
        rows of this content), id of the row or of one of them ("" if unknown), reason, and time (UTC, ISO 8601). Files
        without a column ``copy``, as they once were, list contents.

    Raises
    ------
    DataError
        The file cannot be read, or has other columns, an invalid fingerprint or an invalid number of a copy.
    """
    if not is_there(path):
        return pd.DataFrame(columns=list(QUARANTINE_COLUMNS), dtype="str")
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}; restore it with `git checkout {path}`") from error
    if tuple(frame.columns) == _WITHOUT_COPIES:
        frame.insert(1, "copy", EVERY_COPY)
    if tuple(frame.columns) != QUARANTINE_COLUMNS:
        raise DataError(
            f"{path} has the columns {', '.join(map(str, frame.columns))}; it needs {','.join(QUARANTINE_COLUMNS)}"
        )
    for column, pattern, allowed in (
        ("fingerprint", FINGERPRINT_PATTERN, "a fingerprint (32 hex digits)"),
        ("copy", _COPY_PATTERN, "the number of a copy (0, 1, ..., or nothing for every copy)"),
    ):
        wrong = ~frame[column].str.fullmatch(pattern)
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            raise DataError(
                f"{path}, row {row}: {frame[column].iloc[row]!r} is not {allowed}; correct or remove the line"
            )
    return frame.assign(**{name: unguarded(frame[name]) for name in _FREE_TEXTS})


def is_listed(quarantined: pd.DataFrame, rows: pd.DataFrame) -> Flags:
    """Return which rows, with the columns ``fingerprint`` and ``copy``, a quarantine lists; shape (n,).

    A row with the id and the content of a listed one is listed too: where a dataset was replaced by one in another
    order, its copies have changed numbers.

    Without a column ``copy``, as in scorers of before, a row counts as listed if any row of its content is: it may be
    that one. Fingerprints of either scheme match, where `rows` have both. An entry with a ``use`` is about rows of this
    use alone.
    """
    if "use" in quarantined and (quarantined["use"] != "").any():
        flags = np.zeros(len(rows), dtype=np.bool_)
        for use, entries in quarantined.groupby("use"):
            is_meant = (rows["use"] == use).to_numpy(dtype=bool) if use else ~np.zeros_like(flags)
            flags |= is_listed(entries.drop(columns="use"), rows) & is_meant
        return flags
    listed = np.zeros(len(rows), dtype=np.bool_)
    if quarantined.empty:
        return listed
    for known in by_either_scheme(rows):
        listed |= _lists(quarantined, known)
    return listed


def _lists(quarantined: pd.DataFrame, rows: pd.DataFrame) -> Flags:
    """Return which rows are listed by the fingerprints in their column ``fingerprint``."""
    if "copy" not in rows:
        return rows["fingerprint"].isin(quarantined["fingerprint"]).to_numpy(dtype=bool)
    single = quarantined["copy"] != EVERY_COPY
    by_content = rows["fingerprint"].isin(quarantined.loc[~single, "fingerprint"]).to_numpy(dtype=bool)
    listed = by_content | pd.Series(row_keys(rows)).isin(row_keys(quarantined[single])).to_numpy(dtype=bool)
    if "row_id" in rows and "row_id" in quarantined:
        pairs = pd.MultiIndex.from_frame(quarantined.loc[single, ["fingerprint", "row_id"]])
        listed |= pd.MultiIndex.from_frame(rows[["fingerprint", "row_id"]]).isin(pairs)
    return np.asarray(listed)


def quarantine_content(frame: pd.DataFrame) -> bytes:
    """Return a quarantine file (UTF-8, LF), sorted; the first entry of each row or content is kept.

    A text that a spreadsheet program would run has an apostrophe before it (`assay.data.spreadsheets`).
    """
    kept = frame[list(QUARANTINE_COLUMNS)].drop_duplicates(["fingerprint", "copy"]).sort_values(["fingerprint", "copy"])
    written = kept.assign(**{name: guarded(kept[name].astype("str")) for name in _FREE_TEXTS})
    return written.to_csv(index=False, lineterminator="\n").encode()


def write_quarantine(path: Path, frame: pd.DataFrame) -> None:
    """Write a quarantine file."""
    write_bytes(path, quarantine_content(frame))


def ensure_quarantine(root: Path, name: str) -> None:
    """Write an empty quarantine file where there is none: DVC needs every input of a stage to exist."""
    path = quarantine_path(root, name)
    if not is_there(path):
        write_quarantine(path, read_quarantine(path))
