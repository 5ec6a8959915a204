"""The bodies of answers of the service: what is deployed, and what is said of rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.scorer.scorer import Judged, Scorer

MOST_CATEGORIES = 100


def describe(scorer: Scorer) -> dict[str, Any]:
    """Return the body of the answer of /info.

    Of the calibrated categories at most `MOST_CATEGORIES` are listed, and all are counted; both are None where rows
    are not compared within categories.
    """
    known = scorer.categories
    return {
        "name": scorer.name,
        "columns": scorer.columns,
        "eps": scorer.head["eps"],
        "smallest_eps": scorer.calibrator.smallest_eps,
        "detector": scorer.head["candidate"]["detector"],
        "adapter": scorer.head["candidate"]["adapter"],
        "n_calibration": scorer.calibrator.n_rows,
        "guarantee": scorer.calibrator.guarantee,
        "category_column": scorer.category_column,
        "categories": None if known is None else list(known[:MOST_CATEGORIES]),
        "n_categories": None if known is None else len(known),
        **versions(scorer),
    }


def versions(scorer: Scorer) -> dict[str, str]:
    """Return what an answer says about where it comes from."""
    lineage = scorer.head["lineage"]
    return {
        "model_version": scorer.version,
        "data_version": lineage["data_version"],
        "lineage_root": lineage["root"],
    }


def answer(
    scorer: Scorer, rows: NDArray[np.float64], categories: list[str] | None, eps: float | None, fdr: float | None
) -> dict[str, Any]:
    """Score rows of shape (n, d) and return the body of the answer; `Scorer.rule` says by what rows are flagged.

    Raises
    ------
    ConfigError, InputError
        A value is not finite or does not fit float32; a category is not known; false discoveries cannot be
        controlled with this scorer.
    """
    rule = scorer.rule(eps=eps, fdr=fdr)
    found = scorer.judge(rows, categories) if len(rows) else Judged(np.empty(0, np.float32), np.empty(0))
    flags = rule.flags(found.p_values)
    how = {"eps": rule.eps, **({} if rule.fdr is None else {"fdr": rule.fdr})}
    told = rule.note(flags, scorer.calibrator)
    decided = zip(found.scores.tolist(), found.p_values.tolist(), flags.tolist(), strict=True)
    results = [{"score": s if math.isfinite(s) else None, "p_value": p, "flagged": f} for s, p, f in decided]
    return {"results": results, **how, **versions(scorer), **({"note": told} if told else {})}
