"""Changes of two parts, an event and files: begun, done, closed.

A change stands in a plan in ``.assay/pending`` before anything of it happens. Then its event is logged, its files are
put in place, and the plan is removed. What a killed command began, the next one under the project's lock settles: a
change whose event is in the log is finished, any other is taken back, and nobody has seen it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterable
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from assay.errors import AssayError, ScorerError
from assay.eventlog import EventLog
from assay.hashing import dvc_directory_md5
from assay.parts import read_json, stage_bytes, temporary_folder, write_json
from assay.project import versioning
from assay.project.archive import Archive

Details = dict[str, Any]


class Change:
    """One change of a project; use it in a ``with`` block and under the project's lock.

    Files get their content, and folders are filled, under temporary names; `commit` does the rest. A block that ends
    without it leaves nothing.

    Parameters
    ----------
    root : Path
        Project folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.moves: list[tuple[Path | None, Path]] = []
        self.folders: list[Path] = []
        self.plan = pending_folder(root) / f"{uuid.uuid4().hex}.json"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self.plan.exists():
            _discard([staged for staged, _ in self.moves if staged is not None] + self.folders)

    def folder(self, parent: Path, name: str) -> Path:
        """Return a new folder in `parent`, which is removed when the change is closed or taken back."""
        parent.mkdir(parents=True, exist_ok=True)
        folder = temporary_folder(parent, name)
        self.folders.append(folder)
        return folder

    def write(self, path: Path, content: bytes) -> None:
        """Let `path` have that content."""
        self.moves.append((stage_bytes(path, content), path))

    def place(self, staged: Path, path: Path) -> None:
        """Let `path` be the folder or file that is at `staged` now, in the same file system."""
        self.moves.append((staged, path))

    def remove(self, path: Path) -> None:
        """Let nothing be at `path`."""
        self.moves.append((None, path))

    def commit(
        self,
        event: str | None = None,
        details: Details | None = None,
        *,
        tracked: tuple[Path, str] | None = None,
        closing: tuple[str, Details] | None = None,
    ) -> None:
        """Log the event, put the files in place, and let DVC track them.

        Parameters
        ----------
        event, details : optional
            What the log says; without an event the change counts as done from its plan on.
        tracked : (Path, str), optional
            A folder that DVC is to track, and the MD5 that it will have then.
        closing : (str, dict), optional
            A second event with its details, for when DVC tracks the folder.
        """
        events = log_of(self.root)
        moves = [[None if staged is None else self._name(staged), self._name(path)] for staged, path in self.moves]
        plan: Details = {
            "event": event,
            "details": details or {},
            "after": events.head,
            "moves": moves,
            "folders": [self._name(folder) for folder in self.folders],
            "tracked": None if tracked is None else [self._name(tracked[0]), tracked[1]],
            "closing": closing,
        }
        write_json(self.plan, plan)
        try:
            if event is not None:
                events.append(event, **plan["details"])
            _finish(self.root, plan)
        except BaseException:
            # What the disk or DVC refuses now, the next command does.
            with contextlib.suppress(AssayError, OSError):
                _settle(self.root, self.plan)
            raise
        self.plan.unlink()

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)


def log_of(root: Path) -> EventLog:
    """Return the event log of a project; new entries name the person that Git knows here."""
    return EventLog(root / ".assay" / "events.jsonl", partial(_who, root))


@lru_cache(maxsize=16)
def _who(root: Path) -> dict[str, str]:
    person = versioning.person(root)
    return {"person": person} if person else {}


def pending_folder(root: Path) -> Path:
    """Return the folder of the plans of changes that are not closed yet."""
    return root / ".assay" / "pending"


def pending_changes(root: Path) -> list[Path]:
    """Return the plans of changes that a command began and did not close."""
    return sorted(pending_folder(root).glob("*.json"))


def settle_changes(root: Path) -> None:
    """Finish the changes that killed commands began, or take them back; call it under the project's lock."""
    for path in pending_changes(root):
        _settle(root, path)


def _settle(root: Path, path: Path) -> None:
    try:
        plan = read_json(path)
    except ScorerError:
        path.unlink(missing_ok=True)  # not written by `Change`, which puts whole plans in place
        return
    if plan["event"] is None or _is_logged(root, plan, plan["event"], plan["details"]):
        _finish(root, plan)
    else:
        _discard(root / staged for staged, _ in plan["moves"] if staged is not None)
    _discard(root / folder for folder in plan["folders"])
    path.unlink(missing_ok=True)


def _is_logged(root: Path, plan: Details, event: str, details: Details) -> bool:
    """Return whether an event was logged after a plan was made."""
    is_later = False
    for entry in log_of(root):
        is_later |= entry["previous"] == plan["after"]
        if is_later and entry["event"] == event and details.items() <= entry.items():
            return True
    return False


def _finish(root: Path, plan: Details) -> None:
    for staged, path in plan["moves"]:
        _move(None if staged is None else root / staged, root / path)
    if plan["tracked"] is not None and not _track(root, *plan["tracked"]):
        return
    if plan["closing"] is not None and not _is_logged(root, plan, *plan["closing"]):
        event, details = plan["closing"]
        log_of(root).append(event, **details)


def _move(staged: Path | None, path: Path) -> None:
    """Put a staged file or folder in its place, or remove what is there; what was done before is not done again."""
    if staged is not None and not os.path.lexists(staged):
        return
    if not os.path.lexists(path.parent):  # what stands in its place, the user has to move
        path.parent.mkdir(parents=True)
    if path.is_dir() and not path.is_symlink():
        # Not beside it where it is staged elsewhere: DVC would count what is in ``data/`` as data.
        retired = temporary_folder((staged or path).parent, path.name)
        path.rename(retired / path.name)
        if staged is not None:
            staged.rename(path)
        shutil.rmtree(retired, ignore_errors=True)
    elif staged is not None:
        staged.replace(path)
    else:
        path.unlink(missing_ok=True)


def _track(root: Path, name: str, md5: str) -> bool:
    """Let DVC track a folder; return False where it is not the planned one, which then shows as changed."""
    if versioning.pointed_md5(root, name) == md5 and Archive(root).object(md5) is not None:
        return True
    if not (root / name).is_dir() or dvc_directory_md5(root / name) != md5:
        return False
    versioning.track(root, name)
    return True


def _discard(staged: Iterable[Path]) -> None:
    for path in staged:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
