"""What ships and why, and what would help, through the real stages.

Normal rows lie on a ring, three tenths of the anomalies far outside of it, the others at its centre: `mcd` flags the
former alone, neighbours flag all. Some thirty of the rows that count as normal form a group of their own.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
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
from assay.detectors.registry import make_detector
from assay.evaluation.selected import Selection
from assay.parts import write_json
from assay.pipeline.candidates import Candidates
from assay.pipeline.selecting import read_selection
from assay.project.freshness import run_verb
from assay.project.layout import Project
from assay.project.stages import folders_of
from assay.runs import choice
from assay.runs.choice import beside_default, choice_sentence, would_help
from assay.scorer.batch import score_file
from assay.scorer.loading import load_scorer

ROOT = Path(__file__).parents[2]
NAME, COLUMNS = "ring", ("x", "y")
PARAMS: dict[str, Any] = {
    "dataset": NAME,
    "datasets": [NAME],
    "eps": 0.05,
    "split": {"seed": 0},
    "contaminate": {"levels": [0], "source": "auto", "labelled": 0, "seed": 1},
    "train": {"seed": 0, "device": "cpu"},
    "calibrate": {"within": "all", "ties": "counted", "promise": "average", "seed": 2},
    "detectors": {
        "isolation_forest": {"n_estimators": 20},
        "knn": {},
        "mcd": {},
        "reach-minmax": {"detector": {"rescaled": {"detector": "reach"}}},
    },
    "adapters": ["none"],
    "select": {"seed": 0, "without_labels": "mcd"},
    "run": {"cells_at_once": 1, "runner": "local", "address": ""},
}


def ring(*, labelled: bool) -> RowSet:
    rng = np.random.default_rng(0)
    angle, radius = rng.uniform(0, 2 * np.pi, 800), 1 + 0.12 * rng.standard_normal(800)
    normals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    group = np.array([0.0, 2.5]) + 0.01 * rng.standard_normal((34, 2))
    middle, outside = 0.2 * rng.standard_normal((70, 2)), 4 + 0.3 * rng.standard_normal((30, 2))
    features = np.concatenate([normals, group, middle, outside])
    label = np.where(np.arange(934) >= 834, 1, 0) if labelled else np.full(934, -1)
    about = {"row_id": [f"r{i}" for i in range(934)], "label": label.astype(np.int8), "group": "", "time": ""}
    return RowSet(features, pd.DataFrame(about))


def make_project(root: Path, rows: RowSet, params: dict[str, Any] = PARAMS) -> Project:
    root.mkdir()
    shutil.copy(ROOT / "dvc.yaml", root)
    dataset = Dataset(Card(NAME, TABULAR, COLUMNS, "made here"), rows)
    write_dataset(root / "data" / NAME, dataset)
    write_json(root / "expectations" / f"{NAME}.json", learn_suite(dataset))
    for ensure in (ensure_answers, ensure_quarantine, ensure_labels, ensure_target):
        ensure(root, NAME)
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    project = Project(root)
    for stage in project.stages:
        run_verb(project, stage)
    return project


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("ring") / "project", ring(labelled=True))


def select_again(project: Project, out: Path, default: str) -> Selection:
    config = project.config
    return pipeline.select(
        out,
        selection=project.folder("split") / "selection",
        pool=project.folder("split") / "pool",
        plan=project.folder("contaminate") / "plan.json",
        trained=folders_of(project, "train"),
        adapters={label: folder / "adapters" for label, folder in folders_of(project, "calibrate").items()},
        candidates=Candidates(config.detectors, config.adapters),
        eps=config.eps,
        seed=0,
        without_labels=default,
    ).result


def test_a_default_that_labels_show_to_be_worse_is_left(finished: Project) -> None:
    selection = read_selection(finished.folder("select"))
    assert selection.evidence == "labels"
    assert selection.chosen is not None
    assert selection.chosen.detector in ("knn", "reach-minmax")
    assert selection.chosen.p_value is not None
    assert selection.level == pytest.approx(0.05 / 3), "an equal part for each of the others"
    assert selection.chosen.p_value <= selection.level
    assert "better than the default mcd beyond noise: it sees anomalies" in choice_sentence(selection)


def test_a_default_that_is_as_good_as_any_stays(finished: Project, tmp_path: Path) -> None:
    selection = select_again(finished, tmp_path / "knn", "knn")
    assert selection.by_default
    assert "the default, since no other" in choice_sentence(selection)
    assert f"chosen by {selection.n_normals} normals" in choice_sentence(selection)
    rivals = [row for row in selection.candidates if row.p_value is not None]
    assert all("which may be noise" in beside_default(row, selection) for row in rivals)
    free = select_again(finished, tmp_path / "free", "probes")
    assert (free.default, free.level) == ("", None)
    assert choice_sentence(free).startswith("chosen by")


def test_a_run_names_what_would_help_most(finished: Project) -> None:
    (folder,) = (path for path in finished.folder("package").iterdir() if path.is_dir())
    sentences = would_help(finished, load_scorer(folder))
    assert 2 <= len(sentences) <= 3
    text = " ".join(sentences)
    assert "training rows that stand apart from the others" in text
    assert "`assay review`" in text
    assert "times as many rows" in text


def test_anomalies_that_fell_to_other_rows_are_not_said_to_lack(finished: Project) -> None:
    roles = {"selection": {"anomalies": 2}, "test": {"anomalies": 9}, "excluded": {"anomalies": 48}}
    by_probes = replace(read_selection(finished.folder("select")), evidence="probes")
    _, sentence = choice._labels({"roles": roles, "unit": "block"}, by_probes) or (0, "")
    assert sentence.startswith("label more anomalies in other groups, blocks or times: of 59 labelled")
    assert "of 59 labelled ones 2 fell to the rows that choose or to those that test, where 5 judge" in sentence


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Project:
    detectors = {**PARAMS["detectors"], "blend": {"of": ["knn", {"rescaled": {"detector": "reach"}}]}}
    params = {**PARAMS, "detectors": detectors, "select": {"seed": 0, "without_labels": "blend"}}
    return make_project(tmp_path_factory.mktemp("unlabelled") / "project", ring(labelled=False), params)


def test_without_labels_labels_come_first(unlabelled: Project) -> None:
    (folder,) = (path for path in unlabelled.folder("package").iterdir() if path.is_dir())
    sentences = would_help(unlabelled, load_scorer(folder))
    assert len(sentences) == 3
    assert sentences[0].startswith("label about 28 more anomalies (none is labelled)")
    assert any("`assay label --budget 50`): nobody has looked at" in sentence for sentence in sentences)
    selection = read_selection(unlabelled.folder("select"))
    assert selection.level is None
    assert all(row.p_value is None for row in selection.candidates)


def test_a_blend_ships_scores_files_and_is_explained(unlabelled: Project, tmp_path: Path) -> None:
    (folder,) = (path for path in unlabelled.folder("package").iterdir() if path.is_dir())
    scorer = load_scorer(folder)
    assert scorer.statement.candidate["detector"] == "blend"
    rows = pd.DataFrame({"x": [0.0, -9.0, 0.0], "y": [1.0, 0.0, -9.0]})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    score_file(scorer, tmp_path / "rows.csv", tmp_path / "scored.csv", explain=2)
    scored = pd.read_csv(tmp_path / "scored.csv")
    assert scored["flagged"].tolist() == [0, 1, 1]
    assert scored["because"].str.partition(" ")[0].tolist()[1:] == ["x", "y"]
    np.testing.assert_allclose(scored["score"], scorer.decision_function(rows.to_numpy()), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "params", "inside"),
    [
        ("reach", {}, ""),
        ("rescaled", {"detector": "reach"}, "0."),
        ("blend", {"of": ["lof", "reach"]}, "1."),
        ("blend", {"of": [{"rescaled": {"detector": "reach"}}, {"subsampled": {"detector": "knn"}}]}, "0.0."),
    ],
)
def test_the_reach_of_groups_is_that_of_no_detector_beside_it(name: str, params: dict[str, Any], inside: str) -> None:
    X = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
    arrays = make_detector(name, params, seed=0, device="cpu").fit(X, np.zeros(500, np.int8)).to_part().arrays
    own = choice.reach_arrays(arrays)
    assert {inside + name for name in own} == {inside + name for name in ("rows", "reach", "n_neighbors")}
    assert all(array is arrays[inside + name] for name, array in own.items())
    assert choice.reach_arrays({"rows": X, "reach": X[:, 0], "density": X[:, 0]}) == {}
