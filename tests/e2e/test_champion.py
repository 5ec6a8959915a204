"""A new scorer serves only if it is not worse than the champion, on rows that neither has learned from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import Checkout

from assay.data.dataset import RowSet, read_rows, write_rows
from assay.parts import read_arrays
from assay.release.champion import judge
from assay.scorer.scorer import load_scorer

GIT = ("git", "-c", "user.name=tests", "-c", "user.email=tests@example.org")


@pytest.fixture
def scorer(finished: Checkout) -> Path:
    (folder,) = (p for p in (finished.root / "work/package/breast_cancer").iterdir() if p.is_dir())
    return folder


@pytest.fixture
def selection(finished: Checkout) -> Path:
    return finished.root / "work/breast_cancer/split/selection"


def blunted(scorer: Path, into: Path, *, without: int = 0) -> Path:
    """A valid scorer whose features are all but drowned by a wrong scale: much weaker, honestly packaged.

    It says of so many of the training rows that it has not learned from them.
    """
    from assay.hashing import hash_file
    from assay.parts import read_json, write_arrays, write_json

    folder = into / "blunted"
    shutil.copytree(scorer, folder)
    arrays = read_arrays(folder / "scaler.safetensors")
    scale = next(name for name in arrays if "scale" in name)
    arrays[scale] = arrays[scale] * np.logspace(0, 9, arrays[scale].size).reshape(arrays[scale].shape)
    (folder / "scaler.safetensors").unlink()
    write_arrays(folder / "scaler.safetensors", arrays)
    head = read_json(folder / "scorer.json")
    seen = read_arrays(folder / "rows.safetensors")
    (folder / "rows.safetensors").unlink()
    write_arrays(folder / "rows.safetensors", {**seen, "train": seen["train"][without:]})
    for name in ("scaler.safetensors", "rows.safetensors"):
        head["files"][name] = hash_file(folder / name)
    (folder / "scorer.json").unlink()
    write_json(folder / "scorer.json", head)
    return folder.rename(into / hash_file(folder / "scorer.json")[:12])


def test_equal_power_is_enough(scorer: Path, selection: Path) -> None:
    verdict = judge(scorer, scorer, selection, eps=0.05, seed=0)
    assert verdict.promote
    assert "not below" in verdict.reason


def test_a_worse_scorer_does_not_replace_the_champion(scorer: Path, selection: Path, tmp_path: Path) -> None:
    worse = blunted(scorer, tmp_path)
    verdict = judge(worse, scorer, selection, eps=0.05, seed=0)
    assert not verdict.promote
    assert "below the champion" in verdict.reason
    assert judge(scorer, worse, selection, eps=0.05, seed=0).promote


def test_rows_that_either_has_learned_from_do_not_count(scorer: Path, selection: Path) -> None:
    train = read_rows(selection.parent / "train")
    rows = read_rows(selection)
    anomalies = rows.take(rows.labels == 1)
    mixed = RowSet(
        np.concatenate([train.features, anomalies.features]),
        pd.concat([train.rows, anomalies.rows], ignore_index=True),
    )
    write_rows(selection, mixed)
    verdict = judge(scorer, scorer, selection, eps=0.05, seed=0)
    assert not verdict.promote
    assert "too few selection rows that neither scorer has learned from: 0 normals" in verdict.reason


def test_a_champion_that_learned_from_quarantined_rows_gives_way(scorer: Path, selection: Path, tmp_path: Path) -> None:
    worse = blunted(scorer, tmp_path, without=3)
    marks = [row.tobytes().hex() for row in read_arrays(scorer / "rows.safetensors")["train"][:4]]
    verdict = judge(worse, scorer, selection, eps=0.05, seed=0, quarantined=frozenset(marks[:3]))
    assert verdict.promote
    assert "has learned from 3 quarantined rows" in verdict.reason
    both = judge(worse, scorer, selection, eps=0.05, seed=0, quarantined=frozenset(marks))
    assert not both.promote
    assert "power" in both.reason


def test_a_champion_with_other_columns_stays(scorer: Path, selection: Path, tmp_path: Path) -> None:
    from assay.hashing import hash_file
    from assay.parts import read_json, write_json

    other = tmp_path / "other"
    shutil.copytree(scorer, other)
    head = read_json(other / "scorer.json")
    head["columns"][0] = "renamed"
    (other / "scorer.json").unlink()
    write_json(other / "scorer.json", head)
    other = other.rename(tmp_path / hash_file(other / "scorer.json")[:12])
    verdict = judge(scorer, other, selection, eps=0.05, seed=0)
    assert not verdict.promote
    assert "other columns" in verdict.reason


def test_a_run_prints_and_records_why_the_champion_stays(finished: Checkout, prefect_api: str) -> None:
    """Split anew, most selection rows are rows that the champion has learned from."""
    before = json.loads((finished.root / "deployments/breast_cancer.json").read_text())
    params = finished.root / "params.yaml"
    params.write_text(params.read_text().replace("split: {seed: 0}", "split: {seed: 1}"))
    told = finished.assay("run", PREFECT_API_URL=prefect_api)
    after = json.loads((finished.root / "deployments/breast_cancer.json").read_text())
    events = [json.loads(line) for line in (finished.root / ".assay/events.jsonl").read_text().splitlines()]
    (kept,) = [event for event in events if event["event"] == "champion-kept"]
    assert after == before
    assert "too few selection rows that neither scorer has learned from" in kept["reason"]
    assert kept["reason"] in " ".join(told.stdout.split())
    assert kept["challenger"] != before["version"]


def test_a_champion_that_is_gone_stays_on_record_and_the_run_ends_well(finished: Checkout) -> None:
    path = finished.root / "deployments/breast_cancer.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "version": "0" * 12, "tag": "breast_cancer:" + "0" * 12}))
    told = " ".join(finished.assay("run").stdout.split())
    assert "the champion cannot be compared" in told
    assert "assay promote breast_cancer:" in told
    assert json.loads(path.read_text())["version"] == "0" * 12


def test_another_machine_brings_the_champion_back_and_compares_with_it(
    finished: Checkout, scorer: Path, tmp_path: Path, prefect_api: str
) -> None:
    """Retraining in a clone, whose work/ never held the champion and whose remote is all that it has."""
    assert finished.call("dvc", "remote", "add", "-q", "-d", "store", str(tmp_path / "store")).returncode == 0
    for command in (("add", "--all"), ("commit", "--quiet", "--message", "run")):
        assert finished.call(*GIT, *command).returncode == 0
    assert finished.call("dvc", "push", "-q").returncode == 0
    clone = Checkout(tmp_path / "clone")
    assert finished.call("git", "clone", "--quiet", str(finished.root), str(clone.root)).returncode == 0
    params = clone.root / "params.yaml"
    params.write_text(params.read_text().replace("eps: 0.05", "eps: 0.06"))
    told = " ".join(clone.assay("run", PREFECT_API_URL=prefect_api).stdout.split())
    assert "cannot be compared" not in told
    assert f"the champion breast_cancer:{scorer.name}" in told
    assert load_scorer(clone.root / "scorers/breast_cancer" / scorer.name).version == scorer.name


def test_experiments_leave_the_champion_alone(finished: Checkout, scorer: Path) -> None:
    deployment = finished.root / "deployments/breast_cancer.json"
    before, store = deployment.read_bytes(), sorted((finished.root / ".bentoml").glob("*/*/*"))
    for command in (("add", "--all"), ("commit", "--quiet", "--message", "run")):
        assert finished.call(*GIT, *command).returncode == 0
    done = finished.call("dvc", "exp", "run", "-q", "-S", "eps=0.2", "-S", "split.seed=3")
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = (path for path in (finished.root / "work/package/breast_cancer").iterdir() if path.is_dir())
    assert made.name != scorer.name
    told = finished.assay("run", "--no-deploy").stdout
    assert f"to deploy it: assay promote breast_cancer:{made.name} --why WHY" in " ".join(told.split())
    assert deployment.read_bytes() == before
    assert sorted((finished.root / ".bentoml").glob("*/*/*")) == store
    assert [path.name for path in (finished.root / "scorers/breast_cancer").glob("*.dvc")] == [f"{scorer.name}.dvc"]
    shown = json.loads(finished.call("dvc", "metrics", "diff", "--json").stdout)
    (changes,) = shown["diff"].values()
    assert {name.split(".")[-1] for name in changes} <= {"auroc", "auprc", "fpr", "worst_stratum_fpr", "power"}
    assert any(name.startswith("mcd+cadet.") for name in changes)
    table = finished.call("dvc", "exp", "show", "--csv").stdout
    assert "knn+none.auroc" in table.splitlines()[0]
    finished.assay("promote", f"breast_cancer:{made.name}", "--why", "the better experiment")
    assert json.loads(deployment.read_bytes())["version"] == made.name
    assert (finished.root / "scorers/breast_cancer" / f"{made.name}.dvc").is_file()


def test_promote_by_hand_and_roll_back(finished: Checkout, scorer: Path) -> None:
    tag = f"breast_cancer:{scorer.name}"
    finished.assay("promote", tag, code=2)
    finished.assay("promote", tag, "--why", "checked by hand")
    record = json.loads((finished.root / "deployments/breast_cancer.json").read_text())
    assert record["reason"] == "checked by hand"
    assert load_scorer(scorer).version == record["version"]
    assert "there is no scorer" in finished.assay("promote", "breast_cancer:000000000000", "--why", "x", code=1).stderr
