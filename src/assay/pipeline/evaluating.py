"""The verb that reads the test rows, once, for the record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assay.config import Choice
from assay.parts import read_json, read_part, write_arrays, write_json
from assay.pipeline.candidates import LevelScores, Scores, candidate_name
from assay.pipeline.rows import evidence_rows, levels_of

if TYPE_CHECKING:
    from assay.calibration.conformal import ConformalCalibrator


def evaluate(
    test: Path,
    trained: Path,
    calibrated: Path,
    out: Path,
    *,
    detectors: Sequence[Choice],
    adapters: Sequence[Choice],
    eps: float,
) -> dict[str, Any]:
    """Read the test rows, once, for the record: every candidate at every level."""
    from assay.calibration.conformal import ConformalCalibrator

    normals, anomalies, evidence = evidence_rows(test)
    failures = read_json(trained / "failures.json")
    table = []
    for level in levels_of(trained):
        p_values = {}
        scored = LevelScores(trained, calibrated / "adapters", level, normals, anomalies)
        for detector in detectors:
            if level in failures.get(detector.label, {}):
                continue
            for adapter, of_normals, of_anomalies in scored.of(detector.label, adapters):
                name = candidate_name(detector.label, adapter.label)
                calibrator = ConformalCalibrator.from_part(read_part(calibrated / "reference" / level, name))
                p_values[f"{name}.normals"] = calibrator.p_values(of_normals)
                p_values[f"{name}.anomalies"] = calibrator.p_values(of_anomalies)
                figures = _figures(calibrator, of_normals, of_anomalies, scored.strata, eps)
                table.append({"level": level, "detector": detector.label, "adapter": adapter.label, **figures})
        write_arrays(out / "p_values" / f"{level}.safetensors", p_values)
    about = {"evidence": evidence, "eps": eps, "n_normals": len(normals), "n_anomalies": len(anomalies)}
    write_json(out / "evaluation.json", {**about, "candidates": table})
    return {}


def _figures(
    calibrator: ConformalCalibrator, normals: Scores, anomalies: Scores, strata: NDArray[np.int64], eps: float
) -> dict[str, Any]:
    """What the test rows say of one candidate at one level."""
    from assay.evaluation.metrics import auprc, auroc, stratum_rates

    truth = np.concatenate([np.zeros(len(normals), np.int8), np.ones(len(anomalies), np.int8)])
    scores = np.concatenate([normals, anomalies])
    flags = calibrator.predict(normals, eps)
    rates = stratum_rates(flags, strata)
    return {
        "auroc": auroc(truth, scores),
        "auprc": auprc(truth, scores),
        "fpr": float(flags.mean()),
        "stratum_fpr": rates,
        "worst_stratum_fpr": max(rates.values()),
        "power": float(calibrator.predict(anomalies, eps).mean()),
        "smallest_eps": calibrator.smallest_eps,
        "n_calibration": round(1 / calibrator.smallest_eps) - 1,
    }


def read_evaluation(folder: Path) -> dict[str, Any]:
    """Read ``evaluation.json`` of a finished evaluate stage."""
    content: dict[str, Any] = json.loads((folder / "evaluation.json").read_bytes())
    return content
