"""The verb that chooses the candidate to ship."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.data.dataset import row_keys
from assay.errors import TrainingError
from assay.parts import read_json, read_part, write_json
from assay.pipeline.candidates import Candidates, Failures, LevelScores, candidate_name, read_failures
from assay.pipeline.made import Made
from assay.pipeline.rows import evidence_rows, rho_of

if TYPE_CHECKING:
    from assay.evaluation.selection import Selection


def select(
    out: Path,
    *,
    selection: Path,
    trained: Mapping[str, Path],
    adapters: Mapping[str, Path],
    candidates: Candidates,
    eps: float,
    seed: int,
) -> Made[Selection]:
    """Choose the candidate to ship, on selection rows alone.

    A detector that could not be trained at the lowest level, whose model ships, is not a candidate. One that could not
    be trained at another level remains a candidate, with power 0 there; see
    `assay.evaluation.selection.select_candidate`.

    Parameters
    ----------
    selection : Path
        Folder of the selection rows.
    trained : mapping of str to Path
        Folders of the results of `assay.pipeline.train`, by label of the detector.
    adapters : mapping of str to Path
        Folders of the fitted adapters, by label of the detector.
    candidates : Candidates
    eps : float
        Target false-positive rate of the comparison.
    seed : int
        Seed of the two folds.

    Returns
    -------
    Made of Selection
        Content of ``selection.json``.

    Raises
    ------
    TrainingError
        No detector could be trained at the lowest level.
    """
    from assay.detectors.base import n_stored_floats
    from assay.detectors.registry import unpackageable
    from assay.evaluation.selection import Candidate, select_candidate
    from assay.evaluation.two_fold import SelectionScores

    normals, anomalies, evidence = evidence_rows(selection)
    failures = read_failures(trained)
    levels = {rho_of(level): level for level in candidates.levels(trained)}
    ships_at = min(levels)
    ships = levels[ships_at]
    _require_one_trained(failures, ships, candidates)
    strata: dict[float, Any] = {}
    scores_of: dict[str, dict[float, SelectionScores]] = {}
    for rho, level in levels.items():
        for detector in candidates.detectors:
            cell = (trained[detector.label], adapters[detector.label])
            scored = LevelScores(*cell, level, normals, anomalies)
            strata[rho] = scored.strata  # the same in every cell
            if level in failures.get(detector.label, {}):
                continue
            for adapter, of_normals, of_anomalies in scored.of(detector.label, candidates.adapters):
                name = candidate_name(detector.label, adapter.label)
                scores_of.setdefault(name, {})[rho] = SelectionScores(of_normals.scores, of_anomalies.scores)
    compared = []
    for position, (detector, adapter) in enumerate(candidates.pairs()):
        untrained = {rho_of(level): reason for level, reason in failures.get(detector.label, {}).items()}
        if ships_at in untrained:
            continue
        name = candidate_name(detector.label, adapter.label)
        part = read_part(trained[detector.label] / ships, detector.label)
        floats = n_stored_floats(part) + n_stored_floats(read_part(adapters[detector.label] / ships, name))
        fault = unpackageable(part)
        compared.append(Candidate(detector.label, adapter.label, position, floats, scores_of[name], fault, untrained))
    keys = row_keys(normals.rows)
    chosen = select_candidate(compared, row_keys=keys, strata=strata, eps=eps, seed=seed, ships_at=ships_at)
    result = replace(chosen, evidence=evidence, untrained=failures)
    write_json(out / "selection.json", result.to_json())
    return Made(result)


def _require_one_trained(failures: Failures, ships: str, candidates: Candidates) -> None:
    """Raise `TrainingError` if no detector could be trained at the level that ships."""
    if not candidates.trained(ships, failures):
        reasons = "; ".join(by_level[ships] for by_level in failures.values())
        raise TrainingError(f"no detector could be trained: {reasons}")


def read_selection(folder: Path) -> Selection:
    """Read ``selection.json`` of a finished select stage."""
    from assay.evaluation.selection import Selection

    return Selection.from_json(read_json(folder / "selection.json"))
