"""Vectors of words: from a user's file, or learned from how words occur together in training texts."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Integers, Singles
from assay.data.npy import DAMAGED_ARRAYS
from assay.errors import DataError
from assay.families import check_part
from assay.parts import Part, read_part, write_part

VECTORS = "vectors"
VECTOR_FILES = ("vectors.json", "vectors.safetensors")
DIMENSIONS, WINDOW, MOST_LEARNED = 50, 5, 20_000


@dataclass(frozen=True, slots=True, eq=False)
class WordVectors:
    """Words and their vectors.

    Attributes
    ----------
    words : tuple of str, length k
    vectors : ndarray of float32, shape (k, p)
    """

    words: tuple[str, ...]
    vectors: Singles

    def write(self, folder: Path) -> None:
        """Write ``vectors.json`` and ``vectors.safetensors``."""
        write_part(folder, VECTORS, Part(VECTORS, {"words": list(self.words)}, {"vectors": self.vectors}))

    @staticmethod
    def read(folder: Path) -> WordVectors | None:
        """Read what `write` wrote, or return None where there is nothing.

        Raises
        ------
        DataError
            The files do not fit together.
        """
        if not (folder / VECTOR_FILES[0]).is_file():
            return None
        part = read_part(folder, VECTORS)
        try:
            check_part(part, {"words": tuple[str, ...]}, {"vectors": "float32 k p"})
            if len(part.config["words"]) != len(part.arrays["vectors"]):
                raise ValueError("there are not as many words as vectors")
        except ValueError as error:
            raise DataError(f"the word vectors in {folder} are damaged: {error}; ingest the texts again") from error
        return WordVectors(tuple(part.config["words"]), part.arrays["vectors"])


def read_vectors(path: Path, wanted: Collection[str]) -> WordVectors:
    """Read the vectors of some words from a file.

    Parameters
    ----------
    path : Path
        A text file as GloVe and fastText write it, UTF-8, also with .gz: on each line a word and its numbers, with
        spaces between them; a first line of two whole numbers (fastText) is left out. What stands before as many
        numbers as the first vector has is the word, which may have spaces in it (glove.840B). Or an .npz file with the
        arrays ``words`` (texts) and ``vectors`` (numbers).
    wanted : collection of str
        Words in lower case; of others nothing is kept. Where a file has a word twice, or in several cases, the first
        counts.

    Raises
    ------
    DataError
        The file cannot be read, a line has no numbers, or fewer than those before, or a wanted word more; a number is
        not finite in float32, all are zero, or no wanted word is in the file.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path} of word vectors; check the path")
    try:
        vector_of = _from_npz(path, wanted) if path.suffix == ".npz" else _from_text(path, wanted)
    except DAMAGED_ARRAYS as error:
        raise DataError(
            f"{path.name} cannot be read as word vectors: {' '.join(str(error).split())}; give a text file with a word "
            "and its numbers on each line (GloVe, fastText), or an .npz file with the arrays words and vectors"
        ) from error
    if not vector_of:
        raise DataError(f"{path.name} has a vector for none of the {len(wanted)} words of the texts")
    with np.errstate(over="ignore"):  # refused below
        vectors = np.stack(list(vector_of.values())).astype(np.float32)
    if not np.isfinite(vectors).all():
        word = list(vector_of)[int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])]
        raise DataError(
            f"{path.name}: the vector of {word!r} holds a value that is not a finite number in float32; remove it"
        )
    if not vectors.any():
        raise DataError(
            f"{path.name}: all numbers of the words of the texts are zero; give vectors that tell words apart"
        )
    return WordVectors(tuple(vector_of), vectors)


def _from_npz(path: Path, wanted: Collection[str]) -> dict[str, NDArray[Any]]:
    with zipfile.ZipFile(path):  # numpy takes an .npy file of this name as well
        pass
    with np.load(path, allow_pickle=False) as arrays:
        words, vectors = np.asarray(arrays["words"]), np.asarray(arrays["vectors"])
    if vectors.ndim != 2 or words.shape != vectors.shape[:1] or vectors.dtype.kind not in "fiu":
        raise ValueError(f"words have shape {words.shape}, vectors {vectors.shape} of {vectors.dtype}")
    if not vectors.shape[1]:
        raise ValueError(f"vectors have shape {vectors.shape}, no numbers")
    vector_of: dict[str, NDArray[Any]] = {}
    for word, vector in zip(words.tolist(), vectors, strict=True):
        if (plain := str(word).lower()) in wanted:
            vector_of.setdefault(plain, vector)
    return vector_of


def _from_text(path: Path, wanted: Collection[str]) -> dict[str, NDArray[Any]]:
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else Path.open
    vector_of: dict[str, NDArray[Any]] = {}
    width = None
    with opener(path, mode="rt", encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1 and [part.isdecimal() for part in line.split()] == [True, True]:
                continue
            word, *values = line.rstrip().split(" ") if width is None else line.rstrip().rsplit(" ", width)
            width = len(values) if width is None else width
            if not width:
                raise ValueError(f"line {number} has a word and no numbers")
            first, *more = word.split(" ")
            if len(values) != width or (more and first.lower() in wanted and all(map(_is_number, more))):
                raise ValueError(f"line {number} has {len(values) + len(more)} numbers, earlier ones {width}")
            if (plain := word.lower()) in wanted and plain not in vector_of:
                vector_of[plain] = np.array(values, dtype=np.float64)
    return vector_of


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def learned_vectors(places: Integers, n_words: int) -> Singles:
    """Return vectors of words, float32 of shape (n_words, p), learned from documents.

    Truncated singular value decomposition of the positive pointwise mutual information of words at most 5 places
    apart, U sqrt(S), with at most 50 dimensions (Levy and Goldberg 2014; Levy, Goldberg, Dagan 2015).

    Parameters
    ----------
    places : ndarray of int, shape (n, length)
        Documents as numbers of words, -1 behind the last one.
    n_words : int

    Raises
    ------
    DataError
        No document has two words.
    """
    from scipy import sparse
    from sklearn.utils.extmath import randomized_svd
    from threadpoolctl import threadpool_limits

    counts = sparse.csr_array((n_words, n_words))
    for offset in range(1, min(WINDOW, places.shape[1] - 1) + 1):
        first, second = places[:, :-offset], places[:, offset:]
        both = (first >= 0) & (second >= 0)
        pairs = (np.ones(int(both.sum())), (first[both], second[both]))
        counts = counts + sparse.csr_array(pairs, shape=(n_words, n_words))
    counts = (counts + counts.T).tocoo()
    if not counts.nnz:
        raise DataError("no document has two words to learn vectors of words from; give them (--vectors FILE)")
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64)
    expected = totals[counts.row] * totals[counts.col] / totals.sum()
    information = np.maximum(np.log(counts.data / expected), 0.0)
    matrix = sparse.csr_array((information, (counts.row, counts.col)), shape=counts.shape)
    n_dimensions = max(1, min(DIMENSIONS, n_words - 1))
    with threadpool_limits(limits=1):  # the number of threads changes the rounding
        left, strengths, _ = randomized_svd(matrix, n_dimensions, random_state=0)
    return np.asarray(left * np.sqrt(strengths), dtype=np.float32)
