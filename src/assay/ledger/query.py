"""A user's file of rows, matched to stored rows by row id, or by the fingerprint of their content."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from assay.arrays import Flags, Texts
from assay.data.batches import batch_rows
from assay.data.blocks import read_frame
from assay.data.columns import features_of
from assay.data.dataset import read_dataset
from assay.data.dialects import OBSERVED, Dialect
from assay.data.files import texts_of
from assay.data.fingerprints import FINGERPRINT_PATTERN, FIRST_SCHEME, SCHEME, fingerprints
from assay.data.image_datasets import ImageBlocks, holds_images, shape_of_columns
from assay.data.windows import Windows
from assay.data.words import WORD_COLUMNS, document_rows, plain_document
from assay.errors import DataError
from assay.ledger.rows import INJECTED
from assay.ledger.spans import STRETCH_COLUMNS, spans_over, stretch_columns

CONTENT, PRINT, ID = "content", "fingerprint", "row_id"
NO_IDS = "the rows have no ids, so they are matched by content: other rows of equal content count too"
SUSPECT = "suspect"
_TRUE, _FALSE = ("1", "1.0", "true"), ("0", "0.0", "false", "")


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a version of a dataset, the id column of the user's files, and which hold categories or dates.

    A dataset of texts has one column, of documents. Rows that are windows of series have `windows`.
    """

    dataset: str
    columns: tuple[str, ...]
    id_column: str | None = None
    coded: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()
    of_texts: bool = False
    windows: Windows | None = None


@dataclass(frozen=True, slots=True)
class RowQuery:
    """The rows of a user's file, with the keys by which the ledger finds them.

    Attributes
    ----------
    path : Path
    by : {"row_id", "content", "fingerprint"}
        What the rows are matched by.
    n_rows : int
    keys : DataFrame
        ``place`` (of the row in the file, from 0), ``dataset`` (None: any), ``key``: the row id, or the fingerprint in
        hex, and ``scheme``: that of a fingerprint computed here, else 0. A row has several keys where several layouts
        fit, and by content one of each scheme, since runs and scorers may know it by either. Where rows are matched by
        id and the file also tells their content, ``fingerprint``: the row must have it too.
    row_ids : ndarray of str, shape (n_rows,)
        Ids in the file, "" where there are none.
    notes : tuple of str
    batch : str or None
        The batch that the rows are, where they are not those of a file.
    """

    path: Path
    by: str
    n_rows: int
    keys: pd.DataFrame
    row_ids: Texts
    notes: tuple[str, ...]
    batch: str | None = None

    @property
    def argument(self) -> str:
        """The rows as an argument of a command."""
        return str(self.path) if self.batch is None else f"--batch {self.batch}"

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets whose columns fit; empty where rows are matched by fingerprint."""
        return sorted(set(self.keys["dataset"].dropna()))

    @property
    def different(self) -> int:
        """Number of different rows in the file; where several layouts fit, the largest of their numbers."""
        layout = self.keys.groupby(["dataset", "place"], dropna=False).cumcount()
        return int(self.keys.groupby([self.keys["dataset"], layout], dropna=False)["key"].nunique().max())


def read_query(
    path: Path,
    layouts: Sequence[Layout],
    *,
    dataset: str | None = None,
    content: bool = False,
    dialect: Dialect = OBSERVED,
    spans: Callable[[str], pd.DataFrame] | None = None,
) -> RowQuery:
    """Read a CSV or Parquet file of rows.

    The content of a row is told by a column ``fingerprint`` if the file has one, else by the feature columns if it has
    every one of a dataset, in any order. Rows are matched by a column ``row_id``, or the id column that the dataset was
    ingested with, and by their content too if the file tells it. Without ids they are matched by content alone, which
    matches every copy of a row. If a file with fingerprints has a column ``suspect``, only rows with a true value in it
    are used; rows that a column ``injected`` marks are left out.

    A file of steps of series, told by the column of times and that of entities, or of stretches of time, with ``start``
    and ``end`` in place of the former, stands for the windows that hold any of them.

    Parameters
    ----------
    path : Path
    layouts : sequence of Layout
        The known versions of the project's datasets.
    dataset : str, optional
        Search this dataset alone.
    content : bool
        Whether to match by content alone even where there are ids.
    dialect : Dialect
        How a CSV file is written.
    spans : callable, optional
        Returns the windows of a dataset (`assay.ledger.spans.spans_of`).

    Raises
    ------
    DataError
        The file cannot be used, there is no such dataset, the columns fit none, or they do not tell the content that
        rows are to be matched by.
    """
    dataset_names = sorted({layout.dataset for layout in layouts})
    if dataset is not None and dataset not in dataset_names:
        raise DataError(f"there is no dataset {dataset!r}; there are {', '.join(dataset_names) or 'none'}")
    if not dataset_names:
        raise DataError("no dataset is known here; add one with `assay ingest`")
    layouts = [layout for layout in layouts if dataset in (None, layout.dataset)]
    features = {column for layout in layouts for column in layout.columns}
    ids = {PRINT, ID, *(layout.id_column for layout in layouts if layout.id_column)} - features
    plans = {layout: layout.windows for layout in layouts if layout.windows is not None}
    timed = {
        column for plan in plans.values() for column in (plan.time, plan.entity, *STRETCH_COLUMNS) if column
    } - features
    coded = {column for layout in layouts for column in (*layout.coded, *layout.dates)}
    if holds_images(path):
        return _by_pixels(path, layouts)
    frame = read_frame(path, (), texts={*ids, *timed, *coded, *({SUSPECT, INJECTED} - features)}, dialect=dialect)
    header = [str(column) for column in frame.columns]
    fits = [layout for layout in layouts if set(layout.columns) <= set(header)]
    if PRINT in header and not any(PRINT in layout.columns for layout in fits):
        frame = _as_written(path, frame, {PRINT, ID, SUSPECT, INJECTED} & features, dialect)
        query = _by_fingerprint(path, frame, dataset)
        return query if content else _with_ids(query, sorted({layout.dataset for layout in layouts}))
    between = {layout: columns for layout, plan in plans.items() if (columns := stretch_columns(plan, header))}
    if fits:
        query = _by_content(path, frame, fits)
        if unasked := sorted({layout.dataset for layout in between} - {layout.dataset for layout in fits}):
            note = f"windows of {' and '.join(unasked)} that hold such steps are not counted: name one with --dataset"
            query = replace(query, notes=(*query.notes, note))
        return query if content else _with_ids(query, query.datasets)
    if content:
        raise DataError(f"{_missing(path, header, layouts)}; row ids alone do not tell the content")
    id_columns = {layout.dataset: column for layout in layouts if (column := _id_column(layout, header))}
    if not id_columns and between and spans is not None:
        named = {column for layout, columns in between.items() for column in (*columns, plans[layout].entity) if column}
        return _by_steps(path, _as_written(path, frame, named & features, dialect), between, spans)
    if not id_columns:
        raise DataError(_missing(path, header, layouts))
    return _by_id(path, _as_written(path, frame, {*id_columns.values()} & features, dialect), id_columns)


def _by_pixels(path: Path, layouts: Sequence[Layout]) -> RowQuery:
    """Return images by their pixels in each of the sizes and colours that the datasets of images have, or had."""
    fits = [layout for layout in layouts if shape_of_columns(layout.columns) is not None]
    if not fits:
        raise DataError(f"{path.name} holds images, and no dataset here is of images")
    queries = []
    for columns in dict.fromkeys(layout.columns for layout in fits):
        blocks = ImageBlocks(path, columns)
        frame = next(iter(blocks.frames(blocks.n_rows)))
        queries.append(_by_content(path, frame, [layout for layout in fits if layout.columns == columns]))
    return replace(queries[0], keys=pd.concat([query.keys for query in queries], ignore_index=True))


def _with_ids(query: RowQuery, datasets: Sequence[str]) -> RowQuery:
    """Return a query by content as one by id and content, if every row of the file has an id."""
    if (query.row_ids == "").any() or not query.n_rows:
        return replace(query, notes=(*query.notes, NO_IDS))
    keys = query.keys.rename(columns={"key": "fingerprint"})
    if keys["dataset"].isna().any():
        keys = pd.concat([keys.assign(dataset=name) for name in datasets], ignore_index=True)
    keys = keys.assign(key=query.row_ids[keys["place"].to_numpy()])
    return replace(query, by=ID, keys=keys)


def query_of_batch(root: Path, batch: str, *, dataset: str | None = None) -> RowQuery:
    """Return the rows of a batch of a dataset in ``data/``, matched by row id; also of a batch that was dropped.

    Raises
    ------
    DataError
        No dataset, or more than one, has or had the batch.
    """
    found = {}
    for card in sorted((root / "data").glob("*/card.json")):
        if dataset in (None, card.parent.name) and len(rows := batch_rows(read_dataset(card.parent), batch)):
            found[card.parent.name] = rows
    if len(found) != 1:
        problem = f"is in {' and '.join(found)}; name one with --dataset" if found else "is in no dataset here"
        raise DataError(f"batch {batch!r} {problem}; `assay data log` lists batches")
    ((name, rows),) = found.items()
    ids = rows["row_id"].to_numpy(dtype=object)
    keys = pd.DataFrame({"place": np.arange(len(ids)), "dataset": name, "scheme": 0, "key": ids})
    return RowQuery(Path(f"batch {batch}"), ID, len(ids), keys, ids, (), batch)


def _as_written(path: Path, frame: pd.DataFrame, columns: set[str], dialect: Dialect) -> pd.DataFrame:
    """Read the frame again as texts if `columns`, which are features of other datasets, were read as numbers."""
    return read_frame(path, (), texts=[*map(str, frame.columns)], dialect=dialect) if columns else frame


def _id_column(layout: Layout, header: list[str]) -> str | None:
    names = (ID, layout.id_column)
    return next((name for name in names if name in header and name not in layout.columns), None)


def _missing(path: Path, header: list[str], layouts: Sequence[Layout]) -> str:
    """Return the message about the columns that the file lacks, for the dataset that lacks the fewest."""
    gaps = {layout: [name for name in layout.columns if name not in header] for layout in layouts}
    nearest = min(layouts, key=lambda layout: len(gaps[layout]))
    lacks, name = gaps[nearest], nearest.dataset
    shown = ", ".join(map(repr, lacks[:6])) + (", ..." if len(lacks) > 6 else "")
    ids = " or ".join(dict.fromkeys(filter(None, (ID, nearest.id_column))))
    return (
        f"{path.name} lacks {len(lacks)} of the {len(nearest.columns)} feature columns of dataset {name} ({shown}); "
        f"add them, or a column {ids} of row ids, or a column {PRINT}{_or_steps(nearest)}"
    )


def _or_steps(layout: Layout) -> str:
    if layout.windows is None:
        return ""
    whose = "" if layout.windows.entity is None else f", with {layout.windows.entity!r}"
    return f", or times of steps in a column {layout.windows.time!r} (or {' and '.join(STRETCH_COLUMNS)}){whose}"


def _by_fingerprint(path: Path, frame: pd.DataFrame, dataset: str | None) -> RowQuery:
    prints = np.array([text.strip().lower() for text in texts_of(frame[PRINT])], dtype=object)
    for number, text in enumerate(prints):
        if not FINGERPRINT_PATTERN.fullmatch(text):
            raise DataError(f"{path.name}, row {number}: {text!r} is not a fingerprint (32 hex digits); correct it")
    keys = pd.DataFrame({"place": np.arange(len(frame)), "dataset": dataset, "scheme": 0, "key": prints})
    notes: tuple[str, ...] = ()
    if SUSPECT in frame.columns:
        marked = _marked(path, frame)
        notes = (f"{int(marked.sum())} of {len(frame)} rows are marked as suspect; only these are used",)
        keys, frame = keys[marked].assign(place=np.arange(marked.sum())), frame[marked]
    return RowQuery(path, PRINT, len(frame), keys, _ids(frame, ID), notes)


def _marked(path: Path, frame: pd.DataFrame) -> Flags:
    """Return the mask of suspects, without rows that were injected on purpose."""
    suspect, injected = (_flags(path, frame, name) for name in (SUSPECT, INJECTED))
    if not (suspect & ~injected).any():
        raise DataError(
            f"{path.name} marks no row as {SUSPECT}, apart from injected ones; there is nothing to search for"
        )
    return suspect & ~injected


def _flags(path: Path, frame: pd.DataFrame, name: str) -> Flags:
    if name not in frame.columns:
        return np.zeros(len(frame), dtype=bool)
    plain = [text.strip().lower() for text in texts_of(frame[name])]
    for number, text in enumerate(plain):
        if text not in (*_TRUE, *_FALSE):
            raise DataError(f"{path.name}, row {number}: {name} is {text!r}; allowed are 0, 1, true and false")
    return np.isin(plain, _TRUE)


def _by_content(path: Path, frame: pd.DataFrame, fits: list[Layout]) -> RowQuery:
    parts: list[pd.DataFrame] = []
    faults: list[DataError] = []
    for layout in fits:
        for scheme in (SCHEME,) if layout.coded or layout.dates else (SCHEME, FIRST_SCHEME):
            try:
                prints = _prints(frame, layout, scheme)
            except DataError as error:  # rows of another dataset, or of another version
                faults.append(error)
                continue
            places = np.arange(len(frame))
            parts.append(pd.DataFrame({"place": places, "dataset": layout.dataset, "scheme": scheme, "key": prints}))
    if not parts:
        raise faults[0]
    keys = pd.concat(parts, ignore_index=True).drop_duplicates()
    id_column = next(filter(None, (_id_column(layout, list(map(str, frame.columns))) for layout in fits)), ID)
    used = {id_column, *(column for layout in fits for column in layout.columns)}
    return RowQuery(path, CONTENT, len(frame), keys, _ids(frame, id_column), _ignored(frame, used))


def _prints(frame: pd.DataFrame, layout: Layout, scheme: int) -> Texts:
    """Return the contents of the rows of a file, as rows of a dataset."""
    if layout.of_texts:
        (name,) = layout.columns
        texts = [plain_document(value, f"row {row}, column {name!r}") for row, value in enumerate(frame[name])]
        return fingerprints(document_rows(texts), WORD_COLUMNS, scheme=scheme).astype(object)
    rows = features_of(frame, layout.columns, dict.fromkeys(layout.coded, ()), layout.dates)
    return fingerprints(rows.rows, layout.columns, scheme=scheme, vocabulary=rows.vocabulary).astype(object)


def _by_id(path: Path, frame: pd.DataFrame, id_columns: dict[str, str]) -> RowQuery:
    parts = [
        pd.DataFrame({"place": np.arange(len(frame)), "dataset": name, "scheme": 0, "key": texts_of(frame[column])})
        for name, column in id_columns.items()
    ]
    column = next(iter(id_columns.values()))
    keys = pd.concat(parts, ignore_index=True)
    return RowQuery(path, ID, len(frame), keys, _ids(frame, column), _ignored(frame, {*id_columns.values()}))


def _by_steps(
    path: Path,
    frame: pd.DataFrame,
    between: Mapping[Layout, tuple[str, str]],
    spans: Callable[[str], pd.DataFrame],
) -> RowQuery:
    """Return the windows that hold steps, or stretches of time, of a file."""
    parts, notes = [], []
    for layout, columns in between.items():
        assert layout.windows is not None
        ids, outside = spans_over(path, frame, layout.windows, spans(layout.dataset), columns)
        parts.append(pd.DataFrame({"dataset": layout.dataset, "scheme": 0, "key": ids}))
        notes.append(
            f"of the {len(frame)} rows of {path.name}, {len(frame) - outside} lie in windows of {layout.dataset}, and "
            f"{outside} in none; counted are windows, and all of a window's steps count with it"
        )
    keys = pd.concat(parts, ignore_index=True)
    if keys.empty:
        names = " or ".join(layout.dataset for layout in between)
        raise DataError(f"no window of {names} holds any of the {len(frame)} steps of {path.name}; no run used them")
    keys["place"] = np.arange(len(keys))
    return RowQuery(path, ID, len(keys), keys, keys["key"].to_numpy(dtype=object), tuple(notes))


def _ids(frame: pd.DataFrame, column: str) -> Texts:
    if column not in frame.columns:
        return np.full(len(frame), "", dtype=object)
    return texts_of(frame[column]).to_numpy(dtype=object)


def _ignored(frame: pd.DataFrame, used: set[str]) -> tuple[str, ...]:
    extra = [str(column) for column in frame.columns if str(column) not in used]
    shown = ", ".join(map(repr, extra[:6])) + (", ..." if len(extra) > 6 else "")
    return (f"not used: column{'s' * (len(extra) > 1)} {shown}",) if extra else ()
