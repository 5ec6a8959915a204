"""The body of a request to /score: parsed and checked; errors say what to send instead."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from assay.data.categories import category_texts
from assay.errors import InputError
from assay.parameters import check_share
from assay.parts import parse_json
from assay.scorer.features import column_order

BODY = '{"columns": [names], "rows": [[values], ...]}, and optionally "ids": [names], "eps": number, "fdr": number'
KEYS = ("columns", "rows", "ids", "eps", "fdr")


class LongInteger(float):
    """A long integer with all its digits: float64 may drop some, and a category needs all of them."""

    __slots__ = ("digits",)
    digits: str

    def __new__(cls, digits: str) -> Self:
        """Parse the digits."""
        number = super().__new__(cls, digits)
        number.digits = digits
        return number


JSON_NAMES = {
    str: "a string",
    bool: "true or false",
    type(None): "null",
    list: "a list",
    dict: "an object",
    float: "a number",
    LongInteger: "a number",
}


def _integer(digits: str) -> float:
    return float(digits) if len(digits) < 16 else LongInteger(digits)  # 15 digits are below 2**53


def read_body(body: bytes) -> dict[str, Any]:
    """Parse the body of a request to /score; every number becomes a float, a long integer a `LongInteger`.

    Raises
    ------
    InputError
        The body is not a JSON object, or a key is missing or unknown.
    """
    try:
        content = parse_json(body, parse_int=_integer)
    except ValueError as error:
        raise InputError(f"the body is not JSON ({error}); send {BODY}") from error
    if not isinstance(content, dict):
        raise InputError(f"the body is {JSON_NAMES[type(content)]}; send an object: {BODY}")
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
        The value is not a number, or not between 0 and 1.
    """
    value = content.get(key)
    if value is None:
        return None
    if not isinstance(value, float):
        raise InputError(f"{key} is {JSON_NAMES[type(value)]}; give a number between 0 and 1, or leave it out")
    return check_share(value, key)


def read_request_rows(
    content: dict[str, Any],
    columns: tuple[str, ...],
    category_column: str | None = None,
    *,
    of_text: Collection[str] = (),
    imputed: Collection[str] = (),
) -> tuple[NDArray[Any], list[str] | None]:
    """Return the rows of a request, shape (n, d), in the scorer's order of columns, and categories.

    The rows are of float64, NaN where a value is missing; if columns hold text (`of_text`), of objects, with None where
    a value is missing. Only columns in `imputed` may lack a value.

    Raises
    ------
    InputError
        Columns are unknown, missing or repeated, rows have another length, or a value is not a number.
    """
    names, rows = content["columns"], content["rows"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError("columns must be a list of names; POST /info names this scorer's columns")
    expected = columns if category_column is None else (*columns, category_column)
    order = column_order(expected, names)
    check_shape(rows, len(names), "values" if of_text else "numbers")
    categories = None
    if category_column is not None:
        categories = [category_text(row.pop(order[-1]), number) for number, row in enumerate(rows)]
        names = [name for name in names if name != category_column]
        order = column_order(columns, names)
    check_values(rows, names, of_text, imputed)
    if not of_text:
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(columns))[:, order], categories
    values = np.empty((len(rows), len(columns)), dtype=object)
    for number, row in enumerate(rows):
        values[number] = [
            value.digits if isinstance(value, LongInteger) and name in of_text else value
            for name, value in zip(names, row, strict=True)
        ]
    return values[:, order], categories


def category_text(value: object, row: int) -> str:
    """Return a category as text; raise `InputError` if it is neither text nor a number."""
    if not isinstance(value, str | float):
        raise InputError(f"row {row}: the category is {JSON_NAMES[type(value)]}; give text or a number")
    return value.digits if isinstance(value, LongInteger) else str(category_texts([value])[0])


def read_ids(content: dict[str, Any], n: int) -> list[str] | None:
    """Return the ids of the n rows of a request, or None.

    Raises
    ------
    InputError
        They are not a list of texts or numbers, one for each row.
    """
    ids = content.get("ids")
    if ids is None:
        return None
    if not isinstance(ids, list) or len(ids) != n:
        given = f"a list of {len(ids)}" if isinstance(ids, list) else JSON_NAMES[type(ids)]
        raise InputError(f"ids is {given}; give a list of {n} names, one for each row, or leave it out")
    for number, value in enumerate(ids):
        if not isinstance(value, str | float):
            raise InputError(f"id of row {number} is {JSON_NAMES[type(value)]}; give text or a number")
    return [value.digits if isinstance(value, LongInteger) else str(category_texts([value])[0]) for value in ids]


def check_shape(rows: object, width: int, noun: str = "numbers") -> None:
    """Raise `InputError`, naming the first bad row, unless `rows` is a list of lists of `width` values (`noun`)."""
    rule = f"every row must be a list of {width} {noun}, one for each column"
    if not isinstance(rows, list):
        raise InputError(f"rows is {JSON_NAMES[type(rows)]}; give a list of rows: {rule}")
    for number, row in enumerate(rows):
        if not isinstance(row, list):
            raise InputError(f"row {number} is {JSON_NAMES[type(row)]}; {rule}")
        if len(row) != width:
            raise InputError(f"row {number} has length {len(row)}; {rule}")


def check_values(
    rows: list[list[Any]], columns: list[str], of_text: Collection[str] = (), imputed: Collection[str] = ()
) -> None:
    """Raise `InputError` at the first value that its column does not take.

    A column takes JSON numbers, a of_text one also texts, true and false, an imputed one also null.
    """
    if set(map(type, chain.from_iterable(rows))) <= {float, LongInteger}:
        return
    for number, row in enumerate(rows):
        for name, value in zip(columns, row, strict=True):
            if isinstance(value, float) or (value is None and name in imputed):
                continue
            if isinstance(value, str | bool) and name in of_text:
                continue
            kind = JSON_NAMES[type(value)]
            allowed = "text or a number" if name in of_text else "a finite number"
            may_lack = ", or null where it is missing" if name in imputed else ""
            raise InputError(f"row {number}, column {name!r} is {kind}; every value must be {allowed}{may_lack}")
