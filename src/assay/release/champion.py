"""Champion and challenger: whether a new scorer replaces the deployed one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from assay.arrays import Singles
from assay.calibration.calibrators.ranks import row_count, rows_needed
from assay.data.dataset import RowSet, row_keys
from assay.data.quarantine import is_listed
from assay.data.splitting import MIN_LABELLED
from assay.errors import AssayError
from assay.evaluation.two_fold import SelectionScores, compare_power
from assay.pipeline.learned import is_learned, learned_by
from assay.pipeline.rows import evidence_rows
from assay.project.scorers import Packaged
from assay.scorer.scorer import Scorer, load_scorer
from assay.scorer.statement import Statement


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the challenger becomes champion, and why or why not.

    `statement` is that of the champion, where its deployment is to name another one of its statements.
    """

    promote: bool
    reason: str
    statement: str | None = None


def judge(
    challenger: Packaged,
    champion: Packaged,
    selection: Path,
    *,
    eps: float,
    seed: int,
    quarantined: pd.DataFrame | None = None,
    others: Sequence[Statement] = (),
) -> Verdict:
    """Compare two scorers on the selection rows that neither was trained, adapted or calibrated on.

    Parameters
    ----------
    challenger, champion : Packaged
        The champion with its deployed statement.
    selection : Path
        Folder of the selection rows (normals and labelled anomalies or probes).
    eps : float
        Target false-positive rate of the comparison.
    seed : int
        Seed of the two folds, the same as in selection.
    quarantined : DataFrame, optional
        Rows that no scorer may be trained, adapted or calibrated on, as `assay.data.quarantine.read_quarantine` returns
        them.
    others : sequence of Statement
        Statements of the champion in addition to the deployed one.

    Returns
    -------
    Verdict
        The challenger is promoted if its two-fold power is not below the champion's, or if the champion was trained
        on quarantined rows by all of its statements and the challenger was not. Otherwise the champion stays, also if
        there are too few rows for the comparison. A champion that was trained on quarantined rows by its deployed
        statement but not by another one is the same function without these rows: it is to be deployed by that one.
    """
    candidate = load_scorer(challenger.folder, challenger.statement.id)
    by_hand = f"to replace it by hand: assay promote {candidate.statement.tag}"
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
            f"the champion {current.tag} has learned from {of_current} quarantined rows, this scorer from none",
        )
    learned = [learned_by(each) for each in (challenger.statement, champion.statement, *others)]
    verdict = _judge_on(selection, candidate, current, learned, eps, seed)
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


def _judge_on(
    selection: Path, candidate: Scorer, current: Scorer, learned: Sequence[pd.DataFrame], eps: float, seed: int
) -> Verdict:
    """Compare two scorers on the selection rows that none of the lists holds."""
    normals, anomalies, evidence = evidence_rows(selection)
    normals, anomalies = (unseen(rows, learned) for rows in (normals, anomalies))
    noun = "synthetic probes" if evidence == "probes" else "anomalies"
    return _judge_by_power(candidate, current, normals, anomalies, noun, eps=eps, seed=seed)


def _judge_by_power(
    candidate: Scorer, current: Scorer, normals: RowSet, anomalies: RowSet, noun: str, *, eps: float, seed: int
) -> Verdict:
    """Compare two-fold power on rows that neither scorer has learned from; `noun` says what the anomalies are."""
    needed = 2 * rows_needed(eps)
    if len(normals) < needed or len(anomalies) < MIN_LABELLED:
        return Verdict(
            False,
            f"too few selection rows that neither scorer has learned from: {len(normals)} normals "
            f"(needed {row_count(needed)}), {len(anomalies)} anomalies (needed {MIN_LABELLED}); "
            f"the champion {current.tag} stays",
        )
    power, current_power = compare_power(
        *(
            SelectionScores(_scores(scorer, candidate, normals), _scores(scorer, candidate, anomalies))
            for scorer in (candidate, current)
        ),
        row_keys=row_keys(normals.rows),
        eps=eps,
        seed=seed,
    )
    comparison = f"power {power:.3f} against {current_power:.3f} on {len(anomalies)} {noun}"
    if power >= current_power:
        return Verdict(True, f"{comparison}: not below the champion {current.tag}")
    return Verdict(False, f"{comparison}: below the champion {current.tag}, which stays")


def unseen(data: RowSet, learned: Sequence[pd.DataFrame]) -> RowSet:
    """Return the rows that none of the lists holds; other copies of a row that one holds are kept."""
    rows = data.rows
    for listed in learned:
        rows = rows[~is_learned(listed, rows)]
    return data.take(rows.index.to_numpy())


def _scores(scorer: Scorer, order: Scorer, data: RowSet) -> Singles:
    """Score rows whose columns are in the order of those of `order`."""
    positions = [order.columns.index(name) for name in scorer.columns]
    return scorer.decision_function(data.features[:, positions])
