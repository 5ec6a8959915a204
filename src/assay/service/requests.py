"""A request to /score: the rows of a body, and what decides; errors say what to send instead."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import orjson

from assay.data.categories import category_texts
from assay.errors import AssayError, InputError, RequestError
from assay.parameters import check_share
from assay.scorer.features import column_order
from assay.service.limits import MIB, SERVICE_LIMITS, Limits
from assay.service.reading import JsonReader, LongInteger
from assay.service.rows import JSON_NAMES, ColumnLayout, RowBlocks, check_shape

BODY = (
    '{"columns": [names], "rows": [[values], ...]}, {"columns": {name: [values], ...}}, '
    '{"records": [{name: value, ...}, ...]} or {"record": {name: value, ...}}, and optionally "ids": [names], '
    '"eps": number, "fdr": number'
)
KEYS = ("columns", "rows", "records", "record", "ids", "eps", "fdr")
MOST_BRACKETS_BESIDE_ROWS = 1000
MOST_REASONS = 100
_NEGATIVE_ZERO = re.compile(rb"-0[,\]}\s]")  # a whole number, whose sign orjson drops
_NO_NUMBERS = (b"t", b"f", b"n", b"{")  # what the values begin with that are none
_MOST_SPACE = 8  # between a key and what follows it
_PLAIN = {"columns", "rows", "ids", "eps"}


@dataclass(slots=True)
class Question:
    """The content of a request.

    Attributes
    ----------
    rows : array of shape (n, d), or table
        As `Scorer.judge` takes them; in the scorer's order of columns, if they are an array.
    categories, ids : list of str of length n, or None
    eps, fdr : float or None
    explain : int
        How many reasons each row gets.
    """

    rows: Any
    categories: list[str] | None = None
    ids: list[str] | None = None
    eps: float | None = None
    fdr: float | None = None
    explain: int = 0


def read_question(body: bytes | bytearray, layout: ColumnLayout, limits: Limits = SERVICE_LIMITS) -> Question:
    """Read a JSON body.

    Raises
    ------
    InputError, ConfigError
        It is not JSON, or not what the scorer takes; the message says where, and what to send.
    RequestError
        It is too large or nested too deeply (413).
    """
    is_plain = layout.is_of_numbers and len(body) <= limits.whole_body
    if is_plain and (plain := _read_plain(body, layout, limits)) is not None:
        return plain
    most = limits.rows + MOST_BRACKETS_BESIDE_ROWS
    if len(body) > most and (brackets := _count(body, b"[") + _count(body, b"{")) > most:
        raise RequestError(
            413,
            f"the body has {brackets} opening brackets; it has one for each row, and at most {limits.rows} rows: send "
            "fewer rows at a time",
        )
    if len(body) > limits.values and (commas := _count(body, b",")) > limits.values:
        raise RequestError(
            413, f"the body has {commas} commas; it has at most {limits.values} values: send fewer rows at a time"
        )
    try:
        reader = JsonReader(body.decode(json.detect_encoding(body)))
        if reader.peek() != "{":
            value = reader.value()
            reader.finish()
            raise InputError(f"the body is {JSON_NAMES[type(value)]}; send an object: {BODY}")
        return _read(reader, layout, limits)
    except AssayError:
        raise
    except RecursionError as error:
        raise RequestError(413, f"the body is nested too deeply; send {BODY}") from error
    except ValueError as error:
        raise InputError(f"the body is not JSON ({error}); send {BODY}") from error


def _count(body: bytes | bytearray, sign: bytes) -> int:
    """Return how often a sign occurs, counted by parts: meanwhile nobody else gets the interpreter."""
    return sum(body.count(sign, start, start + MIB) for start in range(0, len(body), MIB))


def _read_plain(body: bytes | bytearray, layout: ColumnLayout, limits: Limits) -> Question | None:
    """Return the rows of a body of numbers, parsed as a whole, which takes a third of the time.

    None for every other body, and for one that says more, or is wrong: what is wrong, the reader says.
    """
    try:
        content = orjson.loads(body)
        keys = content.keys()
        if keys == {"record"}:
            names, rows = list(content["record"]), [list(content["record"].values())]
        else:
            names, rows = content["columns"], content["rows"]
        ids, eps = content.get("ids"), content.get("eps")
        is_plain = (
            (keys <= _PLAIN or keys == {"record"})
            and (type(names), type(rows)) == (list, list)
            and {list}.issuperset(map(type, rows))
            and (
                ("rows" in keys and _ends_in_numbers(body))
                or {int, float}.issuperset(map(type, chain.from_iterable(rows)))
            )
            and (ids is None or {str}.issuperset(map(type, ids)))
            and type(eps) in (float, type(None))
            # orjson keeps the last of two equal keys: all that is quoted has to be what is left.
            and body.count(b'"', 0, body.rfind(b'"') + 1) == 2 * (len(keys) + len(names) + len(ids or ()))
            and b"\\" not in body
        )
        if not is_plain or len(rows) > limits.rows:
            return None
        values = np.array(rows, dtype=np.float64) if rows else np.empty((0, len(names)))
        if values.shape != (len(rows), len(names)) or ((values == 0).any() and _NEGATIVE_ZERO.search(body)):
            return None
        if tuple(names) != layout.columns:
            values = values[:, layout.order(tuple(names))]
        return Question(values, None, read_ids(ids, len(rows), limits), read_share(eps, "eps"))
    except (ValueError, TypeError, KeyError, AttributeError, AssayError):
        return None


def _ends_in_numbers(body: bytes | bytearray) -> bool:
    """Return whether the key rows comes last, with neither true, false, null nor an object after it."""
    last = body.rfind(b'"') + 1
    return (
        body.endswith(b'"rows"', 0, last)
        and body[last : last + _MOST_SPACE].lstrip().startswith(b":")
        and not any(body.find(sign, last) >= 0 for sign in _NO_NUMBERS)
    )


def _read(reader: JsonReader, layout: ColumnLayout, limits: Limits) -> Question:
    values: dict[str, Any] = {}
    blocks: list[RowBlocks] = []
    forms: list[str] = []
    rows_place = None
    for key in reader.members():
        if key not in KEYS:
            raise InputError(f"unknown key {key!r}; send {BODY}")
        forms += [key] if key in KEYS[:4] else []
        if key == "rows" and reader.peek() == "[":
            if "columns" in values:
                blocks.append(_read_rows(reader, values["columns"], layout, limits))
            else:
                rows_place = reader.place
                for _ in reader.elements():
                    reader.value()
        elif key == "rows":
            check_shape(reader.value(), 0)
        elif key == "columns" and reader.peek() == "{":
            blocks.append(_read_columns(reader, layout, limits))
        elif key in ("records", "record"):
            blocks.append(_read_records(reader, key, layout, limits))
        else:
            values[key] = reader.value()
    reader.finish()
    if rows_place is not None and "columns" in values:
        reader.place = rows_place
        blocks.append(_read_rows(reader, values["columns"], layout, limits))
    if not blocks:
        raise InputError(f"key {'columns' if 'columns' not in values else 'rows'!r} is missing; send {BODY}")
    if len(blocks) > 1 or len(forms) > (2 if "rows" in forms and "columns" in values else 1):
        raise InputError(f"rows are given in two ways, by {' and '.join(forms)}; send one: {BODY}")
    rows, categories = blocks[0].finish()
    ids = read_ids(values.get("ids"), len(rows), limits)
    return Question(rows, categories, ids, read_share(values.get("eps"), "eps"), read_share(values.get("fdr"), "fdr"))


def _read_rows(reader: JsonReader, names: Any, layout: ColumnLayout, limits: Limits) -> RowBlocks:
    if not isinstance(names, list) or set(map(type, names)) - {str}:
        raise InputError("columns must be a list of names; /info names this scorer's columns")
    blocks = RowBlocks(layout, names, limits)
    blocks.read(reader)
    return blocks


def _read_columns(reader: JsonReader, layout: ColumnLayout, limits: Limits) -> RowBlocks:
    columns: dict[str, list[Any]] = {}
    for name in reader.members():
        values = reader.value()
        if not isinstance(values, list):
            raise InputError(f"column {name!r} is {JSON_NAMES[type(values)]}; give a list of values, one for each row")
        limits.check_rows(len(values))
        columns[name] = values
    blocks = RowBlocks(layout, list(columns), limits)
    first = len(next(iter(columns.values()), []))
    if longer := [name for name, values in columns.items() if len(values) != first]:
        raise InputError(
            f"column {longer[0]!r} has {len(columns[longer[0]])} values, column {next(iter(columns))!r} {first}; give "
            "each column one value for each row"
        )
    for values in zip(*columns.values(), strict=True):
        blocks.append(list(values))
    return blocks


def _read_records(reader: JsonReader, key: str, layout: ColumnLayout, limits: Limits) -> RowBlocks:
    blocks = RowBlocks(layout, list(layout.all_columns), limits)
    if key == "records" and reader.peek() != "[":
        raise InputError(f"records is {JSON_NAMES[type(reader.value())]}; give a list of objects, one for each row")
    for number, _ in enumerate(reader.elements() if key == "records" else [None]):
        record = reader.value()
        what = f"record {number}" if key == "records" else "record"
        if not isinstance(record, dict):
            raise InputError(f"{what} is {JSON_NAMES[type(record)]}; give an object: {{name: value, ...}}")
        try:
            column_order(layout.all_columns, list(record))
        except InputError as error:
            raise InputError(f"{what}: {error}") from error
        blocks.append([record[name] for name in layout.all_columns])
    return blocks


def read_share(value: Any, key: str) -> float | None:
    """Return eps or fdr of a request, or None.

    Raises
    ------
    InputError, ConfigError
        The value is not a number, or not between 0 and 1.
    """
    if value is None:
        return None
    if not isinstance(value, float):
        raise InputError(f"{key} is {JSON_NAMES[type(value)]}; give a number between 0 and 1, or leave it out")
    return check_share(value, key)


def read_parameters(parameters: Mapping[str, str], question: Question) -> Question:
    """Return a question with what the address gives: eps or fdr, and explain, ``/score?eps=0.01&explain=3``.

    Raises
    ------
    InputError, ConfigError
        A parameter is unknown, given in the body as well, or not in its range.
    """
    shares, explain = {"eps": question.eps, "fdr": question.fdr}, 0
    for key, text in parameters.items():
        if key == "explain":
            explain = read_explain(text)
            continue
        if key not in shares:
            raise InputError(f"unknown parameter {key!r} of the address; /score takes eps, fdr and explain")
        if shares[key] is not None:
            raise InputError(f"{key} is given by the body and by the address; give it once")
        try:
            shares[key] = check_share(float(text), key)
        except ValueError as error:
            raise InputError(f"{key} is {text!r}; give a number between 0 and 1, or leave it out") from error
    return replace(question, eps=shares["eps"], fdr=shares["fdr"], explain=explain)


def read_explain(value: str) -> int:
    """Return the parameter ``explain`` of the address: how many reasons a row gets.

    Raises
    ------
    InputError
        It is no whole number from 1 to 100.
    """
    if not (value.isascii() and value.isdigit() and len(value) < 4 and 1 <= int(value) <= MOST_REASONS):
        raise InputError(f"explain is {value!r}; give a whole number of reasons for each row, from 1 to {MOST_REASONS}")
    return int(value)


def read_ids(ids: Any, n: int, limits: Limits = SERVICE_LIMITS) -> list[str] | None:
    """Return the ids of the n rows of a request, or None.

    Raises
    ------
    InputError
        They are not a list of texts or numbers, one for each row.
    """
    if ids is None:
        return None
    if not isinstance(ids, list) or len(ids) != n:
        given = f"a list of {len(ids)}" if isinstance(ids, list) else JSON_NAMES[type(ids)]
        raise InputError(f"ids is {given}; give a list of {n} names, one for each row, or leave it out")
    texts = []
    for number, value in enumerate(ids):
        if not isinstance(value, str | float):
            raise InputError(f"id of row {number} is {JSON_NAMES[type(value)]}; give text or a number")
        text = value.digits if isinstance(value, LongInteger) else str(category_texts([value])[0])
        limits.check_text(text, f"the id of row {number}")
        texts.append(text)
    return texts
