"""A new scorer serves only if it is shown to be better than the champion, on rows that neither has learned from."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.conftest import QUICK, Checkout, prefect_url
from tests.sealing import copy_scorer, learned_rows, reseal, restate, without_first

from assay.data.dataset import RowSet, read_rows, write_rows
from assay.data.quarantine import write_quarantine
from assay.errors import StageError
from assay.parts import read_arrays, write_arrays
from assay.pipeline.learned import learned_by
from assay.project.layout import Project
from assay.project.scorers import Packaged, find_packaged
from assay.release.champion import judge
from assay.runs.asking import PromotionQuestion, promote_as_asked
from assay.scorer.statement import read_statement, statement_ids

GIT = ("git", "-c", "user.name=tests", "-c", "user.email=tests@example.org")


@pytest.fixture
def scorer(finished: Checkout) -> Packaged:
    (folder,) = (p for p in (finished.root / "work/package/breast_cancer").iterdir() if p.is_dir())
    return find_packaged(folder)


@pytest.fixture
def gate(finished: Checkout) -> Path:
    return finished.root / "work/breast_cancer/split/gate"


def blunted(scorer: Packaged, into: Path, *, without: int = 0, decades: float = 9) -> Packaged:
    """A valid scorer whose features are all but drowned by a wrong scale: much weaker, honestly packaged.

    It says of so many of the training rows that it has not learned from them.
    """
    folder = into / f"blunted by {decades}"
    shutil.copytree(scorer.folder, folder)
    arrays = read_arrays(folder / "scaler.safetensors")
    scale = next(name for name in arrays if "scale" in name)
    arrays[scale] = arrays[scale] * np.logspace(decades, 0, arrays[scale].size).reshape(arrays[scale].shape)
    write_arrays(folder / "scaler.safetensors", arrays)
    return find_packaged(reseal(folder, rows=without_first(learned_rows(folder), without)))


def test_the_same_ranks_keep_the_champion_and_spend_nothing(scorer: Packaged, gate: Path) -> None:
    verdict = judge(scorer, scorer, gate, eps=0.05, seed=0)
    assert (verdict.promote, verdict.compared) == (False, None)
    assert "rank all 21 anomalies the same" in verdict.reason


def test_a_worse_scorer_does_not_replace_the_champion(scorer: Packaged, gate: Path, tmp_path: Path) -> None:
    worse = blunted(scorer, tmp_path)
    verdict = judge(worse, scorer, gate, eps=0.05, seed=0)
    assert not verdict.promote
    assert "not shown to be better than the champion" in verdict.reason
    back = judge(scorer, worse, gate, eps=0.05, seed=0)
    assert back.promote
    assert back.compared is not None
    assert back.is_new
    assert (back.compared.level, back.compared.anomalies, back.compared.promoted) == (0.09, 21, True)
    assert back.compared.low > 0
    assert f"mean difference {back.compared.difference:+.3f}" in back.reason


def test_a_comparison_spends_level_and_the_same_one_again_does_not(
    scorer: Packaged, gate: Path, tmp_path: Path
) -> None:
    worse = blunted(scorer, tmp_path)
    first = judge(worse, scorer, gate, eps=0.05, seed=0).compared
    assert first is not None
    again = judge(worse, scorer, gate, eps=0.05, seed=0, earlier=[first])
    assert (again.compared, again.is_new, again.promote) == (first, False, False)
    other = judge(scorer, worse, gate, eps=0.05, seed=0, earlier=[first]).compared
    assert other is not None
    assert other.level == pytest.approx(0.09 * (1 - 0.09 / 0.15) ** 2)
    fresh = replace(first, rows=("0" * 12,))
    assert judge(scorer, worse, gate, eps=0.05, seed=0, earlier=[fresh]).compared.level == 0.09
    spent = judge(scorer, worse, gate, eps=0.05, seed=0, earlier=[replace(first, level=0.15)])
    assert (spent.promote, spent.compared) == (False, None)
    assert "ingest new rows" in spent.reason


def test_noninferior_is_measured_from_the_first_champion(scorer: Packaged, gate: Path, tmp_path: Path) -> None:
    worse, names = blunted(scorer, tmp_path), {}
    names[scorer.statement.tag] = scorer
    like = partial(judge, scorer, worse, gate, eps=0.05, seed=0, rule="noninferior", find=names.__getitem__)
    assert like().promote
    first = judge(worse, scorer, gate, eps=0.05, seed=0, rule="noninferior").compared
    assert first is not None
    assert not first.promoted
    # `worse` was made champion by hand; what is hardly better than it is still measured from the champion before.
    other = partial(judge, blunted(scorer, tmp_path, decades=3), worse, gate, eps=0.05, seed=0, rule="noninferior")
    assert other().promote
    verdict = other(earlier=[replace(first, level=0.0)], find=names.__getitem__)
    assert not verdict.promote
    assert f"the first one, {scorer.statement.tag} by 0.2" in verdict.reason
    gone = other(earlier=[first])
    assert not gone.promote
    assert f"find the first champion {scorer.statement.tag}" in gone.reason


def test_with_few_anomalies_the_gate_asks(scorer: Packaged, gate: Path, tmp_path: Path) -> None:
    rows = read_rows(gate)
    keep = np.ones(len(rows), dtype=bool)
    keep[np.flatnonzero(rows.labels == 1)[9:]] = False
    write_rows(gate, rows.take(keep))
    verdict = judge(scorer, blunted(scorer, tmp_path), gate, eps=0.05, seed=0)
    assert (verdict.promote, verdict.compared) == (False, None)
    assert "9 anomalies (needed 10; " in verdict.reason
    assert f"assay promote {scorer.statement.tag} --why WHY" in verdict.reason


def test_rows_that_either_has_learned_from_do_not_count(scorer: Packaged, gate: Path) -> None:
    train = read_rows(gate.parent / "train")
    rows = read_rows(gate)
    anomalies = rows.take(rows.labels == 1)
    mixed = RowSet(
        np.concatenate([train.features, anomalies.features]),
        pd.concat([train.rows.assign(contradicted=0, seen=1), anomalies.rows], ignore_index=True),
    )
    write_rows(gate, mixed)
    verdict = judge(scorer, scorer, gate, eps=0.05, seed=0)
    assert not verdict.promote
    assert "too few gate rows that neither scorer has learned from to decide: 0 normals" in verdict.reason


def test_a_champion_that_learned_from_quarantined_rows_gives_way(scorer: Packaged, gate: Path, tmp_path: Path) -> None:
    worse = blunted(scorer, tmp_path, without=3)
    learned = learned_by(scorer.statement)
    rows = learned[learned["use"] == "train"].astype({"copy": "str"})[:4]
    verdict = judge(worse, scorer, gate, eps=0.05, seed=0, quarantined=rows[:3])
    assert verdict.promote
    assert "has learned from 3 quarantined rows" in verdict.reason
    copies = rows.assign(copy=(rows["copy"].astype(int) + 1).astype("str"))
    for quarantined in (rows, copies):
        both = judge(worse, scorer, gate, eps=0.05, seed=0, quarantined=quarantined)
        assert not both.promote
    assert "mean difference" in both.reason


def test_a_champion_is_clean_by_another_statement(scorer: Packaged, gate: Path, tmp_path: Path) -> None:
    """The same function came of rows without the quarantined ones, so that these have no part in it."""
    worse, seen = blunted(scorer, tmp_path, without=3), learned_rows(scorer.folder)
    learned = learned_by(scorer.statement)
    marks = learned[learned["use"] == "train"].astype({"copy": "str"})[:3]
    statement = restate(scorer.folder, rows=without_first(seen, 3))
    others = [read_statement(scorer.folder, each) for each in statement_ids(scorer.folder)]
    assert len(others) == 2
    verdict = judge(worse, scorer, gate, eps=0.05, seed=0, quarantined=marks, others=others)
    assert (verdict.promote, verdict.statement) == (False, statement)
    assert "not shown to be better" in verdict.reason
    verdict = judge(worse, scorer, gate, eps=0.05, seed=0, others=others)
    assert (verdict.promote, verdict.statement) == (False, None)


def test_a_champion_with_other_columns_stays(scorer: Packaged, gate: Path, tmp_path: Path) -> None:
    def rename(head: dict[str, Any]) -> None:
        head["columns"][0] = "renamed"

    other = find_packaged(reseal(Path(shutil.copytree(scorer.folder, tmp_path / "other")), head=rename))
    verdict = judge(scorer, other, gate, eps=0.05, seed=0)
    assert not verdict.promote
    assert "other columns" in verdict.reason


def test_a_run_prints_and_records_why_the_champion_stays(finished: Checkout) -> None:
    """Split anew, most gate rows are rows that the champion has learned from."""
    before = json.loads((finished.root / "deployments/breast_cancer.json").read_text())
    params = finished.root / "params.yaml"
    params.write_text(params.read_text().replace("split: {seed: 0}", "split: {seed: 1}"))
    told = finished.assay("run")
    after = json.loads((finished.root / "deployments/breast_cancer.json").read_text())
    events = [json.loads(line) for line in (finished.root / ".assay/events.jsonl").read_text().splitlines()]
    (kept,) = [event for event in events if event["event"] == "champion-kept"]
    assert after == before
    assert "too few gate rows that neither scorer has learned from" in kept["reason"]
    assert kept["reason"] in " ".join(told.stdout.split())
    assert kept["challenger"] != before["version"]


def test_a_retraining_is_compared_once_on_record(finished: Checkout) -> None:
    """The comparison is in a file for Git and in the log; a run with nothing to do spends nothing more."""
    path = finished.root / "deployments/breast_cancer.comparisons.jsonl"
    before = json.loads((finished.root / "deployments/breast_cancer.json").read_text())
    assert not path.exists()
    params = finished.root / "params.yaml"
    retrained = params.read_text().replace("knn: {}", "knn: {n_neighbors: 40}").replace("25", "10")
    params.write_text(retrained.replace("train: {seed: 0", "train: {seed: 3"))
    told = json.loads(finished.assay("run", "--json").stdout)
    (line,) = (json.loads(each) for each in path.read_text().splitlines())
    assert told["gate"] == line
    assert (line["level"], line["anomalies"], line["rule"]) == (0.09, 21, "superior")
    assert line["champion"] == f"{before['tag']}-{before['statement']}"
    assert line["challenger"] == f"{told['scorer']}-{told['statement']}"
    assert line["promoted"] == (told["champion"] == told["scorer"])
    assert f"mean difference {line['difference']:+.3f}" in told["verdict"]
    report = (finished.root / told["report"]).read_bytes()
    assert told["verdict"].encode() in report
    again = json.loads(finished.assay("run", "--json").stdout)
    assert len(path.read_text().splitlines()) == 1
    assert (again["gate"], (finished.root / told["report"]).read_bytes()) == (line, report)
    log = (finished.root / ".assay/events.jsonl").read_text().splitlines()
    assert [json.loads(each)["comparison"] for each in log if json.loads(each)["event"] == "compared"] == [line]
    assert "ok         comparisons: 1 in deployments/breast_cancer.comparisons.jsonl" in (
        finished.assay("audit", "verify", "breast_cancer").stdout.splitlines()
    )
    path.write_text(path.read_text().replace('"level": 0.09', '"level": 0.01'))
    told = finished.assay("audit", "verify", "breast_cancer", code=1).stdout
    assert "neither the log nor a Git commit knows 1 of its lines" in told
    for command in (("add", "--all"), ("commit", "--quiet", "--message", "forged, but on record")):
        assert finished.call(*GIT, *command).returncode == 0
    lines = finished.assay("audit", "verify", "breast_cancer").stdout.splitlines()
    assert any(each.startswith("ok         comparisons: 1 in") and "1 more, which count" in each for each in lines)


def test_a_gate_that_asks_leaves_even_the_first_scorer_to_a_person(finished: Checkout, scorer: Packaged) -> None:
    (finished.root / "deployments/breast_cancer.json").unlink()
    params = finished.root / "params.yaml"
    params.write_text(params.read_text() + "gate: ask\n")
    told = json.loads(finished.assay("run", "--json").stdout)
    tag = scorer.statement.tag
    assert told["champion"] is None
    assert told["verdict"].endswith(f"`gate: ask` leaves it to you: assay promote {tag} --why WHY")
    finished.assay("promote", tag, "--why", "looked at")
    again = json.loads(finished.assay("run", "--json").stdout)
    assert (again["champion"], again["champion_statement"]) == (
        scorer.statement.tag.rsplit("-", 1)[0],
        scorer.statement.id,
    )


def test_a_gate_that_asks_asks_the_person_at_the_terminal(finished: Checkout, scorer: Packaged) -> None:
    """No is the default; yes is on record with who said it, and counts only for what was asked."""
    record, tag = finished.root / "deployments/breast_cancer.json", scorer.statement.tag
    record.unlink()
    finished.params(QUICK + "gate: ask\n")
    assert finished.call("git", "config", "user.name", "Ada").returncode == 0
    assert finished.call("git", "config", "user.email", "ada@example.org").returncode == 0
    assert finished.call("assay", "run").returncode == 0, "nobody is at a pipe"
    assert f"Promote {tag} as the first champion? [y/N]:" in at_terminal(finished, "\n")
    assert not record.exists()
    assert f"{tag} is the champion" in at_terminal(finished, "y\n")
    reason = json.loads(record.read_text())["reason"]
    assert reason == "Ada <ada@example.org> said yes; the first scorer of this dataset that is deployed"
    project, first = Project(finished.root), PromotionQuestion("breast_cancer", tag, None, "the first")
    with pytest.raises(StageError, match=f"the champion was none, and now it is {tag}; compare it again"):
        promote_as_asked(project, first, "Bob")
    finished.params(QUICK.replace("n_estimators: 25", "n_estimators: 26") + "gate: ask\n")
    with pytest.raises(StageError, match="data, settings or code have changed since it was asked"):
        promote_as_asked(project, replace(first, champion=tag), "Bob")
    assert json.loads(record.read_text())["reason"] == reason


def at_terminal(project: Checkout, keys: str) -> str:
    """Return what `assay run` shows to a person who types some keys."""
    person, terminal = os.openpty()
    try:
        run = subprocess.Popen(
            ("assay", "run"),
            cwd=project.root,
            env=project.environment(PREFECT_API_URL=prefect_url()),
            stdin=terminal,
            stdout=terminal,
            stderr=subprocess.DEVNULL,
        )
        os.write(person, keys.encode())
        shown, has_ended = b"", False
        while (reads := select.select([person], [], [], 0.2)[0]) or not has_ended:
            has_ended = run.poll() is not None  # what it wrote last is read after that
            shown += os.read(person, 4096) if reads else b""
    finally:
        os.close(person)
        os.close(terminal)
    assert run.returncode == 0, shown
    return shown.decode()


def test_a_champion_that_is_gone_stays_on_record_and_the_run_ends_well(finished: Checkout) -> None:
    path = finished.root / "deployments/breast_cancer.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "version": "0" * 12, "tag": "breast_cancer:" + "0" * 12}))
    told = " ".join(finished.assay("run").stdout.split())
    assert "the champion cannot be compared" in told
    assert "assay promote breast_cancer:" in told
    assert json.loads(path.read_text())["version"] == "0" * 12


def test_another_machine_brings_the_champion_back_and_compares_with_it(
    finished: Checkout, scorer: Packaged, tmp_path: Path
) -> None:
    """Verifying and retraining in a clone, whose work/ never held the champion and whose remote is all that it has."""
    assert finished.call("dvc", "remote", "add", "-q", "-d", "store", str(tmp_path / "store")).returncode == 0
    for command in (("add", "--all"), ("commit", "--quiet", "--message", "run")):
        assert finished.call(*GIT, *command).returncode == 0
    assert finished.call("dvc", "push", "-q").returncode == 0
    finished.assay("sync")
    clone = Checkout(tmp_path / "clone")
    assert finished.call("git", "clone", "--quiet", str(finished.root), str(clone.root)).returncode == 0
    assert f"scorers/ holds breast_cancer:{scorer.folder.name}" in clone.assay("restore").stdout
    told = clone.assay("audit", "verify", "breast_cancer", code=6).stdout
    absent = [line for line in told.splitlines() if line.startswith("not here")]
    assert ["`dvc pull`" in line for line in absent] == [True] * 6 + [False]
    assert "`assay sync`" in absent[-1]
    assert not any(line.startswith("differs") for line in told.splitlines())
    assert told.splitlines()[-1].endswith(": nothing differs, 7 not here")
    assert clone.call("dvc", "pull", "-q").returncode == 0
    clone.assay("sync")
    assert clone.assay("audit", "verify", "breast_cancer").stdout.splitlines()[-1].endswith(": intact")
    params = clone.root / "params.yaml"
    params.write_text(params.read_text().replace("eps: 0.05", "eps: 0.06"))
    told = " ".join(clone.assay("run").stdout.split())
    assert "cannot be compared" not in told
    assert f"the champion breast_cancer:{scorer.folder.name}" in told
    assert read_statement(clone.root / "scorers/breast_cancer" / scorer.folder.name).id == scorer.statement.id


@pytest.mark.long
def test_experiments_leave_the_champion_alone(finished: Checkout, scorer: Packaged) -> None:
    deployment = finished.root / "deployments/breast_cancer.json"
    before, store = deployment.read_bytes(), sorted((finished.root / ".bentoml").glob("*/*/*"))
    for command in (("add", "--all"), ("commit", "--quiet", "--message", "run")):
        assert finished.call(*GIT, *command).returncode == 0
    done = finished.call("dvc", "exp", "run", "-q", "-S", "eps=0.2", "-S", "split.seed=3")
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = (path for path in (finished.root / "work/package/breast_cancer").iterdir() if path.is_dir())
    assert made.name != scorer.folder.name
    told = finished.assay("run", "--no-deploy").stdout
    assert f"to deploy it: assay promote {read_statement(made).tag} --why WHY" in " ".join(told.split())
    assert deployment.read_bytes() == before
    assert sorted((finished.root / ".bentoml").glob("*/*/*")) == store
    assert [path.name for path in (finished.root / "scorers/breast_cancer").glob("*.dvc")] == [
        f"{scorer.folder.name}.dvc"
    ]
    shown = json.loads(finished.call("dvc", "metrics", "diff", "--json").stdout)
    (changes,) = shown.values()
    assert {name.split(".")[-1] for name in changes} <= {"auroc", "auprc", "fpr", "worst_stratum_fpr", "power"}
    assert any(name.startswith("mcd+cadet.") for name in changes)
    table = finished.call("dvc", "exp", "show", "--csv").stdout
    assert "knn+none.auroc" in table.splitlines()[0]
    finished.assay("promote", f"breast_cancer:{made.name}", "--why", "the better experiment")
    assert json.loads(deployment.read_bytes())["version"] == made.name
    assert (finished.root / "scorers/breast_cancer" / f"{made.name}.dvc").is_file()


def test_promote_by_hand_and_roll_back(finished: Checkout, scorer: Packaged) -> None:
    tag = f"breast_cancer:{scorer.folder.name}"
    finished.assay("promote", tag, code=2)
    finished.assay("promote", tag, "--why", "checked by hand")
    record = json.loads((finished.root / "deployments/breast_cancer.json").read_text())
    assert record["reason"] == "checked by hand"
    assert (record["version"], record["statement"]) == (scorer.statement.version, scorer.statement.id)
    assert "there is no scorer" in finished.assay("promote", "breast_cancer:000000000000", "--why", "x", code=1).stderr


def test_the_same_scorer_reached_twice_has_two_statements_and_stays_the_champion(finished: Checkout) -> None:
    """After an edit of code that changes no answer; both statements verify, and either may be deployed."""
    record = finished.root / "deployments/breast_cancer.json"
    before = json.loads(record.read_text())
    own = {"PYTHONPATH": str(finished.root / "src")}
    with (finished.root / "src/assay/detectors/base.py").open("a") as code:
        code.write("_UNUSED = 0\n")
    told = json.loads(finished.assay("run", "--json", **own).stdout)
    assert told["scorer"] == before["tag"] == told["champion"]
    assert told["statement"] != before["statement"] == told["champion_statement"]
    assert f"made the champion {before['tag']} again, with statement {told['statement']}" in told["verdict"]
    assert json.loads(record.read_text()) == before
    (row,) = json.loads(finished.assay("scorers", "--json", **own).stdout)
    statements = {each["statement"]: each for each in row["statements"]}
    assert {key: each["deployed"] for key, each in statements.items()} == {
        before["statement"]: True,
        told["statement"]: False,
    }
    assert all(each["bento"] == f"assay-{each['tag']}" for each in statements.values())
    lines = finished.assay("audit", "verify", f"{before['tag']}-{told['statement']}", **own).stdout.splitlines()
    assert f"ok         deployment: the champion, deployed by its statement {before['statement']}" in lines
    finished.assay("promote", f"{before['tag']}-{told['statement']}", "--why", "the newer one", **own)
    after = json.loads(record.read_text())
    assert (after["version"], after["statement"], after["previous"]) == (
        before["version"],
        told["statement"],
        before["previous"],
    )
    finished.assay("audit", "verify", "breast_cancer", **own)


@pytest.mark.long
def test_a_champion_that_is_clean_by_a_newer_statement_is_deployed_by_that(
    finished: Checkout, scorer: Packaged, tmp_path: Path
) -> None:
    """A run without the quarantined row made the same scorer, so that the row has no part in it."""
    bad, seen = np.arange(16, dtype=np.uint8)[None], learned_rows(scorer.folder)
    folder = Path(shutil.copytree(scorer.folder, tmp_path / scorer.folder.name))
    more = {"train": np.concatenate([seen["train"], bad]), "train.copy": np.append(seen["train.copy"], 0)}
    statement = restate(folder, rows={**seen, **more})
    stored = finished.root / ".bentoml/models/breast_cancer" / f"{folder.name}-{statement}"
    copy_scorer(folder, stored, [statement])
    finished.assay("promote", f"breast_cancer:{folder.name}-{statement}", "--why", "as if it had learned from the row")
    entry = {
        "fingerprint": bad.tobytes().hex(),
        "copy": "0",
        "row_id": "",
        "why": "bad",
        "when": "2026-01-01T00:00:00+00:00",
    }
    write_quarantine(finished.root / "quarantine/breast_cancer.csv", pd.DataFrame([entry], dtype="str"))
    (listed,) = json.loads(finished.assay("scorers", "--json").stdout)
    assert (listed["statement"], listed["quarantined"]) == (statement, {"train": 1})
    told = json.loads(finished.assay("run", "--json").stdout)
    record = json.loads((finished.root / "deployments/breast_cancer.json").read_text())
    assert told["scorer"] == f"breast_cancer:{folder.name}" == record["tag"]
    assert record["statement"] != statement
    assert "is of no quarantined rows" in record["reason"]
    (listed,) = json.loads(finished.assay("scorers", "--json").stdout)
    assert (listed["statement"], listed["quarantined"]) == (record["statement"], {})
    finished.assay("audit", "verify", "breast_cancer")
