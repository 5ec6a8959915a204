"""Answers of the service: what /info says of a scorer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.decisions import Reference
from assay.errors import InputError
from assay.scorer.loading import load_scorer
from assay.scorer.scorer import Scorer
from assay.service.answers import Decision, describe, score_answer
from assay.service.requests import Question

FROZEN = Path(__file__).parents[2] / "frozen" / "scorer-1"
(PACKED,) = (path.parent for path in FROZEN.glob("*/scorer.json"))


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return load_scorer(PACKED)


def answer(
    scorer: Scorer, rows: NDArray[Any], eps: float | None = None, fdr: float | None = None, ids: list[str] | None = None
) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        score_answer(scorer, Question(rows, ids=ids), Decision.of(scorer, eps, fdr)).to_json()
    )
    return content


def within(scorer: Scorer, keys: list[str]) -> Scorer:
    """The scorer, calibrated within categories of two rows each."""
    calibrator = MondrianCalibrator("category").fit(np.arange(2.0 * len(keys)), np.repeat(np.array(keys, object), 2))
    return replace(
        scorer,
        head={**scorer.head, "category_column": "site"},
        reference=Reference(calibrator, scorer.reference.strata),
    )


def test_the_calibrated_categories_are_listed(scorer: Scorer) -> None:
    told = describe(within(scorer, ["south", "10", "north"]))
    assert told["categories"] == ["10", "north", "south"]
    assert (told["n_categories"], told["category_column"]) == (3, "site")
    assert json.loads(json.dumps(told)) == {**told, "columns": list(told["columns"])}


@pytest.mark.parametrize(("n", "listed"), [(100, 100), (101, 100), (1000, 100)])
def test_of_many_categories_a_hundred_are_listed_and_all_counted(scorer: Scorer, n: int, listed: int) -> None:
    told = describe(within(scorer, [f"site-{i:04d}" for i in reversed(range(n))]))
    assert told["categories"] == [f"site-{i:04d}" for i in range(listed)]
    assert told["n_categories"] == n


def test_a_scorer_without_categories_lists_none(scorer: Scorer) -> None:
    told = describe(scorer)
    assert (told["categories"], told["n_categories"], told["category_column"]) == (None, None, None)
    assert told["columns"] == scorer.columns
    assert told["model_version"] == PACKED.name
    by_stratum = MondrianCalibrator("stratum").fit(np.arange(4.0), np.array([0, 0, 1, 1]))
    stratified = replace(scorer, reference=Reference(by_stratum, scorer.reference.strata))
    assert describe(stratified)["categories"] is None


def test_every_place_that_names_eps_gives_the_band_of_this_scorer(scorer: Scorer) -> None:
    rows = np.zeros((2, len(scorer.columns)))
    bands = scorer.fpr_bands()
    assert describe(scorer)["fpr_bands"] == {"all": list(bands["all"])}
    by_eps = answer(scorer, rows, 0.3)
    assert by_eps["fpr_bands"] == {"all": list(scorer.fpr_bands(0.3)["all"])}
    assert by_eps["fpr_bands"] != {"all": list(bands["all"])}
    assert "fpr_bands" not in answer(scorer, rows, None, 0.3), "a false discovery rate is no eps"
    timed = replace(scorer, head={**scorer.head, "unit": "time"})
    assert (describe(timed)["fpr_bands"], describe(timed)["unit"]) == (None, "time")
    many = describe(within(scorer, [f"site-{i:04d}" for i in range(150)]))["fpr_bands"]
    assert len(many) == 100


def test_ids_of_a_request_break_ties(scorer: Scorer) -> None:
    rows, ids = np.zeros((300, len(scorer.columns))), [f"r{i}" for i in range(300)]
    tied = ConformalCalibrator().fit(np.repeat(scorer.decision_function(rows[:1]), 20))
    counted, by_id = (Reference(tied, scorer.reference.strata, ties=ties, salt="s") for ties in ("counted", "by_id"))
    for reference, is_random in ((counted, False), (by_id, True)):
        each = replace(scorer, reference=reference)
        answers = [answer(each, rows, ids=given)["results"] for given in (ids, None)]
        with_ids, without = ([row["p_value"] for row in results] for results in answers)
        assert set(without) == {1.0}
        assert (len(set(with_ids)) > 10) is is_random
    with pytest.raises(InputError, match="'r0' occurs twice"):
        answer(replace(scorer, reference=by_id), rows[:2], fdr=0.1, ids=["r0", "r0"])


def test_an_answer_of_many_rows_is_the_answers_of_few(scorer: Scorer) -> None:
    rows = np.random.default_rng(0).normal(size=(9000, len(scorer.columns)))
    rows[0] = 1e30
    judged = scorer.judge(rows)
    results = answer(scorer, rows)["results"]
    assert [row["p_value"] for row in results] == judged.p_values.tolist()
    assert [row["score"] for row in results] == [s if np.isfinite(s) else None for s in judged.scores.tolist()]
    assert [row["flagged"] for row in results] == (judged.p_values <= scorer.head["eps"]).tolist()


@pytest.mark.parametrize("n", [2048, 2049, 5000])
def test_rows_that_are_judged_in_parts_have_the_same_bits(scorer: Scorer, n: int) -> None:
    by_site, rows = within(scorer, ["south", "north"]), np.random.default_rng(0).normal(size=(n, len(scorer.columns)))
    sites, ids = ["south", "north", "north"] * n, [f"row {i}" for i in range(n)]
    judged = by_site.judge(rows, sites[:n], ids)
    parts = score_answer(by_site, Question(rows, sites[:n], ids), Decision.of(by_site))
    assert parts.judged.scores.tobytes() == judged.scores.tobytes()
    assert parts.judged.p_values.tobytes() == judged.p_values.tobytes()
    assert len(json.loads(parts.to_json())["results"]) == n
    rows[n - 2, 1] = np.nan
    with pytest.raises(InputError, match=f"row {n - 2}, column"):
        score_answer(by_site, Question(rows, sites[:n], ids), Decision.of(by_site))
