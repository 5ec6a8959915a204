"""Champion and challenger: whether a new scorer replaces the deployed one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from assay.arrays import Doubles, Integers
from assay.calibration.calibrators.ranks import row_count, rows_needed
from assay.data.card import Card
from assay.data.dataset import RowSet, row_keys
from assay.data.quarantine import is_listed
from assay.errors import AssayError, ScorerError
from assay.evaluation.paired import MARGIN, RowScores, ScorerPair, next_level, spent_level
from assay.pipeline.candidates import categories_of
from assay.pipeline.learned import is_learned, learned_by
from assay.pipeline.rows import evidence_rows, swap_units
from assay.project.comparisons import NONINFERIOR, SUPERIOR, Comparison, noun_of, sample_of, words_of
from assay.project.scorers import Packaged
from assay.scorer.loading import load_scorer
from assay.scorer.scorer import Scorer
from assay.scorer.statement import Statement

MIN_GATE_ANOMALIES = 10


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the challenger becomes champion, and why or why not.

    `statement` is that of the champion, where its deployment is to name another one of its statements. `compared` is
    the comparison behind it, and `is_new` whether that was made now, so that it has to be recorded.
    """

    promote: bool
    reason: str
    statement: str | None = None
    compared: Comparison | None = None
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class GateRows:
    """The gate rows that no scorer of a comparison has learned from.

    Attributes
    ----------
    normals, anomalies : RowSet
    evidence : {"labels", "anomalies", "probes"}
        What the anomalies are; see `assay.pipeline.rows.evidence_rows`.
    """

    normals: RowSet
    anomalies: RowSet
    evidence: str

    @property
    def units(self) -> Integers:
        """Which rows belong together, of the normals, then of the anomalies: those of a group; copies of an anomaly,
        since these have one role; a probe and the normal that it was made from."""
        return swap_units(self.normals, self.anomalies, probes=self.evidence == "probes")

    @property
    def n_anomalies(self) -> int:
        """Number of anomalies that do not belong together."""
        return len(np.unique(self.units[len(self.normals) :]))

    @property
    def used(self) -> tuple[str, ...]:
        """A sample of the rows that a comparison uses up: the anomalies, or what probes are made from."""
        return sample_of(row_keys((self.normals if self.evidence == "probes" else self.anomalies).rows))


def judge(
    challenger: Packaged,
    champion: Packaged,
    gate: Path,
    *,
    eps: float,
    seed: int,
    rule: str = SUPERIOR,
    earlier: Sequence[Comparison] = (),
    find: Callable[[str], Packaged] | None = None,
    quarantined: pd.DataFrame | None = None,
    others: Sequence[Statement] = (),
    card: Card | None = None,
) -> Verdict:
    """Compare two scorers on the gate rows that neither was trained, adapted or calibrated on.

    Parameters
    ----------
    challenger, champion : Packaged
        The champion with its deployed statement.
    gate : Path
        Folder of the gate rows (normals and labelled anomalies or probes).
    eps : float
        Target false-positive rate; there must be enough normals for it.
    seed : int
        Seed of the swaps of the test.
    rule : {"superior", "noninferior"}
        What the challenger has to be: better than the champion; or not worse by more than
        `assay.evaluation.paired.MARGIN` than the champion, nor than the first champion on these rows, so that the
        power cannot fall step by step.
    earlier : sequence of Comparison
        All comparisons so far, by time.
    find : callable, optional
        Finds the first champion by its tag, for "noninferior".
    quarantined : DataFrame, optional
        Rows that no scorer may be trained, adapted or calibrated on, as `assay.data.quarantine.read_quarantine` returns
        them.
    others : sequence of Statement
        Statements of the champion in addition to the deployed one.
    card : Card, optional
        Of the dataset of the gate rows; needed where columns hold categories or dates.

    Returns
    -------
    Verdict
        The challenger is promoted if the gate rows show that it is what `rule` asks, at the level that earlier
        comparisons left (`assay.evaluation.paired.next_level`), or if the champion was trained on quarantined rows by
        all of its statements and the challenger was not. Otherwise the champion stays, also if there are too few rows
        for the comparison, and if all anomalies have the same ranks by both. The same comparison again has the same
        verdict, and is not a new one. A champion that was trained on quarantined rows by its deployed statement but not
        by another one is the same function without these rows: it is to be deployed by that one.
    """
    candidate = load_scorer(challenger.folder, challenger.statement.id)
    by_hand = f"to replace it by hand: assay promote {candidate.statement.tag} --why WHY"
    try:
        current = load_scorer(champion.folder, champion.statement.id)
    except AssayError as error:
        return Verdict(False, f"the champion cannot be compared: {error}; {by_hand}")
    if set(candidate.columns) != set(current.columns):
        return Verdict(False, f"the champion {current.tag} takes other columns; {by_hand}")
    of_candidate, of_current = (count_listed(quarantined, each.statement) for each in (challenger, champion))
    clean = clean_statement(champion.statement, others, quarantined)
    if of_current and clean is None and not of_candidate:
        return Verdict(
            True,
            f"the champion {current.tag} has learned from {of_current} quarantined rows, or rows answered bad, this "
            "scorer from none",
        )
    learned = [learned_by(each) for each in (challenger.statement, champion.statement, *others)]
    rows = _gate_rows(gate, learned)
    table = partial(pd.DataFrame, columns=list(candidate.columns)) if card is None else card.table
    try:
        first = _first_champion(rows, champion, earlier, find) if rule == NONINFERIOR else None
        if first is not None:
            rows = _gate_rows(gate, [*learned, learned_by(first.statement)])
        anchors = [current] if first is None else [current, load_scorer(first.folder, first.statement.id)]
        verdict = _judge_on(
            rows, candidate, anchors, earlier, rule=rule, eps=eps, seed=seed, by_hand=by_hand, table=table
        )
    except AssayError as error:
        verdict = Verdict(False, f"the champion {current.tag} stays, since the gate cannot compare: {error}; {by_hand}")
    return verdict if verdict.promote else replace(verdict, statement=clean)


def count_listed(quarantined: pd.DataFrame | None, statement: Statement) -> int:
    """Return how many rows that a scorer learned from, by a statement, a quarantine lists."""
    return 0 if quarantined is None else int(is_listed(quarantined, learned_by(statement)).sum())


def clean_statement(deployed: Statement, others: Sequence[Statement], quarantined: pd.DataFrame | None) -> str | None:
    """Return the id of a statement without quarantined rows if the deployed one has some and another has none.

    That the same scorer came of both says that these rows have no part in it.
    """
    if not count_listed(quarantined, deployed):
        return None
    return next((each.id for each in others if not count_listed(quarantined, each)), None)


def _gate_rows(gate: Path, learned: Sequence[pd.DataFrame]) -> GateRows:
    """Return the gate rows that none of the lists holds."""
    normals, anomalies, evidence = evidence_rows(gate)
    return GateRows(unseen(normals, learned), unseen(anomalies, learned), evidence)


def _first_champion(
    rows: GateRows, champion: Packaged, earlier: Sequence[Comparison], find: Callable[[str], Packaged] | None
) -> Packaged | None:
    """Return the first champion that was compared on any of these rows, None where it is the present one."""
    tags = [each.first or each.champion for each in earlier if set(each.rows).intersection(rows.used)]
    if not tags or tags[0] == champion.statement.tag:
        return None
    if find is None:
        raise ScorerError(f"there is no way to find the first champion {tags[0]}")
    return find(tags[0])


def _judge_on(
    rows: GateRows,
    candidate: Scorer,
    anchors: Sequence[Scorer],
    earlier: Sequence[Comparison],
    *,
    rule: str,
    eps: float,
    seed: int,
    by_hand: str,
    table: Callable[[Doubles], pd.DataFrame],
) -> Verdict:
    """Compare a scorer with the champion, the first of `anchors`, and with the others, on gate rows."""
    stays = f"the champion {anchors[0].tag} stays"
    if lacking := _lacking(rows, eps):
        return Verdict(False, f"{lacking}; {stays}; {by_hand}")
    both = (table, rows.normals, rows.anomalies)
    candidate_scores = gate_scores(candidate, *both)
    pairs = [ScorerPair(candidate_scores, gate_scores(each, *both), rows.units) for each in anchors]
    if pairs[0].is_tie:
        return Verdict(False, f"{stays}: both scorers rank all {len(rows.anomalies)} {noun_of(rows.evidence)} the same")
    asked = _asked(rows, candidate, anchors, rule)
    if before := next((each for each in reversed(earlier) if each.asks_the_same(asked)), None):
        return Verdict(before.promoted, words_of(before), compared=before)
    level = next_level(spent_level(rows.used, [(each.rows, each.level) for each in earlier]))
    if not level:
        return Verdict(
            False,
            f"{stays}: so many scorers were compared on these gate rows that another comparison would promote by "
            f"chance; ingest new rows; {by_hand}",
        )
    margin = MARGIN if rule == NONINFERIOR else 0.0
    p_value = max(pair.p_value(level, seed=seed, margin=margin) for pair in pairs)
    low, high = pairs[0].interval(seed=seed)
    compared = replace(
        asked,
        difference=pairs[0].difference,
        low=low,
        high=high,
        p_value=p_value,
        level=level,
        promoted=p_value <= level,
    )
    return Verdict(compared.promoted, words_of(compared), compared=compared, is_new=True)


def _lacking(rows: GateRows, eps: float) -> str:
    """Return which gate rows a comparison lacks, or ""."""
    n_normals, n_anomalies, needed = len(rows.normals), rows.n_anomalies, rows_needed(eps)
    if n_normals >= needed and n_anomalies >= MIN_GATE_ANOMALIES:
        return ""
    return (
        f"too few gate rows that neither scorer has learned from to decide: {n_normals} normals (needed "
        f"{row_count(needed)}), {n_anomalies} anomalies (needed {MIN_GATE_ANOMALIES}; copies, and rows of a group, "
        "count once)"
    )


def _asked(rows: GateRows, candidate: Scorer, anchors: Sequence[Scorer], rule: str) -> Comparison:
    """Return the comparison without its numbers."""
    return Comparison(
        challenger=candidate.statement.tag,
        champion=anchors[0].statement.tag,
        rule=rule,
        first=anchors[1].statement.tag if len(anchors) > 1 else None,
        evidence=rows.evidence,
        anomalies=len(rows.anomalies),
        normals=len(rows.normals),
        rows=rows.used,
        difference=0.0,
        low=0.0,
        high=0.0,
        p_value=1.0,
        level=0.0,
        promoted=False,
    )


def unseen(data: RowSet, learned: Sequence[pd.DataFrame]) -> RowSet:
    """Return the rows that none of the lists holds; other copies of a row that one holds are kept."""
    rows = data.rows
    for listed in learned:
        rows = rows[~is_learned(listed, rows)]
    return data.take(rows.index.to_numpy())


def gate_scores(
    scorer: Scorer, table: Callable[[Doubles], pd.DataFrame], normals: RowSet, anomalies: RowSet
) -> RowScores:
    """Return the scores that a scorer ranks gate rows by: as it ships.

    Where it compares rows within strata or categories, or weighs calibration rows, a higher score may well have the
    higher p-value. There the rank is that of the p-value, and of the score among equal ones.

    Parameters
    ----------
    scorer : Scorer
    table : callable
        Returns features as a table with names (`assay.data.card.Card.table`).
    normals, anomalies : RowSet
    """
    judged = []
    for rows in (normals, anomalies):
        categories = categories_of(rows)
        given = None if categories is None else categories.tolist()
        judged.append(scorer.judge(table(rows.features), given))
    scores = np.concatenate([each.scores for each in judged])
    if scorer.calibrator.side_information != "nothing":
        p_values = np.concatenate([each.p_values for each in judged])
        scores = np.unique(np.stack([-p_values, scores]), axis=1, return_inverse=True)[1].astype(np.float64)
    return RowScores(scores[: len(normals)], scores[len(normals) :])
