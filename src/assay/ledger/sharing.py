"""Sharing the histories of machines: each one's chain in a file of its own, under one ref of the Git remote.

``refs/assay/history`` holds ``chains/<machine>.jsonl`` and ``rows/<hash>.parquet``. A machine extends the file with
its id alone, so that nobody has to merge. Branches and work trees know nothing of it, and a clone fetches it by `assay
sync` alone. What was brought here of another machine's chain cannot be taken back by anybody: copies only grow.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from assay.errors import TamperedError, ToolError
from assay.eventlog import EventLog, require_chained
from assay.hashing import hash_bytes, hash_file
from assay.ledger.rows import rows_folder
from assay.parts import parse_json, write_bytes
from assay.project import versioning
from assay.project.accounts import BEGAN, accounts_of, chains_folder, machine_id, make_machine_id
from assay.project.layout import Project

REF, _FETCHED = "refs/assay/history", "refs/assay/fetched"
LARGEST_SHARED = 50 * 2**20
_ATTEMPTS = 5
_CHAIN, _ROWS = re.compile(r"chains/([0-9a-f]{32})\.jsonl"), re.compile(r"rows/([0-9a-f]{64})\.parquet")
_NOBODY = {
    f"GIT_{role}_{part}": value
    for role in ("AUTHOR", "COMMITTER")
    for part, value in (("NAME", "assay"), ("EMAIL", "assay@localhost"))
}


@dataclass
class Synced:
    """What an exchange brought, and what it could not.

    Attributes
    ----------
    remote : str
        Name of the Git remote; "" where there is none, so that the history stays in this repository.
    own : int
        Number of this machine's entries, which the others get.
    brought : list of (str, int, int)
        Of each other machine: its name, its entries here now, and how many of them are new.
    left_out : list of str
        Files of rows that are too large to be shared.
    """

    remote: str
    own: int = 0
    brought: list[tuple[str, int, int]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the result as text."""
        with_whom = f"with the remote {self.remote}" if self.remote else "in this repository alone: it has no remote"
        lines = [f"shared {with_whom}: {self.own} entries of this machine"]
        lines += [f"{name}: {count} entries, {new} of them new" for name, count, new in self.brought]
        return [*lines, *(f"left out, over {LARGEST_SHARED >> 20} MiB: {name}" for name in self.left_out)]


def sync(project: Project) -> Synced:
    """Exchange histories with the other machines of a project; call it under the project's lock.

    Raises
    ------
    TamperedError
        A chain is broken, or does not go on from what was seen of it before.
    ToolError
        Git is not installed, the project is in no repository, or the remote does not answer.
    """
    root = project.root
    if versioning.git(root, "rev-parse", "--git-dir") is None:
        raise ToolError("histories are shared by Git, and the project is in no Git repository; `git init` makes one")
    project.events.check()
    if project.events.heads and not machine_id(root):
        make_machine_id(root)
    synced = Synced(versioning.default_remote(root), own=len(project.events.heads))
    before = {account.machine: len(account.log.heads) for account in accounts_of(root)}
    for _ in range(_ATTEMPTS):
        fetched = _fetch(root, synced.remote)
        for base in filter(None, (_commit(root, REF), fetched)):
            _take(root, base)
        made = _write(project, fetched or _commit(root, REF), synced)
        if made is None or _push(root, synced.remote, made, fetched):
            break
    else:
        raise ToolError(f"other machines were faster {_ATTEMPTS} times; run `assay sync` again")
    if made is not None:
        _git(root, "update-ref", REF, made)
    for account in accounts_of(root)[1:]:
        count = len(account.log.heads)
        synced.brought.append((account.name, count, count - before.get(account.machine, 0)))
    return synced


def require_as_shared(root: Path) -> None:
    """Raise `TamperedError` if this machine's log does not go on from what this repository has of it as shared."""
    own = accounts_of(root)[0]
    name = f"{REF}:{versioning.prefix(root)}chains/{own.machine}.jsonl"
    shared = versioning.git(root, "cat-file", "blob", name) if own.machine else None
    if shared is not None and not own.log.content.startswith(shared):
        raise TamperedError(_rewritten(own.log, shared, name))


def _rewritten(log: EventLog, shared: bytes, blob: str) -> str:
    is_older = shared.startswith(log.content)
    restored = (
        f" If it is an older one, of a backup: `git cat-file blob {blob} > {quote(str(log.path))}`." if is_older else ""
    )
    return (
        f"{log.path} is not what this machine shared before: it was cut or written anew, or the folder is a copy of "
        "another machine's, which has to begin a history of its own: then move .assay/events.jsonl, events.head and "
        f"machine away.{restored} Nothing was done"
    )


def _commit(root: Path, ref: str) -> str:
    """Return the commit that a ref names, "" where there is none."""
    return (versioning.git(root, "rev-parse", "--verify", "--quiet", ref) or b"").decode().strip()


def _git(root: Path, *arguments: str, data: bytes = b"", environment: Mapping[str, str] | None = None) -> bytes:
    process = subprocess.run(
        ["git", *arguments],
        cwd=root,
        input=data,
        capture_output=True,
        check=False,
        env={**os.environ, "GIT_TERMINAL_PROMPT": "0", **(environment or {})},
    )
    if process.returncode != 0:
        said = " ".join(process.stderr.decode(errors="replace").split())
        raise ToolError(f"`git {arguments[0]}` failed: {said}")
    return process.stdout


def _fetch(root: Path, remote: str) -> str:
    if not remote or not _git(root, "ls-remote", "--", remote, REF).strip():
        return ""
    _git(root, "fetch", "--quiet", "--no-tags", "--", remote, f"+{REF}:{_FETCHED}")
    return _commit(root, _FETCHED)


def _push(root: Path, remote: str, commit: str, fetched: str) -> bool:
    """Push a commit unless it is there already; return False where another machine was faster.

    Hooks are for branches: one that DVC installs would push data, and others run tests.
    """
    if not remote or commit == fetched:
        return True
    try:
        _git(root, "push", "--quiet", "--no-verify", "--", remote, f"{commit}:{REF}")
    except ToolError:
        now = _git(root, "ls-remote", "--", remote, REF).decode().partition("\t")[0]
        if now == fetched:
            raise
        return False
    return True


def _take(root: Path, commit: str) -> None:
    """Bring the chains of other machines, and the rows of their runs, from a commit to ``.assay``."""
    prefix, own = versioning.prefix(root), accounts_of(root)[0]
    for entry in _git(root, "ls-tree", "-r", "-z", "--full-tree", commit).decode(errors="replace").split("\0")[:-1]:
        path = entry.partition("\t")[2]
        if not path.startswith(prefix):
            continue
        blob, name = entry.split()[2], path.removeprefix(prefix)
        if matched := _CHAIN.fullmatch(name):
            copy = chains_folder(root) / f"{matched[1]}.jsonl"
            is_own = matched[1] == own.machine
            shared = _git(root, "cat-file", "blob", blob)
            if not is_own:
                _extend(EventLog(copy), shared)
            elif not own.log.content.startswith(shared):
                raise TamperedError(_rewritten(own.log, shared, blob))
        elif matched := _ROWS.fullmatch(name):
            rows = rows_folder(root) / f"{matched[1]}.parquet"
            if not rows.is_file():
                content = _git(root, "cat-file", "blob", blob)
                if hash_bytes(content) != matched[1]:
                    raise TamperedError(f"the shared {name} is not what its name says; it was left where it is")
                write_bytes(rows, content)


def _extend(log: EventLog, shared: bytes) -> None:
    """Let a copy of a chain be as long as the shared one; both must agree as far as both go."""
    path, here = log.path, log.content
    if here.startswith(shared):
        return
    if not shared.startswith(here):
        raise TamperedError(
            f"the shared history of machine {path.stem} does not go on from what was seen of it before: somebody "
            f"rewrote it. Nothing was shared; {path} is the former one"
        )
    require_chained(lines := shared.split(b"\n")[:-1], f"the shared history of machine {path.stem}")
    for number, line in enumerate(lines, start=1):
        if not _is_event(parse_json(line)):
            raise TamperedError(
                f"the shared history of machine {path.stem}: entry {number} is no event. Nothing was shared"
            )
    write_bytes(path, shared)


def _is_event(entry: dict[str, Any]) -> bool:
    """Return whether an entry has what every event has, in words that can be printed, and its first one what it saw."""
    words = [entry.get(name) for name in ("event", "time", "machine")]
    heads: list[Any] = []
    if words[0] == BEGAN:
        words.append(entry.get("commit"))
        parts = [entry.get(name) for name in ("saw", "spoken_of")]
        heads = [head for part in parts for head in (part.values() if isinstance(part, dict) else [None])]
    return all(isinstance(word, str) and word.isprintable() for word in (*words, *heads))


def _write(project: Project, base: str, synced: Synced) -> str | None:
    """Return a commit on `base` with all chains and rows that are here; `base` itself where that has them all."""
    root, prefix = project.root, versioning.prefix(project.root)
    files = {f"chains/{each.machine}.jsonl": each.log.path for each in accounts_of(root) if each.machine}
    rows = {str(event["rows"]) for event in project.events if event["event"] == "rows"}
    files |= {f"rows/{name}.parquet": rows_folder(root) / f"{name}.parquet" for name in sorted(rows)}
    synced.left_out = []
    with tempfile.TemporaryDirectory(prefix="assay-sync-") as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        if base:
            _git(root, "read-tree", base, environment=index)
        for name, path in files.items():
            if not path.is_file():
                continue
            if name.startswith("rows/"):
                if path.stat().st_size > LARGEST_SHARED:
                    synced.left_out.append(path.name)
                if path.stat().st_size > LARGEST_SHARED or hash_file(path) != path.stem:
                    continue
            content = EventLog(path).content if name.startswith("chains/") else path.read_bytes()
            blob = _git(root, "hash-object", "-w", "--stdin", data=content).decode().strip()
            _git(root, "update-index", "--add", "--cacheinfo", f"100644,{blob},{prefix}{name}", environment=index)
        tree = _git(root, "write-tree", environment=index).decode().strip()
    if not _git(root, "ls-tree", tree).strip():
        return None
    if base and _git(root, "rev-parse", f"{base}^{{tree}}").decode().strip() == tree:
        return base
    identity = {} if versioning.git(root, "var", "GIT_COMMITTER_IDENT") else _NOBODY
    parents = ("-p", base) if base else ()
    return (
        _git(root, "commit-tree", tree, *parents, "-m", "histories of machines", environment=identity).decode().strip()
    )
