"""Test martingales that watch a stream of scores: false alarms, delay of true ones, cost.

Scores are made: standard normal for calibration rows and a quiet stream. Every stream has calibration rows of its own.
"all scores" and "100 bins" are the monitor's two ways to keep the past (`memory` left out, and 100); both compare each
score with calibration scores and all earlier ones. Beside them three ways that have no guarantee: p-values
against the calibration scores alone, against a window of the last m scores (calibration scores are the first), and
against a reservoir of m scores (a uniform sample of all before). All p-values are smoothed. "without reserve" is
the Simple Jumper as it was published. Nothing was chosen by these tables but the form of the reserve, of which one was
tried, and 100 bins, for which 20 and 50 were tried as well.

Usage: python benchmarks/martingales.py            (about eight minutes)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from assay.calibration.streams.martingale import Martingale, Power, SimpleJumper
from assay.calibration.streams.monitor import Monitor

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "benchmarks" / "martingales.md"
PICTURE = OUT.with_name("martingales.png")

Floats = NDArray[np.float64]
THRESHOLDS = (20, 100, 1000)
BETS: dict[str, Callable[[], Martingale]] = {"simple jumper": SimpleJumper, "power": Power}
KEPT = {"all scores": None, "100 bins": 100}
QUIET_M, QUIET_ROWS, QUIET_STREAMS = 200, 10_000, 600
LARGE_M, LARGE_ROWS, LARGE_STREAMS = 1000, 50_000, 150
M, STREAMS, AFTER = 500, 40, 5000
BEFORE = (0, 1000, 10_000)
SHIFTS = (0.25, 0.5, 1.0, 2.0)
STEADY = (0.01, 0.02, 0.05, 0.1)
ANOMALY = 3.0
COLOURS = {
    "all scores": "#4477aa",
    "100 bins": "#228833",
    "calibration alone": "#cc6677",
    "window": "#ccbb44",
    "reservoir": "#aa3377",
}


ALARMS = f"""
## False alarms

Share of {QUIET_STREAMS} quiet streams ({LARGE_STREAMS} for m = {LARGE_M:,}) that ever reach the threshold, in %,
± standard error.
"""
DELAYS = f"""
## Rows from a shift to the alarm

Threshold 100, m = {M}, {STREAMS} streams that end {AFTER:,} rows after the shift. Median delay; in brackets the
share of streams with an alarm where it is not all, and how many had one before the shift (left out of the median).
"""
ANOMALIES = f"""
## Anomalies in the stream

Anomalies score {ANOMALY:g} sd higher; calibration rows hold none. Rows to the alarm within 10,000. In the first
columns the share of anomalies is steady, in the last it grows from 0 to 20 % in a line: row 1,000 is at 2 %.
"""
COST = """
## Cost

Seconds for a million rows, on one core: as one batch after calibration, then in batches of 1,000, then one by one
(measured on 10,000 of them). The state is after two million rows.
"""


def smoothed(reference: Floats, scores: Floats, rng: np.random.Generator) -> Floats:
    """Return smoothed p-values of scores (k,) against reference scores (k, m) each."""
    above = (reference > scores[:, None]).sum(axis=1)
    equal = (reference == scores[:, None]).sum(axis=1)
    return np.asarray((above + rng.random(scores.size) * (equal + 1)) / (reference.shape[1] + 1))


def against_calibration(calibration: Floats, stream: Floats, rng: np.random.Generator) -> Floats:
    """P-values (k, n) of k streams against their calibration scores (k, m) alone."""
    return np.stack([smoothed(calibration, column, rng) for column in stream.T], axis=1)


def against_window(calibration: Floats, stream: Floats, rng: np.random.Generator) -> Floats:
    """P-values against the last m scores."""
    last, p = calibration.copy(), np.empty_like(stream)
    for i, column in enumerate(stream.T):
        p[:, i] = smoothed(last, column, rng)
        last[:, i % last.shape[1]] = column
    return p


def against_reservoir(calibration: Floats, stream: Floats, rng: np.random.Generator) -> Floats:
    """P-values against a uniform sample of m of all earlier scores."""
    kept, p = calibration.copy(), np.empty_like(stream)
    streams, m = kept.shape
    for i, column in enumerate(stream.T):
        p[:, i] = smoothed(kept, column, rng)
        places = rng.integers(0, m + i + 1, streams)
        taken = np.flatnonzero(places < m)
        kept[taken, places[taken]] = column[taken]
    return p


def without_reserve(p_values: Floats, jump: float = 0.01) -> Floats:
    """Return the log10 path of the Simple Jumper as published (Vovk et al. 2021, algorithm 1)."""
    bets = np.array([-1.0, 0.0, 1.0])
    shares, log, path = np.full(3, 1 / 3), 0.0, np.empty(p_values.size)
    for i, p in enumerate(p_values.tolist()):
        shares = ((1 - jump) * shares + jump / 3) * (1 + bets * (p - 0.5))
        gain = float(shares.sum())
        shares, log = shares / gain, log + math.log(gain)
        path[i] = log
    return path / math.log(10)


class Recorder:
    """Keeps the monitor's p-values in place of betting on them."""

    log10_value = 0.0

    def __init__(self) -> None:
        self.p_values = np.empty(0)

    def update(self, p_values: Floats) -> Floats:
        """Keep p-values."""
        self.p_values = p_values
        return np.zeros(p_values.size)


def watched(calibration: Floats, stream: Floats, memory: int | None, seed: int) -> Floats:
    """Return the p-values that a monitor gives a stream."""
    recorder = Recorder()
    Monitor.start(calibration, seed=seed, memory=memory, martingale=recorder).update(stream)  # type: ignore[arg-type]
    return recorder.p_values


def quiet(m: int, n: int, streams: int, ways: list[str]) -> Iterator[tuple[str, Floats]]:
    """Yield the p-values (streams, n) of quiet streams by each way to keep the past."""
    rng = np.random.default_rng(m)
    calibration, stream = rng.normal(size=(streams, m)), rng.normal(size=(streams, n))
    others = {
        "calibration alone": against_calibration,
        "window": against_window,
        "reservoir": against_reservoir,
    }
    for way in ways:
        if way in KEPT:
            pairs = zip(calibration, stream, strict=True)
            yield way, np.stack([watched(c, s, KEPT[way], seed) for seed, (c, s) in enumerate(pairs)])
        else:
            yield way, others[way](calibration, stream, rng)


def false_alarms(m: int, n: int, streams: int, ways: list[str]) -> tuple[list[str], dict[str, Floats]]:
    """Return the lines of the table, and each way's highest capitals so far under the jumper, (streams, n)."""
    lines, highest = [], {}
    for way, p_values in quiet(m, n, streams, ways):
        for name, bets in BETS.items():
            best = np.stack([np.maximum.accumulate(bets().update(p)) for p in p_values])
            shares = [float((best[:, -1] >= math.log10(c)).mean()) for c in THRESHOLDS]
            errors = [math.sqrt(share * (1 - share) / streams) for share in shares]
            cells = " | ".join(f"{100 * s:.1f} ± {100 * e:.1f}" for s, e in zip(shares, errors, strict=True))
            lines.append(f"| {m} | {n:,} | {way} | {name} | {cells} |")
            if name == "simple jumper":
                highest[way] = best
    return lines, highest


def alarm_rows(paths: list[Floats], since: int) -> Floats:
    """Return rows from the change to the alarm (threshold 100), inf without one; alarms before it are left out."""
    first = np.array([np.flatnonzero(np.r_[path >= 2, True])[0] for path in paths])
    late = first[first >= since] - since + 1.0
    return np.where(late > len(paths[0]) - since, np.inf, late)


def judged(streams: list[tuple[Floats, Floats]], since: int) -> Iterator[tuple[str, Floats, int]]:
    """Yield (way, rows to the alarm, alarms before the change) for (calibration, stream) pairs."""
    for way, memory in KEPT.items():
        p_values = [watched(c, s, memory, seed) for seed, (c, s) in enumerate(streams)]
        for name, bets in BETS.items():
            rows = alarm_rows([bets().update(p) for p in p_values], since)
            yield f"{name}, {way}", rows, len(streams) - rows.size
        if memory is None:
            rows = alarm_rows([without_reserve(p) for p in p_values], since)
            yield "simple jumper without reserve, all scores", rows, len(streams) - rows.size
    calibration, stream = (np.stack(part) for part in zip(*streams, strict=True))
    alone = against_calibration(calibration, stream, np.random.default_rng(0))
    for name, bets in BETS.items():
        rows = alarm_rows([bets().update(p) for p in alone], since)
        yield f"{name}, calibration alone", rows, len(streams) - rows.size


def cell(rows: Floats, early: int) -> str:
    """Format the median delay, the share found and alarms before the change."""
    if not rows.size:
        return f"- ({early} early)"
    median = float(np.median(rows))
    found = 100 * np.isfinite(rows).mean()
    words = f"{median:.0f}" if np.isfinite(median) else "none"
    words += "" if found == 100 else f" ({found:.0f} %)"
    return words + (f" [{early} early]" if early else "")


def table(head: list[str], columns: list[list[tuple[str, Floats, int]]]) -> list[str]:
    """Return a Markdown table, one line per way and one column per situation."""
    lines = ["| | " + " | ".join(head) + " |", "|---|" + "---|" * len(head)]
    for cells in zip(*columns, strict=True):
        lines.append(f"| {cells[0][0]} | " + " | ".join(cell(rows, early) for _, rows, early in cells) + " |")
    return lines


def shifted(before: int, shift: float) -> list[tuple[Floats, Floats]]:
    """Return streams whose mean shifts after some quiet rows, with their calibration scores."""
    found = []
    for seed in range(STREAMS):
        scores = np.random.default_rng([seed, before]).normal(size=M + before + AFTER)
        scores[M + before :] += shift
        found.append((scores[:M], scores[M:]))
    return found


def contaminated(share: Callable[[Floats], Floats]) -> list[tuple[Floats, Floats]]:
    """Return streams of 10,000 rows, row i (scaled to 0..1) being an anomaly with probability share(i)."""
    found = []
    for seed in range(STREAMS):
        rng = np.random.default_rng([seed, 99])
        scores = rng.normal(size=M + 10_000)
        scores[M:] += ANOMALY * (rng.random(10_000) < share(np.arange(10_000) / 10_000))
        found.append((scores[:M], scores[M:]))
    return found


def steady(at: Floats, share: float) -> Floats:
    """Return the same share everywhere."""
    return np.full_like(at, share)


def costs() -> list[str]:
    """Return a table of seconds for 10^6 rows after a million others, by size of the batches."""
    lines = ["| | one batch | batches of 1,000 | one by one | state |", "|---|---|---|---|---|"]
    rng = np.random.default_rng(0)
    calibration, scores = rng.normal(size=1000), rng.normal(size=10**6)
    for way, memory in KEPT.items():
        for name, bets in BETS.items():
            monitor = Monitor.start(calibration, seed=0, memory=memory, martingale=bets())
            cells = []
            for rows, batch in ((10**6, 10**6), (10**6, 1000), (10**4, 1)):
                begun = time.perf_counter()
                for start in range(0, rows, batch):
                    monitor.update(scores[start : start + batch])
                cells.append(f"{(time.perf_counter() - begun) * 10**6 / rows:.1f} s")
            size = sum(array.nbytes for array in monitor.to_part().arrays.values())
            lines.append(f"| {name}, {way} | " + " | ".join(cells) + f" | {size / 1000:,.1f} kB |")
    return lines


def draw(highest: dict[str, Floats]) -> None:
    """Draw false alarms over time, and the capital before and after a shift with and without the reserve."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = np.arange(1, QUIET_ROWS + 1)
    for way, best in highest.items():
        left.plot(rows, 100 * (best >= 2).mean(axis=0), color=COLOURS[way], label=way)
    left.axhline(1, color="black", linewidth=1, linestyle="--", label="1 / threshold")
    left.set(xscale="log", xlabel="rows of a quiet stream", ylabel="streams with an alarm so far, %", xlim=(10, None))
    left.set_title(f"False alarms, m = {QUIET_M}, threshold 100", fontsize=10)
    left.legend(fontsize=8)
    p_values = [watched(c, s, None, seed) for seed, (c, s) in enumerate(shifted(BEFORE[-1], 0.5))]
    for label, colour, paths in (
        ("with reserve", "#4477aa", [SimpleJumper().update(p) for p in p_values]),
        ("without", "#cc6677", [without_reserve(p) for p in p_values]),
    ):
        right.plot(np.median(paths, axis=0), color=colour, label=label)
    right.axhline(2, color="black", linewidth=1, linestyle="--", label="threshold 100")
    right.axvline(BEFORE[-1], color="grey", linewidth=1, linestyle=":", label="shift by 0.5 sd")
    right.set(xlabel="row", ylabel="log10 capital, median", xlim=(0, 11_500), ylim=(-20, 40))
    right.set_title("Simple jumper after 10,000 quiet rows", fontsize=10)
    right.legend(fontsize=8, loc="upper left")
    figure.savefig(PICTURE, dpi=90)


def main() -> None:
    """Measure everything, write docs/benchmarks/martingales.md and the picture beside it."""
    lines, highest = false_alarms(QUIET_M, QUIET_ROWS, QUIET_STREAMS, list(COLOURS))
    draw(highest)
    more, _ = false_alarms(LARGE_M, LARGE_ROWS, LARGE_STREAMS, ["100 bins", "calibration alone"])
    lines += more
    text = [f"# Test martingales\n\n{(__doc__ or '').split('Usage:')[0].strip()}\n"]
    text += ["Made by `python benchmarks/martingales.py`.\n", f"![False alarms, and the reserve]({PICTURE.name})\n"]
    text += [
        ALARMS,
        "| m | rows | past | martingale | " + " | ".join(str(c) for c in THRESHOLDS) + " |",
        "|---" * 7 + "|",
    ]
    text += ["| | | | *bound* | " + " | ".join(f"*{100 / c:g}*" for c in THRESHOLDS) + " |", *lines, DELAYS]
    for before in BEFORE:
        columns = [list(judged(shifted(before, shift), before)) for shift in SHIFTS]
        text += [f"\n### After {before:,} quiet rows\n", *table([f"{shift:g} sd" for shift in SHIFTS], columns)]
    shares: list[Callable[[Floats], Floats]] = [partial(steady, share=share) for share in STEADY]
    columns = [list(judged(contaminated(share), 0)) for share in [*shares, lambda at: 0.2 * at]]
    text += [ANOMALIES, *table([*(f"{100 * share:g} %" for share in STEADY), "growing"], columns), COST, *costs()]
    OUT.write_text("\n".join(text) + "\n", encoding="utf-8")
    print(OUT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
