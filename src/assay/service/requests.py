"""The body of a request to /score: read, checked, and refused with a sentence that says why."""

from __future__ import annotations

from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from assay.data.categories import category_texts
from assay.errors import InputError
from assay.parameters import check_share
from assay.parts import parse_json
from assay.scorer.features import column_order

BODY = '{"columns": [names], "rows": [[numbers], ...], "eps": number (optional), "fdr": number (optional)}'
KEYS = ("columns", "rows", "eps", "fdr")


class Whole(float):
    """A whole number of many digits, and these digits: float64 may not hold them all, and a category is told by all."""

    __slots__ = ("digits",)
    digits: str

    def __new__(cls, digits: str) -> Self:
        """Read the number from its digits."""
        number = super().__new__(cls, digits)
        number.digits = digits
        return number


JSON_WORDS = {
    str: "a string",
    bool: "true or false",
    type(None): "null",
    list: "a list",
    dict: "an object",
    float: "a number",
    Whole: "a number",
}


def _whole(digits: str) -> float:
    return float(digits) if len(digits) < 16 else Whole(digits)  # 15 digits are below 2**53


def read_body(body: bytes) -> dict[str, Any]:
    """Parse the body of a request to /score; every number becomes a float, a long whole one a `Whole`.

    Raises
    ------
    InputError
        It is not a JSON object, or a key is missing or unknown.
    """
    try:
        content = parse_json(body, parse_int=_whole)
    except ValueError as error:
        raise InputError(f"the body is not JSON ({error}); send {BODY}") from error
    if not isinstance(content, dict):
        raise InputError(f"the body is {JSON_WORDS[type(content)]}; send an object: {BODY}")
    if unknown := sorted(content.keys() - set(KEYS)):
        raise InputError(f"unknown key {unknown[0]!r}; send {BODY}")
    if missing := [key for key in ("columns", "rows") if key not in content]:
        raise InputError(f"key {missing[0]!r} is missing; send {BODY}")
    return content


def read_share(content: dict[str, Any], key: str) -> float | None:
    """Return eps or fdr of a request, or None.

    Raises
    ------
    InputError, ConfigError
        It is no number, or not between 0 and 1.
    """
    value = content.get(key)
    if value is None:
        return None
    if not isinstance(value, float):
        raise InputError(f"{key} is {JSON_WORDS[type(value)]}; give a number between 0 and 1, or leave it out")
    return check_share(value, key)


def read_rows(
    content: dict[str, Any], columns: tuple[str, ...], category_column: str | None = None
) -> tuple[NDArray[np.float64], list[str] | None]:
    """Return the rows of a request, float64 of shape (n, d), in the order of the scorer's columns, and categories.

    Raises
    ------
    InputError
        Unknown, missing or doubled columns; rows of another length; a value that is no number.
    """
    given, rows = content["columns"], content["rows"]
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise InputError("columns must be a list of names; POST /info names this scorer's columns")
    expected = columns if category_column is None else (*columns, category_column)
    order = column_order(expected, given)
    check_shape(rows, len(given))
    categories = None
    if category_column is not None:
        categories = [category_text(row.pop(order[-1]), number) for number, row in enumerate(rows)]
        given = [name for name in given if name != category_column]
        order = column_order(columns, given)
    check_numbers(rows, given)
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(columns))[:, order], categories


def category_text(value: object, row: int) -> str:
    """Return a category as text; raise `InputError` for what is neither text nor a number."""
    if not isinstance(value, str | float):
        raise InputError(f"row {row}: the category is {JSON_WORDS[type(value)]}; give text or a number")
    return value.digits if isinstance(value, Whole) else str(category_texts([value])[0])


def check_shape(rows: object, width: int) -> None:
    """Raise `InputError` unless `rows` is a list of lists of `width` values, naming the first bad row."""
    wanted = f"every row must be a list of {width} numbers, one for each column"
    if not isinstance(rows, list):
        raise InputError(f"rows is {JSON_WORDS[type(rows)]}; give a list of rows: {wanted}")
    for number, row in enumerate(rows):
        if not isinstance(row, list):
            raise InputError(f"row {number} is {JSON_WORDS[type(row)]}; {wanted}")
        if len(row) != width:
            raise InputError(f"row {number} has length {len(row)}; {wanted}")


def check_numbers(rows: list[list[Any]], columns: list[str]) -> None:
    """Raise `InputError` at the first value that is not a JSON number."""
    if set(map(type, chain.from_iterable(rows))) <= {float, Whole}:
        return
    for number, row in enumerate(rows):
        for name, value in zip(columns, row, strict=True):
            if not isinstance(value, float):
                what = JSON_WORDS[type(value)]
                raise InputError(f"row {number}, column {name!r} is {what}; every value must be a finite number")
