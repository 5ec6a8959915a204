"""What the monitors say of the scores that a service gave: one stream a machine, and all machines together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from assay.arrays import Singles
from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.calibrators.registry import Calibrator
from assay.calibration.streams.flag_rate import FlagRate
from assay.calibration.streams.martingale import LargePValues, SimpleJumper
from assay.calibration.streams.monitor import Monitor, log10_mean, merged_threshold
from assay.errors import ConfigError, InputError

ALL_ROWS, NORMAL_ROWS, FLAGS = "drift of all rows", "drift of normal rows", "rate of flags"
_STEP = 20

_Highest = tuple[float, int | None]  # log10 of the highest capital, and the row of the alarm


@dataclass(frozen=True, slots=True)
class Watched:
    """What one monitor says.

    Attributes
    ----------
    name : str
    rows : int
        Rows that it has seen, on all machines.
    log10_highest : float
        Logarithm to base 10 of the highest capital that it has had; of several machines, of the mean of these.
    threshold : float
        The capital that raises the alarm.
    alarm : bool
    row : int or None
        Row that raised the alarm, counted from 1; None without one, and for several machines.
    """

    name: str
    rows: int
    log10_highest: float
    threshold: float
    alarm: bool
    row: int | None


def watch(
    calibrator: Calibrator,
    streams: Sequence[Singles],
    *,
    false_alarms: float,
    eps: float,
    share: float | None = None,
) -> list[Watched]:
    """Return what the monitors say of the scores of each machine, shape (n,), from the first row on.

    Each monitor raises an alarm with at most the given probability, however long the streams: see `Monitor`,
    `LargePValues`, `FlagRate`, and `merged_threshold` for several machines. All is computed anew from the scores, and
    the seed of a machine is its place, so that the same scores in the same order give the same alarms.

    `LargePValues` passes over the rows with the highest scores: an alarm of the other monitors alone means more
    anomalies, its own a drift of normal rows.

    Parameters
    ----------
    calibrator : Calibrator
    streams : sequence of ndarray
        Scores of each machine, in order of arrival.
    false_alarms : float
        Between 0 and 1, both excluded.
    eps : float
        The flags are those of p <= eps.
    share : float, optional
        Stated share of anomalies; without one the rate of flags is not monitored.

    Raises
    ------
    InputError
        The scores of this calibrator's rows are not exchangeable with each other (groups, weights, folds), or the
        rate of flags is asked for and it is not that of one reference.
    ConfigError
        A number is out of range.
    """
    if not streams:
        raise InputError("no streams to watch; give the scores of at least one machine")
    limit = merged_threshold(false_alarms, len(streams))
    reference = calibration_scores(calibrator)
    capitals: dict[str, list[_Highest]] = {ALL_ROWS: [], NORMAL_ROWS: []}
    for seed, scores in enumerate(streams):
        for name, martingale in ((ALL_ROWS, SimpleJumper()), (NORMAL_ROWS, LargePValues())):
            monitor = Monitor.start(reference, seed=seed, threshold=limit, martingale=martingale)
            capitals[name].append((float(monitor.update(scores).max(initial=0.0)), monitor.alarm))
    if share is not None:
        capitals[FLAGS] = [_flag_rate(calibrator, scores, eps, share, limit) for scores in streams]
    rows = sum(scores.size for scores in streams)
    return [_together(name, rows, highest, limit) for name, highest in capitals.items()]


def calibration_scores(calibrator: Calibrator) -> Singles:
    """Return the calibration scores that a stream of the scorer's scores is exchangeable with while nothing drifts.

    Raises
    ------
    InputError
        There are none: with groups of rows, weights or folds.
    """
    if isinstance(calibrator, ConformalCalibrator):
        return calibrator.scores_
    if isinstance(calibrator, MondrianCalibrator):
        return np.concatenate(calibrator.references_)
    raise InputError(
        f"this scorer is calibrated as {calibrator.kind!r}; scores are monitored where single rows are compared "
        "with calibration rows of equal weight"
    )


def _flag_rate(calibrator: Calibrator, scores: Singles, eps: float, share: float, threshold: float) -> _Highest:
    if not isinstance(calibrator, ConformalCalibrator):
        raise InputError("the rate of flags is monitored where all rows are compared with the same calibration rows")
    rank = calibrator.promise.largest_rank(calibrator.n_rows, eps)
    if not rank:
        raise ConfigError(f"{calibrator.limits(eps)} The rate of flags cannot be monitored then")
    rate = FlagRate(calibrator.n_rows, rank, share=share, threshold=threshold)
    flags = calibrator.p_values(scores) <= eps
    highest, start = 0.0, 0
    while start < flags.size:
        # A look takes time in proportion to the flags so far. Where looks are is fixed beforehand.
        step = max(_STEP, start // 50)
        highest = max(highest, rate.update(flags[start : start + step]))
        start += step
    return highest, rate.alarm


def _together(name: str, rows: int, highest: Sequence[_Highest], threshold: float) -> Watched:
    value = log10_mean([capital for capital, _ in highest])
    row = highest[0][1] if len(highest) == 1 else None
    return Watched(name, rows, value, threshold, value >= math.log10(threshold), row)
