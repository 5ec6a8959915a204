"""Categories of rows as texts, independent of the type they are stored in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from assay.arrays import Doubles, Texts
from assay.data.dialects import MISSING
from assay.errors import InputError

_WHOLE = re.compile(r"(-?\d+)\.0+")
_MISSING = ("nan", "NaT", "<NA>")


def category_texts(categories: Iterable[object]) -> Texts:
    """Return categories as texts, shape (n,): 3, 3.0, "3" and " 3.0 " all become "3", missing values "".

    Raises
    ------
    InputError
        A category is neither text nor a number.
    """
    texts = [_category_text(value, row) for row, value in enumerate(categories)]
    return np.array(texts, dtype=object)


def _category_text(value: object, row: int) -> str:
    if type(value) is str:
        return _without_zeros(value.strip())
    if value is None or (not isinstance(value, str) and str(value) in _MISSING):
        return ""
    if not isinstance(value, str | float | int | np.number | np.bool_):
        raise InputError(f"row {row}: the category or id is of type {type(value).__name__}; give text or a number")
    is_whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return _without_zeros(f"{value:.0f}" if is_whole else str(value).strip())


def _without_zeros(text: str) -> str:
    """Return the text of a number like 3.0 without its fraction."""
    whole = _WHOLE.fullmatch(text) if text.endswith("0") else None
    return whole[1] if whole else text


def codes_of(texts: Iterable[str], known: Sequence[str]) -> tuple[Doubles, tuple[str, ...]]:
    """Return the positions of texts in a vocabulary, and the vocabulary with the new ones among them.

    New texts follow the known ones, in alphabetical order. Missing texts, "", have the position NaN.
    """
    texts = list(texts)
    extended = (*known, *sorted(set(texts) - {"", *known}))
    places = {text: float(place) for place, text in enumerate(extended) if text}
    return np.array([places.get(text, np.nan) for text in texts], dtype=np.float64), extended


def feature_texts(values: Iterable[object]) -> Texts:
    """Return the values of a feature column of categories as texts, shape (n,), "" where one is missing.

    As `category_texts`, but words for missing values count as missing, and true and false are alike in every spelling.

    Raises
    ------
    InputError
        A value is neither text nor a number.
    """
    return np.array([_feature_text(text) for text in category_texts(values)], dtype=object)


def _feature_text(text: str) -> str:
    if text.rstrip("\0") in MISSING:
        return ""
    return text.lower() if text.lower() in ("true", "false") else text
