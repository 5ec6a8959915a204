"""What the sections of `benchmarks/series.py` share: detectors, scores of steps, tables."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assay.data.columns import Treatment
from assay.data.dataset import Dataset
from assay.data.dialects import Dialect
from assay.data.modalities.base import Modality
from assay.data.series_files import SeriesColumns, read_series
from assay.detectors.registry import make_detector

Floats = NDArray[np.floating]
Result = dict[str, Any]
AR = "autoregressive null model"
DETECTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "knn": ("knn", {}),
    "isolation_forest": ("isolation_forest", {}),
    "reach-minmax": ("rescaled", {"detector": "reach"}),
    "autoencoder": ("autoencoder", {}),
    "lstm_predictor": ("lstm_predictor", {}),
    "lstm_autoencoder": ("lstm_autoencoder", {}),
    "kde": ("kde", {}),
    AR: ("", {}),
}
MIRROR = Path(os.environ.get("ASSAY_DATA_MIRROR", "shared/data"))
SEEDS = {"autoencoder": 1, "lstm_predictor": 1, "lstm_autoencoder": 1}
ONLY = set(DETECTORS)
MOST_SEEDS = 6
RUNS = SeriesColumns("datetime", 30, "file", label="anomaly")


def cases(most: int = MOST_SEEDS) -> Iterator[tuple[int, list[str]]]:
    """Yield each seed with the detectors that are measured by it."""
    for seed in range(most):
        yield seed, [label for label in DETECTORS if label in ONLY and seed < SEEDS.get(label, most)]


def skab() -> pd.DataFrame:
    """Return the steps of the pump rig."""
    frame = pd.read_csv(MIRROR / "wider" / "skab_all.csv.gz", sep=";")
    return frame.fillna({"anomaly": 0, "changepoint": 0})


def as_users_bring(frame: pd.DataFrame, columns: SeriesColumns, leave_out: tuple[str, ...] = ()) -> Dataset:
    """Return a table of steps as `assay ingest --series` takes it from a CSV file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "steps.csv"
        frame.to_csv(path, index=False)
        return read_series(path, columns, name="steps", treatment=Treatment(leave_out=leave_out), dialect=Dialect())


class Fitted:
    """A scaler and a detector, or the null model, fitted on training windows."""

    def __init__(self, label: str, modality: Modality, train: Floats, seed: int, epochs: int | None = None) -> None:
        self.scaler = modality.scaler().fit(train)
        scaled = self.scaler.transform(train)
        name, params = DETECTORS[label]
        params = params if epochs is None else params | {"epochs": epochs}
        self.null = modality.null_model().fit(scaled)
        self.detector = name and make_detector(name, params, seed=seed, modality=modality, device="cpu").fit(scaled)

    def __call__(self, rows: Floats) -> Floats:
        """Return the scores of raw windows."""
        scaled = self.scaler.transform(rows)
        return self.detector.decision_function(scaled) if self.detector else self.null.hardness(scaled)


def over_steps(scores: Floats, starts: NDArray[np.intp], length: int, n: int) -> dict[str, Floats]:
    """Return the score of each of n steps by three rules, NaN where no window lies over it."""
    least, most = np.full(n, np.inf), np.full(n, -np.inf)
    total, count = np.zeros(n), np.zeros(n)
    for offset in range(length):
        np.minimum.at(least, starts + offset, scores)
        np.maximum.at(most, starts + offset, scores)
        np.add.at(total, starts + offset, scores)
        np.add.at(count, starts + offset, 1)
    with np.errstate(invalid="ignore"):
        return {"least": least, "mean": total / count, "most": most}


def ranges(marks: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return first step and end of each stretch of marked steps, of shape (k, 2)."""
    return np.flatnonzero(np.diff(np.r_[False, marks, False].astype(np.int8))).reshape(-1, 2)


def covered(stretches: NDArray[np.intp], marks: NDArray[np.bool_]) -> float:
    """Return the mean share of the steps of each stretch that are marked; NaN where there is no stretch.

    Of anomalies by flags the recall of ranges, of flags by anomalies their precision (Tatbul et al. 2018, equations 4
    to 6, with alpha 0, a flat bias and no penalty for several pieces). No point is adjusted.
    """
    return float(np.mean([marks[first:end].mean() for first, end in stretches])) if len(stretches) else np.nan


def spread(values: pd.Series) -> str:
    """Format 100 times the mean ± standard deviation."""
    values = values.dropna()
    if len(values) == 1:
        return f"{100 * values.mean():.1f}"
    return f"{100 * values.mean():.1f} ± {100 * values.std():.1f}"


def table(rows: list[Result], by: list[str]) -> str:
    """Return a table of means ± standard deviations, one line for each value of the columns `by`."""
    frame = pd.DataFrame(rows)
    numbers = [name for name in frame.columns if name not in (*by, "run", "seed")]
    words = ["| " + " | ".join([*by, "seeds", *numbers]) + " |", "|---" * (len(by) + 1 + len(numbers)) + "|"]
    for key, group in frame.groupby(by, sort=False):
        n_seeds = str(group["seed"].nunique())
        cells = [n_seeds] + [
            f"{group[name].mean():.0f}" if name == "blocks" else spread(group[name]) for name in numbers
        ]
        words.append("| " + " | ".join([*map(str, key if isinstance(key, tuple) else (key,)), *cells]) + " |")
    return "\n".join(words)


def merged(old: str, new: str) -> str:
    """Return tables with the lines of a new one: in place of those with the same cells before "seeds", or behind."""
    lines = old.splitlines()
    (head, *_), *_ = ([line for line in new.splitlines() if line.startswith("|")],)
    if head not in lines:
        return new
    n_by = [cell.strip() for cell in head.split("|")].index("seeds") - 1
    first = lines.index(head) + 2
    for line in (line for line in new.splitlines() if line.startswith("| ") and line != head):
        key = line.split("|")[1 : n_by + 1]
        end = next((i for i in range(first, len(lines)) if not lines[i].startswith("|")), len(lines))
        same = [i for i in range(first, end) if lines[i].split("|")[1 : n_by + 1] == key]
        lines[same[0] if same else end : same[0] + 1 if same else end] = [line]
    return "\n".join(lines)
