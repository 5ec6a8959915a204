"""What an older Assay left behind is read for ever: a scorer of schema 2, and a project of its time."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import Checkout, make_checkout

from assay.parts import read_json
from assay.scorer.scorer import load_scorer

FROZEN = Path(__file__).parents[1] / "frozen"
CHAMPION, FIRST = "machines:c4b902f85406", "machines:cc937a8701b9"


def test_a_scorer_of_schema_2_gives_the_same_answers() -> None:
    (folder,) = (path.parent for path in FROZEN.glob("scorer-2/*/scorer.json"))
    expected = read_json(FROZEN / "scorer-2" / "expected.json")
    rows, scorer = pd.DataFrame(expected["rows"]), load_scorer(folder)
    np.testing.assert_allclose(scorer.decision_function(rows), expected["scores"], rtol=1e-5)
    assert scorer.p_values(rows).tolist() == expected["p_values"]
    assert scorer.predict(rows).tolist() == expected["flags"]
    assert scorer.categories == ("north", "south")


@pytest.fixture(scope="module")
def old_project(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The frozen project after a `git pull` of today's code."""
    root = tmp_path_factory.mktemp("old") / "project"
    checkout = make_checkout(root)
    for name in ("expectations", "labels", "targets", "quarantine", "deployments"):
        for path in (root / name).glob("*"):
            path.unlink()
    code = {
        path: (root / path).read_bytes()
        for path in ("dvc.yaml", "flows/retrain.py", "bentofile.yaml", "constraints.txt")
    }
    with tarfile.open(FROZEN / "project-2.tar.xz") as packed:
        packed.extractall(root, filter="data")
    for path, content in code.items():
        (root / path).write_bytes(content)
    return checkout


def test_its_champion_is_served_as_before(old_project: Checkout) -> None:
    old_project.assay("score", "machines.csv", "--out", "again.csv")
    before, after = (pd.read_csv(old_project.root / name) for name in ("scored.csv", "again.csv"))
    pd.testing.assert_frame_equal(after, before, rtol=1e-5)
    listed = json.loads(old_project.assay("scorers", "--json").stdout)
    assert {row["tag"] for row in listed if row["champion"]} == {CHAMPION}


def test_its_history_answers(old_project: Checkout) -> None:
    answer = old_project.assay("audit", "who-saw", "bad.csv").stdout
    assert FIRST in answer
    assert "train 3, calibration 1, selection 1, test 1" in answer
    shown = old_project.assay("audit", "show", CHAMPION).stdout
    assert "kde+none at level-0" in shown


@pytest.mark.long
def test_it_retrains_to_the_same_scorer_but_for_the_code_on_record(old_project: Checkout) -> None:
    before = read_json(old_project.root / "work/scorers/machines/c4b902f85406/scorer.json")
    old_project.assay("run")
    (made,) = old_project.root.glob("work/scorers/machines/*/scorer.json")
    after = read_json(made)
    assert after["parts"] == before["parts"]
    assert after["columns"] == before["columns"]
    old_project.assay("audit", "verify", f"machines:{made.parent.name}")
