"""Explanations in answers of /score: by columns of tables, words of texts, places of images."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from assay.errors import InputError, RequestError
from assay.scorer.explaining import normal_rows, pieces_of
from assay.scorer.explaining_images import first_tiles, hottest_places
from assay.scorer.explaining_words import MOST_EXPLAINED, ReadDocument
from assay.scorer.scorer import Scorer
from assay.service.limits import Limits
from assay.service.requests import Question

Reasons = list[dict[str, Any]]


def check_explained(scorer: Scorer, n: int, limits: Limits) -> None:
    """Raise unless a scorer explains n rows: `InputError` where it explains none, `RequestError` for too many (413).

    The work for a row of a table grows with the square of its columns; a text counts as 50, and so does an image.
    """
    if scorer.texts or scorer.localises:
        width, of = MOST_EXPLAINED, "counted as"
    else:
        try:
            normal_rows(scorer.reference.strata)
        except InputError as error:
            raise InputError(f"{error}; leave explain out") from error
        n_pieces = int(pieces_of(scorer.head).max()) + 1
        width, of = n_pieces, "of" if n_pieces == len(scorer.columns) else "counted as"
    if n * width**2 > limits.explained:
        most = limits.explained // width**2
        advice = f"send at most {most} rows with explain" if most else "leave explain out"
        raise RequestError(
            413,
            f"explain is asked for {n} rows {of} {width} columns, and rows x columns x columns may be at most "
            f"{limits.explained}: {advice}",
        )


def explain_rows(scorer: Scorer, question: Question) -> Reasons:
    """Return for each row what its score comes from, at most `question.explain` reasons a row, the strongest first.

    The numbers are those of `Scorer.explain`, `Scorer.explain_texts` and `Scorer.heat_maps`.

    Raises
    ------
    InputError
        The rows do not fit the scorer, or it explains none.
    """
    k, rows = question.explain, question.rows
    if not len(rows):
        return []
    if scorer.texts:
        return [_of_text(document, k) for document in scorer.explain_texts(rows)]
    if scorer.localises:
        return [
            {"because": [{"row": row, "column": column} for row, column in hottest_places(heat_map, k)]}
            for heat_map in scorer.heat_maps(rows)
        ]
    explanation = scorer.explain(rows, question.categories, question.ids)
    shares = explanation.shares
    if scorer.head.get("image_shape"):
        pieces, shape = pieces_of(scorer.head), scorer.head["image_shape"]
        return [
            {"because": [asdict(tile) for tile in first_tiles(of_row, pieces, shape, k)], "p_without_first": p}
            for of_row, p in zip(shares, explanation.p_without.tolist(), strict=True)
        ]
    first = np.argsort(-shares, axis=1, kind="stable")[:, :k]
    return [
        {
            "because": [
                {"column": scorer.columns[c], "share": of_row[c], "contribution": added[c]}
                for c in columns
                if of_row[c] > 0
            ],
            "p_without_first": p,
        }
        for columns, of_row, added, p in zip(
            first.tolist(),
            shares.tolist(),
            explanation.contributions.tolist(),
            explanation.p_without.tolist(),
            strict=True,
        )
    ]


def _of_text(document: ReadDocument, k: int) -> dict[str, Any]:
    shares = document.shares(k)
    return {
        "because": [{"word": word, "share": share} for word, share in shares.items()],
        "unknown_words": document.unknown,
        "counted_words": document.counted,
        "nearest_context": None if document.context is None else list(document.context_words),
    }
