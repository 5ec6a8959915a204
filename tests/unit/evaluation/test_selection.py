"""Selection of the candidate that ships."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.calibrators.ranks import largest_rank
from assay.errors import ConfigError, DataError
from assay.evaluation.chances import FlagRule, flag_chances
from assay.evaluation.paired import RowScores
from assay.evaluation.selected import Selection
from assay.evaluation.selection import Candidate, select_candidate
from assay.parts import canonical_json

N, A, EPS = 200, 100, 0.05
SHIPPED = FlagRule("conformal", "nothing", {"all": N})


def marks(n, tag="row"):
    return np.array([f"{tag}-{i}" for i in range(n)], dtype=object)


def candidate(position, shift, *, seed=0, levels=(0.0, 0.1), n=N, a=A, floats=100, noise=0.0, **more):
    """Chances of one scorer: normals N(0, 1), anomalies N(shift, 1), the same rows for all unless `noise`."""
    common, own = np.random.default_rng(seed), np.random.default_rng([seed, position])
    chances = {}
    for level in levels:
        normals = common.normal(size=n) + noise * own.normal(size=n)
        anomalies = shift + common.normal(size=a) + noise * own.normal(size=a)
        chances[level] = flag_chances(normals, anomalies, SHIPPED, EPS)
    return Candidate(f"d{position}", "none", position, floats, chances, **more)


def choose(candidates, *, n=N, a=A, levels=(0.0, 0.1), eps=EPS, seed=0, **more):
    strata = {level: np.arange(n) % 4 for level in levels}
    return select_candidate(candidates, anomaly_keys=marks(a), strata=strata, eps=eps, seed=seed, **more)


def with_chances(base, level, **arrays):
    return replace(base, chances={**base.chances, level: replace(base.chances[level], **arrays)})


def missing(position, missed):
    """A scorer that flags all anomalies but the missed ones, at level 0 alone."""
    base = candidate(position, 0.0, levels=(0.0,))
    return with_chances(base, 0.0, anomalies=np.where(missed, 0.0, 1.0))


def test_highest_mean_power_wins():
    selection = choose([candidate(0, 1.0), candidate(1, 3.5), candidate(2, 2.0)])
    assert selection.winner == 1
    assert [result.tied for result in selection.candidates] == [False, True, False]
    assert selection.candidates[1].power > selection.candidates[2].power > selection.candidates[0].power


def test_a_default_wins_unless_it_is_broken():
    default = replace(candidate(0, 1.0), detector="default")
    twice = [replace(default, adapter="second", position=3), default, candidate(1, 3.5)]
    by_default = choose(twice, default="default")
    assert (by_default.winner, by_default.by_default) == (1, True)
    assert by_default.candidates[2].power > by_default.candidates[1].power
    assert Selection.from_json(by_default.to_json()) == by_default
    assert by_default.power == pytest.approx(by_default.candidates[1].power, abs=0.02)
    for broken in (replace(default, fault="gives one score to all"), replace(candidate(0, -3.0), detector="default")):
        assert (choose([broken, candidate(1, 3.5)], default="default").winner) == 1
        assert not choose([broken, candidate(1, 3.5)], default="default").by_default


def test_power_is_averaged_over_the_levels():
    steady = candidate(0, 3.0)
    fragile = with_chances(candidate(1, 4.0), 0.1, anomalies=candidate(1, 0.0).chances[0.1].anomalies)
    selection = choose([steady, fragile])
    at = [[level.power for level in result.levels] for result in selection.candidates]
    assert at[1][0] > at[0][0]
    assert selection.winner == 0
    assert selection.candidates[1].power == pytest.approx(np.mean(at[1]))


def test_rates_are_mean_chances():
    one = candidate(0, 2.0, levels=(0.0,))
    result = choose([one], levels=(0.0,)).candidates[0]
    assert result.power == pytest.approx(one.chances[0.0].anomalies.mean())
    assert result.fpr == pytest.approx(one.chances[0.0].normals.mean())
    by_stratum = [one.chances[0.0].normals[np.arange(N) % 4 == stratum].mean() for stratum in range(4)]
    assert result.worst_stratum_fpr == pytest.approx(max(by_stratum))


def worse_in_one_stratum(position, **more):
    """Same flags in number, but all in stratum 0 (rows 0, 4, 8, ...)."""
    base = candidate(position, 8.0, **more)
    for level, chances in base.chances.items():
        normals = np.empty(N)
        normals[np.argsort(np.arange(N) % 4 == 0, kind="stable")] = np.sort(chances.normals)
        base = with_chances(base, level, normals=normals)
    return base


def test_ties_are_broken_by_strata_then_floats_then_position():
    fair, unfair = candidate(1, 8.0, floats=900), worse_in_one_stratum(0, floats=1)
    selection = choose([unfair, fair])
    assert all(result.tied for result in selection.candidates)
    assert selection.candidates[0].worst_stratum_fpr > selection.candidates[1].worst_stratum_fpr
    assert selection.candidates[0].worst_excess > 0 == selection.candidates[1].worst_excess
    assert selection.winner == 1
    assert choose([fair, replace(fair, position=2, n_stored_floats=899)]).winner == 1
    assert choose([fair, replace(fair, position=0)]).winner == 1
    assert choose([fair, replace(fair, position=2)]).winner == 0


def test_a_worst_stratum_within_its_noise_breaks_no_tie():
    """The worst of four strata is above eps for perfect scorers too: chance must not choose between them."""
    excesses, worst = [], []
    for seed in range(200):
        result = choose([candidate(0, 8.0, seed=seed, levels=(0.0,))], levels=(0.0,), seed=seed).candidates[0]
        excesses.append(result.worst_excess)
        worst.append(result.worst_stratum_fpr)
    assert np.mean(worst) > 1.5 * EPS
    assert np.mean(np.array(excesses) > 0) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_tie_is_one_paired_standard_error():
    # d of 100 missed: mean d/100, standard error sqrt(d/100 (1 - d/100) / 99): not below the mean for d = 1
    pool = [replace(missing(d, np.arange(A) < d), n_stored_floats=1000 - d) for d in (0, 1, 2, 5)]
    selection = choose(pool, levels=(0.0,))
    assert [result.tied for result in selection.candidates] == [True, True, False, False]
    assert selection.winner == 1, "among the tied the one with fewer floats"


def test_disagreement_both_ways_widens_the_tie():
    rows = np.arange(A)
    first, second = missing(0, rows < 10), missing(1, rows >= 87)
    # 10 missed against 13 others missed: 3 <= sqrt(23)
    assert all(result.tied for result in choose([first, second], levels=(0.0,)).candidates)
    third = missing(2, rows < 13)
    # the same 10 and 3 more: 3 > sqrt(3)
    assert [result.tied for result in choose([first, third], levels=(0.0,)).candidates] == [True, False]


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2], [2, 1, 0]])
def test_a_tie_with_one_of_several_leaders_is_a_tie(order):
    rows = np.arange(A)
    pool = [
        missing(i, miss) for i, miss in enumerate([rows < 10, (rows >= 50) & (rows < 60), (rows >= 50) & (rows < 62)])
    ]
    # the third is 2 short of both: 2 <= sqrt(22) beside the first, 2 > sqrt(2) beside the second
    assert all(result.tied for result in choose([pool[i] for i in order], levels=(0.0,)).candidates)


def test_order_given_changes_nothing_but_the_index():
    pool = [candidate(i, 2.5, noise=0.4, floats=100 + i % 2) for i in range(6)] + [worse_in_one_stratum(6)]
    names = set()
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(pool))
        selection = choose([pool[i] for i in order])
        names.add(selection.candidates[selection.winner].detector)
        by_name = {result.detector: result for result in selection.candidates}
        if seed == 0:
            first = by_name
        assert by_name == first
    assert len(names) == 1
    # other positions: everything but the last tie-break stays
    moved = choose([replace(one, position=10 - one.position) for one in pool])
    for result in moved.candidates:
        assert replace(result, position=0) == replace(first[result.detector], position=0)


def test_row_order_does_not_matter():
    pool = [candidate(i, 2.0, noise=0.4, levels=(0.0,)) for i in range(3)]
    order = np.random.default_rng(1).permutation(A)
    shuffled = [with_chances(one, 0.0, anomalies=one.chances[0.0].anomalies[order]) for one in pool]
    strata = {0.0: np.arange(N) % 4}
    again = select_candidate(shuffled, anomaly_keys=marks(A)[order], strata=strata, eps=EPS, seed=0)
    before = choose(pool, levels=(0.0,))
    assert again.winner == before.winner
    assert again.power == pytest.approx(before.power)


def test_invalid_candidates_are_skipped_with_a_reason():
    best = candidate(0, 6.0)
    pool = [
        replace(best, fault="no exporter for its arrays"),
        replace(best, chances={}, fault="1 of 300 scores are not finite at level 0.1"),
        candidate(5, -3.0),
        candidate(6, 2.0),
    ]
    selection = choose(pool)
    reasons = [result.reason for result in selection.candidates]
    assert selection.winner == 3
    assert reasons[:2] == ["no exporter for its arrays", "1 of 300 scores are not finite at level 0.1"]
    assert "no more often than normals" in reasons[2]
    assert reasons[3] == ""
    assert selection.candidates[0].power > selection.candidates[3].power, "compared, though it cannot ship"
    assert selection.candidates[1].power is None
    assert not any(result.tied for result in selection.candidates if not result.valid)
    useless_when_dirty = with_chances(candidate(0, 6.0), 0.1, anomalies=np.zeros(A))
    assert choose([useless_when_dirty]).winner == 0, "only the level that ships is judged"
    assert choose([useless_when_dirty], ships_at=0.1).winner is None


def test_no_winner_is_a_value():
    selection = choose([replace(candidate(0, 4.0), fault="eps 0.05 needs 19 calibration rows")])
    assert (selection.winner, selection.power) == (None, None)
    assert "no anomalies to judge by" in choose([candidate(0, 4.0, a=0)], a=0).candidates[0].reason
    assert choose([]).winner is None


def test_selection_is_plain_json():
    selection = choose([candidate(0, 3.0), replace(candidate(1, 3.0), chances={}, fault="none are finite")])
    read = json.loads(canonical_json(selection.to_json()))
    assert read["winner"] == 0
    assert (read["n_normals"], read["n_anomalies"]) == (N, A)
    assert [level["level"] for level in read["candidates"][0]["levels"]] == [0.0, 0.1]
    assert read["candidates"][1]["power"] is None


def test_one_anomaly_is_enough_to_run():
    with np.errstate(all="raise"):
        selection = choose([candidate(0, 9.0, a=1), candidate(1, 9.0, a=1)], a=1)
    assert selection.winner == 0
    assert selection.power is None, "one anomaly cannot both choose and measure"


def test_rows_that_differ_are_refused():
    good = candidate(0, 3.0)
    for bad in (candidate(1, 3.0, n=N - 1), candidate(1, 3.0, a=A + 1), candidate(1, 3.0, levels=(0.0,))):
        with pytest.raises(DataError):
            choose([good, bad])
    with pytest.raises(ConfigError, match=r"0\.2"):
        choose([good], ships_at=0.2)
    with pytest.raises(ConfigError, match="eps"):
        choose([good], eps=0.0)


def test_selection_does_not_spoil_the_winners_guarantee():
    """A winner among ten equal scorers keeps eps on calibration rows; one chosen by those rows does not."""
    m, redraws, honest, greedy = 100, 300, [], []
    for seed in range(redraws):
        pool = [candidate(i, 1.0, seed=seed, levels=(0.0,), noise=1.0) for i in range(10)]
        winner = choose(pool, levels=(0.0,), seed=seed).winner or 0
        rng = np.random.default_rng([seed, 99])
        calibration = rng.normal(scale=np.sqrt(2), size=(10, m))
        thresholds = [ConformalCalibrator().fit(scores).threshold(EPS) for scores in calibration]
        honest.append(norm.sf(thresholds[winner], scale=np.sqrt(2)))
        powers = [np.mean(rng.normal(1.0, np.sqrt(2), A) > t) for t in thresholds]
        greedy.append(norm.sf(thresholds[int(np.argmax(powers))], scale=np.sqrt(2)))
    expected, error = largest_rank(m, EPS) / (m + 1), np.std(honest) / np.sqrt(redraws)
    assert abs(np.mean(honest) - expected) < 3 * error
    assert np.mean(greedy) > expected + 5 * error


def failed_at(level, base):
    chances = {rho: found for rho, found in base.chances.items() if rho != level}
    return replace(base, chances=chances, untrained={level: "could not be fitted"})


def test_a_level_that_could_not_be_trained_counts_as_no_power():
    whole, half = candidate(0, 2.0), failed_at(0.1, candidate(1, 9.0))
    result = choose([whole, half]).candidates[1]
    assert (result.valid, result.reason) == (True, "")
    assert [(found.level, found.power, found.fpr) for found in result.levels][1] == (0.1, 0.0, None)
    assert result.power == pytest.approx(result.levels[0].power / 2)
    assert (result.fpr, result.worst_stratum_fpr) == (result.levels[0].fpr, result.levels[0].worst_stratum_fpr)
    assert choose([whole, half]).winner == 0
    assert choose([candidate(0, 0.3), half]).winner == 1, "half of the levels detected is more than next to nothing"


def test_of_ties_the_one_that_could_be_trained_at_more_levels_wins():
    base = candidate(1, 9.0)
    hopeless = with_chances(base, 0.1, anomalies=np.zeros(A))
    selection = choose([failed_at(0.1, replace(base, position=0, n_stored_floats=1)), hopeless])
    assert [result.power for result in selection.candidates] == [0.5, 0.5]
    assert [result.tied for result in selection.candidates] == [True, True]
    assert selection.winner == 1


def test_a_candidate_was_trained_at_the_level_that_ships_and_every_other_has_scores_or_a_reason():
    with pytest.raises(DataError, match="could not be trained at level 0, which ships"):
        choose([failed_at(0.0, candidate(0, 2.0))])
    short = candidate(0, 2.0, levels=(0.0,))
    with pytest.raises(DataError, match="or say why it could not be trained there"):
        choose([short])
    with pytest.raises(DataError, match="or say why"):
        choose([replace(candidate(0, 2.0), untrained={0.1: "both scored and not"})])


def test_a_selection_is_read_back_from_its_json():
    selection = replace(choose([candidate(0, 2.0), failed_at(0.1, candidate(1, 3.0))]), evidence="labels")
    again = Selection.from_json(json.loads(canonical_json(selection.to_json())))
    assert again == selection
    assert again.chosen == selection.candidates[selection.winner]


def test_selections_of_before_are_read():
    content = json.loads(canonical_json(choose([candidate(0, 2.0)]).to_json()))
    for name in ("power", "power_low", "power_high", "n_more", "level"):
        del content[name]
    for row in content["candidates"]:
        for name in ("worst_excess", "further_out", "p_value"):
            del row[name]
        for level in row["levels"]:
            del level["worst_by_chance"]
    assert Selection.from_json(content).chosen.valid


def redraw(seed, a, equal=8):
    """Equal candidates with noise of their own, and the true power of each."""
    rng = np.random.default_rng(seed)
    pool, truth = [], []
    normals, anomalies = rng.normal(size=N), rng.normal(size=a)
    for i in range(equal):
        of_normals, of_anomalies = (x + rng.normal(size=x.size) for x in (normals, anomalies))
        shift = 2.4
        chances = flag_chances(of_normals, of_anomalies + shift, SHIPPED, EPS)
        pool.append(Candidate(f"d{i}", "none", i, 100, {0.0: chances}))
        cut = np.sort(np.sqrt(2) * np.random.default_rng([seed, i]).normal(size=N))[N - largest_rank(N, EPS)]
        truth.append(norm.sf((cut - shift) / np.sqrt(2)))
    return pool, truth


def test_the_power_of_the_choice_is_not_too_high():
    """The best of eight equal scorers looks better than it is on the anomalies that chose it, not on the others."""
    a, redraws = 20, 300
    chosen, reported, true, covered = [], [], [], []
    for seed in range(redraws):
        pool, truth = redraw(seed, a)
        selection = choose(pool, a=a, levels=(0.0,), seed=seed)
        chosen.append(selection.chosen.power)
        reported.append(selection.power)
        true.append(truth[selection.winner])
        covered.append(selection.power_low <= truth[selection.winner] <= selection.power_high)
    error = np.std(np.array(reported) - np.array(true)) / np.sqrt(redraws)
    assert abs(np.mean(reported) - np.mean(true)) < 3 * error
    assert np.mean(chosen) > np.mean(true) + 3 * error
    assert np.mean(covered) > 0.9 - 3 * np.sqrt(0.09 / redraws)


def with_more(base, extra):
    """The candidate, judged by further anomalies at level 0."""
    anomalies = np.concatenate([base.chances[0.0].anomalies, extra])
    return with_chances(base, 0.0, anomalies=anomalies)


def test_more_anomalies_judge_at_the_lowest_level():
    equal = [candidate(i, 3.0, a=5) for i in range(2)]
    more = np.arange(40) < 30
    first, second = with_more(equal[0], np.where(more, 0.0, 1.0)), with_more(equal[1], np.ones(40))
    selection = choose([first, second], a=45)
    assert (selection.n_anomalies, selection.n_more) == (5, 40)
    assert [result.tied for result in selection.candidates] == [False, True]
    assert selection.candidates[1].levels[0].power == pytest.approx(np.mean(second.chances[0.0].anomalies))
    assert selection.candidates[1].levels[1].power == pytest.approx(np.mean(second.chances[0.1].anomalies))
    assert choose(equal, a=5).candidates[0].tied, "without them nobody could tell"


def test_anomalies_that_belong_together_judge_in_one_half_and_count_once():
    """Ten copies of each of twenty anomalies say no more than these; halved by rows, they would judge themselves."""
    units = np.concatenate([np.arange(N), N + np.repeat(np.arange(20), 10)])
    keys = np.array([f"row-{i:03d}" for i in range(200)], dtype=object)
    strata, powers = {0.0: np.arange(N) % 4}, []
    for seed in range(20):
        flagged = np.random.default_rng(seed).random((6, 20)) < 0.5
        pool = [
            with_chances(candidate(i, 0.0, levels=(0.0,)), 0.0, anomalies=np.repeat(row, 10).astype(float))
            for i, row in enumerate(flagged)
        ]
        by_units, by_rows = (
            select_candidate(pool, anomaly_keys=keys, strata=strata, eps=EPS, seed=seed, units=belong)
            for belong in (units, None)
        )
        assert by_units.power_high - by_units.power_low > 2 * (by_rows.power_high - by_rows.power_low)
        powers.append((by_units.power, by_rows.power))
    by_unit, by_row = np.mean(powers, axis=0)
    assert by_unit == pytest.approx(0.5, abs=0.08)
    assert by_row > 0.6


@pytest.mark.parametrize(("above", "valid"), [(0.45, False), (0.55, True), (0.7, True)])
def test_a_default_that_flags_nothing_is_broken_only_where_it_ranks_anomalies_no_higher_than_normals(above, valid):
    scores = RowScores(np.arange(100, dtype=float), np.full(A, 100 * above - 0.5))
    chances = flag_chances(np.resize(scores.normals, N), scores.anomalies, SHIPPED, EPS)
    default = replace(
        candidate(0, 0.0, levels=(0.0,)), detector="default", chances={0.0: chances}, scores={0.0: scores}
    )
    result = choose([default, candidate(1, 2.0, levels=(0.0,))], levels=(0.0,), default="default").candidates
    assert next(each.valid for each in result if each.detector == "default") == valid
