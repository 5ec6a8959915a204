"""OpenLineage events as the official client's objects, and where they go."""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from openlineage.client.client import OpenLineageClient
from openlineage.client.event_v2 import Job as JobOfEvent
from openlineage.client.event_v2 import Run, RunEvent, RunState
from openlineage.client.facet_v2 import RunFacet, error_message_run, job_type_job, parent_run, set_producer
from openlineage.client.transport.file import FileConfig, FileTransport

from assay import __version__, console
from assay.openlineage.datasets import input_datasets, output_datasets
from assay.project.layout import Project

# The package knows no public address of Assay, so the producer is a package URL.
set_producer(f"pkg:generic/assay@{__version__}")

LOG = "openlineage.jsonl"
SECONDS_TO_FLUSH = 10.0


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a job.

    Attributes
    ----------
    project : Project
    name : str
        Name of a stage as in DVC, or "run".
    run : str
        Its UUID.
    parent : str or None
        UUID of the run that it belongs to.
    """

    project: Project
    name: str
    run: str
    parent: str | None = None

    @property
    def namespace(self) -> str:
        """Namespace of the project's jobs."""
        return os.environ.get("OPENLINEAGE_NAMESPACE") or self.project.root.name

    def full_name(self, name: str) -> str:
        """Name of a job in the namespace: the same verb on other data, or of another detector, is another job."""
        if name == "run":
            return f"{self.project.dataset}.run"
        stage = self.project.stage(name)
        return ".".join(filter(None, (stage.dataset, stage.verb, stage.detector)))

    def event(self, state: str, error: BaseException | None) -> RunEvent:
        """Return an event of the present time: with its inputs, and with its outputs once it is complete."""
        kind = job_type_job.JobTypeJobFacet("BATCH", "ASSAY", "RUN" if self.name == "run" else "STAGE")
        return RunEvent(
            eventType=RunState(state),
            eventTime=datetime.now(UTC).isoformat(timespec="milliseconds"),
            run=Run(self.run, self._run_facets(error)),
            job=JobOfEvent(self.namespace, self.full_name(self.name), {"jobType": kind}),
            inputs=input_datasets(self.project, self.name),
            outputs=output_datasets(self.project, self.name) if state == "COMPLETE" else [],
        )

    def _run_facets(self, error: BaseException | None) -> dict[str, RunFacet]:
        facets: dict[str, RunFacet] = {}
        if self.parent is not None:
            above = parent_run.Job(self.namespace, self.full_name("run"))
            facets["parent"] = parent_run.ParentRunFacet(parent_run.Run(self.parent), above)
        if error is not None:
            message = str(error) or type(error).__name__
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(message, "python")
        return facets


def emit(project: Project, job: Job, state: str, error: BaseException | None = None) -> None:
    """Append an event to the project's file, and send it to the user's backend where one is set."""
    if os.environ.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true":
        return
    event = job.event(state, error)
    _file(project.root).emit(event)
    backend = _backend(project.root)
    if backend.client is None:
        return
    try:
        backend.client.emit(event)
    except Exception as problem:
        backend.client = None
        console.say(
            f"OpenLineage: the backend could not be reached; this process sends it no more events, "
            f"all events stay in .assay/{LOG}: {type(problem).__name__}: {problem}"
        )


@lru_cache(maxsize=8)
def _file(root: Path) -> OpenLineageClient:
    path = root / ".assay" / LOG
    path.parent.mkdir(exist_ok=True)
    return _discreet(OpenLineageClient(transport=FileTransport(FileConfig(str(path), append=True))))


class _Backend:
    """The user's backend; `client` is None where none is set, and once it has failed."""

    def __init__(self, configured: bool) -> None:
        self.client = _discreet(OpenLineageClient()) if configured else None
        if self.client is not None:
            atexit.register(self.client.close, SECONDS_TO_FLUSH)


@lru_cache(maxsize=8)
def _backend(root: Path) -> _Backend:
    transport = _file(root).config.transport or {}
    return _Backend(bool(transport.get("type") or os.environ.get("OPENLINEAGE_URL")))


def _discreet(client: OpenLineageClient) -> OpenLineageClient:
    """Keep the client from reading the address of the Git remote, which may hold a password, unless one is set."""
    location = client.config.facets.source_code_location
    location.disabled = location.disabled or location.repo_url is None
    return client
