"""Calibration rows that may hold anomalies: what that does, and Label-Trim, which undoes most of it.

An anomaly among the calibration rows raises the threshold if it scores above it, which costs power, and lowers it a
little if it scores below, which costs validity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.calibration.calibrators.conformal import Scores, check_eps
from assay.calibration.contaminated.estimates import contamination_from_answers
from assay.data.dataset import ANOMALY, UNKNOWN, RowSet
from assay.data.labelling import ESTIMATE, NOT_ASKED, TRIM, align, read_answers
from assay.data.splitting import uniform_hashes
from assay.errors import ConfigError, DataError

CONFIDENCE = 0.95


def fpr_range(eps: float, rho: float) -> tuple[float, float]:
    """Return the lowest and highest false-positive rate at eps if a share rho of the calibration rows is anomalous.

    ``max(0, (eps - rho) / (1 - rho))``, reached where all anomalies score above the normal rows, and
    ``min(1, eps / (1 - rho))``, where all score below them. Where anomalies score stochastically higher than normal
    rows the rate is at most eps; the data cannot prove that they do.

    For m calibration rows the upper end holds as it is, if rho is the share among them or the mean share; with k
    anomalies it is exactly ``floor((m + 1) eps) / (m + 1 - k)``. The lower end is that of large m: the exact one is
    ``(floor((m + 1) eps) - k) / (m + 1 - k)``, lower by up to ``1 / (m (1 - rho))``, and lower still with ties.

    Raises
    ------
    ConfigError
        eps does not lie between 0 and 1, or rho is not in [0, 1].
    """
    check_eps(eps)
    if not 0 <= rho <= 1:
        raise ConfigError(f"rho is {rho!r}; the share of anomalies must lie between 0 and 1")
    if rho == 1:
        return 0.0, 1.0
    return max(0.0, (eps - rho) / (1 - rho)), min(1.0, eps / (1 - rho))


def rows_to_label(scores: Scores, budget: int) -> NDArray[np.intp]:
    """Return which calibration rows Label-Trim asks about: those with the highest scores, highest first.

    Bashari, Sesia, Romano 2025, algorithm 1. Of equal scores the earlier row comes first. A budget beyond m asks
    about all rows.

    Parameters
    ----------
    scores : ndarray of float, shape (m,)
    budget : int
        How many rows somebody is willing to label.

    Raises
    ------
    ConfigError
        The budget is negative.
    DataError
        A score is NaN, or scores are not of shape (m,).
    """
    if budget < 0:
        raise ConfigError(f"budget is {budget}; give the number of rows to label, 0 or more")
    if scores.ndim != 1 or np.isnan(scores).any():
        raise DataError(f"scores have shape {scores.shape} or hold NaN; give one score for each calibration row")
    return np.argsort(-scores, kind="stable")[:budget]


def choose_questions(
    scores: Scores, row_ids: Sequence[str], *, budget: int, sample: int, seed: int
) -> NDArray[np.object_]:
    """Return for each calibration row why it should be labelled: "trim", "estimate", or "" for not at all.

    The `budget` highest scores are asked about for trimming. Of the other rows a uniform random sample without
    replacement is: it alone can tell how many anomalies are left below. The sample is those with the lowest hash of
    seed and row id, so that a larger one contains a smaller one, and that most of it stays when rows come and go.
    """
    purposes = np.full(len(scores), NOT_ASKED, dtype=object)
    if sample < 0:
        raise ConfigError(f"sample is {sample}; give the number of rows to pick at random, 0 or more")
    purposes[rows_to_label(scores, budget)] = TRIM
    others = np.flatnonzero(purposes == NOT_ASKED)
    order = np.argsort(_lots(row_ids, seed)[others], kind="stable")
    purposes[others[order[:sample]]] = ESTIMATE
    return purposes


def complete_sample(purposes: NDArray[np.object_], row_ids: Sequence[str], *, seed: int) -> NDArray[np.object_]:
    """Return the purposes with the rows that would be in the sample, had they been there when it was drawn.

    Rows that came later (a new version of the data) were not sampled, so that a sample of the earlier ones alone says
    nothing of them. With these in it, as yet unlabelled, it is a sample of all rows again.

    Parameters
    ----------
    purposes : ndarray of str, shape (m,)
        Of the rows asked about last, see `choose_questions`.
    row_ids : sequence of m str
    seed : int
        That of `choose_questions`. With another one far more rows seem to have come later, which errs on the safe side.
    """
    lots = _lots(row_ids, seed)
    drawn = lots <= lots[purposes == ESTIMATE].max(initial=-1)
    return np.where((purposes == NOT_ASKED) & drawn, ESTIMATE, purposes)


def _lots(row_ids: Sequence[str], seed: int) -> NDArray[np.float64]:
    return uniform_hashes(row_ids, f"estimate:{seed}")


@dataclass(frozen=True, slots=True)
class TrimReport:
    """What Label-Trim did.

    Attributes
    ----------
    m_before, m_after : int
        Calibration rows.
    labelled : int
        Rows with a label.
    removed : int
        Those labelled as anomalies.
    """

    m_before: int
    m_after: int
    labelled: int
    removed: int


def trim(scores: Scores, labels: NDArray[Any]) -> tuple[Scores, TrimReport]:
    """Return the scores of the calibration rows without those labelled as anomalies, and what was removed.

    Bashari, Sesia, Romano 2025, algorithm 1. All normal rows stay, so that whatever picked the labelled rows,
    with a share rho' of anomalies left the false-positive rate is at most ``eps / (1 - rho')`` (up to 1/m; see
    `fpr_range`). Removing high scores without labels instead drops normal rows too and inflates it, and so do
    labels that call normal rows anomalies.

    Parameters
    ----------
    scores : ndarray of float, shape (m,)
    labels : ndarray of int, shape (m,)
        0 normal, 1 anomaly, -1 not labelled.

    Raises
    ------
    DataError
        Shapes differ, or no row is left.
    """
    kept, report = _trim(labels, len(scores))
    return scores[kept], report


def trim_report(rows: RowSet, answers: Path, *, seed: int) -> tuple[RowSet, dict[str, Any]]:
    """Return the calibration rows without those labelled as anomalies, and what is known of their contamination.

    Parameters
    ----------
    rows : RowSet
        Calibration rows, with ``row_id`` and ``fingerprint``.
    answers : Path
        File of `assay.data.labelling`; a missing one holds no answers.
    seed : int
        By which the random sample was drawn.

    Returns
    -------
    RowSet
    dict
        ``trim`` (see `TrimReport`) and ``contamination`` (see
        `assay.calibration.contaminated.estimates.Contamination`), plain.

    Raises
    ------
    DataError
        The file is not what it should be, or no row is left.
    """
    labels, purposes = align(read_answers(answers), rows.rows)
    purposes = complete_sample(purposes, rows.rows["row_id"].tolist(), seed=seed)
    kept, report = _trim(labels, len(rows))
    known = contamination_from_answers(labels, purposes, confidence=CONFIDENCE)
    return rows.take(kept), {"trim": asdict(report), "contamination": asdict(known)}


def _trim(labels: NDArray[Any], m: int) -> tuple[NDArray[np.bool_], TrimReport]:
    if labels.shape != (m,):
        raise DataError(f"labels have shape {labels.shape}; give one for each of {m} calibration rows")
    kept = labels != ANOMALY
    report = TrimReport(m, int(kept.sum()), int((labels != UNKNOWN).sum()), int((~kept).sum()))
    if report.m_after == 0:
        raise DataError(f"all {m} calibration rows are labelled as anomalies; none is left to calibrate with: add rows")
    return kept, report
