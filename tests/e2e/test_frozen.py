"""What an older Assay left behind is read for ever: a scorer of schema 2, and a project of its time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import Checkout, make_checkout

from assay.parts import read_json
from assay.scorer.loading import load_scorer

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
    """The frozen project after a `git pull` of today's code, and `assay migrate`."""
    root = tmp_path_factory.mktemp("old") / "project"
    checkout = make_checkout(root)
    for name in ("answers", "expectations", "labels", "targets", "quarantine", "deployments"):
        for path in (root / name).glob("*"):
            path.unlink()
    code = {
        path: (root / path).read_bytes()
        for path in ("dvc.yaml", "flows/retrain.py", "bentofile.yaml", "constraints.txt", ".gitignore")
    }
    shutil.unpack_archive(FROZEN / "project-2.tar.xz", root)
    for path, content in code.items():
        (root / path).write_bytes(content)
    checkout.assay("migrate")
    return checkout


def test_its_champion_is_served_as_before(old_project: Checkout) -> None:
    old_project.assay("score", "machines.csv", "--out", "again.csv")
    before, after = (pd.read_csv(old_project.root / name) for name in ("scored.csv", "again.csv"))
    pd.testing.assert_frame_equal(after, before, rtol=1e-5)
    listed = json.loads(old_project.assay("scorers", "--json").stdout)
    assert {row["tag"] for row in listed if row["champion"]} == {CHAMPION}


def test_its_champion_verifies_but_for_the_code_that_it_lacks(old_project: Checkout) -> None:
    """The archive has no source: of all that is behind the champion, the recorded code alone is not to be found."""
    told = json.loads(old_project.assay("audit", "verify", "machines", "--json", code=6).stdout)
    states = {finding["what"]: finding["state"] for finding in told["findings"]}
    assert {what for what, state in states.items() if state not in ("ok", "superseded")} == {"code"}
    assert states["code"] == "unchecked"
    assert told["findings"][1]["detail"] == "a part of scorer.json, which has schema 2"


def test_its_history_answers(old_project: Checkout) -> None:
    answer = old_project.assay("audit", "who-saw", "bad.csv").stdout
    assert FIRST in answer
    assert "train 3, calibration 1, selection 1, test 1" in answer
    shown = old_project.assay("audit", "show", CHAMPION).stdout
    assert "kde+none at level-0" in shown


@pytest.mark.long
def test_it_retrains_on_roles_of_today_by_the_same_settings(old_project: Checkout) -> None:
    """Roles changed once, so that other rows are trained on; the rows of its data are numbered when they are read."""
    before = read_json(old_project.root / "scorers/machines/c4b902f85406/scorer.json")
    old_project.assay("run")
    (made,) = old_project.root.glob("work/package/machines/*/scorer.json")
    after = read_json(made)
    assert after["parts"].keys() == before["parts"].keys()
    assert after["columns"] == before["columns"]
    rows = {path.parent.name: pd.read_csv(path) for path in old_project.root.glob("work/machines/split/*/rows.csv")}
    assert set(rows) == {"train", "pool", "adapt", "calibration", "selection", "gate", "test", "excluded"}
    assert all("copy" in table for table in rows.values())
    old_project.assay("audit", "verify", f"machines:{made.parent.name}")
    told = old_project.call("assay", "audit", "verify", CHAMPION).stdout.splitlines()
    states = {line[11:].partition(":")[0]: line.split()[0] for line in told}
    assert {states[f"stage {verb}"] for verb in ("split", "train", "calibrate", "select")} == {"superseded"}
