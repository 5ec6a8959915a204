"""The rows of a JSON body: checked, and turned into arrays, as they are read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from assay.data.categories import category_texts
from assay.errors import InputError
from assay.scorer.features import column_order
from assay.scorer.scorer import Scorer
from assay.service.limits import SERVICE_LIMITS, Limits
from assay.service.reading import JsonReader, LongInteger

ROWS_CHECKED_AT_ONCE = 1024
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
    of_documents : bool
        Whether these are documents, which may have several lines.
    """

    columns: tuple[str, ...]
    category_column: str | None = None
    of_text: frozenset[str] = frozenset()
    imputed: frozenset[str] = frozenset()
    of_documents: bool = False

    @classmethod
    def of(cls, scorer: Scorer) -> Self:
        """Return the layout of a scorer."""
        of_text = frozenset((*scorer.vocabulary, *scorer.dates, *scorer.texts))
        # A text that is missing is an empty one.
        imputed = frozenset((*scorer.imputed, *scorer.texts))
        return cls(scorer.columns, scorer.category_column, of_text, imputed, bool(scorer.texts))

    @property
    def all_columns(self) -> tuple[str, ...]:
        """The features, and last the column of categories."""
        return self.columns if self.category_column is None else (*self.columns, self.category_column)

    @property
    def is_of_numbers(self) -> bool:
        """Whether a row is numbers alone."""
        return not self.of_text and self.category_column is None

    def order(self, names: tuple[str, ...]) -> list[int]:
        """Return the places of all columns among names; raise `InputError` unless each is there once."""
        return list(_order(self.all_columns, names))


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
        self.order = layout.order(tuple(names))
        self.is_in_order = self.order == list(range(len(names)))
        self.n = 0
        self._pending: list[Any] = []
        self._blocks: list[NDArray[Any]] = []
        self._categories: list[str] = []

    def read(self, reader: JsonReader) -> None:
        """Read a list of rows."""
        for _ in reader.elements():
            block = reader.numbers(len(self.names)) if self.layout.is_of_numbers else None
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


def category_text(value: object, row: int, limits: Limits = SERVICE_LIMITS) -> str:
    """Return a category as text; raise `InputError` if it is neither text nor a number."""
    if not isinstance(value, str | float):
        raise InputError(f"row {row}: the category is {JSON_NAMES[type(value)]}; give text or a number")
    text = value.digits if isinstance(value, LongInteger) else str(category_texts([value])[0])
    limits.check_text(text, f"the category of row {row}")
    return text


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
                limits.check_text(str(value), f"row {number}, column {name!r}", document=layout.of_documents)
                continue
            kind = JSON_NAMES[type(value)]
            allowed = "text or a number" if name in layout.of_text else "a finite number"
            may_lack = ", or null where it is missing" if name in layout.imputed else ""
            raise InputError(f"row {number}, column {name!r} is {kind}; every value must be {allowed}{may_lack}")
