"""The clock: a schedule fires on a real Prefect server."""

from __future__ import annotations

import os
import signal
import subprocess
import time

from tests.conftest import Checkout

from assay.lineage.events import EventLog


def test_an_interval_schedule_fires(finished: Checkout, prefect_api: str) -> None:
    log = EventLog(finished.root / ".assay" / "events.jsonl")
    clock = finished.start(
        "assay", "schedule", "--interval", "5", PREFECT_API_URL=prefect_api, PREFECT_RUNNER_POLL_FREQUENCY="2"
    )
    try:
        end = time.monotonic() + 90
        while time.monotonic() < end and clock.poll() is None:
            ended = [event for event in log if event["event"] == "run-ended"]
            if len(ended) >= 2:
                break
            time.sleep(0.5)
    finally:
        os.killpg(clock.pid, signal.SIGINT)
        try:
            told = clock.communicate(timeout=20)[0]
        except subprocess.TimeoutExpired:
            os.killpg(clock.pid, signal.SIGKILL)
            told = clock.communicate()[0]
    assert len(ended) >= 2, told
    assert {event["state"] for event in ended} == {"completed"}
    log.check()


def test_a_bad_cron_expression_is_refused(finished: Checkout) -> None:
    assert "no cron expression" in finished.assay("schedule", "--cron", "every day", code=2).stderr
    assert "either --cron" in finished.assay("schedule", code=2).stderr
