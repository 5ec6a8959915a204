"""Texts of the user in CSV files that people open in spreadsheet programs, which run cells that look like formulas."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

_FORMULA = r"'*[=+\-@\t\r]"


def guarded(texts: pd.Series[str]) -> pd.Series[str]:
    """Return texts with an apostrophe before those that a spreadsheet program would run.

    These begin with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return and are no numbers; texts in which
    apostrophes stand before one of these get one more, so that `unguarded` gives every text back.
    """
    runs = texts.str.match(_FORMULA) & pd.to_numeric(texts, errors="coerce").isna()
    return texts.where(~runs, "'" + texts)


def unguarded(texts: pd.Series[str]) -> pd.Series[str]:
    """Return the texts that `guarded` was given."""
    return texts.where(~texts.str.match("'" + _FORMULA), texts.str[1:])


def separator_of(path: Path) -> str:
    """Return what stands between the names of columns in a CSV file's header: programs save ``;`` or tabs, too."""
    with path.open(encoding="utf-8-sig") as stream:
        header = stream.readline()
    return max(",;\t", key=header.count)
