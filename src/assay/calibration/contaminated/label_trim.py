"""Contaminated calibration rows: their effect on false-positive rates, and Label-Trim, which repairs most of it.

An anomaly among the calibration rows that scores above the threshold raises it, which costs power; one that scores
below lowers it a little, which costs validity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Flags, Floats, Texts
from assay.calibration.calibrators.ranks import check_eps
from assay.calibration.contaminated.estimates import contamination_from_answers
from assay.data.dataset import ANOMALY, UNKNOWN, RowSet
from assay.data.labelling import ESTIMATE, NOT_ASKED, TRIM, align, read_answers
from assay.errors import ConfigError, DataError
from assay.hashing import uniform_hashes

CONFIDENCE = 0.95


def fpr_range(eps: float, rho: float) -> tuple[float, float]:
    """Return the range of the false-positive rate at eps if a share rho of the calibration rows are anomalies.

    The lower end is ``max(0, (eps - rho) / (1 - rho))``, reached if all anomalies score above the normal rows. The
    upper end is ``min(1, eps / (1 - rho))``, reached if all score below. If anomalies score stochastically higher than
    normal rows, the rate is at most eps; the data cannot prove this.

    The upper end holds for m calibration rows if rho is their share of anomalies or its mean; with k anomalies it is
    exactly ``floor((m + 1) eps) / (m + 1 - k)``. The lower end is the limit of large m: the exact one is
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


def rows_to_label(scores: Floats, budget: int) -> NDArray[np.intp]:
    """Return the indices of the calibration rows with the highest scores, highest first, for Label-Trim.

    Bashari, Sesia, Romano 2025, algorithm 1. Of equal scores the earlier row comes first. A budget beyond m
    selects all rows.

    Parameters
    ----------
    scores : ndarray of float, shape (m,)
    budget : int
        Number of rows to label.

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


def choose_questions(scores: Floats, row_ids: Sequence[str], *, budget: int, sample: int, seed: int) -> Texts:
    """Return the purpose of labelling each calibration row: "trim", "estimate", or "" for none.

    The `budget` highest scores are labelled for trimming. A uniform random sample without replacement of the other rows
    is labelled to estimate how many anomalies are left among them; nothing else shows that. The sample consists of the
    rows with the lowest hashes of seed and row id: a larger sample contains a smaller one, and most of it stays the
    same when rows are added or removed.
    """
    purposes = np.full(len(scores), NOT_ASKED, dtype=object)
    if sample < 0:
        raise ConfigError(f"sample is {sample}; give the number of rows to pick at random, 0 or more")
    purposes[rows_to_label(scores, budget)] = TRIM
    other_rows = np.flatnonzero(purposes == NOT_ASKED)
    order = np.argsort(_lots(row_ids, seed)[other_rows], kind="stable")
    purposes[other_rows[order[:sample]]] = ESTIMATE
    return purposes


def complete_sample(purposes: Texts, row_ids: Sequence[str], *, seed: int) -> Texts:
    """Return the purposes, with new rows added to the sample where their hashes belong to it.

    Rows of a newer data version could not be sampled when the questions were chosen, so the sample does not represent
    them. With the new rows that would have been drawn, as yet unlabelled, it is again a sample of all rows.

    Parameters
    ----------
    purposes : ndarray of str, shape (m,)
        Of the latest questions, see `choose_questions`.
    row_ids : sequence of m str
    seed : int
        That of `choose_questions`. With another seed far more rows seem to be new, which is conservative.
    """
    lots = _lots(row_ids, seed)
    drawn = lots <= lots[purposes == ESTIMATE].max(initial=-1)
    return np.where((purposes == NOT_ASKED) & drawn, ESTIMATE, purposes)


def _lots(row_ids: Sequence[str], seed: int) -> Doubles:
    return uniform_hashes(row_ids, f"estimate:{seed}")


@dataclass(frozen=True, slots=True)
class TrimReport:
    """The numbers of rows before and after Label-Trim.

    Attributes
    ----------
    m_before, m_after : int
        Number of calibration rows.
    labelled : int
        Number of rows with a label.
    removed : int
        Number of rows labelled as anomalies.
    """

    m_before: int
    m_after: int
    labelled: int
    removed: int


def trim(scores: Floats, labels: NDArray[Any]) -> tuple[Floats, TrimReport]:
    """Return the scores of the calibration rows without those labelled as anomalies, and what was removed.

    Bashari, Sesia, Romano 2025, algorithm 1. All normal rows stay. Therefore, for any choice of labelled rows,
    with a share rho' of anomalies left the false-positive rate is at most ``eps / (1 - rho')`` (up to 1/m; see
    `fpr_range`). Removing high scores without labels, or labelling normal rows as anomalies, removes normal rows too
    and inflates the rate.

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
    """Return the calibration rows without those labelled as anomalies, and the estimate of their contamination.

    Parameters
    ----------
    rows : RowSet
        Calibration rows, with ``row_id`` and ``fingerprint``.
    answers : Path
        File of `assay.data.labelling`; a missing one holds no answers.
    seed : int
        Seed that the random sample was drawn with.

    Returns
    -------
    RowSet
    dict
        ``trim`` (see `TrimReport`) and ``contamination`` (see
        `assay.calibration.contaminated.estimates.Contamination`), as plain JSON values.

    Raises
    ------
    DataError
        The file is malformed, or no row is left.
    """
    labels, purposes = align(read_answers(answers), rows.rows)
    purposes = complete_sample(purposes, rows.rows["row_id"].tolist(), seed=seed)
    kept, report = _trim(labels, len(rows))
    contamination = contamination_from_answers(labels, purposes, confidence=CONFIDENCE)
    return rows.take(kept), {"trim": asdict(report), "contamination": asdict(contamination)}


def _trim(labels: NDArray[Any], m: int) -> tuple[Flags, TrimReport]:
    if labels.shape != (m,):
        raise DataError(f"labels have shape {labels.shape}; give one for each of {m} calibration rows")
    kept = labels != ANOMALY
    report = TrimReport(m, int(kept.sum()), int((labels != UNKNOWN).sum()), int((~kept).sum()))
    if report.m_after == 0:
        raise DataError(f"all {m} calibration rows are labelled as anomalies; none is left to calibrate with: add rows")
    return kept, report
