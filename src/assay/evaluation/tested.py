"""Test results of candidates, the content of ``evaluation.json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

PARTS = ("unseen", "incomplete", "complete")


@dataclass(frozen=True, slots=True)
class Figures:
    """The metrics of a candidate on some of the test rows.

    Attributes
    ----------
    n_normals, n_anomalies : int
    auroc, auprc : float or None
        None without normals or without anomalies.
    fpr, power : float or None
        Shares of normals and of anomalies flagged at eps; None where there are none.
    stratum_fpr : dict of int to float
        False-positive rate by hardness stratum; empty without normals.
    worst_stratum_fpr : float or None
        The largest of these.
    """

    n_normals: int
    n_anomalies: int
    auroc: float | None
    auprc: float | None
    fpr: float | None
    stratum_fpr: dict[int, float]
    worst_stratum_fpr: float | None
    power: float | None

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Return the figures as plain JSON values described them."""
        rates = {int(stratum): rate for stratum, rate in content["stratum_fpr"].items()}
        return cls(**{**content, "stratum_fpr": rates})


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
    unseen : Figures or None
        The same over the rows whose content no train and no adapt row has; None in evaluations of before.
    uncontradicted_power : float or None
        Power over the anomalies whose content is not labelled normal too; None where there are none, and in
        evaluations of before.
    incomplete, complete : Figures or None
        The same over the rows that have, and those that do not have, a missing value or a category that training rows
        do not have; None where no row has any.
    pixel_auroc : float or None
        AUROC over the pixels of images, by masks; None where there are no masks or no heat maps.
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
    unseen: Figures | None = None
    uncontradicted_power: float | None = None
    incomplete: Figures | None = None
    complete: Figures | None = None
    pixel_auroc: float | None = None


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
    n_contradicted : int
        Number of test anomalies whose content is labelled normal too.
    candidates : tuple of Tested
        By level; a detector that could not be trained at a level is missing there.
    """

    evidence: str
    eps: float
    n_normals: int
    n_anomalies: int
    n_uncalibrated: int
    candidates: tuple[Tested, ...]
    n_contradicted: int = 0

    def at(self, level: str) -> dict[tuple[str, str], Tested]:
        """Return the results at a level, by detector and adapter."""
        return {(row.detector, row.adapter): row for row in self.candidates if row.level == level}

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Return the evaluation that `to_json` described."""
        rows = []
        for row in content["candidates"]:
            rates = {int(stratum): rate for stratum, rate in row["stratum_fpr"].items()}
            parts = {name: Figures.from_json(row[name]) if row.get(name) else None for name in PARTS}
            rows.append({**row, "stratum_fpr": rates, **parts})
        return cls(**{**content, "candidates": tuple(Tested(**row) for row in rows)})
