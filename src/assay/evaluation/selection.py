"""Selection of the candidate that ships, on selection rows alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Flags, Integers, Texts
from assay.errors import ConfigError, DataError
from assay.evaluation.metrics import fpr_upper_tail, stratum_flag_rates
from assay.evaluation.two_fold import (
    SelectionScores,
    TwoFold,
    check_selection_scores,
    rows_fault,
    split_folds,
    two_fold,
    two_fold_fpr,
)

SIGNIFICANCE = 0.01


@dataclass(frozen=True, slots=True)
class Candidate:
    """A detector with an adapter, and the data that selection uses.

    Attributes
    ----------
    detector, adapter : str
        Names, for the record.
    position : int
        Position in params.yaml; the last tie-break.
    n_stored_floats : int
        Number of floats that its parts hold.
    scores : mapping of float to SelectionScores
        By contamination level (rho); the same rows, in the same order, at every level.
    unpackageable : str
        Why it cannot be packaged; empty if it can.
    untrained : mapping of float to str
        Why its detector could not be trained, by level; these levels have no scores.
    """

    detector: str
    adapter: str
    position: int
    n_stored_floats: int
    scores: Mapping[float, SelectionScores]
    unpackageable: str = ""
    untrained: Mapping[float, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LevelResult:
    """Two-fold rates of a candidate at one contamination level.

    If its detector could not be trained there, the power is 0, and the other two are None.
    """

    level: float
    power: float
    fpr: float | None
    worst_stratum_fpr: float | None


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
    """

    winner: int | None
    eps: float
    ships_at: float
    n_normals: int
    n_anomalies: int
    candidates: tuple[CandidateResult, ...]
    evidence: str = ""
    untrained: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def chosen(self) -> CandidateResult | None:
        """The winner, or None if no candidate is valid."""
        return None if self.winner is None else self.candidates[self.winner]

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


def select_candidate(
    candidates: Sequence[Candidate],
    *,
    row_keys: Texts,
    strata: Mapping[float, NDArray[np.integer[Any]]],
    eps: float,
    seed: int,
    ships_at: float = 0.0,
) -> Selection:
    """Choose the candidate that ships, on selection rows only.

    The threshold comes from one half of the selection normals; false-positive rate and power come from the other half
    and all anomalies. Both directions are averaged. The valid candidate with the highest mean power over the levels
    wins. Candidates within one paired standard error of it (over anomalies) tie. Ties are broken by more levels at
    which the detector could be trained, then a smaller worst-stratum false-positive rate, then fewer stored floats,
    then the position. The winner is calibrated on other rows, so the choice does not weaken its guarantee.

    A detector that could not be trained at a level has power 0 there: under that contamination there would have been
    no scorer. Its other rates are means over the levels at which it could be trained.

    A candidate is valid if it can be packaged; its scores are finite and not all equal; each half of the
    normals is large enough for `eps`; and, at the level that ships, neither half has significantly too many false
    positives for `eps` (beta-binomial, one-sided, .01 shared by all candidates and halves), and the power is above the
    false-positive rate.

    Parameters
    ----------
    candidates : sequence of Candidate
        All with the same rows and levels; each level has scores, or a reason why there are none.
    row_keys : ndarray of str, shape (n,)
        Of the selection normals, as `assay.data.dataset.row_keys` returns them; with `seed` they determine the halves,
        the same for all candidates.
    strata : mapping of float to ndarray of int, shape (n,)
        Hardness strata of the normals by level; the same for all candidates.
    eps : float
        Target false-positive rate.
    seed : int
        Seed of the halves.
    ships_at : float
        Contamination level whose model ships.

    Returns
    -------
    Selection
        Without a winner if no candidate is valid; every invalid candidate has a reason.

    Raises
    ------
    ConfigError
        `eps` is not between 0 and 1, or `ships_at` is not among the levels.
    DataError
        Candidates, strata and keys differ in levels or numbers of rows, or a candidate could not be trained
        at the level that ships.
    """
    levels = sorted(strata)
    if ships_at not in strata:
        raise ConfigError(f"the level that ships is {ships_at!r}; choose one of {levels}")
    n_normals, n_anomalies = len(row_keys), _check_shapes(candidates, strata, len(row_keys), ships_at)
    too_few = rows_fault(n_normals, n_anomalies, eps)
    second = split_folds(row_keys, seed=seed)
    alpha = SIGNIFICANCE / (2 * max(len(candidates), 1))
    results, detections = [], []
    for candidate in candidates:
        reasons = [candidate.unpackageable, too_few or _scores_fault(candidate)]
        trained = [level for level in levels if level not in candidate.untrained]
        folds = {} if reasons[1] else {level: two_fold(candidate.scores[level], second, eps) for level in trained}
        if folds:
            reasons.append(_decision_fault(folds[ships_at], second, eps, alpha))
        results.append(_describe(candidate, "; ".join(filter(None, reasons)), folds, strata, second))
        # The start value counts for candidates without scores: an empty sum would be 0, not an array.
        detections.append(sum((fold.detections for fold in folds.values()), np.zeros(n_anomalies, dtype=np.int64)))
    results = _mark_ties(results, detections)
    tied = [index for index, result in enumerate(results) if result.tied]
    winner = min(tied, key=lambda i: (len(candidates[i].untrained), *_tie_break(results[i])), default=None)
    return Selection(winner, eps, ships_at, n_normals, n_anomalies, tuple(results))


def _check_shapes(
    candidates: Sequence[Candidate],
    strata: Mapping[float, NDArray[np.integer[Any]]],
    n_normals: int,
    ships_at: float,
) -> int:
    """Return the number of anomalies; raise `DataError` if rows or levels differ."""
    for level, assigned in strata.items():
        if assigned.shape != (n_normals,):
            raise DataError(f"strata of level {level:g} have shape {assigned.shape}; there are {n_normals} row keys")
    n_anomalies = None
    for candidate in candidates:
        if sorted([*candidate.scores, *candidate.untrained]) != sorted(strata):
            raise DataError(
                f"{candidate.detector}+{candidate.adapter} has levels {sorted(candidate.scores)}, "
                f"the strata have {sorted(strata)}; score every level, or say why it could not be trained there"
            )
        if ships_at in candidate.untrained:
            raise DataError(
                f"{candidate.detector}+{candidate.adapter} could not be trained at level {ships_at:g}, which ships; "
                "leave it out"
            )
        for scores in candidate.scores.values():
            n_anomalies = len(scores.anomalies) if n_anomalies is None else n_anomalies
            check_selection_scores(scores, n_normals, n_anomalies)
    return n_anomalies or 0


def _scores_fault(candidate: Candidate) -> str:
    """Return why a candidate's scores cannot be evaluated, or ""."""
    for level, scores in sorted(candidate.scores.items()):
        pooled = np.concatenate([scores.normals, scores.anomalies])
        wrong = np.count_nonzero(~np.isfinite(pooled))
        if wrong:
            return f"{wrong} of {pooled.size} scores are not finite at level {level:g}"
        if pooled.min() == pooled.max():
            return f"all scores are equal at level {level:g}"
    return ""


def _decision_fault(shipped: TwoFold, second: Flags, eps: float, alpha: float) -> str:
    """Return why the decisions of the model that ships are unacceptable, or ""."""
    for judged in (second, ~second):
        n, k = int(judged.sum()), int(shipped.flags[judged].sum())
        chance = fpr_upper_tail(k, n, second.size - n, eps)
        if chance < alpha:
            return f"{k} of {n} normals flagged at eps {eps:g}: too many (p = {chance:.1g}, limit {alpha:.1g})"
    power, fpr = shipped.detections.mean() / 2, two_fold_fpr(shipped.flags, second)
    if power <= fpr:
        return f"flags anomalies ({power:.3g}) no more often than normals ({fpr:.3g})"
    return ""


def _describe(
    candidate: Candidate,
    reason: str,
    folds: Mapping[float, TwoFold],
    strata: Mapping[float, NDArray[np.integer[Any]]],
    second: Flags,
) -> CandidateResult:
    by_level = {
        level: LevelResult(
            level=level,
            power=float(fold.detections.mean()) / 2,
            fpr=two_fold_fpr(fold.flags, second),
            worst_stratum_fpr=max(stratum_flag_rates(fold.flags, strata[level]).values()),
        )
        for level, fold in folds.items()
    }
    if by_level:
        by_level |= {
            level: LevelResult(level, power=0.0, fpr=None, worst_stratum_fpr=None) for level in candidate.untrained
        }
    levels = tuple(by_level[level] for level in sorted(by_level))
    return CandidateResult(
        detector=candidate.detector,
        adapter=candidate.adapter,
        position=candidate.position,
        n_stored_floats=candidate.n_stored_floats,
        valid=not reason,
        reason=reason,
        tied=False,
        power=_mean(result.power for result in levels),
        fpr=_mean(result.fpr for result in levels),
        worst_stratum_fpr=_mean(result.worst_stratum_fpr for result in levels),
        levels=levels,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None, or None without any; the order does not matter."""
    numbers = [value for value in values if value is not None]
    return math.fsum(numbers) / len(numbers) if numbers else None


def _mark_ties(results: Sequence[CandidateResult], detections: Sequence[Integers]) -> list[CandidateResult]:
    """Mark the valid candidates within one paired standard error of one with the highest mean power."""
    valid = [counts for result, counts in zip(results, detections, strict=True) if result.valid]
    highest = max((counts.sum() for counts in valid), default=0)
    leaders = [counts for counts in valid if counts.sum() == highest]
    return [
        replace(result, tied=result.valid and any(_within_error(leader - counts) for leader in leaders))
        for result, counts in zip(results, detections, strict=True)
    ]


def _within_error(differences: Integers) -> bool:
    """Return whether the mean difference, which is >= 0, is at most its standard error.

    With ``sd**2 = (sum(d**2) - sum(d)**2 / a) / (a - 1)`` this is ``sum(d)**2 <= sum(d**2)``, exact in integers. It
    holds with equality if the candidates differ in a single anomaly, and always for a = 1.
    """
    return int(differences.sum()) ** 2 <= int((differences**2).sum())


def _tie_break(result: CandidateResult) -> tuple[float, int, int]:
    worst = result.worst_stratum_fpr
    return (math.inf if worst is None else worst, result.n_stored_floats, result.position)
