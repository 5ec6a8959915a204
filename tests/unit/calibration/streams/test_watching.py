"""What the monitors say of the scores of one machine, and of several."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.calibrators.grouped import GroupedCalibrator
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.streams.monitor import Monitor, merged_threshold
from assay.calibration.streams.watching import watch
from assay.errors import ConfigError, InputError


def made(seed, m, sizes, *, shift=0.0, share=0.0):
    """A calibrator, and the scores of some machines: rows shift, and a share of them are anomalies."""
    rng = np.random.default_rng(seed)
    calibrator = ConformalCalibrator().fit(rng.normal(size=m))
    return calibrator, [rng.normal(shift, size=n) + 5 * (rng.random(n) < share) for n in sizes]


def said(seed, sizes, **change):
    calibrator, streams = made(seed, 300, sizes, **change)
    return {each.name: each for each in watch(calibrator, streams, false_alarms=0.01, eps=0.05, share=0.05)}


def test_one_machine_is_what_its_monitors_say():
    calibrator, (scores,) = made(0, 300, [2000], shift=0.5)
    monitor = Monitor.start(calibrator.scores_, seed=0)
    path = monitor.update(scores)
    first = watch(calibrator, [scores], false_alarms=0.01, eps=0.05)[0]
    assert (first.alarm, first.row, first.rows, first.threshold) == (True, monitor.alarm, 2000, 100)
    assert first.log10_highest == pytest.approx(path.max())


def test_each_monitor_notices_what_it_is_for():
    alarms = np.array([[each.alarm for each in said(seed, [1500]).values()] for seed in range(20)])
    assert alarms.sum() <= 3
    drift = np.array([[each.alarm for each in said(seed, [1500], shift=0.7).values()] for seed in range(10)])
    assert drift[:, :2].mean() > 0.9
    anomalies = np.array([[each.alarm for each in said(seed, [1500], share=0.3).values()] for seed in range(10)])
    assert anomalies[:, 2].mean() > 0.9
    stated = np.array([[each.alarm for each in said(seed, [1500], share=0.05).values()] for seed in range(20)])
    assert stated[:, 1:].sum() <= 2


def test_machines_together_notice_what_each_of_them_sees():
    found = said(0, [400, 500, 600, 10], shift=1.0)
    assert all(each.row is None for each in found.values())
    assert all(each.rows == 1510 for each in found.values())
    assert found["drift of all rows"].threshold == pytest.approx(100 * math.e * math.log(4))
    assert found["drift of all rows"].alarm
    assert found["drift of normal rows"].alarm


@pytest.mark.parametrize("machines", [2, 4])
def test_false_alarms_of_machines_together_keep_the_bound_ever(machines):
    alarms = []
    for seed in range(100):
        calibrator, streams = made(seed, 30, [300] * machines)
        alarms.append([each.alarm for each in watch(calibrator, streams, false_alarms=0.2, eps=0.2, share=0.0)])
    assert (np.mean(alarms, axis=0) <= 0.2 + 3 * math.sqrt(0.2 * 0.8 / 100)).all()


def test_the_threshold_of_machines_together():
    assert merged_threshold(0.01, 1) == 100
    assert merged_threshold(0.01, 2) == 200
    assert merged_threshold(0.01, 10) == pytest.approx(100 * math.e * math.log(10))
    for bad in ((0, 2), (1, 2), (0.1, 0)):
        with pytest.raises(ConfigError):
            merged_threshold(*bad)


def test_nothing_yet_is_no_alarm():
    calibrator, _ = made(0, 30, [])
    assert not any(each.alarm for each in watch(calibrator, [np.empty(0)], false_alarms=0.5, eps=0.1, share=0.1))
    with pytest.raises(InputError, match="at least one machine"):
        watch(calibrator, [], false_alarms=0.5, eps=0.1)


def test_references_of_strata_are_watched_together_and_what_is_not_exchangeable_is_refused():
    scores, keys = np.arange(40.0), np.arange(40) % 2
    calibrator = MondrianCalibrator("stratum").fit(scores, keys)
    assert watch(calibrator, [np.full(100, 99.0) + np.arange(100)], false_alarms=0.01, eps=0.1)[0].alarm
    with pytest.raises(InputError, match="same calibration rows"):
        watch(calibrator, [scores], false_alarms=0.01, eps=0.1, share=0.1)
    with pytest.raises(InputError, match="calibrated as 'grouped'"):
        watch(GroupedCalibrator().fit(scores, keys.astype(str)), [scores], false_alarms=0.01, eps=0.1)
    with pytest.raises(ConfigError, match="rate of flags cannot be monitored"):
        watch(ConformalCalibrator().fit(scores), [scores], false_alarms=0.01, eps=0.01, share=0.1)
