"""The outcome of selection, the content of ``selection.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class LevelResult:
    """Rates of a candidate at one contamination level.

    If its detector could not be trained there, the power is 0, and the others are None.

    Attributes
    ----------
    level, power, fpr, worst_stratum_fpr : float
    worst_by_chance : float
        The .95 quantile of the worst stratum's rate where hardness has no effect on who is flagged.
    """

    level: float
    power: float
    fpr: float | None
    worst_stratum_fpr: float | None
    worst_by_chance: float | None = None


@dataclass(frozen=True, slots=True)
class CandidateResult:
    """The result of selection for one candidate.

    Attributes
    ----------
    valid : bool
    reason : str
        Why it is not valid; empty if it is.
    tied : bool
        Valid, and within one paired standard error of the highest mean power.
    power : float or None
        Mean over all levels, including those with power 0 because it could not be trained; None if the scores could not
        be evaluated.
    fpr, worst_stratum_fpr : float or None
        Means over the levels at which it could be trained; None if the scores could not be evaluated.
    levels : tuple of LevelResult
    worst_excess : float or None
        Mean over these levels of what the worst stratum's rate has above its `LevelResult.worst_by_chance`.
    further_out : float or None
        How much further out than the default it sees the anomalies, in standard deviations, mean over those of all
        levels (`assay.evaluation.leaving`); None where it was not compared: its mean power is lower.
    p_value : float or None
        Of "it is not better than the default", before `Selection.level` is shared out.
    """

    detector: str
    adapter: str
    position: int
    n_stored_floats: int
    valid: bool
    reason: str
    tied: bool
    power: float | None
    fpr: float | None
    worst_stratum_fpr: float | None
    levels: tuple[LevelResult, ...]
    worst_excess: float | None = None
    further_out: float | None = None
    p_value: float | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """The outcome of `select_candidate`.

    Attributes
    ----------
    winner : int or None
        Index of the winner among the given candidates; None if none is valid.
    eps : float
    ships_at : float
        Contamination level of the model that ships.
    n_normals, n_anomalies : int
        Numbers of selection rows.
    candidates : tuple of CandidateResult
        In the order given.
    evidence : str
        Kind of the rows ("labels", "anomalies" or "probes"), or empty.
    untrained : mapping of str to (mapping of str to str)
        Why detectors could not be trained, by label and level; detectors trained at every level are not listed.
    power, power_low, power_high : float or None
        Power of the choice on anomalies that it was not made by, with its 95 % interval over draws of anomalies; None
        where it could not be measured. Chosen and measured on the same normals, it is somewhat too high: by .02 between
        two equal candidates of 130 normals and 54 anomalies.
    n_more : int
        Number of further anomalies, which judge at the lowest level alone.
    default : str
        Label of the detector that wins by default, where it is valid; empty where the anomalies choose.
    level : float or None
        Level at which each other candidate was compared with the default; None where none was, since no labelled
        anomalies judge, or the default is not valid.
    """

    winner: int | None
    eps: float
    ships_at: float
    n_normals: int
    n_anomalies: int
    candidates: tuple[CandidateResult, ...]
    evidence: str = ""
    untrained: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    power: float | None = None
    power_low: float | None = None
    power_high: float | None = None
    n_more: int = 0
    default: str = ""
    level: float | None = None

    @property
    def chosen(self) -> CandidateResult | None:
        """The winner, or None if no candidate is valid."""
        return None if self.winner is None else self.candidates[self.winner]

    @property
    def by_default(self) -> bool:
        """Whether the winner is the default, which is itself compared with nothing."""
        chosen = self.chosen
        return bool(self.default) and chosen is not None and chosen.detector == self.default and chosen.p_value is None

    def to_json(self) -> dict[str, Any]:
        """Return the selection as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Return the selection that `to_json` described."""
        rows = [
            {**row, "levels": tuple(LevelResult(**level) for level in row["levels"])} for row in content["candidates"]
        ]
        return cls(**{**content, "candidates": tuple(CandidateResult(**row) for row in rows)})
