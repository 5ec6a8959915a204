"""Selection of the candidate that ships."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from assay.calibration.calibrators.conformal import ConformalCalibrator, largest_rank
from assay.errors import ConfigError, DataError
from assay.evaluation.selection import Candidate, Selection, select_candidate
from assay.evaluation.two_fold import SelectionScores, split_folds
from assay.parts import canonical_json

N, A, EPS = 200, 100, 0.05


def marks(n, tag="row"):
    return np.array([f"{tag}-{i}" for i in range(n)])


def candidate(position, shift, *, seed=0, levels=(0.0, 0.1), n=N, a=A, floats=100, noise=0.0, **more):
    """Scores of one scorer: normals N(0, 1), anomalies N(shift, 1), the same rows for all unless `noise`."""
    common, own = np.random.default_rng(seed), np.random.default_rng([seed, position])
    scores = {}
    for level in levels:
        normals = common.normal(size=n) + noise * own.normal(size=n)
        anomalies = shift + common.normal(size=a) + noise * own.normal(size=a)
        scores[level] = SelectionScores(normals, anomalies)
    return Candidate(f"d{position}", "none", position, floats, scores, **more)


def choose(candidates, *, n=N, levels=(0.0, 0.1), eps=EPS, seed=0, **more):
    strata = {level: np.arange(n) % 4 for level in levels}
    return select_candidate(candidates, row_keys=marks(n), strata=strata, eps=eps, seed=seed, **more)


def with_scores(base, level, **arrays):
    return replace(base, scores={**base.scores, level: replace(base.scores[level], **arrays)})


def test_highest_mean_power_wins():
    selection = choose([candidate(0, 1.0), candidate(1, 3.5), candidate(2, 2.0)])
    assert selection.winner == 1
    assert [result.tied for result in selection.candidates] == [False, True, False]
    assert selection.candidates[1].power > selection.candidates[2].power > selection.candidates[0].power


def test_power_is_averaged_over_the_levels():
    steady = candidate(0, 3.0)
    fragile = with_scores(candidate(1, 4.0), 0.1, anomalies=candidate(1, 0.0).scores[0.1].anomalies)
    selection = choose([steady, fragile])
    at = [[level.power for level in result.levels] for result in selection.candidates]
    assert at[1][0] > at[0][0]
    assert selection.winner == 0
    assert selection.candidates[1].power == pytest.approx(np.mean(at[1]))


def test_rates_are_the_two_fold_ones():
    one = candidate(0, 2.0, levels=(0.0,))
    found = choose([one], levels=(0.0,)).candidates[0]
    second, scores = split_folds(marks(N), seed=0), one.scores[0.0]
    power, fpr = [], []
    for judged in (second, ~second):
        threshold = np.sort(scores.normals[~judged])[int(np.ceil(101 * (1 - EPS))) - 1]
        power.append(np.mean(scores.anomalies > threshold))
        fpr.append(np.mean(scores.normals[judged] > threshold))
    assert found.power == pytest.approx(np.mean(power))
    assert found.fpr == pytest.approx(np.mean(fpr))


def worse_in_one_stratum(position, **more):
    """Same flags in number, but all in stratum 0 (rows 0, 4, 8, ...)."""
    base = candidate(position, 8.0, **more)
    for level, scores in base.scores.items():
        order = np.argsort(np.where(np.arange(N) % 4 == 0, 1, 0), kind="stable")
        normals = np.empty(N)
        normals[order] = np.sort(scores.normals)
        base = with_scores(base, level, normals=normals)
    return base


def test_ties_are_broken_by_strata_then_floats_then_position():
    fair, unfair = candidate(1, 8.0, floats=900), worse_in_one_stratum(0, floats=1)
    selection = choose([unfair, fair])
    assert all(result.tied for result in selection.candidates)
    assert selection.candidates[0].worst_stratum_fpr > selection.candidates[1].worst_stratum_fpr
    assert selection.winner == 1
    assert choose([fair, replace(fair, position=2, n_stored_floats=899)]).winner == 1
    assert choose([fair, replace(fair, position=0)]).winner == 1
    assert choose([fair, replace(fair, position=2)]).winner == 0


def test_tie_is_one_paired_standard_error():
    base = candidate(0, 0.0, levels=(0.0,))
    sure = np.full(A, 9.0)

    def detecting(position, missed):
        scores = with_scores(base, 0.0, anomalies=np.where(np.arange(A) < missed, -9.0, sure))
        return replace(scores, position=position, n_stored_floats=1000 - position)

    # d of 100 missed: mean d/100, standard error sqrt(d/100 (1 - d/100) / 99): not below the mean for d = 1
    selection = choose([detecting(missed, missed) for missed in (0, 1, 2, 5)], levels=(0.0,))
    assert [result.tied for result in selection.candidates] == [True, True, False, False]
    assert selection.winner == 1, "among the tied the one with fewer floats"


def test_disagreement_both_ways_widens_the_tie():
    base = candidate(0, 0.0, levels=(0.0,))
    first = with_scores(base, 0.0, anomalies=np.where(np.arange(A) < 10, -9.0, 9.0))
    second = with_scores(base, 0.0, anomalies=np.where(np.arange(A) >= 87, -9.0, 9.0))
    # 10 missed against 13 others missed: 3 <= sqrt(23)
    assert all(result.tied for result in choose([first, second], levels=(0.0,)).candidates)
    third = with_scores(base, 0.0, anomalies=np.where(np.arange(A) < 13, -9.0, 9.0))
    # the same 10 and 3 more: 3 > sqrt(3)
    assert [result.tied for result in choose([first, third], levels=(0.0,)).candidates] == [True, False]


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2], [2, 1, 0]])
def test_a_tie_with_one_of_several_leaders_is_a_tie(order):
    base, rows = candidate(0, 0.0, levels=(0.0,)), np.arange(A)
    missed = [rows < 10, (rows >= 50) & (rows < 60), (rows >= 50) & (rows < 62)]
    pool = [with_scores(base, 0.0, anomalies=np.where(miss, -9.0, 9.0)) for miss in missed]
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
    pool = [candidate(i, 2.0, noise=0.4) for i in range(3)]
    order = np.random.default_rng(1).permutation(N)
    shuffled = [
        replace(one, scores={k: replace(v, normals=v.normals[order]) for k, v in one.scores.items()}) for one in pool
    ]
    strata = {level: (np.arange(N) % 4)[order] for level in (0.0, 0.1)}
    again = select_candidate(shuffled, row_keys=marks(N)[order], strata=strata, eps=EPS, seed=0)
    assert again == choose(pool)


def test_invalid_candidates_are_skipped_with_a_reason():
    best, rows = candidate(0, 6.0), np.arange(N)
    pool = [
        replace(best, unpackageable="no exporter for its arrays"),
        with_scores(best, 0.1, normals=np.where(rows == 3, np.nan, best.scores[0.1].normals)),
        with_scores(best, 0.0, anomalies=np.where(np.arange(A) == 3, np.inf, 1.0)),
        with_scores(best, 0.1, normals=np.zeros(N), anomalies=np.zeros(A)),
        candidate(4, 0.0),
        candidate(5, -3.0),
        candidate(6, 2.0),
    ]
    selection = choose(pool)
    reasons = [result.reason for result in selection.candidates]
    assert selection.winner == 6
    assert reasons[0] == "no exporter for its arrays"
    assert "1 of 300 scores are not finite at level 0.1" in reasons[1]
    assert "not finite at level 0" in reasons[2]
    assert "all scores are equal at level 0.1" in reasons[3]
    assert "no more often than normals" in reasons[5]
    assert reasons[6] == ""
    assert selection.candidates[0].power > selection.candidates[6].power, "compared, though it cannot ship"
    assert selection.candidates[1].power is None
    assert not any(result.tied for result in selection.candidates if not result.valid)


def test_too_many_false_positives_disqualify():
    honest, second = candidate(0, 2.0), split_folds(marks(N), seed=0)
    lucky = with_scores(candidate(1, 9.0), 0.0, normals=candidate(1, 9.0).scores[0.0].normals + 4 * second)
    selection = choose([honest, lucky])
    assert selection.winner == 0
    assert "normals flagged at eps 0.05: too many" in selection.candidates[1].reason
    harmless = with_scores(candidate(1, 9.0), 0.1, normals=lucky.scores[0.0].normals)
    assert choose([honest, harmless]).winner == 1, "only the level that ships is judged"
    assert choose([honest, harmless], ships_at=0.1).winner == 0


def test_exchangeable_normals_are_hardly_ever_disqualified():
    rejected = 0
    for seed in range(300):
        selection = choose([candidate(0, 3.0, seed=seed, levels=(0.0,))], levels=(0.0,), seed=seed)
        rejected += selection.winner is None
    assert rejected / 300 < 0.01 + 3 * np.sqrt(0.01 * 0.99 / 300)


def test_no_winner_is_a_value():
    selection = choose([candidate(0, 4.0, n=37), candidate(1, 5.0, n=37)], n=37)
    assert selection.winner is None
    assert "at least 38 selection normals, there are 37" in selection.candidates[0].reason
    assert "smallest eps possible with these is 0.05263" in selection.candidates[0].reason
    assert choose([candidate(0, 4.0, n=38)], n=38).winner == 0
    assert choose([candidate(0, 4.0, n=0)], n=0).winner is None
    assert "no selection anomalies" in choose([candidate(0, 4.0, a=0)]).candidates[0].reason
    assert choose([]).winner is None


def test_selection_is_plain_json():
    selection = choose([candidate(0, 3.0), with_scores(candidate(1, 3.0), 0.0, normals=np.full(N, np.nan))])
    read = json.loads(canonical_json(selection.to_json()))
    assert read["winner"] == 0
    assert (read["n_normals"], read["n_anomalies"]) == (N, A)
    assert [level["level"] for level in read["candidates"][0]["levels"]] == [0.0, 0.1]
    assert read["candidates"][1]["power"] is None


def test_one_anomaly_is_enough_to_run():
    with np.errstate(all="raise"):
        selection = choose([candidate(0, 9.0, a=1), candidate(1, 9.0, a=1)])
    assert selection.winner == 0


def test_rows_that_differ_are_refused():
    good = candidate(0, 3.0)
    for bad in (candidate(1, 3.0, n=N - 1), candidate(1, 3.0, a=A + 1), candidate(1, 3.0, levels=(0.0,))):
        with pytest.raises(DataError):
            choose([good, bad])
    with pytest.raises(DataError, match="strata"):
        select_candidate([good], row_keys=marks(N), strata={0.0: np.zeros(3, dtype=int)}, eps=EPS, seed=0)
    with pytest.raises(ConfigError, match=r"0\.2"):
        choose([good], ships_at=0.2)
    with pytest.raises(ConfigError, match="eps"):
        choose([good], eps=0.0)


def test_folds_are_balanced_and_follow_seed_and_content():
    for n in (0, 1, 2, 101):
        assert split_folds(marks(n), seed=0).sum() == n - n // 2
    folds, order = split_folds(marks(100), seed=0), np.random.default_rng(0).permutation(100)
    np.testing.assert_array_equal(split_folds(marks(100)[order], seed=0), folds[order])
    assert 20 < (split_folds(marks(100), seed=1) != folds).sum() < 80


def test_selection_does_not_spoil_the_winners_guarantee():
    """A winner among ten equal scorers keeps eps on calibration rows; one chosen by those rows does not."""
    m, redraws, honest, greedy = 100, 300, [], []
    for seed in range(redraws):
        pool = [candidate(i, 1.0, seed=seed, levels=(0.0,), noise=1.0) for i in range(10)]
        winner = choose(pool, levels=(0.0,), seed=seed).winner or 0
        calibration = np.random.default_rng([seed, 99]).normal(scale=np.sqrt(2), size=(10, m))
        thresholds = [ConformalCalibrator().fit(scores).threshold(EPS) for scores in calibration]
        honest.append(norm.sf(thresholds[winner], scale=np.sqrt(2)))
        powers = [np.mean(one.scores[0.0].anomalies > t) for one, t in zip(pool, thresholds, strict=True)]
        greedy.append(norm.sf(thresholds[int(np.argmax(powers))], scale=np.sqrt(2)))
    expected, error = largest_rank(m, EPS) / (m + 1), np.std(honest) / np.sqrt(redraws)
    assert abs(np.mean(honest) - expected) < 3 * error
    assert np.mean(greedy) > expected + 5 * error


def failed_at(level, base):
    scores = {rho: found for rho, found in base.scores.items() if rho != level}
    return replace(base, scores=scores, untrained={level: "could not be fitted"})


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
    hopeless = with_scores(base, 0.1, anomalies=np.full(A, -9.0))
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
