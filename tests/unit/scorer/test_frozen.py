"""What frozen scorers answer is on record: inference code that changes it has to say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.freeze import ANSWERS_FILE, FROZEN, answers_of

from assay.parts import read_json
from assay.scorer.folder import ANSWERS
from assay.scorer.loading import load_scorer
from assay.scorer.statement import read_statement, statement_ids

FOLDERS = sorted(FROZEN.glob("scorer-*"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_frozen_scorers_answer_what_they_did(folder: Path) -> None:
    """To the last bits of a score: in those, sums and logarithms of processors differ."""
    recorded, answered = read_json(ANSWERS_FILE)[str(ANSWERS)][folder.name], answers_of(folder)
    changed = (
        f"{folder.name} answers otherwise than it did: if the change of inference code is meant, raise ANSWERS in "
        "assay/scorer/folder.py by one and run `python -m tests.freeze answers`"
    )
    before, now = (np.array(each["scores"], dtype=np.float32) for each in (recorded, answered))
    assert before.shape == now.shape, changed
    assert (np.abs(now - before) <= 4 * np.spacing(np.abs(before))).all(), changed
    assert answered["p_values"] == recorded["p_values"], changed


def test_every_number_of_answers_is_on_record() -> None:
    recorded = read_json(ANSWERS_FILE)
    assert list(recorded) == [str(number) for number in range(1, ANSWERS + 1)]
    assert set(recorded[str(ANSWERS)]) == {folder.name for folder in FOLDERS}


def test_a_scorer_of_schema_3_gives_the_same_answers_by_either_statement() -> None:
    (folder,) = (path.parent for path in FROZEN.glob("scorer-3/*/scorer.json"))
    expected = read_json(FROZEN / "scorer-3" / "expected.json")
    rows = pd.DataFrame(expected["rows"])
    assert len(statement_ids(folder)) == 2
    for statement in statement_ids(folder):
        scorer = load_scorer(folder, statement)
        np.testing.assert_allclose(scorer.judge(rows).scores, expected["scores"], rtol=1e-6)
        assert scorer.p_values(rows).tolist() == expected["p_values"]
        assert scorer.predict(rows).tolist() == expected["flags"]
        assert (scorer.head["schema"], scorer.head["answers"], scorer.name) == (3, 1, "plant")
        assert scorer.categories == ("loud", "quiet")


@pytest.mark.parametrize("folder", FOLDERS[:2], ids=lambda folder: folder.name)
def test_a_scorer_of_an_older_schema_is_its_own_statement(folder: Path) -> None:
    (packaged,) = (path.parent for path in folder.glob("*/scorer.json"))
    statement = read_statement(packaged)
    head = read_json(packaged / "scorer.json")
    assert statement_ids(packaged) == [packaged.name] == [statement.id]
    assert statement.tag == load_scorer(packaged).tag == f"{head['name']}:{packaged.name}"
    assert statement.candidate == head["candidate"]
    assert statement.record_hashes == head["lineage"]["records"]
    assert (statement.root, statement.data_version) == (head["lineage"]["root"], head["lineage"]["data_version"])
    assert set(statement.records) == set(head["lineage"]["records"])
    assert statement.rows == packaged / "rows.safetensors"
