"""The bodies of the service's answers: /info and /score."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

import numpy as np
import orjson
from numpy.typing import NDArray

from assay.arrays import Flags
from assay.calibration.calibrators.promise import Bands
from assay.calibration.decisions import Rule
from assay.data.categories import category_texts
from assay.errors import InputError
from assay.scorer.scorer import Judged, Scorer
from assay.service.explaining import Reasons, explain_rows
from assay.service.formats import write_arrow
from assay.service.requests import Question

MOST_CATEGORIES = 100
_ROWS_AT_ONCE = 2048


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
        "columns_of_texts": list(scorer.texts),
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


@dataclass(frozen=True, slots=True)
class Decision:
    """How the rows of a request are decided, and what every answer says of that.

    Attributes
    ----------
    rule : Rule
    rest : dict
        eps, fdr and the bands of the false-positive rate; versions; by eps a note where nothing can be flagged.
    text : bytes
        The rest as JSON.
    """

    rule: Rule
    rest: dict[str, Any]
    text: bytes

    @classmethod
    def of(cls, scorer: Scorer, eps: float | None = None, fdr: float | None = None) -> Self:
        """Return the decision by eps or fdr; `Scorer.rule` explains these, and what is raised."""
        rule = scorer.rule(eps=eps, fdr=fdr)
        rates: dict[str, Any] = {"eps": rule.eps} if rule.fdr is None else {"eps": None, "fdr": rule.fdr}
        if rule.eps is not None:
            rates["fpr_bands"] = shown_bands(scorer.fpr_bands(rule.eps))
        note = "" if rule.eps is None else rule.note(0, 0, scorer.calibrator)
        rest = {**rates, **versions(scorer), **({"note": note} if note else {})}
        return cls(rule, rest, orjson.dumps(rest))


@dataclass(slots=True)
class ScoreAnswer:
    """The answer of /score.

    Attributes
    ----------
    judged : Judged
    flags : ndarray of bool, shape (n,)
    rest, text : dict, bytes
        What is said of all rows: rates, versions, and a note where nothing can be flagged; the same as JSON.
    reasons : list of dict of length n, or None
        What the scores come from, where that was asked for.
    categories : sequence of str of length n, or of length 0
        Where rows are compared within categories.
    """

    judged: Judged
    flags: Flags
    rest: dict[str, Any]
    text: bytes
    reasons: Reasons | None = None
    categories: Sequence[str] = ()

    def to_json(self) -> bytes | bytearray:
        """Return it as JSON; a score beyond float32 is null, since JSON has no infinity."""
        columns = self.judged.scores, self.judged.p_values, self.flags
        if len(self.flags) == 1 and self.reasons is None:
            score, p_value, flagged = (column.item() for column in columns)
            row = orjson.dumps([{"score": score, "p_value": p_value, "flagged": flagged}])
            return b'{"results":' + row + b"," + self.text[1:]
        text = bytearray(b'{"results":[')
        for start in range(0, len(self.flags), _ROWS_AT_ONCE):
            block = zip(*(column[start : start + _ROWS_AT_ONCE].tolist() for column in columns), strict=True)
            rows = [{"score": s, "p_value": p, "flagged": f} for s, p, f in block]
            if self.reasons is not None:
                rows = [row | why for row, why in zip(rows, self.reasons[start:], strict=False)]
            text += b"," if start else b""
            text += orjson.dumps(rows)[1:-1]
        text += b"],"
        text += self.text[1:]
        return text

    def to_arrow(self) -> bytes:
        """Return it as an Arrow stream with the columns score, p_value and flagged; the rest is in its metadata.

        Reasons are columns as well, of the same names as in JSON.
        """
        columns: dict[str, NDArray[Any] | list[Any]] = {
            "score": self.judged.scores,
            "p_value": self.judged.p_values,
            "flagged": self.flags,
        }
        for key in self.reasons[0] if self.reasons else ():
            columns[key] = [why[key] for why in self.reasons or ()]
        return write_arrow(columns, self.rest)


def score_answer(scorer: Scorer, question: Question, decision: Decision) -> ScoreAnswer:
    """Score the rows of a request.

    Raises
    ------
    ConfigError, InputError
        Rows do not fit the scorer, a value is not finite, or a category was never calibrated.
    """
    rule, rows = decision.rule, question.rows
    scorer.check_batch_ids(rule, question.ids)
    judged = _judge(scorer, question) if len(rows) else Judged(np.empty(0, np.float32), np.empty(0))
    flags = rule.flags(judged.p_values)
    reasons = explain_rows(scorer, question) if question.explain else None
    note = "" if rule.fdr is None else rule.note(len(flags), int(flags.sum()), scorer.calibrator)
    rest = {**decision.rest, "note": note} if note else decision.rest
    text = orjson.dumps(rest) if note else decision.text
    return ScoreAnswer(judged, flags, rest, text, reasons, _categories(scorer, question))


def _judge(scorer: Scorer, question: Question) -> Judged:
    """Judge rows by parts, which gives the same bits: small requests get the interpreter in between."""
    rows, n = question.rows, len(question.rows)
    if n > _ROWS_AT_ONCE:
        parts = []
        with suppress(InputError):
            for start in range(0, n, _ROWS_AT_ONCE):
                part = slice(start, start + _ROWS_AT_ONCE)
                block = rows[part] if isinstance(rows, np.ndarray) else rows.slice(start, _ROWS_AT_ONCE)
                given = [None if texts is None else texts[part] for texts in (question.categories, question.ids)]
                parts.append(scorer.judge(block, *given))
            return Judged(
                np.concatenate([part.scores for part in parts]), np.concatenate([part.p_values for part in parts])
            )
    # The number of a bad row in what is said of it is that of the request.
    return scorer.judge(rows, question.categories, question.ids)


def _categories(scorer: Scorer, question: Question) -> Sequence[str]:
    if question.categories is not None or scorer.category_column is None:
        return question.categories or ()
    texts: list[str] = category_texts(question.rows.column(scorer.category_column).to_pylist()).tolist()
    return texts
