"""What makes which cell run again: plain `dvc repro` runs what an edit changes, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.conftest import QUICK, Checkout

NAME = "breast_cancer"
KNN = "src/assay/detectors/baselines/knn.py"
COMPARING = [f"{verb}@{NAME}" for verb in ("select", "evaluate", "package")]
NEW_DETECTOR = '''\
"""A detector that nobody asked for."""

from assay.detectors.baselines.knn import KNearestNeighbors


class Closest(KNearestNeighbors):
    """The one nearest neighbour."""

    kind = "closest"
'''


@pytest.fixture(scope="module")
def project(finished_once: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy of the finished run; every test leaves it finished."""
    root = tmp_path_factory.mktemp("cells") / "project"
    shutil.copytree(finished_once.root, root, symlinks=True)
    return Checkout(root)


def repro(project: Checkout, code: int = 0) -> tuple[list[str], str]:
    """Run plain `dvc repro` by the project's own code; return the stages that it ran, and its output."""
    done = project.call("dvc", "repro", PYTHONPATH=str(project.root / "src"))
    told = done.stdout + done.stderr
    assert done.returncode == code, told
    return re.findall(r"Running stage '(.*)'", told), told


def ran(told: str) -> list[str]:
    """The stages that did their work, as they said on the screen."""
    return re.findall(r"^(\w+(?: \S+)?) +\d+\.\d s$", told, re.MULTILINE)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def is_clean(project: Checkout) -> bool:
    return bool(json.loads(project.call("dvc", "status", "--json").stdout) == {})


def locked(project: Checkout) -> dict[str, object]:
    stages = yaml.safe_load((project.root / "dvc.lock").read_text())["stages"]
    assert isinstance(stages, dict)
    return {name: stage for name, stage in stages.items() if name != "code"}


def add_a_detector(root: Path) -> None:
    (root / "src/assay/detectors/baselines/closest.py").write_text(NEW_DETECTOR)
    line = '    "closest": "assay.detectors.baselines.closest:Closest",\n'
    edit(root / "src/assay/detectors/registry.py", '    "kde":', f'{line}    "kde":')


@pytest.mark.parametrize(
    "change",
    [
        lambda root: edit(root / KNN, "\nimport numpy", "\n\n# A comment.\nimport numpy"),
        add_a_detector,
        lambda root: edit(root / "constraints.txt", "ruff==", "ruff==1."),
    ],
    ids=["comment", "new detector", "pin of ruff"],
)
def test_what_changes_no_result_runs_the_stage_code_alone(project: Checkout, change: Callable[[Path], None]) -> None:
    before = locked(project)
    change(project.root)
    assert repro(project)[0] == ["code"]
    assert locked(project) == before
    assert is_clean(project)


def test_a_line_of_one_detector_trains_that_one_alone(project: Checkout) -> None:
    path = project.root / KNN
    path.write_text(path.read_text() + "\n_UNUSED = 1\n")
    stages, told = repro(project)
    cells = [f"{verb}@{NAME}--knn" for verb in ("train", "calibrate")]
    assert stages[0] == "code"
    assert sorted(stages[1:]) == sorted([*cells, *COMPARING])
    assert ran(told) == ["train knn", "calibrate knn", "select", "evaluate", "package"]
    assert is_clean(project)


def test_another_eps_trains_and_calibrates_nothing(project: Checkout) -> None:
    edit(project.root / "params.yaml", "eps: 0.05", "eps: 0.1")
    assert sorted(repro(project)[0]) == sorted(COMPARING)
    assert is_clean(project)


def test_one_more_detector_costs_one_detector(project: Checkout) -> None:
    """Plain `dvc repro` after an edit by hand says what to do; after that it runs the new cell and the comparison."""
    edit(project.root / "params.yaml", "detectors:\n", "detectors:\n  near: {detector: knn, n_neighbors: 1}\n")
    stages, told = repro(project, code=255)
    assert stages == ["code"]
    assert "params.yaml names other datasets or detectors than cells.yaml" in told
    assert "run the same command again" in told
    stages, told = repro(project)
    assert sorted(stages) == sorted(["code", *(f"{verb}@{NAME}--near" for verb in ("train", "calibrate")), *COMPARING])
    assert is_clean(project)


def test_a_detector_that_is_taken_out_comes_back_without_work(project: Checkout) -> None:
    with_it = (project.root / "params.yaml").read_text()
    edit(project.root / "params.yaml", "  near: {detector: knn, n_neighbors: 1}\n", "")
    repro(project, code=255)
    for is_there in (False, True):
        if is_there:
            project.params(with_it)
        stages, _ = repro(project)  # DVC takes what it has seen before from its cache of runs
        assert {*stages} <= {"code", *COMPARING}
        assert (project.root / f"work/{NAME}/train/near/record.json").is_file() == is_there
        selection = json.loads((project.root / f"work/{NAME}/select/selection.json").read_text())
        assert ("near" in {row["detector"] for row in selection["candidates"]}) == is_there
        assert is_clean(project)


def test_a_label_may_not_hide_another_detector(project: Checkout) -> None:
    before = (project.root / "params.yaml").read_text()
    project.params(QUICK.replace("  mcd: {}", "  mcd: {}\n  lof: {detector: knn}"))
    told = repro(project, code=255)[1]
    assert "lof has knn as its detector and the name of another one" in told
    project.params(before)
