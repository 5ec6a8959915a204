"""OpenLineage events of real runs: in the file, at a backend, and where the backend is not there."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Checkout
from tests.openlineage_model import problems

from assay.errors import NoValidCandidateError
from assay.hashing import dvc_directory_md5
from assay.project.layout import Project
from assay.project.stages import STAGES
from assay.runs import run as runs

LOG = ".assay/openlineage.jsonl"
# By the job's name, the stage's in DVC.
JOBS = {verb: f"{verb}@breast_cancer" for verb, entry in STAGES.items() if not entry.cells} | {
    f"{verb}.{label}": f"{verb}@breast_cancer--{label}"
    for verb, entry in STAGES.items()
    if entry.cells
    for label in ("knn", "isolation_forest", "mcd")
}


def events_of(root: Path, since: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / LOG).read_text().splitlines()[since:]]


def short(event: dict[str, Any]) -> tuple[str, str]:
    return event["job"]["name"].removeprefix("breast_cancer."), event["eventType"]


def named(event: dict[str, Any], side: str, root: Path | None = None) -> dict[str, dict[str, Any]]:
    return {dataset["name"]: dataset for dataset in event[side]}


@pytest.fixture
def told(finished_once: Checkout) -> dict[tuple[str, str], dict[str, Any]]:
    return {short(event): event for event in events_of(finished_once.root)}


@pytest.fixture
def backend() -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """A server that keeps what it is sent."""
    received: list[tuple[str, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(201)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", received
    server.shutdown()
    thread.join()
    server.server_close()


def test_dvc_repro_tells_of_every_stage_once_and_of_no_run(finished_once: Checkout) -> None:
    *events, promoted = events_of(finished_once.root)
    assert short(promoted) == ("promote", "COMPLETE")  # by `assay run`, after it
    jobs = [short(event) for event in events]
    assert sorted(jobs) == sorted((job, state) for job in JOBS for state in ("START", "COMPLETE"))
    assert [state for _, state in jobs] == ["START", "COMPLETE"] * len(JOBS)
    assert not any("parent" in event["run"]["facets"] for event in events)
    for start, end in zip(events[::2], events[1::2], strict=True):
        assert start["run"]["runId"] == end["run"]["runId"]
        assert start["eventTime"] <= end["eventTime"]
        assert start["run"]["runId"][14] == "7"
    assert {event["job"]["namespace"] for event in events} == {"project"}


def test_events_are_valid(finished_once: Checkout) -> None:
    assert [problem for event in events_of(finished_once.root) for problem in problems(event)] == []


def test_what_a_stage_reads_is_what_another_wrote_in_the_same_version(
    finished_once: Checkout, told: dict[tuple[str, str], dict[str, Any]]
) -> None:
    root = finished_once.root
    written = {
        name: dataset["facets"]["version"]["datasetVersion"]
        for stage in JOBS
        for name, dataset in named(told[stage, "COMPLETE"], "outputs", root).items()
    }
    for stage in JOBS:
        for name, dataset in named(told[stage, "START"], "inputs", root).items():
            assert dataset["namespace"] == "project"
            version = dataset["facets"]["version"]["datasetVersion"]
            if name.startswith("work/"):
                assert written[name] == version, (stage, name)
            if (root / name).is_dir():
                assert version == dvc_directory_md5(root / name)


def test_versions_are_those_of_dvc(finished_once: Checkout, told: dict[tuple[str, str], dict[str, Any]]) -> None:
    import yaml

    lock = yaml.safe_load((finished_once.root / "dvc.lock").read_text())["stages"]
    compared = 0
    for stage, job in JOBS.items():
        inputs = named(told[stage, "COMPLETE"], "inputs", finished_once.root)
        for dependency in lock[job]["deps"]:
            if dependency["path"] in inputs:
                facet = inputs[dependency["path"]]["facets"]["version"]
                assert facet["datasetVersion"] == dependency["md5"], dependency["path"]
                compared += 1
    assert compared > 10


def test_no_stage_tells_of_rows_that_it_may_not_read(
    finished_once: Checkout, told: dict[tuple[str, str], dict[str, Any]]
) -> None:
    for stage in ("train.knn", "calibrate.knn", "select"):
        inputs = named(told[stage, "COMPLETE"], "inputs", finished_once.root)
        assert not any("split/test" in name for name in inputs)
    assert not any("calibration" in name for name in named(told["select", "START"], "inputs", finished_once.root))


def test_training_tells_how_contaminated_each_level_is(
    finished_once: Checkout, told: dict[tuple[str, str], dict[str, Any]]
) -> None:
    root = finished_once.root
    plan = json.loads((root / "work/breast_cancer/contaminate/plan.json").read_text())
    for event, side in ((told["contaminate", "COMPLETE"], "outputs"), (told["train.knn", "START"], "inputs")):
        datasets = named(event, side, root)
        for level in plan["levels"]:
            facet = datasets[f"work/breast_cancer/contaminate/level-{level['rho']:g}"]["facets"]["assay_contamination"]
            assert facet["injectedRho"] == level["injected_rho"]
            assert facet["nInjected"] == level["n_injected"]
            assert (facet["source"], facet["seed"]) == (plan["source"], plan["seed"])
            assert (facet["naturalRhoKnown"], facet["naturalRho"]) == (True, 0.0)


def test_rows_are_told_with_schema_and_metrics(
    finished_once: Checkout, told: dict[tuple[str, str], dict[str, Any]]
) -> None:
    import numpy as np

    root, name = finished_once.root, "work/breast_cancer/split/train"
    dataset = named(told["train.mcd", "START"], "inputs", root)[name]
    features = np.load(root / name / "features.npy").astype(np.float64)
    columns = json.loads((root / "data/breast_cancer/card.json").read_text())["columns"]
    metrics = dataset["inputFacets"]["dataQualityMetrics"]
    assert metrics["rowCount"] == len(features)
    assert list(metrics["columnMetrics"]) == sorted(columns)
    first = metrics["columnMetrics"][columns[0]]
    assert (first["min"], first["max"]) == (features[:, 0].min(), features[:, 0].max())
    assert first["sum"] == pytest.approx(features[:, 0].sum())
    assert first["nullCount"] == 0
    fields = [field["name"] for field in dataset["facets"]["schema"]["fields"]]
    assert fields[: len(columns)] == columns
    assert {"row_id", "label", "fingerprint"} <= set(fields)


def test_a_fresh_stage_tells_nothing(finished: Checkout) -> None:
    before = len(events_of(finished.root))
    finished.assay("stage", "select")
    assert len(events_of(finished.root)) == before


def test_a_stage_that_fails_says_why(finished: Checkout) -> None:
    before = len(events_of(finished.root))
    params = finished.root / "params.yaml"
    params.write_text(params.read_text().replace("eps: 0.05", "eps: 0.0001"))
    project = Project(finished.root)
    run = runs.open_run(project, "tests")
    runs.execute(project, "select")
    with pytest.raises(NoValidCandidateError) as caught:
        runs.execute(project, "package")
    runs.close_run(project, run, [], caught.value)
    events = events_of(finished.root, before)
    assert [problem for event in events for problem in problems(event)] == []
    assert [short(event) for event in events] == [
        ("run", "START"),
        ("select", "START"),
        ("select", "COMPLETE"),
        ("package", "START"),
        ("package", "FAIL"),
        ("run", "FAIL"),
    ]
    assert {event["run"]["facets"]["parent"]["run"]["runId"] for event in events[1:-1]} == {run}
    assert events[0]["run"]["runId"] == events[-1]["run"]["runId"] == run == project.events.last("run-ended")["run"]
    for event in events[-2:]:
        assert "no valid candidate" in event["run"]["facets"]["errorMessage"]["message"]
        assert event["outputs"] == []
    (data,) = named(events[0], "inputs", finished.root)
    assert data == "data/breast_cancer"


def test_a_backend_gets_what_the_file_gets(
    finished: Checkout, backend: tuple[str, list[tuple[str, dict[str, Any]]]]
) -> None:
    url, received = backend
    before = len(events_of(finished.root))
    params = finished.root / "params.yaml"
    params.write_text(params.read_text().replace("eps: 0.05", "eps: 0.06"))
    finished.assay("stage", "select", OPENLINEAGE_URL=url, OPENLINEAGE_NAMESPACE="metals")
    written = events_of(finished.root, before)
    assert [path for path, _ in received] == ["/api/v1/lineage"] * 2
    for _, event in received:
        added = event["run"]["facets"].pop("tags")  # by the client, about itself
        assert [tag["key"] for tag in added["tags"]] == ["openlineage_client_version"]
    assert [event for _, event in received] == written
    assert {event["job"]["namespace"] for event in written} == {"metals"}


def test_an_unreachable_backend_costs_a_line_and_no_event(finished: Checkout) -> None:
    before = len(events_of(finished.root))
    params = finished.root / "params.yaml"
    params.write_text(params.read_text().replace("eps: 0.05", "eps: 0.06"))
    settings = {"transport": {"type": "http", "url": "http://127.0.0.1:9", "retry": {"total": 0}}}
    (finished.root / "openlineage.yml").write_text(json.dumps(settings))
    done = finished.assay("stage", "select")
    assert len([line for line in done.stderr.splitlines() if "OpenLineage" in line]) == 1
    assert [short(event) for event in events_of(finished.root, before)] == [("select", "START"), ("select", "COMPLETE")]


def test_what_validation_asked_of_the_source_and_of_each_level(
    finished_once: Checkout, told: dict[tuple[str, str], dict[str, Any]]
) -> None:
    summary = json.loads((finished_once.root / "work/breast_cancer/validate/summary.json").read_text())["batches"]
    inputs = named(told["validate", "COMPLETE"], "inputs")
    by_name = {
        "data/breast_cancer": [
            check for batch in summary if not batch.startswith("level-") for check in summary[batch]
        ],
        "work/breast_cancer/contaminate/level-0.1": summary["level-0.1"],
    }
    for name, checks in by_name.items():
        assertions = inputs[name]["inputFacets"]["dataQualityAssertions"]["assertions"]
        assert sorted(each["assertion"] for each in assertions) == sorted(check["expectation"] for check in checks)
        assert all(each["success"] for each in assertions)
    start = named(told["validate", "START"], "inputs")
    assert not any("dataQualityAssertions" in dataset["inputFacets"] for dataset in start.values())


def test_a_validation_that_fails_says_which_expectation_did(finished: Checkout) -> None:
    suite = finished.root / "expectations/breast_cancer.json"
    content = json.loads(suite.read_text())
    bounds = next(each for each in content["expectations"] if each["type"] == "expect_column_values_to_be_between")
    bounds["kwargs"] |= {"min_value": 10**6, "max_value": 10**6 + 1}
    suite.write_text(json.dumps(content))
    before = len(events_of(finished.root))
    finished.assay("stage", "validate", code=3)
    (_, failed) = events_of(finished.root, before)
    assert problems(failed) == []
    assertions = named(failed, "inputs")["data/breast_cancer"]["inputFacets"]["dataQualityAssertions"]["assertions"]
    wrong = [each for each in assertions if not each["success"]]
    assert bounds["kwargs"]["column"] in {each["column"] for each in wrong}


def test_an_ingest_and_a_promotion_are_events_with_the_commit(finished: Checkout) -> None:
    for command in (("remote", "add", "origin", "https://user:secret@example.org/metals/plant.git"), ("add", "--all")):
        assert finished.call("git", *command).returncode == 0
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    assert finished.call("git", *who, "commit", "--quiet", "--message", "run").returncode == 0
    commit = finished.call("git", "rev-parse", "HEAD").stdout.strip()
    before = len(events_of(finished.root))
    (finished.root / "new.csv").write_text("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(40)))
    finished.assay("ingest", "new.csv", "--name", "new")
    finished.assay("promote", "breast_cancer", "--why", "once more")
    ingested, promoted = events_of(finished.root, before)
    assert [problem for event in (ingested, promoted) for problem in problems(event)] == []
    for event in (ingested, promoted):
        assert event["job"]["namespace"] == "example.org/metals/plant"
        location = event["job"]["facets"]["sourceCodeLocation"]
        assert (location["url"], location["version"]) == ("https://example.org/metals/plant", commit)
        assert all(dataset["namespace"] == "example.org/metals/plant" for dataset in event["outputs"])
    assert (ingested["job"]["name"], promoted["job"]["name"]) == ("new.ingest", "breast_cancer.promote")
    assert named(ingested, "inputs").keys() == {"new.csv"}
    version = named(ingested, "outputs")["data/new"]["facets"]["version"]["datasetVersion"]
    assert version == dvc_directory_md5(finished.root / "data/new")
    outputs = named(promoted, "outputs")
    assert outputs["deployments/breast_cancer.json"]["facets"]["documentation"]["description"] == "once more"
    assert any(name.startswith("scorers/breast_cancer/") for name in outputs)
    assert "secret" not in (finished.root / LOG).read_text()
    assert str(finished.root) not in json.dumps([ingested, promoted])
