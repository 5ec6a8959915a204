"""What names rows and their contents: whether a row has two roles, and how often contents occur."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assay.arrays import Flags, Integers, Labels
from assay.data.card import Card
from assay.data.dataset import ANOMALY, NORMAL, RowSet, equal_rows, key_texts, print_texts
from assay.data.expectations import COPY_COLUMN, ID_COLUMN
from assay.data.runner import ROWS_IN_SUMMARY


@dataclass(frozen=True, slots=True)
class Contents:
    """How often the contents of the rows that have a role occur.

    Attributes
    ----------
    rows, distinct : int
        Numbers of rows and of different contents.
    shared : int
        Number of contents that occur in several roles.
    contradicting : int
        Number of contents that are labelled 0 in one row and 1 in another.
    contradicting_normals, contradicting_anomalies : int
        Numbers of the rows of these contents that are labelled 0, and 1.
    contradicting_rows : tuple of str
        Ids of the first of these rows, anomalies before normals.
    """

    rows: int
    distinct: int
    shared: int
    contradicting: int
    contradicting_normals: int
    contradicting_anomalies: int
    contradicting_rows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NamedRows:
    """What names n rows and their contents, in some 40 bytes a row.

    Attributes
    ----------
    ids : Series of str
    labels, copies : ndarray of int, shape (n,)
    digests : ndarray of uint64, shape (n, 2)
    """

    ids: pd.Series[str]
    labels: Labels
    copies: Integers
    digests: NDArray[np.uint64]

    @classmethod
    def of(cls, data: RowSet, card: Card) -> NamedRows:
        """Name rows; those without a column ``copy`` get none."""
        copies = np.asarray(data.rows["copy"] if "copy" in data.rows else np.zeros(len(data)), dtype=np.int64)
        return cls(id_texts(data.rows["row_id"]), data.labels, copies, card.digests(data.features))

    @classmethod
    def joined(cls, parts: Sequence[NamedRows]) -> NamedRows:
        """Return the rows of all parts, in their order."""
        ids = pd.concat([part.ids for part in parts], ignore_index=True)
        rest = [[getattr(part, name) for part in parts] for name in ("labels", "copies", "digests")]
        return cls(ids, *(np.concatenate(each) for each in rest))

    def take(self, picked: Flags) -> NamedRows:
        """Return the rows that are picked."""
        return NamedRows(self.ids[picked], self.labels[picked], self.copies[picked], self.digests[picked])


def roles_table(named: dict[str, NamedRows], injected: NamedRows | None) -> pd.DataFrame:
    """Return what has to be unique of every row of every role: a number of its content and copy.

    Where it is not, the rows that are the same as others, with "role/id" and "fingerprint:copy".
    """
    parts = dict(named) if injected is None else named | {"": injected}
    numbers = equal_rows(*np.concatenate([_keys(part) for part in parts.values()]).T)
    starts = np.cumsum([len(part.ids) for part in parts.values()])[:-1]
    of_parts = dict(zip(parts, np.split(numbers, starts), strict=True))
    kept = {role: np.ones(len(part.ids), dtype=np.bool_) for role, part in parts.items()}
    if injected is not None:
        moved = of_parts[""][~np.isin(of_parts[""], of_parts["train"])]
        kept["pool"] = ~np.isin(of_parts["pool"], moved)
    used = np.concatenate([of_parts[role][kept[role]] for role in parts])
    counts = np.bincount(used, minlength=int(numbers.max(initial=0)) + 1)
    if counts.max() <= 1:
        return pd.DataFrame({ID_COLUMN: "", COPY_COLUMN: used})
    tables = []
    for role in dict.fromkeys(("train", "", *parts)) if injected is not None else parts:
        repeated = parts[role].take(kept[role] & (counts[of_parts[role]] > 1))
        keys = key_texts(print_texts(repeated.digests), pd.Series(repeated.copies))
        ids = f"{role or 'train'}/" + repeated.ids.fillna("None").reset_index(drop=True)
        tables.append(pd.DataFrame({ID_COLUMN: ids, COPY_COLUMN: keys}))
    return pd.concat(tables, ignore_index=True)


def _keys(part: NamedRows) -> NDArray[np.uint64]:
    return np.column_stack([part.copies.astype(np.uint64), part.digests])


def count_contents(named: dict[str, NamedRows]) -> Contents:
    """Count the contents of the rows of all roles."""
    rows = NamedRows.joined(list(named.values()))
    codes = equal_rows(*rows.digests.T)
    roles = np.repeat(np.arange(len(named)), [len(part.ids) for part in named.values()])
    n_distinct = int(codes.max(initial=-1)) + 1

    def occurs(picked: Flags) -> Flags:
        """Return which contents occur in some rows."""
        return np.bincount(codes[picked], minlength=n_distinct) > 0

    n_roles = np.sum([occurs(roles == role) for role in range(len(named))], axis=0, dtype=np.int8)
    normal, anomalous = rows.labels == NORMAL, rows.labels == ANOMALY
    contested = occurs(normal) & occurs(anomalous)
    both = contested[codes]
    anomalies, normals = (rows.ids[both & labelled].tolist() for labelled in (anomalous, normal))
    return Contents(
        rows=len(codes),
        distinct=n_distinct,
        shared=int((n_roles > 1).sum()),
        contradicting=int(contested.sum()),
        contradicting_normals=len(normals),
        contradicting_anomalies=len(anomalies),
        contradicting_rows=tuple(map(str, [*anomalies[:ROWS_IN_SUMMARY], *normals[:ROWS_IN_SUMMARY]])),
    )


def id_texts(ids: pd.Series[Any]) -> pd.Series[str]:
    """Return row ids as text, missing ones, which are "" in rows.csv, as missing."""
    texts = ids.astype("str").reset_index(drop=True)
    return texts.mask(texts == "")
