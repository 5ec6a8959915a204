"""Champion and challenger: whether a new scorer replaces the deployed one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from assay.arrays import Singles
from assay.calibration.calibrators.conformal import row_count, rows_needed
from assay.data.dataset import RowSet, fingerprints
from assay.data.splitting import MIN_LABELLED
from assay.errors import AssayError
from assay.evaluation.two_fold import SelectionScores, compare_power
from assay.parts import read_arrays
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
    quarantined: frozenset[str] = frozenset(),
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
    quarantined : frozenset of str
        Fingerprints of rows that no scorer may be trained, adapted or calibrated on.
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
    candidate_rows = seen_rows(candidate.statement)
    excluded = {bytes.fromhex(mark) for mark in quarantined}
    n_excluded = len(seen_rows(champion.statement) & excluded)
    clean = clean_statement(champion.statement, others, quarantined)
    if n_excluded and clean is None and not candidate_rows & excluded:
        return Verdict(
            True,
            f"the champion {current.tag} has learned from {n_excluded} quarantined rows, this scorer from none",
        )
    seen = candidate_rows.union(*map(seen_rows, (champion.statement, *others)))
    verdict = _judge_on(selection, candidate, current, seen, eps, seed)
    return verdict if verdict.promote else replace(verdict, statement=clean)


def clean_statement(deployed: Statement, others: Sequence[Statement], quarantined: frozenset[str]) -> str | None:
    """Return the id of a statement without quarantined rows if the deployed one has some and another has none.

    That the same scorer came of both says that these rows have no part in it.
    """
    excluded = {bytes.fromhex(mark) for mark in quarantined}
    if not seen_rows(deployed) & excluded:
        return None
    return next((each.id for each in others if not seen_rows(each) & excluded), None)


def _judge_on(selection: Path, candidate: Scorer, current: Scorer, seen: set[bytes], eps: float, seed: int) -> Verdict:
    """Compare two scorers on the selection rows whose content is not among `seen`."""
    normals, anomalies, evidence = evidence_rows(selection)
    normals, anomalies = unseen(normals, candidate, seen), unseen(anomalies, candidate, seen)
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
        fingerprints=normals.rows["fingerprint"].to_numpy(dtype=np.str_),
        eps=eps,
        seed=seed,
    )
    comparison = f"power {power:.3f} against {current_power:.3f} on {len(anomalies)} {noun}"
    if power >= current_power:
        return Verdict(True, f"{comparison}: not below the champion {current.tag}")
    return Verdict(False, f"{comparison}: below the champion {current.tag}, which stays")


def seen_rows(statement: Statement) -> set[bytes]:
    """Return the fingerprints of all rows that a scorer was trained, adapted or calibrated on, by a statement."""
    arrays = {} if statement.rows is None else read_arrays(statement.rows)
    return {row.tobytes() for array in arrays.values() for row in array}


def unseen(data: RowSet, scorer: Scorer, seen: set[bytes]) -> RowSet:
    """Return the rows whose content is not among `seen`."""
    keys = fingerprints(data.features, scorer.columns)
    return data.take(np.array([bytes.fromhex(str(key)) not in seen for key in keys], dtype=np.bool_))


def _scores(scorer: Scorer, order: Scorer, data: RowSet) -> Singles:
    """Score rows whose columns are in the order of those of `order`."""
    positions = [order.columns.index(name) for name in scorer.columns]
    return scorer.decision_function(data.features[:, positions])
