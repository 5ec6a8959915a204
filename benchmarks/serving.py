"""Processor time of a request: the service of `assay serve` beside a bare server of the same scorer.

The bare server is the same stack (uvicorn, h11, starlette) with one route that parses (orjson, or numpy for .npy),
calls the scorer's `judge()`, flags and dumps (orjson): it checks nothing, has no limits, and says nothing of versions.
Both run in one thread, without access log; neither keeps scores for the monitors. What is compared is the processor
time of the server's process per request, so that other work on the machine counts little; clients run in a process of
their own. Bare and Assay take turns, and a ratio is the median of the pairs with the interval that has it with 95 %
or more (binomial).

The scorer is a kNN on digits: 64 columns, 1,100 training rows.

Usage: python benchmarks/serving.py
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
    """A kind of request: a body, how many connections send it, and how often in all."""

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


def serve_bare(folder: str, statement: str, listening: str) -> None:
    """Serve a scorer with nothing around it."""
    import orjson
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from assay.scorer.loading import load_scorer

    scorer = load_scorer(Path(folder), statement)
    eps = scorer.head["eps"]

    async def score(request: Request) -> Response:
        body = await request.body()
        rows = np.load(io.BytesIO(body)) if body.startswith(b"\x93NUMPY") else np.array(orjson.loads(body)["rows"])
        judged = scorer.judge(rows)
        flags = judged.p_values <= eps
        decided = zip(judged.scores.tolist(), judged.p_values.tolist(), flags.tolist(), strict=True)
        results = [{"score": s, "p_value": p, "flagged": f} for s, p, f in decided]
        return Response(orjson.dumps({"results": results}), media_type="application/json")

    async def ready(request: Request) -> Response:
        return Response(b"\n")

    application = Starlette(routes=[Route("/score", score, methods=["POST"]), Route("/readyz", ready)])
    config = uvicorn.Config(application, http="h11", ws="none", lifespan="off", log_config=None, access_log=False)
    with socket.socket(fileno=int(listening)) as address:
        uvicorn.Server(config).run([address])


@contextmanager
def server(folder: Path, statement: str, *, bare: bool) -> Iterator[tuple[int, psutil.Process]]:
    """Start a server on a free port; yield the port and the process."""
    from assay.service.versions import Plan, Served

    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        number = listening.fileno()
        plan = Plan((Served(str(folder), statement),)).to_json()
        own = ["-m", "assay.service.server", str(number), plan]
        arguments = [sys.executable, *([__file__, "bare", str(folder), statement, str(number)] if bare else own)]
        with subprocess.Popen(arguments, pass_fds=[number], env=ENVIRONMENT, stderr=subprocess.DEVNULL) as process:
            try:
                asyncio.run(send(listening.getsockname()[1], b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n", 1, 1))
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
    head = f"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: {len(load.body)}\r\n\r\n".encode()
    before = process.cpu_times()
    asyncio.run(send(port, head + load.body, load.connections, load.requests))
    after = process.cpu_times()
    return float(after.user + after.system - before.user - before.system) / load.requests


def loads() -> list[Load]:
    """Return what is measured."""
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 17, (100_000, 64)) + rng.normal(0, 0.1, (100_000, 64)).round(6)

    def as_json(n: int) -> bytes:
        return json.dumps({"columns": [f"p{i}" for i in range(64)], "rows": rows[:n].tolist()}).encode()

    stream = io.BytesIO()
    np.save(stream, rows)
    return [
        *(Load(f"1 row, JSON, {n} connections", as_json(1), n, 2000, 0.8) for n in (1, 8, 50)),
        Load("1,000 rows, JSON", as_json(1000), 1, 60, 0.9),
        Load("100,000 rows, .npy", stream.getvalue(), 1, 3, 0.9),
    ]


def measure(folder: Path, statement: str) -> list[str]:
    """Return a line of the table for each load."""
    lines = []
    with server(folder, statement, bare=True) as first, server(folder, statement, bare=False) as second:
        started = second[1].cpu_times()
        for load in loads():
            for port, process in (first, second):
                seconds_per_request(port, process, load)
            pairs = [[seconds_per_request(*each, load) for each in (first, second)] for _ in range(PAIRS)]
            ratios = sorted(bare_seconds / seconds for bare_seconds, seconds in pairs)
            low, high = (ratios[place] for place in INTERVAL)
            per_bare, per_own = (1000 * statistics.median(column) for column in zip(*pairs, strict=True))
            lines.append(
                f"| {load.name} | {per_bare:.3g} | {per_own:.3g} | {statistics.median(ratios):.2f} ({low:.2f} to "
                f"{high:.2f}) | {load.target} |"
            )
            print(lines[-1], flush=True)
        memory = [process.memory_full_info().uss / 2**20 for _, process in (first, second)]
        row, alive = latencies(second[0], loads()[0], loads()[-1])
        rows, width = 244, 64  # as many as it explains at a time
        large = Load("explained", loads()[3].body, 1, 5, 0.0)
        content = json.loads(large.body)
        content["rows"] = content["rows"][:rows]
        start = time.perf_counter()
        explained, alive_then = latencies(
            second[0], loads()[0], replace(large, body=json.dumps(content).encode()), "?explain=3"
        )
        seconds = (time.perf_counter() - start) / 5
    rest = (
        f"\nReady after {started.user + started.system:.1f} s of processor time. After all of it the process holds "
        f"{memory[1]:.0f} MiB of its own, the bare one {memory[0]:.0f}.\n\nWhile 100,000 rows (.npy) are scored, by "
        "the clock of the process that sends these too, milliseconds of what else is asked for, median and highest: "
        f"one row {row}, `/livez` {alive}. While {rows} rows of {width} columns are explained, which takes "
        f"{seconds:.1f} s: one row {explained}, `/livez` {alive_then}."
    )
    return [*lines, rest]


def latencies(port: int, small: Load, large: Load, parameters: str = "") -> list[str]:
    """Return median and highest milliseconds of a row and of /livez while five large requests are answered."""

    async def watch() -> list[str]:
        length = len(large.body)
        head = f"POST /score{parameters} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode()
        work = asyncio.create_task(send(port, head + large.body, 1, 5))
        waits: dict[str, list[float]] = {"/score": [], "/livez": []}
        row = f"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: {len(small.body)}\r\n\r\n".encode() + small.body
        while not work.done():
            for path, request in (("/score", row), ("/livez", b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")):
                start = time.perf_counter()
                await send(port, request, 1, 1)
                waits[path].append(1000 * (time.perf_counter() - start))
        await work
        return [f"{statistics.median(every):.0f} and {max(every):.0f}" for every in waits.values()]

    return asyncio.run(watch())


def main() -> None:
    """Measure everything and write docs/benchmarks/serving.md."""
    with tempfile.TemporaryDirectory() as folder:
        table = measure(*fit(Path(folder)))
    lines = ["| request | bare, ms | Assay, ms | bare / Assay | target |", "|---|---|---|---|---|", *table]
    protocol = (__doc__ or "").split("Usage:")[0].strip()
    load = os.getloadavg()[1]
    python = sys.version.split()[0]
    machine = f"{os.cpu_count()} cores, shared with other work (load {load:.0f}); Python {python}; {PAIRS} pairs."
    text = "\n".join(lines) + "\n"
    OUT.write_text(
        f"# Serving\n\n{protocol}\n\n{machine} Made by `python benchmarks/serving.py`.\n\n{text}", encoding="utf-8"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["bare"]:
        serve_bare(*sys.argv[2:])
    else:
        main()
