"""What killed commands left, set right by the next command that holds the project's lock."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from assay.environment import bentoml_home
from assay.parts import parse_json
from assay.project.checkouts import take_back
from assay.project.pending import settle_changes
from assay.project.versioning import locks_by_links, repair_locked

RWLOCK = Path(".dvc", "tmp", "rwlock")
_TEMPORARY = re.compile(r"\..+\.(?P<process>\d+)-[a-z0-9_]{8}(?P<part>\.part)?")  # of `assay.parts.temporary_prefix`
_FOLDERS = (
    "answers",
    "deployments",
    "expectations",
    "labels",
    "quarantine",
    "targets",
    "scorers",
    "seals",
    "work",
    ".assay",
)
_OF_DVC = re.compile(r".*\.[A-Za-z0-9_-]{22}\.tmp")  # of dvc_objects.fs.utils.tmp_fname
_FILLED = ("data", "scorers", "work")
_UNLOCKED = ("ledger", "monitor", "downloads")  # in .assay: what others than holders of the lock write
_ROUNDING = 2.0  # seconds; clocks of files and of processes differ a little


def recover(root: Path, *, is_after_kill: bool) -> None:
    """Set right what killed commands left in a project; call it under the project's lock.

    DVC's files are repaired where it was killed while it wrote them, changes that were begun are settled
    (`assay.project.pending`, `assay.project.checkouts`), and temporary files and folders are removed.

    Parameters
    ----------
    root : Path
        The project.
    is_after_kill : bool
        Whether the last command under the lock did not end by itself: only after one of these, or after a killed DVC
        command, DVC's cache, which may be large, is looked through for temporary files.
    """
    if repair_rwlock(root) or is_after_kill:
        remove_left_by_dvc(root)
    repair_locked(root)
    settle_changes(root)
    take_back(root)
    remove_left(_in_root(root))
    for name in _FOLDERS:
        remove_left(_under(root / name))
    remove_left(bentoml_home(root).glob(".publish.*"))
    for former in bentoml_home(root).glob(".publish-????????"):  # as earlier versions called them
        shutil.rmtree(former, ignore_errors=True)


def repair_rwlock(root: Path) -> bool:
    """Repair ``.dvc/tmp/rwlock``, in which DVC's processes note what they read and write; return whether it was wrong.

    A DVC that is killed while it writes the file leaves it empty, and every later one stops at that. One that is killed
    later leaves its entries. DVC itself removes these, unless another process has the number by then: that one began
    after the file was written. Where DVC locks by hard links, nothing tells a stale lock from a living one, and nothing
    is changed.
    """
    path = root / RWLOCK
    if locks_by_links(root) or not path.is_file() or path.read_bytes() == b"{}":
        return False
    with path.with_name(f"{path.name}.lock").open("a") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False  # a DVC writes the file now
        try:
            entries = parse_json(path.read_bytes())
            living = _of_living(entries, path.stat().st_mtime)
            is_right = living == {kind: infos for kind, infos in entries.items() if infos}
        except (ValueError, KeyError, TypeError, AttributeError):
            living, is_right = {}, False
        if not is_right:
            path.write_text(json.dumps(living), encoding="utf-8")
    return not is_right


def remove_left_by_dvc(root: Path) -> None:
    """Remove what DVC commands that were killed or met a full disk left in its cache and the folders that it fills.

    Nothing is removed while a DVC command is at work, or where that cannot be known.
    """
    if locks_by_links(root):
        return
    guard = root / ".dvc" / "tmp" / "lock"
    guard.parent.mkdir(parents=True, exist_ok=True)
    with guard.open("a") as lock:  # as DVC holds it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        for top in (Path(".dvc", "cache"), *map(Path, _FILLED)):
            for folder, _, names in os.walk(root / top):
                for name in filter(_OF_DVC.fullmatch, names):
                    Path(folder, name).unlink(missing_ok=True)


def _of_living(entries: dict[str, Any], written: float) -> dict[str, Any]:
    """Return the entries of processes that still run, in DVC's form."""

    def lives(info: dict[str, Any]) -> bool:
        return is_at_work(int(info["pid"]), written)

    writers = {path: info for path, info in entries.get("write", {}).items() if lives(info)}
    readers = {path: list(filter(lives, infos)) for path, infos in entries.get("read", {}).items()}
    kinds = {"write": writers, "read": {path: infos for path, infos in readers.items() if infos}}
    return {kind: infos for kind, infos in kinds.items() if infos}


def is_at_work(process: int, since: float) -> bool:
    """Return whether a process of that number runs that began before `since`, in seconds since 1970."""
    import psutil

    try:
        return bool(psutil.Process(process).create_time() <= since + _ROUNDING)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # of somebody else
        return True


def remove_left(paths: Iterator[Path]) -> None:
    """Remove those of Assay's temporary files and folders whose processes do not run any more."""
    for path in paths:
        matched = _TEMPORARY.fullmatch(path.name)
        is_folder = path.is_dir() and not path.is_symlink()
        if matched is None or bool(matched["part"]) == is_folder:
            continue
        with contextlib.suppress(FileNotFoundError):
            if is_at_work(int(matched["process"]), path.lstat().st_mtime):
                continue
            if is_folder:
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def _in_root(root: Path) -> Iterator[Path]:
    """Yield what may be temporary in the project's own folder, where people keep files too."""
    yield from (path for path in root.iterdir() if _TEMPORARY.fullmatch(path.name))


def _under(top: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(top):
        parent = Path(folder)
        hidden = [name for name in (*folders, *files) if name.startswith(".")]
        kept = {*hidden, *(_UNLOCKED if parent == top and top.name == ".assay" else ())}
        folders[:] = [name for name in folders if name not in kept]
        yield from (parent / name for name in hidden)
