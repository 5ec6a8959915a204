"""A server of champions: promotions while clients send, champions that cannot be loaded, several datasets, its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.scorers import COLUMNS, made_scorer
from tests.serving import Server, running
from tests.unit.service.conftest import Serve
from tests.waiting import HANG_SECONDS

from assay.scorer.loading import load_scorer
from assay.scorer.scorer import Scorer
from assay.scorer.statement import write_statement
from assay.service.limits import SERVICE_LIMITS
from assay.service.projects import PROJECT
from assay.service.versions import Plan, Served

ROWS = np.random.default_rng(5).normal(size=(4, len(COLUMNS)))
BODY = {"columns": list(COLUMNS), "rows": ROWS.tolist()}


@dataclass
class Project:
    """Two scorers of one dataset, and the record of its champion."""

    root: Path
    scorers: list[Scorer]

    @property
    def record(self) -> Path:
        return self.root / "deployments" / "made.json"

    def promote(self, number: int) -> None:
        scorer = self.scorers[number]
        new = self.root / "new.json"
        new.write_text(json.dumps({"version": scorer.version, "statement": scorer.statement.id}))
        new.replace(self.record)

    def served(self) -> Served:
        folder = self.root / "scorers" / "made" / self.scorers[0].version
        store = str(folder.parent / "{version}")
        return Served(str(folder), self.scorers[0].statement.id, str(self.record), (store,))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    scorers = [load_scorer(made_scorer(tmp_path / "scorers", "made", seed)) for seed in (1, 2)]
    (tmp_path / "deployments").mkdir()
    project = Project(tmp_path, scorers)
    project.promote(0)
    return project


def version_of(client: httpx.Client) -> str:
    return str(client.get("/version").json()["model_version"])


def test_every_answer_is_of_one_version_while_champions_change(project: Project) -> None:
    expected = {each.version: each.decision_function(ROWS).tolist() for each in project.scorers}
    statements = {each.version: each.statement.id for each in project.scorers}
    assert len({str(scores) for scores in expected.values()}) == 2
    ended, latest = threading.Event(), dict.fromkeys(range(8), "")

    def send(server: Server, number: int) -> None:
        with server.client() as client:
            while not ended.is_set():
                response = client.post("/score", json=BODY)
                assert response.status_code == 200
                answer = response.json()
                version = answer["model_version"]
                assert [row["score"] for row in answer["results"]] == expected[version]
                assert answer["statement"] == statements[version]
                latest[number] = version

    with (
        running(Plan((project.served(),)), project.root / "log") as server,
        ThreadPoolExecutor(8) as pool,
        server.client() as client,
    ):
        sending = [pool.submit(send, server, number) for number in latest]
        try:
            for number in (1, 0, 1, 0):
                project.promote(number)
                wanted = {project.scorers[number].version}
                server.until(lambda wanted=wanted: {*latest.values()} == wanted or any(s.done() for s in sending))
        finally:
            ended.set()
        for each in sending:
            each.result()
        metrics = client.get("/metrics").text
        for version, answering in zip(expected, ("1.0", "0.0"), strict=True):
            assert f'assay_answering{{dataset="made",version="{version}"}} {answering}' in metrics
            assert f'assay_requests_total{{dataset="made",status="200",version="{version}"}}' in metrics


def test_a_champion_that_cannot_be_loaded_leaves_the_old_one(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROJECT, str(project.root))
    first, second = project.scorers
    folder = project.root / "scorers" / "made" / second.version
    whole = (folder / "detector.safetensors").read_bytes()
    (folder / "detector.safetensors").write_bytes(b"")
    with running(Plan((project.served(),)), project.root / "log") as server, server.client() as client:

        def problem() -> str:
            return str(client.get("/info").json()["following"]["problem"])

        assert problem() == "None"
        project.promote(1)
        server.until(lambda: "detector.safetensors was changed" in problem())
        assert f"scorers/made/{second.version}/detector.safetensors" in problem()
        assert str(project.root) not in problem()
        assert str(project.root) in server.log.read_text()
        assert version_of(client) == first.version
        assert client.post("/score", json=BODY).json()["model_version"] == first.version
        assert 'assay_champion_not_loaded{dataset="made"} 1.0' in client.get("/metrics").text
        (folder / "detector.safetensors").write_bytes(whole)
        server.until(lambda: version_of(client) == second.version)
        assert problem() == "None"
        project.record.write_text("{")
        server.until(lambda: "not valid JSON" in problem())
        project.record.write_text(json.dumps({"version": "../../etc"}))
        server.until(lambda: "not a deployment record" in problem())
        project.record.unlink()
        server.until(lambda: "No such file" in problem())
        assert version_of(client) == second.version
        lines = server.log.read_text().splitlines()
    assert sum("detector.safetensors was changed" in line for line in lines) == 1


def test_a_scorer_without_a_record_stays(project: Project) -> None:
    fixed = Served(project.served().folder, project.scorers[0].statement.id)
    with running(Plan((fixed,)), project.root / "log") as server, server.client() as client:
        assert client.get("/info").json()["following"] is None
        assert version_of(client) == project.scorers[0].version


def test_several_datasets_in_one_server(project: Project, tmp_path: Path) -> None:
    other = load_scorer(made_scorer(tmp_path / "scorers", "other", 3))
    also = Served(str(tmp_path / "scorers" / "other" / other.version), other.statement.id)
    with running(Plan((project.served(), also)), project.root / "log") as server, server.client() as client:
        for name, scorer in (("made", project.scorers[0]), ("other", other)):
            answer = client.post(f"/v1/{name}/score", json=BODY).json()
            assert [row["score"] for row in answer["results"]] == scorer.decision_function(ROWS).tolist()
            assert client.get(f"/v1/{name}/info").json()["name"] == name
            assert client.get(f"/v1/{name}/version").json()["model_version"] == scorer.version
            assert client.get(f"/v1/{name}/openapi.json").json()["info"]["version"] == scorer.version
        for path in ("/score", "/v1/nothing/score"):
            response = client.post(path, json=BODY)
            assert response.status_code == 404
            assert "made or other" in response.json()["detail"]
        assert client.get("/readyz").status_code == 200
        project.promote(1)
        server.until(lambda: client.get("/v1/made/version").json()["model_version"] == project.scorers[1].version)
        assert client.get("/v1/other/version").json()["model_version"] == other.version


def test_one_dataset_is_at_both_paths(project: Project) -> None:
    with running(Plan((project.served(),)), project.root / "log") as server, server.client() as client:
        assert client.post("/score", json=BODY).json() == client.post("/v1/made/score", json=BODY).json()


def test_clients_that_keep_their_connection_meet_no_reset_at_the_end(project: Project) -> None:
    """Each one sends until an answer says that the connection is closed; all are answered, and the server ends well."""

    def send(server: Server, started: threading.Barrier) -> int:
        connection, n = http_connection(server.url), 0
        while True:
            connection.request("POST", "/score", json.dumps(BODY))
            response = connection.getresponse()
            content = response.read()
            assert response.status == 200
            assert json.loads(content)["results"]
            n += 1
            if n == 1:
                started.wait(HANG_SECONDS)
            if response.headers["connection"] == "close":
                return n

    started = threading.Barrier(9)
    with running(Plan((project.served(),)), project.root / "log") as server, ThreadPoolExecutor(8) as pool:
        sending = [pool.submit(send, server, started) for _ in range(8)]
        started.wait(HANG_SECONDS)
        server.process.send_signal(signal.SIGTERM)
        assert all(each.result(HANG_SECONDS) >= 1 for each in sending)
        assert server.process.wait(HANG_SECONDS) == 0


def http_connection(url: str) -> Any:
    from http.client import HTTPConnection

    return HTTPConnection(url.removeprefix("http://"), timeout=HANG_SECONDS)


def test_nobody_holds_the_port_of_a_killed_server(project: Project) -> None:
    with running(Plan((project.served(),)), project.root / "log") as server:
        port = int(server.url.rpartition(":")[2])
        with server.client() as client:
            assert client.post("/score", json=BODY).status_code == 200
        os.kill(server.process.pid, signal.SIGKILL)
        assert server.process.wait() == -signal.SIGKILL
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            end = time.monotonic() + HANG_SECONDS
            while again.connect_ex(("127.0.0.1", port)) == 0:
                assert time.monotonic() < end
                again.close()
        with socket.create_server(("127.0.0.1", port)) as free:
            assert free.getsockname()[1] == port


def test_the_plan_survives_its_text() -> None:
    first = Served("a", "b", "c", ("d", "e"), ("f", "g"), (("id", "h"),))
    plan = Plan((first, Served("i", "j")), ("python", "-m", "watcher"), "k", "l", 0.5)
    assert Plan.from_json(plan.to_json()) == plan


def test_another_statement_of_the_same_scorer_is_named(project: Project) -> None:
    first = project.scorers[0]
    folder = project.root / "scorers" / "made" / first.version
    content = {**first.statement.content, "note": "again"}
    second = write_statement(folder, content, data_version="cd" * 16 + ".dir", records={"train": b"{}\n"}, rows={})
    with running(Plan((project.served(),)), project.root / "log") as server, server.client() as client:
        assert client.get("/version").json()["statement"] == first.statement.id
        project.record.write_text(json.dumps({"version": first.version, "statement": second}))
        server.until(lambda: client.get("/version").json()["statement"] == second)
        assert client.post("/score", json=BODY).json()["statement"] == second


def test_a_quiet_connection_is_answered_once_more_while_the_server_ends(scorer: Scorer, serving: Serve) -> None:
    with serving(scorer, replace(SERVICE_LIMITS, idle_seconds=HANG_SECONDS)) as (client, server):
        assert "connection" not in client.get("/livez").headers
        port = client.base_url.port
        server.should_exit = True
        end = time.monotonic() + HANG_SECONDS
        while server.servers[0].is_serving():
            assert time.monotonic() < end
            time.sleep(0.01)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        assert client.get("/livez").headers["connection"] == "close"
