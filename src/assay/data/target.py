"""Target rows: a sample of the rows that a scorer currently scores, which calibration can be weighted towards."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from assay.arrays import Doubles
from assay.data.files import features_of, read_frame
from assay.errors import DataError
from assay.parts import is_there, write_bytes

_MOST_ROWS = 5_000


def target_path(root: Path, name: str) -> Path:
    """Return the path of a dataset's file of target rows."""
    return root / "targets" / f"{name}.csv"


def read_target(path: Path, columns: Sequence[str]) -> Doubles:
    """Return the target rows of a dataset, shape (n, d); n is 0 where calibration is not weighted.

    Raises
    ------
    DataError
        The file is missing, lacks a column, or holds a value that is not a finite number.
    """
    if not is_there(path):
        raise DataError(f"{path} is missing; restore it with `git checkout {path}` or `assay reweight --clear`")
    if not path.read_bytes().strip():
        return np.empty((0, len(columns)), dtype=np.float64)
    try:
        return take_columns(path, columns)
    except DataError as error:
        raise DataError(f"{error} (`assay reweight --clear` ends the weighting)") from error


def take_columns(path: Path, columns: Sequence[str]) -> Doubles:
    """Return the columns of a CSV or Parquet file as finite features of shape (n, d)."""
    frame = read_frame(path, ())
    if missing := [name for name in columns if name not in frame.columns]:
        raise DataError(f"{path.name} has no column {missing[0]!r}; it needs all {len(columns)} columns of the dataset")
    features = features_of(frame, columns)
    if not np.isfinite(features).all():
        row, column = np.argwhere(~np.isfinite(features))[0]
        raise DataError(f"{path.name}, row {row}, column {columns[column]!r}: missing or infinite; remove such rows")
    return features


def write_target(path: Path, features: Doubles, columns: Sequence[str], *, seed: int) -> int:
    """Write target rows, at most 5,000 (a random sample), and return their number; no rows make an empty file."""
    if len(features) > _MOST_ROWS:
        picked = np.random.default_rng(seed).choice(len(features), _MOST_ROWS, replace=False)
        features = features[np.sort(picked)]
    text = io.StringIO()
    if len(features):
        pd.DataFrame(features, columns=list(columns)).to_csv(text, index=False, lineterminator="\n")
    write_bytes(path, text.getvalue().encode())
    return len(features)


def ensure_target(root: Path, name: str) -> None:
    """Write an empty target file where there is none: DVC needs every input of a stage to exist."""
    if not is_there(path := target_path(root, name)):
        write_bytes(path, b"")
