"""Serving the retraining flow on a clock, through Prefect."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.request import urlopen

from assay import console
from assay.errors import ConfigError, ToolError

if TYPE_CHECKING:
    from assay.project import Project

START_SECONDS = 120


def serve_schedule(project: Project, *, cron: str | None, interval: float | None, dataset: str | None) -> None:
    """Serve the flow until interrupted; runs never overlap.

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
    with prefect_server(project):
        from prefect import Flow

        # By address, so that the process of each run can import it again.
        flow: Any = Flow.from_source(source=str(project.root), entrypoint="flows/retrain.py:retrain")
        what = f"cron {cron} (UTC)" if cron is not None else f"every {interval:g} s"
        name = dataset or project.dataset
        console.say(f"retraining {name}: {what}; Prefect at {os.environ['PREFECT_API_URL']}; stop with Ctrl-C")
        flow.serve(
            name=f"retrain-{name}",
            parameters={"dataset": dataset},
            limit=1,
            pause_on_shutdown=True,
            print_starting_message=False,
            **clock,
        )


def _check_cron(expression: str) -> None:
    from datetime import UTC, datetime

    from cronsim import CronSim, CronSimError

    try:
        CronSim(expression, datetime.now(UTC))
    except CronSimError as error:
        raise ConfigError(
            f'{expression!r} is no cron expression ({error}); for instance "0 2 * * *" is 02:00 every day'
        ) from error


@contextlib.contextmanager
def prefect_server(project: Project) -> Iterator[str]:
    """Use the server at ``PREFECT_API_URL``, or run one on loopback as long as the block lasts."""
    if given := os.environ.get("PREFECT_API_URL"):
        if not _answers(given):
            raise ToolError(f"no Prefect server answers at PREFECT_API_URL={given}; start it, or unset the variable")
        yield given
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    log = project.state / "prefect-server.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as stream:
        command = [
            sys.executable,
            "-m",
            "prefect",
            "server",
            "start",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        server = subprocess.Popen(command, stdout=stream, stderr=stream)
        try:
            _wait(url, server, str(log))
            os.environ["PREFECT_API_URL"] = url
            yield url
        finally:
            os.environ.pop("PREFECT_API_URL", None)
            server.terminate()
            server.wait(timeout=30)


def _wait(url: str, server: subprocess.Popen[bytes], log: str) -> None:
    end = time.monotonic() + START_SECONDS
    while not _answers(url):
        if server.poll() is not None or time.monotonic() > end:
            raise ToolError(f"the local Prefect server did not start; its log is {log}")
        time.sleep(0.3)


def _answers(url: str) -> bool:
    try:
        with urlopen(f"{url.rstrip('/')}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError, ValueError):
        return False
