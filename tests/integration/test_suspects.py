"""`assay audit suspects`: rows that a detector doubts, and how often it is right where the truth is known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from tests.conftest import Checkout

from assay.errors import ScorerError, TamperedError
from assay.lineage.suspects import OWN, SCORES, find_suspects
from assay.project import Project

NAME = "breast_cancer"


@pytest.fixture(autouse=True)
def own_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENTOML_HOME", raising=False)


def test_by_scores(finished: Checkout) -> None:
    told = json.loads(finished.assay("audit", "suspects", NAME, "--out", "s.csv", "--json").stdout)
    table = pd.read_csv(finished.root / "s.csv", dtype={"row_id": str, "fingerprint": str})
    assert told["suspicion"] == SCORES
    assert list(table.columns) == ["level", "row_id", "fingerprint", "label", "injected", "suspicion", "suspect"]
    assert (table["suspect"] == 1).all()
    injected = pd.read_csv(finished.root / f"work/{NAME}/contaminate/level-0.1/rows.csv")
    clean, stress = told["levels"]
    assert (clean["level"], clean["injected"]["rows"], clean["injected"]["precision"]) == (0, 0, None)
    rows = table[table["level"] == 0.1]
    hits = rows["fingerprint"].isin(injected["fingerprint"])
    assert hits.equals(rows["injected"] == 1)
    assert (stress["rows"], stress["injected"]["rows"], stress["suspects"]) == (143, len(injected), len(rows))
    assert stress["injected"]["precision"] == hits.mean()
    assert stress["injected"]["recall"] == hits.sum() / len(injected)
    assert hits.mean() > 3 * 14 / 143, "no better than three times chance"
    assert rows["suspicion"].is_monotonic_decreasing


def test_an_old_scorer_is_asked_from_the_cache_of_dvc(moved_on: tuple[Checkout, str, str]) -> None:
    project, old, _ = moved_on
    found = find_suspects(Project(project.root), f"{NAME}:{old}")
    assert (found.what, found.eps, len(found.levels)) == (f"{NAME}:{old}", 0.05, 2)
    cache = project.root / ".dvc/cache"
    cache.rename(cache.with_name("elsewhere"))
    try:
        with pytest.raises(ScorerError, match="DVC's cache has not got it; no DVC remote is configured"):
            find_suspects(Project(project.root), f"{NAME}:{old}")
    finally:
        cache.with_name("elsewhere").rename(cache)


def test_a_detector_of_the_last_run_is_asked_by_its_label(finished: Checkout) -> None:
    found = find_suspects(Project(finished.root), "knn")
    assert (found.detector, found.means, found.eps) == ("knn", SCORES, 0.05)
    path = finished.root / f"work/{NAME}/train/level-0/knn.safetensors"
    path.unlink()
    with pytest.raises(TamperedError, match=r"knn\.safetensors is missing"):
        find_suspects(Project(finished.root), "knn")


def test_a_detector_that_tells_is_taken_at_its_word(finished: Checkout) -> None:
    from assay.lineage import suspects

    train = finished.root / f"work/{NAME}/train"
    rows = pd.read_csv(finished.root / f"work/{NAME}/split/train/rows.csv", dtype=str)
    told = rows[["row_id", "fingerprint"]].assign(injected=0, suspicion=range(len(rows)), suspect=0)
    told.loc[[3, 5], "suspect"] = 1
    work = Path(shutil.copytree(train, finished.root / "told"))
    for level in ("level-0", "level-0.1"):
        told.iloc[::-1].to_csv(work / level / "mcd.suspects.csv", index=False)
    folders = {stage: finished.root / f"work/{NAME}/{stage}" for stage in ("split", "contaminate", "calibrate")}
    found = suspects.collect("mcd", "mcd", "none", 0.05, {**folders, "train": work})
    assert found.means == OWN
    picked = found.rows[(found.rows["level"] == 0) & (found.rows["suspect"] == 1)]
    assert picked["row_id"].tolist() == [rows["row_id"][5], rows["row_id"][3]]
    (work / "level-0/mcd.suspects.csv").write_text("row_id,fingerprint,injected,suspicion,suspect\nx,y,0,1,1\n")
    with pytest.raises(ScorerError, match="which is no training row of its level"):
        suspects.collect("mcd", "mcd", "none", 0.05, {**folders, "train": work})


def test_what_is_neither_scorer_nor_detector_is_told_on_one_line(finished: Checkout) -> None:
    done = finished.assay("audit", "suspects", "nobody", "--out", "s.csv", code=1)
    assert len(done.stderr.splitlines()) == 1
    assert "detectors of params.yaml are knn, isolation_forest, mcd" in done.stderr
    assert not (finished.root / "s.csv").exists()
    (finished.root / "file").write_text("")
    done = finished.assay("audit", "suspects", "knn", "--out", "file/s.csv", code=2)
    assert "file/s.csv cannot be written" in done.stderr
