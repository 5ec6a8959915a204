"""How rows are compared, through the real stages: within categories and strata, over groups, weighted, over folds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from assay import stages
from assay.calibration.labelling import ensure_labels, labels_path
from assay.data.dataset import Card, Dataset, RowSet, read_rows, write_dataset
from assay.data.expectations import learn_suite
from assay.data.quarantine import ensure_quarantine
from assay.data.target import ensure_target, target_path, write_target
from assay.errors import ConfigError, InputError
from assay.parts import read_arrays, read_json, write_json
from assay.project import STAGES, Project
from assay.serving.scorer import Scorer, load_scorer

ROOT = Path(__file__).parents[2]
NAME = "plant"
COLUMNS = ("a", "b", "c")
PARAMS: dict[str, Any] = {
    "dataset": NAME,
    "eps": 0.1,
    "split": {"seed": 0},
    "contaminate": {"levels": [0], "source": "auto", "labelled": 0, "seed": 1},
    "train": {"seed": 0, "device": "cpu"},
    "calibrate": {"within": "all", "ties": "counted", "seed": 2},
    "detectors": [{"isolation_forest": {"n_estimators": 20}}, "knn", "mcd"],
    "adapters": ["none"],
    "select": {"seed": 0},
}


def plant(n: int, seed: int, *, groups: int = 0) -> RowSet:
    """Readings of two machines, of which "loud" spreads five times as wide; 40 anomalies far from both."""
    rng = np.random.default_rng(seed)
    loud = rng.random(n) < 0.5
    anomalous = np.arange(n) < 40
    features = rng.standard_normal((n, 3)) * np.where(loud, 5, 1)[:, None] + np.where(anomalous, 40, 0)[:, None]
    group = np.array([f"g{i % groups}" for i in range(n)]) if groups else np.full(n, "")
    rows = {
        "row_id": [f"r{i}" for i in range(n)],
        "label": anomalous.astype(np.int8),
        "group": group,
        "time": "",
        "category": np.where(loud, "loud", "quiet"),
    }
    return RowSet(features.astype(np.float32), pd.DataFrame(rows))


def make_project(root: Path, data: RowSet, **changes: Any) -> Project:
    root.mkdir()
    shutil.copy(ROOT / "dvc.yaml", root)
    dataset = Dataset(Card(NAME, "tabular", COLUMNS, None, "made here", category_column="machine"), data)
    write_dataset(root / "data" / NAME, dataset)
    write_json(root / "expectations" / f"{NAME}.json", learn_suite(dataset))
    for ensure in (ensure_quarantine, ensure_labels, ensure_target):
        ensure(root, NAME)
    (root / "params.yaml").write_text(yaml.safe_dump({**PARAMS, **changes}))
    return Project(root)


def settings(project: Project, **changes: Any) -> Project:
    (project.root / "params.yaml").write_text(yaml.safe_dump({**PARAMS, **changes}))
    return Project(project.root)


def run(project: Project, upto: str = "package") -> None:
    for stage in STAGES[: STAGES.index(upto) + 1]:
        stages.run(project, stage)


def packed(project: Project) -> Scorer:
    (folder,) = (path for path in project.folder("package").iterdir() if path.is_dir())
    return load_scorer(folder)


def within(mode: str) -> dict[str, Any]:
    return {"calibrate": {"within": mode, "ties": "counted", "seed": 2}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has been run up to the training, to be copied."""
    project = make_project(tmp_path_factory.mktemp("calibration") / "project", plant(1500, 0))
    run(project, "train")
    return project.root


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Project:
    shutil.copytree(trained, tmp_path / "project")
    return Project(tmp_path / "project")


def rates(scorer: Scorer, eps: float) -> dict[str, float]:
    """Share of fresh normal rows that are flagged, by category."""
    fresh = plant(4000, 99)
    normal = fresh.take(fresh.labels == 0)
    machine = normal.rows["category"].to_numpy(dtype=object)
    flags = scorer.predict(normal.features, eps, category=machine)
    return {name: float(flags[machine == name].mean()) for name in ("loud", "quiet")}


def test_rows_are_compared_within_their_category(copied: Project) -> None:
    run(copied)
    pooled = rates(packed(copied), 0.1)
    assert pooled["loud"] > 0.14
    assert pooled["quiet"] < 0.04
    run(settings(copied, **within("category")))
    scorer = packed(copied)
    for rate in rates(scorer, 0.1).values():
        assert 0.03 < rate < 0.2
    assert "categor" in scorer.calibrator.guarantee
    frame = pd.DataFrame(plant(50, 5).features, columns=list(COLUMNS)).assign(machine="quiet")
    np.testing.assert_array_equal(
        scorer.p_values(frame), scorer.p_values(frame[list(COLUMNS)].to_numpy(), ["quiet"] * 50)
    )
    with pytest.raises(InputError, match="new one"):
        scorer.p_values(frame.assign(machine="new one"))
    with pytest.raises(InputError, match="no categories"):
        scorer.p_values(frame[list(COLUMNS)])


def test_rows_are_compared_within_their_hardness(copied: Project) -> None:
    project = settings(copied, **within("hardness"))
    run(project)
    evaluation = read_json(project.folder("evaluate") / "evaluation.json")
    scorer = packed(project)
    assert scorer.calibrator.kind == "mondrian"
    test = read_rows(project.folder("split") / "test")
    normals = test.take(test.labels == 0)
    p_values = read_arrays(project.folder("evaluate") / "p_values/level-0.safetensors")
    chosen = scorer.head["candidate"]["detector"]
    np.testing.assert_array_equal(scorer.p_values(normals.features), p_values[f"{chosen}+none.normals"])
    assert all(row["worst_stratum_fpr"] < 0.25 for row in evaluation["candidates"])


def test_without_categories_there_is_nothing_to_compare_within(tmp_path: Path) -> None:
    data = plant(600, 0)
    bare = RowSet(data.features, data.rows.drop(columns="category"))
    project = make_project(tmp_path / "project", bare, **within("category"))
    run(project, "train")
    with pytest.raises(ConfigError, match=r"no categories.*--category"):
        stages.run(project, "calibrate")


def test_groups_are_the_unit_where_roles_were_given_by_group(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", plant(1500, 0, groups=150))
    run(project)
    scorer = packed(project)
    assert scorer.calibrator.kind == "grouped"
    calibration = read_rows(project.folder("split") / "calibration")
    assert scorer.calibrator.smallest_eps == 1 / (calibration.rows["group"].nunique() + 1)
    with pytest.raises(InputError, match="false discoveries"):
        scorer.discover(plant(20, 1).features, fdr=0.1)
    project = settings(project, **within("hardness"))
    with pytest.raises(ConfigError, match="by group"):
        stages.run(project, "calibrate")


def heated(n: int, seed: int, *, heat: float) -> RowSet:
    """Readings that spread the more the hotter it is; 40 anomalies far out."""
    rng = np.random.default_rng(seed)
    base = plant(n, seed)
    temperature = heat + rng.standard_normal(n)
    features = rng.standard_normal((n, 3)) * np.exp(0.7 * temperature)[:, None]
    features[:, 0] = temperature
    features[base.labels == 1, 1:] += 80
    return RowSet(features.astype(np.float32), base.rows)


def test_calibration_is_weighted_towards_target_rows(tmp_path: Path) -> None:
    """It has become hotter; what is normal at a temperature has not changed."""
    project = make_project(tmp_path / "project", heated(3000, 0, heat=0))
    run(project)
    now = heated(6000, 7, heat=0.8)
    now = now.take(now.labels == 0)
    before = float(packed(project).predict(now.features, 0.1).mean())
    path = target_path(project.root, NAME)
    assert write_target(path, now.features, COLUMNS, seed=0) == 5000
    run(project)
    scorer = packed(project)
    assert scorer.calibrator.kind == "weighted"
    assert before > 0.18
    assert float(scorer.predict(now.features, 0.1).mean()) < 0.14
    with pytest.raises(ConfigError, match="reweight --clear"):
        stages.run(settings(project, **within("hardness")), "calibrate")


def test_folds_use_training_rows_for_calibration_too(copied: Project) -> None:
    cross = {"cross": {"detector": {"isolation_forest": {"n_estimators": 20}}, "folds": 5}}
    project = settings(copied, detectors=[cross, "knn", "mcd", "isolation_forest"], adapters=["none", "cadet"])
    run(project, "evaluate")
    rows = {
        (row["detector"], row["adapter"]): row
        for row in read_json(project.folder("evaluate") / "evaluation.json")["candidates"]
    }
    n_train, n_calibration = (len(read_rows(project.folder("split") / role)) for role in ("train", "calibration"))
    assert rows["cross", "none"]["n_calibration"] == n_train + n_calibration
    assert rows["cross", "cadet"]["n_calibration"] == n_calibration
    assert rows["cross", "none"]["fpr"] < 0.2
    assert rows["cross", "none"]["power"] == 1


def test_labelled_anomalies_leave_the_reference(copied: Project) -> None:
    calibration = read_rows(copied.folder("split") / "calibration")
    run(copied, "calibrate")
    before = read_arrays(copied.folder("calibrate") / "reference/level-0/knn+none.safetensors")["scores"]
    answers = pd.read_csv(labels_path(copied.root, NAME), dtype=str)
    picked = calibration.rows.iloc[[3, 5, 8]]
    added = pd.DataFrame(dict.fromkeys(answers.columns, ""), index=range(3)).assign(
        fingerprint=picked["fingerprint"].to_numpy(),
        row_id=picked["row_id"].to_numpy(),
        label=["1", "0", "1"],
        purpose="trim",
        score="0",
    )
    added.to_csv(labels_path(copied.root, NAME), index=False, lineterminator="\n")
    stages.run(Project(copied.root), "calibrate")
    after = read_arrays(copied.folder("calibrate") / "reference/level-0/knn+none.safetensors")["scores"]
    assert len(after) == len(before) - 2
    found = read_json(copied.folder("calibrate") / "calibration.json")
    assert found["trim"]["removed"] == 2
    assert found["trim"]["labelled"] == 3


def test_ties_may_be_broken_by_the_rows_content(copied: Project) -> None:
    randomised = {"calibrate": {"within": "all", "ties": "randomised", "seed": 2}}
    project = settings(copied, **randomised)
    run(project)
    scorer = packed(project)
    rows = plant(300, 3).features
    np.testing.assert_array_equal(scorer.p_values(rows[:10]), scorer.p_values(rows)[:10])
    assert (scorer.p_values(rows) <= scorer.calibrator.p_values(scorer.decision_function(rows))).all()


def test_the_data_may_choose_the_adapter(copied: Project) -> None:
    project = settings(copied, adapters=["none", "auto"])
    run(project, "calibrate")
    folder = project.folder("calibrate") / "adapters/level-0"
    choice = read_json(folder / "knn+auto.choice.json")
    assert choice["chosen"] in ("none", "cadet", "cadet-no-prior", "ares")
    kind = read_json(folder / "knn+auto.json")["kind"]
    assert choice["chosen"].startswith(kind)
