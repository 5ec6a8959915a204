"""The verb that chooses the candidate to ship."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.data.dataset import row_keys
from assay.parts import read_json, read_part, write_json
from assay.pipeline.candidates import Candidates, LevelScores, candidate_name, read_failures
from assay.pipeline.made import Made
from assay.pipeline.rows import evidence_rows, levels_of, rho_of

if TYPE_CHECKING:
    from assay.evaluation.selection import Selection


def select(
    out: Path,
    *,
    selection: Path,
    trained: Path,
    adapters: Path,
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
    trained : Path
        Folder of the results of `assay.pipeline.train`.
    adapters : Path
        Folder of the fitted adapters.
    candidates : Candidates
    eps : float
        Target false-positive rate of the comparison.
    seed : int
        Seed of the two folds.

    Returns
    -------
    Made of Selection
        Content of ``selection.json``.
    """
    from assay.detectors.base import n_stored_floats
    from assay.detectors.registry import unpackageable
    from assay.evaluation.selection import Candidate, select_candidate
    from assay.evaluation.two_fold import SelectionScores

    normals, anomalies, evidence = evidence_rows(selection)
    failures = read_failures(trained)
    levels = {rho_of(level): level for level in levels_of(trained)}
    strata: dict[float, Any] = {}
    scores_of: dict[str, dict[float, SelectionScores]] = {}
    for rho, level in levels.items():
        scored = LevelScores(trained, adapters, level, normals, anomalies)
        strata[rho] = scored.strata
        for detector in candidates.trained(level, failures):
            for adapter, of_normals, of_anomalies in scored.of(detector.label, candidates.adapters):
                name = candidate_name(detector.label, adapter.label)
                scores_of.setdefault(name, {})[rho] = SelectionScores(of_normals.scores, of_anomalies.scores)
    ships_at = min(levels)
    ships = levels[ships_at]
    compared = []
    for position, (detector, adapter) in enumerate(candidates.pairs()):
        untrained = {rho_of(level): reason for level, reason in failures.get(detector.label, {}).items()}
        if ships_at in untrained:
            continue
        name = candidate_name(detector.label, adapter.label)
        part = read_part(trained / ships, detector.label)
        floats = n_stored_floats(part) + n_stored_floats(read_part(adapters / ships, name))
        fault = unpackageable(part)
        compared.append(Candidate(detector.label, adapter.label, position, floats, scores_of[name], fault, untrained))
    keys = row_keys(normals.rows)
    chosen = select_candidate(compared, row_keys=keys, strata=strata, eps=eps, seed=seed, ships_at=ships_at)
    result = replace(chosen, evidence=evidence, untrained=failures)
    write_json(out / "selection.json", result.to_json())
    return Made(result)


def read_selection(folder: Path) -> Selection:
    """Read ``selection.json`` of a finished select stage."""
    from assay.evaluation.selection import Selection

    return Selection.from_json(read_json(folder / "selection.json"))
