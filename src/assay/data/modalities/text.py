"""Texts: rows are documents, whose columns are the codes of their words in order, NaN behind the last one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles
from assay.data.documents import LEAST_COUNT, DocumentNull, DocumentScaler
from assay.data.modalities.base import Modality
from assay.data.null_models import NullModel
from assay.data.ranges import Expectation
from assay.data.recipes import Recipe
from assay.data.scaling import Scaler
from assay.errors import DataError

THEME = 4

_Made = tuple[Doubles, NDArray[np.intp]]


def foreign(X: Doubles, n: int, rng: np.random.Generator) -> _Made:
    """Make documents as long as those of random rows, of four rare words each: a theme that normal rows hardly touch.

    Rare are the less frequent half of the words that occur at least three times.
    """
    source, draws, choice = _drawn(X, n, rng)
    words, counts = np.unique(X[~np.isnan(X)], return_counts=True)
    usual = counts >= min(LEAST_COUNT, counts.max())
    rare = words[usual & (counts <= np.median(counts[usual]))]
    themes = rare[(choice.random((n, THEME)) * len(rare)).astype(np.intp)]
    picked = np.take_along_axis(themes, (draws * THEME).astype(np.intp), axis=1)
    return np.where(np.isnan(X[source]), np.nan, picked), source


def repeated(X: Doubles, n: int, rng: np.random.Generator) -> _Made:
    """Make documents as long as those of random rows, of one word of the row again and again."""
    source, _, choice = _drawn(X, n, rng)
    lengths = (~np.isnan(X[source])).sum(axis=1)
    word = X[source, (choice.random(n) * lengths).astype(np.intp)]
    return np.where(np.isnan(X[source]), np.nan, word[:, None]), source


def blended(X: Doubles, n: int, rng: np.random.Generator) -> _Made:
    """Make documents as long as those of random rows, of words drawn from all different words alike."""
    source, draws, _ = _drawn(X, n, rng)
    words = np.unique(X[~np.isnan(X)])
    return np.where(np.isnan(X[source]), np.nan, words[(draws * len(words)).astype(np.intp)]), source


def _drawn(X: Doubles, n: int, rng: np.random.Generator) -> tuple[NDArray[np.intp], Doubles, np.random.Generator]:
    """Return n rows that have words, a number from 0 to 1 for each of their words, and a stream for more."""
    having = np.flatnonzero(~np.isnan(X[:, 0]))
    if not len(having):
        raise DataError("no document has a word; synthetic anomalies are made of words")
    rows, words, more = rng.spawn(3)
    return having[rows.integers(len(having), size=n)], words.random((n, X.shape[1])), more


class Text(Modality):
    """Documents as codes of words (`assay.data.words`); detectors get mean word vectors, or the words themselves."""

    name: ClassVar[str] = "text"
    scaler_class: ClassVar[type[Scaler]] = DocumentScaler
    null_model_class: ClassVar[type[NullModel]] = DocumentNull
    by_neighbourhood: ClassVar[bool] = False
    padded: ClassVar[bool] = True
    default_recipe: ClassVar[str] = "foreign"

    @property
    def recipes(self) -> Mapping[str, Recipe]:
        """Recipes of odd documents."""
        return {"foreign": foreign, "repeated": repeated, "blended": blended}

    def bounds(self, X: Doubles) -> Doubles:
        """Return the smallest and the largest code, for every column, shape (2, d)."""
        return np.stack([np.full(X.shape[1], np.nanmin(X)), np.full(X.shape[1], np.nanmax(X))])

    def expectations(self, columns: tuple[str, ...]) -> list[Expectation]:
        """Expect nothing of single words: a code is that of any word, and one that is missing ends the document."""
        return []
