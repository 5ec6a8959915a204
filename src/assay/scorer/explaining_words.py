"""Why a document has its score: which words raise it, and which themes of normal documents it was compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from assay.arrays import Doubles, Flags, Floats, Integers, Singles
from assay.data.documents import DocumentScaler
from assay.data.words import STOP_WORDS, word_code
from assay.detectors.base import Detector, ReadsWords
from assay.scorer.explaining import NEAREST, Normals, of_walks

MOST_EXPLAINED = 50
CONTEXT_WORDS = 3
_STOP_CODES = np.array([word_code(word) for word in sorted(STOP_WORDS)])


@dataclass(frozen=True, slots=True)
class ReadDocument:
    """What a document's score comes from.

    Attributes
    ----------
    words : dict of str to float
        Its known words, those first that say most. By a detector that reads words (cvdd) the share of attention that a
        word gets, mean over the heads; else how much the score falls without the word, which may be below 0.
    unknown, counted : int
        How many of its words, without stop words, are unknown to the scorer, and how many there are.
    attended : bool
        Whether `words` are shares of attention.
    context : int or None
        The nearest context, from 1, by a detector that has contexts; None for others, or without known words.
    context_words : tuple of str
        The words that are most typical of it.
    distances : ndarray of float64, shape (contexts,)
        The document's distance from each context, from 0 to 1; empty for other detectors.
    """

    words: dict[str, float]
    unknown: int
    counted: int
    attended: bool
    context: int | None
    context_words: tuple[str, ...]
    distances: Doubles

    def shares(self, n_words: int) -> dict[str, float]:
        """Return the first words that raise the score, with their shares of attention, or of what raises it."""
        first = {word: value for word, value in list(self.words.items())[:n_words] if value > 0}
        total = 1.0 if self.attended else sum(value for value in self.words.values() if value > 0)
        return {word: value / total for word, value in first.items()}

    def sentence(self, n_words: int) -> str:
        """Return the nearest context, the first words, and how many are unknown, for people."""
        said = []
        if self.context is not None:
            near = ", ".join(self.context_words[:CONTEXT_WORDS])
            said.append(f"nearest context {self.context} ({near}) at {self.distances[self.context - 1]:.2f}")
        first = self.shares(n_words)
        said += [", ".join(f"{word} {share:.0%}" for word, share in first.items())] if first else []
        said += [] if first else ["no known word raises the score by itself" if self.words else "no known word"]
        said += [f"{self.unknown} of {self.counted} words unknown"] if self.unknown else []
        return "; ".join(said)


def read_documents(
    detector: Detector, scaler: DocumentScaler, score: Callable[[Floats], Singles], features: Floats
) -> list[ReadDocument]:
    """Return what the scores of documents come from.

    Parameters
    ----------
    detector : Detector
    scaler : DocumentScaler
    score : callable
        Scores of raw rows, higher = more anomalous.
    features : ndarray of float64, shape (n, d)
        Codes of words.
    """
    known = scaler.known(features)
    counts = [int(np.isin(row[~np.isnan(row)], _STOP_CODES, invert=True).sum()) for row in features]
    numbers = [(count - len(words), count) for words, count in zip(known, counts, strict=True)]
    if not isinstance(detector, ReadsWords):
        return [
            ReadDocument(_without_each(scaler, score, row) if words else {}, *two, False, None, (), np.empty(0))
            for row, words, two in zip(features, known, numbers, strict=True)
        ]
    contexts = detector.contexts()
    distances, attention = detector.read(scaler.transform(features))
    reads = []
    for words, two, far, heads in zip(known, numbers, distances, attention, strict=True):
        shares: dict[str, float] = {}
        for word, share in zip(words, heads.mean(axis=0).tolist(), strict=False):
            shares[word] = shares.get(word, 0.0) + share
        nearest = int(far.argmin()) if words else None
        named = () if nearest is None else tuple(contexts[nearest])
        reads.append(ReadDocument(_in_order(shares), *two, True, None if nearest is None else nearest + 1, named, far))
    return reads


def word_contributions(
    scaler: DocumentScaler, score: Callable[[Singles], Singles], normals: Normals, features: Floats
) -> tuple[Doubles, Doubles]:
    """Return what each word contributes to the scores of documents, and the documents without the first of these.

    On the way from a normal document the mean vector takes over word by word, and so does the sequence of words, for
    detectors that read it: places that are not taken yet have the words of the normal document, spread evenly. The
    first 50 words have contributions of their own, all later ones one together; unknown words have none.

    Parameters
    ----------
    score : callable
        Scores of scaled rows.
    normals : NeighbourhoodStrata or HoldingStrata
    features : ndarray of float64, shape (n, d)
        Codes of words.

    Returns
    -------
    contributions : ndarray of float64, shape (n, d)
        By place; a word that occurs more than once shares its contribution alike.
    without : ndarray of float64, shape (n, d)
    """
    total: Doubles = np.zeros(features.shape)
    without: Doubles = features.astype(np.float64)
    for row, codes in enumerate(features):
        known = np.flatnonzero(np.isin(codes, scaler.codes_))
        if not len(known):
            continue
        words, piece = np.unique(codes[known], return_inverse=True)
        first_at = np.full(len(words), len(known))
        np.minimum.at(first_at, piece, np.arange(len(known)))
        rank = np.minimum(np.argsort(np.argsort(first_at)), MOST_EXPLAINED)[piece]
        scaled = scaler.transform(codes[None])[0]
        added = of_walks(
            score, _Mix(scaler, scaled, codes[known], rank), normals.nearest(scaled[None], NEAREST)[0], rank.max() + 1
        )
        total[row, known] = (added / np.bincount(rank))[rank]
        without[row] = _without(codes, codes[known[rank == added[:MOST_EXPLAINED].argmax()][0]])
    return total, without


class _Mix:
    """The documents between a normal one and a document, of which some pieces are taken."""

    def __init__(self, scaler: DocumentScaler, scaled: Singles, words: Doubles, piece: Integers) -> None:
        self._width, self._piece = scaler.dimensions, piece
        self._each = scaler.standardised_words(words)
        self._sequence = scaled[self._width :]

    def __call__(self, near: Singles, taken: Flags) -> Singles:
        """Return the mixed documents, scaled; `taken` has the shape (documents, pieces)."""
        is_own, vector = taken[:, self._piece], near[: self._width].astype(np.float64)
        means = vector + is_own @ (self._each - vector) / len(self._piece)
        if not len(self._sequence):
            return means.astype(np.float32)
        others = near[self._width :][near[self._width :] >= 0]
        place = np.arange(len(others)) * len(self._piece) // max(len(others), 1)
        sequences = np.full((len(taken), len(self._sequence)), -1, dtype=np.float32)
        for row, own in enumerate(is_own):
            mixed = np.concatenate([self._sequence[: len(own)][own], others[~own[place]]])
            sequences[row, : len(mixed)] = mixed
        return np.concatenate([means.astype(np.float32), sequences], axis=1)


def _without_each(scaler: DocumentScaler, score: Callable[[Floats], Singles], row: Floats) -> dict[str, float]:
    """Return how much the score of a document falls without each of its known words, of the first 50."""
    codes = dict.fromkeys(row[np.isin(row, scaler.codes_)].tolist())
    kept = list(codes)[:MOST_EXPLAINED]
    changed = np.stack([row, *(_without(row, code) for code in kept)])
    scores = np.asarray(score(changed), dtype=np.float64)
    names = [scaler.words_[place] for place in np.searchsorted(scaler.codes_, kept)]
    return _in_order(dict(zip(names, (scores[0] - scores[1:]).tolist(), strict=True)))


def _without(row: Floats, code: float) -> Floats:
    """Return a row without a word; the others close up."""
    left = row[row != code]
    return np.concatenate([left, np.full(len(row) - len(left), np.nan)])


def _in_order(values: dict[str, float]) -> dict[str, float]:
    return dict(sorted(values.items(), key=lambda item: -item[1]))
