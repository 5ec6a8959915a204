"""The verb that fits adapters and stores conformal references."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from assay.config import Choice
from assay.data.dataset import (
    read_rows,
)
from assay.parts import read_json, read_part, write_part
from assay.pipeline.candidates import candidate_name
from assay.pipeline.progress import Progress, silent
from assay.pipeline.rows import levels_of, presumed_normals


def calibrate(
    adapt: Path,
    calibration: Path,
    trained: Path,
    out: Path,
    *,
    detectors: Sequence[Choice],
    adapters: Sequence[Choice],
    progress: Progress = silent,
) -> dict[str, Any]:
    """Fit adapters and stratum edges on the adapt rows, then store the calibration rows' scores.

    Nothing is learned from the calibration rows but the conformal reference, which lies apart in
    ``reference/``.
    """
    from assay.calibration.adapters import make_adapter
    from assay.calibration.conformal import ConformalCalibrator
    from assay.calibration.hardness import Strata, load_null_model
    from assay.calibration.outputs import observe
    from assay.data.scaling import load_scaler
    from assay.detectors.registry import load_detector

    adapt_rows, reference_rows = presumed_normals(read_rows(adapt)), presumed_normals(read_rows(calibration))
    failures = read_json(trained / "failures.json")
    for level in levels_of(trained):
        scaler = load_scaler(read_part(trained / level, "scaler"))
        null_model = load_null_model(read_part(trained / level, "null_model"))
        scaled = scaler.transform(adapt_rows.features)
        reference = scaler.transform(reference_rows.features)
        write_part(out / "adapters" / level, "strata", Strata.fit(null_model.hardness(scaled)).to_part())
        for choice in detectors:
            if level in failures.get(choice.label, {}):
                continue
            progress(f"{choice.label} at {level}", 0.0)
            detector = load_detector(read_part(trained / level, choice.label))
            to_fit, of_reference = (observe(detector, null_model, rows) for rows in (scaled, reference))
            for adapter_choice in adapters:
                name = candidate_name(choice.label, adapter_choice.label)
                adapter = make_adapter(adapter_choice.name, adapter_choice.params).fit(to_fit)
                write_part(out / "adapters" / level, name, adapter.to_part())
                adapted = np.asarray(adapter.transform(of_reference), dtype=np.float32)
                calibrator = ConformalCalibrator().fit(adapted)
                write_part(out / "reference" / level, name, calibrator.to_part())
    return {}
