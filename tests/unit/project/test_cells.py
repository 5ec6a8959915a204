"""The stages of a project, one for each dataset or cell; the list of cells for DVC; outputs of detectors that go."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tests.conftest import QUICK, Checkout

from assay.errors import ConfigError, StageError
from assay.project.cells import CELLS, RETIRED, refresh_cells, require_cells, retire_cells
from assay.project.layout import Project

NAME = "breast_cancer"
LABELS = ("knn", "isolation_forest", "mcd")
TWO = QUICK.replace("datasets: [breast_cancer]", "datasets: [breast_cancer, a-b]  # both")


@pytest.fixture
def root(checkout: Checkout) -> Path:
    checkout.params(TWO)
    (checkout.root / "data/a-b").mkdir(parents=True)
    return checkout.root


def test_stages_have_the_names_that_dvc_gives_them(root: Path) -> None:
    project = Project(root)
    cells = [f"{verb}@{NAME}--{label}" for verb in ("train", "calibrate") for label in LABELS]
    whole = [f"{verb}@{NAME}" for verb in ("split", "contaminate", "validate", "select", "evaluate", "package")]
    assert list(project.stages) == [*whole[:3], *cells, *whole[3:]]
    of_both = [*project.stages, *project.on("a-b").stages]
    listed = Checkout(root).call("dvc", "stage", "list", "--name-only").stdout.split()
    assert sorted(listed) == sorted(["code", *of_both])


def test_a_cell_reads_the_files_of_its_own_detector(root: Path) -> None:
    project = Project(root).on("a-b")
    cell = project.stage("calibrate@a-b--mcd")
    assert (cell.verb, cell.dataset, cell.detector) == ("calibrate", "a-b", "mcd")
    assert cell.folder == "work/a-b/calibrate/mcd"
    assert [path for path in cell.inputs if "/train/" in path] == ["work/a-b/train/mcd"]
    assert project.stage("train@a-b--mcd").params == ("train", "detectors.mcd")
    assert project.params_of(project.stage("train@a-b--isolation_forest"))["detectors.isolation_forest"] == {
        "n_estimators": 25
    }


def test_a_name_without_dataset_is_that_of_this_one(root: Path) -> None:
    project = Project(root)
    assert project.stage("split").name == f"split@{NAME}"
    assert [stage.detector for stage in project.stages_named("train")] == list(LABELS)
    assert project.seen_from("train@a-b--knn").dataset == "a-b"
    assert project.seen_from("train").dataset == NAME
    assert project.folder("train") == root / f"work/{NAME}/train"
    for name in ("train", "split@digits", f"train@{NAME}--lof", f"train@{NAME}"):
        with pytest.raises(ConfigError, match=f"there is no stage '{name}'; there are split@{NAME}, "):
            project.stage(name)


def test_the_list_of_cells_follows_the_settings(root: Path) -> None:
    cells = yaml.safe_load((root / CELLS).read_text())["cells"]
    assert cells == {
        f"{dataset}--{label}": {"dataset": dataset, "detector": label} for dataset in (NAME, "a-b") for label in LABELS
    }
    assert not refresh_cells(Project(root))
    (root / "params.yaml").write_text(QUICK)
    with pytest.raises(StageError, match=f"other datasets or detectors than {CELLS}.*run the same command again"):
        require_cells(Project(root))
    require_cells(Project(root))
    assert len(yaml.safe_load((root / CELLS).read_text())["cells"]) == 3


def test_outputs_of_a_detector_that_goes_step_aside_and_come_back(root: Path) -> None:
    train = root / f"work/{NAME}/train"
    for path in (train / "knn/a", train / "lof/a", train / "level-0/b", train / "record.json", train / ".knn.tmp/c"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    retire_cells(Project(root))
    assert sorted(path.name for path in train.iterdir()) == [".knn.tmp", RETIRED, "knn"]
    assert sorted(path.name for path in (train / RETIRED).iterdir()) == ["level-0", "lof", "record.json"]
    (root / "params.yaml").write_text(TWO.replace("  mcd: {}", "  mcd: {}\n  lof: {}"))
    retire_cells(Project(root))
    assert (train / "lof/a").read_text() == "a"
    assert not (train / RETIRED / "lof").exists()


def test_another_dataset_is_added_once(root: Path) -> None:
    (root / "params.yaml").write_text(QUICK.replace("datasets: [breast_cancer]", "datasets: [breast_cancer]  # all"))
    for _ in range(2):
        Project(root).use_dataset("a-b")
        lines = (root / "params.yaml").read_text().splitlines()
        assert lines[:2] == ["dataset: a-b", "datasets: [breast_cancer, a-b]  # all"]
    assert Project(root).config.datasets == (NAME, "a-b")


def test_the_default_of_a_new_project_goes_if_it_was_never_ingested(root: Path) -> None:
    (root / "params.yaml").write_text(QUICK.replace(NAME, "digits"))
    (root / "expectations/digits.json").unlink()
    Project(root).use_dataset("a-b")
    assert Project(root).config.datasets == ("a-b",)


def test_a_list_that_cannot_be_changed_is_named(root: Path) -> None:
    text = QUICK.replace("datasets: [breast_cancer]", "datasets:\n  - breast_cancer")
    (root / "params.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"`datasets: \[breast_cancer, a-b\]`; it needs one that begins"):
        Project(root).use_dataset("a-b")
    assert (root / "params.yaml").read_text() == text
