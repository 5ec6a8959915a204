"""The process beside a server that feeds its monitors: `python -m assay.runs.watcher ROOT LIVE NAME...`.

It reads the scores that the server keeps, so that no answer waits for a monitor, and reports alarms. Of several servers
of a dataset on one machine, which all append to the same file, the first one's process watches.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import sys
import time
from pathlib import Path
from typing import BinaryIO

from assay.errors import AssayError, StageError
from assay.interruption import SIGNALS, STDIN
from assay.project.layout import Project
from assay.runs.arrivals import ALARMED
from assay.runs.showing import ALARM, emit_alarm, notify
from assay.service.monitors import Monitors, MonitorState, log10_threshold
from assay.service.spool import monitored_folder
from assay.service.telling import tell

_LOOK_SECONDS = 1.0
_POST_SECONDS, _LOG_SECONDS = 60.0, 2.0  # between two attempts
NICENESS = 10
_VERSION = re.compile("[0-9a-f]{12}")


class Watcher:
    """Feeds the monitors of all versions of one dataset, and reports each alarm once.

    Parameters
    ----------
    project : Project
    folder : Path
        Where the scores are.
    name : str
    threshold : float
        Log10 of the capital that raises an alarm.
    """

    def __init__(self, project: Project, folder: Path, name: str, threshold: float) -> None:
        self._project, self._folder, self._name, self._threshold = project, folder, name, threshold
        self._lock: BinaryIO | None = None
        self._versions: dict[Path, Monitors] = {}
        self._problems: dict[Path, str] = {}
        self._sent: set[tuple[object, str, str]] = set()
        self._due: dict[tuple[str, str, str], float] = {}

    def look(self) -> bool:
        """See the next scores that have come, and return whether there may be more.

        That is left to another process that does it already.
        """
        if self._lock is None and not self._takes_over():
            return False
        is_more = False
        for path in sorted(self._folder.glob(f"{self._name}-*.monitors")):
            if not _VERSION.fullmatch(path.stem.removeprefix(f"{self._name}-")):
                continue
            try:
                is_more |= self._see(path)
                self._problems.pop(path, None)
            except Exception as error:  # whatever is wrong with one version, the others are watched
                self._versions.pop(path, None)
                is_foreseen = isinstance(error, AssayError | OSError)
                self._say_once(path, f"not watched now: {'' if is_foreseen else f'{type(error).__name__}: '}{error}")
        return is_more

    def _takes_over(self) -> bool:
        lock = (self._folder / f"{self._name}.watched").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            return False
        self._lock = lock
        return True

    def _see(self, path: Path) -> bool:
        if path not in self._versions:
            self._versions[path] = Monitors.read(path)
        monitors = self._versions[path]
        silent = [state for state in monitors.states if state.alarm is None]
        if is_more := monitors.catch_up(path.with_suffix(".scores"), self._threshold):
            # Saved before it is reported: an alarm is reported twice rather than lost.
            monitors.write(path)
        for state in silent:
            if state.alarm is not None:
                tell(self._text(monitors, state))
        unreported = [s for s in monitors.states if s.alarm is not None and not (s.is_logged and s.is_posted)]
        reported = [self._report(monitors, state) for state in unreported]
        if any(reported):
            monitors.write(path)
        return is_more

    def _text(self, monitors: Monitors, state: MonitorState) -> str:
        return (
            f"{monitors.tag}: {state.name}: alarm at row {state.alarm}; scores are no longer exchangeable with those "
            "of the calibration rows"
        )

    def _report(self, monitors: Monitors, state: MonitorState) -> bool:
        """Post and log an alarm, as far as that is not done; return whether something was."""
        before = state.is_posted, state.is_logged
        details = {"scorer": monitors.tag, "statement": monitors.statement, "monitor": state.name}
        if not state.is_posted and self._is_due(("post", monitors.tag, state.name), _POST_SECONDS):
            text, row = self._text(monitors, state), str(state.alarm)
            for send in (notify, emit_alarm):  # one that cannot be reached holds up no other
                if (send, monitors.tag, state.name) not in self._sent and send(
                    ALARM, self._name, text, **details, row=row
                ):
                    self._sent.add((send, monitors.tag, state.name))
            state.is_posted = all((send, monitors.tag, state.name) in self._sent for send in (notify, emit_alarm))
        if not state.is_logged and self._is_due(("log", monitors.tag, state.name), _LOG_SECONDS):
            state.is_logged = self._log(details, state)
        return (state.is_posted, state.is_logged) != before

    def _is_due(self, what: tuple[str, str, str], seconds: float) -> bool:
        """Return whether to try something now: not so soon after the last time."""
        now = time.monotonic()
        if now < self._due.get(what, now):
            return False
        self._due[what] = now + seconds
        return True

    def _log(self, details: dict[str, str], state: MonitorState) -> bool:
        """Log an alarm; not now, but at a later look, if another command works in the project."""
        event = {**details, "row": state.alarm}
        try:
            with self._project.lock():
                if self._project.events.last(ALARMED, **event) is None:
                    threshold = round(state.log10_threshold, 4)
                    self._project.events.append(ALARMED, dataset=self._name, log10_threshold=threshold, **event)
        except StageError:
            return False
        except (AssayError, OSError) as error:
            self._say_once(self._folder, f"an alarm could not be logged, it is tried again: {error}")
            return False
        return True

    def _say_once(self, path: Path, problem: str) -> None:
        if self._problems.get(path) != problem:
            tell(problem)
        self._problems[path] = problem


def watch_scores(root: Path, live: int, names: list[str]) -> None:
    """Watch the scores of datasets until the other end of the standard input is closed, then save.

    So many versions are live at a time, those in the shadow too; the levels of their monitors add up.
    """
    folder = monitored_folder(root)
    watchers = [Watcher(Project(root), folder, name, log10_threshold(live)) for name in names]
    is_open, is_more = True, True
    while is_open:
        is_open = not select.select([STDIN], [], [], 0 if is_more else _LOOK_SECONDS)[0] or bool(os.read(STDIN, 1))
        looks = [watcher.look() for watcher in watchers]
        is_more = any(looks)


if __name__ == "__main__":
    # The server that started it gets these too, and closes the pipe when it has given its last answer.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    watch_scores(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
