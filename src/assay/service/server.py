"""The server: `python -m assay.service.server SOCKET PLAN [WORKERS]`, as `assay serve` becomes it; `Plan` is in JSON.

One process, unless several workers are asked for, and nobody above it that would start it again: a scorer that cannot
be loaded ends it, once, with one sentence.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
from contextlib import nullcontext
from types import FrameType

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from assay.errors import AssayError
from assay.service.beside import Beside
from assay.service.limits import SERVICE_LIMITS, Limits
from assay.service.problems import problem
from assay.service.receiving import RETRY_SECONDS
from assay.service.routes import make_application
from assay.service.telemetry import traced
from assay.service.telling import tell
from assay.service.versions import Following, Plan
from assay.service.workers import run_workers

KEEP_ALIVE_SECONDS = 75
DRAIN_SECONDS = 60
# Between threads; at the usual 5 ms a small request waits that long for each step behind a large one.
SWITCH_SECONDS = 0.0005


def protocol_with(limits: Limits) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol, with deadlines for clients that send a head, or fetch an answer, too slowly.

    It also bounds what is sent beside bodies, heads and trailers, which httptools would keep however long they are.
    """
    full = problem(
        503,
        f"{limits.connections} connections are open, which is too many; ask again in {RETRY_SECONDS} s",
        {"retry-after": RETRY_SECONDS, **_CLOSE},
    )

    class Impatient(HttpToolsProtocol):
        _head: asyncio.TimerHandle | None = None
        _answer: asyncio.TimerHandle | None = None
        _beside = 0  # bytes since the last end of a head, and the last part of a body

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._head = self.loop.call_later(limits.head_seconds, transport.abort)

        def data_received(self, data: bytes) -> None:
            self._beside += len(data)
            self._unset_keepalive_if_required()
            rest = memoryview(data)
            try:
                while rest:
                    try:
                        self.parser.feed_data(rest)
                        break
                    except httptools.HttpParserUpgrade as upgrade:
                        rest = rest[upgrade.args[0] :]
                        self._decline()
            except httptools.HttpParserError:
                self.send_400_response("")
            if self._beside > limits.head and not self.transport.is_closing():
                self.send_400_response("")
            if self.cycle is not None and not self.cycle.response_complete:
                _cancel(self._head)
                self._head = None
            elif self._head is None:
                self._head = self.loop.call_later(limits.head_seconds, self.transport.abort)

        def _decline(self) -> None:
            """Read a head again without its offer of another protocol: httptools passes over the body.

            Java's client offers HTTP/2 with every first request.
            """
            method, version = self.parser.get_method(), self.parser.get_http_version().encode()
            if method == b"CONNECT":
                raise httptools.HttpParserInvalidMethodError
            kept = [(name, value) for name, value in self.headers if name not in (b"connection", b"upgrade")]
            named = b",".join(value.lower() for name, value in self.headers if name == b"connection")
            kept += [(b"connection", b"close")] if b"close" in named else []
            lines = b"".join(b"%s: %s\r\n" % pair for pair in kept)
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's: it is passed over
            self.parser.feed_data(b"%s %s HTTP/%s\r\n%s\r\n" % (method, self.url, version, lines))

        def on_headers_complete(self) -> None:
            self._beside = 0
            if not self.parser.should_upgrade():
                super().on_headers_complete()
                self.headers = []  # trailers are not of the head, which may have been checked already

        def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
            super()._start_asgi_task(cycle, full if app is service_unavailable else app)  # type: ignore[arg-type]

        def on_message_complete(self) -> None:
            if not self.parser.should_upgrade():
                super().on_message_complete()

        def on_body(self, body: bytes) -> None:
            self._beside = 0
            super().on_body(body)

        def connection_lost(self, exc: Exception | None) -> None:
            _cancel(self._head)
            _cancel(self._answer)
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._answer = self.loop.call_later(limits.answer_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            _cancel(self._answer)
            super().resume_writing()

        def send_400_response(self, msg: str) -> None:
            answer = problem(400, "the request is not HTTP/1.1, or its head is too long; send it anew", _CLOSE)
            head = b"".join(b"%s: %s\r\n" % pair for pair in answer.raw_headers)
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + head + b"\r\n" + bytes(answer.body))
            self.transport.close()

    return Impatient


_CLOSE = {"connection": "close"}


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class Draining(uvicorn.Server):
    """A server whose clients learn from the answer before that a connection is closed, and so meet no reset."""

    idle_seconds = SERVICE_LIMITS.idle_seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let every answer say that it is the last one, and give quiet connections time to ask."""
        for server in self.servers:
            server.close()
        for each in sockets or []:
            each.close()
        state = self.server_state
        state.default_headers = [*state.default_headers, (b"connection", b"close")]
        for connection in state.connections:
            if (cycle := getattr(connection, "cycle", None)) is not None:
                cycle.default_headers = state.default_headers
        loop = asyncio.get_running_loop()
        end = loop.time() + self.idle_seconds
        while state.connections and not self.force_exit and loop.time() < end:
            await asyncio.sleep(0.05)
        await super().shutdown()


def make_server(application: ASGIApp, limits: Limits = SERVICE_LIMITS) -> uvicorn.Server:
    """Return a server of an application; a signal lets it finish the requests that it has, then end."""
    config = uvicorn.Config(
        application,
        http=protocol_with(limits),
        loop="uvloop",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    server = Draining(config)
    server.idle_seconds = limits.idle_seconds
    return server


def serve_plan(listening: str, plan: str, workers: str = "1") -> int:
    """Serve scorers on a socket that listens, by its number, until a signal ends the server; return the exit code."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end_at_once)
    application = make_application()
    try:
        following = Following(application, Plan.from_json(plan))
        served = traced(application)
    except AssayError as error:
        tell(f"assay: {error}")
        return error.exit_code
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_SECONDS)
    with socket.socket(fileno=int(listening)) as address:
        host, port, *_ = address.getsockname()
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        tell(f"{following.answering} at http://{where}")

        def answer() -> None:
            with following:
                make_server(served).run([address])

        watcher = following.plan.watcher
        # Each worker follows for itself; the watcher of scores is this process's.
        with nullcontext() if watcher is None else Beside(watcher):
            if int(workers) > 1:
                return run_workers(answer, int(workers), address)
            answer()
    return 0


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """End a server that is not ready yet; uvicorn raises the signal again at its own end, after all answers."""
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(serve_plan(*sys.argv[1:]))
