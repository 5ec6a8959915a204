"""How often suites stop healthy rows, and how often they catch spoilt ones, over redraws.

    python benchmarks/validation.py [--redraws 200] [--out docs/benchmarks/validation.md]

A suite is learned from n rows, and judges n other rows of the same population, as they are or with one fault. Rows of
breast_cancer and digits are random halves, or disjoint parts of 300 rows; the other populations are made up. Faults are
tried in every second redraw.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import ndtri
from sklearn.datasets import load_breast_cancer, load_digits

from assay.arrays import Doubles, Integers
from assay.data.card import Card
from assay.data.dataset import Dataset, RowSet
from assay.data.drift import compare
from assay.data.expectations import frame_expectations
from assay.data.modalities.tabular import TABULAR
from assay.data.reference import ReferenceCounts, learn_reference

SIZES = (300, 1000, 10000)
D = 20
MARK = "Percent stopped; in brackets, stopped or warned of, where it is more.\n"
CITIES = np.array(["Bern", "Rom", "Oslo", "Wien", "Riga", "Bonn", "Lund", "Graz"])


@dataclass(frozen=True)
class Rows:
    """Rows of a population: numbers (n, d), texts (n, k), labels (n,), groups (n,)."""

    numbers: Doubles
    labels: Integers
    codes: Integers | None = None
    groups: Integers | None = None

    def take(self, index: Integers) -> Rows:
        codes, groups = (None if part is None else part[index] for part in (self.codes, self.groups))
        return Rows(self.numbers[index], self.labels[index], codes, groups)

    def dataset(self) -> Dataset:
        values, names, vocabulary = self.numbers, [f"c{i}" for i in range(self.numbers.shape[1])], {}
        if self.codes is not None:
            texts = [f"t{i}" for i in range(self.codes.shape[1])]
            vocabulary = dict.fromkeys(texts, tuple(CITIES))
            values, names = np.hstack([values, self.codes]), names + texts
        group = "" if self.groups is None else self.groups.astype(str)
        count = np.arange(len(values))
        rows = pd.DataFrame({"row_id": count.astype(str), "label": self.labels.astype(np.int8)})
        rows = rows.assign(group=group, time="", copy=0)
        card = Card("made", TABULAR, tuple(names), "made", vocabulary=vocabulary, imputed=tuple(names))
        return Dataset(card, RowSet(values, rows))


def labels_of(rng: np.random.Generator, n: int) -> Integers:
    return (rng.random(n) < 0.1).astype(np.int64)


def gaussian(rng: np.random.Generator, n: int) -> Rows:
    return Rows(rng.normal(size=(n, D)) + 2 * np.arange(D), labels_of(rng, n))


def lognormal(rng: np.random.Generator, n: int) -> Rows:
    return Rows(rng.lognormal(2 * np.arange(D), np.linspace(0.5, 2.5, D), size=(n, D)), labels_of(rng, n))


def categorical(rng: np.random.Generator, n: int) -> Rows:
    shares = 0.6 ** np.arange(len(CITIES))
    codes = rng.choice(len(CITIES), size=(n, 4), p=shares / shares.sum())
    codes[:, 1::2] = len(CITIES) - 1 - codes[:, 1::2]
    return Rows(rng.normal(size=(n, 2)), labels_of(rng, n), codes)


def counter(rng: np.random.Generator, n: int) -> Rows:
    """A number of the row, a meter that only rises, and three numbers that are measured."""
    meter = np.cumsum(rng.exponential(size=n))
    return Rows(np.column_stack([np.arange(n) + 1e6, meter, rng.normal(size=(n, 3))]), labels_of(rng, n))


def groups(rng: np.random.Generator, n: int) -> Rows:
    """Groups of ten rows, with effects twice as large as the noise."""
    of_group = np.arange(n) // 10
    effects = 2 * (rng.normal(size=(of_group[-1] + 1, D)) + 2 * np.arange(D))
    return Rows(rng.normal(size=(n, D)) + effects[of_group], labels_of(rng, n), groups=of_group)


def slow(rng: np.random.Generator, n: int) -> Rows:
    """Rows one after another, each like the one before: autoregressive with coefficient .9."""
    noise, values = rng.normal(size=(n, D)), np.empty((n, D))
    values[0] = noise[0]
    for row in range(1, n):
        values[row] = 0.9 * values[row - 1] + np.sqrt(1 - 0.81) * noise[row]
    return Rows(values + 2 * np.arange(D), labels_of(rng, n))


MADE: dict[str, Callable[[np.random.Generator, int], Rows]] = {
    "Gaussian": gaussian,
    "lognormal": lognormal,
    "categories": categorical,
    "counters": counter,
    "groups of ten": groups,
    "autoregressive": slow,
}


@cache
def public(name: str) -> Rows:
    X, y = (load_breast_cancer if name == "breast_cancer" else load_digits)(return_X_y=True)
    return Rows(np.asarray(X, dtype=np.float64), (y == 0).astype(np.int64))


def pair(name: str, rng: np.random.Generator, n: int) -> tuple[Rows, Rows] | None:
    """Return the rows of the reference and the new ones; None where there are not that many."""
    if name in MADE:
        if name != "counters":
            return MADE[name](rng, n), MADE[name](rng, n)
        both = counter(rng, 2 * n)
        return both.take(np.arange(n)), both.take(np.arange(n, 2 * n))
    rows = public(name)
    size = min(n, len(rows.labels) // 2)
    if size < 0.85 * n:
        return None
    order = rng.permutation(len(rows.labels))
    return rows.take(order[:size]), rows.take(order[size : 2 * size])


def varying(rows: Rows) -> Integers:
    """Return the columns of numbers that are no counters and in which no value makes up half of the rows."""
    most = np.array([np.unique(column, return_counts=True)[1].max() for column in rows.numbers.T])
    moves = np.array([(np.diff(column) > 0).all() for column in rows.numbers.T])
    return np.flatnonzero((most < len(rows.labels) / 2) & ~moves)


def changed(rows: Rows, column: int, values: Doubles) -> Rows:
    numbers = rows.numbers.copy()
    numbers[:, column] = values
    return replace(rows, numbers=numbers)


def robust(values: Doubles) -> tuple[Doubles, Doubles]:
    """Return median and robust standard deviation of each column."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
    return middle, (high - low) / (2 * float(ndtri(0.75)))


def swapped(rows: Rows, rng: np.random.Generator) -> Rows | None:
    """Exchange two columns whose medians are more than one robust standard deviation of both apart."""
    places = varying(rows)
    middle, spread = robust(rows.numbers[:, places])
    apart = np.abs(middle[:, None] - middle) > np.maximum(spread[:, None], spread)
    pairs = np.argwhere(apart)
    if not len(pairs):
        return None
    first, second = places[pairs[rng.integers(len(pairs))]]
    numbers = rows.numbers.copy()
    numbers[:, [first, second]] = numbers[:, [second, first]]
    return replace(rows, numbers=numbers)


def faults(rows: Rows, rng: np.random.Generator) -> Iterator[tuple[str, Rows]]:
    """Yield the new rows with each fault."""
    n, column = len(rows.labels), int(rng.choice(varying(rows)))
    values = rows.numbers[:, column]
    lost = np.where(rng.random(n) < 0.1, np.nan, values)
    middle, _ = robust(rows.numbers)
    yield "one column in another unit (x 1000)", changed(rows, column, 1000 * values)
    if (exchanged := swapped(rows, rng)) is not None:
        yield "two columns that differ swapped", exchanged
    yield "a stuck sensor", changed(rows, column, np.full(n, values[0]))
    yield "10 % more missing in a column", changed(rows, column, lost)
    yield "one column moved by 1 sd", changed(rows, column, values + values.std())
    yield "one column moved by .5 sd", changed(rows, column, values + 0.5 * values.std())
    yield "all columns moved by 3 sd", replace(rows, numbers=rows.numbers + 3 * rows.numbers.std(axis=0))
    yield "spread of a column doubled", changed(rows, column, middle[column] + 2 * (values - middle[column]))
    yield "the rows twice", rows.take(np.tile(np.arange(n), 2))
    yield "half of the rows gone", rows.take(np.arange(n // 2))
    yield "99 % of the rows gone", rows.take(np.arange(max(1, n // 100)))
    yield "labels flipped", replace(rows, labels=1 - rows.labels)


def stops(reference: ReferenceCounts, rows: Rows) -> tuple[bool, bool]:
    """Return whether a suite stops rows, and whether it at least warns."""
    dataset = rows.dataset()
    frame = compare(reference, dataset.card, dataset.data, rows=reference["rows"])
    severe, warned = False, False
    for entry in frame_expectations():
        kwargs = entry["kwargs"]
        values = frame[kwargs["column"]]
        fails = not values.between(kwargs.get("min_value", -np.inf), kwargs.get("max_value", np.inf)).all()
        warned |= fails
        severe |= fails and "severity" not in entry
    return severe, warned


def measure(name: str, n: int, redraws: int) -> dict[str, tuple[float, float, int]]:
    """Return, for healthy rows and each fault: the shares stopped and at least warned of, and the number of redraws."""
    results: dict[str, list[tuple[bool, bool]]] = {}
    for redraw in range(redraws):
        rng = np.random.default_rng((redraw, n))
        rows = pair(name, rng, n)
        if rows is None:
            return {}
        reference = learn_reference(rows[0].dataset())
        spoilt_rows = faults(rows[1], rng) if redraw % 2 == 0 else ()
        for fault, spoilt in [("healthy", rows[1]), *spoilt_rows]:
            results.setdefault(fault, []).append(stops(reference, spoilt))
    return {fault: (*np.mean(outcomes, axis=0).tolist(), len(outcomes)) for fault, outcomes in results.items()}


def table(measured: dict[tuple[str, int], dict[str, tuple[float, float, int]]], n: int) -> str:
    names = [name for name, size in measured if size == n and measured[name, size]]
    kinds = list(dict.fromkeys(fault for name in names for fault in measured[name, n]))
    lines = [f"| n = {n} | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for fault in kinds:
        cells = []
        for name in names:
            stopped, warned, _ = measured[name, n].get(fault, (np.nan, np.nan, 0))
            text = f"{100 * stopped:.1f}" + (f" ({100 * warned:.1f})" if warned > stopped else "")
            cells.append("-" if np.isnan(stopped) else text)
        lines.append(f"| {fault} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redraws", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--sets", nargs="+", default=("breast_cancer", "digits", *MADE))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    start, measured = time.perf_counter(), {}
    for n in options.sizes:
        for name in options.sets:
            measured[name, n] = measure(name, n, options.redraws)
            print(n, name, f"{time.perf_counter() - start:.0f} s", flush=True)
    text = "\n\n".join(table(measured, n) for n in options.sizes)
    print(text)
    if options.out:
        head, mark, _ = options.out.read_text(encoding="utf-8").partition(MARK)
        options.out.write_text(f"{head}{mark}\n{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
