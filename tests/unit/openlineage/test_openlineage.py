"""OpenLineage events of jobs on made rows: states, contamination, metrics, and what is never told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from jsonschema import Draft202012Validator
from tests.conftest import QUICK, ROOT
from tests.openlineage_model import contamination_schema, problems

from assay.data.card import Card
from assay.data.dataset import Dataset, RowSet, write_dataset
from assay.data.modalities.image import Image
from assay.data.modalities.tabular import TABULAR
from assay.openlineage.client import emit_run_ended, emit_run_started, new_run_id, stage_events
from assay.openlineage.datasets import SCHEMA_ID, contamination, input_datasets
from assay.openlineage.events import Job
from assay.openlineage.naming import place_of
from assay.project.layout import Project

LEVEL = {
    "rho": 0.1,
    "n_train": 100,
    "n_injected": 10,
    "injected_rho": 0.1,
    "natural_anomalies_known": 9,
    "natural_rows_unknown": 0,
}


def plan(**changed: Any) -> dict[str, Any]:
    return {"source": "swap", "seed": 3, "n_labelled": 2, "levels": [{**LEVEL, **changed}]}


def make_project(root: Path, *, image_shape: tuple[int, int] | None = None, bad: bool = False) -> Project:
    """A project with a dataset of 6 rows and 4 columns, nothing run yet."""
    features = np.arange(24, dtype=np.float32).reshape(6, 4)
    if bad:
        features[0], features[:, 3] = [np.nan, np.inf, 1, np.nan], np.nan
    rows = pd.DataFrame({"row_id": list("abcdef"), "label": np.zeros(6, np.int8), "group": "", "time": ""})
    columns = ("one", "two", "three", "four")
    card = Card("metals", TABULAR if image_shape is None else Image(image_shape), columns, "made")
    write_dataset(root / "data/metals", Dataset(card, RowSet(features, rows)))
    shutil.copyfile(ROOT / "dvc.yaml", root / "dvc.yaml")
    (root / "params.yaml").write_text(QUICK.replace("breast_cancer", "metals"))
    return Project(root)


def told(project: Project) -> list[dict[str, Any]]:
    path = project.state / "openlineage.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    assert [problem for event in events for problem in problems(event)] == []
    return events


def states(project: Project) -> list[tuple[str, str]]:
    return [(event["job"]["name"], event["eventType"]) for event in told(project)]


def fail_at_work(project: Project, stage: str, error: BaseException) -> None:
    with stage_events(project, stage) as begin:
        begin()
        raise error


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of the machine that runs the tests."""
    for name in ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE_DISABLED", "OPENLINEAGE_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize(("error", "state"), [(ValueError("bad ore"), "FAIL"), (KeyboardInterrupt(), "ABORT")])
def test_a_run_and_its_stage_end_as_they_were_ended(tmp_path: Path, error: BaseException, state: str) -> None:
    project, run = make_project(tmp_path), new_run_id()
    emit_run_started(project, run)
    with pytest.raises(type(error)):
        fail_at_work(project, "contaminate", error)
    emit_run_ended(project, run, error)
    names = [("metals.run", "START"), ("metals.contaminate", "START"), ("metals.contaminate", state)]
    assert states(project) == [*names, ("metals.run", state)]
    events = told(project)
    assert events[1]["run"]["facets"]["parent"]["run"]["runId"] == run
    assert events[1]["run"]["facets"]["parent"]["job"]["name"] == "metals.run"
    message = "bad ore" if state == "FAIL" else "KeyboardInterrupt"
    assert events[2]["run"]["facets"]["errorMessage"]["message"] == message
    event = Job(project, "run", run).event("FAIL", OSError(f"{project.root}/work/x cannot be read"))
    assert event["run"]["facets"]["errorMessage"]["message"] == "work/x cannot be read"


def test_a_stage_after_its_run_has_no_parent(tmp_path: Path) -> None:
    project, run = make_project(tmp_path), new_run_id()
    emit_run_started(project, run)
    emit_run_ended(project, run, RuntimeError())
    with pytest.raises(RuntimeError), stage_events(project, "split"):
        raise RuntimeError
    events = told(project)[2:]
    assert [event["eventType"] for event in events] == ["START", "FAIL"]
    assert not any("parent" in event["run"]["facets"] for event in events)


def test_nothing_is_told_of_a_stage_that_never_begins(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    with stage_events(project, "split"):
        pass
    assert told(project) == []


def test_disabled_tells_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "True")
    project = make_project(tmp_path)
    emit_run_started(project, new_run_id())
    assert told(project) == []


def test_a_problem_with_telling_does_not_stop_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = make_project(tmp_path)
    (project.data / "features.npy").write_bytes(b"not an array")
    emit_run_started(project, new_run_id())
    assert capsys.readouterr().err.count("OpenLineage: an event could not be written") == 1


def test_the_password_in_the_address_of_git_s_remote_stays_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(tmp_path)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    remote = ["git", "-C", str(tmp_path), "remote", "add", "origin", "https://user:secret@example.org/metals.git"]
    subprocess.run(remote, check=True)
    monkeypatch.chdir(tmp_path)
    emit_run_started(project, new_run_id())
    (event,) = told(project)
    assert event["job"]["namespace"] == "example.org/metals"
    assert "secret" not in (project.state / "openlineage.jsonl").read_text()


def test_natural_rho_is_told_only_where_it_is_known() -> None:
    known, unknown = contamination(plan(), "level-0.1"), contamination(plan(natural_rows_unknown=1), "level-0.1")
    assert (known["naturalRhoKnown"], known["naturalRho"]) == (True, 0.1)
    assert (unknown["naturalRhoKnown"], "naturalRho" in unknown) == (False, False)
    assert {name: known[name] for name in ("injectedRho", "nInjected", "nLabelled", "source", "seed")} == {
        **{"injectedRho": 0.1, "nInjected": 10, "nLabelled": 2, "source": "swap", "seed": 3}
    }


def test_the_schema_of_the_facet_is_one_and_holds_known_and_unknown_apart(tmp_path: Path) -> None:
    schema = contamination_schema()
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == SCHEMA_ID
    project = make_project(tmp_path)
    emit_run_started(project, new_run_id())
    (event,) = told(project)
    own = {
        "_producer": event["producer"],
        "_schemaURL": f"{SCHEMA_ID}#/$defs/AssayContaminationDatasetFacet",
        "injectedRho": 0.1,
        "nInjected": 10,
        "nTrain": 100,
        "nLabelled": 0,
        "naturalRhoKnown": False,
        "naturalAnomaliesKnown": 0,
        "naturalRowsUnknown": 90,
        "source": "pool",
        "seed": 0,
    }
    assert problems({**event, "job": {**event["job"], "facets": {"assay_contamination": own}}}) == []
    for wrong in ({"naturalRho": 0.0}, {"naturalRhoKnown": True}, {"injectedRho": 1.5}, {"seed": "0"}):
        spoilt = {**event["job"], "facets": {"assay_contamination": own | wrong}}
        assert problems({**event, "job": spoilt}), wrong


def test_what_is_not_finite_is_counted_and_never_told_as_a_number(tmp_path: Path) -> None:
    (dataset,) = input_datasets(make_project(tmp_path, bad=True), "run")
    columns = dataset["inputFacets"]["dataQualityMetrics"]["columnMetrics"]
    assert columns["one"] == {"nullCount": 1, "count": 6, "sum": 60.0, "min": 4.0, "max": 20.0}
    assert columns["two"] == {"nullCount": 0, "count": 6, "sum": 65.0, "min": 5.0, "max": 21.0}
    assert columns["four"] == {"nullCount": 6, "count": 6, "sum": 0.0}


def test_images_are_one_field(tmp_path: Path) -> None:
    project = make_project(tmp_path, image_shape=(2, 2))
    emit_run_started(project, new_run_id())
    (event,) = told(project)
    (dataset,) = event["inputs"]
    assert dataset["name"] == "data/metals"
    first = dataset["facets"]["schema"]["fields"][0]
    assert (first["name"], first["type"]) == ("features", "float64[2,2]")
    assert dataset["inputFacets"]["dataQualityMetrics"]["columnMetrics"] == {}
    assert dataset["inputFacets"]["dataQualityMetrics"]["rowCount"] == 6


def test_ids_of_runs_are_those_of_the_standard_and_sort_by_time() -> None:
    before = time.time_ns() // 10**6
    ids = [uuid.UUID(new_run_id()) for _ in range(1000)]
    after = time.time_ns() // 10**6
    assert {(made.version, made.variant) for made in ids} == {(7, uuid.RFC_4122)}
    assert len(set(ids)) == 1000
    times = [made.int >> 80 for made in ids]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= after


def test_the_client_is_imported_only_for_a_backend(tmp_path: Path) -> None:
    make_project(tmp_path)
    code = """\
import sys
from pathlib import Path
from assay.openlineage import client
from assay.project.layout import Project
client.emit_run_started(Project(Path.cwd()), client.new_run_id())
print("openlineage.client" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    for backend, is_imported in (({}, "False"), ({"OPENLINEAGE_URL": "http://127.0.0.1:9"}, "True")):
        environment = {**os.environ, **backend}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == is_imported
    assert len(told(Project(tmp_path))) == 2


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://user:secret@example.org/team/plant.git", "example.org/team/plant"),
        ("https://token@example.org:8443/plant/", "example.org:8443/plant"),
        ("git@example.org:team/plant.git", "example.org/team/plant"),
        ("ssh://git@example.org:22/team/plant.git?x=secret#y", "example.org:22/team/plant"),
        ("example.org:plant", "example.org/plant"),
        ("/srv/git/plant.git", "plant"),
        ("file:///srv/git/plant.git", "plant"),
        ("../plant", "plant"),
        ("https://user:sec/ret@example.org/plant", ""),
        ("https://user:sec#ret@example.org/plant", ""),
        ("https://user:12?ret@example.org/plant", ""),
        ("https://us/er:secret@example.org/plant", ""),
        ("https://[secret@example.org/plant", ""),
    ],
)
def test_a_remote_is_named_by_host_and_path(url: str, place: str) -> None:
    assert place_of(url) == place


def test_the_file_of_events_and_the_one_before_it_are_all_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assay.openlineage.events.MOST_KEPT", 5_000)
    project = make_project(tmp_path)
    runs = [new_run_id() for _ in range(20)]
    for run in runs:
        emit_run_started(project, run)
        emit_run_ended(project, run, RuntimeError())
    kept = sorted(project.state.glob("openlineage*"))
    assert [path.name for path in kept] == ["openlineage.former.jsonl", "openlineage.jsonl"]
    assert all(path.stat().st_size < 10_000 for path in kept)
    events = [json.loads(line)["run"]["runId"] for path in kept for line in path.read_text().splitlines()]
    assert events == [run for run in runs for _ in range(2)][-len(events) :]
    assert len(events) > 2
