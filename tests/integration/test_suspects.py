"""`assay audit suspects`: rows that a detector doubts, and how often it is right where the truth is known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.conftest import Checkout
from tests.integration.test_calibration import COLUMNS, make_project, packed, plant, run, settings
from tests.integration.test_calibration import NAME as PLANT
from tests.sealing import reseal

from assay.audit.diff import compare_scorers
from assay.audit.show import show_scorer
from assay.audit.suspects import OWN, SCORES, find_suspects
from assay.audit.verify import verify_scorer
from assay.data.dataset import RowSet, read_rows
from assay.data.target import target_path, write_target
from assay.errors import ScorerError, TamperedError
from assay.project.layout import Project
from assay.scorer.loading import load_scorer

NAME = "breast_cancer"


@pytest.fixture(autouse=True)
def own_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENTOML_HOME", raising=False)


def test_by_scores(finished: Checkout) -> None:
    told = json.loads(finished.assay("audit", "suspects", NAME, "--out", "s.csv", "--json").stdout)
    table = pd.read_csv(finished.root / "s.csv", dtype={"row_id": str, "fingerprint": str})
    assert told["suspicion"] == SCORES
    assert list(table.columns) == [
        *("level", "row_id", "fingerprint", "label"),
        *("injected", "suspicion", "suspect", "group"),
    ]
    assert (table["suspect"] == 1).all()
    injected = pd.read_csv(finished.root / f"work/{NAME}/contaminate/level-0.1/rows.csv")
    clean, stress = told["levels"]
    assert (clean["level"], clean["injected"]["rows"], clean["injected"]["precision"]) == (0, 0, None)
    rows = table[table["level"] == 0.1]
    hits = rows["fingerprint"].isin(injected["fingerprint"])
    assert hits.equals(rows["injected"] == 1)
    n_train = len(pd.read_csv(finished.root / f"work/{NAME}/split/train/rows.csv"))
    assert stress["rows"] == n_train + len(injected)
    assert (stress["injected"]["rows"], stress["suspects"]) == (len(injected), len(rows))
    assert stress["injected"]["precision"] == hits.mean()
    assert stress["injected"]["recall"] == hits.sum() / len(injected)
    assert hits.mean() > 3 * len(injected) / stress["rows"], "no better than three times chance"
    assert rows["suspicion"].is_monotonic_decreasing


def test_an_old_scorer_is_asked_from_the_cache_of_dvc(moved_on: tuple[Checkout, str, str]) -> None:
    project, old, _ = moved_on
    found = find_suspects(Project(project.root), f"{NAME}:{old}")
    assert (found.subject, found.eps, len(found.levels)) == (f"{NAME}:{old}", 0.05, 2)
    cache = project.root / ".dvc/cache"
    cache.rename(cache.with_name("elsewhere"))
    try:
        with pytest.raises(ScorerError, match="DVC's cache does not hold it; no DVC remote is configured"):
            find_suspects(Project(project.root), f"{NAME}:{old}")
    finally:
        cache.with_name("elsewhere").rename(cache)


def test_a_detector_of_the_last_run_is_asked_by_its_label(finished: Checkout) -> None:
    found = find_suspects(Project(finished.root), "knn")
    assert (found.detector, found.measure, found.eps) == ("knn", SCORES, 0.05)
    path = finished.root / f"work/{NAME}/train/knn/level-0/knn.safetensors"
    path.unlink()
    with pytest.raises(TamperedError, match=r"knn\.safetensors is missing"):
        find_suspects(Project(finished.root), "knn")


def test_a_detector_that_tells_is_taken_at_its_word(finished: Checkout) -> None:
    from assay.audit import suspects

    train = finished.root / f"work/{NAME}/train/mcd"
    rows = pd.read_csv(finished.root / f"work/{NAME}/split/train/rows.csv", dtype=str)
    told = rows[["row_id", "fingerprint"]].assign(injected=0, suspicion=range(len(rows)), suspect=0)
    told.loc[[3, 5], "suspect"] = 1
    told["group"] = told["suspect"].where(told.index != 5, 2)
    work = Path(shutil.copytree(train, finished.root / "told"))
    for level in ("level-0", "level-0.1"):
        told.iloc[::-1].to_csv(work / level / "mcd.suspects.csv", index=False)
    folders = {stage: finished.root / f"work/{NAME}/{stage}" for stage in ("split", "contaminate", "calibrate/mcd")}
    folders["calibrate"] = folders.pop("calibrate/mcd")
    found = suspects.collect("mcd", "mcd", "none", 0.05, {**folders, "train": work})
    assert found.measure == OWN
    picked = found.rows[(found.rows["level"] == 0) & (found.rows["suspect"] == 1)]
    assert picked["row_id"].tolist() == [rows["row_id"][5], rows["row_id"][3]]
    assert picked["group"].tolist() == [2, 1]
    assert found.levels[0]["groups"] == [1, 1]
    assert any("in 2 groups of 1, 1 rows" in line for line in found.lines())
    before = told.drop(columns="group")  # as it was written before there were groups
    before.to_csv(work / "level-0/mcd.suspects.csv", index=False)
    again = suspects.collect("mcd", "mcd", "none", 0.05, {**folders, "train": work})
    assert again.levels[0]["groups"] == [2]
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


CROSS = {"detector": {"cross": {"detector": {"isolation_forest": {"n_estimators": 10}}, "folds": 3}}}
TRAINED: dict[str, Any] = {
    "contaminate": {"levels": [0, 0.01], "source": "auto", "labelled": 0, "seed": 1},
    "detectors": {"knn": {}, "isolation_forest": {"n_estimators": 10}, "mcd": {}, "cross": CROSS},
}


def with_rare_machines(n: int) -> RowSet:
    """Readings of two machines, and 60 of machines that were read once."""
    data = plant(n, 0)
    data.rows.loc[data.rows.index[-60:], "category"] = [f"rare-{i}" for i in range(60)]
    return data


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has been run up to the training, to be copied."""
    project = make_project(tmp_path_factory.mktemp("suspects") / "project", plant(2400, 0), **TRAINED)
    run(project, "train")
    return project.root


@pytest.mark.parametrize("compared", ["stratum", "category", "groups", "targets", "randomised"])
def test_whatever_rows_are_compared_with(trained: Path, tmp_path: Path, compared: str) -> None:
    """Suspects of level 0 are the training rows that the scorer flags; and the audit can tell of any calibrator."""
    if compared == "groups":
        project = make_project(tmp_path / "project", plant(1500, 0, groups=150), **TRAINED)
    else:
        project = Project(Path(shutil.copytree(trained, tmp_path / "project")))
        within = {"stratum": "hardness", "category": "category"}.get(compared, "all")
        ties = "randomised" if compared == "randomised" else "counted"
        project = settings(
            project, **TRAINED, calibrate={"within": within, "ties": ties, "promise": "average", "seed": 2}
        )
    if compared == "targets":
        write_target(
            target_path(project.root, PLANT), pd.DataFrame(plant(440, 7).features[40:], columns=list(COLUMNS)), seed=0
        )
    run(project)
    scorer = packed(project)
    folder = str(project.folder("package") / scorer.version)
    train = read_rows(project.folder("split") / "train")
    flagged = scorer.predict(
        train.features, category=train.rows["category"].tolist() if compared == "category" else None
    )
    rows = find_suspects(project, folder).rows
    of_level = rows[rows["level"] == 0]
    np.testing.assert_array_equal(of_level["suspect"], flagged)
    assert flagged.any()
    facts = {node.key: node.facts for node in show_scorer(project, folder).nodes}["calibrate"]
    assert (facts["m"], facts["smallest_eps"]) == (scorer.calibrator.n_rows, scorer.calibrator.smallest_eps)
    assert facts["compared"] == scorer.calibrator.kind
    assert facts.get("target_rows") == (400 if compared == "targets" else None)
    assert compare_scorers(project, folder, folder).to_json()["thresholds"] == {}
    states = {finding.what: finding.state for finding in verify_scorer(project, folder).items}
    assert states["parts against the records"] == "ok"


def test_a_detector_of_folds_is_asked_too(trained: Path) -> None:
    project = Project(trained)
    run(project, "calibrate")
    found = find_suspects(project, "cross")
    assert (found.measure, len(found.levels)) == (SCORES, 2)
    assert 0 < found.rows["suspect"].sum() < len(found.rows) / 5


def test_a_row_without_calibration_rows_of_its_category_is_no_suspect(tmp_path: Path) -> None:
    by_category = {"calibrate": {"within": "category", "ties": "counted", "promise": "average", "seed": 2}}
    project = make_project(tmp_path / "project", with_rare_machines(1500), **by_category)
    run(project, "calibrate")
    rows = find_suspects(project, "knn").rows
    category = read_rows(project.folder("split") / "train").rows["category"]
    rare = category.str.startswith("rare").to_numpy()
    assert rare.sum() > 10
    assert not rows["suspect"][rare].any()
    assert rows["suspect"][~rare].any()


def test_what_calibrates_a_weighted_scorer_is_held_to_the_records(trained: Path, tmp_path: Path) -> None:
    """Packaged anew, a scorer is all of one piece; the records still say what its weights and its ties were."""
    project = Project(Path(shutil.copytree(trained, tmp_path / "project")))
    write_target(
        target_path(project.root, PLANT), pd.DataFrame(plant(440, 7).features[40:], columns=list(COLUMNS)), seed=0
    )
    run(project)
    folder = project.folder("package") / packed(project).version

    def forge(head: dict[str, Any]) -> None:
        head["parts"]["ratio"]["config"]["log_scale"] = 9.0
        head["ties"] = "randomised"

    copied = Path(shutil.copytree(folder, tmp_path / folder.name))
    forged = reseal(copied, head=forge, content=lambda content: content["calibration"].update(ties="randomised"))
    assert load_scorer(forged).reference.ties == "randomised"
    found = {finding.what: finding.detail for finding in verify_scorer(project, str(forged)).items}
    assert "ratio in" in found["parts against the records"]
    assert "calibration in" in found["parts against the records"]
    target_path(project.root, PLANT).write_bytes(b"")
    states = {finding.what: finding.state for finding in verify_scorer(project, str(folder)).items}
    assert states[f"targets/{PLANT}.csv"] == "unchecked", "no commit holds the recorded one"
