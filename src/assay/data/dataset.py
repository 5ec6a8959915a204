"""Row sets and datasets: features and a table of ids, labels and groups, as files with reproducible bytes."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assay.arrays import Integers, Labels, Singles, Texts
from assay.data.modalities.base import Modality
from assay.data.modalities.registry import modality_fields, read_modality
from assay.errors import DataError, TamperedError
from assay.hashing import hash_file
from assay.parts import read_json, write_bytes, write_json

NORMAL, ANOMALY, UNKNOWN = 0, 1, -1
OPTIONAL = ("id_column", "category_column")
SEALED = ("features.npy", "rows.csv")
FINGERPRINT_PATTERN = re.compile(r"[0-9a-f]{32}")
MADE = -1


@dataclass(frozen=True, slots=True)
class RowSet:
    """Some rows of a dataset.

    Attributes
    ----------
    features : ndarray of float32, shape (n, d)
    rows : DataFrame of n rows
        At least ``row_id`` (str) and ``label`` (int8; 0 normal, 1 anomaly, -1 unknown); ``group`` and
        ``time`` (str, "" where there is none), ``category`` (str) where the dataset has categories, and further
        columns that a stage adds. ``copy`` (int64) is the row's number among the rows of equal content, in order of
        arrival, and `MADE` for synthetic rows, which are in no dataset.
    """

    features: Singles
    rows: pd.DataFrame

    def __len__(self) -> int:
        return len(self.features)

    @property
    def labels(self) -> Labels:
        """Labels of shape (n,): 0 normal, 1 anomaly, -1 unknown."""
        return self.rows["label"].to_numpy(dtype=np.int8)

    def take(self, mask: NDArray[Any]) -> RowSet:
        """Return the rows that a boolean mask or an index array picks, in order."""
        picked = np.flatnonzero(mask) if mask.dtype == np.bool_ else mask
        return RowSet(self.features[picked], self.rows.iloc[picked].reset_index(drop=True))


@dataclass(frozen=True, slots=True)
class Card:
    """The description of a dataset; written as ``card.json``.

    Attributes
    ----------
    name : str
    modality : Modality
        Stored as its name, and its shape as ``<name>_shape``.
    columns : tuple of str
        Feature names, in the order of the feature array's columns.
    source : str
        Origin of the data, for people.
    id_column : str or None
        Column of row ids in the user's file, if any.
    category_column : str or None
        Column of categories in the user's file, if any.
    """

    name: str
    modality: Modality
    columns: tuple[str, ...]
    source: str
    id_column: str | None = None
    category_column: str | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """A named set of rows with its card."""

    card: Card
    data: RowSet


def write_rows(folder: Path, data: RowSet) -> None:
    """Write ``features.npy`` (little-endian float32, C order) and ``rows.csv`` (UTF-8, LF)."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(data.features, dtype="<f4"), allow_pickle=False)
    write_bytes(folder / "features.npy", buffer.getvalue())
    write_bytes(folder / "rows.csv", data.rows.to_csv(index=False, lineterminator="\n").encode())


def read_rows(folder: Path) -> RowSet:
    """Read the files that `write_rows` wrote.

    Raises
    ------
    DataError
        A file is missing, or features and rows differ in length.
    """
    for name in ("features.npy", "rows.csv"):
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} is missing; run the step that makes it (see dvc.yaml), or `dvc pull`")
    features = np.load(folder / "features.npy", allow_pickle=False)
    text = dict.fromkeys(("row_id", "group", "time", "fingerprint", "source_row", "recipe", "category"), str)
    numbers: dict[str, Any] = {"label": np.int8, "copy": np.int64, "contradicted": np.int8, "seen": np.int8}
    rows = pd.read_csv(folder / "rows.csv", dtype={**text, **numbers}, keep_default_na=False)
    if features.ndim != 2 or len(features) != len(rows):
        raise DataError(
            f"{folder}: features.npy has shape {features.shape}, rows.csv has {len(rows)} rows; they must match"
        )
    return RowSet(features.astype(np.float32, copy=False), rows)


def write_dataset(folder: Path, dataset: Dataset) -> None:
    """Write a dataset folder: ``features.npy``, ``rows.csv`` and ``card.json``, which holds the hashes of both.

    Rows without a column ``copy`` are numbered; see `number_copies`.
    """
    dataset = _numbered(dataset)
    write_rows(folder, dataset.data)
    seal = {name: hash_file(folder / name) for name in SEALED}
    card = dataset.card
    optional = {name: value for name in OPTIONAL if (value := getattr(card, name)) is not None}
    fields = {"name": card.name, "columns": list(card.columns), "source": card.source}
    write_json(folder / "card.json", {**fields, **optional, **modality_fields(card.modality), "sha256": seal})


def broken_seals(folder: Path) -> list[Path]:
    """Return the files of a dataset folder whose hash is not the one on its card."""
    if not (folder / "card.json").is_file():
        return []
    seal = read_json(folder / "card.json")["sha256"]
    return [folder / name for name in SEALED if not (folder / name).is_file() or hash_file(folder / name) != seal[name]]


def read_card(folder: Path) -> Card:
    """Read ``card.json`` of a dataset folder."""
    if not (folder / "card.json").is_file():
        raise DataError(f"there is no dataset in {folder}; run `assay ingest {folder.name}` first")
    fields = read_json(folder / "card.json")
    return Card(
        name=fields["name"],
        modality=read_modality(fields),
        columns=tuple(fields["columns"]),
        source=fields["source"],
        id_column=fields.get("id_column"),
        category_column=fields.get("category_column"),
    )


def read_dataset(folder: Path) -> Dataset:
    """Read a dataset folder written by `write_dataset`.

    The copies of a dataset that was written before they were stored are numbered in the order of its rows.

    Raises
    ------
    DataError
        There is no dataset in the folder.
    TamperedError
        The hash of a file is not the one on the card.
    """
    if read_card(folder) and (broken := broken_seals(folder)):
        raise TamperedError(
            f"{broken[0]} was changed after it was ingested; restore it: `dvc checkout --force data.dvc`"
        )
    return _numbered(Dataset(read_card(folder), read_rows(folder)))


def number_copies(prints: NDArray[Any]) -> Integers:
    """Return each row's number among the rows of equal content, 0, 1, ..., in their order; shape (n,).

    Parameters
    ----------
    prints : ndarray of str, shape (n,)
        Fingerprints.
    """
    return np.asarray(pd.Series(prints).groupby(prints, sort=False).cumcount(), dtype=np.int64)


def row_keys(rows: pd.DataFrame) -> Texts:
    """Return what tells a row from every other one, also from its copies: "fingerprint:copy", of shape (n,)."""
    return (rows["fingerprint"] + ":" + rows["copy"].astype("str")).to_numpy(dtype=object)


def _numbered(dataset: Dataset) -> Dataset:
    """Return the dataset with the column ``copy``."""
    if "copy" in dataset.data.rows:
        return dataset
    data, columns = dataset.data, dataset.card.columns
    rows = data.rows.assign(copy=number_copies(fingerprints(data.features, columns)))
    return Dataset(dataset.card, RowSet(data.features, rows))


def fingerprints(features: Singles, columns: tuple[str, ...]) -> NDArray[np.str_]:
    """Return each row's content fingerprint.

    The 128-bit BLAKE2b hash, in hex, of the (column name, value) pairs sorted by name, after casting to
    float32 and before any scaling; -0.0 counts as 0.0 and all NaNs as one. Equal rows have equal
    fingerprints in any order of their columns.

    Parameters
    ----------
    features : ndarray of float32, shape (n, d)
    columns : tuple of str, length d

    Returns
    -------
    ndarray of str, shape (n,)
    """
    order = sorted(range(len(columns)), key=columns.__getitem__)
    values = np.ascontiguousarray(features[:, order], dtype="<f4") + np.float32(0.0)  # which makes -0.0 a 0.0
    values[np.isnan(values)] = np.float32(np.nan)
    start = hashlib.blake2b("\x1f".join(columns[i] for i in order).encode(), digest_size=16)
    digests = []
    for row in values:
        digest = start.copy()
        digest.update(row.tobytes())
        digests.append(digest.hexdigest())
    return np.array(digests, dtype="U32")
