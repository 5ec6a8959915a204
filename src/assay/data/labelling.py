"""Labelling questions about calibration rows and their answers: a small file for Git that people fill in."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd

from assay.arrays import Flags, Labels, Texts
from assay.data.dataset import UNKNOWN, by_either_scheme
from assay.data.fingerprints import FINGERPRINT_PATTERN
from assay.data.spreadsheets import guarded, separator_of, unguarded
from assay.errors import DataError
from assay.parts import is_there, write_bytes

QUESTION_COLUMNS = ("fingerprint", "row_id", "purpose", "score", "label")
TRIM, ESTIMATE, EARLIER, NOT_ASKED = "trim", "estimate", "earlier", ""


def labels_path(root: Path, name: str) -> Path:
    """Return the path of a dataset's file of questions and answers."""
    return root / "labels" / f"{name}.csv"


def read_answers(path: Path) -> pd.DataFrame:
    """Read a file of questions and answers; a missing one holds none.

    A byte-order mark and the line ends of a spreadsheet program are accepted.

    Returns
    -------
    DataFrame of str
        The columns `QUESTION_COLUMNS`; ``label`` is "0" normal, "1" anomaly or "" not answered. ``purpose`` is "trim"
        (among the highest scores), "estimate" (picked at random) or "earlier" (an answered earlier question).

    Raises
    ------
    DataError
        Columns are missing, or a line has an invalid label, an invalid fingerprint or purpose, or the row of an earlier
        line. The message names the line.
    """
    if not is_there(path):
        return pd.DataFrame(columns=list(QUESTION_COLUMNS), dtype="str")
    numbers, lines = _read_lines(path)
    frame = pd.DataFrame(lines, columns=list(QUESTION_COLUMNS), dtype="str")
    for fault, wrong in _faults(frame).items():
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(f"{path}, line {numbers[row]} {fault}: {','.join(lines[row])}; correct it")
    return frame.assign(row_id=unguarded(frame["row_id"]))


def _faults(frame: pd.DataFrame) -> dict[str, Flags]:
    """Return each possible fault of a line with the mask of the lines that have it."""
    prints, labels = frame["fingerprint"], frame["label"]
    faults = {
        "has an invalid fingerprint (it must be 32 hex digits)": ~prints.str.fullmatch(FINGERPRINT_PATTERN),
        "has a purpose other than trim, estimate or earlier": ~frame["purpose"].isin((TRIM, ESTIMATE, EARLIER)),
        "has a label other than 0 (normal), 1 (anomaly) or empty": ~labels.isin(("0", "1", "")),
        "repeats the row of an earlier line": frame.duplicated(["fingerprint", "row_id"]),
    }
    return {fault: np.asarray(mask, dtype=np.bool_) for fault, mask in faults.items()}


def _read_lines(path: Path) -> tuple[list[int], list[list[str]]]:
    """Return line numbers and fields of all lines but the header and empty ones."""
    numbers, lines = [], []
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=separator_of(path), strict=True)
            header = next(reader, [])
            for fields in reader:
                if fields:
                    numbers.append(reader.line_num)
                    lines.append(fields)
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}; save it as CSV in UTF-8") from error
    if tuple(header) != QUESTION_COLUMNS:
        raise DataError(f"{path} has the columns {', '.join(header)}; it needs {','.join(QUESTION_COLUMNS)}")
    for number, fields in zip(numbers, lines, strict=True):
        if len(fields) != len(QUESTION_COLUMNS):
            raise DataError(
                f"{path}, line {number} has {len(fields)} fields instead of {len(QUESTION_COLUMNS)}; correct it"
            )
        fields[-1] = fields[-1].strip()
    return numbers, lines


def write_questions(path: Path, questions: pd.DataFrame) -> pd.DataFrame:
    """Rewrite the file: the given questions with their known answers, the highest score first.

    Answered rows that are no longer asked about stay, with the purpose "earlier"; unanswered ones are dropped.

    Parameters
    ----------
    path : Path
    questions : DataFrame
        At least ``fingerprint``, ``row_id``, ``purpose`` ("trim" or "estimate") and ``score``.

    Returns
    -------
    DataFrame
        The file's content, as `read_answers` returns it.

    Raises
    ------
    DataError
        The existing file cannot be read; it is left as it is.
    """
    previous = read_answers(path)
    labels = _looked_up(_by_row(previous[previous["label"] != ""], "label"), questions, "")
    current = questions.assign(score=_as_text(questions["score"]), label=labels)
    current = current[list(QUESTION_COLUMNS)].astype("str")
    keys = pd.MultiIndex.from_frame(current[["fingerprint", "row_id"]])
    kept = ~pd.MultiIndex.from_frame(previous[["fingerprint", "row_id"]]).isin(keys) & (previous["label"] != "")
    frame = pd.concat([current, previous[kept].assign(purpose=EARLIER)], ignore_index=True)
    scores = pd.to_numeric(frame["score"], errors="coerce").to_numpy(dtype=np.float64)  # people may have edited them
    order = np.argsort(-scores, kind="stable")
    frame = frame.iloc[order].reset_index(drop=True)
    written = frame.assign(row_id=guarded(frame["row_id"]))
    write_bytes(path, written.to_csv(index=False, lineterminator="\n").encode())
    return frame


def ensure_labels(root: Path, name: str) -> None:
    """Write a file without questions where there is none: DVC needs every input of a stage to exist."""
    path = labels_path(root, name)
    if not is_there(path):
        write_bytes(path, f"{','.join(QUESTION_COLUMNS)}\n".encode())


def align(answers: pd.DataFrame, rows: pd.DataFrame) -> tuple[Labels, Texts]:
    """Return the labels and purposes of m rows with the columns ``fingerprint`` and ``row_id``.

    Fingerprints of either scheme match, where the rows have both.

    An answer is about one row, as long as that row keeps its content. Its copies have answers of their own: if one
    anomaly took all rows of equal content out of the calibration set, normal ones would leave it too, and the
    false-positive rate would rise. Answers about other rows are ignored: rows leave the calibration set when they are
    quarantined, for example.

    Returns
    -------
    labels : ndarray of int8, shape (m,)
        0 normal, 1 anomaly, -1 not labelled.
    purposes : ndarray of str, shape (m,)
        "trim" or "estimate" for the rows of the latest questions, else "".
    """
    labels = _looked_up(_by_row(answers[answers["label"] != ""], "label"), rows, str(UNKNOWN))
    purposes = _looked_up(_by_row(answers[answers["purpose"] != EARLIER], "purpose"), rows, NOT_ASKED)
    return np.array(labels, dtype=np.int8), np.array(purposes, dtype=object)


def strayed(answers: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """Return the ids in answers about contents that rows have, which none of these rows has.

    The row has left, or a spreadsheet program wrote its id in its own way; which of the two, the file does not say.
    """
    given = answers[answers["label"] != ""]
    has_content, has_row = np.zeros((2, len(given)), dtype=np.bool_)
    for known in by_either_scheme(rows):
        has_content |= given["fingerprint"].isin(known["fingerprint"]).to_numpy(dtype=bool)
        pairs = pd.MultiIndex.from_frame(known[["fingerprint", "row_id"]])
        has_row |= pd.MultiIndex.from_frame(given[["fingerprint", "row_id"]]).isin(pairs)
    return given.loc[has_content & ~has_row, "row_id"].tolist()


def _by_row(answers: pd.DataFrame, column: str) -> dict[tuple[str, str], str]:
    """Return a column of answers by fingerprint and row id."""
    return dict(zip(zip(answers["fingerprint"], answers["row_id"], strict=True), answers[column], strict=True))


def _looked_up(values: dict[tuple[str, str], str], rows: pd.DataFrame, missing: str) -> list[str]:
    """Return the value of each row by its fingerprint, of either scheme, and its id."""
    variants = [zip(known["fingerprint"], known["row_id"], strict=True) for known in by_either_scheme(rows)]
    return [next((values[key] for key in keys if key in values), missing) for keys in zip(*variants, strict=True)]


def _as_text(scores: pd.Series[float]) -> list[str]:
    return [str(score) for score in scores.to_numpy(dtype=np.float32)]
