"""The monitors of a scorer's answers: what they have seen, in one file beside the scores, which outlives the server."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from assay.arrays import Singles
from assay.calibration.streams.martingale import LargePValues, Martingale, SimpleJumper
from assay.calibration.streams.monitor import Monitor, load_monitor
from assay.calibration.streams.watching import ALL_ROWS, NORMAL_ROWS, calibration_scores
from assay.errors import AssayError, ScorerError
from assay.families import Heads, check_part, inner_part
from assay.parameters import Count, NotNegative, Whole, parameters_of
from assay.parts import Part, write_bytes
from assay.scorer.scorer import Scorer
from assay.service.spool import Spool

FALSE_ALARMS = 0.01
MONITOR_BINS = 1024
BLOCK_BYTES = 2**18
_ITEM = np.dtype("<f4")
_LOGGER = logging.getLogger(__name__)


@dataclass(slots=True)
class MonitorState:
    """What a monitor of a version says.

    Attributes
    ----------
    name : str
    rows : int
        Rows that it has seen.
    log10_capital, log10_highest : float
        Logarithms to base 10 of the capital now, and of the highest so far.
    log10_threshold : float
        Where the capital raises the alarm.
    alarm : int or None
        Row that raised the alarm, counted from 1.
    is_logged, is_posted : bool
        Whether the alarm is in the event log, and at the URL of the user.
    """

    name: str
    rows: Whole = 0
    log10_capital: float = 0.0
    log10_highest: NotNegative = 0.0
    log10_threshold: float = 2.0
    alarm: Count | None = None
    is_logged: bool = False
    is_posted: bool = False


def log10_threshold(live: int) -> float:
    """Return log10 of the capital that raises the alarm of each monitor of a server with so many live versions.

    Each of its two monitors for each version has the level ``FALSE_ALARMS / (2 live)``: the levels add up to
    `FALSE_ALARMS`, a bound on the probability that any of them ever raises a false alarm (Ville, and the union bound).
    """
    return math.log10(2 * live / FALSE_ALARMS)


class Monitors:
    """The monitors of one version of a scorer, in the file of its scores up to some place.

    They see every score in order of arrival, and take bounded memory: see `Monitor`.

    Attributes
    ----------
    tag, statement : str
        The scorer, and where it comes from.
    offset : int
        Bytes of the file of scores that they have seen.
    states : list of MonitorState
    """

    def __init__(
        self, tag: str, statement: str, monitors: list[Monitor], states: list[MonitorState], offset: int = 0
    ) -> None:
        self.tag, self.statement, self.offset, self.states = tag, statement, offset, states
        self._monitors = monitors

    @classmethod
    def start(cls, scorer: Scorer) -> Self:
        """Return those of a scorer, at the start of its stream.

        Raises
        ------
        InputError
            Its scores cannot be monitored; see `calibration_scores`.
        """
        reference = calibration_scores(scorer.calibrator)
        martingales: dict[str, Martingale] = {ALL_ROWS: SimpleJumper(), NORMAL_ROWS: LargePValues()}
        monitors = [
            Monitor.start(reference, seed=0, martingale=each, memory=MONITOR_BINS) for each in martingales.values()
        ]
        return cls(scorer.tag, scorer.statement.id, monitors, [MonitorState(name) for name in martingales])

    def see(self, scores: Singles, threshold: float) -> None:
        """Process the next scores of the stream, shape (n,), with an alarm at a log10 of the capital."""
        # What is no number, no scorer gives: it is passed over rather than to stop the monitors for ever.
        scores = scores[~np.isnan(scores)]
        for monitor, state in zip(self._monitors, self.states, strict=True):
            path = monitor.update(scores)
            reached = np.flatnonzero(path >= threshold)
            if state.alarm is None and (reached.size or state.log10_highest >= threshold):
                state.alarm = state.rows + (int(reached[0]) + 1 if reached.size else 0)
            state.rows, state.log10_threshold = monitor.n_seen, threshold
            state.log10_capital = monitor.log10_value
            state.log10_highest = max(state.log10_highest, float(path.max(initial=0.0)))

    def catch_up(self, path: Path, threshold: float) -> bool:
        """See the next block of a file of scores; return whether there was one.

        A file that has become shorter is read from its beginning, as one that somebody emptied.
        """
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                self.offset = self.offset if self.offset <= size else 0
                file.seek(self.offset)
                content = file.read(BLOCK_BYTES)
        except FileNotFoundError:
            return False
        whole = len(content) - len(content) % _ITEM.itemsize
        if not whole:
            return False
        self.see(np.frombuffer(content[:whole], dtype=_ITEM).astype(np.float32), threshold)
        self.offset += whole
        return True

    def write(self, path: Path) -> None:
        """Write them to a file, which has its former content or the new one at any time."""
        from safetensors.numpy import save

        parts = [monitor.to_part() for monitor in self._monitors]
        head = {
            "tag": self.tag,
            "statement": self.statement,
            "offset": self.offset,
            "states": [asdict(state) for state in self.states],
            "parts": [{"kind": part.kind, "config": part.config} for part in parts],
        }
        arrays = {f"{i}.{name}": array for i, part in enumerate(parts) for name, array in part.arrays.items()}
        plain = {name: np.asarray(array, order="C") for name, array in sorted(arrays.items())}
        write_bytes(path, save(plain, metadata={"monitors": json.dumps(head, sort_keys=True)}))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return those that a file holds; they continue with exactly the same results.

        Raises
        ------
        ScorerError
            There is no such file, or it is damaged.
        """
        head, arrays = _read_file(path, whole=True)
        part = Part("monitors", head, arrays)
        settings = {
            "tag": str,
            "statement": str,
            "offset": Whole,
            "states": tuple[Mapping[str, Any], ...],
            "parts": Heads,
        }
        try:
            check_part(part, settings, {"*": "any ..."})
            states = [_state(each) for each in head["states"]]
            monitors = [load_monitor(inner_part(part, f"{i}.", each)) for i, each in enumerate(head["parts"])]
            if len(states) != len(monitors):
                raise ValueError("it has not one state for each monitor")
        except (ValueError, TypeError) as error:
            raise _damaged(path, str(error)) from error
        return cls(head["tag"], head["statement"], monitors, states, head["offset"])


def _state(content: Mapping[str, Any]) -> MonitorState:
    check_part(Part("state", dict(content)), parameters_of(MonitorState), {})
    return MonitorState(**content)


def _read_file(path: Path, *, whole: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the head of a file and, of a whole one, its arrays."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            head = json.loads((file.metadata() or {})["monitors"])
            return head, {name: file.get_tensor(name) for name in file.keys()} if whole else {}  # noqa: SIM118
    except FileNotFoundError as error:
        raise ScorerError(f"{path} is missing") from error
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> ScorerError:
    return ScorerError(f"{path} is damaged ({reason}); the monitors begin anew when the service is started again")


def monitors_path(scores: Path) -> Path:
    """Return the file of the monitors of a file of scores."""
    return scores.with_suffix(".monitors")


def ensure_monitors(scorer: Scorer) -> None:
    """Make sure that there is a whole file of a scorer's monitors, where its scores are kept.

    A server does not fail for want of it: that is logged, and the monitors miss this scorer.
    """
    scores = Spool.of(scorer).path
    if scores is None:
        return
    path = monitors_path(scores)
    try:
        try:
            Monitors.read(path)
        except ScorerError:
            Monitors.start(scorer).write(path)
    except OSError as error:
        _LOGGER.error("%s: %s; %s is not monitored", path, error.strerror, scorer.tag)


def shown_monitors(path: Path) -> list[MonitorState]:
    """Return what the monitors in a file said when it was written last; nothing where it cannot be read."""
    try:
        head, _ = _read_file(path, whole=False)
        return [_state(each) for each in head["states"]]
    except (AssayError, ValueError, TypeError, KeyError):
        return []
