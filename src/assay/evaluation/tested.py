"""What the test rows say of candidates, as ``evaluation.json`` holds it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Tested:
    """What the test rows say of a candidate at one contamination level.

    Attributes
    ----------
    level : str
        Name of the level's folder.
    detector, adapter : str
    auroc, auprc : float
    fpr, power : float
        Share of the normals and of the anomalies that are flagged at eps.
    stratum_fpr : dict of int to float
        By hardness stratum.
    worst_stratum_fpr : float
        The largest of these.
    smallest_eps : float
        Below it no row can be flagged.
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
    """What the test rows say of all candidates.

    Attributes
    ----------
    evidence : {"labels", "anomalies", "probes"}
        What the rows are; see `assay.pipeline.rows.evidence_rows`.
    eps : float
    n_normals, n_anomalies : int
        Test rows.
    n_uncalibrated : int
        Rows left out, because their categories have no calibration rows.
    candidates : tuple of Tested
        By level; none for a detector that could not be trained there.
    """

    evidence: str
    eps: float
    n_normals: int
    n_anomalies: int
    n_uncalibrated: int
    candidates: tuple[Tested, ...]

    def at(self, level: str) -> dict[tuple[str, str], Tested]:
        """Return what is said at a level, by detector and adapter."""
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
