"""Servers of a plan, each a process of its own, as `assay serve` becomes it."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from assay.service.versions import Plan
from tests.waiting import HANG_SECONDS


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=HANG_SECONDS)

    def until(self, seen: Callable[[], object]) -> None:
        end = time.monotonic() + HANG_SECONDS
        while not seen():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)


@contextmanager
def running(plan: Plan, log: Path) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listening, log.open("wb") as stream:
        number = listening.fileno()
        command = [sys.executable, "-P", "-m", "assay.service.server", str(number), plan.to_json()]
        process = subprocess.Popen(command, pass_fds=[number], stdout=stream, stderr=stream, cwd=log.parent)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    server = Server(process, url, log)
    try:
        server.until(lambda: b"answer" in log.read_bytes())
        yield server
    finally:
        process.kill()
        process.wait()
