"""Deployment records: the champion of a dataset, since when and why; small files for Git."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from assay.errors import ScorerError
from assay.eventlog import EventLog
from assay.parts import canonical_json, is_there, read_json
from assay.project.pending import Change


@dataclass(frozen=True, slots=True)
class Deployment:
    """The champion of a dataset.

    Attributes
    ----------
    name, version, tag : str
        The scorer: ``tag`` is ``name:version``.
    bento : str
        Tag of the Bento that serves it.
    reason : str
        Why it was promoted.
    since : str
        When, in UTC, ISO 8601.
    previous : str or None
        Version of the champion before it, for a roll-back.
    statement : str or None
        Id of the statement of where the scorer comes from; None in records of before there were any.
    """

    name: str
    version: str
    tag: str
    bento: str
    reason: str
    since: str
    previous: str | None
    statement: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the content of the record, as it was written if an older Assay wrote it."""
        return {name: value for name, value in asdict(self).items() if name != "statement" or value is not None}


def deployment_path(root: Path, name: str) -> Path:
    """Return the path of a dataset's deployment record."""
    return root / "deployments" / f"{name}.json"


def read_deployment(root: Path, name: str) -> Deployment | None:
    """Return the deployment of a dataset, or None where nothing was promoted yet.

    Raises
    ------
    ScorerError
        The record cannot be read.
    """
    path = deployment_path(root, name)
    if not is_there(path):
        return None
    try:
        return Deployment(**read_json(path))
    except (TypeError, UnicodeDecodeError, ScorerError) as error:
        raise ScorerError(
            f"{path} is not a deployment record: {error}; remove it and name the champion again with `assay promote`"
        ) from error


def read_deployments(root: Path) -> tuple[dict[str, Deployment], dict[str, str]]:
    """Return the deployments of all datasets that have one, and for each that cannot be read the reason, by name."""
    deployments: dict[str, Deployment] = {}
    unreadable: dict[str, str] = {}
    for path in sorted((root / "deployments").glob("*.json")):
        try:
            if (deployment := read_deployment(root, path.stem)) is not None:
                deployments[path.stem] = deployment
        except (ScorerError, OSError) as error:
            unreadable[path.stem] = str(error)
    return deployments, unreadable


def promote(root: Path, name: str, version: str, *, statement: str, bento: str, reason: str) -> Deployment:
    """Make a scorer the champion: log it and write the record. Call it under the project's lock.

    Promoting the champion again keeps ``previous`` unchanged.
    """
    current = read_deployment(root, name)
    previous = None
    if current is not None:
        previous = current.previous if current.version == version else current.version
    deployment = Deployment(
        name=name,
        version=version,
        tag=f"{name}:{version}",
        bento=bento,
        reason=reason,
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        previous=previous,
        statement=statement,
    )
    details = {
        **{part: getattr(deployment, part) for part in ("name", "version", "statement", "bento", "reason", "since")},
        "replaces": previous,
    }
    with Change(root) as change:
        change.write(deployment_path(root, name), canonical_json(deployment.to_json()).encode())
        change.commit("promoted", details)
    return deployment


def keep(root: Path, name: str, version: str, *, statement: str, reason: str, events: EventLog) -> None:
    """Log that the champion stays although the scorer ``name:version``, by a statement, challenged it."""
    current = read_deployment(root, name)
    champion, its_own = (None, None) if current is None else (current.version, current.statement)
    events.append(
        "champion-kept",
        name=name,
        version=champion,
        statement=its_own,
        challenger=version,
        challenger_statement=statement,
        reason=reason,
    )
