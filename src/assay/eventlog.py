"""The event log: events with time and machine, chained by the hash of the entry before."""

from __future__ import annotations

import json
import os
import platform
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from assay.errors import TamperedError
from assay.hashing import hash_bytes
from assay.parts import go_on_after, is_there, parse_json, write_json

START = "0" * 64
_APPENDING = threading.Lock()
_BLOCK = 1 << 16  # bytes that are read at a time from the end


class EventLog:
    """An append-only file of JSON lines, one event each.

    Every event holds the SHA-256 of the line before it, so that a change or a cut anywhere but at the
    very end shows. Events are separate from the records: they hold times, machine and run ids, and no stage
    reads them for its results. A file beside it, ``events.head``, says how many events there are and what the newest
    one hashes to, so that a log that has become shorter is not gone on with.

    Parameters
    ----------
    path : Path
        ``.assay/events.jsonl`` of a project.
    who : callable, optional
        Returns who works here, for new entries.
    """

    def __init__(self, path: Path, who: Callable[[], dict[str, str]] = dict) -> None:
        self.path, self.mark = path, path.with_suffix(".head")
        self._who = who

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the events, oldest first; raise `TamperedError` at one that cannot be read."""
        for number, line in enumerate(self._lines(), start=1):
            yield self._event(line, f"{number}")

    def __reversed__(self) -> Iterator[dict[str, Any]]:
        """Yield the events, newest first, and read no more of the file than these; raise as `__iter__` does."""
        for number, line in enumerate(islice(self._backwards(), 1, None), start=1):
            yield self._event(line, f"{number} from the end")

    def _event(self, line: bytes, number: str) -> dict[str, Any]:
        try:
            event: dict[str, Any] = parse_json(line)
            event["event"], event["previous"]
        except (ValueError, KeyError, TypeError) as error:
            raise TamperedError(f"{self.path}: entry {number} cannot be read; the log was changed") from error
        return event

    @property
    def head(self) -> str:
        """Hash of the newest entry; 64 zeros where there is none."""
        newest = next(islice(self._backwards(), 1, None), None)
        return START if newest is None else hash_bytes(newest)

    def append(self, event: str, **details: Any) -> str:
        """Add an event and return the new head of the chain; call it under the project's lock, from any thread."""
        with _APPENDING:
            return self._append(event, details)

    def _append(self, event: str, details: dict[str, Any]) -> str:
        previous = self.head
        n_entries = self._count(previous)
        entry = {
            "event": event,
            "previous": previous,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": platform.node(),
            **self._who(),
            **details,
        }
        line = json.dumps(entry, sort_keys=True, ensure_ascii=False).encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cut = next(self._backwards(), b"")
        with self.path.open("ab", buffering=0) as stream:
            # A crash may have left part of a line, which would make the new one unreadable.
            go_on_after(stream, stream.seek(0, os.SEEK_END) - len(cut), line + b"\n", sync=True)
        write_json(self.mark, {"entries": n_entries + 1, "head": hash_bytes(line)})
        return hash_bytes(line)

    def _count(self, head: str) -> int:
        """Return how many entries there are up to the newest one, by ``events.head`` where that speaks of it."""
        try:
            marked = parse_json(self.mark.read_bytes())
            if marked["head"] == head:
                return int(marked["entries"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return len(self._lines())

    def require_whole(self) -> None:
        """Raise `TamperedError` if the log lacks entries that it had.

        A log without ``events.head``, as they once were, is taken as it is, and so are entries after the marked one: a
        crash may have come between the two writes.
        """
        if not is_there(self.mark):
            return
        try:
            marked = parse_json(self.mark.read_bytes())
            number, head = int(marked["entries"]), marked["head"]
        except (ValueError, KeyError, TypeError) as error:
            raise TamperedError(f"{self.mark} cannot be read; it was changed. {self._advice}") from error
        lines = self._lines()
        if not 0 < number <= len(lines) or hash_bytes(lines[number - 1]) != head:
            raise TamperedError(
                f"{self.path} has {len(lines)} entries, and is not the log of {number} that {self.mark.name} speaks "
                f"of: it was cut or changed. {self._advice}"
            )

    @property
    def _advice(self) -> str:
        return (
            f"Nothing was done. Restore {self.path.name} from a backup; if it is lost, move {self.mark} away too: a "
            "new log begins, and only Git and the scorers' statements know what was before"
        )

    def check(self) -> None:
        """Walk the chain; raise `TamperedError` at the first entry that does not fit the one before.

        Also where entries are missing at the end.
        """
        require_chained(self._lines(), self.path)
        self.require_whole()

    @property
    def heads(self) -> dict[str, int]:
        """The hash of every entry, with its number from 1 on."""
        return {hash_bytes(line): number for number, line in enumerate(self._lines(), start=1)}

    def last(self, event: str, **fields: Any) -> dict[str, Any] | None:
        """Return the newest event of that name whose entries equal `fields`, or None."""
        criteria = {"event": event, **fields}
        fitting = (e for e in reversed(self) if all(e.get(name) == value for name, value in criteria.items()))
        return next(fitting, None)

    @property
    def content(self) -> bytes:
        """All complete lines: a last line cut short by a crash was never acknowledged and is dropped."""
        content = self.path.read_bytes() if is_there(self.path) else b""
        return content[: content.rfind(b"\n") + 1]

    def _lines(self) -> list[bytes]:
        return self.content.split(b"\n")[:-1]

    def _backwards(self) -> Iterator[bytes]:
        """Yield what stands after the last complete line, b"" as a rule, and then the lines, the newest first."""
        if not is_there(self.path):
            return
        with self.path.open("rb") as stream:
            start, rest = stream.seek(0, os.SEEK_END), b""
            while start:
                before, start = start, max(start - _BLOCK, 0)
                stream.seek(start)
                rest, *lines = (stream.read(before - start) + rest).split(b"\n")
                yield from reversed(lines)
            yield rest


def require_chained(lines: Iterable[bytes], where: object) -> None:
    """Raise `TamperedError` at the first of the lines of a log that does not follow from the one before."""
    previous = START
    for number, line in enumerate(lines, start=1):
        try:
            stated = parse_json(line)["previous"]
        except (ValueError, KeyError, TypeError):
            stated = None
        if stated != previous:
            raise TamperedError(f"{where}: entry {number} does not follow from entry {number - 1}; the log was changed")
        previous = hash_bytes(line)
