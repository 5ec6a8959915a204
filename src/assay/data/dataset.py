"""Row sets and datasets: features and a table of ids, labels and groups, as files with reproducible bytes."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv

from assay.arrays import Doubles, Flags, Integers, Labels, Texts
from assay.data.card import FORMAT, OPTIONAL, Card, read_card
from assay.data.mapped import BYTES_IN_BLOCK, picked_rows
from assay.data.modalities.registry import modality_fields
from assay.data.npy import npy_pieces, read_npy
from assay.data.word_vectors import VECTOR_FILES, WordVectors
from assay.errors import DataError, TamperedError
from assay.hashing import hash_file, uniform_hashes
from assay.parts import read_json, replacing, write_bytes, write_json

NORMAL, ANOMALY, UNKNOWN = 0, 1, -1
OTHER_PRINT = "other_fingerprint"
MASK = "mask"  # the defective pixels of an image, `assay.data.masks.mask_text`
OF_WINDOWS = ("entity", "start", "end", "anomalous_steps")
TEXTS = (
    *("row_id", "group", "time", "category", "batch", "fingerprint", OTHER_PRINT, "source_row", "recipe"),
    *OF_WINDOWS,
    MASK,
)
_STORED = dict.fromkeys(TEXTS, pa.large_string()) | dict.fromkeys(("copy", "seed"), pa.int64())
_STORED |= dict.fromkeys(("label", "contradicted", "seen"), pa.int8())
SEALED, DROPPED = ("features.npy", "rows.csv"), "dropped.csv"
MADE = -1
ROWS_IN_PIECE = 1 << 18


@dataclass(frozen=True, slots=True)
class RowSet:
    """Some rows of a dataset.

    Attributes
    ----------
    features : ndarray of float64, shape (n, d)
        Any numbers are taken and become float64. Missing values are NaN. A column of categories holds codes:
        positions in its vocabulary (`Card.vocabulary`).
    rows : DataFrame of n rows
        At least ``row_id`` (str) and ``label`` (int8; 0 normal, 1 anomaly, -1 unknown); ``group`` and
        ``time`` (str, "" where there is none), ``category`` (str) where the dataset has categories, ``batch`` (str;
        what the row came with) in data of format 2, and further columns that a stage adds. ``copy`` (int64) is the
        row's number among the rows of equal content, in order of arrival, and `MADE` for synthetic rows, which are in
        no dataset.
    """

    features: Doubles
    rows: pd.DataFrame

    def __post_init__(self) -> None:
        """Make the features float64."""
        object.__setattr__(self, "features", np.asarray(self.features, dtype=np.float64))

    def __len__(self) -> int:
        return len(self.features)

    @property
    def labels(self) -> Labels:
        """Labels of shape (n,): 0 normal, 1 anomaly, -1 unknown."""
        return self.rows["label"].to_numpy(dtype=np.int8)

    def take(self, mask: NDArray[Any]) -> RowSet:
        """Return the rows that a boolean mask or an index array picks, in order."""
        picked = np.flatnonzero(mask) if mask.dtype == np.bool_ else mask
        return RowSet(picked_rows(self.features, picked), self.rows.iloc[picked].reset_index(drop=True))


class RowSets(Mapping[str, RowSet]):
    """Row sets by name, each of which is made anew whenever it is looked up, so that no two need be in memory."""

    def __init__(self, made: Mapping[str, Callable[[], RowSet]]) -> None:
        self._made = made

    def __getitem__(self, name: str) -> RowSet:
        return self._made[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A named set of rows with its card.

    Attributes
    ----------
    card : Card
    data : RowSet
    dropped : DataFrame or None
        ``batch``, ``row_id`` and ``fingerprint`` of the rows that have left it, so that nothing of them is given anew.
    vectors : WordVectors or None
        The user's vectors of words of documents.
    """

    card: Card
    data: RowSet
    dropped: pd.DataFrame | None = None
    vectors: WordVectors | None = None


def write_rows(folder: Path, data: RowSet) -> None:
    """Write ``features.npy`` (little-endian float64, C order) and ``rows.csv`` (UTF-8, LF)."""
    for name, pieces in (("features.npy", npy_pieces(data.features)), ("rows.csv", csv_pieces(data.rows))):
        with replacing(folder / name) as stream:
            stream.writelines(pieces)


def csv_pieces(rows: pd.DataFrame) -> Iterator[bytes]:
    """Yield a table as CSV (UTF-8, LF, no index) in pieces of some megabytes."""
    for start in range(0, max(1, len(rows)), ROWS_IN_PIECE):
        part = rows.iloc[start : start + ROWS_IN_PIECE]
        yield part.to_csv(index=False, header=start == 0, lineterminator="\n").encode()


def read_rows(folder: Path) -> RowSet:
    """Read the files that `write_rows` wrote, now or in format 1.

    Raises
    ------
    DataError
        A file is missing, or features and rows differ in length.
    """
    for name in ("features.npy", "rows.csv"):
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} is missing; run the step that makes it (see dvc.yaml), or `dvc pull`")
    features, rows = read_npy(folder / "features.npy"), read_row_table(folder)
    if features.ndim != 2 or len(features) != len(rows):
        raise DataError(
            f"{folder}: features.npy has shape {features.shape}, rows.csv has {len(rows)} rows; they must match"
        )
    return RowSet(features, rows)


def read_row_table(folder: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return ``rows.csv`` of a folder that `write_rows` wrote; of `columns` those that it has.

    Raises
    ------
    DataError
        It cannot be read.
    """
    path = folder / "rows.csv"
    try:
        with path.open("rb") as stream:
            names = next(csv.reader([stream.readline().decode()]), [])
        kept = [name for name in names if columns is None or name in columns]
        table = arrow_csv.read_csv(
            path,
            read_options=arrow_csv.ReadOptions(block_size=BYTES_IN_BLOCK),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types={name: _STORED[name] for name in kept if name in _STORED},
                include_columns=kept,
                strings_can_be_null=False,
            ),
        )
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; restore it with `dvc checkout`") from error
    by_name = dict(zip(table.column_names, table.columns, strict=True))
    del table  # each column goes when it is one piece
    return pd.DataFrame({name: _series(by_name.pop(name)) for name in kept}, copy=False)


def _series(column: pa.ChunkedArray) -> pd.Series[Any]:
    whole = column.combine_chunks()
    is_text = pa.types.is_large_string(whole.type)
    return pd.Series(pd.array(whole, dtype="str") if is_text else whole.to_numpy(zero_copy_only=False))


def read_labels(folder: Path) -> Labels:
    """Return the labels (n,) of the rows that `write_rows` wrote."""
    return read_row_table(folder, ["label"])["label"].to_numpy(dtype=np.int8)


def write_dataset(folder: Path, dataset: Dataset) -> None:
    """Write a dataset folder: ``features.npy``, ``rows.csv`` and ``card.json``, which holds the hashes of both.

    Rows without a column ``copy`` are numbered; see `number_copies`. Rows that have left the dataset are listed in
    ``dropped.csv``, if there are any.

    Raises
    ------
    DataError
        A code is not a position in the vocabulary of its column.
    """
    _check_codes(dataset)
    dataset = numbered(dataset)
    write_rows(folder, dataset.data)
    if dataset.dropped is not None:
        write_bytes(folder / DROPPED, dataset.dropped.to_csv(index=False, lineterminator="\n").encode())
    if dataset.vectors is not None:
        dataset.vectors.write(folder)
    sealed = [*SEALED, *([] if dataset.dropped is None else [DROPPED])]
    sealed += [] if dataset.vectors is None else VECTOR_FILES
    seal = {name: hash_file(folder / name) for name in sealed}
    card = dataset.card
    optional = {name: value for name in OPTIONAL if (value := getattr(card, name)) is not None}
    if card.batches:
        optional["batches"] = [asdict(arrival) for arrival in card.batches]
    if card.vocabulary:
        optional["vocabulary"] = {name: list(texts) for name, texts in card.vocabulary.items()}
    optional |= {key: list(names) for key in ("dates", "imputed", "left_out", "words") if (names := getattr(card, key))}
    if card.windows is not None:
        optional["windows"] = card.windows.to_json()
    fields = {"name": card.name, "columns": list(card.columns), "source": card.source}
    versions = {"format": FORMAT, "fingerprint_scheme": card.scheme}
    write_json(
        folder / "card.json", {**fields, **versions, **optional, **modality_fields(card.modality), "sha256": seal}
    )


def _check_codes(dataset: Dataset) -> None:
    card, features = dataset.card, dataset.data.features
    for name, texts in card.vocabulary.items():
        if name not in card.columns or len(set(texts)) < len(texts):
            raise DataError(f"the vocabulary of {name!r} is of no column of {card.name}, or names a text twice")
        codes = features[:, card.columns.index(name)]
        wrong = np.flatnonzero(~np.isnan(codes) & ~np.isin(codes, np.arange(len(texts))))
        if len(wrong):
            raise DataError(
                f"column {name!r}, row {wrong[0]}: {codes[wrong[0]]} is no category; "
                f"the codes of its {len(texts)} categories are 0 to {len(texts) - 1}"
            )


def broken_seals(folder: Path) -> list[Path]:
    """Return the files of a dataset folder whose hash is not the one on its card."""
    if not (folder / "card.json").is_file():
        return []
    seal = read_json(folder / "card.json")["sha256"]
    return [folder / name for name in seal if not (folder / name).is_file() or hash_file(folder / name) != seal[name]]


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
    dropped = folder / DROPPED
    texts: dict[str, Any] = {"batch": str, "row_id": str, "fingerprint": str}
    gone = pd.read_csv(dropped, dtype=texts, keep_default_na=False) if dropped.is_file() else None
    return numbered(Dataset(read_card(folder), read_rows(folder), gone, WordVectors.read(folder)))


def number_copies(prints: NDArray[Any]) -> Integers:
    """Return each row's number among the rows of equal content, 0, 1, ..., in their order; shape (n,).

    Parameters
    ----------
    prints : ndarray of str, shape (n,), or of uint64, shape (n, 2)
        Fingerprints, or digests.
    """
    keys = prints.T if prints.ndim == 2 else [pd.factorize(prints)[0]]
    order, is_first = _in_order(keys)
    places = np.arange(len(prints))
    copies = np.empty(len(prints), dtype=np.int64)
    copies[order] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return copies


def equal_rows(*keys: NDArray[Any]) -> Integers:
    """Return a number 0, 1, ... for each of n rows, the same where all keys, each of shape (n,), are the same."""
    order, is_first = _in_order(keys)
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[order] = np.cumsum(is_first) - 1
    return numbers


def _in_order(keys: Sequence[NDArray[Any]] | NDArray[Any]) -> tuple[NDArray[np.intp], Flags]:
    """Return an order of rows by keys, in which equal ones stay as they are, and where another key begins in it."""
    order = np.argsort(keys[-1], kind="stable")
    if (keys[-1][order[1:]] == keys[-1][order[:-1]]).any():
        order = np.lexsort(keys)
    is_first = np.ones(len(order), dtype=np.bool_)
    is_first[1:] = False
    for key in keys:
        is_first[1:] |= key[order[1:]] != key[order[:-1]]
    return order, is_first


def print_texts(numbers: NDArray[np.uint64]) -> pd.Series[str]:
    """Return the fingerprints whose digests (n, 2) are given as a column of texts: a third of the size of an array."""
    hexadecimal = bytearray(32 * len(numbers))
    for start in range(0, len(numbers), ROWS_IN_PIECE):
        piece = numbers[start : start + ROWS_IN_PIECE].tobytes().hex().encode()
        hexadecimal[32 * start : 32 * start + len(piece)] = piece
    ends = pa.py_buffer(np.arange(0, len(hexadecimal) + 1, 32, dtype=np.int64))
    texts = pa.LargeStringArray.from_buffers(len(numbers), ends, pa.py_buffer(hexadecimal))
    return pd.Series(pd.array(texts, dtype="str"))


def row_keys(rows: pd.DataFrame) -> Texts:
    """Return what tells a row from every other one, also from its copies: "fingerprint:copy", of shape (n,)."""
    return key_texts(rows["fingerprint"], rows["copy"]).to_numpy(dtype=object)


def is_among(texts: pd.Series[str], others: pd.Series[str]) -> Flags:
    """Return which texts (n,) are among others: what ``isin`` returns, which makes Python objects of the others."""
    both = (pa.array(each, pa.large_string()) for each in (texts, others))
    return np.asarray(pc.is_in(next(both), value_set=next(both)), dtype=np.bool_)


def key_texts(prints: pd.Series[str], copies: pd.Series[int]) -> pd.Series[str]:
    """Return `row_keys` as a column of texts."""
    return prints + ":" + copies.astype("str")


def key_hashes(rows: pd.DataFrame, salt: str, prefix: str) -> Doubles:
    """Return `assay.hashing.uniform_hashes` of the keys of rows, each behind a prefix, shape (n,)."""
    starts = range(0, len(rows), ROWS_IN_PIECE)
    keys = (prefix + row_keys(rows.iloc[start : start + ROWS_IN_PIECE]) for start in starts)
    return np.concatenate([np.empty(0), *(uniform_hashes(of_rows, salt) for of_rows in keys)])


def by_either_scheme(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Return rows with the fingerprints that decide roles, and, where these are stored, with those of the other scheme.

    Lists of rows that people keep, and scorers of before, may name rows by either.
    """
    return [rows, rows.assign(fingerprint=rows[OTHER_PRINT])] if OTHER_PRINT in rows else [rows]


def numbered(dataset: Dataset) -> Dataset:
    """Return the dataset with the column ``copy``."""
    if "copy" in dataset.data.rows:
        return dataset
    copies = number_copies(dataset.card.digests(dataset.data.features))
    return replace(dataset, data=RowSet(dataset.data.features, dataset.data.rows.assign(copy=copies)))
