"""Whether a candidate's p-values mean what they say, from the test rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.decisions import Reference, Scored
from assay.calibration.streams.monitor import Monitor
from assay.evaluation.diagnostics import Path, diagnose, thin_path
from assay.evaluation.rates import References

THRESHOLD = 100.0
SEED = 0


def diagnose_rows(
    reference: Reference,
    normals: Scored,
    p_values: tuple[NDArray[np.float64], ...],
    strata: NDArray[np.int64],
    order: NDArray[np.intp],
    eps: float,
) -> dict[str, Any]:
    """Return the diagnostics of a candidate as plain JSON values.

    Parameters
    ----------
    reference : Reference
    normals : Scored
        The n test normals.
    p_values : (ndarray, ndarray)
        Of the normals and of the anomalies.
    strata : ndarray of int, shape (n,)
        Hardness strata of the normals.
    order : ndarray of int, shape (n,)
        The normals in the order of time, which the test martingale takes them in.
    eps : float
    """
    of_normals, of_anomalies = p_values
    found = diagnose(
        of_normals,
        scores=normals.outputs.scores,
        adapted=normals.scores,
        hardness=np.asarray(normals.outputs.hardness, dtype=np.float64),
        strata=strata,
        references=_references(reference, normals),
        eps=eps,
        seed=SEED,
        anomalies=of_anomalies if of_anomalies.size else None,
        path=_path(reference, normals.scores[order]),
    )
    return found.to_json()


def _references(reference: Reference, normals: Scored) -> References | None:
    """Return what the p-values were counted in; None where that follows no exact law."""
    calibrator = reference.calibrator
    if isinstance(calibrator, MondrianCalibrator):
        keys, sizes = list(calibrator.keys_), tuple(scores.size for scores in calibrator.references_)
        return References(sizes, np.array([keys.index(key) for key in np.asarray(reference.beside(normals)).tolist()]))
    if isinstance(calibrator, ConformalCalibrator):
        return References.shared(calibrator.n_rows, len(normals.scores))
    return None


def _path(reference: Reference, scores: NDArray[np.float32]) -> Path | None:
    """Return the path of a test martingale over the normals; None where rows are not compared with all others."""
    if not isinstance(reference.calibrator, ConformalCalibrator):
        return None
    monitor = Monitor.start(reference.calibrator.scores_, seed=SEED, threshold=THRESHOLD)
    return thin_path(monitor.update(scores), THRESHOLD)
