"""A run on more rows than the stages use: samples, which the results, the scorer and the report own up to."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml
from tests.integration.test_failed_levels import PARAMS, ROOT

from assay.data.answers import ensure_answers
from assay.data.card import Card
from assay.data.dataset import Dataset, RowSet, read_rows, write_dataset
from assay.data.expectations import learn_suite
from assay.data.labelling import ensure_labels
from assay.data.modalities.tabular import TABULAR
from assay.data.quarantine import ensure_quarantine
from assay.data.target import ensure_target
from assay.detectors.baselines import base
from assay.parts import read_json, read_part, write_json
from assay.pipeline import calibrating, rows
from assay.project.freshness import run_verb
from assay.project.layout import Project
from assay.project.scorers import scorer_folders
from assay.runs.questions import ask
from assay.runs.report import held_rows
from assay.scorer.loading import load_scorer

NAME, N = "many", 1500
DETECTORS = {"knn": {}, "isolation_forest": {"n_estimators": 20}, "mcd": {}}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("many") / "project"
    root.mkdir()
    (root / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    rng, odd = np.random.default_rng(0), np.arange(N) < 150
    features = rng.standard_normal((N, 3)) + 5 * odd[:, None]
    table = pd.DataFrame({"row_id": [f"r{i}" for i in range(N)], "label": odd.astype(np.int8), "group": "", "time": ""})
    dataset = Dataset(Card(NAME, TABULAR, ("a", "b", "c"), "made here"), RowSet(features, table))
    write_dataset(root / "data" / NAME, dataset)
    write_json(root / "expectations" / f"{NAME}.json", learn_suite(dataset))
    for ensure in (ensure_answers, ensure_quarantine, ensure_labels, ensure_target):
        ensure(root, NAME)
    settings = {**PARAMS, "dataset": NAME, "datasets": [NAME], "detectors": DETECTORS, "adapters": ["none"]}
    settings["contaminate"] = {**PARAMS["contaminate"], "levels": [0]}
    (root / "params.yaml").write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "MOST_TRAINED", 300)
        patch.setattr(calibrating, "MOST_ADAPT", 50)
        patch.setattr(rows, "MOST_CALIBRATION", 120)
        patch.setattr(rows, "MOST_JUDGED", 100)
        patch.setattr(base, "MOST_STORED", 200)
        made = Project(root)
        for stage in made.stages:
            run_verb(made, stage)
    return made


def test_what_was_used_of_what_is_on_record(project: Project) -> None:
    n_train = len(read_rows(project.folder("split") / "train"))
    stored = read_part(project.folder("train", "knn") / "level-0", "knn").arrays["rows"]
    assert len(stored) == 200
    assert read_json(project.folder("train", "knn") / "held.json")["level-0"] == [200, n_train]
    assert read_json(project.folder("train", "mcd") / "held.json")["level-0"] == [300, n_train]
    for detector in DETECTORS:
        calibration = read_json(project.folder("calibrate", detector) / "calibration.json")
        (adapt, of_adapt), (kept, of) = calibration["held"]["adapt"], calibration["held"]["calibration"]
        assert (adapt, kept, calibration["trim"]["m_after"]) == (50, 120, 120)
        assert (of_adapt, of) == tuple(
            len(read_rows(project.folder("split") / role)) for role in ("adapt", "calibration")
        )
    evaluation = read_json(project.folder("evaluate") / "evaluation.json")
    assert evaluation["n_normals"] == 100
    scorer = load_scorer(scorer_folders(project)[0])
    assert scorer.calibrator.n_rows == 120
    assert scorer.statement.calibration["held"]["calibration"] == [120, of]


def test_the_report_says_so(project: Project) -> None:
    words = held_rows(project)
    assert "200 of 5" in words
    assert "training rows (knn)" in words
    assert "(isolation_forest, mcd)" in words
    assert "120 of 1" in words
    assert "calibration rows (isolation_forest, knn, mcd)" in words


def test_questions_are_about_the_calibration_rows_that_are_used(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MOST_CALIBRATION", 120)
    asked = ask(project, budget=120, sample=0)
    assert asked.open == 120
    monkeypatch.setattr(rows, "MOST_CALIBRATION", 10**6)
    assert ask(project, budget=121, sample=0).open == 121
