"""What is seen of a run outside: in Prefect names, tags, artifacts and events, and messages to a URL of the user."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

from assay import console
from assay.errors import AssayError, ConfigError, ValidationFailedError
from assay.project.layout import Project
from assay.runs.artifacts import artifact_key, create_artifact
from assay.runs.delivery import left_to_a_person

if TYPE_CHECKING:
    from assay.runs.arrivals import Arrived
    from assay.runs.run import Result

PROMOTED, KEPT, ASKED = "assay.champion.promoted", "assay.champion.kept", "assay.champion.asked"
INVALID, REFUSED, FAILED = "assay.validation.failed", "assay.file.refused", "assay.run.failed"
ALARM = "assay.monitor.alarm"
NOTIFY = "ASSAY_NOTIFY_URL"
NOTIFY_SECONDS = 10


def run_name(root: Path) -> str:
    """Return the name of the present flow run: the dataset in its parameters or in params.yaml, and the minute."""
    from prefect.runtime import flow_run

    dataset = _dataset(Project(root), flow_run.parameters.get("dataset"))
    return f"{dataset} {datetime.now(UTC):%Y-%m-%d %H:%M}"


def _dataset(project: Project, dataset: str | None) -> str:
    with suppress(AssayError):
        return dataset or project.dataset
    return "retrain"


def tags_of(project: Project) -> set[str]:
    """Return the tags of the runs of a project's dataset."""
    return {"assay", f"dataset:{project.dataset}"}


def keep_artifacts(result: Result, root: Path | None = None) -> None:
    """Keep the leaderboard, the verdict and the report of a run in a project as artifacts of the present flow run."""
    from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

    create_artifact(
        create_table_artifact,
        table=leaderboard_table(result),
        key=artifact_key("leaderboard", result.dataset),
        description=f"{result.dataset}: test rows, trained without injected rows, flagged at eps {result.eps:g}",
    )
    facts = {
        "scorer": result.scorer,
        "champion": result.champion,
        "choice": result.choice,
        "p-values": f"{result.guarantee} {result.band}".strip(),
        "report": result.report,
        "lineage": result.record,
    }
    lines = [
        f"**{result.dataset}**: {_plain(result.verdict)}",
        *(f"- {name}: {_plain(text)}" for name, text in facts.items() if text),
    ]
    create_artifact(
        create_markdown_artifact,
        markdown="\n".join(lines),
        key=artifact_key("verdict", result.dataset),
        description=_plain(result.verdict),
    )
    if root is not None:
        create_artifact(
            create_link_artifact,
            link=(root / result.report).as_uri(),
            link_text=result.report,
            key=artifact_key("report", result.dataset),
            description=f"The report on {result.dataset}, a file of the machine that ran it",
        )


def leaderboard_table(result: Result) -> list[dict[str, Any]]:
    """Return the leaderboard, a row for each candidate, by the names of columns that a run prints."""
    from assay.runs.report import NUMBERS, figure_names

    names = figure_names(result.eps, result.evidence)
    return [
        {
            "candidate": f"{row.detector}+{row.adapter}",
            "state": row.state,
            **{name: _rounded(getattr(row, field)) for name, field in zip(names, NUMBERS, strict=True)},
            "fit s": _rounded(row.fit_seconds),
            "reason": row.reason,
        }
        for row in result.candidates
    ]


def show_verdict(result: Result, before: str | None) -> None:
    """Say whether a run changed the champion, which was `before` (a tag, or None) until then."""
    promoted = result.champion != before
    log_line(f"{result.scorer}: {result.verdict}")
    _emit(
        PROMOTED if promoted else ASKED if left_to_a_person(result.verdict) else KEPT,
        result.dataset,
        f"{result.champion} is the champion now: {result.verdict}" if promoted else result.verdict,
        champion=result.champion,
        before=before,
        statement=result.champion_statement,
        scorer=result.scorer,
    )


def show_refusal(dataset: str, text: str) -> None:
    """Say that a person did not promote a scorer."""
    log_line(text)
    _emit(KEPT, dataset, text)


def show_failure(project: Project, dataset: str | None, error: Exception) -> None:
    """Say why a run on a dataset failed, or on the one in params.yaml, if that can be read."""
    event = INVALID if isinstance(error, ValidationFailedError) else FAILED
    _emit(event, _dataset(project, dataset), f"the run failed: {error}")


def show_arrivals(project: Project, arrived: list[Arrived]) -> None:
    """Say which files were added to a dataset, and which were refused and why."""
    for file in arrived:
        line = f"{file.source}: {file.reason or f'added as batch {file.batch}'}"
        console.say(line)
        log_line(line)
        if file.error is not None:
            event = INVALID if isinstance(file.error, ValidationFailedError) else REFUSED
            _emit(event, project.dataset, f"{file.source} was not added: {file.reason}", source=file.source)


def log_line(text: str) -> None:
    """Write a line to the log of the present flow or task run, which Prefect's server keeps."""
    from prefect.exceptions import MissingContextError
    from prefect.logging import get_run_logger

    try:
        get_run_logger().info(text)
    except MissingContextError:
        return


def _emit(event: str, dataset: str, text: str, **details: str | None) -> None:
    """Emit an event of Prefect, and post the same to the URL in `NOTIFY`, if there is one."""
    from prefect.events import emit_event

    payload = {"text": f"{dataset}: {text}", **details}
    emit_event(event, resource={"prefect.resource.id": f"assay.dataset.{dataset}"}, payload=payload)
    notify(event, dataset, text, **details)


def emit_alarm(event: str, dataset: str, text: str, **details: str | None) -> bool:
    """Emit an event on the Prefect server at ``PREFECT_API_URL``, if there is one; return whether nothing is left.

    Unlike `_emit` it says whether the server has taken it.
    """
    if not os.environ.get("PREFECT_API_URL"):
        return True
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.events import Event, Resource

    resource = Resource({"prefect.resource.id": f"assay.dataset.{dataset}"})
    content = Event(event=event, resource=resource, payload={"text": f"{dataset}: {text}", **details})
    try:
        with get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[content.model_dump(mode="json")]).raise_for_status()
    except Exception as error:  # the alarm is reported in other ways meanwhile
        console.say(f"{event} was not emitted on the Prefect server: {type(error).__name__}")
        return False
    return True


def notify(event: str, dataset: str, text: str, **details: str | None) -> bool:
    """Post an event to the URL in `NOTIFY`, if there is one; return whether nothing is left to post."""
    url = os.environ.get(NOTIFY)
    return not url or _post(url, {"event": event, "dataset": dataset, "text": f"{dataset}: {text}", **details})


def require_url(url: str) -> str:
    """Return a URL to which messages can be posted, or raise `ConfigError`."""
    if not re.fullmatch(r"https?://[^\s/]+\S*", url):
        raise ConfigError(f"--notify {url!r} is not an address that begins with http:// or https://")
    return url


def _post(url: str, message: dict[str, str | None]) -> bool:
    headers = {"Content-Type": "application/json"}
    try:
        request = Request(url, json.dumps(message).encode(), headers, method="POST")
        with urlopen(request, timeout=NOTIFY_SECONDS):
            return True
    except (OSError, HTTPException, ValueError) as error:  # the run is not to fail for it, nor the URL to be printed
        console.say(f"{message['event']} was not posted to the URL of --notify: {type(error).__name__}")
        return False


def _rounded(value: float | None) -> float | str:
    return "" if value is None else round(value, 4)


def _plain(text: str) -> str:
    """Return a text in which Markdown finds nothing to format: labels and names are the user's."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", text)
