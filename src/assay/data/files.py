"""A user's CSV or Parquet file as a dataset."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import pandas as pd

from assay.arrays import Labels, Texts
from assay.console import say
from assay.data.blocks import read_frame
from assay.data.card import Card
from assay.data.columns import AS_THEY_ARE, Features, Kind, Treatment, features_of, kind_of
from assay.data.dataset import ANOMALY, NORMAL, ROWS_IN_PIECE, UNKNOWN, Dataset, RowSet
from assay.data.dialects import MISSING, OBSERVED, Dialect
from assay.data.mapped import release, row_blocks
from assay.data.modalities.tabular import TABULAR
from assay.data.modalities.text import Text
from assay.data.resolution import MOST_LOOKED_AT, loses_values
from assay.data.text_columns import document_features
from assay.data.times import sortable_times
from assay.data.words import Codes
from assay.errors import DataError
from assay.names import CONTROL, check_name

_LABELS = {
    **dict.fromkeys(("0", "false"), NORMAL),
    **dict.fromkeys(("1", "true"), ANOMALY),
    **dict.fromkeys(("-1", ""), UNKNOWN),
}
MOST_UNCLEAR = 5


class SpecialColumns(TypedDict, total=False):
    """Names of the columns that are no features.

    Attributes
    ----------
    label : str
        Column of 0 or false (normal), 1 or true (anomaly), -1 or missing (unknown), unless `normal` or `anomaly` is
        given. Default: all unknown.
    id_column : str
        Column of unique row ids. Default: "<name>-<row number>", from 0, at least seven digits.
    group : str
        Column of group ids; rows of a group get one role. Without an id a row is a group by itself.
    time : str
        Column of ISO 8601 timestamps or of numbers, never missing. Times are stored as text whose
        alphabetical order is the order in time: timestamps in UTC with nine decimals of a second (without
        a time zone they count as UTC); numbers as exact decimals with 20 digits before the point,
        negative ones as "-" and the complement to 10**20 (-1.25 is "-99999999999999999998.75").
    category : str
        Column of categories, never missing, for calibration within categories (a machine type, a site). Text, stripped
        of spaces, or numbers: 3, 3.0 and "3" are the same.
    """

    label: str | None
    id_column: str | None
    group: str | None
    time: str | None
    category: str | None


def read_table(
    path: Path,
    *,
    name: str,
    treatment: Treatment = AS_THEY_ARE,
    like: Card | None = None,
    normal: str | None = None,
    anomaly: str | None = None,
    text: str | None = None,
    dialect: Dialect = OBSERVED,
    **special: Unpack[SpecialColumns],
) -> Dataset:
    """Read a CSV or Parquet file, or a folder of their parts, as a tabular dataset.

    All columns that no option names are features: numbers (or booleans, as 0 and 1), kept as float64, dates, and other
    texts, kept as categories. Columns without any value are left out. A column with missing values may be missing in
    later rows too; in all others a missing value is refused. Infinite features are kept; validation reports them. What
    is taken from the file because nobody said it, and what looks like a mistake, is printed.

    Parameters
    ----------
    path : Path
        See `assay.data.blocks.read_frame`.
    name : str
        Name of the dataset: lower-case letters, digits, "_" and "-".
    treatment : Treatment
        What is done with feature columns.
    like : Card, optional
        The dataset that the rows join: feature columns are taken for what they are there, and
        `treatment` is not used.
    normal, anomaly : str, optional
        The label of normal rows, or of anomalies. With one of them every other label is of the other kind; with both
        every other one is unknown, as missing ones always are.
    text : str, optional
        The column of documents: the dataset is one of texts, and every other column that no option names is left out.
    dialect : Dialect
        How a CSV file is written.
    **special : str or None
        See `SpecialColumns`.

    Returns
    -------
    Dataset
        Tabular, or of texts; the card's source is the file name without its folder.

    Raises
    ------
    DataError
        The file, a column or a value cannot be used; the message names it. Rows are counted from 0.
    """
    texts = treatment.categorical if like is None else (*like.vocabulary, *like.dates)
    needed = [*names_of_special(special), *([] if text is None else [text])]
    frame = read_frame(path, needed, texts=texts, dialect=dialect)
    options: Any = {"treatment": treatment, "like": like, "normal": normal, "anomaly": anomaly, "text": text}
    return dataset_of(path, frame, name=name, **options, **special)


def names_of_special(special: SpecialColumns) -> list[str]:
    """Return the columns that are no features; raise `DataError` if one has two roles."""
    names = [str(column) for column in special.values() if column is not None]
    if len(set(names)) < len(names):
        raise DataError(f"one column is named for two purposes in {dict(special)}; give each its own column")
    return names


def dataset_of(
    path: Path,
    frame: pd.DataFrame,
    *,
    name: str,
    treatment: Treatment = AS_THEY_ARE,
    like: Card | None = None,
    normal: str | None = None,
    anomaly: str | None = None,
    text: str | None = None,
    **special: Unpack[SpecialColumns],
) -> Dataset:
    """Return the rows of a frame, read from `path`, as a dataset; see `read_table`."""
    check_name(name, "the dataset's name")
    if special.get("label") is None and (normal, anomaly) != (None, None):
        raise DataError("the label of normal rows or of anomalies is given, but no column of labels (--label)")
    columns = names_of_special(special)
    codes = Codes()
    if text is not None:
        features, empty = document_features(path, frame, text, columns, treatment, codes)
    else:
        features, empty = _features(path, frame, columns, treatment) if like is None else _as_in(frame, columns, like)
    if not features.columns:
        raise DataError(f"{path.name} has no feature column, only {columns}")
    _refuse_lacking(features, treatment)
    texts = {role: texts_of(frame[column]) for role, column in special.items() if column is not None}
    labels = np.full(len(frame), UNKNOWN, dtype=np.int8)
    if "label" in texts:
        labels = labels_of(path, texts["label"], normal, anomaly, is_settled=like is not None)
    rows = _rows(name, texts, labels)
    for role, values in texts.items():
        _say_of_texts(path, role, frame[str(special[role])], values)  # type: ignore[literal-required]
    step = max(1, len(frame) // MOST_LOOKED_AT)
    blocks = row_blocks(features.rows) if text is None else ()
    evenly = [features.rows[block][-block.start % step :: step].copy() for block in blocks]
    for i, column in enumerate(features.columns if text is None else ()):
        if loses_values(np.concatenate([rows[:, i] for rows in evenly])):
            say(f"{path.name}: column {column!r} loses most of its values in float32, as scorers use it; rescale it")
    may_lack = {*features.lacking(), *treatment.impute} if text is None else ()
    card = Card(
        name,
        TABULAR if text is None else Text(),
        features.columns,
        path.name,
        special.get("id_column"),
        special.get("label"),
        special.get("group"),
        special.get("time"),
        special.get("category"),
        vocabulary=features.vocabulary,
        dates=features.dates,
        imputed=tuple(column for column in features.columns if column in may_lack),
        left_out=(*empty, *treatment.leave_out),
        normal_label=normal,
        anomaly_label=anomaly,
        text_column=text,
        words=codes.words,
    )
    return Dataset(card, RowSet(features.rows, rows))


def _refuse_lacking(features: Features, treatment: Treatment) -> None:
    """Raise `DataError` for the first missing value in a column that the user wants none in."""
    for column in features.lacking():
        if column in treatment.refuse:
            row = int(np.flatnonzero(np.isnan(features.rows[:, features.columns.index(column)]))[0])
            raise DataError(f"column {column!r}, row {row}: missing, and --refuse-missing {column} does not allow that")


def _rows(name: str, texts: Mapping[str, pd.Series[Any]], labels: Labels) -> pd.DataFrame:
    """Return the table of ids, labels, groups, times and categories of rows, from the texts of special columns."""
    blank = pd.Series("", index=range(len(labels)), dtype="str")
    columns = {
        "row_id": _ids(texts["id_column"]) if "id_column" in texts else _counted(name, len(labels)),
        "label": labels,
        "group": printable("group", texts["group"]) if "group" in texts else blank,
        "time": pd.Series(sortable_times(texts["time"]), dtype="str") if "time" in texts else blank,
    }
    if "category" in texts:
        columns["category"] = _categories(texts["category"])
    return pd.DataFrame(columns, copy=False)


def _counted(name: str, n: int) -> pd.Series[Any]:
    """Return the ids of n rows without ids of their own."""
    parts = [range(start, min(n, start + ROWS_IN_PIECE)) for start in range(0, n, ROWS_IN_PIECE)]
    return pd.concat([pd.Series([f"{name}-{i:07d}" for i in part], dtype="str") for part in parts], ignore_index=True)


def _features(
    path: Path, frame: pd.DataFrame, special: Sequence[str], treatment: Treatment
) -> tuple[Features, tuple[str, ...]]:
    """Return the feature columns of a frame, and the names of those without any value, which are left out."""
    columns = [column for column in frame.columns if column not in special]
    treatment.check(path.name, columns)
    kinds: dict[str, Kind] = {}
    unclear = []
    for column in columns:
        if column not in treatment.leave_out:
            try:
                kinds[column] = kind_of(column, frame[column], treatment.categorical)
            except DataError as error:
                unclear.append(str(error))
            if isinstance(frame[column].dtype, np.dtype):
                release(frame[column].to_numpy())
    if unclear:
        more = f"; {len(unclear) - MOST_UNCLEAR} more columns are unclear" if len(unclear) > MOST_UNCLEAR else ""
        raise DataError("; ".join(unclear[:MOST_UNCLEAR]) + more)
    used = [column for column, kind in kinds.items() if kind != "empty"]
    vocabulary: dict[str, tuple[str, ...]] = {column: () for column, kind in kinds.items() if kind == "category"}
    dates = [column for column, kind in kinds.items() if kind == "date"]
    return features_of(frame, used, vocabulary, dates), tuple(column for column in kinds if column not in used)


def _as_in(frame: pd.DataFrame, special: Sequence[str], card: Card) -> tuple[Features, tuple[str, ...]]:
    """Return the feature columns of a frame as those of a dataset."""
    columns = [c for c in frame.columns if c not in special and (c in card.columns or c not in card.left_out)]
    return features_of(frame, columns, dict.fromkeys(card.vocabulary, ()), card.dates), ()


def _say_of_texts(path: Path, role: str, column: pd.Series[Any], texts: pd.Series[Any]) -> None:
    """Print which words of a column count as missing, and which group or category has more than half of the rows."""
    role = role.removesuffix("_column")
    if isinstance(column.dtype, pd.StringDtype) or column.dtype == object:
        words = column[(texts == "") & column.notna()].astype("str").str.strip()
        if (words := words[words != ""]).size:
            rows = "1 row" if len(words) == 1 else f"{len(words)} rows"
            say(f"{path.name}: the {role} of {rows} is missing, written as {', '.join(sorted(set(words)))}")
    if role not in ("group", "category"):
        return
    counts = texts[texts != ""].value_counts()
    if len(counts) and counts.iloc[0] > len(texts) / 2:
        say(f"{path.name}: the {role} {counts.index[0]!r} has {counts.iloc[0]} of {len(texts)} rows, more than half")


def texts_of(column: pd.Series[Any], *, kept: Collection[str] = ()) -> pd.Series[Any]:
    """Return a column as texts, counted from 0: missing values and words for them, but those that are `kept`, as "".

    Whole numbers have no decimal point.
    """
    values = column.reset_index(drop=True).convert_dtypes()
    # How a moment is written depends on the others: without an hour only where none has one.
    rows = max(1, len(values)) if values.dtype.kind in "mM" else ROWS_IN_PIECE
    words, parts = [word for word in MISSING if word not in kept], []
    for start in range(0, max(1, len(values)), rows):
        part = values.iloc[start : start + rows]
        texts = part.astype("str")
        parts.append(texts.mask(part.isna() | texts.str.strip().isin(words), ""))
    return pd.concat(parts)


def printable(role: str, texts: pd.Series[Any]) -> pd.Series[Any]:
    """Return `texts`; raise `DataError` for control characters, which a CSV file would not preserve."""
    if (odd := texts.str.contains(CONTROL)).any():
        row = int(odd.to_numpy().argmax())
        raise DataError(f"row {row} has the {role} {texts[row]!r}; line breaks and control characters are not allowed")
    return texts


def _ids(texts: pd.Series[Any]) -> pd.Series[Any]:
    """Return row ids, checked."""
    missing = np.flatnonzero(texts == "")
    if len(missing):
        raise DataError(f"row {missing[0]} has no row id, or a word for missing ones; every row needs its own")
    if texts.nunique() < len(texts):
        repeated = np.flatnonzero(texts.duplicated())
        raise DataError(
            f"row {repeated[0]} has the row id {texts[repeated[0]]!r} of an earlier row; ids must be unique"
        )
    return printable("row id", texts)


def _categories(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return categories, checked; see `assay.data.categories.category_texts`."""
    from assay.data.categories import category_texts

    texts = pd.Series(category_texts(column), dtype="str")
    missing = np.flatnonzero(texts == "")
    if len(missing):
        raise DataError(f"row {missing[0]} has no category, or a word for missing ones; every row needs one")
    return printable("category", texts)


def labels_of(
    path: Path, texts: pd.Series[Any] | Texts, normal: str | None, anomaly: str | None, *, is_settled: bool = False
) -> Labels:
    """Return labels as 0, 1 and -1; see `read_table`. `is_settled` says that 1 and -1 are anomaly and unknown."""
    codes, unique = pd.factorize(texts)
    written = [_label_key(text) for text in unique]
    options = "--normal VALUE or --anomaly VALUE"
    if normal is not None and anomaly is not None and _label_key(normal) == _label_key(anomaly):
        raise DataError(f"--normal {normal} and --anomaly {anomaly} are the same label; give different ones")
    if normal is None and anomaly is None:
        if not is_settled and {key for key in written if key} == {"1", "-1"}:
            raise DataError(
                f"the labels of {path.name} are just 1 and -1, and either may stand for normal rows; give {options}, "
                "or both where other rows are unknown (--normal 0 --anomaly 1)"
            )
        kinds = [_LABELS.get(key, 2) for key in written]
    else:
        given = {_label_key(value): kind for value, kind in ((normal, NORMAL), (anomaly, ANOMALY)) if value is not None}
        other = UNKNOWN if len(given) == 2 else ANOMALY if anomaly is None else NORMAL
        kinds = [given.get(key, other) if key else UNKNOWN for key in written]
    labels = np.array(kinds, dtype=np.int8)[codes]
    bad = np.flatnonzero(labels == 2)
    if len(bad):
        raise DataError(
            f"row {bad[0]} has the label {texts[bad[0]]!r}; allowed are 0 or false (normal), 1 or true (anomaly), "
            f"-1 or nothing (unknown); for other labels give {options}"
        )
    return labels


def _label_key(text: str) -> str:
    """Return a label without differences that make no other one: spaces, case, and 1.0 for 1."""
    key = text.strip().casefold()
    return key[:-2] if re.fullmatch(r"-?\d+\.0", key) else key
