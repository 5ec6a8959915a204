"""What changed between two scorers: rows, injected rows, parameters, code, choice, thresholds and metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from assay.audit.chain import Chain, read_chain, require_records
from assay.audit.facts import METRICS, metrics_of, reference_of, selection_of
from assay.errors import ScorerError
from assay.hashing import hash_file
from assay.ledger.rows import LABELLED
from assay.parts import read_arrays
from assay.project.layout import Project

ROWS = "rows.safetensors"
SAMPLE = 5
GONE = "not on record any more: neither work/ nor DVC's cache holds it"


@dataclass(frozen=True, slots=True)
class Difference:
    """What changed from one scorer to another.

    Attributes
    ----------
    before, after : str
        Tags.
    rows : dict
        By use (train, adapt, calibration, labelled): ``before`` and ``after`` (counts), ``added`` and ``removed``
        (counts, by content), and ``sample_added`` and ``sample_removed``: up to 5 rows each, ``fingerprint`` and
        ``row_id`` (None where it is not at hand).
    values : dict
        What is one value a scorer, by name: [before, after]; only what changed, but for metrics, which are all told.
    code : dict
        ``changed``, ``added`` and ``removed``: paths.
    """

    before: str
    after: str
    rows: dict[str, dict[str, Any]]
    values: dict[str, dict[str, list[Any]]]
    code: dict[str, list[str]]

    def to_json(self) -> dict[str, Any]:
        """Return the difference as plain JSON values."""
        return {"before": self.before, "after": self.after, "rows": self.rows, **self.values, "code": self.code}

    def lines(self) -> Iterator[str]:
        """Yield the difference as aligned text."""
        yield f"{self.before} -> {self.after}"
        yield "rows"
        for use, found in self.rows.items():
            counts = f"{found['before']} -> {found['after']}"
            yield f"    {use:<24}{counts:<18}{found['added']} added, {found['removed']} removed"
            for sign, name in (("+", "sample_added"), ("-", "sample_removed")):
                yield from (
                    f"        {sign} {row['fingerprint']}  {row['row_id'] or ''}".rstrip() for row in found[name]
                )
        for group, values in self.values.items():
            yield group.replace("_", " ") + ("" if values else ": the same")
            for name, (then, now) in values.items():
                yield f"    {name.replace('_', ' '):<24}{_words(then)} -> {_words(now)}{_change(then, now)}"
        told = [f"{kind} {path}" for kind, paths in self.code.items() for path in paths]
        yield "code" + ("" if told else ": the same")
        yield from (f"    {line}" for line in told)


def compare_scorers(project: Project, before: str, after: str) -> Difference:
    """Compare two scorers by what they carry, and by what their runs left in work/ or DVC's cache.

    Raises
    ------
    ScorerError
        There is no such scorer, or its head, a record or its list of rows is broken, or one of its
        stages is not known.
    """
    old, new = read_chain(project, before), read_chain(project, after)
    for chain in (old, new):
        _require_whole(chain)
    values = {
        "data": _changed({"version": old.data_version, **old.settings}, {"version": new.data_version, **new.settings}),
        "injected_rows": _changed(_injected(old), _injected(new)),
        "parameters": _changed(_flat(old.params), _flat(new.params)),
        "choice": _changed(_choice(old), _choice(new)),
        "selection": _changed(_selection(old), _selection(new)),
        "thresholds": _changed(reference_of(old), reference_of(new)),
        "metrics": _pairs(_metrics(old), _metrics(new)),
    }
    return Difference(old.tag, new.tag, _rows(old, new), values, _code(old.code, new.code))


def _require_whole(chain: Chain) -> None:
    require_records(chain)
    path = chain.folder / ROWS
    if not path.is_file() or hash_file(path) != chain.head["files"].get(ROWS):
        raise ScorerError(f"{path} is not the one that was packaged; see `assay audit verify {chain.tag}`")


def _rows(old: Chain, new: Chain) -> dict[str, dict[str, Any]]:
    then, now = _fingerprints(old), _fingerprints(new)
    found = {}
    for use in dict.fromkeys((*now, *then)):
        added, removed = (
            now.get(use, Counter()) - then.get(use, Counter()),
            then.get(use, Counter()) - now.get(use, Counter()),
        )
        found[use] = {
            "before": then.get(use, Counter()).total(),
            "after": now.get(use, Counter()).total(),
            "added": added.total(),
            "removed": removed.total(),
            "sample_added": _sample(new, use, added),
            "sample_removed": _sample(old, use, removed),
        }
    return found


def _fingerprints(chain: Chain) -> dict[str, Counter[str]]:
    """Return the fingerprints that a scorer carries, by use, with how often each occurs."""
    return {
        use: Counter(row.tobytes().hex() for row in packed) for use, packed in read_arrays(chain.folder / ROWS).items()
    }


def _sample(chain: Chain, use: str, prints: Counter[str]) -> list[dict[str, str | None]]:
    if not prints:
        return []
    rows = chain.rows("contaminate" if use == LABELLED else "split", use)
    known = {row["fingerprint"]: row["row_id"] for row in rows or ()}
    return [{"fingerprint": mark, "row_id": known.get(mark)} for mark in sorted(prints)[:SAMPLE]]


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
    found: dict[str, Any] = {}
    for name, part in value.items():
        found |= _flat(part, f"{start}{name}.") if isinstance(part, dict) else {f"{start}{name}": part}
    return found


def _pairs(then: dict[str, Any], now: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: [then.get(name), now.get(name)] for name in dict.fromkeys((*then, *now))}


def _changed(then: dict[str, Any], now: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: pair for name, pair in _pairs(then, now).items() if pair[0] != pair[1]}


def _code(then: dict[str, str], now: dict[str, str]) -> dict[str, list[str]]:
    return {
        "changed": sorted(path for path in then if path in now and then[path] != now[path]),
        "added": sorted(set(now) - set(then)),
        "removed": sorted(set(then) - set(now)),
    }


def _words(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _change(then: Any, now: Any) -> str:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (then, now))
    return f"  ({now - then:+.4g})" if numbers else ""
