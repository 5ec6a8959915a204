"""The clock: a schedule fires on a real Prefect server, and ends with all that it started."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
from tests.conftest import QUICK, Checkout, prefect_url
from tests.waiting import at_work, wait_until, wait_until_none_works

from assay.eventlog import EventLog
from assay.interruption import GRACE_SECONDS

LONG = QUICK.replace(
    "detectors:\n", "detectors:\n  autoencoder: {epochs: 1000000, members: 2, learning_rate: 0.000001}\n"
)
OFTEN = {"PREFECT_RUNNER_POLL_FREQUENCY": "2"}


def ended(log: EventLog) -> list[dict[str, Any]]:
    return [event for event in log if event["event"] == "run-ended"]


def is_training(project: Checkout) -> bool:
    return any((project.root / "work/breast_cancer/train").glob(".autoencoder.*"))


def test_an_interval_schedule_fires_until_a_signal_ends_it(finished: Checkout) -> None:
    """Runs follow each other; the one that the signal meets is logged, and neither it nor the server stays."""
    log = EventLog(finished.root / ".assay" / "events.jsonl")
    clock = finished.start("assay", "schedule", "--interval", "5", **OFTEN)
    try:
        wait_until(lambda: len(ended(log)) >= 2, clock, pause=0.5)
        finished.params(LONG)
        wait_until(lambda: is_training(finished), clock)
    finally:
        sent = time.monotonic()
        clock.send_signal(signal.SIGTERM)
        output = clock.communicate()[0]
    # A machine may be too slow to end in order in time; the next command logs the run's end then.
    in_order = time.monotonic() - sent < GRACE_SECONDS
    wait_until_none_works(finished.root)
    assert clock.returncode == 0 or not in_order, output
    assert ended(log)[-1]["state"] == "interrupted" or not in_order, output
    finished.assay("stage", "split")
    assert "Traceback" not in output
    assert {event["state"] for event in ended(log)[:2]} == {"completed"}
    assert ended(log)[-1]["state"] == "interrupted", output
    log.check()


@pytest.mark.long
def test_a_killed_schedule_takes_its_run_with_it(finished: Checkout) -> None:
    finished.params(LONG)
    clock = finished.start("assay", "schedule", "--interval", "5", PREFECT_API_URL=prefect_url(), **OFTEN)
    try:
        wait_until(lambda: is_training(finished), clock)
        assert any("prefect.engine" in command for command in at_work(finished.root))
    finally:
        os.kill(clock.pid, signal.SIGKILL)
    wait_until_none_works(finished.root)
    clock.communicate()
    finished.assay("stage", "split")
    (run,) = ended(EventLog(finished.root / ".assay" / "events.jsonl"))
    assert run["state"] == "interrupted"


def test_a_bad_cron_expression_is_refused(finished: Checkout) -> None:
    assert "not a cron expression" in finished.assay("schedule", "--cron", "every day", code=2).stderr
    assert "either --cron" in finished.assay("schedule", code=2).stderr
