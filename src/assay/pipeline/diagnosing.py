"""Diagnostics of a candidate's p-values on the test rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Integers, Singles
from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.calibrators.promise import AVERAGE
from assay.calibration.decisions import Reference, Scored
from assay.calibration.streams.monitor import Monitor
from assay.evaluation.diagnostics import MartingalePath, diagnose, thin_path
from assay.evaluation.rates import References

_THRESHOLD = 100.0
_SEED = 0


def diagnose_rows(
    reference: Reference,
    normals: Scored,
    p_values: tuple[Doubles, ...],
    strata: Integers,
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
        p-values of the normals and of the anomalies.
    strata : ndarray of int, shape (n,)
        Hardness strata of the normals.
    order : ndarray of int, shape (n,)
        Indices of the normals in the order of time, for the test martingale.
    eps : float
    """
    of_normals, of_anomalies = p_values
    references, calibrator = reference.references(normals), reference.calibrator
    promise = calibrator.promise if isinstance(calibrator, ConformalCalibrator | MondrianCalibrator) else AVERAGE
    diagnostics = diagnose(
        of_normals,
        scores=normals.outputs.scores,
        adapted=normals.scores,
        hardness=np.asarray(normals.outputs.hardness, dtype=np.float64),
        strata=strata,
        references=None if references is None else References(*references, promise),
        eps=eps,
        seed=_SEED,
        anomalies=of_anomalies if of_anomalies.size else None,
        path=_path(reference, normals.scores[order]),
    )
    return diagnostics.to_json()


def _path(reference: Reference, scores: Singles) -> MartingalePath | None:
    """Return the path of a test martingale over the normals, or None unless calibration is plain split conformal."""
    if not isinstance(reference.calibrator, ConformalCalibrator):
        return None
    monitor = Monitor.start(reference.calibrator.scores_, seed=_SEED, threshold=_THRESHOLD)
    return thin_path(monitor.update(scores), _THRESHOLD)
