"""Which rows a step may read: what happens to the others changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.conftest import Checkout

from assay import pipeline
from assay.data.dataset import RowSet, read_rows, write_rows
from assay.hashing import hash_tree
from assay.names import Choice
from assay.project.freshness import run_verb
from assay.project.layout import Project
from assay.project.stages import candidates_of, folders_of


@pytest.fixture
def project(finished: Checkout) -> Project:
    return Project(finished.root)


def calibrate_again(project: Project, out: Path) -> dict[str, str]:
    roles = project.folder("split")
    more = (Choice("ares", "ares"), Choice("cadet", "log-cadet", {"error": "log"}))
    for label, trained in folders_of(project, "train").items():
        pipeline.calibrate(
            out / label,
            card=project.data,
            split=roles / "split.json",
            adapt=roles / "adapt",
            calibration=roles / "calibration",
            labels=project.root / "labels/breast_cancer.csv",
            target=project.root / "targets/breast_cancer.csv",
            trained=trained,
            detector=Choice(label, label),
            adapters=(*project.config.adapters, *more),
            checkpoints=out.parent / "checkpoints" / out.name / label,
            **project.config.sections["calibrate"],
        )
    return hash_tree(out)


def select_again(project: Project, calibrated: Path, out: Path) -> dict[str, str]:
    pipeline.select(
        out,
        selection=project.folder("split") / "selection",
        pool=project.folder("split") / "pool",
        plan=project.folder("contaminate") / "plan.json",
        trained=folders_of(project, "train"),
        adapters={choice.label: calibrated / choice.label / "adapters" for choice in project.config.detectors},
        candidates=candidates_of(project),
        eps=project.config.eps,
        seed=0,
    )
    return hash_tree(out)


def test_calibration_rows_change_the_reference_scores_and_nothing_else(project: Project, tmp_path: Path) -> None:
    before = calibrate_again(project, tmp_path / "before")
    folder = project.folder("split") / "calibration"
    rows = read_rows(folder)
    noise = np.random.default_rng(0).normal(1, 0.2, rows.features.shape).astype(np.float32)
    write_rows(folder, RowSet(rows.features * noise, rows.rows))
    after = calibrate_again(project, tmp_path / "after")
    changed = {name for name in before if before[name] != after[name]}
    assert changed
    assert all("/reference/" in name for name in changed)
    assert len([n for n in before if "/reference/" in n and n.endswith(".safetensors")]) == len(changed)


def test_the_order_of_calibration_rows_changes_nothing(project: Project, tmp_path: Path) -> None:
    before = calibrate_again(project, tmp_path / "before")
    folder = project.folder("split") / "calibration"
    rows = read_rows(folder)
    write_rows(folder, rows.take(np.random.default_rng(0).permutation(len(rows))))
    assert calibrate_again(project, tmp_path / "after") == before


def test_adapt_rows_do_change_what_is_fitted(project: Project, tmp_path: Path) -> None:
    before = calibrate_again(project, tmp_path / "before")
    folder = project.folder("split") / "adapt"
    rows = read_rows(folder)
    write_rows(folder, rows.take(np.arange(len(rows) // 2)))
    after = calibrate_again(project, tmp_path / "after")
    assert any(before[name] != after[name] for name in before if "/adapters/" in name)


def test_selection_sees_neither_test_labels_nor_calibration_nor_gate_rows(project: Project, tmp_path: Path) -> None:
    before = select_again(project, project.folder("calibrate"), tmp_path / "before")
    draw = np.random.default_rng(1)
    for role in ("test", "calibration", "gate"):
        folder = project.folder("split") / role
        rows = read_rows(folder)
        features = draw.normal(size=rows.features.shape).astype(np.float32)
        # Selection knows how many calibration rows there are, and labels say which of them stay.
        labels = rows.labels if role == "calibration" else draw.integers(0, 2, len(rows))
        write_rows(folder, RowSet(features, rows.rows.assign(label=labels)))
    calibrate_again(project, tmp_path / "calibrated")
    assert select_again(project, tmp_path / "calibrated", tmp_path / "after") == before


def test_selection_needs_neither_test_nor_reference_files(project: Project, tmp_path: Path) -> None:
    import shutil

    before = select_again(project, project.folder("calibrate"), tmp_path / "before")
    for role in ("test", "gate", "calibration", "train", "adapt"):
        shutil.rmtree(project.folder("split") / role)
    for folder in folders_of(project, "calibrate").values():
        shutil.rmtree(folder / "reference")
    assert select_again(project, project.folder("calibrate"), tmp_path / "after") == before


def test_the_record_of_the_selection_names_neither(project: Project) -> None:
    read = project.stage("select").inputs
    assert "work/breast_cancer/calibrate/knn/adapters" in read
    assert not [
        path
        for path in read
        if "/test" in path or "/gate" in path or "reference" in path or path.endswith("/calibrate")
    ]


def test_what_ships_does_not_depend_on_test_rows(finished: Checkout) -> None:
    """The package stage's record names no test file and no evaluation."""
    import json

    record = json.loads((finished.root / "work/package/breast_cancer/record.json").read_text())
    assert not [name for name in record["inputs"] if "/test/" in name or "/evaluate/" in name]


def test_a_missing_input_is_named(project: Project) -> None:
    import shutil

    from assay.errors import StageError

    shutil.rmtree(project.folder("train"))
    shutil.rmtree(project.folder("select"))
    with pytest.raises(StageError, match="stage select@breast_cancer needs work/breast_cancer/train/knn, which is"):
        run_verb(project, "select")
