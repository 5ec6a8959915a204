"""The monitor: its p-values, its bound on false alarms, its alarms, its state."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from assay.calibration.streams.martingale import LargePValues, Power, SimpleJumper
from assay.calibration.streams.monitor import Monitor, alarm_threshold, load_monitor, merge
from assay.errors import ConfigError, DataError, InputError, ScorerError
from assay.parts import Part, read_part, write_part

MEMORIES = pytest.mark.parametrize("memory", [None, 20])
tied_scores = st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0, np.inf]), min_size=1, max_size=30)


class Recorder:
    """A martingale that never bets and keeps the p-values."""

    log10_value = 0.0

    def __init__(self):
        self.p_values = np.empty(0)

    def update(self, p_values):
        self.p_values = np.r_[self.p_values, p_values]
        return np.zeros(len(p_values))


def p_values_of(calibration, stream, **settings):
    recorder = Recorder()
    Monitor.start(calibration, martingale=recorder, **settings).update(stream)
    return recorder.p_values


def drawn(seed, m, n):
    scores = np.random.default_rng(seed).normal(size=m + n)
    return scores[:m], scores[m:]


@settings(max_examples=100, deadline=None)
@given(tied_scores, tied_scores)
def test_p_values_rank_a_score_among_calibration_and_all_earlier_scores(calibration, stream):
    p_values = p_values_of(np.array(calibration), np.array(stream), seed=0)
    for i, (score, p) in enumerate(zip(stream, p_values, strict=True)):
        earlier = np.array([*calibration, *stream[:i]])
        above, equal = (earlier > score).sum(), (earlier == score).sum()
        assert above < p * (earlier.size + 1) < above + equal + 1


@MEMORIES
@pytest.mark.parametrize("tied", [False, True])
def test_p_values_of_exchangeable_scores_are_independent_and_uniform(memory, tied):
    found = []
    for seed in range(150):
        calibration, stream = drawn(seed, 40, 120)
        if tied:
            calibration, stream = np.round(calibration), np.round(stream)
        found.append(p_values_of(np.sort(calibration), stream, seed=seed, memory=memory))
    p = np.array(found)
    assert kstest(p.ravel(), "uniform").pvalue > 0.001
    sums = -2 * np.log(p).sum(axis=1)  # chi-squared with 240 degrees of freedom, only if independent
    assert kstest(sums, "chi2", args=(240,)).pvalue > 0.001
    assert abs(np.corrcoef(p[:, :-1].ravel(), p[:, 1:].ravel())[0, 1]) < 3 / math.sqrt(p.size)


def too_often(highest, threshold):
    """Whether more of the capitals reached a threshold than 1 / threshold, by more than 3 standard errors."""
    share = np.mean(np.array(highest) >= math.log10(threshold))
    bound = 1 / threshold
    return share > bound + 3 * math.sqrt(bound * (1 - bound) / len(highest))


@MEMORIES
@pytest.mark.parametrize("bets", [SimpleJumper, Power, LargePValues])
def test_false_alarms_keep_the_bound_over_fifty_times_the_calibration_rows(memory, bets):
    m, redraws = 50, 150
    highest = []
    for seed in range(redraws):
        calibration, stream = drawn(seed, m, 50 * m)
        monitor = Monitor.start(calibration, seed=seed, martingale=bets(), memory=memory)
        highest.append(monitor.update(stream).max())
    assert not too_often(highest, 5)
    assert not too_often(highest, 20)


@pytest.mark.parametrize("bets", [SimpleJumper, Power])
def test_p_values_against_the_calibration_scores_alone_would_break_the_bound(bets):
    m, redraws = 50, 100
    highest = []
    for seed in range(redraws):
        calibration, stream = drawn(seed, m, 50 * m)
        above = m - np.searchsorted(np.sort(calibration), stream)
        p_values = (above + np.random.default_rng(seed).random(stream.size)) / (m + 1)
        highest.append(bets().update(p_values).max())
    assert too_often(highest, 20)
    assert too_often(highest, 100)


@MEMORIES
@pytest.mark.parametrize("bets", [SimpleJumper, Power])
def test_a_shift_raises_an_alarm_soon(memory, bets):
    alarms = []
    for seed in range(30):
        calibration, stream = drawn(seed, 200, 400)
        stream[200:] += 1.0
        monitor = Monitor.start(calibration, seed=seed, martingale=bets(), memory=memory)
        path = monitor.update(stream)
        if monitor.alarm is not None:
            assert path[monitor.alarm - 1] >= 2 > path[: monitor.alarm - 1].max()
        alarms.append(monitor.alarm or math.inf)
    assert np.mean([200 < alarm <= 300 for alarm in alarms]) >= 0.9


def alarms_with(bets, share, shift, seeds):
    """Alarms in streams of 1,500 rows, a share of them anomalies 4 sd higher; normal rows shift after 500."""
    found = []
    for seed in range(seeds):
        calibration, stream = drawn(seed, 300, 1500)
        stream[500:] += shift
        stream[np.random.default_rng(seed).random(1500) < share] += 4
        monitor = Monitor.start(calibration, seed=seed, martingale=bets())
        monitor.update(stream)
        found.append(monitor.alarm or math.inf)
    return np.array(found)


def test_anomalies_alone_are_no_drift_for_large_p_values_and_a_drift_beside_them_is():
    quiet = alarms_with(LargePValues, 0.1, 0, 60)
    assert np.isfinite(quiet).sum() <= 3  # 60 streams at threshold 100
    assert np.isfinite(alarms_with(Power, 0.1, 0, 20)).mean() > 0.9
    drift = alarms_with(LargePValues, 0.1, 1, 20)
    assert (drift > 500).mean() > 0.9
    assert (drift < 700).mean() > 0.9


def test_scores_that_shrink_raise_an_alarm_too():
    calibration, stream = drawn(0, 200, 300)
    monitor = Monitor.start(calibration, seed=0)
    monitor.update(stream - 1.5)
    assert monitor.alarm is not None


@MEMORIES
@pytest.mark.parametrize("bets", [SimpleJumper, Power, LargePValues])
def test_one_by_one_in_batches_and_restored_are_the_same_to_the_last_bit(memory, bets, tmp_path):
    calibration, stream = drawn(1, 100, 700)
    stream[400:] += 1.0
    stream[::7] = np.round(stream[::7])
    stream[5], stream[6] = np.inf, -np.inf
    whole, single, stored = (
        Monitor.start(calibration, seed=3, martingale=bets(), memory=memory, threshold=50) for _ in range(3)
    )
    path = whole.update(stream)
    np.testing.assert_array_equal(np.concatenate([single.update(stream[i : i + 1]) for i in range(700)]), path)
    for start, end in ((0, 333), (333, 341), (341, 700)):
        np.testing.assert_array_equal(stored.update(stream[start:end]), path[start:end])
        write_part(tmp_path, "monitor", stored.to_part())
        stored = load_monitor(read_part(tmp_path, "monitor"))
    assert whole.alarm == single.alarm == stored.alarm is not None
    assert whole.n_seen == single.n_seen == stored.n_seen == 700
    assert whole.log10_value == single.log10_value == stored.log10_value == path[-1]
    assert (stored.seed, stored.threshold) == (3, 50)


def test_a_seed_gives_its_own_p_values():
    calibration, stream = drawn(2, 5, 50)
    first, second = (p_values_of(calibration, stream, seed=seed) for seed in (0, 1))
    assert (first != second).all()
    np.testing.assert_array_equal(first, p_values_of(calibration, stream, seed=0))


def test_reset_begins_anew_and_false_alarms_stay_as_few_as_promised():
    threshold, alarms = 3.0, []
    for seed in range(150):
        calibration, stream = drawn(seed, 30, 600)
        monitor = Monitor.start(calibration, seed=seed, threshold=threshold)
        count = 0
        for start in range(0, 600, 20):
            monitor.update(stream[start : start + 20])
            if monitor.alarm is not None:
                count += 1
                monitor.reset()
                assert monitor.alarm is None
                assert monitor.log10_value == 0
        alarms.append(count)
    assert np.mean(alarms) > 0
    assert np.mean(alarms) <= 1 / (threshold - 1) + 3 * np.std(alarms) / math.sqrt(len(alarms))


def test_an_alarm_stays_until_it_is_reset():
    calibration, stream = drawn(3, 100, 100)
    monitor = Monitor.start(calibration, seed=0, threshold=20)
    monitor.update(stream + 3)
    raised = monitor.alarm
    monitor.update(stream[:50])
    assert monitor.alarm == raised is not None
    monitor.reset()
    monitor.update(stream + 20)
    assert monitor.alarm > 150


def test_bounded_memory_is_bounded():
    calibration, stream = drawn(4, 300, 5000)
    monitor = Monitor.start(calibration, seed=0, memory=16)
    before = monitor.to_part()
    monitor.update(stream)
    after = monitor.to_part()
    assert {name: array.shape for name, array in before.arrays.items()} == {
        name: array.shape for name, array in after.arrays.items()
    }
    assert after.arrays["past.counts"].shape == (16,)
    assert after.arrays["past.counts"].sum() == 225 + 5000
    assert before.arrays["past.counts"].sum() == 225
    everything = Monitor.start(calibration, seed=0)
    everything.update(stream)
    assert everything.to_part().arrays["past.scores"].shape == (5300,)


@pytest.mark.parametrize("memory", [None, 2, 20])
@pytest.mark.parametrize("calibration", [[1.0], [1.0] * 50, [-np.inf, np.inf, 0.0], [1e300, 0.0]])
def test_one_calibration_row_constant_and_infinite_scores_are_monitored(memory, calibration):
    monitor = Monitor.start(np.array(calibration), seed=0, memory=memory)
    assert np.isfinite(monitor.update(np.array([1.0, np.inf, -np.inf, -1e300, 1.0] * 40))).all()
    assert monitor.update(np.empty(0)).shape == (0,)


def test_both_sides_are_compared_in_float32():
    close = np.full(50, 1.0) + np.arange(50) * 1e-12
    rising, constant = (p_values_of(np.ones(10), stream, seed=0) for stream in (close, np.ones(50)))
    np.testing.assert_array_equal(rising, constant)


def test_a_refused_batch_changes_nothing():
    calibration, stream = drawn(5, 50, 60)
    monitor, other = (Monitor.start(calibration, seed=0) for _ in range(2))
    for bad in (np.array([1.0, np.nan]), np.ones((2, 2))):
        with pytest.raises(InputError, match="none NaN"):
            monitor.update(bad)
    np.testing.assert_array_equal(monitor.update(stream), other.update(stream))


def test_merged_replicas_have_the_mean_capital():
    calibration, stream = drawn(6, 100, 300)
    monitors = [Monitor.start(calibration, seed=seed) for seed in range(3)]
    for i, monitor in enumerate(monitors):
        monitor.update(stream[i::3])
    mean = np.mean([10**monitor.log10_value for monitor in monitors])
    assert 10 ** merge(monitors) == pytest.approx(mean)
    monitors[0].update(np.full(5000, 50.0) + np.arange(5000))
    assert monitors[0].log10_value > 400
    assert merge(monitors) == pytest.approx(monitors[0].log10_value - math.log10(3))
    with pytest.raises(InputError, match="at least one"):
        merge([])


def test_merged_replicas_keep_the_bound_at_one_moment():
    merged = []
    for seed in range(200):
        calibration, stream = drawn(seed, 30, 600)
        monitors = [Monitor.start(calibration, seed=3 * seed + i) for i in range(3)]
        for i, monitor in enumerate(monitors):
            monitor.update(stream[i::3])
        merged.append(merge(monitors))
    assert not too_often(merged, 3)
    assert not too_often(merged, 10)


def test_a_threshold_is_one_over_the_probability_of_a_false_alarm():
    assert alarm_threshold(0.01) == 100
    for bad in (0, 1, -1, float("nan")):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            alarm_threshold(bad)


def test_bad_settings_calibration_scores_and_parts_are_refused():
    for bad in ({"seed": -1}, {"threshold": 1}, {"threshold": math.inf}, {"threshold": math.nan}, {"memory": 1}):
        with pytest.raises(ConfigError, match="threshold above 1"):
            Monitor.start(np.ones(3), **{"seed": 0, **bad})
    for scores in (np.array([]), np.array([1.0, np.nan]), np.ones((2, 2))):
        with pytest.raises(DataError, match="none NaN"):
            Monitor.start(scores, seed=0)
    part = Monitor.start(np.ones(3), seed=0).to_part()
    with pytest.raises(ScorerError, match="monitor 'conformal' is unknown"):
        load_monitor(Part("conformal"))
    for name in ("past", "martingale"):
        changed = {**part.config, name: {"kind": "other", "config": {}}}
        with pytest.raises(ScorerError, match="unknown"):
            load_monitor(Part("monitor", changed, part.arrays))


def test_the_monitor_needs_neither_scipy_nor_scikit_learn():
    heavy = "{'scipy', 'sklearn', 'torch', 'pandas'}"
    code = f"import sys, assay.calibration.streams.monitor; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
