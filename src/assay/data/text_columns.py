"""A column of texts of a user's table as documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from assay.console import say
from assay.data.columns import AS_THEY_ARE, Features, Treatment
from assay.data.mapped import row_blocks
from assay.data.words import MOST_WORDS, WORD_COLUMNS, Codes, document_rows, plain_document
from assay.errors import DataError


def document_features(
    path: Path, frame: pd.DataFrame, text: str, special: Sequence[str], treatment: Treatment, codes: Codes
) -> tuple[Features, tuple[str, ...]]:
    """Return a column of texts as documents, and the names of the columns that are left out.

    What is odd about the texts is printed.

    Parameters
    ----------
    path : Path
        The file, for messages.
    frame : DataFrame
    text : str
        The column of texts.
    special : sequence of str
        Columns with a purpose of their own.
    treatment : Treatment
        Has to be empty: no other column is a feature.
    codes : Codes
        Takes in the words.

    Raises
    ------
    DataError
        The column has another purpose, holds what is no text or no word at all, or other columns are to be treated.
    """
    if text in special:
        raise DataError(f"column {text!r} is named for two purposes; choose one of them")
    if treatment != AS_THEY_ARE:
        raise DataError("--text takes one column of texts, and no other column is a feature; give no option for one")
    where = f"{path.name}, column {text!r}, row"
    rows = document_rows([plain_document(value, f"{where} {i}") for i, value in enumerate(frame[text])], codes)
    if not codes.words:
        raise DataError(f"no text of column {text!r} has a word of three letters or more; is it the column of texts?")
    if n_empty := sum(int(np.isnan(rows[block, 0]).sum()) for block in row_blocks(rows)):
        say(f"{path.name}: {n_empty} texts have no word")
    if codes.n_longer:
        say(f"{path.name}: {codes.n_longer} texts have more than {MOST_WORDS} words, of which the first are used")
    left_out = tuple(str(column) for column in frame.columns if column not in (text, *special))
    return Features(rows, WORD_COLUMNS, {}), left_out
