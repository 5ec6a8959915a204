"""Documents as rows for detectors: what is fitted on the training rows of texts."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from assay.arrays import FLOAT32_MAX, Doubles, Flags, Floats, Integers, Singles
from assay.data.null_models import MeanNull
from assay.data.scaling import Precision
from assay.data.word_vectors import MOST_LEARNED, WordVectors, learned_vectors
from assay.data.words import MOST_WORDS, STOP_WORDS, word_code
from assay.errors import DataError, InputError
from assay.families import check_part
from assay.parts import Array, Part

LEAST_COUNT = 3
NO_WORD = -1
_ROWS_AT_ONCE = 4096


class DocumentScaler:
    """Turns rows of codes of words (`assay.data.words`) into mean word vectors, standardised by column and length.

    Kept are the words that occur at least 3 times in the training rows, are no English stop words
    (`assay.data.words.STOP_WORDS`) and have a vector; all others are ignored, in training and later. Without vectors
    of the user's, they are learned from the training rows (`assay.data.word_vectors.learned_vectors`), of the 20,000
    most frequent words at most. The mean vector of a document counts a word as often as it occurs, and of n
    words it is divided, by column, by the deviation that documents of n words have, sqrt(between + within / n): else a
    short text would lie far out for being short. The variances between documents and between the words of one are those
    of a one-way analysis of variance of the training rows (method of moments).

    A document without a known word lies in a direction of its own, all columns alike; detectors of mean vectors and the
    null model are fitted on the others alone. Where no training document is
    like that, it lies beyond all of them. Where a share q is (messages of stop words alone, say), it lies as far out as
    a share q of the others does: documents that are common are not the oddest of all.

    Parameters
    ----------
    words : collection of str
        Names of words; one without a name here is called by its code.
    vectors : WordVectors, optional
    sequences : bool
        Append the numbers of a document's known words, in their order, from 0, and -1 behind the last one.

    Attributes
    ----------
    words_ : tuple of str, length k
    codes_ : ndarray of float64, shape (k,)
        Their codes, increasing.
    vectors_ : ndarray of float32, shape (k, p)
    mean_, between_, within_ : ndarray of float64, shape (p,)
        Mean of the mean vectors of the training rows with known words, and the two variances.
    far_ : float
        The value of all columns of a document without a known word.
    width_ : int
        Columns of raw rows.
    """

    kind: ClassVar[str] = "documents"
    precision: Precision = "float64"
    words_: tuple[str, ...]
    codes_: Doubles
    vectors_: Singles
    mean_: Doubles
    between_: Doubles
    within_: Doubles
    far_: float
    width_: int

    def __init__(
        self, words: Collection[str] = (), vectors: WordVectors | None = None, *, sequences: bool = False
    ) -> None:
        self.words, self.vectors, self.sequences = words, vectors, sequences

    def fit(self, X: NDArray[Any]) -> Self:
        """Learn words, vectors, mean and deviation from rows of shape (n, d), NaN behind the last word.

        Raises
        ------
        DataError
            There is no row, or no word that is kept.
        """
        rows = np.asarray(X, dtype=np.float64)
        if rows.ndim != 2 or not rows.size:
            raise DataError(f"documents cannot be fitted on rows of shape {rows.shape}; give at least one")
        self.width_ = rows.shape[1]
        names = {word_code(word): word for word in self.words}
        self.codes_ = self._kept(rows)
        self.words_ = tuple(names.get(code, f"{code:.6g}") for code in self.codes_.tolist())
        if self.vectors is None:
            self.vectors_ = learned_vectors(self._places(rows), len(self.codes_))
        else:
            place_of = {word: place for place, word in enumerate(self.vectors.words)}
            self.vectors_ = self.vectors.vectors[[place_of[word] for word in self.words_]]
        places = self._places(rows)
        self._fit_variances(places)
        return self

    def _fit_variances(self, places: Integers) -> None:
        """Learn mean and variances from the documents with words, and the place of those without."""
        n_all = len(places)
        places = places[places[:, 0] >= 0]
        vectors = self.vectors_.astype(np.float64)
        counts = (places >= 0).sum(axis=1)
        n_words, n = int(counts.sum()), len(counts)
        means = self._means(places, vectors)
        self.mean_ = means.mean(axis=0)
        centred = vectors - self.mean_  # squares of these do not cancel
        inner = self._means(places, centred**2) - (means - self.mean_) ** 2
        self.within_ = np.maximum((counts[:, None] * inner).sum(axis=0) / max(1, n_words - n), 0.0)
        middle = (counts[:, None] * means).sum(axis=0) / n_words
        outer = (counts[:, None] * (means - middle) ** 2).sum(axis=0) - (n - 1) * self.within_
        self.between_ = np.maximum(outer / max(1.0, n_words - float((counts**2).sum()) / n_words), 0.0)
        values = self._standardised(means, counts)
        if n == n_all:
            self.far_ = float(np.abs(values).max())
        else:
            self.far_ = float(np.quantile(np.linalg.norm(values, axis=1), n / n_all) / np.sqrt(values.shape[1]))

    def _standardised(self, means: Doubles, counts: Integers) -> Doubles:
        deviation = np.sqrt(self.between_ + self.within_ / np.maximum(counts, 1)[:, None])
        return np.asarray((means - self.mean_) / np.where(deviation == 0, 1.0, deviation))

    def _kept(self, rows: Doubles) -> Doubles:
        codes, counts = np.unique(rows[~np.isnan(rows)], return_counts=True)
        kept: Flags = (counts >= LEAST_COUNT) & ~np.isin(codes, [word_code(word) for word in STOP_WORDS])
        if self.vectors is not None:
            kept &= np.isin(codes, [word_code(word) for word in self.vectors.words])
        elif kept.sum() > MOST_LEARNED:
            frequent = np.argsort(-np.where(kept, counts, 0), kind="stable")[:MOST_LEARNED]
            kept = np.isin(np.arange(len(codes)), frequent)
        if not kept.any():
            having = "" if self.vectors is None else " and has a vector"
            raise DataError(
                f"no word occurs {LEAST_COUNT} times in the {len(rows)} training documents, is no stop word{having}; "
                "bring more texts"
            )
        return np.asarray(codes[kept])

    def transform(self, X: NDArray[Any]) -> Singles:
        """Return rows (n, p), or (n, p + d) with the numbers of words; computed in float64.

        Raises
        ------
        InputError
            The number of columns is not the fitted one.
        """
        rows = np.asarray(X, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.width_:
            raise InputError(f"rows have shape {rows.shape}; documents have (n, {self.width_})")
        starts = range(0, max(1, len(rows)), _ROWS_AT_ONCE)
        return np.concatenate([self._transformed(rows[start : start + _ROWS_AT_ONCE]) for start in starts])

    def _transformed(self, rows: Doubles) -> Singles:
        places = self._places(rows)
        counts = (places >= 0).sum(axis=1)
        values = self._standardised(self._means(places, self.vectors_.astype(np.float64)), counts)
        values[counts == 0] = self.far_
        scaled = np.clip(values, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)
        return np.concatenate([scaled, places.astype(np.float32)], axis=1) if self.sequences else scaled

    def has_words(self, X: Doubles) -> Flags:
        """Return which rows of codes (n, d) have a known word, shape (n,)."""
        starts = range(0, max(1, len(X)), _ROWS_AT_ONCE)
        return np.concatenate([np.isin(X[i : i + _ROWS_AT_ONCE], self.codes_).any(axis=1) for i in starts])

    @property
    def dimensions(self) -> int:
        """p, the number of columns before those of words."""
        return len(self.mean_)

    def standardised_words(self, codes: Doubles) -> Doubles:
        """Return the vectors of the known words of one document, (m, p), standardised so that their mean is its row."""
        vectors = self.vectors_[np.searchsorted(self.codes_, codes)].astype(np.float64)
        return self._standardised(vectors, np.full(len(codes), len(codes)))

    @property
    def lexicon(self) -> WordVectors:
        """The kept words and their vectors."""
        return WordVectors(self.words_, self.vectors_)

    def known(self, X: NDArray[Any]) -> list[list[str]]:
        """Return the known words of each row of codes (n, d), in their order."""
        return [[self.words_[place] for place in row[row >= 0].tolist()] for row in self._places(np.asarray(X))]

    def _places(self, rows: Doubles) -> Integers:
        """Return the numbers of the known words of each row, (n, d), without gaps, then -1."""
        places = np.searchsorted(self.codes_, rows)
        at = np.minimum(places, len(self.codes_) - 1)
        known = self.codes_[at] == rows
        order = np.argsort(~known, axis=1, kind="stable")
        numbers = np.where(known, at, NO_WORD)
        return np.asarray(np.take_along_axis(numbers, order, axis=1), dtype=np.int64)

    def _means(self, places: Integers, vectors: Doubles) -> Doubles:
        """Return the means of the vectors of documents' words, (n, p), 0 without words; added in their order."""
        from scipy import sparse

        counts = (places >= 0).sum(axis=1)
        words = places[places >= 0]
        starts = np.concatenate([[0], np.cumsum(counts)])
        matrix = sparse.csr_array((np.ones(len(words)), words, starts), shape=(len(places), len(self.codes_)))
        return np.asarray((matrix @ vectors) / np.maximum(counts, 1)[:, None])

    def to_part(self) -> Part:
        """Return words, vectors and statistics."""
        config: dict[str, Any] = {
            "precision": self.precision,
            "words": list(self.words_),
            "sequences": self.sequences,
            "width": self.width_,
        }
        arrays: dict[str, Array] = {
            "codes": self.codes_,
            "vectors": self.vectors_,
            "mean": self.mean_,
            "between": self.between_,
            "within": self.within_,
            "far": np.array([self.far_]),
        }
        return Part(self.kind, config, arrays)

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Rebuild the scaler from its part."""
        config: dict[str, Any] = {"precision": Literal["float64"], "words": tuple[str, ...], "sequences": bool}
        config["width"] = Annotated[int, Ge(1), Le(MOST_WORDS)]
        fitted = {"mean": "float64 p", "between": "float64 p", "within": "float64 p", "far": "float64 1"}
        check_part(part, config, {"codes": "float64 k", "vectors": "float32 k p", **fitted})
        arrays = part.arrays
        scaler = cls(sequences=part.config["sequences"])
        scaler.words_, scaler.width_ = tuple(part.config["words"]), part.config["width"]
        scaler.codes_, scaler.vectors_ = arrays["codes"], arrays["vectors"]
        scaler.mean_, scaler.between_, scaler.within_ = arrays["mean"], arrays["between"], arrays["within"]
        scaler.far_ = float(arrays["far"][0])
        if not len(scaler.codes_) or len(scaler.words_) != len(scaler.codes_):
            raise ValueError(f"it has {len(scaler.words_)} words and {len(scaler.codes_)} codes, not as many of both")
        if not (np.diff(scaler.codes_) > 0).all() or not np.isfinite(scaler.codes_).all():
            raise ValueError("its codes do not increase")
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise ValueError("a vector or a statistic is not a finite number")
        if (scaler.between_ < 0).any() or (scaler.within_ < 0).any():
            raise ValueError("a variance is below 0")
        return scaler


class DocumentNull(MeanNull):
    """Null model of documents: the mean of the training documents' mean word vectors (CADET eq 5, as for tables).

    Parameters
    ----------
    columns : int, optional
        How many of the first columns hold the mean vector; all by default.

    Attributes
    ----------
    mean_ : ndarray of float64, shape (columns,)
    """

    kind: ClassVar[str] = "document mean"

    def __init__(self, columns: int | None = None) -> None:
        self.columns = columns

    def fit(self, X: Floats) -> Self:
        """Store the mean of the vectors of scaled training rows, shape (n, d); see `MeanNull.fit`."""
        return super().fit(X[:, : self.columns])

    def hardness(self, X: Floats) -> Doubles:
        """Return the Euclidean distance of each mean vector to that of the training documents, shape (n,)."""
        return super().hardness(X[:, : len(self.mean_)])
