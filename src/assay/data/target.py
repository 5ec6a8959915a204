"""Target rows: a sample of the rows that a scorer currently scores, which calibration can be weighted towards."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd

from assay.data.blocks import read_frame
from assay.data.card import Card
from assay.data.columns import Features, features_of
from assay.data.dialects import OBSERVED, PLAIN, Dialect
from assay.errors import DataError
from assay.parts import is_there, write_bytes

_MOST_ROWS = 5_000


def target_path(root: Path, name: str) -> Path:
    """Return the path of a dataset's file of target rows."""
    return root / "targets" / f"{name}.csv"


def read_target(path: Path, card: Card) -> Features:
    """Return the target rows of a dataset; there are none where calibration is not weighted.

    Raises
    ------
    DataError
        The file is missing, lacks a column, or holds a value that is not a finite number.
    """
    if not is_there(path):
        raise DataError(f"{path} is missing; restore it with `git checkout {path}` or `assay reweight --clear`")
    if not path.read_bytes().strip():
        return Features(np.empty((0, len(card.columns))), card.columns, card.vocabulary, card.dates)
    try:
        return take_columns(path, card, PLAIN)
    except DataError as error:
        raise DataError(f"{error} (`assay reweight --clear` ends the weighting)") from error


def take_columns(path: Path, card: Card, dialect: Dialect = OBSERVED) -> Features:
    """Return the columns of a CSV or Parquet file as features that the dataset accepts."""
    if card.text_column is not None:
        raise DataError(f"{card.name} is a dataset of texts, and calibration is not weighted towards texts")
    if card.windows is not None:
        raise DataError(
            f"{card.name} holds windows of series, and calibration is not weighted towards windows: p-values compare "
            "with blocks or groups, and weights are for rows that are independent of each other"
        )
    columns = card.columns
    numbers = [name for name in columns if name not in (*card.vocabulary, *card.dates)]
    frame = read_frame(path, (), numbers=numbers, dialect=dialect)
    if missing := [name for name in columns if name not in frame.columns]:
        raise DataError(f"{path.name} has no column {missing[0]!r}; it needs all {len(columns)} columns of the dataset")
    features = features_of(frame, columns, card.vocabulary, card.dates)
    if not (accepted := card.accepts(features.rows)).all():
        row, column = np.argwhere(~accepted)[0]
        raise DataError(f"{path.name}, row {row}, column {columns[column]!r}: missing or infinite; remove such rows")
    return features


def write_target(path: Path, rows: pd.DataFrame, *, seed: int) -> int:
    """Write target rows, at most 5,000 (a random sample), and return their number; no rows make an empty file."""
    if len(rows) > _MOST_ROWS:
        picked = np.random.default_rng(seed).choice(len(rows), _MOST_ROWS, replace=False)
        rows = rows.iloc[np.sort(picked)]
    text = io.StringIO()
    if len(rows):
        rows.to_csv(text, index=False, lineterminator="\n")
    write_bytes(path, text.getvalue().encode())
    return len(rows)


def ensure_target(root: Path, name: str) -> None:
    """Write an empty target file where there is none: DVC needs every input of a stage to exist."""
    if not is_there(path := target_path(root, name)):
        write_bytes(path, b"")
