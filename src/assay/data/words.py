"""Texts as words, and documents as rows of numbers: a row holds the codes of a document's words, in their order.

The code of a word follows from the word alone, so that a row means the same in every dataset, file and request, and
its fingerprint is one of the document's words.
"""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np

from assay.arrays import Doubles
from assay.data.mapped import new_array, row_blocks
from assay.errors import DataError

MOST_WORDS = 500
LEAST_LETTERS = 3
WORD_COLUMNS = tuple(f"word {place:03d}" for place in range(MOST_WORDS))
# The English stop words of the Snowball project of three letters or more, and what is left of words like "don't".
_STOP_WORDS = """
    our ours ourselves you your yours yourself yourselves him his himself she her hers herself its itself they them
    their theirs themselves what which who whom this that these those are was were been being have has had having does
    did doing would should could ought cannot the and but because until while for with about against between into
    through during before after above below from down out off over under again further then once here there when where
    why how all any both each few more most other some such nor not only own same than too very can will just now
    don isn aren wasn weren hasn haven hadn doesn didn wouldn shan shouldn couldn mustn
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case and Unicode's form NFKC: the runs of at least 3 letters of any script.

    Marks, such as vowel signs of Hindi and accents that stand for themselves, belong to the letter before them, and do
    not count. Scripts that put no space between words make one word of a sentence. Everything else separates words and
    is dropped: punctuation, digits, spaces, and shorter runs (Ruff 2021, section 3.2.3, which also drops stop words;
    here these are left out where a scorer is fitted).
    """
    plain = text.lower()
    if not plain.isascii():
        plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", plain).lower())
    return _word_pattern(plain.isascii()).findall(plain)


@cache
def _word_pattern(is_ascii: bool) -> re.Pattern[str]:
    if is_ascii:
        return re.compile(rf"[a-z]{{{LEAST_LETTERS},}}")
    marks = re.escape("".join(sign for sign in map(chr, range(sys.maxunicode)) if unicodedata.category(sign)[0] == "M"))
    return re.compile(rf"(?:[^\W\d_][{marks}]*){{{LEAST_LETTERS},}}")


def word_code(word: str) -> float:
    """Return the code of a word: the first 52 bits of its BLAKE2b hash, a whole number that float64 holds exactly."""
    return float(int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest()) >> 12)


class Codes:
    """Codes of words, each computed once, and the words in the order of their first appearance.

    Raises
    ------
    DataError
        By its methods: two words have the same code, which happens to one of 900,000 collections of 100,000 words.
    """

    def __init__(self) -> None:
        self._code_of: dict[str, float] = {}
        self._word_of: dict[float, str] = {}
        self.n_longer = 0

    @property
    def words(self) -> tuple[str, ...]:
        """The different words so far."""
        return tuple(self._code_of)

    def row(self, text: str) -> list[float]:
        """Return the codes of the first 500 words of a text."""
        words = split_words(text)
        self.n_longer += len(words) > MOST_WORDS
        return [self._code(word) for word in words[:MOST_WORDS]]

    def _code(self, word: str) -> float:
        code = self._code_of.get(word)
        if code is None:
            code = self._code_of[word] = word_code(word)
            if self._word_of.setdefault(code, word) != word:
                raise DataError(f"the words {word!r} and {self._word_of[code]!r} have one code; leave one of them out")
        return code


def require_different_codes(words: Sequence[str]) -> None:
    """Raise `DataError` if two words have one code; see `Codes`."""
    word_of: dict[float, str] = {}
    for word in words:
        if (other := word_of.setdefault(word_code(word), word)) != word:
            raise DataError(f"the words {word!r} and {other!r} have one code; leave one of them out")


def words_in(rows: Doubles, words: Sequence[str]) -> tuple[str, ...]:
    """Return which of some words occur in rows of codes (n, d), in their order."""
    codes = set(np.unique(rows).tolist()) if words else set[float]()
    return tuple(word for word in words if word_code(word) in codes)


def document_rows(texts: Sequence[str], codes: Codes | None = None) -> Doubles:
    """Return texts as rows of codes, float64 of shape (n, 500), NaN behind the last word; a text may have no word.

    Many are in a temporary file (`assay.data.mapped`).
    """
    codes = Codes() if codes is None else codes
    rows: Doubles = new_array((len(texts), MOST_WORDS))
    for block in row_blocks(rows):
        rows[block] = np.nan
        for row, text in zip(rows[block], texts[block], strict=True):
            of_text = codes.row(text)
            row[: len(of_text)] = of_text
    return rows


def documents(rows: Doubles, words: Sequence[str]) -> list[str]:
    """Return the documents of rows of codes as texts: their words, with spaces between them.

    Parameters
    ----------
    rows : ndarray of float64, shape (n, 500)
    words : sequence of str
        At least those that occur.
    """
    word_of = {word_code(word): word for word in words}
    return [" ".join(word_of[code] for code in row[~np.isnan(row)].tolist()) for row in rows]


def plain_document(value: object, where: str) -> str:
    """Return a value of a column of texts; a missing one is an empty document.

    Raises
    ------
    DataError
        It is no text.
    """
    if isinstance(value, str):
        return value
    if value is None or str(value) in ("nan", "<NA>", "NaT"):
        return ""
    raise DataError(f"{where} is {value!r}; a document is a text")
