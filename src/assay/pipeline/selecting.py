"""The verb that chooses the candidate to ship."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from assay.arrays import Integers
from assay.data.dataset import ANOMALY, RowSet, read_rows, row_keys
from assay.errors import DataError, TrainingError
from assay.names import Choice
from assay.parts import read_json, read_part, write_json
from assay.pipeline.candidates import Candidates, Failures, LevelScores, candidate_name, read_failures
from assay.pipeline.judging import accepted, chances_of, ranks_of, read_flag_rule, scores_fault
from assay.pipeline.made import Made
from assay.pipeline.rows import evidence_rows, joined, marked, rho_of, swap_units

if TYPE_CHECKING:
    from assay.evaluation.chances import FlagChances
    from assay.evaluation.paired import RowScores
    from assay.evaluation.selected import Selection


def select(
    out: Path,
    *,
    selection: Path,
    pool: Path,
    plan: Path,
    trained: Mapping[str, Path],
    adapters: Mapping[str, Path],
    candidates: Candidates,
    eps: float,
    seed: int,
    without_labels: str = "probes",
) -> Made[Selection]:
    """Choose the candidate to ship, on rows that nothing was trained, adapted or calibrated on.

    Candidates are judged by the rule that ships: within strata or categories, over groups, weighted, and by the promise
    of their p-values (`assay.evaluation.chances`). At the lowest level, where nothing is injected, the anomalies of the
    pool judge as well, but for those that detectors may have learned labels from.

    A detector that could not be trained at the lowest level, whose model ships, is not a candidate. One that could not
    be trained at another level remains a candidate, with power 0 there; see
    `assay.evaluation.selection.select_candidate`.

    Parameters
    ----------
    selection, pool : Path
        Folders of the selection rows and of the injection pool.
    plan : Path
        ``plan.json`` of `assay.pipeline.contaminate`.
    trained : mapping of str to Path
        Folders of the results of `assay.pipeline.train`, by label of the detector.
    adapters : mapping of str to Path
        Folders of the fitted adapters, by label of the detector.
    candidates : Candidates
    eps : float
        Target false-positive rate of the comparison.
    seed : int
        Seed of the halves of the anomalies.
    without_labels : str
        The label of the default: the detector that ships unless it is not valid, or labelled anomalies show, beyond
        noise, that another one is better; or "probes", to choose the best, by probes where no labelled anomalies judge.

    Returns
    -------
    Made of Selection
        Content of ``selection.json``.

    Raises
    ------
    TrainingError
        No detector could be trained at the lowest level.
    DataError
        No normal is of a category with calibration rows.
    """
    from assay.evaluation.selection import Candidate, select_candidate

    failures = read_failures(trained)
    levels = {rho_of(level): level for level in candidates.levels(trained)}
    ships_at = min(levels)
    _require_one_trained(failures, levels[ships_at], candidates)
    *rows, evidence = evidence_rows(selection)
    labels = evidence != "probes"
    more = _unused(pool, plan, rows[0]) if labels and ships_at == 0 else None
    first = candidates.trained(levels[ships_at], failures)[0].label
    rule = read_flag_rule(adapters[first], levels[ships_at], first, candidates.adapters[0].label)
    normals, anomalies = (accepted(part, rule) for part in rows)
    if not len(normals):
        raise DataError(
            "no selection normal is of a category with calibration rows; merge small categories and ingest again, or "
            "set calibrate.within to 'all' or 'hardness'"
        )
    all_anomalies = anomalies if more is None else joined(anomalies, accepted(more, rule))
    strata: dict[float, Integers] = {}
    judged: dict[str, _Judged] = {}
    for detector in candidates.detectors:
        for rho, level in levels.items():
            judging = all_anomalies if rho == ships_at else anomalies
            scored = LevelScores(trained[detector.label], adapters[detector.label], level, normals, judging)
            strata[rho] = scored.strata  # the same in every cell
            if level not in failures.get(detector.label, {}):
                _judge(scored, detector.label, candidates.adapters, rho, eps, judged)
    compared = []
    for position, (detector, adapter) in enumerate(candidates.pairs()):
        untrained = {rho_of(level): reason for level, reason in failures.get(detector.label, {}).items()}
        if ships_at not in untrained:
            of = judged[candidate_name(detector.label, adapter.label)]
            measured = (of.n_stored_floats, of.chances, of.fault, untrained, of.scores if labels else {})
            compared.append(Candidate(detector.label, adapter.label, position, *measured))
    keys = row_keys(all_anomalies.rows)
    chosen = select_candidate(
        compared,
        anomaly_keys=keys,
        strata=strata,
        eps=eps,
        seed=seed,
        ships_at=ships_at,
        default="" if without_labels == "probes" else without_labels,
        units=swap_units(normals, all_anomalies, probes=False) if labels else None,
    )
    result = replace(chosen, evidence=evidence, untrained=failures)
    write_json(out / "selection.json", result.to_json())
    return Made(result)


def _unused(pool: Path, plan: Path, normals: RowSet) -> RowSet | None:
    """Return the anomalies of the pool that nothing has learned from at the level without injected rows.

    None where roles were assigned by group or time: rows of their groups may be in train, and all of them are earlier.
    """
    rows = read_rows(pool)
    if not len(rows) or any((part.rows[name] != "").any() for part in (rows, normals) for name in ("group", "time")):
        return None
    labelled = rows.rows["fingerprint"].isin(read_json(plan)["labelled"]).to_numpy(dtype=bool)
    return rows.take(~labelled & ~marked(rows, "contradicted") & (rows.labels == ANOMALY))


@dataclass(slots=True)
class _Judged:
    """What is known of a candidate.

    Its chances by level, why it cannot ship, the floats that its parts hold, and how it ranks rows, by level.
    """

    chances: dict[float, FlagChances] = field(default_factory=dict)
    fault: str = ""
    n_stored_floats: int = 0
    scores: dict[float, RowScores] = field(default_factory=dict)


def _judge(
    scored: LevelScores, detector: str, adapters: Sequence[Choice], rho: float, eps: float, judged: dict[str, _Judged]
) -> None:
    """Judge the candidates of a cell at a level, the lowest one first."""
    from assay.detectors.base import n_stored_floats
    from assay.detectors.registry import unpackageable

    part = read_part(scored.trained, detector)
    for adapter, normals, anomalies in scored.of(detector, adapters):
        name = candidate_name(detector, adapter.label)
        rule = read_flag_rule(scored.adapters.parent, scored.adapters.name, detector, adapter.label)
        if name not in judged:
            floats = n_stored_floats(part) + n_stored_floats(read_part(scored.adapters, name))
            judged[name] = _Judged({}, unpackageable(part) or rule.limits(eps), floats)
        if fault := scores_fault(normals, anomalies, rho):
            judged[name].fault = "; ".join(filter(None, (judged[name].fault, fault)))
        else:
            judged[name].chances[rho] = chances = chances_of(scored, rule, normals, anomalies, eps)
            judged[name].scores[rho] = ranks_of(chances, normals, anomalies)


def _require_one_trained(failures: Failures, ships: str, candidates: Candidates) -> None:
    """Raise `TrainingError` if no detector could be trained at the level that ships."""
    if not candidates.trained(ships, failures):
        reasons = "; ".join(by_level[ships] for by_level in failures.values())
        raise TrainingError(f"no detector could be trained: {reasons}")


def read_selection(folder: Path) -> Selection:
    """Read ``selection.json`` of a finished select stage."""
    from assay.evaluation.selected import Selection

    return Selection.from_json(read_json(folder / "selection.json"))
