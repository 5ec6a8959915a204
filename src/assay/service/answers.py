"""The bodies of the service's answers: /info and /score."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np

from assay.arrays import Doubles, Singles
from assay.calibration.calibrators.promise import Bands
from assay.scorer.scorer import Judged, Scorer

MOST_CATEGORIES = 100


def describe(scorer: Scorer) -> dict[str, Any]:
    """Return the body of an answer of /info.

    At most `MOST_CATEGORIES` calibrated categories are listed; the count includes all. Both are None if rows are not
    compared within categories.
    """
    categories = scorer.categories
    return {
        "name": scorer.name,
        "columns": scorer.columns,
        "columns_of_categories": list(scorer.vocabulary),
        "columns_of_dates": list(scorer.dates),
        "columns_that_may_be_missing": list(scorer.imputed),
        "eps": scorer.head["eps"],
        "smallest_eps": scorer.calibrator.smallest_eps,
        "detector": scorer.statement.candidate["detector"],
        "adapter": scorer.statement.candidate["adapter"],
        "n_calibration": scorer.calibrator.n_rows,
        "guarantee": scorer.guarantee,
        "unit": scorer.head.get("unit"),
        "fpr_bands": shown_bands(scorer.fpr_bands()),
        "category_column": scorer.category_column,
        "categories": None if categories is None else list(categories[:MOST_CATEGORIES]),
        "n_categories": None if categories is None else len(categories),
        **versions(scorer),
    }


def shown_bands(bands: Bands) -> dict[str, list[float]] | None:
    """Return bands of the false-positive rate for an answer, of the first `MOST_CATEGORIES` keys; None without any."""
    return {key: list(band) for key, band in islice(bands.items(), MOST_CATEGORIES)} or None


def versions(scorer: Scorer) -> dict[str, str]:
    """Return what every answer names: the version of the scorer, and the statement of where it comes from."""
    statement = scorer.statement
    return {
        "model_version": scorer.version,
        "statement": statement.id,
        "data_version": statement.data_version,
        "lineage_root": statement.root,
    }


def score_answer(
    scorer: Scorer,
    rows: Doubles,
    categories: list[str] | None,
    eps: float | None,
    fdr: float | None,
    row_ids: list[str] | None = None,
    keep: Callable[[Singles], None] = lambda scores: None,
) -> dict[str, Any]:
    """Score rows of shape (n, d) and return the body of an answer of /score; `Scorer.rule` explains eps and fdr.

    `keep` gets the scores of every answer, for the monitors.

    Raises
    ------
    ConfigError, InputError
        A value is not finite; a category was never calibrated; or this scorer cannot control
        false discoveries.
    """
    rule = scorer.rule(eps=eps, fdr=fdr)
    scorer.check_batch_ids(rule, row_ids)
    judged = scorer.judge(rows, categories, row_ids) if len(rows) else Judged(np.empty(0, np.float32), np.empty(0))
    flags = rule.flags(judged.p_values)
    keep(judged.scores)
    rates: dict[str, Any] = {"eps": rule.eps} if rule.fdr is None else {"eps": None, "fdr": rule.fdr}
    if rule.eps is not None:
        rates["fpr_bands"] = shown_bands(scorer.fpr_bands(rule.eps))
    note = rule.note(len(flags), int(flags.sum()), scorer.calibrator)
    decided = zip(judged.scores.tolist(), judged.p_values.tolist(), flags.tolist(), strict=True)
    # JSON has no infinity: a score beyond float32 becomes null.
    results = [{"score": s if math.isfinite(s) else None, "p_value": p, "flagged": f} for s, p, f in decided]
    return {"results": results, **rates, **versions(scorer), **({"note": note} if note else {})}
