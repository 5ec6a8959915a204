"""Processor time of a request: the service of `assay serve` beside a bare server of the same scorer.

The bare server is the same stack (uvicorn, httptools, uvloop, starlette) with one route that parses
(orjson, or numpy for .npy), calls the scorer's `judge()`, flags and dumps (orjson): it checks nothing, has
no limits, and says nothing of versions. `/score` of Assay is answered before starlette's routing; beside it
stands a bare server that does without starlette, too. All run in one thread, without access log. Assay
keeps its scores for the monitors, as it does under `assay serve`; the process that computes these is not
counted. What is compared is the processor time of the server's process per request, so that other work on
the machine counts little. Single rows are sent by wrk, written in C, pinned to the last core; the others by
a process of this script. The servers take turns, and a ratio is the median of the pairs with the interval
that has it with 95 % or more (binomial).

The scorer is a kNN on digits: 64 columns, 1,100 training rows.

Usage: python benchmarks/serving.py
"""

from __future__ import annotations

import asyncio
import io
import json
import multiprocessing
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]

OUT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "serving.md"
PAIRS = 11
INTERVAL = (1, 9)  # positions in 11 sorted ratios, from 0: the median is between them with probability .988
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Load:
    """A kind of request: a body, how many connections send it, and how often in all; 0 is as often as wrk can."""

    name: str
    body: bytes
    connections: int
    requests: int
    target: float


def fit(folder: Path) -> tuple[Path, str]:
    """Package a kNN scorer of digits; return its folder and the id of its statement."""
    from sklearn.datasets import load_digits

    from assay.calibration.adapters.outputs import observe
    from assay.calibration.adapters.registry import make_adapter
    from assay.calibration.calibrators.conformal import ConformalCalibrator
    from assay.calibration.hardness import fit_strata
    from assay.data.modalities.tabular import TABULAR
    from assay.detectors.registry import make_detector
    from assay.scorer.folder import write_scorer
    from assay.scorer.score_function import ScoreFunction
    from assay.scorer.statement import write_statement

    rows = np.random.default_rng(0).permutation(load_digits().data)
    train, adapt, calibration = rows[:1100], rows[1100:1450], rows[1450:1690]
    scaler = TABULAR.scaler().fit(train)
    scaled, scaled_adapt = scaler.transform(train), scaler.transform(adapt)
    detector, null_model = make_detector("knn", {}, seed=0).fit(scaled), TABULAR.null_model().fit(scaled)
    adapter = make_adapter("none", {}).fit(observe(detector, null_model, scaled_adapt))
    score = ScoreFunction(scaler, detector, null_model, adapter)
    strata = fit_strata(scaled_adapt, null_model.hardness(scaled_adapt), by_neighbourhood=True, seed=0)
    calibrator = ConformalCalibrator().fit(score(calibration))
    fitted: dict[str, Any] = {"scaler": scaler, "detector": detector, "null_model": null_model}
    fitted |= {"strata": strata, "adapter": adapter, "calibrator": calibrator}
    head = {"columns": [f"p{i}" for i in range(64)], "eps": 0.05, "ties": "counted"}
    made = folder / write_scorer(folder, head, {name: part.to_part() for name, part in fitted.items()})
    candidate = {"detector": "knn", "adapter": "none", "level": "level-0"}
    content = {"name": "digits", "candidate": candidate}
    return made, write_statement(made, content, data_version="0" * 32 + ".dir", records={"train": b"{}\n"}, rows={})


def serve_bare(kind: str, folder: str, statement: str, listening: str) -> None:
    """Serve a scorer with nothing around it: by starlette, or `plain`."""
    import orjson
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from assay.scorer.loading import load_scorer

    scorer = load_scorer(Path(folder), statement)
    eps = scorer.head["eps"]

    def answer(body: bytes) -> bytes:
        rows = np.load(io.BytesIO(body)) if body.startswith(b"\x93NUMPY") else np.array(orjson.loads(body)["rows"])
        judged = scorer.judge(rows)
        flags = judged.p_values <= eps
        decided = zip(judged.scores.tolist(), judged.p_values.tolist(), flags.tolist(), strict=True)
        return orjson.dumps({"results": [{"score": s, "p_value": p, "flagged": f} for s, p, f in decided]})

    async def score(request: Request) -> Response:
        return Response(answer(await request.body()), media_type="application/json")

    async def ready(request: Request) -> Response:
        return Response(b"\n")

    async def plain(scope: Any, receive: Any, send: Any) -> None:
        parts, more = [], True
        while more:
            message = await receive()
            parts.append(message["body"])
            more = message["more_body"]
        content = answer(b"".join(parts)) if scope["path"] == "/score" else b"\n"
        headers = [(b"content-length", str(len(content)).encode()), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    routes = [Route("/score", score, methods=["POST"]), Route("/readyz", ready)]
    application = plain if kind == "plain" else Starlette(routes=routes)
    config = uvicorn.Config(
        application, http="httptools", loop="uvloop", ws="none", lifespan="off", log_config=None, access_log=False
    )
    with socket.socket(fileno=int(listening)) as address:
        uvicorn.Server(config).run([address])


@contextmanager
def server(folder: Path, statement: str, kind: str) -> Iterator[tuple[int, psutil.Process]]:
    """Start a server on a free port, "assay", "starlette" or "plain"; yield the port and the process."""
    from assay.service.versions import Plan, Served

    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        number = listening.fileno()
        plan = Plan((Served(str(folder), statement),)).to_json()
        own = ["-m", "assay.service.server", str(number), plan]
        bare = [__file__, kind, str(folder), statement, str(number)]
        kept = {"ASSAY_MONITOR": str(folder.parent), "ASSAY_TOKENS": str(folder.parent / "none.json")}
        environment = ENVIRONMENT | kept | {"ASSAY_TOKENS_OPTIONAL": "1"}
        arguments = [sys.executable, *(own if kind == "assay" else bare)]
        with subprocess.Popen(arguments, pass_fds=[number], env=environment, stderr=subprocess.DEVNULL) as process:
            try:
                asyncio.run(send(listening.getsockname()[1], b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n", 1, 1))
                yield listening.getsockname()[1], psutil.Process(process.pid)
            finally:
                process.terminate()


async def send(port: int, request: bytes, connections: int, requests: int) -> None:
    """Send a request over and over, on so many connections at a time; stop at the first that is not answered by 200."""
    left = iter(range(requests))

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
        for _ in left:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.partition(b":")[2]))
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))


def seconds_per_request(port: int, process: psutil.Process, load: Load) -> float:
    """Return the processor seconds of a server per request."""
    before = process.cpu_times()
    if load.requests:
        head = f"POST /score HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(load.body)}\r\n\r\n".encode()
        asyncio.run(send(port, head + load.body, load.connections, load.requests))
        requests = load.requests
    else:
        requests = send_by_wrk(port, load)
    after = process.cpu_times()
    return float(after.user + after.system - before.user - before.system) / requests


def send_by_wrk(port: int, load: Load) -> int:
    """Send a request over and over for a second, by wrk; return how many were answered."""
    script = f'wrk.method = "POST"\nwrk.body = [==[{load.body.decode()}]==]\n'
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        wrk = ["taskset", "-c", str((os.cpu_count() or 1) - 1), "wrk", "-t1", f"-c{load.connections}", "-d1s"]
        command = [*wrk, "-s", file.name, f"http://127.0.0.1:{port}/score"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in said, said
    return int(re.search(r"(\d+) requests in", said)[1])  # type: ignore[index]


def loads() -> list[Load]:
    """Return what is measured."""
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 17, (100_000, 64)) + rng.normal(0, 0.1, (100_000, 64)).round(6)

    def as_json(n: int) -> bytes:
        return json.dumps({"columns": [f"p{i}" for i in range(64)], "rows": rows[:n].tolist()}).encode()

    stream = io.BytesIO()
    np.save(stream, rows)
    return [
        *(Load(f"1 row, JSON, {n} connections", as_json(1), n, 0, 0.8) for n in (1, 8, 50)),
        Load("1,000 rows, JSON", as_json(1000), 1, 60, 0.9),
        Load("100,000 rows, .npy", stream.getvalue(), 1, 3, 0.9),
    ]


def measure(folder: Path, statement: str) -> list[str]:
    """Return a line of the table for each load."""
    lines = []
    with ExitStack() as stack:
        servers = [stack.enter_context(server(folder, statement, kind)) for kind in ("starlette", "plain", "assay")]
        started = servers[2][1].cpu_times()
        for load in loads():
            for each in servers:
                seconds_per_request(*each, load)
            rounds = [[seconds_per_request(*each, load) for each in servers] for _ in range(PAIRS)]
            by_starlette, by_plain = (shown_ratio([row[i] / row[2] for row in rounds]) for i in (0, 1))
            medians = [1000 * statistics.median(column) for column in zip(*rounds, strict=True)]
            times = " | ".join(f"{each:.3g}" for each in (medians[0], medians[2]))
            lines.append(f"| {load.name} | {times} | {by_starlette} | {load.target} | {by_plain} |")
            print(lines[-1], flush=True)
        memory = [process.memory_full_info().uss / 2**20 for _, process in servers]
        lines.append(
            f"\nReady after {started.user + started.system:.1f} s of processor time. After all of it the process "
            f"holds {memory[2]:.0f} MiB of its own, the bare one {memory[0]:.0f}.\n"
        )
        lines += waits(servers[2][0], servers[0][0])
    return lines


def shown_ratio(ratios: list[float]) -> str:
    """Return the median of ratios with its interval, as text."""
    low, high = (sorted(ratios)[place] for place in INTERVAL)
    return f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})"


def waits(port: int, other: int) -> list[str]:
    """Return a table of what small requests wait for while large ones are answered at a port, there and elsewhere."""
    small, bulk, npy = loads()[0], *loads()[3:]
    content = json.loads(bulk.body)
    rng = np.random.default_rng(2)
    content["rows"] = rng.integers(0, 17, (100_000, 64)).tolist()
    as_json = Load("100,000 rows, JSON", json.dumps(content).encode(), 1, 3, 0.0)
    content["rows"] = content["rows"][:244]  # as many as it explains at a time
    explained = Load("244 rows, explained", json.dumps(content).encode(), 1, 3, 0.0)
    lines = [
        "While one process sends large requests without a pause, another asks for one row and for `/livez`, in turn, "
        "200 times a second at most: milliseconds by its clock, median, 99 % and highest. What is asked of another "
        "server meanwhile says how much of it is the machine.\n",
        "| meanwhile | one row | `/livez` | one row of another server |",
        "|---|---|---|---|",
    ]
    for load, parameters in ((npy, ""), (as_json, ""), (explained, "?explain=3")):
        here, alive = latencies(port, port, small, load, parameters)
        there, _ = latencies(port, other, small, load, parameters)
        lines.append(f"| {load.name} | {here} | {alive} | {there} |")
        print(lines[-1], flush=True)
    return lines


def send_large(port: int, load: Load, parameters: str) -> None:
    """Send a large request as often as it says."""
    length = len(load.body)
    head = f"POST /score{parameters} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n".encode()
    asyncio.run(send(port, head + load.body, 1, load.requests))


def latencies(port: int, asked: int, small: Load, large: Load, parameters: str = "") -> list[str]:
    """Return milliseconds of a row and of /livez at one port while large requests are answered at another one."""
    row = f"POST /score HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(small.body)}\r\n\r\n".encode() + small.body
    requests = {"/score": row, "/livez": b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"}
    taken: dict[str, list[float]] = {"/score": [], "/livez": []}
    work = multiprocessing.Process(target=send_large, args=(port, large, parameters))
    work.start()
    while work.is_alive():
        for path, request in requests.items():
            if path == "/livez" and asked != port:
                continue  # a bare server has none
            start = time.perf_counter()
            asyncio.run(send(asked, request, 1, 1))
            taken[path].append(1000 * (time.perf_counter() - start))
        time.sleep(0.005)
    work.join()
    assert work.exitcode == 0
    return [
        f"{np.median(every):.0f}, {np.quantile(every, 0.99):.0f}, {max(every):.0f}" if every else ""
        for every in taken.values()
    ]


def main() -> None:
    """Measure everything and write docs/benchmarks/serving.md."""
    with tempfile.TemporaryDirectory() as folder:
        table = measure(*fit(Path(folder)))
    head = "| request | bare, ms | Assay, ms | bare / Assay | target | the same without starlette |"
    lines = [head, "|---|---|---|---|---|---|", *table]
    protocol = (__doc__ or "").split("Usage:")[0].strip()
    load = os.getloadavg()[1]
    python = sys.version.split()[0]
    machine = f"{os.cpu_count()} cores, shared with other work (load {load:.0f}); Python {python}; {PAIRS} pairs."
    text = "\n".join(lines) + "\n"
    OUT.write_text(
        f"# Serving\n\n{protocol}\n\n{machine} Made by `python benchmarks/serving.py`.\n\n{text}", encoding="utf-8"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve_bare(*sys.argv[1:])
    else:
        main()
