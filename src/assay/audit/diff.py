"""Differences between two scorers: rows, injected rows, parameters, code, choice, thresholds and metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from assay.audit.chain import Chain, read_chain, require_records
from assay.audit.facts import METRICS, metrics_of, reference_of, selection_of
from assay.data.dataset import row_keys
from assay.errors import ScorerError
from assay.hashing import hash_file
from assay.pipeline.learned import learned_by
from assay.pipeline.rows import LABELLED
from assay.project.layout import Project

SAMPLE = 5
GONE = "not on record any more: neither work/ nor DVC's cache holds it"


@dataclass(frozen=True, slots=True)
class Difference:
    """Changes from one scorer to another.

    Attributes
    ----------
    before, after : str
        Tags with statements.
    same_scorer : bool
        Whether both are one version: the same answers, reached twice.
    rows : dict
        By use (train, adapt, calibration, labelled): ``before`` and ``after`` (counts), ``added`` and ``removed``
        (counts, by content), and ``sample_added`` and ``sample_removed``: up to 5 rows each, ``fingerprint`` and
        ``row_id`` (None where it is not known).
    values : dict
        Single values by group and name: [before, after]; only changes, except for metrics, which are all listed.
    code : dict
        ``changed``, ``added`` and ``removed``: paths.
    """

    before: str
    after: str
    same_scorer: bool
    rows: dict[str, dict[str, Any]]
    values: dict[str, dict[str, list[Any]]]
    code: dict[str, list[str]]

    def to_json(self) -> dict[str, Any]:
        """Return the difference as plain JSON values."""
        tags = {"before": self.before, "after": self.after, "same_scorer": self.same_scorer}
        return {**tags, "rows": self.rows, **self.values, "code": self.code}

    def lines(self) -> Iterator[str]:
        """Yield the difference as aligned text."""
        yield f"{self.before} -> {self.after}" + (": the same scorer, reached twice" if self.same_scorer else "")
        yield "rows"
        for use, changes in self.rows.items():
            counts = f"{changes['before']} -> {changes['after']}"
            yield f"    {use:<24}{counts:<18}{changes['added']} added, {changes['removed']} removed"
            for sign, name in (("+", "sample_added"), ("-", "sample_removed")):
                yield from (
                    f"        {sign} {row['fingerprint']}  {row['row_id'] or ''}".rstrip() for row in changes[name]
                )
        for group, values in self.values.items():
            yield group.replace("_", " ") + ("" if values else ": the same")
            for name, (old, new) in values.items():
                yield f"    {name.replace('_', ' '):<24}{_words(old)} -> {_words(new)}{_change(old, new)}"
        code_changes = [f"{kind} {path}" for kind, paths in self.code.items() for path in paths]
        yield "code" + ("" if code_changes else ": the same")
        yield from (f"    {line}" for line in code_changes)


def compare_scorers(project: Project, before: str, after: str) -> Difference:
    """Compare two scorers by their folders, and by outputs of their runs in work/ or DVC's cache.

    Raises
    ------
    ScorerError
        There is no such scorer, or its head, a record or its list of rows is broken, or one of its
        stages is not known.
    """
    chain_before, chain_after = read_chain(project, before), read_chain(project, after)
    for chain in (chain_before, chain_after):
        _require_whole(chain)
    values = {
        "data": _changed(
            {"version": chain_before.data_version, **chain_before.settings},
            {"version": chain_after.data_version, **chain_after.settings},
        ),
        "injected_rows": _changed(_injected(chain_before), _injected(chain_after)),
        "parameters": _changed(_flat(chain_before.params), _flat(chain_after.params)),
        "choice": _changed(_choice(chain_before), _choice(chain_after)),
        "selection": _changed(_selection(chain_before), _selection(chain_after)),
        "thresholds": _changed(reference_of(chain_before), reference_of(chain_after)),
        "metrics": _pairs(_metrics(chain_before), _metrics(chain_after)),
    }
    return Difference(
        chain_before.statement.tag,
        chain_after.statement.tag,
        chain_before.version == chain_after.version,
        _rows(chain_before, chain_after),
        values,
        _code(chain_before.code, chain_after.code),
    )


def _require_whole(chain: Chain) -> None:
    require_records(chain)
    path = chain.statement.rows
    if path is None or not path.is_file() or hash_file(path) != chain.statement.rows_hash:
        raise ScorerError(
            f"{path or 'the list of its rows'} is not the one that was packaged; see `assay audit verify {chain.tag}`"
        )


def _rows(chain_before: Chain, chain_after: Chain) -> dict[str, dict[str, Any]]:
    learned = [learned_by(chain.statement) for chain in (chain_before, chain_after)]
    copies_known = all("copy" in rows for rows in learned)
    rows_before, rows_after = (_keys(rows, copies_known) for rows in learned)
    changes = {}
    for use in dict.fromkeys((*rows_after, *rows_before)):
        added, removed = (
            rows_after.get(use, Counter()) - rows_before.get(use, Counter()),
            rows_before.get(use, Counter()) - rows_after.get(use, Counter()),
        )
        changes[use] = {
            "before": rows_before.get(use, Counter()).total(),
            "after": rows_after.get(use, Counter()).total(),
            "added": added.total(),
            "removed": removed.total(),
            "sample_added": _sample(chain_after, use, added),
            "sample_removed": _sample(chain_before, use, removed),
        }
    return changes


def _keys(learned: pd.DataFrame, copies_known: bool) -> dict[str, Counter[str]]:
    """Return what tells the rows of each use apart, with how often each occurs: content and copy, or content alone."""
    keys = learned.assign(key=row_keys(learned) if copies_known else learned["fingerprint"])
    return {str(use): Counter(rows["key"]) for use, rows in keys.groupby("use")}


def _sample(chain: Chain, use: str, keys: Counter[str]) -> list[dict[str, str | None]]:
    if not keys:
        return []
    rows = chain.rows("contaminate" if use == LABELLED else "split", use) or ()
    row_ids = {row["fingerprint"]: row["row_id"] for row in rows}
    row_ids |= {f"{row['fingerprint']}:{row['copy']}": row["row_id"] for row in rows if "copy" in row}
    return [{"fingerprint": key.partition(":")[0], "row_id": row_ids.get(key)} for key in sorted(keys)[:SAMPLE]]


def _injected(chain: Chain) -> dict[str, Any]:
    plan = chain.json("contaminate", "plan.json")
    return {} if plan is None else {f"level {level['rho']:g}": level["n_injected"] for level in plan["levels"]}


def _choice(chain: Chain) -> dict[str, Any]:
    detector, adapter, level = chain.candidate
    return {"detector": detector, "adapter": adapter, "level": level, "eps": chain.head["eps"]}


def _selection(chain: Chain) -> dict[str, Any]:
    row = selection_of(chain)
    if row is None:
        return {"mean_power": GONE}
    return {"mean_power": row.get("power"), "fpr": row.get("fpr"), "worst_stratum_fpr": row.get("worst_stratum_fpr")}


def _metrics(chain: Chain) -> dict[str, Any]:
    return metrics_of(chain) or dict.fromkeys(METRICS, GONE)


def _flat(value: dict[str, Any], start: str = "") -> dict[str, Any]:
    """Return nested settings by dotted names; lists stay whole."""
    settings: dict[str, Any] = {}
    for name, part in value.items():
        settings |= _flat(part, f"{start}{name}.") if isinstance(part, dict) else {f"{start}{name}": part}
    return settings


def _pairs(before: dict[str, Any], after: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: [before.get(name), after.get(name)] for name in dict.fromkeys((*before, *after))}


def _changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: pair for name, pair in _pairs(before, after).items() if pair[0] != pair[1]}


def _code(before: dict[str, str], after: dict[str, str]) -> dict[str, list[str]]:
    return {
        "changed": sorted(path for path in before if path in after and before[path] != after[path]),
        "added": sorted(set(after) - set(before)),
        "removed": sorted(set(before) - set(after)),
    }


def _words(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _change(before: Any, after: Any) -> str:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (before, after))
    return f"  ({after - before:+.4g})" if numbers else ""
