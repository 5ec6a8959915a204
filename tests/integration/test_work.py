"""A cell in a process of its own: the same bytes, the same errors, one thread, and no life after its parent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import pytest
from tests.conftest import Checkout
from tests.waiting import HANG_SECONDS

from assay.errors import ScorerError
from assay.hashing import hash_tree
from assay.pipeline.progress import silent
from assay.project.freshness import require_record
from assay.project.layout import Project
from assay.project.work import PINS, Work, do_elsewhere, do_here, pinned, run_process, work_of

CELL = "calibrate@breast_cancer--mcd"


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
    work = work_of(project, project.stage(CELL), tmp_path / "out", tmp_path / "kept")
    request = json.dumps({**asdict(work), "root": str(project.root), "out": str(work.out)})
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

    hanging = tmp_path / "python"
    hanging.write_text("#!/bin/sh\nexec sleep 1000000\n")
    hanging.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hanging))
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
