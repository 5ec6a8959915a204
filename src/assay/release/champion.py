"""Champion and challenger: whether a new scorer replaces the deployed one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from assay.arrays import Singles
from assay.calibration.calibrators.conformal import row_count, rows_needed
from assay.data.dataset import RowSet, row_keys
from assay.data.quarantine import is_listed
from assay.data.splitting import MIN_LABELLED
from assay.errors import AssayError
from assay.evaluation.two_fold import SelectionScores, compare_power
from assay.pipeline.learned import LEARNED_ROWS, is_learned, read_learned
from assay.pipeline.rows import evidence_rows
from assay.scorer.scorer import Scorer, load_scorer


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the challenger becomes champion, and why or why not."""

    promote: bool
    reason: str


def judge(
    challenger: Path,
    champion: Path,
    selection: Path,
    *,
    eps: float,
    seed: int,
    quarantined: pd.DataFrame | None = None,
) -> Verdict:
    """Compare two scorers on the selection rows that neither was trained, adapted or calibrated on.

    Parameters
    ----------
    challenger, champion : Path
        Scorer folders.
    selection : Path
        Folder of the selection rows (normals and labelled anomalies or probes).
    eps : float
        Target false-positive rate of the comparison.
    seed : int
        Seed of the two folds, the same as in selection.
    quarantined : DataFrame, optional
        Rows that no scorer may be trained, adapted or calibrated on, as `assay.data.quarantine.read_quarantine` returns
        them.

    Returns
    -------
    Verdict
        The challenger is promoted if its two-fold power is not below the champion's, or if the champion was trained
        on quarantined rows and the challenger was not. Otherwise the champion stays, also if there are too few rows
        for the comparison.
    """
    candidate = load_scorer(challenger)
    by_hand = f"to replace it by hand: assay promote {candidate.tag}"
    try:
        current = load_scorer(champion)
    except AssayError as error:
        return Verdict(False, f"the champion cannot be compared: {error}; {by_hand}")
    if set(candidate.columns) != set(current.columns):
        return Verdict(False, f"the champion {current.tag} takes other columns; {by_hand}")
    learned = [read_learned(folder / LEARNED_ROWS) for folder in (challenger, champion)]
    if quarantined is not None:
        of_candidate, of_current = (int(is_listed(quarantined, rows).sum()) for rows in learned)
        if of_current and not of_candidate:
            return Verdict(
                True,
                f"the champion {current.tag} has learned from {of_current} quarantined rows, this scorer from none",
            )
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
