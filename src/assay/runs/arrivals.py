"""What runs are started for: files in a folder, each added to a dataset once, as a batch; and alarms of monitors."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.errors import AssayError, ConfigError, DataError, InputError, ValidationFailedError
from assay.openlineage.client import emit_done
from assay.parts import read_json, write_json
from assay.project.deployment import read_deployment
from assay.project.layout import Project

SETTLED_SECONDS = 10
ALARMED = "monitor-alarm"  # the event in the log
REFUSALS = (DataError, InputError, ValidationFailedError)
UNFINISHED = (".part", ".tmp", ".crdownload")


@dataclass(frozen=True, slots=True)
class Arrived:
    """What became of a file.

    Attributes
    ----------
    source : str
        Its name in the folder.
    batch : str or None
        Id of its batch; None where it was refused.
    reason : str
        Why it was refused, or ''.
    error : AssayError or None
    """

    source: str
    batch: str | None
    reason: str = ""
    error: AssayError | None = None


def require_folder(folder: Path) -> Path:
    """Return a folder's absolute path, or raise `ConfigError` if there is none."""
    if not folder.is_dir():
        raise ConfigError(f"--on-new-data {folder} is not a folder; make it, then put CSV or Parquet files into it")
    return folder.resolve()


def states(folder: Path) -> dict[str, list[int]]:
    """Return size in bytes and time of change in nanoseconds of every file, or part of a folder of parts, by name.

    Hidden files, and those with a suffix that marks them as unfinished, are left out.
    """
    by_name: dict[str, list[int]] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "_")) or path.name.endswith(UNFINISHED):
            continue
        with suppress(FileNotFoundError):  # taken away meanwhile, or a link to nothing
            parts = [part for part in sorted(path.rglob("*")) if part.is_file()] if path.is_dir() else [path]
            stats = [part.stat() for part in parts]
            by_name[path.name] = [number for stat in stats for number in (stat.st_size, stat.st_mtime_ns)]
    return by_name


def waiting(project: Project, folder: Path) -> dict[str, list[int]]:
    """Return the `states` of the files that no run has seen as they are now, and that are not being written."""
    seen = _read(project, folder)
    return {
        name: state
        for name, state in states(folder).items()
        if state and seen.get(name) != state and not 0 <= time.time_ns() - max(state[1::2]) < SETTLED_SECONDS * 10**9
    }


def champion_alarms(project: Project) -> dict[str, list[int]]:
    """Return the rows of the logged alarms about the answers of the champion of a project's dataset, by monitor."""
    champion = read_deployment(project.root, project.dataset)
    tag = None if champion is None else champion.tag
    logged = [event for event in project.events if event["event"] == ALARMED and event["scorer"] == tag]
    return {f"{event['scorer']} {event['monitor']}": [event["row"]] for event in logged}


def take_in(project: Project, folder: Path) -> list[Arrived]:
    """Add every waiting file to the project's dataset; call it under the project's lock.

    A file that is refused is remembered as well, so that it is tried again only when it has changed; it stays where it
    is. An error that is not of the file is raised, and the file is tried again by the next run.
    """
    from assay.project.appending import append

    arrived = []
    for name, state in waiting(project, folder).items():
        try:
            _, arrival = append(project, folder / name, name=project.dataset)
        except REFUSALS as error:
            arrived.append(Arrived(name, None, str(error), error))
        else:
            arrived.append(Arrived(name, arrival.batch))
            emit_done(project, "ingest")
        _remember(project, folder, name, state)
    return arrived


def _path(project: Project) -> Path:
    return project.state / "arrivals" / f"{project.dataset}.json"


def _read(project: Project, folder: Path) -> dict[str, Any]:
    path = _path(project)
    return dict(read_json(path).get(str(folder), {})) if path.is_file() else {}


def _remember(project: Project, folder: Path, name: str, state: list[int]) -> None:
    path = _path(project)
    content = read_json(path) if path.is_file() else {}
    content.setdefault(str(folder), {})[name] = state
    path.parent.mkdir(exist_ok=True)
    write_json(path, content)
