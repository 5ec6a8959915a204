"""People's answers about training rows: a small file for Git, and what a split makes of it.

Whoever is asked looks at single rows, and at a few rows of a group. What is answered of a group holds for rows that
nobody has looked at. So an answer changes what detectors learn from, and nothing else: were calibration rows left out
for their kind, normal ones among them would leave too, and more new normal rows would be flagged than promised.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from assay.data.dataset import RowSet
from assay.data.fingerprints import FINGERPRINT_PATTERN
from assay.data.quarantine import is_listed, quarantine_path, read_quarantine
from assay.data.spreadsheets import guarded, separator_of, unguarded
from assay.errors import DataError
from assay.parts import is_there, write_bytes

BAD, GOOD, UNSURE = "bad", "good", "unsure"
ROW, GROUP = "row", "group"
ANSWER_COLUMNS = ("fingerprint", "copy", "row_id", "answer", "asked", "why", "who", "when")
ANSWERED = "answered"
TRAIN = "train"
ROW_KEY = ["fingerprint", "copy"]
COPY_PATTERN = re.compile(r"0|[1-9][0-9]*")
_FREE_TEXTS = ("row_id", "why", "who")
_ALLOWED = {
    "fingerprint": (FINGERPRINT_PATTERN, "a fingerprint (32 hex digits)"),
    "copy": (COPY_PATTERN, "the number of a copy (0, 1, ...)"),
    "answer": (re.compile(f"{BAD}|{GOOD}|{UNSURE}"), "bad, good or unsure"),
    "asked": (re.compile(f"{ROW}|{GROUP}"), "row or group"),
}


def answers_path(root: Path, name: str) -> Path:
    """Return the path of a dataset's file of answers."""
    return root / "answers" / f"{name}.csv"


def read_lines(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a CSV file of `csv_of`, in UTF-8 with at least these columns, as text; as spreadsheet programs save it, too.

    Raises
    ------
    DataError
        The file cannot be read, or lacks a column.
    """
    try:
        separator = separator_of(path)
        frame = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}; give a CSV file in UTF-8") from error
    if missing := [name for name in columns if name not in frame]:
        raise DataError(f"{path} lacks the column {missing[0]}; it needs {','.join(columns)}")
    return frame[list(columns)].assign(**{name: unguarded(frame[name]) for name in _FREE_TEXTS})


def require_allowed(path: Path, frame: pd.DataFrame) -> None:
    """Raise `DataError`, naming the line, if a value of a file of answers is not allowed, or a row is named twice.

    The index of the frame counts the lines of the file from 0.
    """
    for column, (pattern, allowed) in _ALLOWED.items():
        wrong = ~frame[column].str.fullmatch(pattern)
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            number, value = frame.index[row] + 1, frame[column].iloc[row]
            raise DataError(f"{path}, row {number}: {column} is {value!r}, not {allowed}; correct the line")
    if (again := frame.duplicated(ROW_KEY)).any():
        row = int(again.to_numpy().argmax())
        number, row_id = frame.index[row] + 1, frame["row_id"].iloc[row]
        raise DataError(f"{path}, row {number} repeats {row_id!r}; remove one of the two lines")


def read_row_answers(path: Path) -> pd.DataFrame:
    """Read a dataset's file of answers; a missing one holds none.

    Returns
    -------
    DataFrame of str
        The columns `ANSWER_COLUMNS`: content and copy of the row, its id, the answer (bad, good or unsure), whether the
        row itself or its group was asked about, why, by whom it was answered, and when (UTC, ISO 8601).

    Raises
    ------
    DataError
        The file cannot be read, lacks a column, or a value is not allowed.
    """
    if not is_there(path):
        return pd.DataFrame(columns=list(ANSWER_COLUMNS), dtype="str")
    frame = read_lines(path, ANSWER_COLUMNS)
    require_allowed(path, frame)
    return frame


def csv_of(frame: pd.DataFrame) -> bytes:
    """Return lines with the columns ``row_id``, ``why`` and ``who`` as CSV (UTF-8, LF), in which none is a formula."""
    written = frame.assign(**{name: guarded(frame[name]) for name in _FREE_TEXTS})
    return written.to_csv(index=False, lineterminator="\n").encode()


def answers_content(frame: pd.DataFrame) -> bytes:
    """Return a file of answers (UTF-8, LF), sorted."""
    return csv_of(frame[list(ANSWER_COLUMNS)].sort_values(ROW_KEY))


def ensure_answers(root: Path, name: str) -> None:
    """Write a file without answers where there is none: DVC needs every input of a stage to exist."""
    if not is_there(path := answers_path(root, name)):
        write_bytes(path, answers_content(read_row_answers(path)))


def without_bad(train: RowSet, answers: pd.DataFrame) -> tuple[RowSet, RowSet, dict[str, int]]:
    """Return the training rows without those answered bad, these, and how many rows answers changed something for.

    The counts are of the rows that left (``bad``), of those among them that were answered as part of a group
    (``unseen``), and of those answered good (``good``), which have a 1 in a new column `ANSWERED`.
    """
    by_answer = {answer: is_listed(answers[answers["answer"] == answer], train.rows) for answer in (BAD, GOOD)}
    bad, good = by_answer[BAD], by_answer[GOOD] & ~by_answer[BAD]
    seen = is_listed(answers[(answers["answer"] == BAD) & (answers["asked"] == ROW)], train.rows)
    counts = {"bad": int(bad.sum()), "unseen": int((bad & ~seen).sum()), "good": int(good.sum())}
    kept = RowSet(train.features, train.rows.assign(**{ANSWERED: good.astype(int)})) if good.any() else train
    return kept.take(~bad), train.take(bad), counts


def barred_rows(root: Path, name: str) -> pd.DataFrame:
    """Return the rows that no scorer is to have learned from: in quarantine, or training rows answered bad.

    Returns
    -------
    DataFrame of str
        As `assay.data.quarantine.read_quarantine`; ``use`` is "train" for the latter, else "" (any use).
    """
    answers = read_row_answers(answers_path(root, name))
    quarantined = read_quarantine(quarantine_path(root, name)).assign(use="")
    return pd.concat([quarantined, answers[answers["answer"] == BAD].assign(use=TRAIN)[quarantined.columns]])
