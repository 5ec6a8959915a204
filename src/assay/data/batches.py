"""Batches: the rows that one ingest brought, named by their content or by the user."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from assay.arrays import Integers
from assay.data.card import Arrival
from assay.data.columns import recoded
from assay.data.dataset import MASK, Dataset, RowSet, csv_pieces, number_copies, numbered
from assay.data.fingerprints import SCHEME
from assay.data.mapped import flattened_rows
from assay.data.npy import npy_pieces
from assay.data.words import require_different_codes, words_in
from assay.errors import DataError

LISTED = ["batch", "row_id", "fingerprint", "copy"]
GIVEN = ("label", "group", "time", "category")
BATCH_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,58}[A-Za-z0-9])?")


def as_batch(dataset: Dataset, batch: str | None = None) -> Dataset:
    """Return a dataset whose rows are one batch, its first: with the column ``batch``, and the batch on its card.

    Parameters
    ----------
    dataset : Dataset
    batch : str, optional
        The batch's id; by default that of its content (`content_id`).

    Raises
    ------
    DataError
        The id is not allowed.
    """
    content = content_id(dataset)
    if batch is not None and not BATCH_NAME.fullmatch(batch):
        raise DataError(
            f"the batch's id is {batch!r}; use up to 60 letters, digits, '.', '-' and '_', "
            "with a letter or digit at both ends"
        )
    arrival = Arrival(content if batch is None else batch, content, len(dataset.data), dataset.card.source)
    data = RowSet(dataset.data.features, dataset.data.rows.assign(batch=arrival.batch))
    return replace(dataset, card=replace(dataset.card, batches=(arrival,)), data=data)


def content_id(dataset: Dataset) -> str:
    """Return 12 hex digits that name the rows of a dataset: the same rows in the same order have the same.

    The start of the SHA-256 of columns, features and what the user gave for each row; ids that were given by counting
    are left out. Where columns hold categories, the contents of the rows stand for the features, since codes depend on
    what the dataset held before.
    """
    card, rows = dataset.card, dataset.data.rows
    given = [name for name in GIVEN if name in rows] + (["row_id"] if card.id_column else [])
    digest = hashlib.sha256("\x1f".join(card.columns).encode())
    if card.vocabulary:
        digest.update("".join(card.fingerprints(dataset.data.features, SCHEME)).encode())
    else:
        digest.update(repr([]).encode())
        for piece in npy_pieces(dataset.data.features):
            digest.update(piece)
    for piece in csv_pieces(rows[given]):
        digest.update(piece)
    return digest.hexdigest()[:12]


def with_batch(dataset: Dataset, arriving: Dataset, batch: str | None = None) -> Dataset:
    """Return a dataset with the rows of another one as one more batch, after its own.

    Rows without ids of their own are numbered within their batch: "<batch>-<row number>"; windows of series are named
    by series and time. Copies of a content are numbered on, after every one that the dataset has or had.

    Parameters
    ----------
    dataset : Dataset
    arriving : Dataset
        Its columns may have another order.
    batch : str, optional
        Id of the batch; by default that of its content.

    Raises
    ------
    DataError
        The batch was seen before, its columns are others, or an id is one of an earlier row.
    """
    dataset = numbered(dataset if dataset.card.batches else as_batch(dataset))  # of format 1
    arriving = as_batch(_in_order(arriving, dataset), batch)
    vocabulary = arriving.card.vocabulary
    (arrival,) = arriving.card.batches
    for earlier in dataset.card.batches:
        if arrival.batch == earlier.batch or (batch is None and arrival.content == earlier.content):
            what = "was dropped from" if earlier.dropped else "is in"
            raise DataError(
                f"batch {earlier.batch} ({earlier.rows} rows from {earlier.source}) {what} dataset "
                f"{dataset.card.name} already; nothing was changed. If these are other rows, give them an id of their "
                "own with --batch"
            )
    rows = arriving.data.rows
    if arriving.card.id_column is None and arriving.card.windows is None:
        rows = rows.assign(row_id=[f"{arrival.batch}-{number:07d}" for number in range(len(rows))])
    _require_new_ids(dataset, rows)
    rows = rows.assign(copy=_next_copies(dataset, arriving))
    own = dataset.data.rows
    if MASK in own or MASK in rows:
        own, rows = (each if MASK in each else each.assign(**{MASK: ""}) for each in (own, rows))
    data = RowSet(
        flattened_rows(dataset.data.features, arriving.data.features),
        pd.concat([own, rows[list(own.columns)]], ignore_index=True),
    )
    words = tuple(dict.fromkeys((*dataset.card.words, *arriving.card.words)))
    require_different_codes(words)
    card = replace(dataset.card, batches=(*dataset.card.batches, arrival), vocabulary=vocabulary, words=words)
    return replace(dataset, card=card, data=data)


def with_vocabulary(dataset: Dataset, former: Mapping[str, tuple[str, ...]]) -> Dataset:
    """Return a dataset whose codes of categories are those of a former vocabulary, with its own new texts after it.

    So a code means the same in every version of a dataset.
    """
    card, values = dataset.card, dataset.data.features
    extended = {
        name: (*former.get(name, ()), *(text for text in texts if text not in former.get(name, ())))
        for name, texts in card.vocabulary.items()
    }
    codes = recoded(values, card.columns, card.vocabulary, extended)
    return replace(dataset, card=replace(card, vocabulary=extended), data=RowSet(codes, dataset.data.rows))


def without_batch(dataset: Dataset, batch: str) -> Dataset:
    """Return a dataset without the rows of a batch; they stay listed in its dropped rows, so that nothing is reused.

    Raises
    ------
    DataError
        There is no such batch, or it is the only one.
    """
    kept = {arrival.batch for arrival in dataset.card.batches if not arrival.dropped}
    if batch not in kept:
        raise DataError(
            f"dataset {dataset.card.name} has no batch {batch!r}; it has {', '.join(sorted(kept)) or 'none on record'}"
        )
    if len(kept) == 1:
        raise DataError(f"batch {batch} is all that dataset {dataset.card.name} has; ingest other rows in its place")
    gone = (dataset.data.rows["batch"] == batch).to_numpy(dtype=bool)
    lost = _known_rows(replace(dataset, data=dataset.data.take(gone)))
    arrivals = (replace(a, dropped=True) if a.batch == batch else a for a in dataset.card.batches)
    data = dataset.data.take(~gone)
    # What was dropped may have been dropped for what it says; of texts nothing is left but hashes.
    words = words_in(data.features, dataset.card.words)
    card = replace(dataset.card, batches=tuple(arrivals), words=words)
    return replace(dataset, card=card, data=data, dropped=lost)


def batch_rows(dataset: Dataset, batch: str) -> pd.DataFrame:
    """Return ``batch``, ``row_id``, ``fingerprint`` and ``copy`` of the rows of a batch, maybe dropped; maybe none."""
    rows = _known_rows(dataset)
    return rows[rows["batch"] == batch].reset_index(drop=True)


def _known_rows(dataset: Dataset) -> pd.DataFrame:
    """Return ``batch``, ``row_id``, ``fingerprint`` and ``copy`` of the rows that a dataset has or had."""
    rows = dataset.data.rows.assign(fingerprint=dataset.card.fingerprints(dataset.data.features))
    rows = (rows if "batch" in rows else rows.assign(batch=""))[LISTED]
    return rows if dataset.dropped is None else pd.concat([dataset.dropped, rows], ignore_index=True)


def _next_copies(dataset: Dataset, arriving: Dataset) -> Integers:
    """Return the numbers of the copies that arriving rows are, of shape (n,)."""
    prints = pd.Series(arriving.card.fingerprints(arriving.data.features, dataset.card.scheme))
    taken = _known_rows(dataset).groupby("fingerprint")["copy"].max()
    first_free = prints.map(taken + 1).fillna(0).to_numpy(dtype=np.int64)
    return np.asarray(first_free + number_copies(prints.to_numpy()))


def _in_order(arriving: Dataset, dataset: Dataset) -> Dataset:
    """Return the arriving dataset as part of the other one: its columns in the same order, its rows described alike."""
    expected, columns = dataset.card.columns, arriving.card.columns
    if sorted(columns) != sorted(expected):
        odd = [*(c for c in columns if c not in expected), *(c for c in expected if c not in columns)]
        raise DataError(
            f"{arriving.card.source} has other feature columns than dataset {dataset.card.name}: {odd[0]!r} is only in "
            "one of them; nothing was changed"
        )
    if ("category" in arriving.data.rows) != ("category" in dataset.data.rows):
        raise DataError(
            f"{arriving.card.source} and dataset {dataset.card.name} do not both have categories; nothing was changed"
        )
    if (arriving.card.id_column is None) != (dataset.card.id_column is None):
        raise DataError(
            f"{arriving.card.source} and dataset {dataset.card.name} do not both have a column of row ids (--id); "
            "nothing was changed"
        )
    order = [columns.index(name) for name in expected]
    arriving = with_vocabulary(arriving, dataset.card.vocabulary)
    return Dataset(
        replace(arriving.card, columns=expected), RowSet(arriving.data.features[:, order], arriving.data.rows)
    )


def _require_new_ids(dataset: Dataset, rows: pd.DataFrame) -> None:
    """Raise `DataError` for an id that a row of the dataset has or had."""
    taken = [dataset.data.rows["row_id"], *([] if dataset.dropped is None else [dataset.dropped["row_id"]])]
    repeated = rows["row_id"][rows["row_id"].isin(pd.concat(taken))]
    if len(repeated):
        raise DataError(
            f"row {repeated.index[0]} has the row id {repeated.iloc[0]!r} of an earlier row of dataset "
            f"{dataset.card.name}; nothing was changed"
        )
