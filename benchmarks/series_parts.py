"""What the sections of `benchmarks/series.py` share: detectors, scores of steps, tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assay.data.modalities.base import Modality
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
    "kde": ("kde", {}),
    AR: ("", {}),
}


class Fitted:
    """A scaler and a detector, or the null model, fitted on training windows."""

    def __init__(self, label: str, modality: Modality, train: Floats, seed: int) -> None:
        self.scaler = modality.scaler().fit(train)
        scaled = self.scaler.transform(train)
        name, params = DETECTORS[label]
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


def spread(values: pd.Series) -> str:
    """Format 100 times the mean ± standard deviation."""
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
