"""Test results of candidates, the content of ``evaluation.json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Tested:
    """Test results of a candidate at one contamination level.

    Attributes
    ----------
    level : str
        Name of the level's folder.
    detector, adapter : str
    auroc, auprc : float
    fpr, power : float
        Shares of normals and of anomalies flagged at eps.
    stratum_fpr : dict of int to float
        False-positive rate by hardness stratum.
    worst_stratum_fpr : float
        The largest of these.
    smallest_eps : float
        Smallest eps at which a row can be flagged.
    n_calibration : int
    """

    level: str
    detector: str
    adapter: str
    auroc: float
    auprc: float
    fpr: float
    stratum_fpr: dict[int, float]
    worst_stratum_fpr: float
    power: float
    smallest_eps: float
    n_calibration: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Test results of all candidates.

    Attributes
    ----------
    evidence : {"labels", "anomalies", "probes"}
        Kind of the rows; see `assay.pipeline.rows.evidence_rows`.
    eps : float
    n_normals, n_anomalies : int
        Numbers of test rows.
    n_uncalibrated : int
        Number of rows left out because their categories have no calibration rows.
    candidates : tuple of Tested
        By level; a detector that could not be trained at a level is missing there.
    """

    evidence: str
    eps: float
    n_normals: int
    n_anomalies: int
    n_uncalibrated: int
    candidates: tuple[Tested, ...]

    def at(self, level: str) -> dict[tuple[str, str], Tested]:
        """Return the results at a level, by detector and adapter."""
        return {(row.detector, row.adapter): row for row in self.candidates if row.level == level}

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Return the evaluation that `to_json` described."""
        rows = [
            {**row, "stratum_fpr": {int(stratum): rate for stratum, rate in row["stratum_fpr"].items()}}
            for row in content["candidates"]
        ]
        return cls(**{**content, "candidates": tuple(Tested(**row) for row in rows)})
