"""What a server keeps when it is asked to: labels that people give, and the rows that it scored."""

from __future__ import annotations

import csv
import io
import json
import logging
import resource
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from tests.scorers import COLUMNS, made_scorer
from tests.serving import running
from tests.unit.service.conftest import Serve

from assay.data.seen_labels import SEEN_COLUMNS, append_seen_labels, read_seen_labels, seen_labels_path
from assay.errors import DataError, RequestError
from assay.eventlog import EventLog
from assay.scorer.loading import load_scorer
from assay.scorer.scorer import Scorer
from assay.service.limits import SERVICE_LIMITS
from assay.service.recording import Recorder
from assay.service.requests import Question
from assay.service.versions import Plan, Served

EXTRA = (("id", "patient"), ("label", "ill"), ("time", "when"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_scorer(tmp_path_factory.mktemp("scorers"), "made", 1)


@pytest.fixture(scope="module")
def made(folder: Path) -> Scorer:
    return load_scorer(folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def client(folder: Path, made: Scorer, root: Path) -> Iterator[httpx.Client]:
    served = Served(str(folder), made.statement.id, extra=EXTRA)
    plan = Plan((served,), project=str(root), record=str(root / "kept"))
    with running(plan, root / "log") as server, server.client() as client:
        yield client


def test_labels_are_kept_with_who_and_when_the_latest_one_counts(client: httpx.Client, root: Path) -> None:
    for path, answers in (("/feedback", [{"id": "a, 1", "label": 0}, {"id": 7, "label": 1}]),) * 2 + (
        ("/v1/made/feedback", [{"id": "a, 1", "label": 1}]),
    ):
        response = client.post(path, json={"who": "Müller", "answers": answers})
        assert (response.status_code, response.json()) == (200, {"kept": len(answers)})
    file = seen_labels_path(root, "made")
    header, *lines = csv.reader(io.StringIO(file.read_text()))
    assert tuple(header) == SEEN_COLUMNS
    assert len(lines) == 5
    assert {(line[2], line[4]) for line in lines} == {("Müller", "1")}
    assert all(line[3].endswith("+00:00") for line in lines)
    assert read_seen_labels(file) == {"a, 1": 1, "7": 1}


def test_a_spreadsheet_runs_nothing_that_a_client_sent(tmp_path: Path) -> None:
    path = seen_labels_path(tmp_path, "made")
    ids = ["=1+1", "-7", "'=x", "'plain", "a=b", "@x"]
    append_seen_labels(path, [(row_id, 1) for row_id in ids], "+who")
    lines = list(csv.reader(io.StringIO(path.read_text())))[1:]
    assert [line[0] for line in lines] == ["'=1+1", "'-7", "''=x", "'plain", "a=b", "'@x"]
    assert {line[2] for line in lines} == {"'+who"}
    assert read_seen_labels(path) == dict.fromkeys(ids, 1)


BAD: dict[str, tuple[Any, str]] = {
    "no json": (b"{", "not JSON"),
    "a list": ([], "must have who and a list of answers"),
    "no who": ({"answers": []}, "must have who"),
    "more": ({"who": "a", "answers": [], "why": "b"}, "nothing else"),
    "empty who": ({"who": " ", "answers": []}, "who is ' '"),
    "no id": ({"who": "a", "answers": [{"label": 1}]}, "answer 0 must have id and label"),
    "label": ({"who": "a", "answers": [{"id": "x", "label": 2}]}, "the label is 2; give 0"),
    "true": ({"who": "a", "answers": [{"id": "x", "label": True}]}, "the label is True"),
    "id": ({"who": "a", "answers": [{"id": None, "label": 1}]}, "the id of answer 0 is None"),
    "line break": ({"who": "a", "answers": [{"id": "x\ny", "label": 1}]}, "line break"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_feedback_is_explained_and_nothing_is_kept(client: httpx.Client, root: Path, name: str) -> None:
    body, words = BAD[name]
    before = read_seen_labels(seen_labels_path(root, "made"))
    response = client.post("/feedback", content=body if isinstance(body, bytes) else json.dumps(body).encode())
    assert response.status_code == 400
    assert words in response.json()["detail"]
    assert read_seen_labels(seen_labels_path(root, "made")) == before


def test_too_much_feedback_is_refused(client: httpx.Client) -> None:
    answers = [{"id": "x" * 100, "label": 1}] * 1000
    response = client.post("/feedback", json={"who": "a", "answers": answers})
    assert response.status_code == 413
    assert "send fewer labels" in response.json()["detail"]


def test_a_server_without_a_project_keeps_no_feedback(scorer: Scorer, serving: Serve) -> None:
    with serving(scorer, SERVICE_LIMITS) as (client, _):
        response = client.post("/feedback", json={"who": "a", "answers": []})
    assert response.status_code == 404
    assert "keeps no feedback" in response.json()["detail"]


def test_part_of_a_line_is_removed_and_a_full_file_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = seen_labels_path(tmp_path, "made")
    append_seen_labels(path, [("a", 1)], "b")
    with path.open("ab") as file:
        file.write(b"c,1,b")
    append_seen_labels(path, [("d", 0)], "b")
    assert read_seen_labels(path) == {"a": 1, "d": 0}
    path.write_bytes(path.read_bytes()[:-1])  # as an editor may leave it
    append_seen_labels(path, [("f", 1)], "b")
    assert read_seen_labels(path) == {"a": 1, "d": 0, "f": 1}
    path.write_bytes(path.read_bytes()[:-3])
    append_seen_labels(path, [("g", 1)], "b")
    assert read_seen_labels(path) == {"a": 1, "d": 0, "g": 1}
    monkeypatch.setattr("assay.data.seen_labels.MOST_BYTES", path.stat().st_size)
    before = path.read_bytes()
    with pytest.raises(RequestError, match="is full"):
        append_seen_labels(path, [("e", 0)], "b")
    assert path.read_bytes() == before
    path.write_text("row_id,label\na,1\n")
    with pytest.raises(DataError, match="line 2 is not"):
        read_seen_labels(path)


def test_every_scored_row_is_recorded_as_the_dataset_has_it(client: httpx.Client, made: Scorer, root: Path) -> None:
    rows = np.random.default_rng(3).normal(size=(5, 3))
    path = root / "kept" / f"made-{made.version}.csv"
    ids = ["i", "j", "k", "l", "m"]
    backwards = {"columns": list(COLUMNS[::-1]), "rows": rows[:, ::-1].tolist(), "ids": ids}
    assert client.post("/score", json=backwards).status_code == 200
    assert client.post("/score", json={"columns": ["a"], "rows": [[1]]}).status_code == 400
    table = pa.table(dict(zip(COLUMNS, rows.T, strict=True)))
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    assert client.post("/score", content=stream.getvalue()).status_code == 200
    header, *lines = csv.reader(io.StringIO(path.read_text()))
    assert header == [*COLUMNS, "patient", "ill", "when"]
    np.testing.assert_array_equal(np.array([line[:3] for line in lines], dtype=float), np.concatenate([rows, rows]))
    assert [line[3] for line in lines[:5]] == ids
    assert len({line[3] for line in lines}) == 10
    assert {line[4] for line in lines} == {""}
    assert all(line[5].endswith("+00:00") for line in lines)


def test_a_sample_does_not_depend_on_the_rows(made: Scorer, tmp_path: Path) -> None:
    """The same places are kept whatever the rows hold, about as many as asked for."""
    rng = np.random.default_rng(0)
    kept = []
    for shift in (0.0, 5.0):
        recorder = Recorder(tmp_path / str(shift), 0.3, (("id", "id"),))
        for start in range(0, 1000, 10):
            rows = rng.normal(size=(10, 3)) + shift
            recorder.keep(made, Question(rows, ids=[str(number) for number in range(start, start + 10)]))
        with (tmp_path / str(shift) / f"made-{made.version}.csv").open() as stream:
            kept.append([line[3] for line in csv.reader(stream)][1:])
    assert kept[0] == kept[1]
    assert 250 < len(kept[0]) < 350


def test_an_id_that_says_that_there_is_none_is_recorded_as_one_that_is_made_up(made: Scorer, tmp_path: Path) -> None:
    Recorder(tmp_path, 1.0, (("id", "id"),)).keep(made, Question(np.zeros((3, 3)), ids=["", "NA", "a"]))
    (path,) = tmp_path.iterdir()
    first, second, third = (line.rpartition(",")[2] for line in path.read_text().splitlines()[1:])
    assert third == "a"
    assert first.startswith("served-")
    assert second.startswith("served-")
    assert first != second


def test_missing_values_and_categories_are_recorded(made: Scorer, tmp_path: Path) -> None:
    asked = Question(np.array([[1.0, np.nan, 2.0]]), categories=["north"])
    with_category = replace(made, head={**made.head, "columns": ["a", "b", "c"]})
    Recorder(tmp_path, 1.0, ()).keep(with_category, asked)
    (path,) = tmp_path.iterdir()
    assert path.read_text().splitlines()[1] == "1.0,,2.0,north"


@pytest.mark.parametrize("kind", ["labels", "rows", "events"])
def test_what_a_full_disk_refuses_is_not_half_there(made: Scorer, tmp_path: Path, kind: str) -> None:
    log, recorder, labels = (
        EventLog(tmp_path / "log.jsonl"),
        Recorder(tmp_path, 1.0, (("id", "id"),)),
        tmp_path / "l.csv",
    )

    def append(n: int) -> None:
        ids = [f"row {number}" for number in range(n)]
        if kind == "labels":
            append_seen_labels(labels, [(each, 1) for each in ids], "b")
        elif kind == "rows":
            recorder.keep(made, Question(np.zeros((n, 3)), ids=ids))
        else:
            log.append("many", ids=ids)

    append(1)
    path = {"labels": labels, "rows": tmp_path / f"made-{made.version}.csv", "events": log.path}[kind]
    before = path.read_bytes()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))
    try:
        with suppress(OSError):
            append(20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert path.read_bytes() == before
    append(20)
    assert path.read_bytes().startswith(before)
    assert b"row 19" in path.read_bytes()


@pytest.mark.parametrize("cut", ["1.0,2", "1.0," + 5000 * "2", ""])
def test_part_of_a_recorded_row_is_removed(made: Scorer, tmp_path: Path, cut: str) -> None:
    recorder, asked = Recorder(tmp_path, 1.0, ()), Question(np.array([[1.0, 2.0, 3.0]]))
    recorder.keep(made, asked)
    (path,) = tmp_path.iterdir()
    with path.open("a") as file:
        file.write(cut)
    recorder.keep(made, asked)
    assert path.read_text().splitlines() == [",".join(COLUMNS), "1.0,2.0,3.0", "1.0,2.0,3.0"]
    path.write_text("a,b")
    recorder.keep(made, asked)
    assert path.read_text().splitlines() == [",".join(COLUMNS), "1.0,2.0,3.0"]


def test_an_answer_does_not_fail_for_want_of_the_record(
    made: Scorer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    recorder = Recorder(tmp_path / "file", 1.0, ())
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            recorder.keep(made, Question(np.zeros((1, 3))))
    assert len(caplog.records) == 1
    assert "rows are not recorded" in caplog.text
