"""The histories of a project's machines: the event log of this one, and what others brought of theirs.

Each machine keeps a chain of its own, so that nobody has to merge anything. Copies of the others' chains are in
``.assay/chains``; `assay.ledger.sharing` brings them.
"""

from __future__ import annotations

import heapq
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.eventlog import START, EventLog
from assay.parts import is_there, write_bytes
from assay.project import versioning
from assay.project.pending import log_of

BEGAN = "began"


@dataclass(frozen=True, slots=True)
class Account:
    """What one machine says: its id, its log, and whether it is this machine."""

    machine: str
    log: EventLog
    is_own: bool = False

    @property
    def name(self) -> str:
        """Name of the machine, as its newest event has it."""
        return str(next(reversed(self.log), {"machine": self.machine})["machine"])


def machine_id(root: Path) -> str:
    """Return the id of this machine in a project, which stays as long as its log; "" where it has none yet."""
    path = root / ".assay" / "machine"
    return path.read_text(encoding="utf-8").strip() if is_there(path) else ""


def make_machine_id(root: Path) -> str:
    """Give this machine a new id, and return it."""
    made = uuid.uuid4().hex
    write_bytes(root / ".assay" / "machine", f"{made}\n".encode())
    return made


def chains_folder(root: Path) -> Path:
    """Return the folder of the copies of other machines' chains."""
    return root / ".assay" / "chains"


def accounts_of(root: Path) -> list[Account]:
    """Return what the machines of a project say: this one first, then the others by their ids."""
    own = Account(machine_id(root), log_of(root), is_own=True)
    copies = sorted(chains_folder(root).glob("*.jsonl"))
    return [own, *(Account(path.stem, EventLog(path)) for path in copies if path.stem != own.machine)]


def merged(logs: Iterable[Iterable[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yield the events of several logs by time; those of each log in its own order, whatever its clock did."""
    return heapq.merge(*logs, key=lambda event: str(event.get("time", "")))


def all_events(root: Path) -> list[dict[str, Any]]:
    """Return the events of all machines that are here; see `merged`."""
    return list(merged(account.log for account in accounts_of(root)))


def begin(root: Path, spoken_of: dict[str, str]) -> None:
    """Begin the chain of a machine that comes to a project with a past: its first event names what it saw of that.

    So it does where this machine's log was lost; its former chain may come back as one of another machine. Call it
    under the project's lock.

    Parameters
    ----------
    spoken_of : dict of str to str
        Heads of chains that something here speaks of, by what does.
    """
    own, *others = accounts_of(root)
    if own.log.head != START:
        return
    saw = {account.machine: account.log.head for account in others}
    has_past = saw or spoken_of or any((root / "deployments").glob("*.json"))
    if has_past:
        details = {"id": make_machine_id(root), "saw": saw, "spoken_of": spoken_of}
        own.log.append(BEGAN, **details, commit=versioning.head_commit(root))


def missing_words(accounts: list[Account]) -> Iterator[str]:
    """Yield what chains saw when they began that no chain here holds, in words."""
    known = {head for account in accounts for head in account.log.heads}
    for account in accounts:
        first = next(iter(account.log), None)
        if first is None or first["event"] != BEGAN:
            continue
        missing = {head for head in {**first["saw"], **first["spoken_of"]}.values() if head not in known}
        if missing or (not first["saw"] and len(accounts) == 1):
            commit = f" (commit {first['commit'][:12]})" if first["commit"] else ""
            yield f"history before {first['time']}{commit}, when the log of {first['machine']} began, is not here"
