"""OpenLineage events as JSON, and where they go: a file, and the user's backend through the official client.

The client is imported only where settings of OpenLineage stand: importing it takes half a second of every stage.
"""

from __future__ import annotations

import atexit
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from assay import console
from assay.errors import ValidationFailedError
from assay.openlineage.datasets import (
    PRODUCER,
    SPECIFICATION,
    Checks,
    Json,
    input_datasets,
    output_datasets,
    standard_facet,
)
from assay.openlineage.naming import WHOLE_JOBS, code_location, namespace_of
from assay.parts import read_json
from assay.project.layout import Project

if TYPE_CHECKING:
    from openlineage.client.client import OpenLineageClient
    from openlineage.client.event_v2 import RunEvent

LOG = "openlineage.jsonl"
MOST_KEPT = 64 * 2**20  # of the file and of the one before it; what Assay itself knows is in the event log
BACKEND_SETTINGS = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG")
PREFIX = "OPENLINEAGE__"  # of further settings
SETTINGS_FILE = "openlineage.yml"  # in the current folder or in ~/.openlineage
SECONDS_TO_FLUSH = 10.0


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a job.

    Attributes
    ----------
    project : Project
    name : str
        Name of a stage as in DVC, or "run", "ingest" or "promote".
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
        return namespace_of(self.project.root)

    def full_name(self, name: str) -> str:
        """Name of a job in the namespace: the same verb on other data, or of another detector, is another job."""
        if name in WHOLE_JOBS:
            return f"{self.project.dataset}.{name}"
        stage = self.project.stage(name)
        return ".".join(filter(None, (stage.dataset, stage.verb, stage.detector)))

    def event(self, state: str, error: BaseException | None) -> Json:
        """Return an event of the present time: with its inputs, and with its outputs once it is complete."""
        what = self.name.upper() if self.name in WHOLE_JOBS else "STAGE"
        kind = {"processingType": "BATCH", "integration": "ASSAY", "jobType": what}
        facets = {"jobType": standard_facet("2-0-4", "JobTypeJobFacet", **kind)}
        if (location := code_location(self.project.root)) is not None:
            facets["sourceCodeLocation"] = standard_facet("1-1-0", "SourceCodeLocationJobFacet", **location)
        return {
            "eventType": state,
            "eventTime": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "producer": PRODUCER,
            "schemaURL": f"{SPECIFICATION}/2-0-2/OpenLineage.json#/$defs/RunEvent",
            "run": {"runId": self.run, "facets": self._run_facets(error)},
            "job": {"namespace": self.namespace, "name": self.full_name(self.name), "facets": facets},
            "inputs": input_datasets(self.project, self.name, self._checks(state, error)),
            "outputs": output_datasets(self.project, self.name) if state == "COMPLETE" else [],
        }

    def _checks(self, state: str, error: BaseException | None) -> Checks:
        """Return the checks of a validation that ended, by what was checked."""
        if isinstance(error, ValidationFailedError):
            return error.checks
        if state != "COMPLETE" or self.name in WHOLE_JOBS or self.project.stage(self.name).verb != "validate":
            return {}
        checks: Checks = read_json(self.project.folder("validate") / "summary.json")["batches"]
        return checks

    def _run_facets(self, error: BaseException | None) -> Json:
        facets = {}
        if self.parent is not None:
            job = {"namespace": self.namespace, "name": self.full_name("run")}
            facets["parent"] = standard_facet("1-2-0", "ParentRunFacet", run={"runId": self.parent}, job=job)
        if error is not None:
            # The backend is elsewhere, where no path of this machine says anything.
            message = (str(error) or type(error).__name__).replace(f"{self.project.root}/", "")
            fields = {"message": message, "programmingLanguage": "python"}
            facets["errorMessage"] = standard_facet("1-0-1", "ErrorMessageRunFacet", **fields)
        return facets


def emit(project: Project, job: Job, state: str, error: BaseException | None = None) -> None:
    """Append an event to the project's file, and send it to the user's backend where one is set."""
    if os.environ.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true":
        return
    event = job.event(state, error)
    path = project.root / ".assay" / LOG
    path.parent.mkdir(exist_ok=True)
    if path.is_file() and path.stat().st_size >= MOST_KEPT:
        path.replace(path.with_suffix(".former.jsonl"))
    with path.open("a", encoding="utf-8") as stream:
        stream.write(f"{json.dumps(event, sort_keys=True)}\n")
    backend = _backend()
    if backend.client is None:
        return
    try:
        backend.client.emit(_as_object(event))
    except Exception as problem:
        backend.client = None
        console.say(
            f"OpenLineage: the backend could not be reached; this process sends it no more events, "
            f"all events stay in .assay/{LOG}: {type(problem).__name__}: {problem}"
        )


class _Backend:
    """The user's backend; `client` is None where none is set, and once it has failed."""

    def __init__(self, client: OpenLineageClient | None) -> None:
        self.client = client
        if client is not None:
            atexit.register(client.close, SECONDS_TO_FLUSH)


@lru_cache(maxsize=1)
def _backend() -> _Backend:
    """Return the backend that the settings name, which the client reads in OpenLineage's own way."""
    folders = (Path.cwd(), Path.home() / ".openlineage")
    is_set = any(name in BACKEND_SETTINGS or name.startswith(PREFIX) for name in os.environ)
    if not is_set and not any((folder / SETTINGS_FILE).is_file() for folder in folders):
        return _Backend(None)
    from openlineage.client.client import OpenLineageClient
    from openlineage.client.transport.noop import NoopConfig, NoopTransport

    transport = OpenLineageClient(transport=NoopTransport(NoopConfig())).config.transport or {}
    if not transport.get("type") and not os.environ.get("OPENLINEAGE_URL"):
        return _Backend(None)
    return _Backend(_discreet(OpenLineageClient()))


def _discreet(client: OpenLineageClient) -> OpenLineageClient:
    """Keep the client from reading the address of the Git remote, which may hold a password, unless one is set."""
    location = client.config.facets.source_code_location
    location.disabled = location.disabled or location.repo_url is None
    return client


def _as_object(event: Json) -> RunEvent:
    """Return an event as the client takes it; it sends facets as they are."""
    from openlineage.client.event_v2 import InputDataset, OutputDataset, Run, RunEvent, RunState
    from openlineage.client.event_v2 import Job as JobOfEvent

    return RunEvent(
        eventType=RunState(event["eventType"]),
        eventTime=event["eventTime"],
        run=Run(**event["run"]),
        job=JobOfEvent(**event["job"]),
        inputs=[InputDataset(**dataset) for dataset in event["inputs"]],
        outputs=[OutputDataset(**dataset) for dataset in event["outputs"]],
        producer=event["producer"],
    )
