"""Times of rows as texts whose alphabetical order is the order in time."""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal, InvalidOperation, localcontext
from typing import Any

import numpy as np
import pandas as pd

from assay.arrays import Texts
from assay.errors import DataError

_TIME_DIGITS = 20
_TIME_DECIMALS = 60


def sortable_times(texts: pd.Series[Any] | Texts) -> Texts:
    """Return times as texts whose alphabetical order is the order in time (see `assay.data.files.read_table`).

    Raises
    ------
    DataError
        A time is missing, or is not a number or timestamp as the first one is.
    """
    codes, unique = pd.factorize(texts)
    if _is_number(unique[0]):
        bad = [not _is_number(text) for text in unique]
        kind, allowed = (
            "number",
            f"all must be numbers under 1e{_TIME_DIGITS} with at most {_TIME_DECIMALS} decimals",
        )
    else:
        stamps = pd.Series(pd.to_datetime(pd.Series(unique), utc=True, format="ISO8601", errors="coerce"))
        bad = stamps.isna().tolist()
        kind, allowed = "timestamp", "all must be ISO 8601 timestamps (or all numbers)"
    if any(bad):
        row = int(np.flatnonzero(np.array(bad)[codes])[0])
        raise DataError(f"row {row} has the time {texts[row]!r}; {allowed}")
    keys = [_number_key(text) for text in unique] if kind == "number" else _stamp_keys(stamps)
    return np.array(keys, dtype=object)[codes]


def _is_number(text: str) -> bool:
    """Return whether `_number_key` can convert a text."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        return False
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -_TIME_DECIMALS and abs(value) < 10**_TIME_DIGITS


def _number_key(text: str) -> str:
    """Return a number as text that sorts by its value (see `assay.data.files.read_table`)."""
    with localcontext(prec=_TIME_DIGITS + _TIME_DECIMALS + 1):
        value = Decimal(text)
        whole = value.to_integral_value(ROUND_FLOOR)  # so that the fraction of a negative number is positive too
        fraction = value - whole
    digits = f"{fraction:f}".partition(".")[2].rstrip("0")
    sign, shown = ("", int(whole)) if whole >= 0 else ("-", 10**_TIME_DIGITS + int(whole))
    return f"{sign}{shown:0{_TIME_DIGITS}d}{'.' if digits else ''}{digits}"


def _stamp_keys(stamps: pd.Series[Any]) -> list[str]:
    """Return timestamps in UTC as ISO 8601 of fixed width."""
    try:
        exact = stamps.dt.tz_localize(None).dt.as_unit("ns").to_numpy()
    except pd.errors.OutOfBoundsDatetime as error:
        raise DataError(f"a time is outside the years 1678 to 2261: {error}") from error
    return [f"{text}Z" for text in np.datetime_as_string(exact, unit="ns")]
