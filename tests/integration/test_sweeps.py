"""`assay sweep`: the numbers of a run, cells computed once, failures as rows, nothing touched but its folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.conftest import Checkout, prefect_url
from tests.waiting import at_work, wait_until, wait_until_none_works

from assay.errors import ScorerError
from assay.hashing import hash_tree
from assay.pipeline.evaluating import read_evaluation
from assay.pipeline.progress import StageProgress, silent
from assay.project import sweeping
from assay.project.layout import Project
from assay.project.sweeping import UNREAD, Cell, compute, prepared_folder, read_cells
from assay.project.work import Work, WorkRunner
from assay.runs import sweeps
from assay.runs.sweeps import finish_cell, kept_path, leaders

METRICS = ["auroc", "auprc", "fpr", "worst_stratum_fpr", "power"]
LISTS = ("--datasets", "breast_cancer", "--detectors", "knn,mcd", "--seeds", "0-1")


def sweep(project: Checkout, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = project.assay("sweep", "--json", *arguments, code=code, PREFECT_API_URL=prefect_url())
    return dict(json.loads(done.stdout))


def table_of(project: Checkout, name: str = "default") -> pd.DataFrame:
    return pd.read_parquet(project.root / "sweeps" / name / "results.parquet")


def cells(project: Checkout) -> dict[str, int]:
    """When each kept cell was written."""
    return {path.name: path.stat().st_mtime_ns for path in (project.root / "sweeps" / ".cells").glob("[!.]*")}


def own_files(project: Checkout) -> dict[str, str]:
    """All of a project but what a sweep may write, and locks."""
    skipped = (".git", ".dvc", ".assay", ".prefect", "sweeps")
    parts = [path for path in sorted(project.root.iterdir()) if path.name not in skipped]
    return {path.name: hash_tree(path) if path.is_dir() else path.read_bytes().hex() for path in parts}  # type: ignore[misc]


def add_line(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def written(project: Checkout, text: str, name: str = "default") -> list[Cell]:
    """Define a sweep, and return its cells."""
    path = project.root / "sweeps" / name / "sweep.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return read_cells(Project(project.root), name)


@pytest.fixture(scope="module")
def swept(finished_once: Checkout, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, dict[str, Any]]:
    """A finished run, and a sweep in the same project; never changed."""
    root = tmp_path_factory.mktemp("swept") / "project"
    shutil.copytree(finished_once.root, root, symlinks=True)
    project = Checkout(root)
    before = own_files(project)
    n_events = len(list(Project(root).events))
    result = sweep(project, *LISTS)
    assert own_files(project) == before
    (event,) = list(Project(root).events)[n_events:]
    assert (event["event"], event["sweep"], event["split_seeds"]) == ("swept", "default", [0, 1])
    return project, result


def test_seed_0_has_the_numbers_of_the_run(swept: tuple[Checkout, dict[str, Any]]) -> None:
    project, result = swept
    assert (result["cells"], result["computed"], result["refused"], result["failed_rows"]) == (4, 4, 0, 0)
    table = table_of(project)
    table = table[table["seed"] == 0].set_index(["level", "detector", "adapter"])
    run = read_evaluation(Project(project.root).folder("evaluate"))
    compared = [row for row in run.candidates if row.detector in ("knn", "mcd")]
    assert len(compared) == len(table) == 8
    for row in compared:
        own = table.loc[(float(row.level.removeprefix("level-")), row.detector, row.adapter)]
        assert {name: own[name] for name in METRICS} == {name: getattr(row, name) for name in METRICS}


def test_a_scorer_says_which_sweeps_looked_at_its_rows(swept: tuple[Checkout, dict[str, Any]]) -> None:
    project, _ = swept
    Project(project.root).events.check()
    (node,) = (
        n
        for n in json.loads(project.assay("audit", "show", "breast_cancer", "--json").stdout)["nodes"]
        if n["key"] == "split"
    )
    (look,) = node["facts"]["looked_at_by"]
    assert look.startswith("sweep default at 20")
    assert look.endswith(", seeds 1")


def test_another_seed_has_the_numbers_of_a_run_with_such_seeds(
    swept: tuple[Checkout, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(swept[0].root, tmp_path / "project", symlinks=True)
    project = Checkout(tmp_path / "project")
    text = (project.root / "params.yaml").read_text()
    for old, new in (
        ("split: {seed: 0}", "split: {seed: 1}"),
        ("labelled: 0, seed: 1", "labelled: 0, seed: 2"),
        ("train: {seed: 0", "train: {seed: 1"),
        ("promise: average, seed: 2", "promise: average, seed: 3"),
    ):
        assert old in text
        text = text.replace(old, new)
    project.params(text)
    for verb in ("split", "contaminate", "validate", "train", "calibrate", "evaluate"):
        project.assay("stage", verb)
    table = table_of(project)
    table = table[table["seed"] == 1].set_index(["level", "detector", "adapter"])
    run = read_evaluation(Project(project.root).folder("evaluate"))
    for row in (row for row in run.candidates if row.detector in ("knn", "mcd")):
        own = table.loc[(float(row.level.removeprefix("level-")), row.detector, row.adapter)]
        assert {name: own[name] for name in METRICS} == {name: getattr(row, name) for name in METRICS}


def test_the_page_is_whole_and_says_who_lost(swept: tuple[Checkout, dict[str, Any]]) -> None:
    project, result = swept
    page = (project.root / result["page"]).read_text()
    assert "knn+cadet" in page
    assert "<th>last</th>" in page
    assert "http" not in page
    assert page.count("data:image/png;base64,") == 1
    assert {row["detector"] for row in result["leaderboard"]} == {"knn", "mcd"}


def test_means_are_over_datasets_deviations_over_seeds_and_ranks_over_cases() -> None:
    figures = {"a": [0.9, 0.5, 0.7, 0.5], "b": [0.8, 0.6, None, 0.5]}  # by dataset and seed: x0, y0, x1, y1
    rows = [
        {"dataset": "xy"[n % 2], "detector": name, "adapter": "none", "level": 0.0, "seed": n // 2, "auprc": value}
        for name, values in figures.items()
        for n, value in enumerate(values)
    ]
    table = pd.DataFrame(rows).assign(seconds=1.0, cpu_seconds=1.0)
    table[[name for name in METRICS if name != "auprc"]] = 0.0
    standing = leaders(table).reset_index().set_index("detector")
    assert standing.loc["a", "auprc"] == pytest.approx((0.7 + 0.6) / 2)
    assert standing.loc["a", "auprc_sd"] == pytest.approx(0.1 / 2**0.5)
    assert standing["rank"].to_dict() == {"a": (1 + 2 + 1 + 1.5) / 4, "b": (2 + 1 + 2 + 1.5) / 4}
    assert standing["first"].to_dict() == {"a": 3, "b": 2}
    assert standing["last"].to_dict() == {"a": 2, "b": 3}
    assert standing["failed"].to_dict() == {"a": 0, "b": 1}


def test_what_was_computed_is_not_computed_again(swept: tuple[Checkout, dict[str, Any]], tmp_path: Path) -> None:
    shutil.copytree(swept[0].root, tmp_path / "project", symlinks=True)
    project = Checkout(tmp_path / "project")
    before = cells(project)
    assert sweep(project)["computed"] == 0
    lists = ("--datasets", "breast_cancer", "--detectors", "isolation_forest,knn", "--seeds", "1")
    assert sweep(project, "other", *lists)["computed"] == 1
    assert {name: time for name, time in cells(project).items() if name in before} == before
    assert set(table_of(project, "other")["detector"]) == {"isolation_forest", "knn"}
    assert not prepared_folder(project.root).exists()


def test_keys_change_with_what_decides_numbers_alone(swept: tuple[Checkout, dict[str, Any]], tmp_path: Path) -> None:
    shutil.copytree(swept[0].root, tmp_path / "project", symlinks=True)
    project = Checkout(tmp_path / "project")
    base = "datasets: [breast_cancer]\nseeds: [0]\n"
    (first,) = written(project, base + "detectors: {knn: {}}\n")
    (renamed,) = written(project, base + "detectors: {near: {detector: knn}}\n")
    assert first.key == renamed.key
    for more in (
        "detectors: {knn: {n_neighbors: 9}}\n",
        "detectors: [knn]\nlevels: [0]\n",
        "detectors: [knn]\nadapters: [none]\n",
    ):
        assert written(project, base + more)[0].key != first.key
    add_line(project.root / "quarantine" / "breast_cancer.csv")
    (changed,) = written(project, base + "detectors: [knn]\n")
    assert changed.rows != first.rows


def test_a_cell_has_no_row_that_it_may_not_read(swept: tuple[Checkout, dict[str, Any]], tmp_path: Path) -> None:
    shutil.copytree(swept[0].root, tmp_path / "project", symlinks=True)
    project = Checkout(tmp_path / "project")
    (cell,) = written(project, "datasets: [breast_cancer]\ndetectors: [knn]\nseeds: [0]\n")
    compute(project.root, cell)
    split = prepared_folder(project.root) / cell.rows / "split"
    roles = {path.name for path in split.iterdir() if path.is_dir()}
    assert roles == {"train", "pool", "adapt", "calibration", "test"}
    assert not roles & {*UNREAD}


def test_a_failure_is_a_row_with_the_reason_and_the_sweep_goes_on(
    swept: tuple[Checkout, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(swept[0].root, tmp_path / "project", symlinks=True)
    project = Checkout(tmp_path / "project")
    written(project, "datasets: [breast_cancer]\ndetectors: [cvdd, devnet, knn]\nseeds: [0]\nadapters: [none]\n")
    result = sweep(project)
    table = table_of(project).set_index("detector")
    assert len(table) == 6
    assert result["failed_rows"] == table["auroc"].isna().sum() == 4
    assert table.loc["cvdd", "reason"].str.contains("text").all()
    assert table.loc["devnet", "reason"].str.contains("labelled").all()
    assert table.loc["knn", "auroc"].notna().all()
    assert leaders(table.reset_index())["rank"].to_dict()[(0.0, "cvdd", "none")] == 2.5
    (whole,) = written(project, "datasets: [breast_cancer]\ndetectors: [knn]\nseeds: [0]\nlevels: [0, 0.49]\n", "whole")
    assert "the pool has" in compute(project.root, whole)["failure"]
    assert sweep(project)["computed"] == 0


def test_what_the_system_refuses_is_tried_again(swept: tuple[Checkout, dict[str, Any]], tmp_path: Path) -> None:
    shutil.copytree(swept[0].root, tmp_path / "project", symlinks=True)
    project = Checkout(tmp_path / "project")
    (cell,) = written(project, "datasets: [breast_cancer]\ndetectors: {knn: {n_neighbors: 3}}\nseeds: [0]\n")

    def full(root: Path, cell: Cell) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    assert "No space left" in str(finish_cell(project.root, cell, full))
    assert not kept_path(project.root, cell).exists()

    def lack(root: Path, cell: Cell) -> Path:
        raise ScorerError("plan.json is missing") from FileNotFoundError(2, "No such file or directory")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeping, "prepare_rows", lack)
        assert "OSError: plan.json is missing" in str(finish_cell(project.root, cell, compute))
    assert not kept_path(project.root, cell).exists()
    add_line(project.root / "data" / "breast_cancer" / "rows.csv")
    assert "changed during the sweep" in str(finish_cell(project.root, cell, compute))
    assert not kept_path(project.root, cell).exists()


def test_a_killed_sweep_repeats_no_finished_cell(finished: Checkout) -> None:
    lists = ("--datasets", "breast_cancer", "--detectors", "knn,mcd,isolation_forest", "--seeds", "0-2")
    command = ("assay", "sweep", *lists, "--at-once", "2")
    process = finished.start(*command, PREFECT_API_URL=prefect_url())
    wait_until(lambda: len(cells(finished)) >= 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until_none_works(finished.root)
    before = cells(finished)
    (finished.root / "sweeps" / ".cells" / f".{'0' * 64}.json.{process.pid}-00000000.part").touch()
    assert all(json.loads((finished.root / "sweeps" / ".cells" / name).read_text()) for name in before)
    result = sweep(finished)
    assert (result["cells"], result["computed"]) == (9, 9 - len(before))
    assert {name: time for name, time in cells(finished).items() if name in before} == before
    assert len(table_of(finished)) == 9 * 2 * 2
    assert not prepared_folder(finished.root).exists()
    assert list((finished.root / "sweeps").rglob("*.part")) == []
    assert at_work(finished.root) == []


def test_a_cell_of_other_code_is_not_kept(swept: tuple[Checkout, dict[str, Any]], tmp_path: Path) -> None:
    shutil.copytree(swept[0].root, tmp_path / "project", symlinks=True)
    project = Checkout(tmp_path / "project")
    (cell,) = written(project, "datasets: [breast_cancer]\ndetectors: {knn: {n_neighbors: 3}}\nseeds: [0]\n")
    source = project.root / "src"
    if source.is_symlink():
        source.unlink()
        shutil.copytree(swept[0].root / "src", source)
    module = source / "assay" / "pipeline" / "training.py"

    def edited(text: str) -> str | None:
        def compute(root: Path, cell: Cell) -> dict[str, Any]:
            module.write_text(f"{module.read_text()}\n{text}\n")
            return {}

        return finish_cell(project.root, cell, compute)

    assert edited("# a comment changes nothing") is None
    kept_path(project.root, cell).unlink()
    assert "the code changed during the sweep" in str(edited("OTHER = 1"))
    assert not kept_path(project.root, cell).exists()


def test_networks_of_a_sweep_ask_for_a_device(swept: tuple[Checkout, dict[str, Any]], tmp_path: Path) -> None:
    shutil.copytree(swept[0].root, tmp_path / "project", symlinks=True)
    project = Checkout(tmp_path / "project")
    asked = dict[str, bool]()

    class Runner(WorkRunner):
        def do(self, work: Work, progress: StageProgress = silent) -> dict[str, Any]:
            asked[work.arguments["cell"]["detector"]] = work.on_device
            return {}

    for cell in written(project, "datasets: [breast_cancer]\ndetectors: [knn, autoencoder]\nseeds: [0]\n"):
        for device in ("cpu", "auto"):
            params = {**cell.params, "train": {**cell.params["train"], "device": device}}
            sweeps.computing(Runner(project.root))(project.root, replace(cell, params=params))
            assert device == "auto" or not asked[cell.detector]
    assert asked == {"knn": False, "autoencoder": True}


def test_a_killed_sweep_finishes_no_half_of_the_rows_of_the_next(tmp_path: Path) -> None:
    rows = prepared_folder(tmp_path)
    half = rows / ".half.1-00000000"
    half.mkdir(parents=True)
    (half / "is in use").touch()

    def keep(path: Path, *, ignore_errors: bool) -> None:
        assert ignore_errors

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", keep)  # as where a process that still works writes more
        sweeps._remove_rows(tmp_path)
    assert not rows.exists()


@pytest.mark.long
def test_a_cluster_gives_the_same_numbers(swept: tuple[Checkout, dict[str, Any]], tmp_path: Path) -> None:
    shutil.copytree(swept[0].root, tmp_path / "project", symlinks=True)
    project = Checkout(tmp_path / "project")
    before = table_of(project)
    shutil.rmtree(project.root / "sweeps" / ".cells")
    assert sweep(project, "--runner", "dask")["computed"] == 4
    same = ["dataset", "detector", "adapter", "level", "seed", "key", *METRICS]
    pd.testing.assert_frame_equal(table_of(project)[same], before[same])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--seeds", "0-1"), "give all of"),
        (("nothing",), "there is no sweeps/nothing/sweep.yaml"),
        (("a", "--datasets", "no", "--detectors", "knn", "--seeds", "0"), "there is no dataset 'no'"),
        (("b", "--datasets", "breast_cancer", "--detectors", "knnn", "--seeds", "0"), "knnn"),
        (("c", "--datasets", "breast_cancer", "--detectors", "knn", "--seeds", "x"), "'x' must be whole numbers"),
        (("d", "--datasets", "breast_cancer", "--detectors", "knn,knn", "--seeds", "0"), "'knn' occurs twice"),
        (("../e", "--datasets", "breast_cancer", "--detectors", "knn", "--seeds", "0"), "the name of the sweep"),
    ],
)
def test_bad_lists_are_refused_in_one_sentence(
    swept: tuple[Checkout, dict[str, Any]], arguments: tuple[str, ...], words: str
) -> None:
    project, _ = swept
    done: subprocess.CompletedProcess[str] = project.call("assay", "sweep", *arguments)
    assert done.returncode == 2 or "no dataset" in words
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
