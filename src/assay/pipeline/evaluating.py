"""The verb that evaluates all candidates on the test rows, once, for the record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.arrays import Doubles, Integers
from assay.data.dataset import RowSet
from assay.errors import DataError
from assay.parts import read_json, read_part, write_arrays, write_json
from assay.pipeline.candidates import Candidates, LevelScores, candidate_name, read_failures
from assay.pipeline.made import Made
from assay.pipeline.rows import evidence_rows, levels_of

if TYPE_CHECKING:
    from assay.calibration.decisions import Reference, Scored
    from assay.calibration.hardness import Strata
    from assay.evaluation.tested import Evaluation


def evaluate(
    out: Path,
    *,
    test: Path,
    trained: Path,
    calibrated: Path,
    candidates: Candidates,
    eps: float,
) -> Made[Evaluation]:
    """Evaluate every candidate at every level on the test rows, with diagnostics and curves at the lowest level.

    Rows of a category without calibration rows, which a scorer refuses, are counted and left out. A detector is left
    out at levels where it could not be trained.

    Raises
    ------
    DataError
        No normal or no anomaly is left.
    """
    from assay.evaluation.curves import Curves
    from assay.evaluation.tested import Evaluation, Tested
    from assay.pipeline.diagnosing import diagnose_rows
    from assay.pipeline.plotting import write_curves

    *all_rows, evidence = evidence_rows(test)
    calibration = read_json(calibrated / "calibration.json")
    normals, anomalies = (_calibrated(rows, calibration.get("categories")) for rows in all_rows)
    for kind, rows in (("normal", normals), ("anomaly", anomalies)):
        if not len(rows):
            raise DataError(
                f"no test {kind} is of a category with calibration rows; merge small categories and ingest again, or "
                "set calibrate.within to 'all' or 'hardness'"
            )
    failures = read_failures(trained)
    table = []
    curves = {}
    # Stable: rows without a time keep their order.
    order = np.argsort(normals.rows["time"].to_numpy(dtype=object), kind="stable")
    for level in levels_of(trained):
        p_values = {}
        scored = LevelScores(trained, calibrated / "adapters", level, normals, anomalies)
        for detector in candidates.trained(level, failures):
            for adapter, of_normals, of_anomalies in scored.of(detector.label, candidates.adapters):
                name = candidate_name(detector.label, adapter.label)
                reference = read_reference(calibrated / "reference" / level, name, scored.edges, calibration["ties"])
                both_p_values = (reference.p_values(of_normals), reference.p_values(of_anomalies))
                p_values[f"{name}.normals"], p_values[f"{name}.anomalies"] = both_p_values
                figures = _figures(reference, of_normals, of_anomalies, both_p_values, scored.strata, eps)
                if level == levels_of(trained)[0]:
                    diagnostics = diagnose_rows(reference, of_normals, both_p_values, scored.strata, order, eps)
                    write_json(out / "diagnostics" / f"{name}.json", diagnostics)
                    curves[name] = Curves.of((of_normals.scores, of_anomalies.scores), both_p_values)
                table.append(Tested(level, detector.label, adapter.label, **figures))
        write_arrays(out / "p_values" / f"{level}.safetensors", p_values)
    left_out = sum(map(len, all_rows)) - len(normals) - len(anomalies)
    evaluation = Evaluation(evidence, eps, len(normals), len(anomalies), left_out, tuple(table))
    write_json(out / "evaluation.json", evaluation.to_json())
    write_curves(out, evaluation.at(levels_of(trained)[0]), curves)
    return Made(evaluation)


def _calibrated(rows: RowSet, categories: Sequence[str] | None) -> RowSet:
    """Return the rows that a scorer accepts: all of them unless it compares within categories."""
    return rows if categories is None else rows.take(rows.rows["category"].isin(categories).to_numpy(dtype=bool))


def read_reference(folder: Path, name: str, strata: Strata, ties: str) -> Reference:
    """Read the reference of a candidate."""
    from assay.calibration.calibrators.registry import load_calibrator
    from assay.calibration.calibrators.weighted import load_ratio
    from assay.calibration.decisions import Reference

    weighted = (folder / "ratio.json").is_file()
    ratio = load_ratio(read_part(folder, "ratio")) if weighted else None
    return Reference(load_calibrator(read_part(folder, name)), strata, ratio, ties)


def _figures(
    reference: Reference,
    normals: Scored,
    anomalies: Scored,
    p_values: tuple[Doubles, ...],
    strata: Integers,
    eps: float,
) -> dict[str, Any]:
    """Return the test results of one candidate at one level."""
    from assay.calibration.decisions import Rule
    from assay.evaluation.metrics import auprc, auroc, stratum_flag_rates

    counts = (len(normals.scores), len(anomalies.scores))
    truth = np.concatenate([np.zeros(counts[0], np.int8), np.ones(counts[1], np.int8)])
    scores = np.concatenate([normals.scores, anomalies.scores])
    flags, detected = map(Rule(eps).flags, p_values)
    rates = stratum_flag_rates(flags, strata)
    return {
        "auroc": auroc(truth, scores),
        "auprc": auprc(truth, scores),
        "fpr": float(flags.mean()),
        "stratum_fpr": rates,
        "worst_stratum_fpr": max(rates.values()),
        "power": float(detected.mean()),
        "smallest_eps": reference.calibrator.smallest_eps,
        "n_calibration": reference.calibrator.n_rows,
    }


def read_evaluation(folder: Path) -> Evaluation:
    """Read ``evaluation.json`` of a finished evaluate stage."""
    from assay.evaluation.tested import Evaluation

    return Evaluation.from_json(read_json(folder / "evaluation.json"))
