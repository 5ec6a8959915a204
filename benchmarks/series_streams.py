"""Sections of `benchmarks/series.py`: test martingales over windows, and how many windows are scored in a second."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pandas as pd

from assay.calibration.streams.monitor import Monitor
from assay.data.dataset import RowSet
from assay.data.modalities.series import Series
from assay.data.splitting import split_rows
from series_parts import DETECTORS, ONLY, RUNS, SEEDS, Fitted, Result, as_users_bring, cases, skab

THRESHOLD = 100.0
N_TIMED = 10_000


def exchangeable() -> Iterator[Result]:
    """Yield the seventh table's numbers."""
    frame = skab()
    labelled = [name for name, rows in frame.groupby("file", sort=False) if rows["anomaly"].any()]
    for seed, labels in cases():
        rng = np.random.default_rng(seed)
        apart = frame["file"].isin(rng.choice(labelled, 10, replace=False))
        dataset = as_users_bring(frame[~apart], RUNS, ("changepoint",))
        later = as_users_bring(frame[apart], RUNS, ("changepoint",)).data
        parts = split_rows(dataset.data, dataset.card.columns, seed=seed, overlap=True)
        normal = {role: part.take(part.labels != 1) for role, part in parts.items()}
        streams = {
            "new blocks, one window each": one_each(normal["test"], rng),
            "new blocks, all windows": normal["test"].take(np.argsort(normal["test"].rows["start"].to_numpy())),
            "new runs, one window a block": one_each(later.take(later.labels != 1), rng),
        }
        for label in (label for label in labels if label not in SEEDS):
            fitted = Fitted(label, dataset.card.modality, normal["train"].features, seed)
            of_calibration = fitted(one_each(normal["calibration"], rng).features)
            for name, stream in streams.items():
                monitor = Monitor.start(of_calibration, seed=seed, threshold=THRESHOLD)
                path = monitor.update(fitted(stream.features))
                result = {"stream": name, "detector": label, "seed": seed, "scores": len(path)}
                yield result | {"alarm": float(path.max() >= 2), "log10 capital": float(path.max())}


def one_each(rows: RowSet, rng: np.random.Generator) -> RowSet:
    """Return a window of each block, drawn at random, in the order of time."""
    mixed = rows.rows.reset_index(drop=True).sample(frac=1, random_state=int(rng.integers(2**31)))
    return rows.take(mixed.drop_duplicates("group").sort_values("start").index.to_numpy())


def alarms(rows: list[Result]) -> str:
    """Return the seventh table."""
    words = ["| stream | detector | seeds | scores | alarms | highest capital, median |", "|---" * 6 + "|"]
    for (stream, label), group in pd.DataFrame(rows).groupby(["stream", "detector"], sort=False):
        words.append(
            f"| {stream} | {label} | {len(group)} | {group['scores'].mean():.0f} | {int(group['alarm'].sum())} | "
            f"{10 ** group['log10 capital'].median():.3g} |"
        )
    return "\n".join(words)


def speeds() -> str:
    """Return the eighth table: windows of 64 x 8 scored in a second of one core."""
    modality, rng = Series((64, 8)), np.random.default_rng(0)
    phases, noise = rng.uniform(0, 6, (N_TIMED, 1, 8)), rng.normal(scale=0.1, size=(N_TIMED, 64, 8))
    windows = (np.sin(0.3 * np.arange(64)[:, None] + phases) + noise).reshape(N_TIMED, 512)
    words = ["| detector | seeds | fit of 2,000, s | windows a second |", "|---" * 4 + "|"]
    for label in (label for label in DETECTORS if label in ONLY):
        begun = time.process_time()
        fitted = Fitted(label, modality, windows[:2000], 0, epochs=1 if label.startswith("lstm") else None)
        ready = time.process_time()
        fitted(windows)
        rate = N_TIMED / (time.process_time() - ready)
        spent = "one epoch" if label.startswith("lstm") else f"{ready - begun:.1f}"
        words.append(f"| {label} | 1 | {spent} | {rate:,.0f} |")
        print(words[-1], flush=True)
    return "\n".join(words)
