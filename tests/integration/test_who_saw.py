"""`assay audit who-saw` and `assay audit quarantine` on a real project, as a user meets them on a Tuesday."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.conftest import Checkout

from assay.data.dataset import read_dataset
from assay.ledger.who_saw import who_saw
from assay.project.layout import Project
from assay.scorer.statement import Statement, read_statement

NAME = "breast_cancer"
OWN = ("train", "adapt", "calibration", "selection", "test")


def batch(project: Checkout, n: int = 60) -> pd.DataFrame:
    """Some rows as a user has them: columns in another order, one more, ids last."""
    dataset = read_dataset(project.root / "data" / NAME)
    frame = pd.DataFrame(dataset.data.features, columns=list(dataset.card.columns))[list(dataset.card.columns)[::-1]]
    return frame.assign(note="Tuesday", row_id=dataset.data.rows["row_id"].to_numpy()).iloc[100 : 100 + n]


@pytest.fixture(autouse=True)
def own_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scorers are looked for in the project's own store, whatever this machine has."""
    monkeypatch.delenv("BENTOML_HOME", raising=False)


def ask(project: Checkout, frame: pd.DataFrame) -> dict[str, Any]:
    frame.to_csv(project.root / "batch.csv", index=False)
    return who_saw(Project(project.root), project.root / "batch.csv").to_json()


def truth(project: Checkout, frame: pd.DataFrame, role: str) -> int:
    rows = pd.read_csv(project.root / "work" / NAME / "split" / role / "rows.csv")
    return int(frame["row_id"].isin(rows["row_id"]).sum())


def statement(project: Checkout) -> Statement:
    (folder,) = (path for path in (project.root / "work/package" / NAME).iterdir() if path.is_dir())
    return read_statement(folder)


def version(project: Checkout) -> str:
    return f"{NAME}:{statement(project).version}"


def test_who_saw_a_batch(finished: Checkout) -> None:
    """After `dvc repro`, which knows no runs of the flow."""
    rows = batch(finished)
    found = ask(finished, rows)
    (scorer,) = found["scorers"]
    assert (scorer["scorer"], scorer["champion"], scorer["bento"]) == (
        version(finished),
        True,
        f"assay-{statement(finished).tag}",
    )
    assert (scorer["statements"], scorer["deployed"]) == ([statement(finished).id], statement(finished).id)
    uses = {use: n["rows"] for use, n in scorer["uses"].items()}
    assert uses == {role: n for role in OWN if (n := truth(finished, rows, role))}
    assert scorer["run_only"]["pool"]["rows"] == truth(finished, rows, "pool") > 0
    assert scorer["run_only"]["injected"]["rows"] > 0
    (run,) = found["runs"]
    assert (run["driver"], run["state"], run["scorers"]) == ("dvc", "completed", [version(finished)])
    assert run["data_version"] == statement(finished).data_version
    assert (found["matched_by"], found["known"], found["unknown_rows"]) == ("row_id", 60, [])
    assert found["retrain"] == [f"assay run --dataset {NAME}"]
    assert json.loads(finished.assay("audit", "who-saw", "batch.csv", "--json").stdout) == {
        **found,
        "file": "batch.csv",
    }
    told = finished.assay("audit", "who-saw", "batch.csv").stdout
    for words in (version(finished), "champion", "60 were used here, 0 were not", "not used: column 'note'"):
        assert words in told
    assert ask(finished, rows[["row_id"]])["scorers"] == found["scorers"]
    assert ask(finished, rows[["row_id"]].assign(row_id="x"))["known"] == 0


def test_without_the_state_of_this_machine_the_answer_is_the_same(finished: Checkout) -> None:
    """As after a clone and a pull: work/ and the scorer are there, and no event."""
    rows = batch(finished)
    before = ask(finished, rows)
    shutil.rmtree(finished.root / ".assay")
    after = ask(finished, rows)
    assert after["scorers"] == before["scorers"]
    assert after["runs"] == []
    shutil.rmtree(finished.root / "work" / NAME)
    shutil.rmtree(finished.root / ".assay")
    (scorer,) = ask(finished, rows)["scorers"]
    assert set(scorer["uses"]) == {"train", "adapt", "calibration"} & set(before["scorers"][0]["uses"])


def test_refusals_are_one_line_and_change_nothing(finished: Checkout) -> None:
    batch(finished).drop(columns=["mean radius", "row_id"]).to_csv(finished.root / "batch.csv", index=False)
    for arguments in (("who-saw", "batch.csv"), ("quarantine", "batch.csv", "--why", "x")):
        told = finished.assay("audit", *arguments, code=2)
        (line,) = told.stderr.splitlines()
        assert "lacks 1 of the 30 feature columns of dataset breast_cancer ('mean radius')" in line
        assert told.stdout == ""
    head = finished.root / ".assay/ledger/ledger.json"
    head.write_text(json.dumps({**json.loads(head.read_text()), "schema": 99}))
    assert "has schema 99" in finished.assay("audit", "who-saw", "batch.csv", code=1).stderr


@pytest.mark.long
def test_a_bad_batch_is_quarantined_and_the_next_scorer_is_free_of_it(finished: Checkout) -> None:
    rows, old = batch(finished, 40), version(finished)
    ask(finished, rows)
    told = finished.assay("audit", "quarantine", "batch.csv", "--why", "a bad batch").stdout
    assert f"quarantine/{NAME}.csv: 40 put in" in told
    assert f"next: assay run --dataset {NAME}" in told
    (line,) = (line for line in told.splitlines() if line.startswith(old))
    assert "learned from quarantined rows" in line
    (listed,) = json.loads(finished.assay("scorers", "--json").stdout)
    assert listed["quarantined"] == {
        role: n for role in ("train", "adapt", "calibration") if (n := truth(finished, rows, role))
    }
    assert "learned from quarantined rows" in finished.assay("scorers").stdout
    done = finished.call("dvc", "repro", "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    new = version(finished)
    assert new != old
    by = {row["scorer"]: row for row in ask(finished, rows)["scorers"]}
    assert by[old]["quarantined"]
    assert not by[new]["quarantined"]
    assert by[new]["uses"] == {}
    assert set(by[new]["run_only"]) == {"excluded"}
    assert {use: n["rows"] for use, n in by[old]["uses"].items()}.keys() <= {*OWN}
    assert json.loads(finished.call("dvc", "status", "--json").stdout) == {}


def test_the_help_of_both_imports_nothing_heavy(tmp_path: Path) -> None:
    heavy = {"duckdb", "pyarrow", "pandas", "numpy", "torch"}
    for name in ("who-saw", "quarantine"):
        code = (
            f"import sys; sys.argv = ['assay', 'audit', {name!r}, '--help']\n"
            "from assay.cli.main import main\n"
            "try:\n    main()\nexcept SystemExit:\n    print(*sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert {module.partition(".")[0] for module in done.stdout.split()} & heavy == set()


@pytest.mark.parametrize("name", ["digits", NAME])
def test_bundled_datasets_are_restored_with_an_empty_quarantine(finished_once: Checkout, name: str) -> None:
    path = finished_once.root / "quarantine" / f"{name}.csv"
    assert path.read_bytes() == b"fingerprint,copy,row_id,why,when\n"
