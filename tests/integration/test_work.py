"""A cell in a process of its own: the same bytes, the same errors, one thread, and no life after its parent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path

import pytest
from tests.conftest import Checkout
from tests.waiting import HANG_SECONDS

from assay.errors import AssayError, ScorerError, StageError
from assay.hashing import hash_tree
from assay.pipeline.progress import silent
from assay.project import work
from assay.project.freshness import require_record
from assay.project.layout import Project
from assay.project.work import PINS, Work, WorkRunner, do_elsewhere, do_here, pinned, run_process, work_of

CELL = "calibrate@breast_cancer--mcd"


def hanging_python(folder: Path) -> Path:
    """Return a program that takes the place of Python and never ends."""
    hanging = folder / "python"
    hanging.write_text("#!/bin/sh\nexec sleep 1000000\n")
    hanging.chmod(0o755)
    return hanging


@pytest.mark.parametrize("do", [do_here, do_elsewhere])
def test_the_bytes_are_those_on_record(finished: Checkout, tmp_path: Path, do: object) -> None:
    project = Project(finished.root)
    steps: list[str] = []
    assert callable(do)
    do(project, project.stage(CELL), tmp_path / "out", tmp_path / "kept", lambda task, share: steps.append(task))
    record = require_record(project.folder("calibrate", "mcd"))
    assert hash_tree(tmp_path / "out") == record.outputs
    assert (record.detector, record.threads) == ("mcd", 1)
    assert steps == ["mcd at level-0", "mcd at level-0.1"]


def test_the_levels_of_a_network_are_trained_apart_with_the_bytes_of_one_process(
    finished: Checkout, tmp_path: Path
) -> None:
    settings = Project(finished.root).raw_params
    settings["detectors"]["autoencoder"] = {"epochs": 2, "members": 1}
    project = Project(finished.root, params=settings)
    stage, made, shares = project.stage("train@breast_cancer--autoencoder"), {}, list[float]()
    for slots in (1, 2):
        out, kept = tmp_path / f"out-{slots}", project.state / f"kept-{slots}"
        out.mkdir()
        with WorkRunner(project.root, slots):
            do_elsewhere(project, stage, out, kept, lambda _, share: shares.append(share))
        made[slots] = hash_tree(out)
    assert made[1] == made[2]
    assert "level-0.1/autoencoder.safetensors" in made[2]
    assert max(shares) <= 1

    def at_two(name: str) -> float:
        return (project.state / "kept-2" / name / "result.json").stat().st_mtime_ns

    # The levels were finished before the process of the whole stage, which found them, began.
    whole = min(path.stat().st_mtime_ns for path in (tmp_path / "out-2").iterdir() if path.name == "failures.json")
    assert max(at_two("level-0"), at_two("level-0.1")) < whole


def test_a_level_that_fails_fails_the_cell_when_no_other_process_is_left(finished: Checkout, tmp_path: Path) -> None:
    settings = Project(finished.root).raw_params
    settings["detectors"]["autoencoder"] = {"epochs": 2, "members": 1}
    project = Project(finished.root, params=settings)
    (project.folder("contaminate") / "level-0.1" / "features.npy").unlink()
    with WorkRunner(project.root, 2), pytest.raises(AssayError, match=r"features\.npy"):
        do_elsewhere(project, project.stage("train@breast_cancer--autoencoder"), tmp_path, tmp_path / "kept", silent)
    assert not work._running


def test_what_levels_copy_is_beside_their_checkpoints(
    finished: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Project(finished.root).raw_params
    settings["detectors"]["autoencoder"] = {"epochs": 2, "members": 1}
    project, outs = Project(finished.root, params=settings), list[Path]()

    def stop(_runner: WorkRunner, works: list[Work], _progress: object) -> None:
        outs.extend(each.out for each in works)
        raise AssayError("stopped")

    monkeypatch.setattr(WorkRunner, "do_all", stop)
    kept = tmp_path / "kept"
    with WorkRunner(project.root, 2), pytest.raises(AssayError, match="stopped"):
        do_elsewhere(project, project.stage("train@breast_cancer--autoencoder"), tmp_path, kept, silent)
    assert len(outs) == 2
    assert all(out.is_relative_to(kept) for out in outs)


def test_no_more_processes_than_were_asked_for_work_at_a_time(tmp_path: Path, finished: Checkout) -> None:
    settings = Project(finished.root).raw_params
    settings["detectors"]["autoencoder"] = {"epochs": 2, "members": 1}
    project, most = Project(finished.root, params=settings), 0

    def do(detector: str) -> None:
        out = tmp_path / detector
        out.mkdir()
        do_elsewhere(
            project, project.stage(f"train@breast_cancer--{detector}"), out, tmp_path / f"kept-{detector}", silent
        )

    with WorkRunner(project.root, 2), ThreadPoolExecutor(2) as threads:
        cells = [threads.submit(do, detector) for detector in ("autoencoder", "knn")]
        while wait(cells, 0.02).not_done:
            most = max(most, len(work._running))
    assert [cell.exception() for cell in cells] == [None, None]
    assert most == 2


def test_levels_that_wait_for_a_process_do_not_outlive_the_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(hanging_python(tmp_path)))
    runner, problems = WorkRunner(tmp_path, 1), list[BaseException]()

    def do_all() -> None:
        try:
            runner.do_all([Work(name, "assay.x:y", {}, (), tmp_path) for name in "abc"])
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=do_all, daemon=True)
    runner.__enter__()
    thread.start()
    while not work._running:
        thread.join(0.05)
    runner.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    thread.join(HANG_SECONDS)
    assert not thread.is_alive()
    assert [type(problem) for problem in problems] in ([StageError], [RuntimeError])
    assert not work._running


def test_an_error_there_is_the_same_error_here(finished: Checkout, tmp_path: Path) -> None:
    project = Project(finished.root)
    (project.folder("train", "mcd") / "failures.json").unlink()
    told = []
    for do in (do_here, do_elsewhere):
        with pytest.raises(ScorerError, match=r"failures\.json is missing") as caught:
            do(project, project.stage(CELL), tmp_path / "out", tmp_path / "kept", silent)
        told.append(str(caught.value))
    assert told[0] == told[1]


def test_a_process_that_fails_otherwise_says_how(finished: Checkout, tmp_path: Path) -> None:
    project = Project(finished.root)
    path = project.folder("train", "mcd") / "failures.json"
    path.write_text("7")
    with pytest.raises(RuntimeError, match=rf"(?s)process of {CELL} failed: .*TypeError"):
        do_elsewhere(project, project.stage(CELL), tmp_path / "out", tmp_path / "kept", silent)


class WaitsForTheEnd(set[subprocess.Popen[bytes]]):
    def add(self, process: subprocess.Popen[bytes]) -> None:
        process.wait(HANG_SECONDS)
        super().add(process)


def test_a_process_that_ends_before_it_reads_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_running", WaitsForTheEnd())
    ending = tmp_path / "python"
    ending.write_text("#!/bin/sh\necho no memory >&2; exit 3\n")
    ending.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(ending))
    with pytest.raises(RuntimeError, match=r"the process of cell failed: no memory"):
        WorkRunner(tmp_path).do(Work("cell", "assay.x:y", {}, (), tmp_path))


def test_threads_are_pinned_inside_and_free_after() -> None:
    import torch

    before, environment = torch.get_num_threads(), dict(os.environ)
    with pinned():
        assert torch.get_num_threads() == 1
        assert {os.environ[name] for name in PINS} == {"1"}
    assert torch.get_num_threads() == before
    assert dict(os.environ) == environment


def test_it_ends_with_its_parent(finished: Checkout, tmp_path: Path) -> None:
    project = Project(finished.root)
    cell = work_of(project, project.stage(CELL), tmp_path / "out", tmp_path / "kept")
    request = json.dumps({**asdict(cell), "root": str(project.root), "out": str(cell.out)})
    command = [sys.executable, "-m", "assay.project.work"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        process.stdin.write(f"{request}\n".encode())
        process.stdin.close()
        assert process.wait(HANG_SECONDS) in (0, 1)


def test_a_process_that_says_nothing_is_ended_by_a_timeout_of_its_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.utilities.timeout import timeout

    monkeypatch.setattr(sys, "executable", str(hanging_python(tmp_path)))
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            with timeout(seconds=1):
                run_process(tmp_path, Work("cell", "assay.x:y", {}, (), tmp_path))
        except TimeoutError as error:
            ended.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(HANG_SECONDS)
    assert len(ended) == 1
