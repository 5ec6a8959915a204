"""A run that is ended leaves nothing half-written and nothing running, and the next run goes on from there."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from tests.conftest import QUICK, Checkout, prefect_url
from tests.waiting import at_work, wait_until, wait_until_none_works

from assay.interruption import GRACE_SECONDS
from assay.ledger.history import SIGNALLED
from assay.project.layout import Project

LONG = "  autoencoder: {epochs: 1000000, members: 2, learning_rate: 0.000001}\n"
DEAD = "http://127.0.0.1:9"
PROXIES = {"HTTP_PROXY": DEAD, "HTTPS_PROXY": DEAD, "ALL_PROXY": DEAD, "NO_PROXY": "intranet.example"}


def ended_runs(root: Path) -> list[tuple[str, str]]:
    return [(event["state"], event["reason"]) for event in Project(root).events if event["event"] == "run-ended"]


def stage_folder(root: Path, stage: str) -> Path:
    """Output folder of a stage; of `train`, that of its second detector."""
    known = {"package": "package/breast_cancer", "train": "breast_cancer/train/isolation_forest"}
    return root / "work" / known.get(stage, f"breast_cancer/{stage}")


def kill_while(project: Checkout, stage: str, server: dict[str, str]) -> None:
    """Start a run and kill it, with its process group, while `stage` has its folder under a temporary name."""
    folder = stage_folder(project.root, stage)
    parent, name = folder.parent, folder.name
    run = project.start("assay", "run", **server)
    try:
        wait_until(lambda: any(parent.glob(f".{name}.*")), run, pause=0.001)
        assert server or any("assay.runs.local_server" in command for command in at_work(project.root))
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
    wait_until_none_works(project.root)


MORE = [pytest.param(stage, marks=pytest.mark.long) for stage in ("split", "validate", "package")]


@pytest.mark.parametrize("stage", ["train", *MORE])
def test_a_killed_run_leaves_nothing_half_written_and_resumes(checkout: Checkout, stage: str) -> None:
    checkout.params(QUICK.replace("n_estimators: 25", "n_estimators: 300"))
    # One of them has a server of its own, which must not stay.
    kill_while(checkout, stage, {} if stage == "train" else {"PREFECT_API_URL": prefect_url()})
    folder = stage_folder(checkout.root, stage)
    assert not folder.exists()
    told = checkout.assay("run")
    fresh = [line.removesuffix("fresh").strip() for line in told.stderr.splitlines() if line.endswith("fresh")]
    names = [each.title for each in Project(checkout.root).stages.values()]
    assert fresh == names[: names.index("train isolation_forest" if stage == "train" else stage)]
    assert not list(checkout.root.glob("work/**/.*.*"))
    assert [state for state, _ in ended_runs(checkout.root)] == ["interrupted", "completed"]
    assert checkout.call("dvc", "status", "-q").returncode == 0


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
def test_a_signal_ends_a_run_in_order(finished: Checkout, number: signal.Signals) -> None:
    """Told again and again, it ends once: with a server of its own and useless proxies, and with the tests' server.

    The cell is trained in the run's own process, or in another one. On a machine too slow to end in order in time it
    ends all the same, and the next command logs that.
    """
    settings = QUICK.replace("detectors:\n", f"detectors:\n{LONG}")
    finished.params(settings.replace("at_once: 1", "at_once: 2") if number == signal.SIGTERM else settings)
    server = PROXIES if number == signal.SIGINT else {"PREFECT_API_URL": prefect_url()}
    run = finished.start("assay", "run", **server)
    wait_until(lambda: any((finished.root / "work/breast_cancer/train").glob(".autoencoder.*")), run)
    sent = time.monotonic()
    while run.poll() is None:
        run.send_signal(number)
        time.sleep(0.002)
    *_, told = (output := run.communicate()[0]).splitlines()
    in_order = time.monotonic() - sent < GRACE_SECONDS
    wait_until_none_works(finished.root)
    assert run.returncode == 128 + number, output
    assert told == "assay: interrupted; the same command goes on from here", output
    assert "Traceback" not in output
    if in_order:
        assert ended_runs(finished.root) == [("cancelled", SIGNALLED)]
        assert not list(finished.root.glob("work/**/.*.*"))
    finished.assay("stage", "split")
    assert [state for state, _ in ended_runs(finished.root)] == ["cancelled" if in_order else "interrupted"]


def test_two_runs_at_once_are_refused(checkout: Checkout) -> None:
    with Project(checkout.root).lock():
        done = checkout.assay("run", code=1)
    assert "another assay command is working" in done.stderr
