"""The record of the comparisons of challengers with champions: which gate rows each used, and at what level.

``deployments/NAME.comparisons.jsonl`` has one line for each and is for Git, so that a clone knows what was spent on the
rows. Each is logged as well: a line that is missing from the file, for instance in an older commit, counts here all the
same, and the next comparison writes it again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from assay.errors import ScorerError
from assay.evaluation.paired import MARGIN
from assay.eventlog import EventLog
from assay.parts import is_there, parse_json
from assay.project.pending import Change

COMPARED = "compared"
SUPERIOR, NONINFERIOR = "superior", "noninferior"
_SAMPLE = 200


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison of a challenger with the champion on gate rows.

    Attributes
    ----------
    challenger, champion : str
        Tags with statements.
    rule : {"superior", "noninferior"}
    first : str or None
        By "noninferior", the champion whose power the margin is anchored at, where that is another one.
    evidence : str
        What the anomalies are: "labels", "anomalies" or "probes", as `assay.pipeline.rows.evidence_rows` says.
    anomalies, normals : int
        How many rows.
    rows : tuple of str
        `sample_of` the rows that count as used.
    difference, low, high : float
        Mean difference of normal scores (`assay.evaluation.paired.ScorerPair`) from the champion, and its interval.
    p_value, level : float
    promoted : bool
    time : str
        When, in UTC, ISO 8601; "" before it is recorded.
    """

    challenger: str
    champion: str
    rule: str
    first: str | None
    evidence: str
    anomalies: int
    normals: int
    rows: tuple[str, ...]
    difference: float
    low: float
    high: float
    p_value: float
    level: float
    promoted: bool
    time: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain JSON values."""
        return {**asdict(self), "rows": list(self.rows)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Comparison:
        """Return the comparison that `to_json` described."""
        return cls(**{**content, "rows": tuple(content["rows"])})

    def is_of(self, version: str) -> bool:
        """Return whether the challenger is the scorer of that version."""
        return tag_version(self.challenger) == version

    def asks_the_same(self, other: Comparison) -> bool:
        """Return whether another comparison is of the same scorers, by any statement, on the same rows by one rule."""
        names = ("rule", "evidence", "anomalies", "normals", "rows")
        scorers = [
            [tag_version(tag or "") for tag in (each.challenger, each.champion, each.first)] for each in (self, other)
        ]
        return scorers[0] == scorers[1] and all(getattr(self, name) == getattr(other, name) for name in names)


def words_of(compared: Comparison) -> str:
    """Return in a sentence what a comparison measured, and what followed from it."""
    champion = f"the champion {compared.champion}"
    against = f"{champion} and the first one, {compared.first}" if compared.first else champion
    worse = f"worse than {against} by {MARGIN:g}"
    if compared.rule == NONINFERIOR:
        outcome = f"not {worse}" if compared.promoted else f"possibly {worse}; {champion} stays"
    else:
        outcome = (
            f"better than {champion}" if compared.promoted else f"not shown to be better than {champion}, which stays"
        )
    return (
        f"{outcome}: mean difference {compared.difference:+.3f} standard deviations (90 % interval {compared.low:+.3f} "
        f"to {compared.high:+.3f}), p {compared.p_value:.3g} at level {compared.level:.3g}, on {compared.anomalies} "
        f"gate {noun_of(compared.evidence)} ranked among {compared.normals} gate normals"
    )


def noun_of(evidence: str) -> str:
    """Return what the anomalies of a comparison are."""
    return "synthetic probes" if evidence == "probes" else "anomalies"


def tag_version(tag: str) -> str:
    """Return the version in the tag of a scorer, with a statement or without one."""
    return tag.rpartition(":")[2].partition("-")[0]


def sample_of(keys: Iterable[str]) -> tuple[str, ...]:
    """Return up to 200 short hashes of the keys of rows, sorted: those with the smallest hash.

    Of two sets of rows, the share of the second that the first holds is estimated by the same share of their samples,
    and is exact up to 200 rows.
    """
    return tuple(sorted({blake2b(key.encode(), digest_size=6).hexdigest() for key in keys})[:_SAMPLE])


def comparisons_path(root: Path, name: str) -> Path:
    """Return the file of a dataset's comparisons."""
    return root / "deployments" / f"{name}.comparisons.jsonl"


def read_comparisons(root: Path, name: str, events: Iterable[Mapping[str, Any]]) -> list[Comparison]:
    """Return the comparisons in a dataset's file and in the log, each once, by time.

    Raises
    ------
    ScorerError
        A line of the file cannot be read.
    """
    lines = [*recorded_comparisons(root, name), *read_logged(name, events)]
    return sorted(dict.fromkeys(lines), key=lambda each: each.time)


def read_logged(name: str, events: Iterable[Mapping[str, Any]]) -> list[Comparison]:
    """Return the comparisons of a dataset that the log holds."""
    logged = [event["comparison"] for event in events if event["event"] == COMPARED and event["name"] == name]
    return [Comparison.from_json(comparison) for comparison in logged]


def recorded_comparisons(root: Path, name: str) -> list[Comparison]:
    """Return the comparisons in a dataset's file alone; see `read_comparisons`."""
    path = comparisons_path(root, name)
    return parse_comparisons(path.read_bytes(), path) if is_there(path) else []


def parse_comparisons(content: bytes, path: Path) -> list[Comparison]:
    """Return the comparisons in the content of a file; see `read_comparisons`."""
    comparisons = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            comparisons.append(Comparison.from_json(parse_json(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise ScorerError(
                f"{path}: line {number} is not a comparison that Assay wrote; restore the file from Git, and after a "
                "merge keep the lines of both sides"
            ) from error
    return comparisons


def add_comparison(root: Path, name: str, compared: Comparison, events: EventLog) -> None:
    """Log a comparison and add it to the dataset's file; call it under the project's lock."""
    earlier = read_comparisons(root, name, events)
    compared = replace(compared, time=datetime.now(UTC).isoformat(timespec="seconds"))
    lines = (json.dumps(each.to_json(), sort_keys=True) for each in (*earlier, compared))
    with Change(root) as change:
        change.write(comparisons_path(root, name), "".join(f"{line}\n" for line in lines).encode())
        change.commit(COMPARED, {"name": name, "comparison": compared.to_json()})
