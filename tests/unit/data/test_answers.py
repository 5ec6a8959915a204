"""The file of answers about training rows, and what a split makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from assay.data.answers import (
    ANSWER_COLUMNS,
    ANSWERED,
    answers_content,
    answers_path,
    barred_rows,
    read_row_answers,
    without_bad,
)
from assay.data.dataset import RowSet
from assay.data.quarantine import is_listed
from assay.errors import DataError

A, B, C = ("0" * 31 + digit for digit in "abc")


def answers(*lines: tuple[str, str, str, str, str]) -> pd.DataFrame:
    frame = pd.DataFrame(lines, columns=list(ANSWER_COLUMNS[:5]), dtype="str")
    return frame.assign(why="it lies apart", who="Kim", when="2026-05-01T00:00:00+00:00")


def train() -> RowSet:
    rows = {"row_id": ["a0", "a1", "b0", "c0"], "fingerprint": [A, A, B, C], "copy": [0, 1, 0, 0], "label": -1}
    return RowSet(np.arange(8.0).reshape(4, 2), pd.DataFrame(rows))


def test_the_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = answers_path(tmp_path, "plant")
    assert read_row_answers(path).empty
    written = answers((B, "0", "=b,0", "good", "row"), (A, "1", 'a"1', "bad", "group"))
    written["why"] = ["=1+1", "it lies apart"]
    path.parent.mkdir()
    path.write_bytes(answers_content(written))
    assert b'"\'=b,0"' in path.read_bytes()
    assert b"'=1+1" in path.read_bytes()
    assert read_row_answers(path).to_dict("list") == written.iloc[[1, 0]].to_dict("list")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ((A, "0", "a0", "wrong", "row"), r"row 2: answer is 'wrong', not bad, good or unsure"),
        ((A, "", "a0", "bad", "row"), r"row 2: copy is '', not the number of a copy"),
        (("xyz", "0", "a0", "bad", "row"), r"row 2: fingerprint is 'xyz', not a fingerprint"),
        ((A, "0", "a0", "bad", "rows"), r"row 2: asked is 'rows', not row or group"),
        ((C, "0", "again", "bad", "row"), r"row 2 repeats 'again'"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path: Path, line: tuple[str, str, str, str, str], words: str) -> None:
    path = tmp_path / "plant.csv"
    answers((C, "0", "c0", "good", "row"), line).to_csv(path, index=False)
    with pytest.raises(DataError, match=words):
        read_row_answers(path)


def test_bad_rows_leave_their_copies_stay_and_good_ones_are_marked() -> None:
    given = answers((A, "1", "a1", "bad", "group"), (B, "0", "b0", "bad", "row"), (C, "0", "c0", "good", "group"))
    kept, bad, counts = without_bad(train(), given)
    assert kept.rows[["row_id", ANSWERED]].to_numpy().tolist() == [["a0", 0], ["c0", 1]]
    assert bad.rows["row_id"].tolist() == ["a1", "b0"]
    assert counts == {"bad": 2, "unseen": 1, "good": 1}
    unsure, none, counts = without_bad(train(), answers((A, "1", "a1", "unsure", "row")))
    assert (len(unsure), len(none), counts) == (4, 0, {"bad": 0, "unseen": 0, "good": 0})
    assert ANSWERED not in unsure.rows


def test_a_scorer_is_not_to_have_learned_from_bad_rows_in_its_training_and_only_there(tmp_path: Path) -> None:
    path = answers_path(tmp_path, "plant")
    path.parent.mkdir()
    path.write_bytes(answers_content(answers((A, "1", "a1", "bad", "group"), (B, "0", "b0", "good", "row"))))
    (tmp_path / "quarantine").mkdir()
    (tmp_path / "quarantine/plant.csv").write_text(f"fingerprint,copy,row_id,why,when\n{C},0,c0,broken,2026-05-01\n")
    barred = barred_rows(tmp_path, "plant")
    learned = pd.concat([train().rows.assign(use=use) for use in ("train", "calibration")], ignore_index=True)
    assert learned.loc[is_listed(barred, learned), ["row_id", "use"]].to_numpy().tolist() == [
        ["a1", "train"],
        ["c0", "train"],
        ["c0", "calibration"],
    ]
