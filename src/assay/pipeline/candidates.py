"""Candidates, each a detector with an adapter: their names, and their scores from stage folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from assay.arrays import Flags, Texts
from assay.data.dataset import RowSet, row_keys
from assay.data.encoding import Encoder
from assay.names import Choice
from assay.parts import read_json, read_part
from assay.pipeline.rows import FAILURES, levels_of

if TYPE_CHECKING:
    from assay.calibration.decisions import Scored
    from assay.data.scaling import Scaler

FLAG_RULE = "flag_rule.json"  # how a candidate's scorer compares rows, without the scores of calibration rows
Failures = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The compared candidates: every detector with every adapter.

    Attributes
    ----------
    detectors, adapters : tuple of Choice
        Their order decides full ties.
    """

    detectors: tuple[Choice, ...]
    adapters: tuple[Choice, ...]

    def pairs(self) -> Iterator[tuple[Choice, Choice]]:
        """Yield every detector with every adapter, in the order of positions."""
        return ((detector, adapter) for detector in self.detectors for adapter in self.adapters)

    def levels(self, trained: Mapping[str, Path]) -> list[str]:
        """Return the names of the levels, by increasing rho; every cell has the same ones."""
        return levels_of(trained[self.detectors[0].label])

    def trained(self, level: str, failures: Failures) -> list[Choice]:
        """Return the detectors that could be trained at a level."""
        return [detector for detector in self.detectors if level not in failures.get(detector.label, {})]


def read_failures(trained: Mapping[str, Path]) -> Failures:
    """Read why detectors could not be trained, by label and level, from the folders of their cells."""
    failures = {label: read_json(folder / FAILURES) for label, folder in trained.items()}
    return {label: by_level for label, by_level in failures.items() if by_level}


def categories_of(rows: RowSet) -> Texts | None:
    """Return each row's category, or None if the dataset has no categories."""
    return rows.rows["category"].to_numpy(dtype=object) if "category" in rows.rows else None


def candidate_name(detector: str, adapter: str) -> str:
    """Return the file name of a candidate's parts."""
    return f"{detector}+{adapter}"


def _incomplete(scaler: Scaler, rows: RowSet) -> Flags:
    """Return which rows have a missing value, or a category that training rows do not have."""
    return scaler.lacks(rows.features) if isinstance(scaler, Encoder) else np.zeros(len(rows), dtype=np.bool_)


class LevelScores:
    """Scores of evidence rows by the candidates of one cell at one contamination level; the detector scores them once.

    Parameters
    ----------
    trained, adapters : Path
        Folders of the cell's trained detector and of its fitted adapters.
    level : str
    normals, anomalies : RowSet
    """

    def __init__(self, trained: Path, adapters: Path, level: str, normals: RowSet, anomalies: RowSet) -> None:
        from assay.calibration.hardness import load_strata
        from assay.data.modalities.registry import load_null_model, load_scaler

        self.trained, self.adapters = trained / level, adapters / level
        scaler = self.scaler = load_scaler(read_part(self.trained, "scaler"))
        null_model = load_null_model(read_part(self.trained, "null_model"))
        self.raw = (normals, anomalies)
        self.rows = [scaler.transform(part.features) for part in self.raw]
        self.incomplete = tuple(_incomplete(scaler, part) for part in self.raw)
        self.null_model = null_model
        self.edges = load_strata(read_part(self.adapters, "strata"))
        self.strata, self.strata_of_anomalies = (
            self.edges.assign(rows, partial(null_model.hardness, rows)) for rows in self.rows
        )

    def of(self, detector: str, adapters: Sequence[Choice]) -> Iterator[tuple[Choice, Scored, Scored]]:
        """Yield each adapter with the scored normals and the scored anomalies."""
        from assay.calibration.adapters.outputs import observe
        from assay.calibration.adapters.registry import load_adapter
        from assay.calibration.decisions import adapt_rows
        from assay.detectors.registry import load_detector

        fitted = self.detector = load_detector(read_part(self.trained, detector))
        observed = [observe(fitted, self.null_model, rows) for rows in self.rows]
        for choice in adapters:
            adapter = load_adapter(read_part(self.adapters, candidate_name(detector, choice.label)))
            normals, anomalies = (
                adapt_rows(fitted, adapter, outputs, raw.features, rows, categories_of(raw), row_keys(raw.rows))
                for outputs, raw, rows in zip(observed, self.raw, self.rows, strict=True)
            )
            yield choice, normals, anomalies
