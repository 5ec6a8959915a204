"""What scored rows are compared by: categories in any form, tie breaks by content; and how they are flagged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from assay.calibration.adapters.outputs import Outputs
from assay.calibration.batches import benjamini_hochberg, false_discovery_bound
from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.calibrators.grouped import GroupedCalibrator
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.decisions import BY_CONTENT, BY_ID, Compared, Reference, Rule, Scored, content_hashes
from assay.calibration.hardness import Strata
from assay.calibration.tally import Tally
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
    with pytest.raises(InputError, match="row 1: the category or id is"):
        category_texts(["a", value])


def test_a_row_breaks_ties_by_its_content_alone() -> None:
    rows = np.random.default_rng(0).standard_normal((2000, 3)).astype(np.float32)
    breaks = content_hashes(rows)
    np.testing.assert_array_equal(content_hashes(rows[::-1])[::-1], breaks)
    np.testing.assert_array_equal(content_hashes(np.asfortranarray(rows)[7:8]), breaks[7:8])
    assert (content_hashes(rows.astype(np.float64)) != breaks).all()
    assert content_hashes(np.array([[0.0, 1.0]])) == content_hashes(np.array([[-0.0, 1.0]]))
    assert len(np.unique(breaks)) == len(rows)
    assert ((breaks >= 0) & (breaks < 1)).all()
    assert abs(np.mean(breaks <= 0.1) - 0.1) < 0.03


P_VALUES = np.array([0.01, 0.04, 0.05, 0.2, 0.9])


def test_a_rule_by_eps_flags_what_is_at_most_eps_and_tells_the_limits() -> None:
    rule = Rule(eps=0.05)
    flags = rule.flags(P_VALUES)
    assert flags.tolist() == [True, True, True, False, False]
    few, enough = (ConformalCalibrator().fit(np.arange(m, dtype=np.float32)) for m in (10, 19))
    assert "no row can be flagged" in rule.note(5, 3, few)
    assert rule.note(5, 3, enough) == ""


def test_a_rule_by_fdr_looks_at_the_whole_batch_and_says_why_it_flags_nothing() -> None:
    rule, reference = Rule(fdr=0.1), ConformalCalibrator().fit(np.arange(99, dtype=np.float32))
    flags = rule.flags(P_VALUES)
    assert flags.tolist() == benjamini_hochberg(P_VALUES, 0.1).tolist() == [True, True, True, False, False]
    assert rule.note(5, 3, reference) == ""
    nothing = rule.flags(np.full(500, 0.5))
    assert "false discovery rate of 0.1" in rule.note(500, int(nothing.sum()), reference)
    rule.require(reference)
    with pytest.raises(InputError, match="calibrated as 'grouped'"):
        rule.require(GroupedCalibrator().fit(np.arange(9, dtype=np.float32), np.arange(9).astype(str)))
    Rule(eps=0.1).require(GroupedCalibrator().fit(np.arange(9, dtype=np.float32), np.arange(9).astype(str)))


def scored(scores: Any, hardness: Any) -> Scored:
    outputs = Outputs(np.asarray(scores, np.float32), np.asarray(hardness, np.float64))
    rows = np.arange(2.0 * len(outputs.scores)).reshape(-1, 2)
    return Scored(outputs.scores, outputs, rows, rows.astype(np.float32))


def bound_of(reference: Reference, batch: Scored, chosen: Any) -> int | None:
    """The bound, of a batch that is counted in two blocks."""
    compared, tally = reference.compare(batch), Tally(reference.sizes)
    for rows in (slice(0, 35), slice(35, None)):
        parts = (None if each is None else each[rows] for each in (compared.counted, compared.of_row))
        tally.add(Compared(compared.p_values[rows], *parts), chosen[rows])
    assert (tally.n_rows, tally.n_chosen) == (60, 40)
    return tally.bound(0.1)


def test_a_bound_on_false_discoveries_counts_ties_and_knows_each_reference() -> None:
    strata, hardness = Strata(np.array([0.0])), np.repeat([-1.0, 1.0], 100)
    scores = np.r_[np.arange(100) // 10, np.arange(100)].astype(np.float32)
    batch = scored(np.full(60, 9.0), np.repeat([-1.0, 1.0], 30))
    chosen = np.arange(60) < 40
    plain = ConformalCalibrator().fit(scores)
    by_stratum = MondrianCalibrator("stratum").fit(scores, strata.assign(hardness, hardness))
    for ties in ("counted", BY_CONTENT):
        bound = bound_of(Reference(plain, strata, ties=ties), batch, chosen)
        p_values = plain.p_values(batch.scores)
        assert bound == false_discovery_bound(p_values, chosen, 0.1, sizes=[200])
        bound = bound_of(Reference(by_stratum, strata, ties=ties), batch, chosen)
        keys = np.repeat([0, 1], 30)
        p_values = by_stratum.p_values(batch.scores, keys)
        assert bound == false_discovery_bound(p_values, chosen, 0.1, sizes=[100, 100], of_row=keys) < 40
    groups = GroupedCalibrator().fit(scores, np.arange(200).astype(str))
    assert bound_of(Reference(groups, strata), batch, chosen) is None


def test_a_rule_needs_one_rate_between_0_and_1() -> None:
    for given in ({}, {"eps": 0.1, "fdr": 0.1}):
        with pytest.raises(InputError, match="give one of them"):
            Rule(**given)
    wrong = [("eps", rate) for rate in (0.0, 1.0, 1.5, float("inf"))] + [
        ("fdr", rate) for rate in (0.0, 1.0, float("nan"))
    ]
    for name, rate in wrong:
        with pytest.raises(ConfigError, match=f"{name} is .* between 0 and 1"):
            Rule(**{name: rate})


def rates_of_a_repeating_state(
    ties: str, *, redraws: int = 400, m: int = 150, eps: float = 0.05
) -> NDArray[np.float64]:
    """False-positive rates of scorers where a fifth of the rows are one state, which straddles the threshold."""
    state = norm.ppf(1 - 0.03 / 0.8)  # .03 of the rows are above it, and .23 are not below
    n, rates = 2000, []
    for seed in range(redraws):
        rng = np.random.default_rng(seed)
        content = np.where(rng.random(m + n) < 0.2, state, rng.normal(size=m + n))
        # The content of the state differs from one dataset to the next, as its hash does.
        features = np.where(content == state, state + seed, content)[:, None]
        calibrator = ConformalCalibrator().fit(content[:m])
        ids = np.array([f"{seed}-{i}" for i in range(n)], dtype=object)
        outputs = Outputs(content[m:], np.zeros(n))
        scored = Scored(content[m:].astype(np.float32), outputs, features[m:], features[m:], row_ids=ids)
        p_values = Reference(calibrator, Strata.fit(np.zeros(4)), ties=ties, salt=str(seed)).p_values(scored)
        rates.append(np.mean(p_values <= eps))
    return np.array(rates)


def test_ties_by_id_keep_the_rate_of_every_scorer_where_a_state_repeats() -> None:
    by_id, by_content = (rates_of_a_repeating_state(ties) for ties in (BY_ID, BY_CONTENT))
    expected = np.floor(151 * 0.05) / 151
    for rates in (by_id, by_content):
        assert abs(rates.mean() - expected) < 4 * rates.std() / np.sqrt(rates.size)
    assert (by_id > 0.15).mean() < 0.01
    assert 0.05 < (by_content > 0.15).mean() < 0.25, "all rows of the state are flagged, for good"


def test_rows_without_ids_count_ties() -> None:
    scored = Scored(
        np.zeros(3, dtype=np.float32), Outputs(np.zeros(3), np.zeros(3)), np.zeros((3, 1)), np.zeros((3, 1))
    )
    calibrator = ConformalCalibrator().fit(np.zeros(99))
    assert Reference(calibrator, Strata.fit(np.zeros(4)), ties=BY_ID).p_values(scored).tolist() == [1.0] * 3


def test_another_salt_ranks_a_row_anew() -> None:
    ids = np.array([f"r{i}" for i in range(500)], dtype=object)
    zeros = np.zeros((500, 1))
    scored = Scored(zeros[:, 0].astype(np.float32), Outputs(zeros[:, 0], zeros[:, 0]), zeros, zeros, row_ids=ids)
    calibrator, strata = ConformalCalibrator().fit(np.zeros(99)), Strata.fit(np.zeros(4))
    one, other = (Reference(calibrator, strata, ties=BY_ID, salt=salt).p_values(scored) for salt in ("a", "b"))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.2
    np.testing.assert_array_equal(Reference(calibrator, strata, ties=BY_ID, salt="a").p_values(scored), one)


def test_hardness_is_computed_once_and_only_where_strata_go_by_it() -> None:
    calls: list[int] = []

    def measure() -> NDArray[Any]:
        calls.append(1)
        return np.arange(8.0)

    scores = np.arange(8, dtype=np.float32)
    rows = np.zeros((8, 2), dtype=np.float32)
    scored = Scored(scores, Outputs(scores, measure), rows, rows)
    strata = Strata.fit(np.arange(8.0))
    Reference(ConformalCalibrator().fit(scores), strata).p_values(scored)
    assert calls == []
    by_stratum = MondrianCalibrator("stratum").fit(scores, strata.assign(rows, np.arange(8.0)))
    for _ in range(2):
        Reference(by_stratum, strata).p_values(scored)
    assert calls == [1]


def test_ties_are_broken_by_a_pinned_hash_that_takes_minus_zero_for_zero_and_nothing_else() -> None:
    hashes = content_hashes(np.array([[0.0, 1.0], [-0.0, 1.0], [1e-30, 1.0], [2.0, 3.0]]))
    assert hashes.tolist() == [0.9177016174788559, 0.9177016174788559, 0.5511408121166758, 0.015179579819660005]
