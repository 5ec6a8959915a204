"""OpenLineage events of runs and stages.

Every event is appended to ``.assay/openlineage.jsonl``, and goes to a backend only where one is set in
OpenLineage's own way (``OPENLINEAGE_URL``, ``OPENLINEAGE_CONFIG``, ``openlineage.yml``); ``OPENLINEAGE_DISABLED=true``
stops both. A failure here never stops the work: it is printed as one line.

A run is the job ``<dataset>.run``, a stage ``<dataset>.<stage>`` or, for one detector,
``<dataset>.<stage>.<detector>``; an ingest is ``<dataset>.ingest``, a promotion ``<dataset>.promote``. The namespace of
jobs and datasets is that of `assay.openlineage.naming`, and datasets are named by their paths in the project. Under
``dvc repro`` there is no run, so that stages have no parent; a fresh stage does not run and has no events. The official
client sends what goes to a backend; without one it is not imported.
"""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from assay import console
from assay.openlineage.naming import RUN
from assay.project.layout import Project

_EMITTING = threading.Lock()
_open_runs: dict[Path, str] = {}


def new_run_id() -> str:
    """Return a fresh id for a run, a UUIDv7 (RFC 9562): ids sort by time."""
    milliseconds = time.time_ns() // 10**6
    bits = milliseconds << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=bits))


def emit_run_started(project: Project, run: str) -> None:
    """Emit START of a run, which is the parent of the stages that this process runs until it ends."""
    _open_runs[project.root] = run
    with _harmless():
        from assay.openlineage.events import Job, emit

        emit(project, Job(project, RUN, run), "START")


def emit_run_ended(project: Project, run: str, error: BaseException | None) -> None:
    """Emit the end of a run: COMPLETE, FAIL with its error, or ABORT where it was interrupted."""
    _open_runs.pop(project.root, None)
    with _harmless():
        from assay.openlineage.events import Job, emit

        emit(project, Job(project, RUN, run), _outcome(error), error)


def emit_done(project: Project, what: str) -> None:
    """Emit COMPLETE of an ingest or a promotion ("ingest", "promote") of the project's dataset."""
    with _harmless():
        from assay.openlineage.events import Job, emit

        emit(project, Job(project, what, new_run_id(), _open_runs.get(project.root)), "COMPLETE")


@contextmanager
def stage_events(project: Project, stage: str) -> Iterator[Callable[[], None]]:
    """Emit START and end of a stage; yields a function to call when its work begins (never for a fresh stage)."""
    run = ""

    def begin() -> None:
        nonlocal run
        run = new_run_id()
        with _harmless():
            from assay.openlineage.events import Job, emit

            emit(project, Job(project, stage, run, _open_runs.get(project.root)), "START")

    def end(error: BaseException | None) -> None:
        with _harmless():
            from assay.openlineage.events import Job, emit

            emit(project, Job(project, stage, run, _open_runs.get(project.root)), _outcome(error), error)

    try:
        yield begin
    except BaseException as error:
        if not run:
            begin()
        end(error)
        raise
    if run:
        end(None)


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "COMPLETE"
    return "FAIL" if isinstance(error, Exception) else "ABORT"


@contextmanager
def _harmless() -> Iterator[None]:
    try:
        with _EMITTING:
            yield
    except Exception as error:
        console.say(f"OpenLineage: an event could not be written, the run goes on: {type(error).__name__}: {error}")
