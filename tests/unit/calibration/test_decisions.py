"""What scored rows are compared by: categories in any form, tie breaks by content; and how they are flagged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from assay.calibration.adapters.outputs import Outputs
from assay.calibration.batches import benjamini_hochberg, false_discovery_bound
from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.calibrators.grouped import GroupedCalibrator
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.decisions import RANDOMISED, Reference, Rule, Scored, tie_breaks
from assay.calibration.hardness import Strata
from assay.data.categories import category_texts
from assay.errors import ConfigError, InputError


@pytest.mark.parametrize(
    "three",
    [3, 3.0, "3", "3.0", " 3 ", np.int8(3), np.float32(3), np.str_("3"), "3.000"],
    ids=repr,
)
def test_a_category_is_the_same_in_every_form(three: Any) -> None:
    assert category_texts([three]).tolist() == ["3"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("007", "007"),
        ("3.10", "3.10"),
        (3.5, "3.5"),
        (np.float32(0.1), "0.1"),
        ("v1.0", "v1.0"),
        (-2.0, "-2"),
        ("", ""),
    ],
)
def test_what_is_no_whole_number_stays_as_it_is(value: Any, text: str) -> None:
    assert category_texts(["a", value]).tolist() == ["a", text]


def test_missing_categories_are_empty() -> None:
    missing = [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, "  "]
    assert category_texts(missing).tolist() == [""] * len(missing)
    assert category_texts([]).shape == (0,)


@pytest.mark.parametrize("value", [["a"], {}, b"a"], ids=repr)
def test_what_is_neither_text_nor_number_is_no_category(value: Any) -> None:
    with pytest.raises(InputError, match="row 1: the category is"):
        category_texts(["a", value])


def test_a_row_breaks_ties_by_its_content_alone() -> None:
    rows = np.random.default_rng(0).standard_normal((2000, 3)).astype(np.float32)
    breaks = tie_breaks(rows)
    np.testing.assert_array_equal(tie_breaks(rows[::-1])[::-1], breaks)
    np.testing.assert_array_equal(tie_breaks(np.asfortranarray(rows)[7:8]), breaks[7:8])
    assert (tie_breaks(rows.astype(np.float64)) != breaks).all()
    assert tie_breaks(np.array([[0.0, 1.0]])) == tie_breaks(np.array([[-0.0, 1.0]]))
    assert len(np.unique(breaks)) == len(rows)
    assert ((breaks >= 0) & (breaks < 1)).all()
    assert abs(np.mean(breaks <= 0.1) - 0.1) < 0.03


P_VALUES = np.array([0.01, 0.04, 0.05, 0.2, 0.9])


def test_a_rule_by_eps_flags_what_is_at_most_eps_and_tells_the_limits() -> None:
    rule = Rule(eps=0.05)
    flags = rule.flags(P_VALUES)
    assert flags.tolist() == [True, True, True, False, False]
    few, enough = (ConformalCalibrator().fit(np.arange(m, dtype=np.float32)) for m in (10, 19))
    assert "no row can be flagged" in rule.note(flags, few)
    assert rule.note(flags, enough) == ""


def test_a_rule_by_fdr_looks_at_the_whole_batch_and_says_why_it_flags_nothing() -> None:
    rule, reference = Rule(fdr=0.1), ConformalCalibrator().fit(np.arange(99, dtype=np.float32))
    flags = rule.flags(P_VALUES)
    assert flags.tolist() == benjamini_hochberg(P_VALUES, 0.1).tolist() == [True, True, True, False, False]
    assert rule.note(flags, reference) == ""
    nothing = rule.flags(np.full(500, 0.5))
    assert "false discovery rate of 0.1" in rule.note(nothing, reference)
    rule.require(reference)
    with pytest.raises(InputError, match="calibrated as 'grouped'"):
        rule.require(GroupedCalibrator().fit(np.arange(9, dtype=np.float32), np.arange(9).astype(str)))
    Rule(eps=0.1).require(GroupedCalibrator().fit(np.arange(9, dtype=np.float32), np.arange(9).astype(str)))


def scored(scores: Any, hardness: Any) -> Scored:
    outputs = Outputs(np.asarray(scores, np.float32), np.asarray(hardness, np.float64))
    rows = np.arange(2.0 * len(outputs.scores)).reshape(-1, 2)
    return Scored(outputs.scores, outputs, rows, rows.astype(np.float32))


def test_a_bound_on_false_discoveries_counts_ties_and_knows_each_reference() -> None:
    strata, hardness = Strata(np.array([0.0])), np.repeat([-1.0, 1.0], 100)
    scores = np.r_[np.arange(100) // 10, np.arange(100)].astype(np.float32)
    batch = scored(np.full(60, 9.0), np.repeat([-1.0, 1.0], 30))
    chosen = np.arange(60) < 40
    plain = ConformalCalibrator().fit(scores)
    by_stratum = MondrianCalibrator("stratum").fit(scores, strata.assign(hardness))
    for ties in ("counted", RANDOMISED):
        bound = Reference(plain, strata, ties=ties).false_discovery_bound(batch, chosen, 0.1)
        p_values = plain.p_values(batch.scores)
        assert bound == false_discovery_bound(p_values, chosen, 0.1, sizes=[200])
        bound = Reference(by_stratum, strata, ties=ties).false_discovery_bound(batch, chosen, 0.1)
        keys = np.repeat([0, 1], 30)
        p_values = by_stratum.p_values(batch.scores, keys)
        assert bound == false_discovery_bound(p_values, chosen, 0.1, sizes=[100, 100], of_row=keys) < 40
    groups = GroupedCalibrator().fit(scores, np.arange(200).astype(str))
    assert Reference(groups, strata).false_discovery_bound(batch, chosen, 0.1) is None


def test_a_rule_needs_one_rate_between_0_and_1() -> None:
    for given in ({}, {"eps": 0.1, "fdr": 0.1}):
        with pytest.raises(InputError, match="give one of them"):
            Rule(**given)
    for name, rate in (("eps", 0.0), ("eps", 1.5), ("fdr", 1.0), ("fdr", float("nan"))):
        with pytest.raises(ConfigError, match=f"{name} is .* between 0 and 1"):
            Rule(**{name: rate})
