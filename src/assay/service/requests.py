"""A request to /score: the rows of a body, and what decides; errors say what to send instead."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from assay.data.categories import category_texts
from assay.errors import AssayError, InputError, RequestError
from assay.parameters import check_share
from assay.scorer.features import column_order
from assay.scorer.scorer import Scorer
from assay.service.limits import SERVICE_LIMITS, Limits
from assay.service.reading import JsonReader, LongInteger

BODY = (
    '{"columns": [names], "rows": [[values], ...]}, {"columns": {name: [values], ...}}, '
    '{"records": [{name: value, ...}, ...]} or {"record": {name: value, ...}}, and optionally "ids": [names], '
    '"eps": number, "fdr": number'
)
KEYS = ("columns", "rows", "records", "record", "ids", "eps", "fdr")
ROWS_CHECKED_AT_ONCE = 1024
MOST_BRACKETS_BESIDE_ROWS = 1000
JSON_NAMES = {
    str: "a string",
    bool: "true or false",
    type(None): "null",
    list: "a list",
    dict: "an object",
    float: "a number",
    LongInteger: "a number",
}


@dataclass(frozen=True, slots=True)
class ColumnLayout:
    """The columns that a scorer takes.

    Attributes
    ----------
    columns : tuple of str
        The features, in the scorer's order.
    category_column : str or None
    of_text, imputed : frozenset of str
        The features that take texts, and those that may lack a value.
    """

    columns: tuple[str, ...]
    category_column: str | None = None
    of_text: frozenset[str] = frozenset()
    imputed: frozenset[str] = frozenset()

    @classmethod
    def of(cls, scorer: Scorer) -> Self:
        """Return the layout of a scorer."""
        of_text = frozenset((*scorer.vocabulary, *scorer.dates))
        return cls(scorer.columns, scorer.category_column, of_text, frozenset(scorer.imputed))

    @property
    def all_columns(self) -> tuple[str, ...]:
        """The features, and last the column of categories."""
        return self.columns if self.category_column is None else (*self.columns, self.category_column)


@dataclass(frozen=True, slots=True)
class Question:
    """The content of a request.

    Attributes
    ----------
    rows : array of shape (n, d), or table
        As `Scorer.judge` takes them; in the scorer's order of columns, if they are an array.
    categories, ids : list of str of length n, or None
    eps, fdr : float or None
    """

    rows: Any
    categories: list[str] | None = None
    ids: list[str] | None = None
    eps: float | None = None
    fdr: float | None = None


class RowBlocks:
    """Rows of a JSON body, checked and turned into arrays as they are read.

    Parameters
    ----------
    layout : ColumnLayout
    names : list of str
        The columns, in the order of the values in rows.
    limits : Limits

    Raises
    ------
    InputError
        Columns are unknown, missing or given twice.
    """

    def __init__(self, layout: ColumnLayout, names: list[str], limits: Limits) -> None:
        self.layout = layout
        self.limits = limits
        self.names = names
        self.order = list(_order(layout.all_columns, tuple(names)))
        self.is_in_order = self.order == list(range(len(names)))
        self.is_of_numbers = not layout.of_text and layout.category_column is None
        self.n = 0
        self._pending: list[Any] = []
        self._blocks: list[NDArray[Any]] = []
        self._categories: list[str] = []

    def read(self, reader: JsonReader) -> None:
        """Read a list of rows."""
        for _ in reader.elements():
            block = reader.numbers(len(self.names)) if self.is_of_numbers else None
            if block is None:
                self.append(reader.value())
            else:
                self._flush()
                self._store(block if self.is_in_order else block[:, self.order])

    def append(self, row: Any) -> None:
        """Add one row."""
        self._pending.append(row)
        if len(self._pending) == ROWS_CHECKED_AT_ONCE:
            self._flush()

    def finish(self) -> tuple[NDArray[Any], list[str] | None]:
        """Return the rows, shape (n, d), in the scorer's order of columns, and the categories.

        They are of float64, NaN where a value is missing; if columns hold text, of objects, None where one is missing.
        """
        self._flush()
        if len(self._blocks) == 1:
            rows = self._blocks[0]
        else:
            rows = np.concatenate(self._blocks) if self._blocks else np.empty((0, len(self.layout.columns)))
        return rows, self._categories if self.layout.category_column is not None else None

    def _store(self, block: NDArray[Any]) -> None:
        self.n += len(block)
        self.limits.check_rows(self.n)
        self._blocks.append(block)

    def _flush(self) -> None:
        if not self._pending:
            return
        rows, layout, names, order = self._pending, self.layout, self.names, self.order
        self._pending = []
        self.limits.check_rows(self.n + len(rows))
        check_shape(rows, len(names), "values" if layout.of_text else "numbers", first=self.n)
        if layout.category_column is not None:
            place = order[-1]
            values = [row.pop(place) for row in rows]
            self._categories += [category_text(v, self.n + i, self.limits) for i, v in enumerate(values)]
            names = [name for name in names if name != layout.category_column]
            order = column_order(layout.columns, names)
        check_values(rows, names, layout, self.limits, first=self.n)
        if layout.of_text:
            block = np.empty((len(rows), len(layout.columns)), dtype=object)
            for number, row in enumerate(rows):
                block[number] = [
                    value.digits if isinstance(value, LongInteger) and name in layout.of_text else value
                    for name, value in zip(names, row, strict=True)
                ]
        else:
            block = np.array(rows, dtype=np.float64).reshape(len(rows), len(layout.columns))
        self._store(block[:, order])


@lru_cache(64)
def _order(columns: tuple[str, ...], names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(column_order(columns, names))


def read_question(body: bytes, layout: ColumnLayout, limits: Limits = SERVICE_LIMITS) -> Question:
    """Read a JSON body.

    Raises
    ------
    InputError, ConfigError
        It is not JSON, or not what the scorer takes; the message says where, and what to send.
    RequestError
        It is too large or nested too deeply (413).
    """
    most = limits.rows + MOST_BRACKETS_BESIDE_ROWS
    if len(body) > most and (brackets := body.count(b"[") + body.count(b"{")) > most:
        raise RequestError(
            413,
            f"the body has {brackets} opening brackets; it has one for each row, and at most {limits.rows} rows: send "
            "fewer rows at a time",
        )
    if len(body) > limits.values and (commas := body.count(b",")) > limits.values:
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
    return Question(rows, categories, ids, *(read_share(values.get(key), key) for key in ("eps", "fdr")))


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
    """Return a question with the eps or fdr that the address gives: ``/score?eps=0.01``.

    Raises
    ------
    InputError, ConfigError
        A parameter is unknown, given in the body as well, or not between 0 and 1.
    """
    shares = {"eps": question.eps, "fdr": question.fdr}
    for key, text in parameters.items():
        if key not in shares:
            raise InputError(f"unknown parameter {key!r} of the address; /score takes eps and fdr")
        if shares[key] is not None:
            raise InputError(f"{key} is given by the body and by the address; give it once")
        try:
            shares[key] = check_share(float(text), key)
        except ValueError as error:
            raise InputError(f"{key} is {text!r}; give a number between 0 and 1, or leave it out") from error
    return Question(question.rows, question.categories, question.ids, **shares)


def category_text(value: object, row: int, limits: Limits = SERVICE_LIMITS) -> str:
    """Return a category as text; raise `InputError` if it is neither text nor a number."""
    if not isinstance(value, str | float):
        raise InputError(f"row {row}: the category is {JSON_NAMES[type(value)]}; give text or a number")
    text = value.digits if isinstance(value, LongInteger) else str(category_texts([value])[0])
    limits.check_text(text, f"the category of row {row}")
    return text


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


def check_shape(rows: object, width: int, noun: str = "numbers", first: int = 0) -> None:
    """Raise `InputError`, naming the first bad row, unless `rows` is a list of lists of `width` values (`noun`).

    `first` is the number of the first of the rows.
    """
    rule = f"every row must be a list of {width} {noun}, one for each column"
    if not isinstance(rows, list):
        raise InputError(f"rows is {JSON_NAMES[type(rows)]}; give a list of rows, each a list of {noun}")
    for number, row in enumerate(rows, first):
        if not isinstance(row, list):
            raise InputError(f"row {number} is {JSON_NAMES[type(row)]}; {rule}")
        if len(row) != width:
            raise InputError(f"row {number} has length {len(row)}; {rule}")


def check_values(
    rows: Iterable[list[Any]], columns: list[str], layout: ColumnLayout, limits: Limits = SERVICE_LIMITS, first: int = 0
) -> None:
    """Raise `InputError` at the first value that its column does not take.

    A column takes JSON numbers, one of text also texts, true and false, one that may lack a value also null.
    """
    if set(map(type, chain.from_iterable(rows))) <= {float, LongInteger}:
        return
    for number, row in enumerate(rows, first):
        for name, value in zip(columns, row, strict=True):
            if isinstance(value, float) or (value is None and name in layout.imputed):
                continue
            if isinstance(value, str | bool) and name in layout.of_text:
                limits.check_text(str(value), f"row {number}, column {name!r}")
                continue
            kind = JSON_NAMES[type(value)]
            allowed = "text or a number" if name in layout.of_text else "a finite number"
            may_lack = ", or null where it is missing" if name in layout.imputed else ""
            raise InputError(f"row {number}, column {name!r} is {kind}; every value must be {allowed}{may_lack}")
