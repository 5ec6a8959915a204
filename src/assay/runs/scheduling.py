"""Serving the retraining flow on a schedule, through Prefect."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import urlopen

from assay import console
from assay.errors import ConfigError, ToolError
from assay.interruption import interruptible

if TYPE_CHECKING:
    from prefect.runner import Runner

    from assay.project.layout import Project

SCHEDULED = "ASSAY_SCHEDULED"
HANG_SECONDS = 30 * 60
STOP_SECONDS = 3


def serve_schedule(project: Project, *, cron: str | None, interval: float | None, dataset: str | None) -> None:
    """Serve the flow until a signal ends it and its current run; runs never overlap.

    Parameters
    ----------
    project : Project
    cron : str or None
        Cron expression, in UTC.
    interval : float or None
        Seconds between runs; exactly one of the two is given.
    dataset : str or None
        Dataset to retrain on; the one in params.yaml where it is None.

    Raises
    ------
    ConfigError
        The cron expression cannot be read.
    ToolError
        No Prefect server answers at ``PREFECT_API_URL``, or a local one did not start.
    """
    if cron is not None:
        _check_cron(cron)
    clock: dict[str, Any] = {"cron": cron} if cron is not None else {"interval": timedelta(seconds=interval or 0)}
    with interruptible(), prefect_server(project):
        from prefect import Flow
        from prefect.runner import Runner

        # From source, so that the process of each run can import it.
        flow: Any = Flow.from_source(source=str(project.root), entrypoint="flows/retrain.py:retrain")
        name = dataset or project.dataset
        runner = Runner(name=f"retrain-{name}", limit=1, pause_on_shutdown=True)
        runner.add_flow(flow, name=runner.name, parameters={"dataset": dataset}, **clock)
        timing = f"cron {cron} (UTC)" if cron is not None else f"every {interval:g} s"
        console.say(f"retraining {name}: {timing}; Prefect at {os.environ['PREFECT_API_URL']}; stop with Ctrl-C")
        os.environ[SCHEDULED] = "1"
        _serve(runner)


def _serve(runner: Runner) -> None:
    """Serve in another thread, where Prefect installs no signal handlers: these would wait for the end of a run."""
    with ThreadPoolExecutor(1) as thread:
        serving = thread.submit(lambda: asyncio.run(runner.start()))
        try:
            serving.result()
        except KeyboardInterrupt:
            runner.execute_in_background(runner.astop)
            serving.result()


def _check_cron(expression: str) -> None:
    from datetime import UTC, datetime

    from cronsim import CronSim, CronSimError

    try:
        CronSim(expression, datetime.now(UTC))
    except CronSimError as error:
        raise ConfigError(
            f'{expression!r} is not a cron expression ({error}); for instance "0 2 * * *" is 02:00 every day'
        ) from error


@contextlib.contextmanager
def prefect_server(project: Project) -> Iterator[str]:
    """Use the server at ``PREFECT_API_URL``, or run one on loopback as long as the block lasts."""
    if user_url := os.environ.get("PREFECT_API_URL"):
        if not _answers(user_url):
            raise ToolError(f"no Prefect server answers at PREFECT_API_URL={user_url}; start it, or unset the variable")
        with _prefect_errors(user_url):
            yield user_url
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    log = project.state / "prefect-server.log"
    log.parent.mkdir(exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "assay.runs.local_server",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with (
        log.open("wb") as stream,
        # Its own session, so that Ctrl-C reaches the run alone, which still reports its end to the server.
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=stream, stderr=stream, start_new_session=True
        ) as server,
    ):
        try:
            _wait(url, server, str(log))
            os.environ["PREFECT_API_URL"] = url
            with _prefect_errors(url):
                yield url
        finally:
            os.environ.pop("PREFECT_API_URL", None)
            _stop(server)


@contextlib.contextmanager
def _prefect_errors(url: str) -> Iterator[None]:
    """Turn exceptions of Prefect's client, when its server is not usable any longer, into `ToolError`."""
    try:
        yield
    except Exception as error:
        if _raised_in(error) not in ("httpx", "prefect"):
            raise
        raise ToolError(f"Prefect failed with its server at {url}: {type(error).__name__}: {error}") from error


def _raised_in(error: Exception) -> str:
    """Return the name of the package whose code raised an error."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__", "")).partition(".")[0] if frames else ""


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None and "prefect.events.worker" in sys.modules:
        from prefect.events.worker import EventsWorker

        # Send pending events now: at exit Prefect would spend seconds looking for a server that is gone.
        EventsWorker.drain_all(timeout=STOP_SECONDS)
    server.terminate()
    try:
        server.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()


def _wait(url: str, server: subprocess.Popen[bytes], log: str) -> None:
    """Wait until the server answers; starting may take minutes on a slow machine."""
    end = time.monotonic() + HANG_SECONDS
    while not _answers(url):
        if server.poll() is not None or time.monotonic() > end:
            raise ToolError(f"the local Prefect server did not start; its log is {log}")
        time.sleep(0.3)


def _answers(url: str) -> bool:
    try:
        with urlopen(f"{url.rstrip('/')}/health", timeout=60):
            return True
    except HTTPError as error:
        return error.code < 500
    except (OSError, HTTPException, ValueError):
        return False
