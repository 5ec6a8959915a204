"""Candidates, each a detector with an adapter: their names, and loading them from stage folders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assay.config import Choice
from assay.data.dataset import RowSet
from assay.parts import read_part

Scores = NDArray[np.float32]


def candidate_name(detector: str, adapter: str) -> str:
    """File name of a candidate's parts."""
    return f"{detector}+{adapter}"


def candidate_pairs(detectors: Iterable[Choice], adapters: Sequence[Choice]) -> Iterator[tuple[Choice, Choice]]:
    """Every detector with every adapter, in order of position."""
    return ((detector, adapter) for detector in detectors for adapter in adapters)


class LevelScores:
    """Scores of evidence rows by the candidates of one contamination level; a detector scores the rows once.

    Parameters
    ----------
    trained, adapters : Path
        The folders of the stages that trained detectors and fitted adapters.
    level : str
    normals, anomalies : RowSet
    """

    def __init__(self, trained: Path, adapters: Path, level: str, normals: RowSet, anomalies: RowSet) -> None:
        from assay.calibration.hardness import Strata, load_null_model
        from assay.data.scaling import load_scaler

        self.trained, self.adapters = trained / level, adapters / level
        scaler = load_scaler(read_part(self.trained, "scaler"))
        null_model = load_null_model(read_part(self.trained, "null_model"))
        self.rows = [scaler.transform(part.features) for part in (normals, anomalies)]
        self.null_model = null_model
        strata = Strata.from_part(read_part(self.adapters, "strata"))
        self.strata = strata.assign(null_model.hardness(self.rows[0]))

    def of(self, detector: str, adapters: Sequence[Choice]) -> Iterator[tuple[Choice, Scores, Scores]]:
        """Yield each adapter with the scores of the normals and of the anomalies, float32 of shape (n,)."""
        from assay.calibration.adapters import load_adapter
        from assay.calibration.outputs import observe
        from assay.detectors.registry import load_detector

        fitted = load_detector(read_part(self.trained, detector))
        observed = [observe(fitted, self.null_model, rows) for rows in self.rows]
        for choice in adapters:
            adapter = load_adapter(read_part(self.adapters, candidate_name(detector, choice.label)))
            normals, anomalies = (np.asarray(adapter.transform(outputs), dtype=np.float32) for outputs in observed)
            yield choice, normals, anomalies
