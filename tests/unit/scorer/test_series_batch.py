"""Scores of steps: the least anomalous window decides, and the promise for blocks holds for windows and for steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from assay.calibration.calibrators.grouped import GroupedCalibrator
from assay.data.series_files import SeriesColumns, read_series
from assay.data.splitting import split_rows
from assay.scorer.series_batch import least_anomalous

EPS = 0.2


@given(st.data())
def test_the_window_that_decides_has_the_largest_p_value_over_a_step(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 5))
    starts = np.array(sorted(data.draw(st.sets(st.integers(0, 20), min_size=1))))
    tenths = st.lists(st.integers(0, 5), min_size=len(starts), max_size=len(starts))
    p_values, scores = np.array(data.draw(tenths)) / 10, np.array(data.draw(tenths), dtype=np.float32)
    decisive = least_anomalous(scores, p_values, starts, length, 26)
    for step, window in enumerate(decisive):
        over = np.flatnonzero((starts <= step) & (step < starts + length))
        if not len(over):
            assert window == -1
            continue
        assert window in over
        assert p_values[window] == p_values[over].max()
        assert scores[window] == scores[over][p_values[over] == p_values[window]].min()


def test_the_promise_for_blocks_holds_over_roles_of_a_series_that_remembers(tmp_path: Path) -> None:
    """A random walk that is pulled back: neighbouring blocks are alike, windows of a block nearly the same."""
    rng = np.random.default_rng(0)
    level = np.zeros(6000)
    for step, shock in enumerate(rng.normal(size=len(level) - 1), start=1):
        level[step] = 0.99 * level[step - 1] + shock
    pd.DataFrame({"t": np.arange(len(level)), "x": level}).to_csv(tmp_path / "walk.csv", index=False)
    dataset = read_series(tmp_path / "walk.csv", SeriesColumns("t", 10), name="walk")
    of_windows, of_steps = [], []
    for seed in range(80):
        parts = split_rows(dataset.data, dataset.card.columns, seed=seed, overlap=True)
        known, new = parts["calibration"], parts["test"]
        calibrator = GroupedCalibrator().fit(known.features.mean(axis=1), known.rows["group"].to_numpy(dtype=str))
        p_values = calibrator.p_values(new.features.mean(axis=1))
        groups = new.rows["group"]
        of_windows.append((pd.Series(p_values) <= EPS).groupby(groups.to_numpy()).mean().mean())
        starts = new.rows["start"].to_numpy(dtype=np.int64)
        decisive = least_anomalous(np.zeros(len(starts)), p_values, starts, 10, len(level))
        of_steps.append((p_values[decisive[decisive >= 0]] <= EPS).mean())
    for rates in (of_windows, of_steps):
        error = np.std(rates) / np.sqrt(len(rates))
        assert EPS / 2 < np.mean(rates) < EPS + 3 * error
    assert np.mean(of_steps) < np.mean(of_windows)
