"""Dates of rows as seconds since 1970, in UTC."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime

import numpy as np

from assay.arrays import Doubles
from assay.data.dialects import MISSING
from assay.errors import DataError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def seconds_of(column: str, dates: Iterable[object]) -> Doubles:
    """Return dates as seconds since 1970 in UTC, shape (n,), NaN where one is missing.

    Parameters
    ----------
    column : str
        Its name, for messages.
    dates : iterable
        Datetimes, dates, or texts in the manner of ISO 8601; a time without a zone counts as UTC.

    Raises
    ------
    DataError
        A value is neither.
    """
    memory: dict[object, float] = {}
    seconds = []
    for row, value in enumerate(dates):
        if value not in memory:
            memory[value] = _seconds(column, row, value)
        seconds.append(memory[value])
    return np.array(seconds, dtype=np.float64)


def _seconds(column: str, row: int, value: object) -> float:
    text = str(value).strip()
    if value is None or text in MISSING:
        return float("nan")
    try:
        moment = datetime.fromisoformat(value.isoformat() if isinstance(value, date) else text)
        aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return (aware - _EPOCH).total_seconds()
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"column {column!r} holds dates, and row {row} has {value!r}; give a date or time such as 2026-05-01 or "
            "2026-05-01T12:30:00Z"
        ) from error
