"""Small scorers of made rows, for tests of what serves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from assay.calibration.adapters.outputs import observe
from assay.calibration.adapters.registry import make_adapter
from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.hardness import Strata
from assay.data.modalities.tabular import TABULAR
from assay.detectors.registry import make_detector
from assay.scorer.folder import write_scorer
from assay.scorer.score_function import ScoreFunction
from assay.scorer.statement import write_statement

COLUMNS = ("a", "b", "c")


def made_scorer(stores: Path, name: str, seed: int, calibration: int = 200) -> Path:
    """Fit a scorer on normal rows of a seed, and write it as ``stores/name/version``; return that folder."""
    rows = np.random.default_rng(seed).normal(size=(300 + calibration, len(COLUMNS)))
    train, adapt, reference = np.split(rows, [200, 300])
    scaler = TABULAR.scaler().fit(train)
    detector = make_detector("knn", {}, seed=0).fit(scaler.transform(train))
    null_model = TABULAR.null_model().fit(scaler.transform(train))
    adapter = make_adapter("none", {}).fit(observe(detector, null_model, scaler.transform(adapt)))
    parts: dict[str, Any] = {
        "scaler": scaler,
        "detector": detector,
        "null_model": null_model,
        "strata": Strata.fit(null_model.hardness(scaler.transform(adapt))),
        "adapter": adapter,
        "calibrator": ConformalCalibrator().fit(ScoreFunction(scaler, detector, null_model, adapter)(reference)),
    }
    head = {"columns": list(COLUMNS), "eps": 0.05, "ties": "counted"}
    folder = stores / name
    made = folder / write_scorer(folder, head, {key: part.to_part() for key, part in parts.items()})
    candidate = {"detector": "knn", "adapter": "none", "level": "level-0"}
    content = {"name": name, "candidate": candidate}
    write_statement(made, content, data_version="cd" * 16 + ".dir", records={"train": b"{}\n"}, rows={})
    return made
