"""The runs in the event log: which rows they read and for what use, and which scorers they made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from assay.ledger.rows import FIRST
from assay.project.stages import STAGES

# DVC may calibrate one detector before it trains the next, so that the verbs of cells share a position.
FIRST_OF_CELLS = next(position for position, entry in enumerate(STAGES.values()) if entry.cells)
POSITIONS = {verb: FIRST_OF_CELLS if entry.cells else position for position, (verb, entry) in enumerate(STAGES.items())}
LAST = list(STAGES)[-1]
KILLED = "it was killed before it could log its end"
SIGNALLED = "a signal ended it"


@dataclass
class _Outside:
    """A run outside the flow: its id, the position of its newest stage, and its stages so far."""

    run: str
    position: int = -1
    seen: set[tuple[str, str | None]] = field(default_factory=set)


@dataclass
class History:
    """The runs of a project, read from its events in their order.

    Stages that ran outside a run of the flow (``dvc repro``, ``assay stage``) are grouped into separate runs: one
    for each sequence of stages in the order of the pipeline. Runs hold the project's lock: one without an end is
    "unfinished" until the next begins, and "interrupted" from then on.

    Attributes
    ----------
    runs : dict of str to dict
        By id: ``run``, ``driver``, ``machine``, ``dataset``, ``started``, ``state``, ``reason``.
    reads : set of (str, str, str)
        Run, SHA-256 of the file of rows, and use.
    made : dict of str to (str or None, str)
        By scorer and statement (``name:version-statement``; the scorer alone in entries of before there were any): its
        file of rows and the run that made it.
    without_rows : set of str
        Runs whose rows were not kept.
    """

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    reads: set[tuple[str, str, str]] = field(default_factory=set)
    made: dict[str, tuple[str | None, str]] = field(default_factory=dict)
    without_rows: set[str] = field(default_factory=set)
    _rows: dict[str, str] = field(default_factory=dict)
    _flow: str | None = None
    _outside_runs: dict[str, _Outside] = field(default_factory=dict)

    @classmethod
    def of(cls, events: Iterable[dict[str, Any]]) -> History:
        """Read the events, oldest first."""
        history = cls()
        for event in events:
            if event["event"] == "rows":
                history._rows[event["dataset"]] = event["rows"]
            elif event["event"] == "run-started":
                if (unfinished := history._flow) is not None:
                    history.runs[unfinished] |= {"state": "interrupted", "reason": KILLED}
                history._flow, history._outside_runs = event["run"], {}
                history._open(event, event["run"], event["driver"])
            elif event["event"] == "run-ended":
                history._end(event)
            elif event["event"] == "stage":
                history._stage(event)
        return history

    def _open(self, event: dict[str, Any], run: str, driver: str) -> None:
        description = {"run": run, "driver": driver, "machine": event.get("machine", ""), "dataset": event["dataset"]}
        description["started"] = event["time"]
        self.runs[run] = {**description, "state": "unfinished", "reason": ""}

    def _end(self, event: dict[str, Any]) -> None:
        self._flow, run = None, self.runs.get(event["run"])
        if run is None:
            return
        run["state"], run["reason"] = event["state"], event["reason"]
        self._use(run, event["stages"])

    def _stage(self, event: dict[str, Any]) -> None:
        run = self.runs[self._flow] if self._flow else None
        if run is None or run["dataset"] != event["dataset"]:
            run = self._outside(event)
            if event["stage"] == LAST:
                run["state"] = "completed"
        self._use(run, [event["stage"]])
        details = event["details"]
        if "scorer" in details:
            tag = details["scorer"] + (f"-{details['statement']}" if "statement" in details else "")
            self.made[tag] = (self._rows.get(event["dataset"]), run["run"])

    def _outside(self, event: dict[str, Any]) -> dict[str, Any]:
        """Return the run outside the flow that a stage belongs to."""
        current = self._outside_runs.get(event["dataset"])
        # A stage that this version does not know has no position; it belongs to the run of its neighbours.
        position, cell = POSITIONS.get(event["stage"]), (event["stage"], event.get("detector"))
        if current is None or (position is not None and (position < current.position or cell in current.seen)):
            current = self._outside_runs[event["dataset"]] = _Outside(f"dvc-{event['previous'][:12]}")
            self._open(event, current.run, "dvc")
        current.position = current.position if position is None else position
        current.seen.add(cell)
        return self.runs[current.run]

    def _use(self, run: dict[str, Any], stages: list[str]) -> None:
        """Add the uses of these stages. Rows are kept after the first two stages, which count once a later one ran."""
        stages = [stage.partition("@")[0] for stage in stages]
        if not set(stages) - {*FIRST}:
            return
        rows = self._rows.get(run["dataset"])
        if rows is None:
            self.without_rows.add(run["run"])
            return
        uses = [use for stage in {*FIRST, *stages} for use in (STAGES[stage].uses if stage in STAGES else ())]
        self.reads |= {(run["run"], rows, use) for use in uses}
