"""When selection leaves the default: for a candidate that is better beyond noise, and for no other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from assay.evaluation.chances import FlagRule, flag_chances
from assay.evaluation.leaving import LEAVE_LEVEL, compare_with_default
from assay.evaluation.paired import RowScores
from assay.evaluation.selected import Selection
from assay.evaluation.selection import Candidate, select_candidate

N, EPS, DEFAULT = 150, 0.05, "d0"
SHIPPED = FlagRule("conformal", "nothing", {"all": N})


def draw(seed, shifts, *, a, more=0, levels=(0.0,), noise=1.0):
    """Scorers of the same rows that see anomalies further out by their own shifts, each with noise of its own."""
    rng = np.random.default_rng(seed)
    pool = [Candidate(f"d{i}", "none", i, 100, {}, scores={}) for i in range(len(shifts))]
    for level in levels:
        n_anomalies = a + more * (level == 0)
        common = rng.normal(size=N + n_anomalies)
        for candidate, shift in zip(pool, shifts, strict=True):
            scores = common + noise * rng.normal(size=common.size)
            scores[N:] += shift[levels.index(level)] if isinstance(shift, tuple) else shift
            rows = RowScores(scores[:N], scores[N:])
            candidate.scores[level] = rows
            candidate.chances[level] = flag_chances(rows.normals, rows.anomalies, SHIPPED, EPS)
    return pool


def choose(pool, *, a, levels=(0.0,), default=DEFAULT, **more):
    strata = {level: np.arange(N) % 4 for level in levels}
    keys = np.array([f"row-{i}" for i in range(a)], dtype=object)
    return select_candidate(pool, anomaly_keys=keys, strata=strata, eps=EPS, seed=0, default=default, **more)


@pytest.mark.parametrize("a", [4, 10, 30])
def test_the_default_is_left_by_noise_once_in_twenty_at_most(a):
    redraws, left, best = 150, 0, 0
    for seed in range(redraws):
        pool = draw(seed, [2.5] * 5, a=a)
        left += not choose(pool, a=a).by_default
        best += choose(pool, a=a, default="").winner != 0
    assert left / redraws <= LEAVE_LEVEL + 3 * np.sqrt(LEAVE_LEVEL * (1 - LEAVE_LEVEL) / redraws)
    assert best / redraws > 0.15, "by power within one standard error it is, more often"


def test_it_is_left_for_one_that_is_better_beyond_noise():
    pool = draw(1, [1.0, 1.0, 3.5], a=30)
    selection = choose(pool, a=30)
    assert (selection.winner, selection.by_default, selection.level) == (2, False, 0.05 / 2)
    assert selection.candidates[2].p_value <= selection.level
    assert selection.candidates[2].further_out > 1
    assert selection.candidates[0].p_value is None, "the default is compared with nothing"
    assert Selection.from_json(selection.to_json()) == selection
    assert choose([replace(one, scores={}) for one in pool], a=30).by_default, "synthetic anomalies bring no scores"


def test_of_those_that_are_better_the_rule_chooses():
    selection = choose(draw(3, [0.5, 2.0, 4.5], a=40), a=40)
    assert all(selection.candidates[i].p_value <= selection.level for i in (1, 2))
    assert selection.winner == 2


def test_one_that_flags_fewer_anomalies_is_not_compared():
    pool = draw(4, [2.5, 2.5], a=30, noise=0.0)
    anomalies = pool[1].scores[0.0].anomalies
    few_far_out = np.where(np.arange(30) < 10, anomalies + 50, 1.0)
    rows = RowScores(pool[1].scores[0.0].normals, few_far_out)
    pool[1].scores[0.0] = rows
    pool[1].chances[0.0] = flag_chances(rows.normals, rows.anomalies, SHIPPED, EPS)
    selection = choose(pool, a=30)
    assert selection.by_default
    assert (selection.candidates[1].further_out, selection.candidates[1].p_value) == (None, None)


def test_levels_of_contamination_count():
    levels = (0.0, 0.1)
    pool = draw(5, [(3.0, 0.5), (3.0, 3.0)], a=25, levels=levels)
    assert choose(pool, a=25, levels=levels).winner == 1
    clean = [replace(one, chances={0.0: one.chances[0.0]}, scores={0.0: one.scores[0.0]}) for one in pool]
    assert choose(clean, a=25).by_default


def test_further_anomalies_of_the_lowest_level_count():
    levels = (0.0, 0.1)
    pool = draw(6, [(1.0, 2.0), (3.5, 2.0)], a=4, more=40, levels=levels)
    assert choose(pool, a=44, levels=levels).winner == 1


def test_rows_that_belong_together_are_evidence_once():
    pool = draw(9, [2.0, 3.2], a=6)
    many = []
    for one in pool:
        rows = RowScores(one.scores[0.0].normals, np.repeat(one.scores[0.0].anomalies, 10))
        chances = {0.0: flag_chances(rows.normals, rows.anomalies, SHIPPED, EPS)}
        many.append(replace(one, scores={0.0: rows}, chances=chances))
    units = np.concatenate([np.arange(N), N + np.repeat(np.arange(6), 10)])
    apart, together, once = choose(many, a=60), choose(many, a=60, units=units), choose(pool, a=6)
    p_values = [each.candidates[1].p_value for each in (apart, together, once)]
    assert p_values[0] < 0.01 < p_values[1]
    assert p_values[1] == pytest.approx(p_values[2], abs=0.05)


def test_another_adapter_of_the_default_is_another_candidate():
    first, second = draw(8, [1.0, 4.0], a=30)
    selection = choose([first, replace(second, detector=DEFAULT, adapter="cadet")], a=30)
    assert (selection.winner, selection.by_default) == (1, False)


def test_of_thousands_of_rows_a_sample_is_compared():
    rng = np.random.default_rng(9)
    rows = [RowScores(rng.normal(size=3000), rng.normal(size=2500) + shift) for shift in (2.0, 2.6)]
    rule = FlagRule("conformal", "nothing", {"all": 1000})
    pool = [
        Candidate(
            f"d{i}", "none", i, 1, {0.0: flag_chances(each.normals, each.anomalies, rule, EPS)}, scores={0.0: each}
        )
        for i, each in enumerate(rows)
    ]
    keys = np.array([f"row-{i}" for i in range(2500)], dtype=object)
    strata = {0.0: np.arange(3000) % 4}
    selection = select_candidate(pool, anomaly_keys=keys, strata=strata, eps=EPS, seed=0, default=DEFAULT)
    assert selection.winner == 1
    assert selection == select_candidate(pool, anomaly_keys=keys, strata=strata, eps=EPS, seed=0, default=DEFAULT)


def test_a_default_that_flags_none_of_a_few_anomalies_is_not_at_chance_yet():
    pool = draw(12, [1.0, 1.0], a=6, noise=0.0)
    for one in pool:
        one.chances[0.0].anomalies[:] = 0
    first = choose(pool, a=6)
    assert [row.valid for row in first.candidates] == [True, False]
    assert first.by_default
    lower = RowScores(pool[0].scores[0.0].normals, pool[0].scores[0.0].anomalies - 3)
    assert choose([replace(pool[0], scores={0.0: lower}), pool[1]], a=6).winner is None
    assert choose(pool, a=6, default="").winner is None


def test_a_candidate_that_ranks_all_rows_as_the_default_does_is_not_better_at_all():
    pool = draw(0, [2.0, 2.0], a=12, noise=0.0)
    compared = compare_with_default(
        pool[0].scores, {1: pool[1].scores}, np.ones(12, dtype=bool), None, level=0.05, seed=0
    )
    assert compared == {1: (0.0, 1.0)}
