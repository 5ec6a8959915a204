"""Scoring of a file: every row gets a score, a p-value and a decision."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assay import console
from assay.arrays import Doubles, Flags
from assay.calibration.decisions import Rule, Scored
from assay.data.columns import features_of
from assay.data.dialects import OBSERVED, Dialect
from assay.data.files import texts_of
from assay.data.tables import read_frame
from assay.errors import DataError, InputError
from assay.parts import write_bytes
from assay.scorer.explaining import normal_rows
from assay.scorer.scorer import Scorer

if TYPE_CHECKING:
    import pandas as pd

ADDED = ("score", "p_value", "flagged")
EXPLAINED = ("because", "p_without_first")
EXPLAINED_AT_ONCE = 50
DELTA = 0.1


@dataclass(frozen=True, slots=True)
class Batch:
    """A scored file.

    Attributes
    ----------
    rows : DataFrame
        The file's columns that are not features, unchanged, then score, p_value and flagged; with explanations also,
        for flagged rows, because (columns with their shares of what raises the score) and p_without_first
        (`assay.scorer.explaining.Explanation.p_without`).
    rule : Rule
        The rule that flagged the rows.
    false_alarms : int or None
        Upper bound, with probability at least .9 over draws of calibration rows and batch, on the number of normal rows
        among the flagged ones, for any rule; None if the scorer's p-values allow no such bound.
    note : str
        Why nothing could be flagged, or "".
    """

    rows: pd.DataFrame
    rule: Rule
    false_alarms: int | None
    note: str

    @property
    def n_flagged(self) -> int:
        """Number of flagged rows."""
        return int(self.rows["flagged"].sum())

    def write(self, path: Path) -> None:
        """Write the rows as CSV or Parquet."""
        if path.suffix == ".parquet":
            buffer = io.BytesIO()
            self.rows.to_parquet(buffer, index=False)
            write_bytes(path, buffer.getvalue())
        else:
            write_bytes(path, self.rows.to_csv(index=False, lineterminator="\n").encode())


def score_file(
    scorer: Scorer,
    path: Path,
    *,
    eps: float | None = None,
    fdr: float | None = None,
    id_column: str | None = None,
    explain: int = 0,
    dialect: Dialect = OBSERVED,
) -> Batch:
    """Score the rows of a CSV or Parquet file and decide by `eps` (the scorer's own where both are None) or `fdr`.

    Ids of rows in `id_column` decide ties where these are randomised (`assay.scorer.scorer.Scorer.judge`). `explain` is
    the number of columns that are named for each flagged row; `dialect` says how a CSV file is written.

    Raises
    ------
    ConfigError
        `eps` or `fdr` is not a number between 0 and 1.
    DataError, InputError
        The file cannot be read or lacks a column; a value is missing; false discoveries cannot be controlled; this
        scorer explains nothing.
    """
    rule = scorer.rule(eps=eps, fdr=fdr)
    if explain:
        normal_rows(scorer.reference.strata)
    added = (*ADDED, *(EXPLAINED if explain else ()))
    frame, rows, scored = _score(scorer, path, rule, id_column, added, dialect)
    p_values = scorer.reference.p_values(scored)
    flags = rule.flags(p_values)
    bound = scorer.reference.false_discovery_bound(scored, flags, DELTA)
    judged = frame.assign(score=scored.scores, p_value=p_values, flagged=flags.astype(np.int8))
    if explain:
        judged = judged.assign(**_reasons(scorer, rows, scored, flags, explain))
    return Batch(judged, rule, bound, rule.note(flags, scorer.calibrator))


def _reasons(scorer: Scorer, given: Any, scored: Scored, flags: Flags, n_columns: int) -> dict[str, Any]:
    """Return the columns of `EXPLAINED`, which are empty for rows that are not flagged."""
    because, without = np.full(len(flags), "", dtype=object), np.full(len(flags), np.nan)
    if flags.any():
        from rich.progress import track

        flagged = np.flatnonzero(flags)
        parts = [flagged[start : start + EXPLAINED_AT_ONCE] for start in range(0, len(flagged), EXPLAINED_AT_ONCE)]
        for rows in track(parts, "explaining", disable=not sys.stderr.isatty(), console=console.screen):
            names = [None if every is None else every[rows].tolist() for every in (scored.categories, scored.row_ids)]
            explanation = scorer.explain(given.iloc[rows] if hasattr(given, "iloc") else given[rows], *names)
            rising = np.maximum(explanation.contributions, 0)
            shares = rising / np.maximum(rising.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
            because[rows] = [_named(scorer.columns, of_row, n_columns) for of_row in shares]
            without[rows] = explanation.p_without
    return dict(zip(EXPLAINED, (because, without), strict=True))


def _named(columns: tuple[str, ...], shares: Doubles, n_columns: int) -> str:
    """Return the columns of the largest shares, with these, as text."""
    return ", ".join(f"{columns[c]} {shares[c]:.0%}" for c in np.argsort(-shares)[:n_columns] if shares[c] > 0)


def _score(
    scorer: Scorer, path: Path, rule: Rule, id_column: str | None, added: tuple[str, ...], dialect: Dialect
) -> tuple[pd.DataFrame, Any, Scored]:
    """Return the columns that are not features, the features as the scorer takes them, and the scored rows."""
    category = scorer.category_column
    texts = [name for name in (category, id_column) if name is not None]
    numbers = [name for name in scorer.columns if name not in (*scorer.vocabulary, *scorer.dates)]
    frame = read_frame(path, tuple(texts), numbers=numbers, dialect=dialect)
    names = list(frame.columns)
    if missing := [name for name in scorer.columns if name not in names]:
        raise DataError(f"{path.name} has no column {missing[0]!r}; this scorer needs all of its columns in the file")
    if taken := [name for name in added if name in names and name not in scorer.columns]:
        raise DataError(f"{path.name} has a column {taken[0]!r} already; rename it, that name is given to the result")
    features = features_of(frame, scorer.columns, scorer.vocabulary, scorer.dates)
    usable = np.isfinite(features.rows) | (np.isnan(features.rows) & np.isin(scorer.columns, scorer.imputed))
    if not usable.all():
        row, column = np.argwhere(~usable)[0]
        raise InputError(f"{path.name}, row {row}, column {scorer.columns[column]!r}: missing or infinite")
    categories = None if category is None else texts_of(frame[category], kept=scorer.categories or ()).tolist()
    other_columns = [name for name in names if name not in scorer.columns]
    row_ids = None if id_column is None else texts_of(frame[id_column]).tolist()
    scorer.check_batch_ids(rule, row_ids)
    rows = features.table() if features.vocabulary or features.dates else features.rows
    return frame[other_columns], rows, scorer.scored(rows, categories, row_ids)
