"""Two people have promoted a scorer each; a third clone knows who saw a row, and whose word is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.conftest import Checkout
from tests.integration.conftest import GIT

from assay.audit.findings import NOT_HERE
from assay.audit.show import show_scorer
from assay.audit.verify import verify_scorer
from assay.data.dataset import read_dataset
from assay.ledger.who_saw import who_saw
from assay.project.accounts import accounts_of, chains_folder
from assay.project.deployed import keep_scorer
from assay.project.deployment import promote
from assay.project.layout import Project
from assay.project.scorers import scorer_folders
from assay.project.versioning import commit
from assay.runs import run as runs
from assay.scorer.statement import read_statement

NAME = "breast_cancer"


@pytest.fixture(autouse=True)
def own_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENTOML_HOME", raising=False)


def call(project: Checkout, *command: str) -> str:
    done = project.call(*(GIT if command[0] == "git" else command[:1]), *command[1:])
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def share(project: Checkout) -> None:
    call(project, "git", "add", "--all")
    call(project, "git", "commit", "--quiet", "--message", "promoted")
    call(project, "dvc", "push", "-q")
    call(project, "git", "push", "--quiet", "origin", "HEAD:main")
    project.assay("sync")


def clone(project: Checkout, folder: Path) -> Checkout:
    call(project, "git", "clone", "--quiet", "--branch", "main", str(folder.parent / "origin"), str(folder))
    made = Checkout(folder)
    call(made, "dvc", "pull", "-q")
    made.assay("restore")
    return made


def promote_other(project: Checkout) -> str:
    """Package a scorer of another eps, and make it the champion; return its version."""
    params = project.root / "params.yaml"
    params.write_text(params.read_text().replace("eps: 0.05", "eps: 0.1"))
    seen = Project(project.root)
    verbs = ("select", "evaluate", "package")
    for verb in verbs:
        assert runs.execute(seen, verb).ran
    commit(project.root, [f"{verb}@{NAME}" for verb in verbs])
    (folder,) = scorer_folders(seen)
    statement = read_statement(folder)
    with seen.lock():
        keep_scorer(project.root, folder)
        bento = f"assay-{statement.tag}"
        promote(project.root, NAME, statement.version, statement=statement.id, bento=bento, reason="other eps")
    return statement.version


def test_the_third_knows_what_two_promoted_and_who_saw_a_row(
    finished: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert finished.call("git", "init", "--quiet", "--bare", str(tmp_path / "origin")).returncode == 0
    call(finished, "git", "remote", "add", "origin", str(tmp_path / "origin"))
    call(finished, "dvc", "remote", "add", "-q", "-d", "store", str(tmp_path / "store"))
    (old,) = (path.name for path in (finished.root / "scorers" / NAME).iterdir() if path.is_dir())
    share(finished)
    second = clone(finished, tmp_path / "second")
    second.assay("sync")
    new = promote_other(second)
    (began, *_) = Project(second.root).events
    assert (began["event"], list(began["saw"].values())) == ("began", [])
    share(second)

    third = clone(finished, tmp_path / "third")
    project = Project(third.root)
    found = {each.what: each for each in verify_scorer(project, NAME).items}
    assert found["history"].state == NOT_HERE
    assert "made on a machine whose word is missing" in found["history"].detail
    assert f"no history here has the promotion of {NAME}:{new}" in found["history"].detail
    told = third.assay("sync").stdout
    assert len(told.splitlines()) == 3
    assert len(accounts_of(third.root)) == 3

    for version in (old, new):
        findings = verify_scorer(project, f"{NAME}:{version}")
        states = {each.what: each.state for each in findings.items}
        assert "differs" not in states.values(), findings.lines()
        assert states["history"] == "ok", findings.lines()
        assert findings.intact == (version == new), "a clone brings the outputs of the newest run alone"
    node = next(node for node in show_scorer(project, f"{NAME}:{new}").nodes if node.key == "select")
    assert "ran" in node.facts
    rows = read_dataset(third.root / "data" / NAME).data.rows[["row_id"]].iloc[:40]
    rows.to_csv(third.root / "rows.csv", index=False)
    answer = who_saw(project, third.root / "rows.csv").to_json()
    assert {row["scorer"]: row["champion"] for row in answer["scorers"]} == {
        f"{NAME}:{old}": False,
        f"{NAME}:{new}": True,
    }
    by_run = {tag: run for run in answer["runs"] for tag in run["scorers"]}
    assert by_run.keys() == {f"{NAME}:{old}", f"{NAME}:{new}"}
    assert all(run["machine"] for run in answer["runs"])

    monkeypatch.setenv("BENTOML_HOME", str(finished.root / ".bentoml"))  # two share a store
    for state in ("ok", NOT_HERE):
        states = {each.what: each.state for each in verify_scorer(project, f"{NAME}:{old}").items}
        assert (states["Bento"], states["event log"]) == (state, state)
        with project.lock():
            shutil.rmtree(chains_folder(third.root), ignore_errors=True)
