"""The card of a dataset: what its columns are, and how rows become numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assay.arrays import Doubles, Flags, Floats
from assay.data.columns import decoded
from assay.data.documents import DocumentNull, DocumentScaler
from assay.data.encoding import Encoder
from assay.data.fingerprints import FIRST_SCHEME, SCHEME, digests, fingerprints
from assay.data.modalities.base import Modality
from assay.data.modalities.registry import read_modality
from assay.data.null_models import NullModel
from assay.data.observed_mean import ObservedMean
from assay.data.scaling import Scaler
from assay.data.windows import Windows
from assay.data.word_vectors import WordVectors
from assay.data.words import documents
from assay.errors import DataError
from assay.parts import read_json

FORMAT = 2
OPTIONAL = (
    *("id_column", "label_column", "group_column", "time_column", "category_column"),
    *("normal_label", "anomaly_label", "text_column", "vectors_source"),
)


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
