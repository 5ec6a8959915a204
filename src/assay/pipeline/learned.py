"""The rows that a scorer learned from: their contents and the numbers of their copies, packaged with it by use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from assay.arrays import Flags
from assay.data.card import Card
from assay.data.dataset import RowSet, by_either_scheme, is_among, key_texts, print_texts
from assay.errors import ScorerError
from assay.parts import Array, read_arrays

if TYPE_CHECKING:
    import pandas as pd

    from assay.scorer.statement import Statement

_COPY = ".copy"


def packed_rows(use: str, data: RowSet, card: Card) -> dict[str, Array]:
    """Return rows as arrays, sorted by content and copy.

    Returns
    -------
    dict
        ``<use>``: fingerprints, uint8 of shape (n, 16); ``<use>.copy``: int64 of shape (n,).
    """
    digests, copies = card.digests(data.features), data.rows["copy"].to_numpy(dtype=np.int64)
    first, last = digests.view(">u8").T  # whose order is that of their bytes
    order = np.lexsort((copies, last, first))
    return {use: digests[order].view(np.uint8), f"{use}{_COPY}": copies[order]}


def read_learned(path: Path) -> pd.DataFrame:
    """Read a scorer's ``rows.safetensors``.

    Returns
    -------
    DataFrame
        ``use``, ``fingerprint`` (hex) and ``copy``. Scorers of before do not say which copy of a content they learned
        from: then there is no column ``copy``.

    Raises
    ------
    ScorerError
        It is damaged, or does not list as many copies as contents.
    """
    import pandas as pd

    arrays = read_arrays(path)
    parts = []
    for use in sorted(use for use in arrays if "." not in use):
        part = pd.DataFrame({"use": use, "fingerprint": print_texts(arrays[use])})
        copies = arrays.get(f"{use}{_COPY}")
        if copies is not None and len(copies) != len(part):
            raise ScorerError(f"{path} lists {len(part)} rows of use {use} and {len(copies)} copies; it is damaged")
        parts.append(part if copies is None else part.assign(copy=copies))
    return pd.concat(parts, ignore_index=True).astype({"use": "str", "fingerprint": "str"})


def learned_by(statement: Statement) -> pd.DataFrame:
    """Return the rows that a scorer learned from, by one of its statements; see `read_learned`."""
    import pandas as pd

    if statement.rows is None:
        return pd.DataFrame({"use": [], "fingerprint": []}, dtype="str")
    return read_learned(statement.rows)


def uses_learned(path: Path) -> set[str]:
    """Return the uses in a scorer's ``rows.safetensors``; empty where there is no such file."""
    from safetensors import safe_open

    if not path.is_file():
        return set()
    with safe_open(path, framework="numpy") as file:
        return {use for use in file.keys() if "." not in use}  # noqa: SIM118  (safe_open has no iterator)


def is_learned(learned: pd.DataFrame, rows: pd.DataFrame) -> Flags:
    """Return which rows, with the columns ``fingerprint`` and ``copy``, a scorer has learned from; shape (n,).

    Where its list does not tell copies apart, these are all rows whose content it holds. Fingerprints of either scheme
    match, where `rows` have both.
    """
    found = np.zeros(len(rows), dtype=np.bool_)
    for known in by_either_scheme(rows):
        if "copy" in learned:
            keys = (key_texts(each["fingerprint"], each["copy"]) for each in (known, learned))
            found |= is_among(next(keys), next(keys))
        else:
            found |= is_among(known["fingerprint"], learned["fingerprint"])
    return found
