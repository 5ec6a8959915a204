"""Questions about calibration rows and their answers, as a small file for Git that people fill in."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from assay.arrays import Flags, Labels, Texts
from assay.data.dataset import UNKNOWN
from assay.errors import DataError
from assay.parts import write_bytes

COLUMNS = ("fingerprint", "row_id", "purpose", "score", "label")
FINGERPRINT = re.compile(r"[0-9a-f]{32}")
TRIM, ESTIMATE, EARLIER, NOT_ASKED = "trim", "estimate", "earlier", ""


def labels_path(root: Path, name: str) -> Path:
    """Return where the answers about a dataset lie in a project."""
    return root / "labels" / f"{name}.csv"


def read_answers(path: Path, known: Collection[str] | None = None) -> pd.DataFrame:
    """Read a file of questions and answers; one that is missing holds none.

    A byte-order mark and the line ends of a spreadsheet program are accepted.

    Parameters
    ----------
    path : Path
    known : collection of str, optional
        Fingerprints that may occur; where left out, any may.

    Returns
    -------
    DataFrame of str
        The columns `COLUMNS`; ``label`` is "0" normal, "1" anomaly or "" not answered. ``purpose`` is "trim" (among
        the highest scores), "estimate" (picked at random) or "earlier" (asked before, and answered).

    Raises
    ------
    DataError
        Columns are missing, or a line, which is named, holds another label, an unknown fingerprint or purpose, a row
        that an earlier line has, or an answer that contradicts that of another line with the same fingerprint.
    """
    if not path.is_file():
        return pd.DataFrame(columns=list(COLUMNS), dtype="str")
    numbers, lines = _read_lines(path)
    frame = pd.DataFrame(lines, columns=list(COLUMNS), dtype="str")
    for fault, wrong in _faults(frame, known).items():
        if wrong.any():
            place = int(wrong.argmax())
            raise DataError(f"{path}, line {numbers[place]} {fault}: {','.join(lines[place])}; mend it")
    return frame


def _faults(frame: pd.DataFrame, known: Collection[str] | None) -> dict[str, Flags]:
    """Return for everything that can be wrong with a line which lines have it."""
    prints, labels = frame["fingerprint"], frame["label"]
    answers = frame[labels != ""].drop_duplicates(["fingerprint", "label"])
    contradicting = answers.index[answers["fingerprint"].duplicated()]
    wrong = {
        "has a fingerprint that is not one (32 hex digits)": ~prints.str.fullmatch(FINGERPRINT),
        "has a purpose that is not trim, estimate or earlier": ~frame["purpose"].isin((TRIM, ESTIMATE, EARLIER)),
        "has a label that is not 0 (normal), 1 (anomaly) or empty": ~labels.isin(("0", "1", "")),
        "is about a row that an earlier line is about": frame.duplicated(["fingerprint", "row_id"]),
        "contradicts the label of an earlier line with the same fingerprint": frame.index.isin(contradicting),
    }
    if known is not None:
        wrong["has a fingerprint of no row here"] = ~prints.isin(known)
    return {fault: np.asarray(mask, dtype=np.bool_) for fault, mask in wrong.items()}


def _read_lines(path: Path) -> tuple[list[int], list[list[str]]]:
    """Return the number of each line in the file, and its fields, but for the header and empty lines."""
    numbers, lines = [], []
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = next(reader, [])
            for fields in reader:
                if fields:
                    numbers.append(reader.line_num)
                    lines.append(fields)
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}; save it as CSV in UTF-8") from error
    if tuple(header) != COLUMNS:
        raise DataError(f"{path} has the columns {', '.join(header)}; it needs {','.join(COLUMNS)}")
    for number, fields in zip(numbers, lines, strict=True):
        if len(fields) != len(COLUMNS):
            raise DataError(f"{path}, line {number} has {len(fields)} fields instead of {len(COLUMNS)}; mend it")
        fields[-1] = fields[-1].strip()
    return numbers, lines


def write_questions(path: Path, asked: pd.DataFrame) -> pd.DataFrame:
    """Write the file anew: the rows asked about now, the highest score first, with the answers that are known.

    An answer about a row counts for all rows with its content. Answered rows that are not asked about now stay, with
    the purpose "earlier"; questions that are neither asked now nor answered go.

    Parameters
    ----------
    path : Path
    asked : DataFrame
        At least ``fingerprint``, ``row_id``, ``purpose`` ("trim" or "estimate") and ``score``.

    Returns
    -------
    DataFrame
        What was written, as `read_answers` returns it.

    Raises
    ------
    DataError
        The file that is there cannot be read; nothing is written then.
    """
    before = read_answers(path)
    answered = _by_content(before)
    labels = [answered.get(mark, "") for mark in asked["fingerprint"]]
    now = asked.assign(score=_as_text(asked["score"]), label=labels)
    now = now[list(COLUMNS)].astype("str")
    keys = pd.MultiIndex.from_frame(now[["fingerprint", "row_id"]])
    gone = ~pd.MultiIndex.from_frame(before[["fingerprint", "row_id"]]).isin(keys) & (before["label"] != "")
    frame = pd.concat([now, before[gone].assign(purpose=EARLIER)], ignore_index=True)
    scores = pd.to_numeric(frame["score"], errors="coerce").to_numpy(dtype=np.float64)  # people may have edited them
    order = np.argsort(-scores, kind="stable")
    frame = frame.iloc[order].reset_index(drop=True)
    write_bytes(path, frame.to_csv(index=False, lineterminator="\n").encode())
    return frame


def ensure_labels(root: Path, name: str) -> None:
    """Write a file without questions where there is none: DVC needs every input of a stage to exist."""
    path = labels_path(root, name)
    if not path.is_file():
        write_bytes(path, f"{','.join(COLUMNS)}\n".encode())


def align(answers: pd.DataFrame, rows: pd.DataFrame) -> tuple[Labels, Texts]:
    """Return what the answers say of m rows with the columns ``fingerprint`` and ``row_id``.

    Answers about other rows are left aside: rows leave the calibration when they are quarantined, for one.

    Returns
    -------
    labels : ndarray of int8, shape (m,)
        0 normal, 1 anomaly, -1 not labelled; by content.
    purposes : ndarray of str, shape (m,)
        "trim" or "estimate" for the rows asked about last, else "".
    """
    known = _by_content(answers)
    labels = np.array([known.get(mark, UNKNOWN) for mark in rows["fingerprint"]], dtype=np.int8)
    last = answers[answers["purpose"] != EARLIER]
    asked = dict(zip(zip(last["fingerprint"], last["row_id"], strict=True), last["purpose"], strict=True))
    keys = zip(rows["fingerprint"], rows["row_id"], strict=True)
    return labels, np.array([asked.get(key, NOT_ASKED) for key in keys], dtype=object)


def _by_content(answers: pd.DataFrame) -> dict[str, str]:
    answered = answers[answers["label"] != ""]
    return dict(zip(answered["fingerprint"], answered["label"], strict=True))


def _as_text(scores: pd.Series[float]) -> list[str]:
    return [str(score) for score in scores.to_numpy(dtype=np.float32)]
