"""Serving the retraining flow on a schedule, through Prefect."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen
from uuid import UUID

from assay import console
from assay.errors import AssayError, ConfigError, ToolError
from assay.interruption import interruptible
from assay.runs.arrivals import champion_alarms, waiting

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, StateType
    from prefect.runner import Runner

    from assay.project.layout import Project

SCHEDULED = "ASSAY_SCHEDULED"
PASSWORD = "PREFECT_API_AUTH_STRING"  # what Prefect's clients send
HANG_SECONDS = 30 * 60
STOP_SECONDS = 3
LOOK_SECONDS = 5


def serve_schedule(
    project: Project,
    *,
    cron: str | None,
    interval: float | None,
    folder: Path | None,
    on_alarm: bool,
    dataset: str | None,
) -> None:
    """Serve the flow until a signal ends it and its current run; runs never overlap.

    Parameters
    ----------
    project : Project
    cron : str or None
        Cron expression, in UTC.
    interval : float or None
        Seconds between runs.
    folder : Path or None
        A run adds every new file of it to the dataset first. Where nothing else says when, one is started as soon as
        there is such a file.
    on_alarm : bool
        A run is started when a monitor of the champion's answers has raised an alarm.
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
    clock: dict[str, Any] = {"cron": cron} if cron is not None else {}
    if interval is not None:
        clock = {"interval": timedelta(seconds=interval)}
    with interruptible(), prefect_server(project) as url:
        from prefect import Flow
        from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
        from prefect.runner import Runner

        # From source, so that the process of each run can import it.
        flow: Any = Flow.from_source(source=str(project.root), entrypoint="flows/retrain.py:retrain")
        name = dataset or project.dataset
        runner = Runner(name=f"retrain-{name}", limit=1, pause_on_shutdown=True)
        # The flow is the user's: one of before knows no folder of new files.
        parameters = {"dataset": dataset} | ({} if folder is None else {"new_data": str(folder)})
        deployment: Any = runner.add_flow(
            flow,
            name=runner.name,
            parameters=parameters,
            tags=["assay", f"dataset:{name}"],
            # A run that was due while another one worked is dropped: it would find the same data.
            concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
            **clock,
        )
        _drop_missed(deployment)
        watch = _Watch(project.on(name), None if clock or on_alarm else folder, deployment, alarms=on_alarm)
        timings = [f"cron {cron} (UTC)"] if cron is not None else [f"every {interval:g} s"] if clock else []
        timings += [f"on {what}" for what in watch.looks_for]
        path = password_path(project, url)
        login = f" (its page asks for what is in {path.relative_to(project.root)})" if path.is_file() else ""
        console.say(f"retraining {name}: {', '.join(timings)}; Prefect at {url}{login}; stop with Ctrl-C")
        os.environ[SCHEDULED] = "1"
        _serve(runner, watch.look if watch.looks_for else None)


def _serve(runner: Runner, look: Callable[[], None] | None) -> None:
    """Serve in another thread, where Prefect installs no signal handlers: these would wait for the end of a run.

    Meanwhile `look` is called now and then.
    """
    with ThreadPoolExecutor(1) as thread:
        serving = thread.submit(lambda: asyncio.run(runner.start()))
        try:
            while look is not None and not wait([serving], timeout=LOOK_SECONDS).done:
                look()
            serving.result()
        except KeyboardInterrupt:
            runner.execute_in_background(runner.astop)
            serving.result()
        except BaseException:
            runner.execute_in_background(runner.astop)
            raise


class _Watch:
    """Starts a run of a deployment when a folder holds new files, or monitors of the champion have raised an alarm."""

    def __init__(self, project: Project, folder: Path | None, deployment: UUID, *, alarms: bool = False) -> None:
        self._project, self._folder, self._deployment = project, folder, deployment
        self._alarms = alarms
        self._started_for: dict[str, list[int]] = {}
        self._problem = ""

    @property
    def looks_for(self) -> list[str]:
        """What it starts runs for, in words."""
        return ["new files"] * (self._folder is not None) + ["alarms"] * self._alarms

    def look(self) -> None:
        """Start a run if there is reason to; what cannot be asked now is said once and asked again."""
        from httpx import HTTPError

        try:
            self._start()
            self._problem = ""
        except (OSError, HTTPError, AssayError) as error:
            if str(error) != self._problem:
                self._problem = str(error)
                console.say(f"no look for {' and '.join(self.looks_for)} now, it is tried again: {error}")

    def _start(self) -> None:
        """Start a run for new files and alarms. One that failed is not repeated until there are others."""
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.objects import StateType

        reasons = {} if self._folder is None else waiting(self._project, self._folder)
        reasons |= champion_alarms(self._project) if self._alarms else {}
        if not reasons or reasons == self._started_for:
            return
        with get_client(sync_client=True) as client:
            if not _due_runs(client, self._deployment, [StateType.PENDING, StateType.RUNNING, StateType.SCHEDULED]):
                client.create_flow_run_from_deployment(self._deployment)
                self._started_for = reasons


def _drop_missed(deployment: UUID) -> None:
    """Delete the runs that were due while no schedule was served, which Prefect would start now, one by one.

    Not those that wait to go on with the answer of a person.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType

    with get_client(sync_client=True) as client:
        for run in _due_runs(client, deployment, [StateType.SCHEDULED]):
            if not run.empirical_policy.pause_keys:
                client.delete_flow_run(run.id)


def _due_runs(client: SyncPrefectClient, deployment: UUID, states: list[StateType]) -> list[FlowRun]:
    """Return the runs of a deployment that are in one of some states; not those that a clock has planned for later."""
    from prefect.client.schemas import filters

    state = filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=states))
    runs = client.read_flow_runs(
        deployment_filter=filters.DeploymentFilter(id=filters.DeploymentFilterId(any_=[deployment])),
        flow_run_filter=filters.FlowRunFilter(state=state),
    )
    now = datetime.now(UTC)
    return [run for run in runs if run.expected_start_time is None or run.expected_start_time <= now]


def _check_cron(expression: str) -> None:
    from cronsim import CronSim, CronSimError

    try:
        CronSim(expression, datetime.now(UTC))
    except CronSimError as error:
        raise ConfigError(
            f'{expression!r} is not a cron expression ({error}); for instance "0 2 * * *" is 02:00 every day'
        ) from error


@contextlib.contextmanager
def prefect_server(project: Project) -> Iterator[str]:
    """Use the server at ``PREFECT_API_URL``, or run one on loopback as long as the block lasts.

    Whoever may send requests to the server of a schedule may have it run any file as its user. So one that is run here
    answers only those who know a password, which the environments of this process and of its own hold, and a file that
    nobody else can read.
    """
    if user_url := os.environ.get("PREFECT_API_URL"):
        if not _answers(user_url):
            raise ToolError(f"no Prefect server answers at PREFECT_API_URL={user_url}; start it, or unset the variable")
        with _prefect_errors(user_url):
            yield user_url
        return
    for left in project.state.glob("prefect-*.password"):
        if not _answers(f"http://127.0.0.1:{left.stem.partition('-')[2]}/api"):  # of a command that was killed
            left.unlink(missing_ok=True)
    password, former = f"assay:{secrets.token_urlsafe(24)}", os.environ.get(PASSWORD)
    with local_server(project, PREFECT_SERVER_API_AUTH_STRING=password) as url:
        path = password_path(project, url)
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(f"{password}\n", encoding="utf-8")
        os.environ |= {"PREFECT_API_URL": url, PASSWORD: password}
        try:
            with _prefect_errors(url):
                yield url
        finally:
            del os.environ["PREFECT_API_URL"], os.environ[PASSWORD]
            os.environ |= {} if former is None else {PASSWORD: former}
            path.unlink(missing_ok=True)


def password_path(project: Project, url: str) -> Path:
    """Return the file of the password of the server that a command of Assay runs at an address."""
    return project.state / f"prefect-{urlsplit(url).port}.password"


@contextlib.contextmanager
def local_server(project: Project, **settings: str) -> Iterator[str]:
    """Run a Prefect server on loopback, with further settings, as long as the block lasts."""
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
            command,
            # Its page would look for the server at the usual port.
            env={"PREFECT_UI_API_URL": url, **os.environ, **settings},
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        ) as server,
    ):
        try:
            _wait(url, server, str(log))
            yield url
        finally:
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
