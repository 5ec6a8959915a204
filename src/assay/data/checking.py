"""A look at a table before it is ingested: what each column is taken for, and what looks wrong about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from assay.arrays import Labels
from assay.data.columns import AS_THEY_ARE, Treatment, kind_of
from assay.data.dataset import ANOMALY, NORMAL, UNKNOWN
from assay.data.files import labels_of, texts_of
from assay.data.resolution import loses_values
from assay.errors import DataError

FATES = {
    "number": "feature",
    "category": "feature, of categories",
    "date": "feature, of dates",
    "empty": "left out, empty",
    "unclear": "refused",
}
COLUMN_ROLES = {
    **{"label": "labels", "id_column": "row ids", "group": "groups", "time": "times", "category": "categories"},
    **{"text": "documents", "series": "times of steps", "entity": "names of series"},
}
_FEW, _MANY, _LEVELS, _SHOWN = 5, 10, 50, 5
_DATE = r"\s*(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2}))([T ]\s*\d{1,2}:\d{2}.*)?\s*"
_SECONDS = (946_684_800, 2_208_988_800)  # the years 2000 to 2040


@dataclass(frozen=True, slots=True)
class ColumnCheck:
    """What is to be said about a column.

    Attributes
    ----------
    name : str
    kind : str
        What its values are taken for.
    fate : str
        What `assay ingest` does with it.
    examples : tuple of str
        Its first different values, at most five.
    span : str
        From the smallest to the largest number, or the number of different texts.
    missing : float
        Share of rows without a value.
    remarks : tuple of str
        What looks wrong.
    """

    name: str
    kind: str
    fate: str
    examples: tuple[str, ...]
    span: str
    missing: float
    remarks: tuple[str, ...]


def _kind(name: str, column: pd.Series[Any], treatment: Treatment) -> tuple[str, str]:
    """Return what a column is taken for, or "unclear" and why."""
    try:
        return kind_of(name, column, treatment.categorical), ""
    except DataError as error:
        return "unclear", str(error)


def check_columns(
    path: Path,
    frame: pd.DataFrame,
    roles: Mapping[str, str | None],
    treatment: Treatment = AS_THEY_ARE,
    normal: str | None = None,
    anomaly: str | None = None,
) -> list[ColumnCheck]:
    """Return what is to be said about each column of a frame that was read from `path`.

    Parameters
    ----------
    roles : mapping of str to str or None
        The columns that are no features, by role: label, id_column, group, time, category, series, entity; or text,
        beside which every other column is left out.
    treatment : Treatment
        What is done with feature columns.
    normal, anomaly : str, optional
        See `assay.data.files.read_table`.
    """
    labels = np.full(len(frame), UNKNOWN, dtype=np.int8)
    if (label := roles.get("label")) is not None:
        try:
            labels = labels_of(path, texts_of(frame[label]), normal, anomaly)
        except DataError:  # which ingest says
            label = None
    role_of = {column: role for role, column in roles.items() if column is not None}
    checks = []
    for name in map(str, frame.columns):
        column = frame[name]
        if name in role_of or name in treatment.categorical:
            column = texts_of(column).replace("", np.nan)
        kind, why = ("text", "") if name in role_of else _kind(name, column, treatment)
        fate = COLUMN_ROLES[role_of[name]] if name in role_of else FATES[kind]
        remarks = [] if name in role_of else [*_remarks(column, kind), *_leaks(column, kind, labels)]
        if name in treatment.leave_out or (roles.get("text") is not None and name not in role_of):
            fate, remarks, why = "left out", [], ""
        elif column.isna().any() and kind in ("number", "category", "date") and name not in role_of:
            fate += ", refused if missing" if name in treatment.refuse else ", may be missing"
        remarks = [why] if why else remarks
        present = column.dropna()
        examples = tuple(_shown(value) for value in present.drop_duplicates()[:_SHOWN])
        missing = float(column.isna().mean())
        checks.append(ColumnCheck(name, kind, fate, examples, _span(present, kind), missing, tuple(remarks)))
    return checks


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value).strip()[:30]


def lines_of(checks: list[ColumnCheck]) -> Iterator[str]:
    """Yield the checks as lines of text, one for each column and one for each remark."""
    width = min(40, max(len(check.name) for check in checks))
    fate_width = max(len(check.fate) for check in checks)
    for check in checks:
        missing = f"{check.missing:.1%} missing" if check.missing else ""
        yield (
            f"{check.name:<{width}}  {check.kind:<8}  {check.fate:<{fate_width}}  {check.span:<24}  {missing:<14}  "
            f"{', '.join(check.examples)}"
        ).rstrip()
        yield from (f"{'':<{width}}  looks wrong: {remark}" for remark in check.remarks)


def _span(present: pd.Series[Any], kind: str) -> str:
    if kind == "number":
        return f"{present.min():.6g} to {present.max():.6g}"
    return "" if kind == "empty" else f"{present.nunique()} different"


def _remarks(column: pd.Series[Any], kind: str) -> Iterator[str]:
    """Yield what looks wrong about a feature by itself."""
    present = column.dropna()
    if kind == "empty":
        yield "no row has a value"
    elif (present == present.iloc[0]).all():
        yield "constant: every value is the same"
    elif kind == "number":
        yield from _remarks_on_numbers(present.to_numpy(dtype=np.float64))
    elif kind == "category":
        yield from _remarks_on_texts(present.astype("str").reset_index(drop=True), column)


def _remarks_on_numbers(numbers: np.ndarray[Any, np.dtype[np.float64]]) -> Iterator[str]:
    if infinite := int(np.isinf(numbers).sum()):
        yield f"{infinite} infinite values"
    if loses_values(numbers):
        yield "most of its values are the same in float32, as scorers use it: rescale it"
    if infinite or len(numbers) < _MANY or (numbers != np.floor(numbers)).any():
        return
    low, high = numbers.min(), numbers.max()
    days = pd.to_datetime(pd.Series(numbers).astype("int64").astype("str"), format="%Y%m%d", errors="coerce")
    if low >= 19_000_101 and high <= 21_001_231 and bool(days.notna().all()):
        yield "date-like: dates as year, month and day (--time?)"
    elif any(_SECONDS[0] * unit <= low and high <= _SECONDS[1] * unit for unit in (1, 10**3, 10**6, 10**9)):
        yield "date-like: seconds since 1970, or parts of them (--time?)"
    elif len(np.unique(numbers)) == len(numbers):
        yield "id-like: whole numbers, another one in every row (--id, --time, or leave it out)"


def _remarks_on_texts(texts: pd.Series[Any], column: pd.Series[Any]) -> Iterator[str]:
    dates = texts.str.fullmatch(_DATE)
    are_numbers = pd.to_numeric(texts.str.strip(), errors="coerce").notna()
    if dates.mean() > 0.9:
        yield "date-like: dates or times (--time?)"
    elif 0.5 <= are_numbers.mean() < 1:
        place = np.flatnonzero(column.notna())[int(np.argmin(are_numbers))]
        yield f"{are_numbers.mean():.1%} of its values are numbers, but row {place} has {column.iloc[place]!r}"
    elif len(texts) >= _MANY and texts.nunique() == len(texts):
        yield "id-like: another text in every row (--id, or leave it out)"


def _leaks(column: pd.Series[Any], kind: str, labels: Labels) -> Iterator[str]:
    """Yield how a feature tells the labels, if it does."""
    anomalous, labelled = labels == ANOMALY, labels != UNKNOWN
    if anomalous.sum() < _FEW or (labels == NORMAL).sum() < _FEW:
        return
    if kind in ("number", "boolean"):
        rows = labelled & column.notna().to_numpy()
        area = _area(column[rows].to_numpy(dtype=np.float64), anomalous[rows])
        if area > 0.999:
            yield f"leaks the label? It tells anomalies from normal rows by itself (AUROC {area:.4f})"
            return
    codes, levels = pd.factorize(column[labelled], use_na_sentinel=False)
    if len(levels) > _LEVELS or anomalous[labelled].mean() > 0.5:
        return
    rows_of = np.bincount(codes, minlength=len(levels))
    shares = np.bincount(codes, weights=anomalous[labelled], minlength=len(levels)) / rows_of
    for level in np.flatnonzero((shares == 1) & (rows_of >= _MANY)):
        shown = "without a value" if pd.isna(levels[level]) else f"with the value {_shown(levels[level])}"
        yield f"leaks the label? All {rows_of[level]} rows {shown} are anomalies"


def _area(values: np.ndarray[Any, np.dtype[np.float64]], anomalous: np.ndarray[Any, np.dtype[np.bool_]]) -> float:
    """Return the area under the ROC curve of a column, in either direction; 0 where a class has few rows."""
    n, m = int(anomalous.sum()), int((~anomalous).sum())
    if n < _FEW or m < _FEW:
        return 0.0
    ranks = pd.Series(values).rank().to_numpy()
    area = (ranks[anomalous].sum() - n * (n + 1) / 2) / (n * m)
    return float(max(area, 1 - area))
