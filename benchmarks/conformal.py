"""Calibrators: the seconds that a million p-values take, beside crepes, and the false-positive rates that come of them.

Seconds. 10^6 rows are compared with 10,000 calibration rows; the scores of both are standard normal in float32. Four
strata, or four categories by name, of equal size; 200 groups of 50; weights uniform between .5 and 1.5; five folds.
Median of five, without a row's score, hardness or weight, but with the weights of 20 features by themselves; by the
clock, and of the processor, which other processes on the machine lengthen less. crepes (`p_values_batch`, not
smoothed, behind all its `predict_p`) gets the same arrays in the same process, once; it has no calibration by groups,
weights or folds of this kind. "Times faster" is by the processor. "Equal" means every one of the million p-values, bit
by bit.

Rates. Calibration rows and new rows are drawn anew, 1,000 times (200 where weights are estimated or models fitted), and
the mean share of new normal rows with p <= eps is given with its standard error over the redraws, and the share of
anomalies at eps .05. Nothing is tuned. The settings:

- rows: 150 calibration rows, standard normal scores; anomalies score 3 higher. "Ties": the scores are Poisson counts of
  mean 1, anomalies' of mean 5; ties are counted against the row, or broken at random.
- strata: 600 rows in four strata whose scores spread as .5, 1, 1.5 and 3; rates are those inside the last (and first)
  one. Anomalies score 3 times as high as normal rows of their stratum.
- groups: G groups of n rows, score = group effect + noise, both standard normal; new rows are of new groups;
  anomalies score 5 higher.
- shift: two standard normal features, the first of which has moved by one standard deviation among the new rows;
  score = .8 x1 + .6 x2, anomalies have x2 moved by 5. Weights are the true ratios, or estimated from 300 rows of
  each kind. 600 calibration rows.
- few: 30 rows of three features to fit and calibrate with, score = distance to the mean of the rows fitted on;
  split uses 15 for each. Anomalies are moved by 4.

Usage: python benchmarks/conformal.py
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import crepes
import numpy as np
from crepes.base import p_values_batch
from numpy.typing import NDArray

from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.calibrators.cross import CrossCalibrator
from assay.calibration.calibrators.grouped import GroupedCalibrator
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.calibrators.weighted import DensityRatio, WeightedCalibrator

OUT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "conformal.md"
M, N, FOLDS, REPEATS = 10_000, 1_000_000, 5, 5
LEVELS = (0.01, 0.05, 0.1)
REDRAWS, FEW_REDRAWS = 1000, 200
Floats = NDArray[np.floating[Any]]
PValues = dict[str, tuple[Floats, Floats]]


def timed(work: Callable[[], Floats]) -> tuple[float, float, Floats]:
    """Return the seconds of a call by the clock, those of the processor, and its result."""
    started, used = time.perf_counter(), time.process_time()
    found = work()
    return time.perf_counter() - started, time.process_time() - used, found


def speed() -> Iterator[str]:
    """Yield a line of the table for everything that is computed a million times."""
    rng = np.random.default_rng(0)
    scores, new = (rng.normal(size=n).astype(np.float32) for n in (M, N))
    strata, of_new = rng.integers(0, 4, M), rng.integers(0, 4, N)
    names = np.array(["north", "east", "south", "west"])
    weights, beside = rng.uniform(0.5, 1.5, M), rng.uniform(0.5, 1.5, N)
    by_model, breaks = rng.normal(size=(FOLDS, N)).astype(np.float32), rng.random(N)
    X = rng.normal(size=(N, 20)).astype(np.float32)
    split = ConformalCalibrator().fit(scores)
    mondrian = MondrianCalibrator("stratum").fit(scores, strata)
    named = MondrianCalibrator("category").fit(scores, names[strata])
    grouped = GroupedCalibrator().fit(scores, np.arange(M) % 200)
    weighted = WeightedCalibrator().fit(scores, weights)
    cross = CrossCalibrator().fit(np.split(scores, FOLDS))
    ratio = DensityRatio.fit(X[:1000], X[1000:2000], seed=0)
    ours: dict[str, tuple[Callable[[], Floats], Callable[[], Floats] | None]] = {
        "split": (lambda: split.p_values(new), lambda: p_values_batch(scores, new, smoothing=False)),
        "split, ties broken at random": (lambda: split.p_values(new, tie_breaks=breaks), None),
        "Mondrian, 4 strata": (
            lambda: mondrian.p_values(new, of_new),
            lambda: p_values_batch(scores, new, strata, of_new, smoothing=False),
        ),
        "Mondrian, 4 categories by name": (
            lambda: named.p_values(new, names[of_new]),
            lambda: p_values_batch(scores, new, names[strata], names[of_new], smoothing=False),
        ),
        "grouped, 200 groups": (lambda: grouped.p_values(new), None),
        "weighted": (lambda: weighted.p_values(new, beside), None),
        "cross, 5 folds": (lambda: cross.p_values(by_model), None),
        "weights of 20 features (`DensityRatio`)": (lambda: ratio.weights(X), None),
    }
    for name, (work, theirs) in ours.items():
        print(name, file=sys.stderr)
        runs = [timed(work) for _ in range(REPEATS)]
        clock, used = (statistics.median(run[i] for run in runs) for i in (0, 1))
        line = f"| {name} | {clock:.2f} | {used:.2f}"
        if theirs is None:
            yield f"{line} | | | | |"
        else:
            of_crepes, used_by_crepes, found = timed(theirs)
            equal = "yes" if np.array_equal(found, runs[0][2]) else "NO"
            yield f"{line} | {of_crepes:.2f} | {used_by_crepes:.2f} | {used_by_crepes / used:.0f} | {equal} |"


def plain_rows(rng: np.random.Generator) -> PValues:
    """Rows that are exchangeable."""
    calibrator = ConformalCalibrator().fit(rng.normal(size=150))
    new = rng.normal(size=200)
    counts, ties = rng.poisson(1, 350).astype(float), rng.poisson(5, 200).astype(float)
    tied, u = ConformalCalibrator().fit(counts[:150]), rng.random((2, 200))
    return {
        "split": (calibrator.p_values(new), calibrator.p_values(new + 3)),
        "split, ties counted": (tied.p_values(counts[150:]), tied.p_values(ties)),
        "split, ties at random": (
            tied.p_values(counts[150:], tie_breaks=u[0]),
            tied.p_values(ties, tie_breaks=u[1]),
        ),
    }


def strata(rng: np.random.Generator) -> PValues:
    """Rows of four strata."""
    spread = np.array([0.5, 1, 1.5, 3])
    keys, of_new = rng.integers(0, 4, 600), rng.integers(0, 4, 400)
    scores, new = np.abs(rng.normal(size=600)) * spread[keys], np.abs(rng.normal(size=400)) * spread[of_new]
    split, mondrian = ConformalCalibrator().fit(scores), MondrianCalibrator("stratum").fit(scores, keys)
    found: PValues = {}
    for name, of in (("split", lambda s: split.p_values(s)), ("Mondrian", lambda s: mondrian.p_values(s, of_new))):
        p = of(new), of(3 * new)
        for stratum, key in (("last", 3), ("first", 0)):
            found[f"{name}, {stratum} stratum"] = p[0][of_new == key], p[1][of_new == key]
    return found


def groups(count: int, size: int) -> Callable[[np.random.Generator], PValues]:
    """Return the setting of rows in groups."""

    def draw(rng: np.random.Generator) -> PValues:
        group, of_new = np.repeat(np.arange(count), size), np.repeat(np.arange(20), 10)
        scores = rng.normal(size=count)[group] + rng.normal(size=group.size)
        new = rng.normal(size=20)[of_new] + rng.normal(size=of_new.size)
        both = {"split": ConformalCalibrator().fit(scores), "grouped": GroupedCalibrator().fit(scores, group)}
        return {name: (it.p_values(new), it.p_values(new + 5)) for name, it in both.items()}

    return draw


def shift(rng: np.random.Generator) -> PValues:
    """Rows whose first feature has moved."""
    moved = np.array([1.0, 0.0])
    source, target, X, new = (
        rng.normal(size=(n, 2)) + by for n, by in ((300, 0), (300, moved), (600, 0), (300, moved))
    )
    anomalies = new + np.array([0, 5.0])
    ratio = DensityRatio.fit(source, target, seed=0)

    def score(rows: Floats) -> Floats:
        return 0.8 * rows[:, 0] + 0.6 * rows[:, 1]

    def p_values(weigh: Callable[[Floats], Floats]) -> tuple[Floats, Floats]:
        calibrator = WeightedCalibrator().fit(score(X), weigh(X))
        return calibrator.p_values(score(new), weigh(new)), calibrator.p_values(score(anomalies), weigh(anomalies))

    split = ConformalCalibrator().fit(score(X))
    return {
        "split": (split.p_values(score(new)), split.p_values(score(anomalies))),
        "weighted, true weights": p_values(lambda rows: np.exp(rows[:, 0] - 0.5)),
        "weighted, estimated": p_values(ratio.weights),
    }


def few(rng: np.random.Generator) -> PValues:
    """Rows so few that they must serve for fitting and for calibration."""
    X, new = rng.normal(size=(30, 3)), rng.normal(size=(200, 3))
    anomalies = new + np.array([4.0, 0, 0])

    def score(train: Floats, rows: Floats) -> Floats:
        return np.asarray(np.linalg.norm(rows - train.mean(axis=0), axis=1))

    split = ConformalCalibrator().fit(score(X[:15], X[15:]))
    found = {"split": tuple(split.p_values(score(X[:15], rows)) for rows in (new, anomalies))}
    for folds in (5, 30):
        fold = np.arange(30) % folds
        trains = [X[fold != k] for k in range(folds)]
        cross = CrossCalibrator().fit([score(train, X[fold == k]) for k, train in enumerate(trains)])
        by_model = (np.stack([score(train, rows) for train in trains]) for rows in (new, anomalies))
        found[f"cross, {folds} folds"] = tuple(cross.p_values(scores) for scores in by_model)
    return found  # type: ignore[return-value]


SETTINGS: dict[str, tuple[Callable[[np.random.Generator], PValues], int]] = {
    "rows": (plain_rows, REDRAWS),
    "strata": (strata, REDRAWS),
    "groups, 20 of 50": (groups(20, 50), REDRAWS),
    "groups, 100 of 10": (groups(100, 10), REDRAWS),
    "shift": (shift, FEW_REDRAWS),
    "few": (few, REDRAWS),
}


def rates() -> Iterator[str]:
    """Yield a line of the table for every setting and calibrator."""
    for setting, (draw, redraws) in SETTINGS.items():
        print(setting, file=sys.stderr)
        found: dict[str, list[list[float]]] = {}
        for seed in range(redraws):
            for name, (normals, anomalies) in draw(np.random.default_rng(seed)).items():
                rate = [float((normals <= eps).mean()) for eps in LEVELS]
                found.setdefault(name, []).append([*rate, float((anomalies <= 0.05).mean())])
        for name, table in found.items():
            means, errors = np.mean(table, axis=0), np.std(table, axis=0) / np.sqrt(redraws)
            cells = [f"{mean:.4f} ± {error:.4f}" for mean, error in zip(means[:3], errors[:3], strict=True)]
            yield f"| {setting} | {name} | {' | '.join(cells)} | {means[3]:.3f} |"


def main() -> None:
    """Measure everything and write docs/benchmarks/conformal.md."""
    lines = [
        "| p-values of 10^6 rows | seconds | of the processor | crepes | of the processor | times faster | equal |"
    ]
    lines += ["|---|---|---|---|---|---|---|", *speed()]
    load = os.getloadavg()[1]
    lines += [
        "",
        "| setting | calibrator | eps .01 | eps .05 | eps .1 | anomalies at .05 |",
        "|---|---|---|---|---|---|",
    ]
    lines += rates()
    protocol = (__doc__ or "").split("Usage:")[0].strip()
    text = "\n".join(lines) + "\n"
    versions = f"numpy {np.__version__}, crepes {crepes.__version__}"
    machine = f"{os.cpu_count()} cores, load {load:.1f}, Python {sys.version.split()[0]}, {versions}."
    made = f"{machine} Made by `python benchmarks/conformal.py`."
    OUT.write_text(f"# Calibrators\n\n{protocol}\n\n{made}\n\n{text}", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
