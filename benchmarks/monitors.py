"""How many rows it takes the monitors of a stream to notice a change.

Scores are made: standard normal for calibration rows, which hold no anomalies, and for normal rows of the stream;
anomalies score 3 sd higher. A stream has 1,000 rows before the change, with the share of anomalies that the table
names, and 5,000 after it; every stream has calibration rows of its own. "drift of all rows" bets on all p-values of
the monitor, by the simple jumper or by powers; "drift of normal rows" on those above .1, rescaled (`LargePValues`);
"rate of flags" (`FlagRate`) tests flags at eps .05 against the share before the change, every 20 rows. False alarms are
to be at most 1 in 100 streams: threshold 100. "of a server" are the two monitors that a server of one dataset has:
simple jumpers, at most 1,024 bins of memory, whose edges take a quarter of the calibration rows, and threshold 200.

Usage: python benchmarks/monitors.py            (about ten minutes)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.streams.flag_rate import FlagRate
from assay.calibration.streams.martingale import LargePValues, Martingale, Power, SimpleJumper
from assay.calibration.streams.monitor import Monitor
from assay.service.monitors import MONITOR_BINS, log10_threshold

OUT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "monitors.md"

Floats = NDArray[np.float64]
STREAMS, BEFORE, AFTER, STEP = 60, 1000, 5000, 20
EPS, ANOMALY, THRESHOLD = 0.05, 3.0, 100.0
CASES = ((1000, 0.0), (1000, 0.05), (1000, 0.1), (200, 0.05))  # calibration rows, share of anomalies before the change
CHANGES = {
    "none": (0.0, 0.0),
    "0.3 sd": (0.3, 0.0),
    "1 sd": (1.0, 0.0),
    "+5 points": (0.0, 0.05),
    "+10 points": (0.0, 0.1),
}
DRIFT: dict[str, Callable[[], Martingale]] = {
    "drift of all rows, simple jumper": SimpleJumper,
    "drift of all rows, powers": Power,
    "drift of normal rows, simple jumper": LargePValues,
    "drift of normal rows, powers": lambda: LargePValues(Power()),
}
SERVED: dict[str, Callable[[], Martingale]] = {
    "drift of all rows, of a server": SimpleJumper,
    "drift of normal rows, of a server": LargePValues,
}
FLAGS = "rate of flags"


def drawn(seed: int, m: int, base: float, change: tuple[float, float]) -> tuple[Floats, Floats]:
    """Return m calibration scores and a stream whose normal rows shift, and whose share of anomalies rises."""
    rng = np.random.default_rng([seed, m])
    scores, chance = rng.normal(size=m + BEFORE + AFTER), rng.random(BEFORE + AFTER)
    stream = scores[m:]
    stream[BEFORE:] += change[0]
    shares = base + change[1] * (np.arange(stream.size) >= BEFORE)
    return scores[:m], stream + ANOMALY * (chance < shares)


def alarms(m: int, base: float, change: tuple[float, float]) -> dict[str, Floats]:
    """Return the rows at which each monitor raised its alarm in each stream, inf without one."""
    until_alarm: dict[str, list[float]] = {name: [] for name in (*DRIFT, *SERVED, FLAGS)}
    for seed in range(STREAMS):
        calibration, stream = drawn(seed, m, base, change)
        for name, bets in DRIFT.items():
            monitor = Monitor.start(calibration, seed=seed, threshold=THRESHOLD, martingale=bets())
            monitor.update(stream)
            until_alarm[name].append(monitor.alarm or math.inf)
        for name, bets in SERVED.items():
            limit = 10 ** log10_threshold(1)
            monitor = Monitor.start(calibration, seed=seed, threshold=limit, martingale=bets(), memory=MONITOR_BINS)
            monitor.update(stream)
            until_alarm[name].append(monitor.alarm or math.inf)
        calibrator = ConformalCalibrator().fit(calibration)
        flags = calibrator.p_values(stream) <= EPS
        rate = FlagRate(m, int(EPS * (m + 1)), share=base, threshold=THRESHOLD)
        for start in range(0, stream.size, STEP):
            rate.update(flags[start : start + STEP])
            if rate.alarm:
                break
        until_alarm[FLAGS].append(rate.alarm or math.inf)
    return {name: np.array(rows) for name, rows in until_alarm.items()}


def cell(rows: Floats, change: str) -> str:
    """Format the share of alarms without a change, or the median delay and the share found after it."""
    if change == "none":
        return f"{100 * np.isfinite(rows).mean():.0f} %"
    late = rows[rows > BEFORE] - BEFORE
    if not late.size:
        return "early in all"
    early, share, median = rows.size - late.size, 100 * np.isfinite(late).mean(), float(np.median(late))
    words = f"{median:.0f}" if np.isfinite(median) else "none"
    words += "" if share == 100 else f" ({share:.0f} %)"
    return words + (f" [{early} early]" if early else "")


def main() -> None:
    """Measure everything and write docs/benchmarks/monitors.md."""
    text = [
        f"# Monitors of a stream\n\n{(__doc__ or '').split('Usage:')[0].strip()}\n",
        "Made by `python benchmarks/monitors.py`.\n",
        f"Median rows from the change to the alarm, over {STREAMS} streams; in brackets the share of streams with an "
        "alarm where it is not all, and how many had one before the change (left out of the median). The first column "
        f"is the share of streams of {BEFORE + AFTER:,} rows without a change that have an alarm.",
    ]
    for m, base in CASES:
        text += [f"\n## {m:,} calibration rows, {100 * base:g} % anomalies before the change\n"]
        text += ["| | " + " | ".join(CHANGES) + " |", "|---|" + "---|" * len(CHANGES)]
        columns = {change: alarms(m, base, by) for change, by in CHANGES.items()}
        for name in (*DRIFT, *SERVED, FLAGS):
            cells = " | ".join(cell(columns[change][name], change) for change in CHANGES)
            text.append(f"| {name} | {cells} |")
        print("\n".join(text[-9:]), flush=True)
    OUT.write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
