"""Fingerprints: what names the content of a row, and decides its role."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Floats
from assay.data.mapped import row_blocks

FIRST_SCHEME, SCHEME = 1, 2
FINGERPRINT_PATTERN = re.compile(r"[0-9a-f]{32}")
ONLY_NUMBERS: Mapping[str, tuple[str, ...]] = MappingProxyType({})


def fingerprints(
    features: Floats,
    columns: tuple[str, ...],
    *,
    scheme: int = SCHEME,
    vocabulary: Mapping[str, tuple[str, ...]] = ONLY_NUMBERS,
) -> NDArray[np.str_]:
    """Return each row's content fingerprint.

    The 128-bit BLAKE2b hash, in hex, of the raw row: its (column name, value) pairs sorted by name. -0.0 counts as
    0.0 and all NaNs as one. Equal rows have equal fingerprints in any order of their columns. Fingerprints of
    different schemes are never equal.

    Scheme 2 is of the values in float64, and of categories' texts, so that the order of a vocabulary does not matter.
    Scheme 1 is of the values cast to float32.

    Parameters
    ----------
    features : ndarray of float, shape (n, d)
    columns : tuple of str, length d
    scheme : {1, 2}
    vocabulary : mapping of str to tuple of str
        The texts of each column of categories (see `Card`).

    Returns
    -------
    ndarray of str, shape (n,)
    """
    hexadecimal = digests(features, columns, scheme=scheme, vocabulary=vocabulary).tobytes().hex()
    return np.frombuffer(hexadecimal.encode(), dtype="S32").astype("U32")


def digests(
    features: Floats,
    columns: tuple[str, ...],
    *,
    scheme: int = SCHEME,
    vocabulary: Mapping[str, tuple[str, ...]] = ONLY_NUMBERS,
) -> NDArray[np.uint64]:
    """Return the fingerprints of rows (n, d) as numbers, shape (n, 2), of an eighth of the size; see `fingerprints`."""
    numbers = np.empty((len(features), 2), dtype=np.uint64)
    for block in row_blocks(features):
        content = b"".join(_digests(features[block], columns, scheme, vocabulary))
        numbers[block] = np.frombuffer(content, dtype=np.uint64).reshape(-1, 2)
    return numbers


def _digests(
    features: Floats, columns: tuple[str, ...], scheme: int, vocabulary: Mapping[str, tuple[str, ...]]
) -> Iterator[bytes]:
    order = sorted(range(len(columns)), key=columns.__getitem__)
    names = "\x1f".join(columns[i] for i in order).encode()
    if scheme == FIRST_SCHEME:
        start = hashlib.blake2b(names, digest_size=16)
        with np.errstate(over="ignore"):
            content = _canonical(features[:, order].astype("<f4")).view(np.uint8)
    else:
        start = hashlib.blake2b(names, digest_size=16, person=b"row scheme 2")
        content = _canonical(features[:, order].astype("<f8")).view(np.uint8)
        if coded := [i for i in order if columns[i] in vocabulary]:
            start.update(b"\x1e" + "\x1f".join(columns[i] for i in coded).encode())
            texts = [_text_bytes(features[:, i], vocabulary[columns[i]]) for i in coded]
            numbers = np.repeat([columns[i] not in vocabulary for i in order], 8)
            content = np.concatenate([content[:, numbers], *texts], axis=1)
    for row in np.ascontiguousarray(content):
        digest = start.copy()
        digest.update(row)
        yield digest.digest()


def _canonical(values: Floats) -> Floats:
    """Return values in C order with -0.0 as 0.0 and all NaNs as one."""
    plain = np.ascontiguousarray(values + values.dtype.type(0))
    plain[np.isnan(plain)] = np.nan
    return plain


def _text_bytes(codes: Floats, texts: tuple[str, ...]) -> NDArray[np.uint8]:
    """Return a hash of each row's text, uint8 of shape (n, 16); zeros where it is missing."""
    hashes = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
    table = np.frombuffer(b"".join([*hashes, bytes(16)]), dtype=np.uint8).reshape(-1, 16)
    return table[np.where(np.isnan(codes), len(texts), codes).astype(np.intp)]
