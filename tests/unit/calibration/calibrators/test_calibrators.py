"""What all calibrators have in common: parts, limits, ties, infinite scores, and split conformal as a special case."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.calibrators.cross import CrossCalibrator
from assay.calibration.calibrators.grouped import GroupedCalibrator
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.calibrators.ranks import rows_needed
from assay.calibration.calibrators.registry import CALIBRATORS, load_calibrator
from assay.calibration.calibrators.weighted import WeightedCalibrator
from assay.errors import ConfigError, DataError, InputError, ScorerError
from assay.parts import Part, read_part, write_part

KINDS = ("conformal", "mondrian", "grouped", "weighted", "cross")
BREAKABLE = ("conformal", "mondrian", "weighted")
scores_lists = st.lists(
    st.one_of(st.integers(-2, 2).map(float), st.floats(-5, 5), st.sampled_from([np.inf, -np.inf])),
    min_size=2,
    max_size=25,
)


class Plain:
    """A calibrator of a kind whose assumption adds nothing to plain exchangeability: it must do as split does."""

    def __init__(self, kind, scores):
        scores, self.kind = np.array(scores, dtype=np.float64), kind
        m = scores.size
        self.it = {
            "conformal": lambda: ConformalCalibrator().fit(scores),
            "mondrian": lambda: MondrianCalibrator("category").fit(scores, np.full(m, "all")),
            "grouped": lambda: GroupedCalibrator().fit(scores, np.arange(m)),
            "weighted": lambda: WeightedCalibrator().fit(scores, np.full(m, 0.1)),
            "cross": lambda: CrossCalibrator().fit([scores[: m // 2], scores[m // 2 :]]),
        }[kind]()

    def given(self, scores):
        """Return what the calibrator takes for these scores: the scores, and their side information."""
        scores = np.asarray(scores, dtype=np.float64)
        by_kind = {"mondrian": np.full(scores.size, "all"), "weighted": np.full(scores.size, 0.1)}
        return (np.stack([scores, scores]) if self.kind == "cross" else scores), by_kind.get(self.kind)

    def p_values(self, scores, **how):
        taken, side_information = self.given(scores)
        return self.it.p_values(taken, side_information, **how)

    def predict(self, scores, eps):
        return self.p_values(scores) <= eps


@pytest.mark.parametrize("kind", KINDS[1:])
@settings(max_examples=30, deadline=None)
@given(scores_lists, scores_lists, st.integers(1, 30).map(lambda k: 1 / (k + 1)))
def test_where_the_assumption_adds_nothing_every_kind_is_split_conformal(kind, reference, scores, eps):
    split, other = Plain("conformal", reference), Plain(kind, reference)
    np.testing.assert_array_equal(other.p_values(scores), split.p_values(scores))
    np.testing.assert_array_equal(other.predict(scores, eps), split.predict(scores, eps))
    assert other.it.smallest_eps == split.it.smallest_eps
    assert other.it.n_rows == len(reference)
    assert bool(other.it.limits(eps)) == bool(split.it.limits(eps))


@pytest.mark.parametrize("kind", BREAKABLE[1:])
@settings(max_examples=30, deadline=None)
@given(scores_lists, scores_lists, st.integers(0, 2**32))
def test_broken_ties_are_those_of_split_conformal(kind, reference, scores, seed):
    breaks = np.random.default_rng(seed).random(len(scores))
    expected = Plain("conformal", reference).p_values(scores, tie_breaks=breaks)
    np.testing.assert_array_equal(Plain(kind, reference).p_values(scores, tie_breaks=breaks), expected)


@pytest.mark.parametrize("kind", BREAKABLE)
@pytest.mark.parametrize(
    "rows", [[1, 1, 1, 1, 1], [0, 1, 1, 2, 2], [np.inf, np.inf, 0, -np.inf, -np.inf], [3, 1, 4, 5, 2]]
)
def test_randomised_ties_give_exactly_uniform_p_values(kind, rows):
    # Whichever of five rows is the new one, and wherever u falls, each of the five p-values is as frequent.
    breaks = (np.arange(60) + 0.5) / 60
    p = [Plain(kind, rows[:i] + rows[i + 1 :]).p_values(np.full(60, rows[i]), tie_breaks=breaks) for i in range(5)]
    values, counts = np.unique(p, return_counts=True)
    np.testing.assert_array_equal(values, np.arange(1, 6) / 5)
    assert (counts == 60).all()


@settings(max_examples=30, deadline=None)
@given(scores_lists, scores_lists, st.floats(0, 1, exclude_max=True))
def test_randomised_p_values_never_exceed_the_others_nor_fall_below_the_rows_above(reference, scores, u):
    for kind in BREAKABLE:
        it = Plain(kind, reference)
        broken = it.p_values(scores, tie_breaks=np.full(len(scores), u))
        assert (broken <= it.p_values(scores)).all()
        above = [1 + sum(np.float32(r) > np.float32(s) for r in reference) for s in scores]
        assert (broken >= np.array(above) / (len(reference) + 1)).all()
        last = np.full(len(scores), math.nextafter(1, 0))
        np.testing.assert_array_equal(it.p_values(scores, tie_breaks=last), it.p_values(scores))


@pytest.mark.parametrize("kind", KINDS)
def test_constant_and_infinite_scores(kind):
    constant = Plain(kind, [7.0] * 19)
    np.testing.assert_array_equal(constant.p_values([6.9, 7, 7.1, np.inf, -np.inf]), [1, 1, 0.05, 0.05, 1])
    infinite = Plain(kind, [-np.inf, 0, np.inf])
    np.testing.assert_array_equal(infinite.p_values([-np.inf, 0, 1, np.inf]), [1, 0.75, 0.5, 0.5])
    assert infinite.p_values([]).shape == (0,)


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_one_calibration_row(kind):
    np.testing.assert_array_equal(Plain(kind, [2.0]).p_values([1, 2, 3]), [1, 1, 0.5])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eps", [1e-310, 5e-324])
def test_the_smallest_of_numbers_flag_nothing_and_it_is_said_what_it_takes(kind, eps):
    few = Plain(kind, np.arange(4))
    assert not few.predict([np.inf], eps).any()
    assert f"{Decimal(rows_needed(eps)):.3g}" in few.it.limits(eps)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eps", [1 / 20, 0.05, 0.01, 0.1, 0.29, 1 / 3])
def test_limits_begin_exactly_where_nothing_can_be_flagged(kind, eps):
    m = rows_needed(eps)
    enough, short = Plain(kind, np.arange(m)), Plain(kind, np.arange(m - 1)) if m > 3 else None
    assert enough.it.limits(eps) == ""
    assert enough.predict([m, np.inf], eps).all()
    if short:
        assert not short.predict([m, np.inf], eps).any()
        assert short.it.smallest_eps > eps
        sentence = short.it.limits(eps)
        assert f"eps {eps:g}" in sentence
        assert re.search(rf"\b{m}\b", sentence)
        assert sentence.endswith(".")
        assert sentence.count(". ") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_guarantees_are_one_sentence_each(kind):
    sentence = Plain(kind, np.arange(30)).it.guarantee
    assert sentence.startswith("P(p <= eps) <= ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert len({Plain(other, np.arange(30)).it.guarantee for other in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_calibrators_come_back_from_disk_the_same(kind, tmp_path):
    rng = np.random.default_rng(0)
    rows = Plain(kind, np.r_[rng.poisson(3, size=40), np.inf, -np.inf])
    scores, side_information = rows.given(np.r_[np.arange(8), np.inf, -np.inf])
    write_part(tmp_path, "reference", rows.it.to_part())
    again = load_calibrator(read_part(tmp_path, "reference"))
    assert type(again) is type(rows.it)
    assert type(again) is CALIBRATORS[kind]
    assert again.side_information == rows.it.side_information
    assert again.guarantee == rows.it.guarantee
    np.testing.assert_array_equal(again.p_values(scores, side_information), rows.it.p_values(scores, side_information))
    if kind in BREAKABLE:
        breaks = rng.random(10)
        expected = rows.it.p_values(scores, side_information, tie_breaks=breaks)
        np.testing.assert_array_equal(again.p_values(scores, side_information, tie_breaks=breaks), expected)
    for name in rows.it.to_part().arrays:
        arrays = {**rows.it.to_part().arrays, name: np.empty(0, dtype=np.float32)}
        with pytest.raises(ScorerError, match="damaged"):
            load_calibrator(Part(kind, rows.it.to_part().config, arrays))
    with pytest.raises(ScorerError, match="damaged"):
        load_calibrator(Part("other", rows.it.to_part().config, rows.it.to_part().arrays))


def test_parts_of_scorers_packaged_before_load():
    calibrator = load_calibrator(Part("conformal", {}, {"scores": np.array([1, 2, 3], dtype=np.float32)}))
    np.testing.assert_array_equal(calibrator.p_values(np.array([2.5])), [0.5])
    with pytest.raises(ScorerError, match=r"'other' is unknown.*conformal"):
        load_calibrator(Part("other"))


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_is_refused(kind):
    it = Plain(kind, np.arange(5))
    with pytest.raises(InputError, match="NaN"):
        it.p_values([1.0, np.nan])
    scores, side_information = it.given([1.0, 2.0])
    with pytest.raises(InputError, match="scores"):
        it.it.p_values(scores, np.ones(2) if side_information is None else None)
    if side_information is not None:
        with pytest.raises(InputError, match="scores need the"):
            it.it.p_values(scores, side_information[:1])
    for bad in ([0.5], [0.5, 1.0], [-0.1, 0.5], [0.5, np.nan]):
        with pytest.raises((InputError, ConfigError), match="tie_breaks"):
            it.it.p_values(scores, side_information, tie_breaks=np.array(bad))
    for eps in (0, 1, float("nan"), float("inf"), 10**400, True, "0.1", None):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            it.it.limits(eps)
    for empty in ([], [np.nan, 1.0, 2.0]):
        with pytest.raises(DataError):
            Plain(kind, empty)


@settings(max_examples=30, deadline=None)
@given(scores_lists, st.integers(1, 30), st.integers(1, 29))
def test_p_values_are_correctly_rounded_quotients(reference, denominator, numerator):
    eps = Fraction(numerator, denominator)
    for kind in KINDS:
        for p, s in zip(Plain(kind, reference).p_values(reference), reference, strict=True):
            exact = Fraction(1 + sum(np.float32(r) >= np.float32(s) for r in reference), len(reference) + 1)
            assert p == float(exact)
            assert (p <= float(eps)) == (exact <= eps)


def test_loading_calibrators_imports_no_heavy_library():
    code = "import sys, assay.calibration.calibrators.registry; print([n for n in sys.modules if '.' not in n])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not {"sklearn", "scipy", "torch", "pandas"} & set(re.findall(r"\w+", found))
