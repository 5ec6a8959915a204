"""Several workers on one socket: they share the work and the numbers, are replaced, and never outlive their parent."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import pytest
from tests.scorers import made_scorer
from tests.unit.service.test_server import PACKED
from tests.waiting import HANG_SECONDS

from assay.scorer.loading import load_scorer
from assay.scorer.scorer import Scorer
from assay.scorer.statement import statement_ids
from assay.service.access import ACCESS_LOG
from assay.service.metrics import SHARED_FOLDER
from assay.service.routes import make_application
from assay.service.spool import MONITORED, read_spool, spool_path
from assay.service.versions import Following, Plan, Served

N = 3


def until(seen: Callable[[], Any]) -> None:
    end = time.monotonic() + HANG_SECONDS
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.05)


class Server:
    """A server with workers, in a process of its own."""

    def __init__(
        self,
        tmp_path: Path,
        *,
        serve: str = "-m assay.service.server",
        plan: Plan | None = None,
        output: int = subprocess.PIPE,
        **settings: str,
    ) -> None:
        shared = tmp_path / "shared"
        shared.mkdir()
        self.shared = shared
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.address = listening.getsockname()
            plan = plan or Plan((Served(str(PACKED), statement_ids(PACKED)[0]),))
            number = listening.fileno()
            environment = {**os.environ, SHARED_FOLDER: str(shared), MONITORED: str(tmp_path), **settings}
            command = [sys.executable, "-P", *serve.split(" ", 1), str(number), plan.to_json(), str(N)]
            self.process = subprocess.Popen(
                command,
                pass_fds=[number],
                env=environment,
                stdout=None if output == subprocess.PIPE else output,
                stderr=output,
                text=True,
                start_new_session=True,
            )
        self.url = f"http://127.0.0.1:{self.address[1]}"

    def workers(self) -> list[psutil.Process]:
        return [child for child in psutil.Process(self.process.pid).children() if child.status() != "zombie"]

    def ask(self) -> int:
        with httpx.Client(base_url=self.url, timeout=HANG_SECONDS) as client:
            return client.post("/score", json={"record": RECORD}).status_code

    def is_free(self) -> bool:
        try:
            socket.create_server(self.address).close()
        except OSError:
            return False
        return True


SCORER = load_scorer(PACKED)
assert SCORER.categories is not None
RECORD = {**dict.fromkeys(SCORER.columns, 1.0), SCORER.category_column: SCORER.categories[0]}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path) as server:
        yield server


@contextmanager
def running(tmp_path: Path, **options: Any) -> Iterator[Server]:
    server = Server(tmp_path, **options)
    try:
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.process.pid, signal.SIGKILL)
        server.process.communicate()


def test_workers_share_the_numbers_and_the_scores_and_end_together(server: Server, tmp_path: Path) -> None:
    assert server.ask() == 200
    until(lambda: len(server.workers()) == N)
    workers = server.workers()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: server.ask(), range(59))) == {200}
    labels = f'dataset="{SCORER.name}",version="{SCORER.version}"'

    def metrics() -> str:
        return httpx.get(f"{server.url}/metrics", timeout=HANG_SECONDS).text

    until(lambda: f"assay_rows_total{{{labels}}} 60.0" in metrics())  # each worker counts a moment later
    text = metrics()
    assert f"assay_answering{{{labels}}} 1.0" in text
    assert len(read_spool(spool_path(tmp_path, SCORER.tag))) == 60
    server.process.terminate()
    _, err = server.process.communicate(timeout=HANG_SECONDS)
    assert server.process.returncode == 0
    assert len(err.splitlines()) == 1
    assert not [worker for worker in workers if worker.is_running()]
    assert server.is_free()
    assert not server.shared.exists()


def test_a_worker_that_was_killed_is_replaced(server: Server) -> None:
    assert server.ask() == 200
    until(lambda: len(server.workers()) == N)
    first = server.workers()[0]
    until(lambda: time.time() - first.create_time() > 2)
    first.kill()
    until(lambda: not first.is_running() and len(server.workers()) == N)
    assert server.ask() == 200
    assert server.process.poll() is None


def test_workers_end_when_their_parent_is_killed(server: Server) -> None:
    assert server.ask() == 200
    until(lambda: len(server.workers()) == N)
    workers = server.workers()
    with httpx.Client(base_url=server.url, timeout=HANG_SECONDS) as client:
        assert client.get("/livez").status_code == 200
        os.kill(server.process.pid, signal.SIGKILL)
        until(server.is_free)
    until(lambda: not any(worker.is_running() for worker in workers))


def test_all_workers_follow_the_champion_and_their_numbers_say_so(tmp_path: Path) -> None:
    first, second = (load_scorer(made_scorer(tmp_path / "scorers", "made", seed)) for seed in (1, 2))
    record, store = tmp_path / "made.json", tmp_path / "scorers" / "made"

    def promote(scorer: Scorer) -> None:
        (tmp_path / "new").write_text(json.dumps({"version": scorer.version, "statement": scorer.statement.id}))
        (tmp_path / "new").replace(record)

    promote(first)
    plan = Plan((Served(str(store / first.version), first.statement.id, str(record), (str(store / "{version}"),)),))
    body = {"columns": list(first.columns), "rows": [[1.0] * len(first.columns)]}

    def versions() -> list[str]:
        answers = [httpx.post(f"{server.url}/score", json=body, timeout=HANG_SECONDS) for _ in range(8 * N)]
        return [answer.json()["model_version"] for answer in answers]

    def numbers() -> dict[str, float]:
        lines = httpx.get(f"{server.url}/metrics", timeout=HANG_SECONDS).text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    with running(tmp_path, plan=plan) as server:
        asked = versions()
        promote(second)
        while set(latest := versions()) != {second.version}:
            asked += latest
        asked += latest
        of_second = f'assay_rows_total{{dataset="made",version="{second.version}"}}'
        # What a killed worker had not counted yet, in its last 20 milliseconds, is lost.
        until(lambda: numbers().get(of_second) == asked.count(second.version))
        (worker, *_) = server.workers()
        until(lambda: time.time() - worker.create_time() > 2)
        worker.kill()
        until(lambda: not worker.is_running() and len(server.workers()) == N)
        latest = versions()
        assert set(latest) == {second.version}
        asked += latest
        until(lambda: numbers().get(of_second) == asked.count(second.version))
        counted = numbers()
        for scorer, is_answering in ((first, 0), (second, 1)):
            labels = f'{{dataset="made",version="{scorer.version}"}}'
            assert counted[f"assay_answering{labels}"] == is_answering
            assert counted[f"assay_rows_total{labels}"] == asked.count(scorer.version)
            assert len(read_spool(spool_path(tmp_path, scorer.tag))) == asked.count(scorer.version)


def test_a_worker_in_the_place_of_another_answers_by_the_champion_of_now(tmp_path: Path) -> None:
    first, second = (load_scorer(made_scorer(tmp_path / "scorers", "made", seed)) for seed in (1, 2))
    record = tmp_path / "made.json"
    served = Served(
        str(tmp_path / "scorers" / "made" / first.version),
        first.statement.id,
        str(record),
        (str(tmp_path / "scorers" / "made" / "{version}"),),
    )
    record.write_text(json.dumps({"version": second.version, "statement": second.statement.id}))
    application = make_application()
    with Following(application, Plan((served,))):
        assert application.state.services["made"].scorer.version == second.version


@pytest.mark.parametrize("reader", ["gone", "asleep"])
def test_a_server_goes_on_where_nobody_reads_what_it_prints(tmp_path: Path, reader: str) -> None:
    ours, its = os.pipe()
    if reader == "asleep":
        os.set_blocking(its, False)
        with suppress(BlockingIOError):
            while True:
                os.write(its, bytes(4096))
        os.set_blocking(its, True)
    with running(tmp_path, output=its, **{ACCESS_LOG: "1"}) as server:
        os.close(its)
        if reader == "gone":
            os.close(ours)
        assert server.ask() == 200
        until(lambda: len(server.workers()) == N)
        for _ in range(20):
            assert server.ask() == 200
        (first, *_) = server.workers()
        until(lambda: time.time() - first.create_time() > 2)
        first.kill()
        until(lambda: not first.is_running() and len(server.workers()) == N)
        assert server.ask() == 200
        if reader == "asleep":
            while select.select([ours], [], [], 0)[0]:
                os.read(ours, 2**16)
            assert server.ask() == 200
            line = json.loads(os.read(ours, 2**16).splitlines()[-1])
            assert (line["route"], line["status"]) == ("/score", 200)
            os.close(ours)


FAILING = """
import os, socket, sys
from assay.service.workers import run_workers
address = socket.socket(fileno=int(sys.argv[1]))
sys.exit(run_workers(lambda: os._exit(7), int(sys.argv[3]), address))
"""


def test_workers_that_cannot_work_end_the_server(tmp_path: Path) -> None:
    with running(tmp_path, serve=f"-c {FAILING}") as server:
        _, err = server.process.communicate(timeout=HANG_SECONDS)
        assert server.process.returncode == 1
        assert "ended (exit code 7)" in err
        assert server.is_free()
