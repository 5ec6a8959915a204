"""DVC and Git as subprocesses; DVC commands never run at the same time."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from assay.errors import ConfigError, TamperedError, ToolError
from assay.parts import is_there, parse_yaml, write_bytes

DATA, LOCKED = "data.dvc", "dvc.lock"
ADD_REMOTE = "add the DVC remote that holds it (`dvc remote add -d NAME ADDRESS`), then"
KEPT_LOCKED = Path(".assay", LOCKED)
MOST_COMMITS = 500


def dvc(root: Path, *arguments: str) -> str:
    """Run a DVC command in `root` and return what it printed; `ToolError` says why it failed."""
    # A DVC that a killed command had started may still be at work; it ends by itself. The locks that DVC makes by hard
    # links do not end with their process.
    waiting = () if locks_by_links(root) else ("--wait-for-lock",)
    command = [sys.executable, "-m", "dvc", *waiting, *arguments]
    process = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        error_lines = [line for line in process.stderr.splitlines() if line.startswith("ERROR")] or [
            process.stderr.strip()
        ]
        raise ToolError(f"`dvc {' '.join(arguments)}` failed with exit code {process.returncode}: {error_lines[0]}")
    return process.stdout


def locks_by_links(root: Path) -> bool:
    """Return whether DVC's settings ask for locks by hard links, as on some network file systems."""
    files = (root / ".dvc" / name for name in ("config", "config.local"))
    return any(b"hardlink_lock" in path.read_bytes() for path in files if path.is_file())


def status(root: Path, *targets: str) -> dict[str, Any]:
    """Return the changes that ``dvc status`` reports, by stage or .dvc file; empty when all is clean."""
    changes: dict[str, Any] = json.loads(dvc(root, "status", "--json", *targets) or "{}")
    return changes


def require_clean_data(root: Path) -> None:
    """Raise `TamperedError` unless ``data/`` is exactly what ``data.dvc`` names."""
    if status(root, DATA):
        names = ", ".join(changed_datasets(root)) or "data/"
        raise TamperedError(
            f"{names} differs from what {DATA} names; nothing was run. "
            f"`dvc checkout --force {DATA}` restores it; add new data with `assay ingest`, after that"
        )


def changed_datasets(root: Path) -> list[str]:
    """Name the files of datasets that differ from the hashes in the dataset's card."""
    from assay.data.dataset import broken_seals

    return [str(p.relative_to(root)) for folder in sorted((root / "data").glob("*")) for p in broken_seals(folder)]


def commit(root: Path, stages: Sequence[str]) -> None:
    """Record the present outputs of these stages alone in dvc.lock."""
    if not stages:
        return
    path = root / LOCKED
    write_bytes(root / KEPT_LOCKED, path.read_bytes() if is_there(path) else b"")
    try:
        dvc(root, "commit", "-f", *stages)
    finally:  # not where the process is killed
        repair_locked(root)


def repair_locked(root: Path) -> None:
    """Bring dvc.lock back as it was before a DVC that was killed while it wrote the file; use the project's lock."""
    path, kept = root / LOCKED, root / KEPT_LOCKED
    if not kept.is_file():
        return
    if is_there(path) and not _is_locked(path.read_bytes()):
        if content := kept.read_bytes():
            write_bytes(path, content)
        else:
            path.unlink()
    kept.unlink()


def _is_locked(content: bytes) -> bool:
    try:
        parsed = parse_yaml(content, LOCKED)
    except ConfigError:
        return False
    return isinstance(parsed, dict) and isinstance(parsed.get("stages"), dict)


def track(root: Path, folder: str) -> None:
    """Write the .dvc file of a present folder, in place of one that a killed DVC left half-written."""
    if (pointer := root / f"{folder}.dvc").is_file() and pointed_md5(root, folder) is None:
        pointer.unlink()
    dvc(root, "add", folder)


def pointed_md5(root: Path, folder: str) -> str | None:
    """MD5 of a folder that its .dvc file names, None where that is missing or cannot be read."""
    try:
        return named_md5(root / f"{folder}.dvc")
    except (FileNotFoundError, ConfigError):
        return None


def tracked_version(root: Path) -> str | None:
    """MD5 of the ``data`` folder that data.dvc names, None where nothing is tracked yet."""
    if not is_there(root / DATA):
        return None
    return _version((root / DATA).read_bytes())


def committed_version(root: Path) -> str | None:
    """MD5 of the ``data`` folder that data.dvc names in the Git commit that is checked out, if any."""
    shown = git(root, "show", f"HEAD:./{DATA}")
    return None if shown is None else _version(shown)


def committed_versions(root: Path) -> set[str]:
    """Return the MD5 of the ``data`` folder in every commit of data.dvc, on any branch."""
    contents = committed_files(root, [(commit, DATA) for commit in commits_of(root, DATA)])
    versions = set()
    for content in contents:
        with contextlib.suppress(ConfigError):
            versions |= {_version(content)} if content else set()
    return versions


def _version(content: bytes) -> str:
    return _md5(content, DATA, "restore it from Git, or ingest the data again")


def named_md5(pointer: Path) -> str:
    """MD5 of the folder that a .dvc file names."""
    return _md5(pointer.read_bytes(), pointer, "restore it from Git")


def _md5(content: bytes, where: object, advice: str) -> str:
    try:
        return str(parse_yaml(content, where)["outs"][0]["md5"])
    except (KeyError, IndexError, TypeError) as error:
        raise ConfigError(f"{where} is not what DVC writes; {advice}") from error


def locked_version(root: Path, folder: str) -> str | None:
    """MD5 that dvc.lock names for an output folder, None where it names none."""
    path = root / LOCKED
    if not is_there(path):
        return None
    try:
        stages = parse_yaml(path.read_bytes(), path)["stages"]
        outs = [out for stage in stages.values() for out in stage.get("outs", ()) if out["path"] == folder]
        return str(outs[0]["md5"]) if outs else None
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is not what DVC writes; restore it from Git") from error


def fetchable(root: Path, *pointers: str) -> list[str]:
    """Return those of some .dvc files, of folders that DVC's cache lacks, whose files are in the default remote.

    Of a folder whose listing is nowhere DVC says nothing.
    """
    states = json.loads(dvc(root, "status", "--cloud", "--json", *pointers) or "{}")
    found = {}
    for pointer in pointers:
        folder = f"{pointer.removesuffix('.dvc')}/"
        found[pointer] = {state for path, state in states.items() if path.startswith(folder)}
    return [pointer for pointer, its in found.items() if its and "missing" not in its]


def has_remote(root: Path) -> bool:
    """Return whether a DVC remote is configured."""
    return bool(dvc(root, "remote", "list").strip())


def head_commit(root: Path) -> str:
    """Return the git commit that is checked out, "" where there is none."""
    return (git(root, "rev-parse", "HEAD") or b"").decode().strip()


def uncommitted(root: Path, *paths: str) -> list[str]:
    """Return those of these paths in which files that Git does not ignore are new or changed since the last commit."""
    changes = {path: git(root, "status", "--porcelain", "--", path) for path in paths}
    return [path for path, listed in changes.items() if listed]


def person(root: Path) -> str:
    """Return the person whose name and address Git has for this project, as ``Name <address>``; "" for none."""
    listed = (git(root, "config", "--get-regexp", r"^user\.(name|email)$") or b"").decode().splitlines()
    values = dict(line.split(" ", 1) for line in listed if " " in line)
    name, address = values.get("user.name", ""), values.get("user.email", "")
    return " ".join(filter(None, (name, f"<{address}>" if address else "")))


def default_remote(root: Path) -> str:
    """Return the Git remote of the present branch, or else origin, or the first one; "" where there is none."""
    names = (git(root, "remote") or b"").decode().split()
    branch = (git(root, "symbolic-ref", "--quiet", "--short", "HEAD") or b"").decode().strip()
    own = (git(root, "config", f"branch.{branch}.remote") or b"").decode().strip()
    return next((name for name in (own, "origin", *names[:1]) if name in names), "")


def prefix(root: Path) -> str:
    """Return the project's place in its Git repository, "" or with a slash behind it."""
    return (git(root, "rev-parse", "--show-prefix") or b"").decode().strip()


def has_git() -> bool:
    """Return whether Git is installed; without it Assay works, but knows of no commits."""
    return shutil.which("git") is not None


def git(root: Path, *arguments: str, standard_input: bytes = b"") -> bytes | None:
    """Run a Git command and return its output; None where it failed (no repository, no commit, no Git)."""
    if not has_git():
        return None
    process = subprocess.run(["git", *arguments], cwd=root, input=standard_input, capture_output=True, check=False)
    return process.stdout if process.returncode == 0 else None


def commits_of(root: Path, *paths: str) -> list[str]:
    """Return the newest commits on any branch that changed any of the paths."""
    return (git(root, "log", "--all", f"-{MOST_COMMITS}", "--format=%H", "--", *paths) or b"").decode().split()


def committed_files(root: Path, commit_paths: Iterable[tuple[str, str]]) -> list[bytes | None]:
    """Return the content of files in commits, None for a missing one; one Git process reads them all."""
    commit_paths = list(commit_paths)
    request = "".join(f"{commit}:./{path}\n" for commit, path in commit_paths).encode()
    output = (git(root, "cat-file", "--batch", standard_input=request) or b"") if commit_paths else b""
    contents: list[bytes | None] = []
    for _ in commit_paths:
        head, _, output = output.partition(b"\n")
        size = int(head.rsplit(b" ", 1)[1]) if head and not head.endswith(b"missing") else None
        contents.append(None if size is None else output[:size])
        output = output if size is None else output[size + 1 :]
    return contents
