"""The quarantine of a dataset: rows that no later run may use, as a small file for Git."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from assay.errors import DataError
from assay.parts import write_bytes

COLUMNS = ("fingerprint", "row_id", "why", "when")
FINGERPRINT = re.compile(r"[0-9a-f]{32}")


def quarantine_path(root: Path, name: str) -> Path:
    """Return where the quarantine of a dataset lies in a project."""
    return root / "quarantine" / f"{name}.csv"


def read_quarantine(path: Path) -> pd.DataFrame:
    """Read a quarantine file; one that is missing holds no rows.

    Returns
    -------
    DataFrame of str
        The columns `COLUMNS`: the content's fingerprint, an id of a row that has it ("" where none was known),
        the reason, and when in UTC, ISO 8601.

    Raises
    ------
    DataError
        The file is not what `write_quarantine` writes.
    """
    if not path.is_file():
        return pd.DataFrame(columns=list(COLUMNS), dtype="str")
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}; restore it with `git checkout {path}`") from error
    if tuple(frame.columns) != COLUMNS:
        raise DataError(f"{path} has the columns {', '.join(map(str, frame.columns))}; it needs {','.join(COLUMNS)}")
    wrong = ~frame["fingerprint"].str.fullmatch(FINGERPRINT)
    if wrong.any():
        place = int(wrong.to_numpy().argmax())
        raise DataError(
            f"{path}, row {place}: {frame['fingerprint'].iloc[place]!r} is not a fingerprint (32 hex digits); "
            "mend or remove the line"
        )
    return frame


def write_quarantine(path: Path, frame: pd.DataFrame) -> None:
    """Write a quarantine file (UTF-8, LF), sorted; of entries of one fingerprint the first is kept."""
    kept = frame[list(COLUMNS)].drop_duplicates("fingerprint").sort_values("fingerprint")
    write_bytes(path, kept.to_csv(index=False, lineterminator="\n").encode())


def ensure_quarantine(root: Path, name: str) -> None:
    """Write an empty quarantine file where there is none: DVC needs every input of a stage to exist."""
    path = quarantine_path(root, name)
    if not path.is_file():
        write_quarantine(path, read_quarantine(path))
