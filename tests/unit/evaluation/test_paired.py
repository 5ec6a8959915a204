"""The gate's test has its level, keeps it over all retrainings, and lets better scorers through.

Normals and anomalies of two scorers are standard normal, the anomalies shifted, and a row's scores by two scorers are
correlated by .8 unless a test says otherwise: kNN and isolation forest, trained again on disjoint rows of digits and
breast cancer, have rank correlations of .83 to .99.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr

from assay.errors import DataError
from assay.evaluation.paired import (
    FAMILY_LEVEL,
    RowScores,
    ScorerPair,
    coin_blocks,
    next_level,
    sequential_p_value,
    spent_level,
)

M, A, START = 100, 20, 2.5
RETRAININGS = 30


def draw(seed, shifts, *, m=M, a=A, correlation=0.8):
    """Return the scores of the same rows by one scorer for each shift of the anomalies."""
    rng = np.random.default_rng(seed)
    scores = np.sqrt(correlation) * rng.standard_normal(m + a)
    scores = scores + np.sqrt(1 - correlation) * rng.standard_normal((len(shifts), m + a))
    return [RowScores(row[:m], row[m:] + shift) for row, shift in zip(scores, shifts, strict=True)]


def promotions(seed, shifts, **rows):
    """Return which of the scorers become champion, one after the other, on the same rows; the first is deployed."""
    scorers, champion, spent, found = draw(seed, shifts, **rows), 0, 0.0, []
    for k in range(1, len(scorers)):
        level = next_level(spent)
        if level and ScorerPair(scorers[k], scorers[champion]).p_value(level, seed=k) <= level:
            champion = k
            found.append(k)
        spent += level
    return found


def power(shift):
    """True power at eps .05."""
    return ndtr(shift - 1.645)


def more(redraws):
    """A redraw count of the long tests."""
    return pytest.param(redraws, marks=pytest.mark.long)


@pytest.mark.parametrize("redraws", [80, more(1_000)])
def test_equal_challengers_are_promoted_in_at_most_16_percent_of_families(redraws):
    promoted = [bool(promotions((0, i), [START] * (RETRAININGS + 1))) for i in range(redraws)]
    error = np.sqrt(0.16 * 0.84 / redraws)
    assert np.mean(promoted) <= 0.16 + 2 * error
    assert np.mean(promoted) >= 0.02  # there is a level that is spent


@pytest.mark.parametrize("redraws", [80, more(1_000)])
def test_worsening_challengers_do_not_ratchet_power_down(redraws):
    shifts = [START - 0.03 * k for k in range(RETRAININGS + 1)]
    last = [([0, *promotions((1, i), shifts)])[-1] for i in range(redraws)]
    deployed = np.array([power(shifts[k]) for k in last])
    assert power(START) == pytest.approx(0.804, abs=1e-3)
    assert deployed.mean() >= power(START) - 0.06 + 2 * deployed.std() / np.sqrt(redraws)


@pytest.mark.parametrize("redraws", [250, more(2_000)])
def test_a_challenger_better_by_one_sd_is_promoted_within_three_retrainings(redraws):
    promoted = [bool(promotions((2, i), [START, *[START + 1] * 3])) for i in range(redraws)]
    assert np.mean(promoted) >= 0.9 - 2 * np.sqrt(0.9 * 0.1 / redraws)


@pytest.mark.parametrize(
    ("m", "a", "shift", "correlation"),
    [
        pytest.param(100, 20, 2.5, 0.8, id="usual"),
        pytest.param(100, 100, 2.5, 0.8, id="as many anomalies as normals"),
        pytest.param(100, 10, 2.5, 0.0, id="ten anomalies, scorers that share nothing"),
        pytest.param(30, 20, 3.0, 0.5, id="most anomalies above all normals"),
    ],
)
def test_level(m, a, shift, correlation):
    """Also where the noise of the normals, which all anomalies share, is most of it, and where p-values are tied."""
    redraws, level = 400, 0.09
    pairs = [draw((3, i), [shift, shift], m=m, a=a, correlation=correlation) for i in range(redraws)]
    rate = np.mean([ScorerPair(*pair).p_value(level, seed=i) <= level for i, pair in enumerate(pairs)])
    assert rate <= level + 3 * np.sqrt(level * (1 - level) / redraws)


def test_the_noise_of_the_normals_counts():
    """One normal that one scorer sees above all anomalies is one swap: no number of anomalies makes that evidence."""
    normals = np.arange(50.0)
    better = RowScores(normals, 100 + np.arange(40.0))
    worse = RowScores(np.where(normals == 49, 1_000.0, normals), 100 + np.arange(40.0))
    pair = ScorerPair(better, worse)
    assert pair.difference > 0.2
    assert pair.p_value(0.01, seed=0) > 0.2


def test_other_units_compare_and_an_exact_tie_is_told():
    first, second = draw(4, [2.0, 3.0])
    warped = RowScores(np.exp(3 * first.normals), np.exp(3 * first.anomalies))
    assert ScorerPair(second, warped).difference == ScorerPair(second, first).difference
    assert ScorerPair(warped, first).is_tie
    assert not ScorerPair(second, first).is_tie
    assert ScorerPair(first, second).difference == pytest.approx(-ScorerPair(second, first).difference)


def test_rows_of_a_unit_are_one_observation():
    """Ten copies of every row, swapped together, are the evidence of one; as rows of their own they would be more."""
    few = draw(5, [2.5, 2.9])
    many = [RowScores(np.repeat(each.normals, 10), np.repeat(each.anomalies, 10)) for each in few]
    units = np.repeat(np.arange(M + A), 10)
    one, joined, apart = (
        pair.p_value(1e-3, seed=0)
        for pair in (ScorerPair(*few[::-1]), ScorerPair(*many[::-1], units), ScorerPair(*many[::-1]))
    )
    assert joined == pytest.approx(one, rel=0.5)
    assert apart < one / 5


def test_a_margin_lets_equal_scorers_through_and_much_worse_ones_not():
    equal = [ScorerPair(*draw((6, i), [START, START], m=300, a=60)) for i in range(100)]
    worse = [ScorerPair(*draw((7, i), [START - 0.6, START], m=300, a=60)) for i in range(100)]
    rates = [np.mean([each.p_value(0.09, seed=0, margin=0.2) <= 0.09 for each in pairs]) for pairs in (equal, worse)]
    assert rates[0] > 0.5
    assert rates[1] <= 0.09


def test_interval_holds_the_mean_difference():
    truth = np.mean([ScorerPair(*draw((8, i), [3.0, 2.5], a=200)).difference for i in range(300)])
    covered = []
    for i in range(150):
        low, high = ScorerPair(*draw((9, i), [3.0, 2.5])).interval(seed=i)
        covered.append(low <= truth <= high)
    assert np.mean(covered) >= 0.9 - 3 * np.sqrt(0.09 / 150)


def test_levels_fall_and_never_exceed_their_family():
    spent, levels = 0.0, []
    for _ in range(1_000):
        levels.append(next_level(spent))
        spent += levels[-1]
    assert levels[:2] == pytest.approx([0.09, 0.0144])
    assert levels == sorted(levels, reverse=True)
    assert levels[RETRAININGS] > 0
    assert levels[-1] == 0
    assert sum(levels) < FAMILY_LEVEL


def test_new_rows_bring_their_share_of_the_level():
    old = ["a", "b", "c"]
    earlier = [(old, 0.09), (old, 0.03)]
    assert spent_level(old, earlier) == pytest.approx(0.12)
    assert spent_level([*old, "d"], earlier) == pytest.approx(0.12 * 3 / 4)
    assert spent_level(["d", "e"], earlier) == 0
    assert spent_level(old[:1], earlier) == pytest.approx(0.12)


def test_what_cannot_be_compared_is_refused():
    first, second = draw(10, [2.0, 3.0])
    for other in (
        RowScores(second.normals[1:], second.anomalies),
        RowScores(second.normals, np.array([])),
        RowScores(np.where(np.arange(M) == 3, np.nan, second.normals), second.anomalies),
    ):
        with pytest.raises(DataError):
            ScorerPair(first, other)
    with pytest.raises(DataError, match="units"):
        ScorerPair(first, second, np.arange(3))


def test_the_observed_swap_counts_and_many_exceedances_end_the_draws():
    """With the observed one among them, a p-value by m draws is never below 1 / (m + 1)."""
    few = [np.array([0.1, 0.5, 0.9]), np.array([0.2])]
    assert sequential_p_value(iter(few), 0.5) == 3 / 5
    assert sequential_p_value(iter(few), 2.0) == 1 / 5
    blocks = iter([np.ones(30), np.ones(30)])
    assert sequential_p_value(blocks, 0.5) == 1.0
    assert len(list(blocks)) == 1


def test_differences_are_the_same_up_to_rounding_alone():
    assert sequential_p_value([np.array([1 - 1e-12])], 1.0) == 1
    assert sequential_p_value([np.array([1 - 1e-4])], 1.0) == 1 / 2


def test_swaps_come_in_blocks_of_sixty_four_or_as_memory_allows():
    assert [len(block) for block in coin_blocks(150, 3, seed=0, n_rows=5)] == [64, 64, 22]
    assert [len(block) for block in coin_blocks(2, 3, seed=0, n_rows=10**9)] == [1, 1]
