"""Champion and challenger: whether a new scorer may take the place of the one that serves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assay.calibration.calibrators.conformal import row_count, rows_needed
from assay.data.dataset import RowSet, fingerprints
from assay.data.splitting import MIN_LABELLED
from assay.errors import AssayError
from assay.evaluation.two_fold import SelectionScores, compare_power
from assay.parts import read_arrays
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
    quarantined: frozenset[str] = frozenset(),
) -> Verdict:
    """Compare two scorers on the selection rows that neither has learned from.

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
    quarantined : frozenset of str
        Fingerprints of rows that no scorer should have learned from.

    Returns
    -------
    Verdict
        The challenger is promoted if its two-fold power is not below the champion's, or if the champion has
        learned from quarantined rows and the challenger has not; else the champion stays, also if there are too
        few rows to tell.
    """
    new = load_scorer(challenger)
    try:
        old = load_scorer(champion)
    except AssayError as error:
        return Verdict(
            False, f"the champion cannot be compared: {error}; to replace it by hand: assay promote {new.tag}"
        )
    if set(new.columns) != set(old.columns):
        return Verdict(
            False,
            f"the champion {old.tag} takes other columns; to replace it by hand: assay promote {new.tag}",
        )
    of_new, of_old = seen_rows(challenger), seen_rows(champion)
    barred = {bytes.fromhex(mark) for mark in quarantined}
    if of_old & barred and not of_new & barred:
        return Verdict(
            True, f"the champion {old.tag} has learned from {len(of_old & barred)} quarantined rows, this one from none"
        )
    normals, anomalies, evidence = evidence_rows(selection)
    seen = of_new | of_old
    normals, anomalies = unseen(normals, new, seen), unseen(anomalies, new, seen)
    needed = 2 * rows_needed(eps)
    if len(normals) < needed or len(anomalies) < MIN_LABELLED:
        return Verdict(
            False,
            f"too few selection rows that neither scorer has learned from: {len(normals)} normals "
            f"(needed {row_count(needed)}), {len(anomalies)} anomalies (needed {MIN_LABELLED}); "
            f"the champion {old.tag} stays",
        )
    power, before = compare_power(
        *(SelectionScores(_scores(scorer, new, normals), _scores(scorer, new, anomalies)) for scorer in (new, old)),
        fingerprints=normals.rows["fingerprint"].to_numpy(dtype=np.str_),
        eps=eps,
        seed=seed,
    )
    what = f"power {power:.3f} against {before:.3f} on {len(anomalies)} " + (
        "synthetic probes" if evidence == "probes" else "anomalies"
    )
    if power >= before:
        return Verdict(True, f"{what}: not below the champion {old.tag}")
    return Verdict(False, f"{what}: below the champion {old.tag}, which stays")


def seen_rows(folder: Path) -> set[bytes]:
    """Return the fingerprints of all rows that a scorer was trained, adapted or calibrated on."""
    arrays = read_arrays(folder / "rows.safetensors")
    return {row.tobytes() for array in arrays.values() for row in array}


def unseen(data: RowSet, scorer: Scorer, seen: set[bytes]) -> RowSet:
    """Return the rows whose content is not among `seen`."""
    keys = fingerprints(data.features, scorer.columns)
    return data.take(np.array([bytes.fromhex(str(key)) not in seen for key in keys], dtype=np.bool_))


def _scores(scorer: Scorer, order: Scorer, data: RowSet) -> NDArray[np.float32]:
    """Score rows whose columns stand in `order`'s order."""
    where = [order.columns.index(name) for name in scorer.columns]
    return scorer.decision_function(data.features[:, where])
