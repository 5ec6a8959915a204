"""The chances that a candidate's scorer flags selection rows, by the rule that ships."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assay.data.dataset import RowSet, row_keys
from assay.hashing import uniform_hashes
from assay.parts import read_json, read_part
from assay.pipeline.candidates import FLAG_RULE, LevelScores, candidate_name
from assay.pipeline.rows import RATIO_PART, units

if TYPE_CHECKING:
    from assay.calibration.decisions import Scored
    from assay.evaluation.chances import FlagChances, FlagRule
    from assay.evaluation.paired import RowScores


def read_flag_rule(adapters: Path, level: str, detector: str, adapter: str) -> FlagRule:
    """Read how the scorer of a candidate compares rows."""
    from assay.evaluation.chances import FlagRule

    return FlagRule.from_json(read_json(adapters / level / f"{candidate_name(detector, adapter)}.{FLAG_RULE}"))


def accepted(rows: RowSet, rule: FlagRule) -> RowSet:
    """Return the rows that a scorer accepts: all of them unless it compares within categories."""
    if rule.side_information != "category":
        return rows
    return rows.take(rows.rows["category"].isin(list(rule.sizes)).to_numpy(dtype=bool))


def scores_fault(normals: Scored, anomalies: Scored, rho: float) -> str:
    """Return why the scores of a candidate cannot be compared, or ""."""
    pooled = np.concatenate([normals.scores, anomalies.scores])
    if wrong := np.count_nonzero(~np.isfinite(pooled)):
        return f"{wrong} of {pooled.size} scores are not finite at level {rho:g}"
    return f"all scores are equal at level {rho:g}" if pooled.min() == pooled.max() else ""


def chances_of(scored: LevelScores, rule: FlagRule, normals: Scored, anomalies: Scored, eps: float) -> FlagChances:
    """Return the chances that a candidate's scorer flags the normals and anomalies that `scored` holds.

    Parameters
    ----------
    scored : LevelScores
        The cell at the level, with the current detector.
    rule : FlagRule
    normals, anomalies : Scored
        By the candidate.
    eps : float
    """
    from assay.calibration.calibrators.weighted import load_ratio
    from assay.calibration.decisions import BY_ID
    from assay.detectors.base import CrossFitted
    from assay.evaluation.chances import cross_chances, flag_chances, grouped_chances, weighted_chances

    if rule.kind == "cross":
        assert isinstance(scored.detector, CrossFitted)
        assert normals.fold_scores is not None
        assert anomalies.fold_scores is not None
        folds = scored.detector.fold_of_new(scored.rows[0])
        return cross_chances(normals.fold_scores(), folds, anomalies.fold_scores(), rule, eps)
    if rule.kind == "grouped":
        return grouped_chances(normals.scores, units(scored.raw[0]), anomalies.scores, rule, eps)
    if rule.kind == "weighted":
        ratio = load_ratio(read_part(scored.adapters, RATIO_PART))
        of_normals, of_anomalies = ((part.scores, ratio.weights(part.scaled)) for part in (normals, anomalies))
        return weighted_chances(of_normals, of_anomalies, rule, eps)
    breaks = None
    if rule.ties == BY_ID:
        tie_breaks = [uniform_hashes(row_keys(part.rows), "ties:") for part in scored.raw]
        breaks = (tie_breaks[0], tie_breaks[1])
    keys = _keys(scored, rule)
    return flag_chances(normals.scores, anomalies.scores, rule, eps, keys=keys, tie_breaks=breaks)


def ranks_of(chances: FlagChances, normals: Scored, anomalies: Scored) -> RowScores:
    """Return how a candidate ranks the rows: by the chance to be flagged, and by the score among equal ones.

    Where rows are compared within strata or categories, or weighted, a higher score may well be flagged less often.
    """
    from assay.evaluation.paired import RowScores

    both = [np.concatenate([chances.normals, chances.anomalies]), np.concatenate([normals.scores, anomalies.scores])]
    ranks = np.unique(np.stack(both), axis=1, return_inverse=True)[1].astype(np.float64)
    return RowScores(ranks[: len(chances.normals)], ranks[len(chances.normals) :])


def _keys(scored: LevelScores, rule: FlagRule) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Return the stratum or category of the normals and of the anomalies, as texts."""
    if rule.side_information == "stratum":
        return scored.strata.astype(str), scored.strata_of_anomalies.astype(str)
    if rule.side_information == "category":
        of_normals, of_anomalies = (part.rows["category"].to_numpy(dtype=str) for part in scored.raw)
        return of_normals, of_anomalies
    return None
