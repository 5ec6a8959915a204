"""Row sets and datasets: features and a table of ids, labels and groups, as files with reproducible bytes."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv

from assay.arrays import Doubles, Flags, Floats, Integers, Labels, Texts
from assay.data.columns import decoded
from assay.data.documents import DocumentNull, DocumentScaler
from assay.data.encoding import Encoder
from assay.data.fingerprints import FIRST_SCHEME, SCHEME, digests, fingerprints
from assay.data.mapped import BYTES_IN_BLOCK, picked_rows
from assay.data.modalities.base import Modality
from assay.data.modalities.registry import modality_fields, read_modality
from assay.data.npy import npy_pieces, read_npy
from assay.data.null_models import NullModel
from assay.data.observed_mean import ObservedMean
from assay.data.scaling import Scaler
from assay.data.windows import Windows
from assay.data.word_vectors import VECTOR_FILES, WordVectors
from assay.data.words import documents
from assay.errors import DataError, TamperedError
from assay.hashing import hash_file, uniform_hashes
from assay.parts import read_json, replacing, write_bytes, write_json

FORMAT = 2
NORMAL, ANOMALY, UNKNOWN = 0, 1, -1
OPTIONAL = (
    *("id_column", "label_column", "group_column", "time_column", "category_column"),
    *("normal_label", "anomaly_label", "text_column", "vectors_source"),
)
OTHER_PRINT = "other_fingerprint"
OF_WINDOWS = ("entity", "start", "end", "anomalous_steps")
TEXTS = (
    *("row_id", "group", "time", "category", "batch", "fingerprint", OTHER_PRINT, "source_row", "recipe"),
    *OF_WINDOWS,
)
STORED = dict.fromkeys(TEXTS, pa.large_string()) | dict.fromkeys(("copy", "seed"), pa.int64())
STORED |= dict.fromkeys(("label", "contradicted", "seen"), pa.int8())
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
class Arrival:
    """A batch on the card of its dataset.

    Attributes
    ----------
    batch : str
        Its id.
    content : str
        Id of its content (`assay.data.batches.content_id`).
    rows : int
        Number of its rows.
    source : str
        Where it came from, for people.
    dropped : bool
        Whether its rows have left the dataset.
    """

    batch: str
    content: str
    rows: int
    source: str
    dropped: bool = False


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
    id_column, label_column, group_column, time_column, category_column : str or None
        Columns of row ids, labels, groups, times and categories in the user's file, if any. Format 1 knows only the
        first and the last.
    vocabulary : mapping of str to tuple of str
        The texts of each feature column of categories; all other columns are numbers. The order never changes, since
        the features hold positions in it.
    dates : tuple of str
        The feature columns of dates, which the features hold as seconds since 1970 in UTC.
    imputed : tuple of str
        The feature columns that may be missing: a scorer fills them in. In any other column a missing value is refused.
    left_out : tuple of str
        Columns of the user's file that are no features: those without any value, and those that the user left out.
    scheme : {1, 2}
        Scheme of the fingerprints by which rows get their roles; a dataset keeps its first one.
    batches : tuple of Arrival
        In order of arrival; those that were dropped stay listed.
    normal_label, anomaly_label : str or None
        What the column of labels holds for normal rows, and for anomalies, where the user had to say it.
    text_column, vectors_source : str or None
        The column of documents in the user's file, and the file that word vectors came from.
    words : tuple of str
        The different words of the documents of the dataset, in order of first appearance.
    windows : Windows or None
        How rows were made from a file of series.
    """

    name: str
    modality: Modality
    columns: tuple[str, ...]
    source: str
    id_column: str | None = None
    label_column: str | None = None
    group_column: str | None = None
    time_column: str | None = None
    category_column: str | None = None
    vocabulary: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    dates: tuple[str, ...] = ()
    imputed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    scheme: int = SCHEME
    batches: tuple[Arrival, ...] = ()
    normal_label: str | None = None
    anomaly_label: str | None = None
    text_column: str | None = None
    vectors_source: str | None = None
    words: tuple[str, ...] = ()
    windows: Windows | None = None

    @property
    def input_columns(self) -> tuple[str, ...]:
        """What a scorer takes: the feature columns, or the column of documents."""
        return self.columns if self.text_column is None else (self.text_column,)

    def fingerprints(self, features: Floats, scheme: int | None = None) -> NDArray[np.str_]:
        """Return the fingerprints of rows (n, d) of this dataset; by default those that decide roles."""
        return fingerprints(features, self.columns, scheme=scheme or self.scheme, vocabulary=self.vocabulary)

    def digests(self, features: Floats, scheme: int | None = None) -> NDArray[np.uint64]:
        """Return `fingerprints` as numbers (n, 2); see `assay.data.fingerprints.digests`."""
        return digests(features, self.columns, scheme=scheme or self.scheme, vocabulary=self.vocabulary)

    def table(self, features: Doubles) -> pd.DataFrame:
        """Return features (n, d) as a table with the texts of categories and dates, None where one is missing.

        Documents become one column: their words.
        """
        if self.text_column is not None:
            return pd.DataFrame({self.text_column: documents(features, self.words)}, dtype="str")
        return decoded(features, self.columns, self.vocabulary, self.dates)

    def treatment_lines(self) -> list[str]:
        """Return a line for each kind of columns that are not plain numbers, for people; none where all are."""
        lists = {
            "categories": [f"{name} ({len(texts)})" for name, texts in self.vocabulary.items()],
            "dates": list(self.dates),
            "may be missing": list(self.imputed),
            "left out": list(self.left_out),
        }
        if self.text_column is not None:
            lists["texts"] = [f"{self.text_column} ({len(self.words)} different words)"]
            lists["word vectors"] = [self.vectors_source or "learned from training rows"]
        if self.windows is not None:
            lists["channels"] = list(self.windows.channels)
        return [f"{what}: {', '.join(names)}" for what, names in lists.items() if names]

    def accepts(self, features: Doubles) -> Flags:
        """Return which values of rows (n, d) are neither infinite nor missing where that is refused."""
        may_lack = [self.modality.padded or name in self.imputed for name in self.columns]
        return np.asarray(np.isfinite(features) | (np.isnan(features) & may_lack))

    def scaler(self, vectors: WordVectors | None = None, *, sequences: bool = False) -> Scaler:
        """Return an unfitted scaler of raw rows: the modality's, or an `Encoder` where the columns need one.

        `vectors` and `sequences` are for documents (`assay.data.documents.DocumentScaler`).
        """
        if self.text_column is not None:
            return DocumentScaler(self.words, vectors, sequences=sequences)
        if not (self.vocabulary or self.imputed or self.dates):
            return self.modality.scaler()
        vocabulary = {self.columns.index(name): tuple(texts) for name, texts in self.vocabulary.items()}
        imputed, dates = ([self.columns.index(name) for name in names] for names in (self.imputed, self.dates))
        return Encoder(len(self.columns), vocabulary, imputed, dates)

    def null_model(self, scaler: Scaler) -> NullModel:
        """Return an unfitted null model of rows that a fitted scaler has scaled."""
        if isinstance(scaler, DocumentScaler):
            return DocumentNull(scaler.dimensions)
        return ObservedMean(scaler.fills) if isinstance(scaler, Encoder) else self.modality.null_model()


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
                column_types={name: STORED[name] for name in kept if name in STORED},
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
    return pd.Series(pd.array(whole, dtype="str") if pa.types.is_large_string(whole.type) else whole.to_numpy())


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


def read_card(folder: Path) -> Card:
    """Read ``card.json`` of a dataset folder; one without a format is of format 1, whose fingerprints are of scheme 1.

    Raises
    ------
    DataError
        There is no dataset in the folder, or a newer version of Assay wrote it.
    """
    if not (folder / "card.json").is_file():
        raise DataError(f"there is no dataset in {folder}; run `assay ingest {folder.name}` first")
    fields = read_json(folder / "card.json")
    if (written := fields.get("format", 1)) not in (1, FORMAT):
        raise DataError(f"{folder} has format {written!r}; this Assay reads 1 and {FORMAT}: install a newer one")
    return Card(
        name=fields["name"],
        modality=read_modality(fields),
        columns=tuple(fields["columns"]),
        source=fields["source"],
        **{name: fields.get(name) for name in OPTIONAL},
        batches=tuple(Arrival(**arrival) for arrival in fields.get("batches", ())),
        vocabulary={name: tuple(texts) for name, texts in fields.get("vocabulary", {}).items()},
        dates=tuple(fields.get("dates", ())),
        imputed=tuple(fields.get("imputed", ())),
        left_out=tuple(fields.get("left_out", ())),
        words=tuple(fields.get("words", ())),
        windows=Windows.from_json(fields["windows"]) if "windows" in fields else None,
        scheme=fields.get("fingerprint_scheme", FIRST_SCHEME),
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
