"""A user's file of rows, and how its rows are told: by their content's fingerprint, or by their id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from assay.data.dataset import FINGERPRINT_PATTERN, fingerprints
from assay.data.files import features_of, read_frame, texts_of
from assay.errors import DataError
from assay.ledger.rows import INJECTED

CONTENT, PRINT, ID = "content", "fingerprint", "row_id"
SUSPECT = "suspect"
_TRUE, _FALSE = ("1", "1.0", "true"), ("0", "0.0", "false", "")


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns that some version of a dataset has, and what its column of ids is called in the user's files."""

    dataset: str
    columns: tuple[str, ...]
    id_column: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """Rows that somebody asks about.

    Attributes
    ----------
    path : Path
    by : {"content", "fingerprint", "row_id"}
        What its rows are told by.
    n_rows : int
    keys : DataFrame
        ``place`` (of the row in the file, from 0), ``dataset`` (None: any) and ``key``: the fingerprint
        in hex, or the row id. A place has several keys where several layouts fit.
    row_ids : ndarray of str, shape (n_rows,)
        Ids in the file, "" where there are none.
    notes : tuple of str
    """

    path: Path
    by: str
    n_rows: int
    keys: pd.DataFrame
    row_ids: np.ndarray[Any, np.dtype[np.object_]]
    notes: tuple[str, ...]

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets whose columns fit; empty where rows are told by fingerprint."""
        return sorted(set(self.keys["dataset"].dropna()))

    @property
    def different(self) -> int:
        """How many rows of the file differ from one another; where several layouts fit, by the one that says most."""
        layout = self.keys.groupby(["dataset", "place"], dropna=False).cumcount()
        return int(self.keys.groupby([self.keys["dataset"], layout], dropna=False)["key"].nunique().max())


def read_asked(path: Path, layouts: Sequence[Layout], *, dataset: str | None = None) -> Asked:
    """Read a CSV or Parquet file of rows.

    They are told by a column ``fingerprint`` if the file has one; else by content if it has every feature column of
    a dataset, in any order; else by a column ``row_id``, or what the dataset's ids were called when it was ingested.
    Where a file with fingerprints has a column ``suspect``, only the rows that it marks are asked about, and of those
    only what a column ``injected`` does not mark as injected on purpose.

    Parameters
    ----------
    path : Path
    layouts : sequence of Layout
        All that is known of the project's datasets.
    dataset : str, optional
        Ask about this dataset alone.

    Raises
    ------
    DataError
        The file cannot be used, there is no such dataset, or the columns fit none.
    """
    known = sorted({layout.dataset for layout in layouts})
    if dataset is not None and dataset not in known:
        raise DataError(f"there is no dataset {dataset!r}; there are {', '.join(known) or 'none'}")
    if not known:
        raise DataError("no dataset is known here; bring one in with `assay ingest`")
    layouts = [layout for layout in layouts if dataset in (None, layout.dataset)]
    features = {column for layout in layouts for column in layout.columns}
    ids = {PRINT, ID, *(layout.id_column for layout in layouts if layout.id_column)} - features
    frame = read_frame(path, (), texts={*ids, *({SUSPECT, INJECTED} - features)})
    header = [str(column) for column in frame.columns]
    fits = [layout for layout in layouts if set(layout.columns) <= set(header)]
    if PRINT in header and not any(PRINT in layout.columns for layout in fits):
        return _by_fingerprint(path, _as_written(path, frame, {PRINT, ID, SUSPECT, INJECTED} & features), dataset)
    if fits:
        return _by_content(path, frame, fits)
    named = {layout.dataset: column for layout in layouts if (column := _id_column(layout, header))}
    if not named:
        raise DataError(_missing(path, header, layouts))
    return _by_id(path, _as_written(path, frame, {*named.values()} & features), named)


def _as_written(path: Path, frame: pd.DataFrame, columns: set[str]) -> pd.DataFrame:
    """Return the frame with `columns` as texts: of those that were read as numbers, being features elsewhere."""
    return read_frame(path, (), texts=[*map(str, frame.columns)]) if columns else frame


def _id_column(layout: Layout, header: list[str]) -> str | None:
    wanted = (ID, layout.id_column)
    return next((name for name in wanted if name in header and name not in layout.columns), None)


def _missing(path: Path, header: list[str], layouts: Sequence[Layout]) -> str:
    """Say which columns are missing for the dataset that lacks the fewest."""
    gaps = {layout: [name for name in layout.columns if name not in header] for layout in layouts}
    nearest = min(layouts, key=lambda layout: len(gaps[layout]))
    lacks, name = gaps[nearest], nearest.dataset
    shown = ", ".join(map(repr, lacks[:6])) + (", ..." if len(lacks) > 6 else "")
    ids = " or ".join(dict.fromkeys(filter(None, (ID, nearest.id_column))))
    return (
        f"{path.name} lacks {len(lacks)} of the {len(nearest.columns)} feature columns of dataset {name} ({shown}); "
        f"add them, or a column {ids} of row ids, or a column {PRINT}"
    )


def _by_fingerprint(path: Path, frame: pd.DataFrame, dataset: str | None) -> Asked:
    prints = np.array([text.strip().lower() for text in texts_of(frame[PRINT])], dtype=object)
    for place, text in enumerate(prints):
        if not FINGERPRINT_PATTERN.fullmatch(text):
            raise DataError(f"{path.name}, row {place}: {text!r} is not a fingerprint (32 hex digits); mend it")
    keys = pd.DataFrame({"place": np.arange(len(frame)), "dataset": dataset, "key": prints})
    notes: tuple[str, ...] = ()
    if SUSPECT in frame.columns:
        marked = _marked(path, frame)
        notes = (f"{int(marked.sum())} of {len(frame)} rows are marked as suspect; only these are meant",)
        keys, frame = keys[marked].assign(place=np.arange(marked.sum())), frame[marked]
    return Asked(path, PRINT, len(frame), keys, _ids(frame, ID), notes)


def _marked(path: Path, frame: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return the mask of suspects, without rows that were injected on purpose."""
    suspect, injected = (_flags(path, frame, name) for name in (SUSPECT, INJECTED))
    if not (suspect & ~injected).any():
        raise DataError(f"{path.name} marks no row as {SUSPECT} but injected ones; there is nothing to ask about")
    return suspect & ~injected


def _flags(path: Path, frame: pd.DataFrame, name: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    if name not in frame.columns:
        return np.zeros(len(frame), dtype=bool)
    plain = [text.strip().lower() for text in texts_of(frame[name])]
    for place, text in enumerate(plain):
        if text not in (*_TRUE, *_FALSE):
            raise DataError(f"{path.name}, row {place}: {name} is {text!r}; allowed are 0, 1, true and false")
    return np.isin(plain, _TRUE)


def _by_content(path: Path, frame: pd.DataFrame, fits: list[Layout]) -> Asked:
    parts = [
        pd.DataFrame(
            {
                "place": np.arange(len(frame)),
                "dataset": layout.dataset,
                "key": fingerprints(features_of(frame, layout.columns), layout.columns).astype(object),
            }
        )
        for layout in fits
    ]
    keys = pd.concat(parts, ignore_index=True).drop_duplicates()
    named = next(filter(None, (_id_column(layout, list(map(str, frame.columns))) for layout in fits)), ID)
    used = {named, *(column for layout in fits for column in layout.columns)}
    return Asked(path, CONTENT, len(frame), keys, _ids(frame, named), _ignored(frame, used))


def _by_id(path: Path, frame: pd.DataFrame, named: dict[str, str]) -> Asked:
    parts = [
        pd.DataFrame({"place": np.arange(len(frame)), "dataset": name, "key": texts_of(frame[column])})
        for name, column in named.items()
    ]
    column = next(iter(named.values()))
    keys = pd.concat(parts, ignore_index=True)
    return Asked(path, ID, len(frame), keys, _ids(frame, column), _ignored(frame, {*named.values()}))


def _ids(frame: pd.DataFrame, column: str) -> np.ndarray[Any, np.dtype[np.object_]]:
    return texts_of(frame[column]) if column in frame.columns else np.full(len(frame), "", dtype=object)


def _ignored(frame: pd.DataFrame, used: set[str]) -> tuple[str, ...]:
    extra = [str(column) for column in frame.columns if str(column) not in used]
    shown = ", ".join(map(repr, extra[:6])) + (", ..." if len(extra) > 6 else "")
    return (f"not used: column{'s' * (len(extra) > 1)} {shown}",) if extra else ()
