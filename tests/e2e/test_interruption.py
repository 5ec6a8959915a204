"""A run killed at any stage leaves nothing half-written, and the next run goes on from there."""

from __future__ import annotations

import os
import signal
import time

import pytest
from tests.conftest import QUICK, Checkout

from assay.project import STAGES, Project


def kill_while(project: Checkout, stage: str, prefect_api: str) -> None:
    """Start a run and kill it, with all its children, while `stage` has its folder under a temporary name."""
    parent = project.root / "work" / ("scorers" if stage == "package" else "breast_cancer")
    name = "breast_cancer" if stage == "package" else stage
    run = project.start("assay", "run", PREFECT_API_URL=prefect_api)
    try:
        end = time.monotonic() + 120
        while time.monotonic() < end and run.poll() is None:
            if any(parent.glob(f".{name}.*")):
                return
            time.sleep(0.001)
        raise AssertionError(f"stage {stage} was never seen at work: {run.communicate()[0]}")
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()


@pytest.mark.parametrize("stage", ["split", "validate", "train", "package"])
def test_a_killed_run_leaves_nothing_half_written_and_resumes(checkout: Checkout, prefect_api: str, stage: str) -> None:
    checkout.params(QUICK.replace("n_estimators: 25", "n_estimators: 300"))
    kill_while(checkout, stage, prefect_api)
    folder = checkout.root / "work" / ("scorers/breast_cancer" if stage == "package" else f"breast_cancer/{stage}")
    assert not folder.exists()
    told = checkout.assay("run", PREFECT_API_URL=prefect_api)
    fresh = [line.split()[0] for line in told.stderr.splitlines() if line.endswith("fresh")]
    assert fresh == list(STAGES[: STAGES.index(stage)])
    assert not list(checkout.root.glob("work/**/.*.*"))
    ended = [event for event in Project(checkout.root).events if event["event"] == "run-ended"]
    assert [event["state"] for event in ended] == ["interrupted", "completed"]
    assert checkout.call("dvc", "status", "-q").returncode == 0


def test_two_runs_at_once_are_refused(checkout: Checkout) -> None:
    with Project(checkout.root).lock():
        done = checkout.assay("run", code=1)
    assert "another assay command is working" in done.stderr
