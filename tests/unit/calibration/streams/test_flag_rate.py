"""The monitor of flags: its capital is a ratio of probabilities, its bound holds, and it notices a rise."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import betabinom, binom

from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.streams.flag_rate import FlagRate
from assay.errors import ConfigError, InputError


def capital(m, rank, share, k, n):
    monitor = FlagRate(m, rank, share=share)
    monitor.update(np.arange(n) < k)
    return 10**monitor.log10_value


def probabilities(m, rank, share, n):
    """The law of k flags in n rows: binomially many anomalies, and beta-binomially many false alarms among the rest."""
    law = np.zeros(n + 1)
    for anomalies in range(n + 1):
        among = betabinom(n - anomalies, rank, m + 1 - rank).pmf(np.arange(n + 1 - anomalies))
        law[anomalies:] += binom(n, share).pmf(anomalies) * among
    return law


@pytest.mark.parametrize(("m", "rank", "share"), [(20, 2, 0.0), (20, 1, 0.1), (50, 25, 0.5), (9, 9, 0.01)])
def test_the_capital_has_mean_one_at_the_stated_share_at_most_one_below_it_and_grows_with_flags(m, rank, share):
    n = 15
    capitals = [capital(m, rank, share, k, n) for k in range(n + 1)]
    assert probabilities(m, rank, share, n) @ capitals == pytest.approx(1, rel=1e-9)
    assert probabilities(m, rank, share / 2, n) @ capitals <= 1 + 1e-9
    assert probabilities(m, rank, 0.9, n) @ capitals > 1
    assert all(low < high for low, high in pairwise(capitals))


def highest(seed, *, share, stated, m=100, rank=5, rows=600):
    """The highest capital over a stream of scores with a share of anomalies far above, every twenty rows."""
    rng = np.random.default_rng(seed)
    calibrator = ConformalCalibrator().fit(rng.normal(size=m))
    scores = rng.normal(size=rows) + 9 * (rng.random(rows) < share)
    flags = calibrator.p_values(scores) <= rank / (m + 1)
    monitor = FlagRate(m, rank, share=stated, threshold=5)
    path = [monitor.update(flags[start : start + 20]) for start in range(0, rows, 20)]
    assert (monitor.alarm is not None) == (max(path) >= math.log10(5))
    return max(path)


@pytest.mark.parametrize(("share", "stated"), [(0.0, 0.0), (0.05, 0.05)])
def test_false_alarms_keep_the_bound_at_the_stated_share(share, stated):
    found = np.array([highest(seed, share=share, stated=stated) for seed in range(200)])
    for threshold in (5, 20):
        bound = 1 / threshold
        assert (found >= math.log10(threshold)).mean() <= bound + 3 * math.sqrt(bound * (1 - bound) / 200)
    assert (found >= math.log10(2)).mean() > 0.02


def test_more_anomalies_than_stated_are_noticed():
    assert np.mean([highest(seed, share=0.25, stated=0.05) >= 2 for seed in range(20)]) > 0.9


def test_the_alarm_is_at_the_end_of_the_update_that_raised_it_and_stays():
    monitor = FlagRate(100, 5, share=0.0)
    monitor.update(np.zeros(10, dtype=bool))
    assert monitor.alarm is None
    monitor.update(np.ones(10, dtype=bool))
    assert monitor.alarm == 20
    monitor.update(np.zeros(5000, dtype=bool))
    assert (monitor.alarm, monitor.n_seen, monitor.n_flagged) == (20, 5020, 10)
    assert monitor.log10_value < 0


def test_bad_settings_and_flags_are_refused():
    for m, rank, share, threshold in ((9, 0, 0, 9), (9, 10, 0, 9), (9, 1, 1, 9), (9, 1, -0.1, 9), (9, 1, 0, 1)):
        with pytest.raises(ConfigError, match="give a rank from 1"):
            FlagRate(m, rank, share=share, threshold=threshold)
    for flags in (np.array([0, 1]), np.ones((2, 2), dtype=bool)):
        with pytest.raises(InputError, match="give bool of shape"):
            FlagRate(9, 1, share=0).update(flags)
