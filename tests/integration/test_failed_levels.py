"""A detector that cannot be trained at a contamination level, through the real stages.

The rows have 263 columns, of which three vary among normal rows, and all among anomalies: more than `mcd` takes as
soon as anomalies are injected.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from assay import pipeline
from assay.data.answers import ensure_answers
from assay.data.card import Card
from assay.data.dataset import Dataset, RowSet, write_dataset
from assay.data.expectations import learn_suite
from assay.data.labelling import ensure_labels
from assay.data.modalities.tabular import TABULAR
from assay.data.quarantine import ensure_quarantine
from assay.data.target import ensure_target
from assay.errors import NoValidCandidateError, TrainingError
from assay.hashing import RECORD, hash_tree
from assay.names import Choice
from assay.parts import read_json, write_json
from assay.pipeline.candidates import Candidates, read_failures
from assay.pipeline.made import Made
from assay.pipeline.progress import StageProgress, silent
from assay.project.freshness import require_record, run_verb
from assay.project.layout import Project
from assay.project.stages import folders_of
from assay.runs.report import candidates_table, figure_names, leaderboard
from assay.runs.showing import leaderboard_table
from assay.scorer.loading import load_scorer

ROOT = Path(__file__).parents[2]
NAME, WIDTH = "wide", 263
COLUMNS = tuple(f"c{i}" for i in range(WIDTH))
CLEAN, SPOILT = "level-0", "level-0.1"
MCD, KNN, NONE = Choice("mcd", "mcd"), Choice("knn", "knn"), Choice("none", "none")
PARAMS: dict[str, Any] = {
    "dataset": NAME,
    "datasets": [NAME],
    "eps": 0.1,
    "split": {"seed": 0},
    "contaminate": {"levels": [0, 0.1], "source": "auto", "labelled": 0, "seed": 1},
    "train": {"seed": 0, "device": "cpu"},
    "calibrate": {"within": "all", "ties": "counted", "promise": "average", "seed": 2},
    "detectors": {"isolation_forest": {"n_estimators": 20}, "knn": {}, "mcd": {}},
    "adapters": ["none", "cadet"],
    "select": {"seed": 0, "without_labels": "probes"},
    "run": {"cells_at_once": 1, "runner": "local", "address": ""},
}


def wide(n: int, n_anomalies: int) -> RowSet:
    rng = np.random.default_rng(0)
    anomalous = np.arange(n) < n_anomalies
    features = rng.standard_normal((n, WIDTH))
    features[~anomalous, 3:] = 0
    features[anomalous, :3] += 8
    about = {"row_id": [f"r{i}" for i in range(n)], "label": anomalous.astype(np.int8), "group": "", "time": ""}
    return RowSet(features.astype(np.float32), pd.DataFrame(about))


def make_project(root: Path) -> Project:
    root.mkdir()
    shutil.copy(ROOT / "dvc.yaml", root)
    dataset = Dataset(Card(NAME, TABULAR, COLUMNS, "made here"), wide(1000, 120))
    write_dataset(root / "data" / NAME, dataset)
    suite = learn_suite(dataset)
    suite["expectations"] = [each for each in suite["expectations"] if each["kwargs"].get("column") not in COLUMNS[3:]]
    write_json(root / "expectations" / f"{NAME}.json", suite)
    for ensure in (ensure_answers, ensure_quarantine, ensure_labels, ensure_target):
        ensure(root, NAME)
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    return Project(root)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make_project(tmp_path_factory.mktemp("failed") / "project")
    for stage in project.stages:
        run_verb(project, stage)
    return project


def test_it_is_left_out_at_that_level_alone(finished: Project) -> None:
    failures = read_failures(folders_of(finished, "train"))
    assert list(failures) == ["mcd"]
    assert list(failures["mcd"]) == [SPOILT]
    assert "263 columns vary" in failures["mcd"][SPOILT]
    for stage, part, files in (
        ("train", "", "mcd.json"),
        ("calibrate", "adapters", "mcd+*"),
        ("calibrate", "reference", "mcd+*"),
    ):
        folder = finished.folder(stage, "mcd") / part
        assert list((folder / CLEAN).glob(files)), stage
        assert not list((folder / SPOILT).glob(files)), stage
    tested = read_json(finished.folder("evaluate") / "evaluation.json")["candidates"]
    assert {row["level"] for row in tested if row["detector"] == "mcd"} == {CLEAN}
    assert {row["level"] for row in tested if row["detector"] == "knn"} == {CLEAN, SPOILT}


def test_selection_counts_no_power_at_that_level(finished: Project) -> None:
    selection = read_json(finished.folder("select") / "selection.json")
    row = next(row for row in selection["candidates"] if (row["detector"], row["adapter"]) == ("mcd", "none"))
    clean, spoilt = row["levels"]
    assert row["valid"]
    assert clean["power"] > 0.9
    rates = {"fpr": None, "worst_stratum_fpr": None, "worst_by_chance": None}
    assert spoilt == {"level": 0.1, "power": 0, **rates}
    assert row["power"] == pytest.approx(clean["power"] / 2)
    assert selection["n_more"] > 0, "anomalies of the pool judge where nothing is injected"
    assert row["fpr"] == clean["fpr"]
    assert not row["tied"]
    assert selection["untrained"] == read_failures(folders_of(finished, "train"))


def test_the_table_says_where_and_why(finished: Project) -> None:
    rows = {(row.detector, row.adapter): row for row in leaderboard(finished)}
    row = rows["mcd", "none"]
    assert row.state == ""
    assert row.reason.startswith("failed at level 0.1: 263 columns vary")
    assert row.auroc is not None
    assert rows["knn", "none"].reason == ""
    table = candidates_table(list(rows.values()), eps=0.1, evidence="labels", title="")
    assert table.row_count == 6


def test_the_table_of_prefect_calls_figures_on_probes_so(finished: Project) -> None:
    standings = tuple(leaderboard(finished))
    row, *_ = leaderboard_table(SimpleNamespace(eps=0.1, evidence="probes", candidates=standings))
    assert list(row) == ["candidate", "state", *figure_names(0.1, "probes"), "fit s", "reason"]
    assert row["AUROC on probes"] == round(standings[0].auroc, 4)
    assert "flag rate on presumed normals at 0.1" in row
    assert {"AUROC", "power"} <= set(figure_names(0.1, "labels"))


def test_it_ships_where_it_is_the_best_at_the_level_that_ships(finished: Project, tmp_path: Path) -> None:
    trained, calibrated = folders_of(finished, "train"), folders_of(finished, "calibrate")
    chosen = pipeline.select(
        tmp_path / "select",
        **judging(finished),
        trained=trained,
        adapters=adapters_of(finished),
        candidates=Candidates((MCD,), (NONE,)),
        eps=0.1,
        seed=0,
    ).result.chosen
    assert chosen is not None
    assert (chosen.detector, chosen.power) == ("mcd", pytest.approx(chosen.levels[0].power / 2))
    roles = finished.folder("split")
    made = pipeline.package(
        tmp_path / "package",
        data=finished.data,
        split=roles / "split.json",
        rows={role: roles / role for role in ("train", "adapt", "calibration")},
        records={stage: finished.folder(stage) / RECORD for stage in ("split", "contaminate", "validate", "select")},
        trained=trained,
        calibrated=calibrated,
        selected=tmp_path / "select",
        eps=0.1,
    )
    scorer = load_scorer(made.result)
    assert made.details == {"scorer": scorer.tag, "statement": scorer.statement.id}
    assert scorer.statement.candidate == {"detector": "mcd", "adapter": "none", "level": CLEAN}


def judging(project: Project) -> dict[str, Path]:
    """The rows that selection judges by."""
    roles = project.folder("split")
    plan = project.folder("contaminate") / "plan.json"
    return {"selection": roles / "selection", "pool": roles / "pool", "plan": plan}


def adapters_of(project: Project) -> dict[str, Path]:
    return {label: folder / "adapters" for label, folder in folders_of(project, "calibrate").items()}


def train(
    project: Project, contaminated: Path, out: Path, detector: Choice, progress: StageProgress = silent
) -> Made[Any]:
    return pipeline.train(
        out,
        card=project.data,
        train=project.folder("split") / "train",
        contaminated=contaminated,
        checkpoints=out.parent / f"checkpoints of {out.name}",
        detector=detector,
        seed=0,
        device="cpu",
        progress=progress,
    )


def test_training_goes_on_where_all_fail_at_a_level_that_does_not_ship(finished: Project, tmp_path: Path) -> None:
    made = train(finished, finished.folder("contaminate"), tmp_path / "train", MCD)
    assert list(made.result) == [SPOILT]
    assert list(made.details["fit_seconds"]["mcd"]) == [CLEAN]


def test_what_cannot_be_trained_at_the_level_that_ships_is_no_candidate(finished: Project, tmp_path: Path) -> None:
    """With the spoilt level alone, which then is the lowest one."""
    contaminated = Path(shutil.copytree(finished.folder("contaminate"), tmp_path / "contaminate"))
    shutil.rmtree(contaminated / CLEAN)
    trained = {choice.label: tmp_path / choice.label for choice in (MCD, KNN)}
    assert list(train(finished, contaminated, trained["mcd"], MCD).result) == [SPOILT]
    assert train(finished, contaminated, trained["knn"], KNN).result == {}
    both = {**judging(finished), "trained": trained, "adapters": adapters_of(finished)}
    with pytest.raises(TrainingError, match="no detector could be trained: 263 columns vary"):
        pipeline.select(
            tmp_path / "none",
            **{**both, "trained": {"mcd": trained["mcd"]}},
            candidates=Candidates((MCD,), (NONE,)),
            eps=0.1,
            seed=0,
        )
    candidates = Candidates((MCD, KNN), (NONE,))
    selection = pipeline.select(tmp_path / "select", **both, candidates=candidates, eps=0.1, seed=0).result
    assert [row.detector for row in selection.candidates] == ["knn"]
    assert list(selection.untrained) == ["mcd"]


def test_finished_levels_of_an_interrupted_training_are_kept(finished: Project, tmp_path: Path) -> None:
    steps: list[str] = []

    def interrupt(step: str, share: float) -> None:
        steps.append(step)
        if step.endswith(SPOILT):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(finished, finished.folder("contaminate"), tmp_path / "train", KNN, interrupt)
    kept = tmp_path / "checkpoints of train"
    (result,) = kept.rglob("result.json")
    write_json(result, {"seconds": 77.0})
    made = train(finished, finished.folder("contaminate"), tmp_path / "train", KNN)
    assert made.details["fit_seconds"]["knn"][CLEAN] == 77.0
    assert hash_tree(tmp_path / "train") == require_record(finished.folder("train", "knn")).outputs


def test_every_candidate_says_why_where_none_is_valid(finished: Project, tmp_path: Path) -> None:
    """With a target rate that no half of the rows allows."""
    pipeline.select(
        tmp_path / "select",
        **judging(finished),
        trained=folders_of(finished, "train"),
        adapters=adapters_of(finished),
        candidates=Candidates((MCD, KNN), (NONE,)),
        eps=0.0001,
        seed=0,
    )
    with pytest.raises(NoValidCandidateError, match=r"mcd\+none, knn\+none: eps 0.0001 needs 9999 calibration rows"):
        pipeline.package(
            tmp_path / "package",
            data=finished.data,
            split=finished.folder("split") / "split.json",
            rows={},
            records={},
            trained=folders_of(finished, "train"),
            calibrated=folders_of(finished, "calibrate"),
            selected=tmp_path / "select",
            eps=0.0001,
        )
