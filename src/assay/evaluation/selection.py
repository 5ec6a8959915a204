"""Selection of the candidate that ships, on selection rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Flags, Floats, Integers, Texts
from assay.calibration.calibrators.ranks import check_eps
from assay.errors import ConfigError, DataError
from assay.evaluation.chances import FlagChances, worst_rate, worst_rate_by_chance
from assay.evaluation.leaving import LEAVE_LEVEL, compare_with_default
from assay.evaluation.paired import RowScores
from assay.evaluation.selected import CandidateResult, LevelResult, Selection
from assay.hashing import uniform_hashes

COVERAGE_Z = 1.959963984540054
_EQUAL = 1e-9  # relative: sums of the same chances in another order


@dataclass(frozen=True, slots=True)
class Candidate:
    """A detector with an adapter, and what selection knows of it.

    Attributes
    ----------
    detector, adapter : str
        Names, for the record.
    position : int
        Position in params.yaml; the last tie-break.
    n_stored_floats : int
        Number of floats that its parts hold.
    chances : mapping of float to FlagChances
        By contamination level (rho): the chances that its scorer flags the rows, the same ones in the same order at
        every level. A level may have further anomalies after those of all levels.
    fault : str
        Why it cannot ship, empty if it can; then `chances` may be empty.
    untrained : mapping of float to str
        Why its detector could not be trained, by level; these levels have no chances.
    scores : mapping of float to RowScores
        How it ranks the rows, by level as `chances`; needed where the default may be left.
    """

    detector: str
    adapter: str
    position: int
    n_stored_floats: int
    chances: Mapping[float, FlagChances]
    fault: str = ""
    untrained: Mapping[float, str] = field(default_factory=dict)
    scores: Mapping[float, RowScores] = field(default_factory=dict)


def select_candidate(
    candidates: Sequence[Candidate],
    *,
    anomaly_keys: Texts,
    strata: Mapping[float, NDArray[np.integer[Any]]],
    eps: float,
    seed: int,
    ships_at: float = 0.0,
    default: str = "",
    units: Integers | None = None,
) -> Selection:
    """Choose the candidate that ships, on selection rows only.

    A candidate's power at a level is the mean chance that its scorer flags an anomaly (`assay.evaluation.chances`: by
    the rule that ships). The valid candidate with the highest mean power over the levels wins. Candidates within one
    paired standard error of it (over anomalies) tie. Ties are broken by more levels at which the detector could be
    trained; then by a smaller false-positive rate of the worst hardness stratum, as far as it is above what chance
    alone would make of it; then by fewer stored floats, then by the position. The winner is calibrated on other rows,
    so the choice does not weaken its guarantee.

    Where there is a default, its first valid candidate wins, unless others are better beyond noise: their mean power is
    no lower, and they see the anomalies of all levels further out on average (`assay.evaluation.leaving`), each
    at an equal part of .05, by Bonferroni. Of these the rule above chooses. So where no other candidate is better the
    default is left in at most one of 20 cases.

    The power of a winner on the anomalies that chose it is too high. `Selection.power` is that of the choice: the
    anomalies are halved, each half chooses, and the other half measures its choice. Those of one unit, which may all be
    alike (windows of a block of a series, copies), are in one half, and its interval counts them as one if there are
    equally many in each unit.

    A detector that could not be trained at a level has power 0 there: under that contamination there would have been
    no scorer. Its other rates are means over the levels at which it could be trained.

    A candidate is valid if it has no fault and if, at the level that ships, its power is above its false-positive rate.
    For the default it is enough that labelled anomalies have higher scores than normals, in most pairs: of few, all may
    lie below the threshold by chance.

    Parameters
    ----------
    candidates : sequence of Candidate
        All with the same rows and levels; each level has chances, or a reason why there are none.
    anomaly_keys : ndarray of str, shape (a,)
        Names of the anomalies, further ones of a level included; with `seed` they determine the halves.
    strata : mapping of float to ndarray of int, shape (n,)
        Hardness strata of the normals by level; the same for all candidates.
    eps : float
        Target false-positive rate, for the record.
    seed : int
        Seed of the halves.
    ships_at : float
        Contamination level whose model ships.
    default : str
        Label of the detector whose first valid candidate is the default. Without `Candidate.scores` it is never left:
        synthetic anomalies show what is broken, but not what is best for real ones. Empty, or without a valid one: the
        best candidate wins.
    units : ndarray of int, shape (n + a,), optional
        Of the normals, then of the anomalies: rows of one unit belong together, in comparisons with the default and in
        the halves.

    Returns
    -------
    Selection
        Without a winner if no candidate is valid; every invalid candidate has a reason.

    Raises
    ------
    ConfigError
        `eps` is not between 0 and 1, or `ships_at` is not among the levels.
    DataError
        Candidates and strata differ in levels or numbers of rows, or a candidate could not be trained at the level that
        ships.
    """
    check_eps(eps)
    levels = sorted(strata)
    if ships_at not in strata:
        raise ConfigError(f"the level that ships is {ships_at!r}; choose one of {levels}")
    n_normals = strata[ships_at].size
    n_common = _check_shapes(candidates, strata, ships_at, len(anomaly_keys))
    results = tuple(_describe(candidate, strata, ships_at, seed, default) for candidate in candidates)
    contest = _Contest(candidates, results, n_common, ships_at, default, units, seed)
    choice = contest.choose(np.ones(len(anomaly_keys), dtype=np.bool_))
    winner, none = choice.winner, (None, None)
    results = tuple(
        replace(result, tied=index in choice.tied, further_out=further, p_value=p_value)
        for index, result in enumerate(results)
        for further, p_value in [choice.compared.get(index, none)]
    )
    power = _power_of_choice(contest, anomaly_keys)
    numbers = (ships_at, n_normals, n_common)
    n_more = len(anomaly_keys) - n_common
    selection = Selection(winner, eps, *numbers, results, n_more=n_more, default=default, level=choice.level)
    if winner is None or power is None:
        return selection
    sizes = np.bincount(_apart(contest, anomaly_keys)[1][:n_common])
    low, high = _interval(power, float(sizes.sum() ** 2 / (sizes**2).sum()))  # Kish: those of a unit may all be alike
    return replace(selection, power=power, power_low=low, power_high=high)


def _check_shapes(
    candidates: Sequence[Candidate],
    strata: Mapping[float, NDArray[np.integer[Any]]],
    ships_at: float,
    n_anomalies: int,
) -> int:
    """Return the number of anomalies that all levels have; raise `DataError` if rows or levels differ."""
    counts: dict[float, int] = {}
    for candidate in candidates:
        name = f"{candidate.detector}+{candidate.adapter}"
        if ships_at in candidate.untrained:
            raise DataError(f"{name} could not be trained at level {ships_at:g}, which ships; leave it out")
        if not candidate.chances and candidate.fault:
            continue
        if sorted([*candidate.chances, *candidate.untrained]) != sorted(strata):
            raise DataError(
                f"{name} has levels {sorted(candidate.chances)}, the strata have {sorted(strata)}; judge every level, "
                "or say why it could not be trained there"
            )
        for level, chances in candidate.chances.items():
            n = counts.setdefault(level, chances.anomalies.size)
            if chances.normals.shape != strata[level].shape or chances.anomalies.size != n or n > n_anomalies:
                raise DataError(
                    f"{name} has chances of {chances.normals.shape} normals and {chances.anomalies.shape} anomalies at "
                    f"level {level:g}; all candidates must have the same rows"
                )
    return min(counts.values(), default=n_anomalies)


def _describe(
    candidate: Candidate,
    strata: Mapping[float, NDArray[np.integer[Any]]],
    ships_at: float,
    seed: int,
    default: str,
) -> CandidateResult:
    by_level = {
        level: LevelResult(
            level=level,
            power=float(chances.anomalies.mean()) if chances.anomalies.size else 0.0,
            fpr=float(chances.normals.mean()),
            worst_stratum_fpr=worst_rate(chances.normals, strata[level]),
            worst_by_chance=worst_rate_by_chance(chances.normals, strata[level], seed=seed),
        )
        for level, chances in candidate.chances.items()
    }
    if by_level:
        by_level |= {level: LevelResult(level, 0.0, None, None) for level in candidate.untrained}
    levels = tuple(by_level[level] for level in sorted(by_level))
    excess = [
        max(0.0, level.worst_stratum_fpr - level.worst_by_chance)
        for level in levels
        if level.worst_stratum_fpr is not None and level.worst_by_chance is not None
    ]
    reason = candidate.fault or _decision_fault(candidate, ships_at, None, default)
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
        worst_excess=_mean(excess),
    )


def _decision_fault(candidate: Candidate, ships_at: float, judging: Flags | None, default: str) -> str:
    """Return why the decisions of the model that ships are unacceptable by the judging anomalies, or ""."""
    shipped = candidate.chances[ships_at]
    judges = slice(None) if judging is None else judging[: shipped.anomalies.size]
    of_anomalies = shipped.anomalies[judges]
    if not of_anomalies.size:
        return "there are no anomalies to judge by, so power cannot be measured"
    power, fpr = float(of_anomalies.mean()), float(shipped.normals.mean())
    if power > fpr:
        return ""
    scores = candidate.scores.get(ships_at) if candidate.detector == default else None
    if scores is not None and _share_above(scores.normals, scores.anomalies[judges]) > 0.5:
        return ""  # none of a few anomalies beyond the threshold is no evidence yet that it is at chance
    return f"flags anomalies ({power:.3g}) no more often than normals ({fpr:.3g})"


def _share_above(normals: Floats, anomalies: Floats) -> float:
    """Return the share of pairs in which the anomaly has the higher score; equal ones count half."""
    ordered = np.sort(normals)
    below = np.searchsorted(ordered, anomalies, side="left") + np.searchsorted(ordered, anomalies, side="right")
    return float(below.mean()) / (2 * len(ordered))


@dataclass(frozen=True, slots=True)
class _Choice:
    """The winner by some anomalies, the candidates that tie with the best, and how others compare with the default."""

    winner: int | None
    tied: set[int]
    compared: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    level: float | None = None


@dataclass(frozen=True, slots=True)
class _Contest:
    """What candidates are chosen by, but for the anomalies that judge; see `select_candidate`."""

    candidates: Sequence[Candidate]
    results: Sequence[CandidateResult]
    n_common: int
    ships_at: float
    default: str
    units: Integers | None
    seed: int

    def choose(self, judging: Flags) -> _Choice:
        """Return the choice by the judging anomalies, a mask of shape (a,)."""
        gains = {
            index: _gains(candidate, judging)
            for index, candidate in enumerate(self.candidates)
            if not candidate.fault and not _decision_fault(candidate, self.ships_at, judging, self.default)
        }
        if not gains:
            return _Choice(None, set())
        tied = self._tied(gains, judging)
        preferred = [index for index in gains if self.candidates[index].detector == self.default]
        if not preferred:
            return _Choice(self._first_of(tied), tied)
        default = min(preferred, key=lambda index: self.candidates[index].position)
        shown = self.candidates[default].scores
        if not shown:
            return _Choice(default, tied)
        level = LEAVE_LEVEL / max(1, sum(not candidate.fault for candidate in self.candidates) - 1)
        no_worse = gains[default].sum() - _EQUAL
        others = {
            index: self.candidates[index].scores
            for index, gain in gains.items()
            if index != default and gain.sum() >= no_worse and self.candidates[index].scores
        }
        compared = compare_with_default(shown, others, judging, self.units, level=level, seed=self.seed)
        better = {index: gains[index] for index, (_, p_value) in compared.items() if p_value <= level}
        winner = self._first_of(self._tied(better, judging)) if better else default
        return _Choice(winner, tied, compared, level)

    def _tied(self, gains: Mapping[int, Doubles], judging: Flags) -> set[int]:
        """Return the candidates within one paired standard error of the highest mean power."""
        highest = max(gain.sum() for gain in gains.values())
        leaders = [gain for gain in gains.values() if gain.sum() >= highest - _EQUAL]
        groups = (slice(None, self.n_common), slice(self.n_common, None))
        classes = [group for group in groups if judging[group].any()]
        return {
            index
            for index, gain in gains.items()
            if any(_within_error(leader - gain, judging, classes) for leader in leaders)
        }

    def _first_of(self, tied: Iterable[int]) -> int:
        """Return the candidate that the tie-breaks choose."""
        return min(tied, key=lambda index: (len(self.candidates[index].untrained), *_tie_break(self.results[index])))


def _gains(candidate: Candidate, judging: Flags) -> Doubles:
    """Return what each anomaly, shape (a,), adds to the mean power over all levels; 0 for those that do not judge."""
    gains = np.zeros(judging.size)
    for chances in candidate.chances.values():
        rows = judging[: chances.anomalies.size]
        if rows.any():
            gains[: rows.size] += np.where(rows, chances.anomalies, 0) / rows.sum()
    return gains / (len(candidate.chances) + len(candidate.untrained))


def _within_error(differences: Doubles, judging: Flags, classes: Sequence[slice]) -> bool:
    """Return whether a difference of mean powers, given by anomaly, is at most its standard error.

    Anomalies of a class (those of all levels, and those of the lowest) vary about the mean of their class. It holds
    with equality if the candidates differ in a single anomaly, and always for a class of one.
    """
    variance = 0.0
    for group in classes:
        inside = differences[group][judging[group]]
        if inside.size == 1:
            return True
        variance += inside.size * float(inside.var(ddof=1))
    return float(differences.sum()) ** 2 <= variance * (1 + _EQUAL) + _EQUAL**2


def _tie_break(result: CandidateResult) -> tuple[float, int, int]:
    excess = result.worst_excess
    return (math.inf if excess is None else excess, result.n_stored_floats, result.position)


def _apart(contest: _Contest, keys: Texts) -> tuple[Texts, Integers]:
    """Return which anomalies belong together: a name, the same for those that do, and a number, of shape (a,) each."""
    if contest.units is None:
        return keys, np.arange(len(keys))
    numbers = np.unique(contest.units[-len(keys) :], return_inverse=True)[1] if len(keys) else np.arange(0)
    order = np.argsort(keys, kind="stable")
    first = order[np.unique(numbers[order], return_index=True)[1]]
    return keys[first][numbers], numbers


def _power_of_choice(contest: _Contest, keys: Texts) -> float | None:
    """Return the power of what each half of the anomalies chooses, on the other half; None where a half is empty."""
    n_common, second = contest.n_common, np.zeros(len(keys), dtype=np.bool_)
    names, _ = _apart(contest, keys)
    for group in (slice(None, n_common), slice(n_common, None)):
        if len(names[group]):
            hashes = uniform_hashes(names[group], f"half:{contest.seed}")
            second[group] = hashes < np.sort(hashes)[len(hashes) // 2]
    powers = []
    for judging in (second, ~second):
        winner = contest.choose(judging).winner
        if winner is not None and (~judging[:n_common]).any() and judging[:n_common].any():
            powers.append(float(_gains(contest.candidates[winner], ~judging).sum()))
    return sum(powers) / 2 if len(powers) == 2 else None


def _interval(power: float, n: float) -> tuple[float, float]:
    """Return the Wilson interval of a mean of n chances, which vary no more than flags do."""
    z2 = COVERAGE_Z**2
    centre = (power + z2 / (2 * n)) / (1 + z2 / n)
    half = COVERAGE_Z * math.sqrt(power * (1 - power) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None, or None without any; the order does not matter."""
    numbers = [value for value in values if value is not None]
    return math.fsum(numbers) / len(numbers) if numbers else None
