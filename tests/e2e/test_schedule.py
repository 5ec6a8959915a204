"""The clock: a schedule fires on a real Prefect server, and ends with all that it started."""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pandas as pd
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from tests.conftest import QUICK, ROOT, Checkout, prefect_url
from tests.integration.conftest import GIT
from tests.integration.test_ingest import OPTIONS, patients
from tests.waiting import HANG_SECONDS, at_work, wait_until, wait_until_none_works

from assay.data.card import read_card
from assay.eventlog import EventLog
from assay.interruption import GRACE_SECONDS
from assay.project.layout import Project
from assay.runs.arrivals import ALARMED
from assay.runs.showing import ALARM, emit_alarm

LONG = QUICK.replace(
    "detectors:\n", "detectors:\n  autoencoder: {epochs: 1000000, members: 2, learning_rate: 0.000001}\n"
)
OFTEN = {"PREFECT_RUNNER_POLL_FREQUENCY": "2"}


def ended(log: EventLog) -> list[dict[str, Any]]:
    return [event for event in log if event["event"] == "run-ended"]


def is_training(project: Checkout) -> bool:
    return any((project.root / "work/breast_cancer/train").glob(".autoencoder.*"))


def ask(path: str, **body: Any) -> Any:
    """Ask the Prefect server of all tests."""
    request = Request(prefect_url() + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request) as answer:
        return json.load(answer)


def runs_of(dataset: str, *states: str) -> list[dict[str, Any]]:
    """Return the flow runs by a dataset's schedule in one of some states; by default, the completed ones."""
    wanted = {"tags": {"all_": [f"dataset:{dataset}"]}, "state": {"type": {"any_": states or ["COMPLETED"]}}}
    schedule = {"name": {"any_": [f"retrain-{dataset}"]}}
    return list(ask("/flow_runs/filter", flow_runs=wanted, deployments=schedule))


def artifacts_of(run: str, kind: str) -> list[dict[str, Any]]:
    """Return the artifacts of one type of a flow run."""
    wanted = {"flow_run_id": {"any_": [run]}, "type": {"any_": [kind]}}
    return list(ask("/artifacts/filter", artifacts=wanted))


@contextmanager
def listener() -> Iterator[tuple[str, queue.Queue[dict[str, Any]]]]:
    """Take the messages that are posted to an address."""
    posted: queue.Queue[dict[str, Any]] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hook", posted
        server.shutdown()


def test_an_interval_schedule_fires_until_a_signal_ends_it(finished: Checkout) -> None:
    """Runs that find nothing to do end at once; the one that the signal meets is logged, and none stays.

    The flow is the user's: this one is of a former version, which knew no folders of new files.
    """
    flow = finished.root / "flows/retrain.py"
    former = (
        flow.read_text().replace(", new_data: str | None = None", "").replace("if new_data is not None:", "if False:")
    )
    flow.write_text(former)
    log = EventLog(finished.root / ".assay" / "events.jsonl")
    n_events = len(list(log))
    clock = finished.start("assay", "schedule", "--interval", "5", PREFECT_API_URL=prefect_url(), **OFTEN)
    try:
        wait_until(lambda: len(runs_of("breast_cancer")) >= 2, clock, pause=0.5)
        assert len(list(log)) == n_events, "a run without work is no event"
        finished.params(LONG)
        wait_until(lambda: is_training(finished), clock)
        (running,) = runs_of("breast_cancer", "RUNNING")
        progress = partial(artifacts_of, running["id"], "progress")
        wait_until(progress, clock, pause=0.5)
        ask(f"/flow_runs/{running['id']}/set_state", state={"type": "CANCELLING"})
        cancelled = partial(runs_of, "breast_cancer", "CANCELLED")
        wait_until(lambda: any(run["id"] == running["id"] for run in cancelled()), clock, pause=0.5)
        wait_until(lambda: ended(log)[-1]["state"] == "cancelled", clock)
        assert ended(log)[-1]["stages"][0] == "split@breast_cancer"
        assert [each["description"] for each in progress()] == ["train autoencoder"]
        wait_until(lambda: is_training(finished), clock)
    finally:
        sent = time.monotonic()
        clock.send_signal(signal.SIGTERM)
        output = clock.communicate()[0]
    # A machine may be too slow to end in order in time; the next command logs the run's end then.
    in_order = time.monotonic() - sent < GRACE_SECONDS
    wait_until_none_works(finished.root)
    assert clock.returncode == 0 or not in_order, output
    assert ended(log)[-1]["state"] == "cancelled" or not in_order, output
    finished.assay("stage", "split")
    assert "Traceback" not in output
    assert output.count("nothing changed: every stage is fresh") >= 2
    assert ended(log)[-1]["state"] == ("cancelled" if in_order else "interrupted"), output
    log.check()


def test_an_alarm_of_the_champion_starts_one_run(finished: Checkout) -> None:
    """Alarms of scorers that are no longer champion start nothing; the same one starts one run, beside a clock too."""
    deployed, project = json.loads((finished.root / "deployments/breast_cancer.json").read_text()), finished.root
    log = EventLog(project / ".assay" / "events.jsonl")
    later = f"0 {(time.gmtime().tm_hour + 12) % 24} * * *"
    options = ("--dataset", "breast_cancer", "--on-alarm", "--cron", later)
    # A run whose process is ended before it has left is said to have crashed.
    begun = ("COMPLETED", "CRASHED", "CANCELLED", "RUNNING", "PENDING")
    former = {run["id"] for run in runs_of("breast_cancer", *begun, "SCHEDULED")}

    def new(*states: str) -> list[dict[str, Any]]:
        return [run for run in runs_of("breast_cancer", *states) if run["id"] not in former]

    clock = finished.start("assay", "schedule", *options, PREFECT_API_URL=prefect_url(), **OFTEN)
    try:
        for version, row in (("0" * 12, 3), (deployed["version"], 17)):
            details = {"scorer": f"breast_cancer:{version}", "statement": "0" * 12, "monitor": "drift of all rows"}
            log.append(ALARMED, dataset="breast_cancer", log10_threshold=2.3, row=row, **details)
        wait_until(new, clock, pause=0.5)
    finally:
        clock.send_signal(signal.SIGTERM)
        output = clock.communicate()[0]
    assert len(new(*begun)) == 1, output
    assert f"retraining breast_cancer: cron {later} (UTC), on alarms; Prefect at" in output


def test_an_alarm_is_an_event_of_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = f"of_{os.getpid()}"
    monkeypatch.setenv("PREFECT_API_URL", prefect_url())  # Prefect itself has read its settings already
    with temporary_settings({PREFECT_API_URL: prefect_url()}):
        assert emit_alarm(ALARM, dataset, "drifted", monitor="drift of all rows", row="17")
    wanted = {"resource": {"id": [f"assay.dataset.{dataset}"]}}
    end = time.monotonic() + HANG_SECONDS
    while not (events := ask("/events/filter", filter=wanted)["events"]):
        assert time.monotonic() < end
        time.sleep(0.2)
    assert [(event["event"], event["payload"]["row"]) for event in events] == [("assay.monitor.alarm", "17")]
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert not emit_alarm(ALARM, dataset, "drifted")


def test_new_files_are_added_and_retrained_on_and_told_of(finished: Checkout) -> None:
    """A file that is put into the folder becomes a batch; one that cannot be used stays, and is said once."""
    rows, folder = patients(600), finished.root / "inbox"
    folder.mkdir()
    rows.loc[rows["ill"] == 1, ["a", "b"]] += 8
    rows[:400].to_csv(finished.root / "patients.csv", index=False)
    finished.assay("ingest", "patients.csv", *OPTIONS)
    with listener() as (url, posted):
        options = ("--dataset", "clinic", "--on-new-data", "inbox", "--notify", url)
        clock = finished.start("assay", "schedule", *options, PREFECT_API_URL=prefect_url(), **OFTEN)
        try:
            (folder / "half.csv.part").write_text("not yet")
            pd.DataFrame(np.zeros((3, 2)), columns=["a", "b"]).to_csv(folder / "bad.csv", index=False)
            rows[400:].to_csv(folder / "good.csv", index=False)
            wait_until(lambda: runs_of("clinic", "COMPLETED", "FAILED"), clock, pause=0.5)
            (run,) = runs_of("clinic")
        finally:
            clock.send_signal(signal.SIGTERM)
            output = clock.communicate()[0]
        refused, verdict = posted.get(timeout=0), posted.get(timeout=0)
    assert [batch.rows for batch in read_card(finished.root / "data/clinic").batches] == [400, 200], output
    assert refused["event"] == "assay.file.refused"
    assert refused["text"].startswith("clinic: bad.csv was not added: ")
    assert verdict["event"] == "assay.champion.promoted"
    assert verdict["before"] is None
    assert verdict["champion"].startswith("clinic:")
    assert posted.empty()
    assert run["name"].startswith("clinic 20")
    artifacts = {row["key"]: row for row in ask("/artifacts/filter", flow_runs={"id": {"any_": [run["id"]]}})}
    assert verdict["champion"] in artifacts["verdict-clinic"]["data"].replace("\\", "")
    assert '"candidate": "knn+none"' in artifacts["leaderboard-clinic"]["data"]
    lines = [row["message"] for row in ask("/logs/filter", logs={"flow_run_id": {"any_": [run["id"]]}})]
    assert any(line.startswith("good.csv: added as batch ") for line in lines)
    wait_until_none_works(finished.root)


@pytest.mark.long
def test_a_run_that_leaves_the_champion_to_a_person_waits_for_the_answer(finished: Checkout) -> None:
    """It waits without a process and without the lock, and neither it nor the next ones are in each other's way."""
    record = finished.root / "deployments/breast_cancer.json"
    record.unlink()
    finished.params(QUICK.replace("n_estimators: 25", "n_estimators: 26") + "gate: ask\n")
    former = {run["id"] for run in runs_of("breast_cancer", "PAUSED", "COMPLETED", "FAILED")}

    def new(*states: str) -> list[dict[str, Any]]:
        return [run for run in runs_of("breast_cancer", *states) if run["id"] not in former]

    clock = finished.start("assay", "schedule", "--interval", "5", PREFECT_API_URL=prefect_url(), **OFTEN)
    try:
        wait_until(partial(new, "PAUSED"), clock, pause=0.5)
        (run,) = new("PAUSED")

        def resume(**answer: Any) -> Any:
            with suppress(HTTPError):  # a busy server cannot write now and then, and says 503
                return ask(f"/flow_runs/{run['id']}/resume", run_input=answer)["status"]

        assert run["state"]["name"] == "Suspended"
        wait_until(partial(new, "COMPLETED"), clock, pause=0.5)  # the next tick
        with Project(finished.root).lock(waits=True):
            assert not record.exists()
        wait_until(lambda: resume(promote=True) == "REJECT", clock, pause=0.5)  # nobody's answer
        wait_until(lambda: resume(promote=True, name="Ada", why="seen") == "ACCEPT", clock, pause=0.5)
        wait_until(lambda: run["id"] in {each["id"] for each in new("COMPLETED", "FAILED")}, clock, pause=0.5)
    finally:
        clock.send_signal(signal.SIGTERM)
        output = clock.communicate()[0]
    champion = json.loads(record.read_text())
    assert champion["reason"] == "Ada said yes (seen); the first scorer of this dataset that is deployed", output
    artifacts = {row["key"]: row for row in ask("/artifacts/filter", flow_runs={"id": {"any_": [run["id"]]}})}
    assert (finished.root / ".assay/reports/breast_cancer.html").as_uri() in artifacts["report-breast-cancer"]["data"]
    assert "Traceback" not in output
    wait_until_none_works(finished.root)


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


def test_a_stage_that_takes_too_long_is_ended_and_not_tried_again(finished: Checkout) -> None:
    flow = finished.root / "flows/retrain.py"
    flow.write_text(flow.read_text().replace("STAGE_SECONDS = 2 * 24 * 3600.0", "STAGE_SECONDS = 4.0"))
    finished.params(LONG)
    told = finished.assay("run", code=1).stderr
    assert told.splitlines()[-1].startswith("assay: a stage took longer than 4 s (STAGE_SECONDS in flows/retrain.py)")
    (run,) = ended(EventLog(finished.root / ".assay" / "events.jsonl"))[-1:]
    assert (run["state"], run["reason"][:25]) == ("failed", "a stage took longer than ")
    assert told.count("Retr") == 0
    assert not is_training(finished)
    finished.params(QUICK)
    finished.assay("stage", "split")


@pytest.mark.long
def test_schedules_of_two_datasets_take_turns(finished: Checkout) -> None:
    patients(300).to_csv(finished.root / "patients.csv", index=False)
    finished.assay("ingest", "patients.csv", *OPTIONS)
    names = ("breast_cancer", "clinic")
    clocks = []
    try:
        for name in names:
            options = ("--interval", "5", "--dataset", name)
            clocks.append(finished.start("assay", "schedule", *options, PREFECT_API_URL=prefect_url(), **OFTEN))
        for name, clock in zip(names, clocks, strict=True):  # each takes the lock once before it serves
            wait_until(partial(runs_of, name, "SCHEDULED", "RUNNING"), clock, pause=0.5)
        with Project(finished.root).lock(waits=True):
            for name, clock in zip(names, clocks, strict=True):
                wait_until(partial(runs_of, name, "RUNNING"), clock, pause=0.5)
            earlier = {name: len(runs_of(name)) for name in names}
        for name, clock in zip(names, clocks, strict=True):
            wait_until(lambda name=name: len(runs_of(name)) > earlier[name], clock, pause=0.5)
    finally:
        for clock in clocks:
            clock.send_signal(signal.SIGTERM)
        outputs = [clock.communicate()[0] for clock in clocks]
    assert not any("another assay command" in output for output in outputs), outputs
    assert [event["state"] for event in ended(EventLog(finished.root / ".assay/events.jsonl"))][-1] == "completed"
    wait_until_none_works(finished.root)


@pytest.mark.long
def test_a_process_worker_runs_the_deployment_of_a_fresh_checkout(finished: Checkout, tmp_path: Path) -> None:
    """What prefect.yaml deploys brings the data back before it looks for them, and takes parameters."""
    (finished.root / "prefect.yaml").write_bytes((ROOT / "prefect.yaml").read_bytes())
    for command in (("add", "--all"), ("commit", "--quiet", "--message", "run")):
        assert finished.call(*GIT, *command).returncode == 0
    clone = Checkout(tmp_path / "clone")
    assert finished.call("git", "clone", "--quiet", ".", str(clone.root)).returncode == 0
    assert not (clone.root / "data").exists()
    server = {"PREFECT_API_URL": prefect_url()}
    pool = ("work-pool", "create", "local-process", "--type", "process")
    for arguments in (pool, ("--no-prompt", "deploy", "--all")):
        done = clone.call("prefect", *arguments, **server)
        assert done.returncode == 0, done.stdout + done.stderr
    worker = clone.start("prefect", "worker", "start", "--pool", "local-process", **server)
    try:
        with urlopen(f"{prefect_url()}/deployments/name/retrain/nightly") as answer:
            deployment = json.load(answer)["id"]
        parameters = {"dataset": "breast_cancer", "deploy": False}
        run = ask(f"/deployments/{deployment}/create_flow_run", parameters=parameters)["id"]
        ids = {"id": {"any_": [run]}, "state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}}
        wait_until(lambda: ask("/flow_runs/filter", flow_runs=ids), worker, pause=0.5)
    finally:
        worker.send_signal(signal.SIGTERM)
        output = worker.communicate()[0]
    (ended_run,) = ask("/flow_runs/filter", flow_runs=ids)
    assert ended_run["state_type"] == "COMPLETED", output
    assert ended_run["name"].startswith("breast_cancer 20")
    assert (clone.root / "data/breast_cancer").is_dir()
    assert list((clone.root / "work/package/breast_cancer").iterdir())
    wait_until_none_works(clone.root)


def test_a_bad_cron_expression_is_refused(finished: Checkout) -> None:
    assert "not a cron expression" in finished.assay("schedule", "--cron", "every day", code=2).stderr
    assert "either --cron" in finished.assay("schedule", code=2).stderr
    assert "is not a folder" in finished.assay("schedule", "--on-new-data", "nowhere", code=2).stderr
    refused = finished.assay("schedule", "--interval", "9", "--notify", "example.org", code=2).stderr
    assert "'example.org' is not an address that begins with http" in refused
