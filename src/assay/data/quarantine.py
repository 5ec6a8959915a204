"""The quarantine of a dataset: a small file for Git that lists the rows that no later run may use."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from assay.data.dataset import FINGERPRINT_PATTERN
from assay.errors import DataError
from assay.parts import write_bytes

QUARANTINE_COLUMNS = ("fingerprint", "row_id", "why", "when")


def quarantine_path(root: Path, name: str) -> Path:
    """Return the path of a dataset's quarantine file."""
    return root / "quarantine" / f"{name}.csv"


def read_quarantine(path: Path) -> pd.DataFrame:
    """Read a quarantine file; a missing one lists no rows.

    Returns
    -------
    DataFrame of str
        The columns `QUARANTINE_COLUMNS`: fingerprint of the content, id of a row that has it ("" if unknown), reason,
        and time (UTC, ISO 8601).

    Raises
    ------
    DataError
        The file cannot be read, or has other columns or an invalid fingerprint.
    """
    if not path.is_file():
        return pd.DataFrame(columns=list(QUARANTINE_COLUMNS), dtype="str")
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}; restore it with `git checkout {path}`") from error
    if tuple(frame.columns) != QUARANTINE_COLUMNS:
        raise DataError(
            f"{path} has the columns {', '.join(map(str, frame.columns))}; it needs {','.join(QUARANTINE_COLUMNS)}"
        )
    wrong = ~frame["fingerprint"].str.fullmatch(FINGERPRINT_PATTERN)
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise DataError(
            f"{path}, row {row}: {frame['fingerprint'].iloc[row]!r} is not a fingerprint (32 hex digits); "
            "correct or remove the line"
        )
    return frame


def write_quarantine(path: Path, frame: pd.DataFrame) -> None:
    """Write a quarantine file (UTF-8, LF), sorted; the first entry of each fingerprint is kept."""
    kept = frame[list(QUARANTINE_COLUMNS)].drop_duplicates("fingerprint").sort_values("fingerprint")
    write_bytes(path, kept.to_csv(index=False, lineterminator="\n").encode())


def ensure_quarantine(root: Path, name: str) -> None:
    """Write an empty quarantine file where there is none: DVC needs every input of a stage to exist."""
    path = quarantine_path(root, name)
    if not path.is_file():
        write_quarantine(path, read_quarantine(path))
