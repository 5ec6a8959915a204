"""The verb that chooses the candidate to ship."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from assay.names import Choice
from assay.parts import read_json, read_part, write_json
from assay.pipeline.candidates import LevelScores, candidate_name, candidate_pairs
from assay.pipeline.rows import evidence_rows, levels_of


def select(
    selection: Path,
    trained: Path,
    adapters_folder: Path,
    out: Path,
    *,
    detectors: Sequence[Choice],
    adapters: Sequence[Choice],
    eps: float,
    seed: int,
) -> dict[str, Any]:
    """Choose the candidate to ship, from selection rows alone."""
    from assay.detectors.base import n_stored_floats
    from assay.detectors.registry import unpackageable
    from assay.evaluation.selection import Candidate
    from assay.evaluation.selection import select as choose
    from assay.evaluation.two_fold import SelectionScores

    normals, anomalies, evidence = evidence_rows(selection)
    failures = read_json(trained / "failures.json")
    levels = {float(level.removeprefix("level-")): level for level in levels_of(trained)}
    strata: dict[float, Any] = {}
    found: dict[str, dict[float, SelectionScores]] = {}
    for rho, level in levels.items():
        scored = LevelScores(trained, adapters_folder, level, normals, anomalies)
        strata[rho] = scored.strata
        for detector in detectors:
            if detector.label in failures:
                continue
            for adapter, of_normals, of_anomalies in scored.of(detector.label, adapters):
                name = candidate_name(detector.label, adapter.label)
                found.setdefault(name, {})[rho] = SelectionScores(of_normals.scores, of_anomalies.scores)
    ships = levels[min(levels)]
    candidates = []
    for position, (detector, adapter) in enumerate(candidate_pairs(detectors, adapters)):
        name = candidate_name(detector.label, adapter.label)
        if name in found:
            part = read_part(trained / ships, detector.label)
            floats = n_stored_floats(part) + n_stored_floats(read_part(adapters_folder / ships, name))
            hindrance = unpackageable(part)
            candidates.append(Candidate(detector.label, adapter.label, position, floats, found[name], hindrance))
    prints = normals.rows["fingerprint"].to_numpy(dtype=np.str_)
    result = choose(candidates, fingerprints=prints, strata=strata, eps=eps, seed=seed, ships_at=min(levels))
    write_json(out / "selection.json", {"evidence": evidence, "untrained": failures, **result.to_json()})
    return {}
