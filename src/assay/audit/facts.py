"""Facts about each stage behind a scorer, read from its record and its recorded outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import isfinite
from typing import Any

from assay.audit.chain import Chain
from assay.hashing import hash_file
from assay.parts import Part, read_arrays
from assay.project.sweeping import SWEPT

Facts = dict[str, Any]
METRICS = ("auroc", "auprc", "fpr", "worst_stratum_fpr", "power")


def candidate_row(rows: list[dict[str, Any]], chain: Chain) -> dict[str, Any]:
    """Return the row of the packaged candidate among rows of a selection or an evaluation; empty if it is not there."""
    detector, adapter, level = chain.candidate
    matching = (row for row in rows if (row["detector"], row["adapter"]) == (detector, adapter))
    return next((row for row in matching if row.get("level", level) == level), {})


def metrics_of(chain: Chain) -> dict[str, float] | None:
    """Return the test metrics of the packaged candidate, None where no intact copy of them is left."""
    evaluation = chain.json("evaluate", "evaluation.json")
    if evaluation is None:
        return None
    row = candidate_row(evaluation["candidates"], chain)
    return {name: row[name] for name in METRICS if name in row}


def selection_of(chain: Chain) -> dict[str, Any] | None:
    """Return the selection's row of the packaged candidate, as the statement has it, or as far as a copy is left."""
    if (row := chain.statement.content.get("selection")) is not None:
        return dict(row)
    selection = chain.json("select", "selection.json")
    return None if selection is None else candidate_row(selection["candidates"], chain)


def reference_of(chain: Chain) -> dict[str, Any]:
    """Return m reference scores, the smallest eps they allow, and the score threshold at the scorer's eps.

    There is no threshold where no row can be flagged at that eps, and no single one where rows are compared within
    strata or categories, over groups or folds, or weighted. The result is empty where the calibrator's file changed.
    """
    from assay.calibration.calibrators.conformal import ConformalCalibrator
    from assay.calibration.calibrators.registry import load_calibrator

    path, part = chain.folder / "calibrator.safetensors", chain.head["parts"]["calibrator"]
    if not path.is_file() or hash_file(path) != chain.head["files"].get(path.name):
        return {}
    calibrator = load_calibrator(Part(part["kind"], part["config"], read_arrays(path)))
    facts = {"m": calibrator.n_rows, "smallest_eps": calibrator.smallest_eps}
    if isinstance(calibrator, ConformalCalibrator) and isfinite(threshold := calibrator.threshold(chain.head["eps"])):
        facts["threshold"] = threshold
    return facts


def _params(chain: Chain, stage: str, name: str) -> Any:
    return chain.records[stage].params.get(name) if stage in chain.records else None


def _split(chain: Chain) -> Facts:
    split = chain.json("split", "split.json") or {}
    roles = {
        role: f"{counts['rows']} rows" + (f" ({counts['anomalies']} anomalies)" if counts["anomalies"] else "")
        for role, counts in split.get("roles", {}).items()
    }
    seed = (_params(chain, "split", "split") or {}).get("seed")
    return {
        "roles_by": split.get("unit"),
        "evidence": split.get("evidence"),
        "seed": seed,
        "roles": [{role: text} for role, text in roles.items()],
        "looked_at_by": None if "time" in str(split.get("unit")) else _looks(chain, seed),
    }


def _looks(chain: Chain, seed: Any) -> list[str] | None:
    """Return the sweeps whose test rows, by other seeds, may be rows that calibrate and gate the scorer, in words."""
    swept = [event for event in chain.events if event["event"] == SWEPT and event["dataset"] == chain.name]
    others = [(event, [each for each in event["split_seeds"] if each != seed]) for event in swept]
    words = (f"sweep {event['sweep']} at {event['time']}, seeds {', '.join(map(str, s))}" for event, s in others if s)
    return list(words) or None


def _contaminate(chain: Chain) -> Facts:
    plan = chain.json("contaminate", "plan.json") or {"levels": []}
    levels = []
    for level in plan["levels"]:
        rows = chain.rows("contaminate", f"level-{level['rho']:g}") or []
        recipes = Counter(row["recipe"] for row in rows)
        counts = {name: level[name] for name in ("rho", "n_train", "n_injected")}
        natural = {name: level[name] for name in ("natural_anomalies_known", "natural_rows_unknown")}
        levels.append(counts | ({"by": dict(recipes)} if recipes else {}) | natural)
    settings = _params(chain, "contaminate", "contaminate") or {}
    return {"source": settings.get("source"), "seed": settings.get("seed"), "levels": levels}


def _validate(chain: Chain) -> Facts:
    summary = chain.json("validate", "summary.json") or {"batches": {}}
    checks = {name: f"{len(batch)} checks" for name, batch in summary["batches"].items()}
    warns = [
        check.get("warns", False) for batch in summary["batches"].values() for check in batch if not check["success"]
    ]
    facts = {"suite": summary.get("suite"), "failed": warns.count(False) if checks else None}
    return facts | ({"warnings": sum(warns)} if any(warns) else {}) | {"batches": [checks] if checks else []}


def _train(chain: Chain) -> Facts:
    settings, level = _params(chain, "train", "train") or {}, chain.candidate[2]
    failures = _failures(chain)
    fits = event_details(chain, "train").get("fit_seconds", {})
    return {
        "shipped": f"{chain.candidate[0]} at {level}",
        "detectors": _detectors(chain),
        "seed": settings.get("seed"),
        "device": settings.get("device"),
        "not_trained": [f"{name} at {', '.join(levels)}" for name, levels in sorted(failures.items())],
        "fit_seconds": {name: levels[level] for name, levels in fits.items() if level in levels},
    }


def _failures(chain: Chain) -> dict[str, list[str]]:
    """Return the levels at which detectors could not be trained, by label."""
    failures = chain.json("train", "failures.json") or {}
    if failures and chain.records["train"].detector is not None:
        return {chain.candidate[0]: list(failures)}
    return {label: list(levels) for label, levels in failures.items()}


def _detectors(chain: Chain) -> list[str]:
    """Return the compared detectors as params.yaml had them, with their parameters."""
    entries = _params(chain, "select", "detectors") or ()
    if isinstance(entries, dict):
        return [_choice({label: params}) if params else label for label, params in entries.items()]
    return [_choice(entry) for entry in entries]


def _calibrate(chain: Chain) -> Facts:
    calibration = chain.json("calibrate", "calibration.json") or {}
    return {
        "shipped": chain.candidate[1],
        "adapters": [_choice(entry) for entry in _params(chain, "calibrate", "adapters") or ()],
        **{name: value for name, value in reference_of(chain).items() if name != "threshold"},
        "compared": chain.head["parts"]["calibrator"]["kind"],
        "ties": calibration.get("ties"),
        "promise": calibration.get("promise"),
        "labelled_anomalies_left_out": calibration.get("trim", {}).get("removed") or None,
        "target_rows": calibration.get("n_target") or None,
    }


def _select(chain: Chain) -> Facts:
    row, selection = selection_of(chain) or {}, chain.json("select", "selection.json") or {}
    return {
        "winner": f"{chain.candidate[0]}+{chain.candidate[1]}",
        "mean_power": row.get("power"),
        "fpr": row.get("fpr"),
        "worst_stratum_fpr": row.get("worst_stratum_fpr"),
        "candidates": len(selection.get("candidates", ())) or None,
        "rows": {"normals": selection["n_normals"], "anomalies": selection["n_anomalies"]} if selection else None,
        "evidence": selection.get("evidence"),
        "default": selection.get("default") or None,
        "p_value_beside_default": row.get("p_value"),
        "eps": _params(chain, "select", "eps"),
        "seed": (_params(chain, "select", "select") or {}).get("seed"),
    }


def _evaluate(chain: Chain) -> Facts:
    metrics = metrics_of(chain)
    if metrics is None:
        return {"metrics": "not on record any more: neither work/ nor DVC's cache holds this run's evaluation"}
    evaluation = chain.json("evaluate", "evaluation.json")
    rows = {"normals": evaluation["n_normals"], "anomalies": evaluation["n_anomalies"]}
    return {**metrics, "rows": rows, "evidence": evaluation["evidence"], "eps": evaluation["eps"]}


def _package(chain: Chain) -> Facts:
    return {
        "tag": chain.tag,
        "statement": chain.statement.id,
        "candidate": f"{chain.candidate[0]}+{chain.candidate[1]} at {chain.candidate[2]}",
        "eps": chain.head["eps"],
        "threshold": reference_of(chain).get("threshold"),
        "files": len(chain.head["files"]) + 1,
        "lineage_root": chain.statement.root,
    }


def event_details(chain: Chain, stage: str) -> dict[str, Any]:
    """Return what was logged when a stage of the chain ran here: fit seconds and the like."""
    digest = chain.named(stage)
    matching = (e for e in reversed(chain.events) if e.get("stage") == stage and e.get("record") == digest)
    return dict(next(matching, {"details": {}})["details"])


def _choice(entry: Any) -> str:
    """Return an entry of ``detectors`` or ``adapters`` as params.yaml has it."""
    if isinstance(entry, str):
        return entry
    ((name, params),) = entry.items()
    values = ", ".join(f"{key}={value}" for key, value in (params or {}).items())
    return f"{name}({values})"


def facts_of(chain: Chain, stage: str) -> Facts:
    """Return the facts about a stage; for a stage without an entry in `FACTS`, its parameters and output files."""
    if stage in FACTS:
        return FACTS[stage](chain)
    record = chain.records.get(stage)
    return {} if record is None else {**record.params, "files": sorted(record.outputs)}


FACTS: dict[str, Callable[[Chain], Facts]] = {
    "split": _split,
    "contaminate": _contaminate,
    "validate": _validate,
    "train": _train,
    "calibrate": _calibrate,
    "select": _select,
    "evaluate": _evaluate,
    "package": _package,
}
