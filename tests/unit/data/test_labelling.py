"""The file of questions and answers: what people fill in is kept, and what makes no sense is named by its line."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from assay.data.labelling import (
    QUESTION_COLUMNS,
    align,
    ensure_labels,
    labels_path,
    read_answers,
    strayed,
    write_questions,
)
from assay.errors import DataError

HEADER = ",".join(QUESTION_COLUMNS)
PRINTS = [f"{i:032x}" for i in range(10)]


def ask(*rows, purpose="trim"):
    """A frame of questions about rows given as (number, score)."""
    numbers, scores = [number for number, _ in rows], [score for _, score in rows]
    return pd.DataFrame(
        {
            "row_id": [f"r-{i}" for i in numbers],
            "fingerprint": [PRINTS[i] for i in numbers],
            "score": np.array(scores, dtype=np.float32),
            "p_value": 0.5,
            "purpose": purpose,
        }
    )


def fill(path, **labels):
    """Answer questions by row id, as somebody with an editor does."""
    lines = path.read_text().splitlines()
    filled = [line + labels.get(line.split(",")[1].replace("-", ""), "") for line in lines]
    path.write_text("\n".join(filled) + "\n")


def test_questions_stand_by_score_and_answers_stay_empty(tmp_path):
    path = tmp_path / "labels" / "x.csv"
    written = write_questions(path, ask((1, 0.1), (2, np.inf), (3, 5.0), (4, 5.0), (5, -np.inf)))
    assert path.read_text() == (
        f"{HEADER}\n{PRINTS[2]},r-2,trim,inf,\n{PRINTS[3]},r-3,trim,5.0,\n{PRINTS[4]},r-4,trim,5.0,\n"
        f"{PRINTS[1]},r-1,trim,0.1,\n{PRINTS[5]},r-5,trim,-inf,\n"
    )
    pd.testing.assert_frame_equal(read_answers(path), written)
    assert [p.name for p in path.parent.iterdir()] == ["x.csv"]


def test_ids_that_a_spreadsheet_would_run_are_guarded_and_come_back(tmp_path):
    path = tmp_path / "x.csv"
    ids = ["=1+1", "+x", "@a", "-5", "-x", "'=a", "''-b", "'quoted'", "\tx", "plain", "-1e3"]
    asked = ask(*[(number % 10, -float(number)) for number in range(len(ids))]).assign(row_id=ids)
    write_questions(path, asked)
    shown = [line.split(",")[1] for line in path.read_text().splitlines()[1:]]
    assert shown == ["'=1+1", "'+x", "'@a", "-5", "'-x", "''=a", "'''-b", "'quoted'", "'\tx", "plain", "-1e3"]
    assert read_answers(path)["row_id"].tolist() == ids
    write_questions(path, asked)
    assert read_answers(path)["row_id"].tolist() == ids


def test_answers_outlive_new_questions(tmp_path):
    path = tmp_path / "x.csv"
    write_questions(path, ask((1, 3), (2, 2), (3, 1)))
    fill(path, r1="1", r2="0")
    before = path.read_bytes()
    write_questions(path, ask((1, 3), (2, 2), (3, 1)))
    assert path.read_bytes() == before
    write_questions(path, pd.concat([ask((4, 9), (1, 8)), ask((5, 0), purpose="estimate")]))
    answers = read_answers(path)
    assert answers[["row_id", "purpose", "label"]].to_numpy().tolist() == [
        ["r-4", "trim", ""],
        ["r-1", "trim", "1"],
        ["r-2", "earlier", "0"],
        ["r-5", "estimate", ""],
    ]


def test_an_answer_whose_score_is_no_number_stays_and_comes_last(tmp_path):
    path = tmp_path / "x.csv"
    write_questions(path, ask((1, 3), (2, 2)))
    fill(path, r1="1", r2="0")
    path.write_text(path.read_text().replace(",3.0,", ",,").replace(",2.0,", ",2o,"))
    write_questions(path, ask((3, -1.0)))
    answers = read_answers(path)
    assert answers[["row_id", "label"]].to_numpy().tolist() == [["r-3", ""], ["r-1", "1"], ["r-2", "0"]]


def test_answers_are_found_by_fingerprints_of_either_scheme(tmp_path):
    path = tmp_path / "x.csv"
    write_questions(path, ask((1, 3), (2, 2)))
    fill(path, r1="1", r2="0")
    rows = ask((1, 0), (2, 0)).assign(fingerprint=PRINTS[6:8], other_fingerprint=PRINTS[1:3])
    labels, purposes = align(read_answers(path), rows)
    assert labels.tolist() == [1, 0]
    assert purposes.tolist() == ["trim", "trim"]
    labels, purposes = align(read_answers(path), rows.drop(columns="other_fingerprint"))
    assert labels.tolist() == [-1, -1]
    assert purposes.tolist() == ["", ""]
    written = write_questions(path, rows)
    assert written.loc[written["fingerprint"].isin(PRINTS[6:8]), "label"].tolist() == ["1", "0"]


def test_an_answer_is_about_one_row_and_not_about_its_copies(tmp_path):
    path = tmp_path / "x.csv"
    write_questions(path, ask((1, 3)))
    fill(path, r1="1")
    copy = ask((1, 2)).assign(row_id="r-7")
    write_questions(path, pd.concat([ask((2, 9)), copy]))
    answers = read_answers(path)
    assert dict(zip(answers["row_id"], answers["label"], strict=True)) == {"r-2": "", "r-7": "", "r-1": "1"}
    fill(path, r7="0")
    rows = pd.DataFrame({"row_id": ["r-1", "r-9", "r-2", "r-7"], "fingerprint": [PRINTS[i] for i in (1, 1, 2, 1)]})
    labels, purposes = align(read_answers(path), rows)
    assert (labels.tolist(), purposes.tolist()) == ([1, -1, -1, 0], ["", "", "trim", "trim"])
    moved = rows.assign(fingerprint=[PRINTS[3], *rows["fingerprint"][1:]])
    assert align(read_answers(path), moved)[0].tolist() == [-1, -1, -1, 0]
    assert labels.dtype == np.int8


def test_answers_about_rows_that_left_are_left_aside():
    answers = pd.DataFrame([[PRINTS[1], "r-1", "trim", "1.0", "1"]], columns=list(QUESTION_COLUMNS))
    labels, purposes = align(answers, pd.DataFrame({"row_id": ["r-2"], "fingerprint": [PRINTS[2]]}))
    assert (labels.tolist(), purposes.tolist()) == ([-1], [""])


def test_ids_that_a_spreadsheet_program_changed_are_said():
    lines = [[PRINTS[1], "1.23E+16", "trim", "1.0", "1"], [PRINTS[2], "r-2", "trim", "1.0", "0"]]
    answers = pd.DataFrame([*lines, ["9" * 32, "r-3", "", "", "0"]], columns=list(QUESTION_COLUMNS))
    rows = pd.DataFrame({"row_id": ["12345678901234567", "r-2"], "fingerprint": [PRINTS[1], PRINTS[2]]})
    assert strayed(answers, rows) == ["1.23E+16"]
    assert strayed(answers[:0], rows) == []


def test_a_file_that_a_spreadsheet_program_saved_is_read(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(f'\ufeff{HEADER}\r\n{PRINTS[1]},"r,1",trim,1.5, 1\r\n\r\n'.encode())
    expected = [[PRINTS[1], "r,1", "trim", "1.5", "1"]]
    assert read_answers(path).to_numpy().tolist() == expected
    for separator in ";\t":
        header = HEADER.replace(",", separator)
        path.write_text(f"{header}\n{separator.join([PRINTS[1], 'r,1', 'trim', '1.5', '1'])}\n")
        assert read_answers(path).to_numpy().tolist() == expected


def test_a_missing_file_holds_no_answers_and_can_be_ensured(tmp_path):
    path = labels_path(tmp_path, "set")
    assert path == tmp_path / "labels" / "set.csv"
    assert read_answers(path).empty
    ensure_labels(tmp_path, "set")
    assert path.read_text() == HEADER + "\n"
    assert read_answers(path).columns.tolist() == list(QUESTION_COLUMNS)
    path.write_text(f"{HEADER}\n{PRINTS[1]},r-1,trim,1.0,0\n")
    ensure_labels(tmp_path, "set")
    assert len(read_answers(path)) == 1
    labels, purposes = align(read_answers(tmp_path / "none.csv"), ask((1, 2)))
    assert (labels.tolist(), purposes.tolist()) == ([-1], [""])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([f"{PRINTS[1]},r-1,trim,1.0,yes"], "line 2 has a label other than 0"),
        ([f"{PRINTS[1]},r-1,trim,1.0,", f"{PRINTS[2]},r-2,trim,1.0,2"], "line 3 has a label other than 0"),
        (["", f"{PRINTS[2]},r-2,trim,1.0,-1"], "line 3 has a label other than 0"),
        (["1E+31,r-1,trim,1.0,1"], r"line 2 has an invalid fingerprint \(it must be 32 hex digits\): 1E\+31"),
        ([f"{PRINTS[1]},r-1,why,1.0,1"], "line 2 has a purpose"),
        ([f"{PRINTS[1]},r-1,trim,1.0"], "line 2 has 4 fields instead of 5"),
        ([f"{PRINTS[1]},r-1,trim,1.0,"] * 2, "line 3 repeats the row of an earlier line"),
    ],
)
def test_what_makes_no_sense_is_named_by_its_line(tmp_path, lines, words):
    path = tmp_path / "x.csv"
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    with pytest.raises(DataError, match=words):
        read_answers(path)


def test_a_broken_file_is_not_written_over(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("fingerprint;label\n")
    with pytest.raises(DataError, match=f"has the columns fingerprint, label; it needs {HEADER}"):
        write_questions(path, ask((1, 1)))
    assert path.read_text() == "fingerprint;label\n"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_answers(path)
