"""Contradicting training: the monotone sequences of its paper, and heartbeats.

**Sequences** (figure 1 of the paper): ten sorted uniform numbers, six of which are read and four predicted; increasing
ones are normal, decreasing ones anomalous. Training holds 2,000 increasing sequences (5,000 in the paper: fewer do,
since the task is easy), unlabelled decreasing ones for a contamination of alpha, and 20 labelled decreasing ones;
500 of either kind are tested on. The base is one LSTM (in the paper an MLP) of 16 units, 40 epochs, learning rate
.02, equal for every curve. "ramp loss" is weight 1 without a bound. Deep SAD and DevNet get the same rows, flat,
with their defaults. The rows without label 1 are the same for all curves; those without use for labels get none.

**Heartbeats** (ECG5000): normal = class 1, anomaly = any other class. New split by hash for each seed
(train .38 of the normals, test .12; half of the anomalies are the pool, .18 are tested on). To the training
normals come hidden anomalies of the pool at rho and, for those that use labels, labelled ones, 1 % of the training
normals. All settings are the defaults, but for the LSTMs: 2 members, four samples as one step, and learning rate .01
and 60 epochs also where they are contradicted. Nothing was chosen by labels of this set; the default bound was chosen
on cardio, breast_cancer and the sequences, and the learning rate of the LSTM by its training loss here.

Usage: python benchmarks/contradicting.py            (ASSAY_DATA_MIRROR for the heartbeats)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.progress import track

from assay.data.dataset import Dataset
from assay.data.modalities.series import Series
from assay.data.public_sets import load_named
from assay.data.splitting import split_rows
from assay.detectors.registry import detector_class, make_detector
from assay.evaluation.metrics import auprc, auroc

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "benchmarks" / "contradicting.md"
PICTURE = OUT.with_name("contradicting.png")

Floats = NDArray[np.float32]
Candidate = tuple[str, dict[str, Any]]

ALPHAS = (0.0, 0.01, 0.02, 0.03, 0.05)
SYNTHETIC_SEEDS = range(5)
SMALL: dict[str, Any] = {"units": 16, "epochs": 40, "learning_rate": 2e-2, "members": 1}
AGAINST: dict[str, Any] = {"base": "lstm_predictor", **SMALL}
SYNTHETIC: dict[str, Candidate] = {
    "baseline": ("lstm_predictor", SMALL),
    "ramp loss": ("contradicting", {**AGAINST, "weight": 1.0, "bound": "none"}),
    "weight 20, no bound": ("contradicting", {**AGAINST, "bound": "none"}),
    "weight 20, log": ("contradicting", {**AGAINST, "bound": "log"}),
    "weight 20, clip": ("contradicting", {**AGAINST, "bound": "clip"}),
    "deep_sad": ("deep_sad", {}),
    "devnet": ("devnet", {}),
}

LEVELS = (0.0, 0.05, 0.1)
ECG_SEEDS = range(3)
LABELLED = 0.01
STEPS = (35, 4)
SLOWER: dict[str, Any] = {"epochs": 60, "learning_rate": 1e-2, "members": 2}
ECG: dict[str, Candidate] = {
    "knn": ("knn", {}),
    "isolation_forest": ("isolation_forest", {}),
    "autoencoder": ("autoencoder", {}),
    "contradicting, autoencoder": ("contradicting", {}),
    "lstm_predictor": ("lstm_predictor", SLOWER),
    "contradicting, lstm_predictor": ("contradicting", {"base": "lstm_predictor", **SLOWER}),
    "contradicting, lstm, no bound": ("contradicting", {"base": "lstm_predictor", "bound": "none", **SLOWER}),
    "deep_sad": ("deep_sad", {}),
    "devnet": ("devnet", {}),
}


def sequences(rng: np.random.Generator, n: int, *, falling: bool = False) -> Floats:
    """Return sorted uniform numbers, of shape (n, 10), with the deviation 1."""
    x = (np.sort(rng.random((n, 10)), axis=1) - 0.5) * np.sqrt(12)
    return np.asarray(x[:, ::-1] if falling else x, dtype=np.float32)


def measure(
    candidate: Candidate, unlabelled: Floats, labelled: Floats, tested: Floats, truth: NDArray[np.int8], **by_run: Any
) -> dict[str, float]:
    """Fit a candidate, with the labelled anomalies if it uses them, and judge its scores of the tested rows."""
    name, params = candidate
    detector = make_detector(name, params, device="cpu", **by_run)
    if detector_class(name).uses_labels:
        labels = np.repeat(np.array([-1, 1], dtype=np.int8), [len(unlabelled), len(labelled)])
        detector.fit(np.concatenate([unlabelled, labelled]), labels)
    else:
        detector.fit(unlabelled)
    scores = detector.decision_function(tested)
    return {"AUROC": auroc(truth, scores), "AUPRC": auprc(truth, scores)}


def synthetic(seed: int) -> Iterator[dict[str, Any]]:
    """Yield what every candidate reaches on the sequences at every contamination."""
    rng = np.random.default_rng(seed)
    normal, labelled, hidden = sequences(rng, 2000), *(sequences(rng, n, falling=True) for n in (20, 106))
    tested = np.concatenate([sequences(rng, 500), sequences(rng, 500, falling=True)])
    truth = np.repeat(np.array([0, 1], dtype=np.int8), 500)
    for alpha in ALPHAS:
        n_hidden = round(alpha / (1 - alpha) * len(normal))
        unlabelled = np.concatenate([normal, hidden[:n_hidden]])
        for label, candidate in SYNTHETIC.items():
            judged = measure(candidate, unlabelled, labelled, tested, truth, seed=seed)
            yield {"contamination": alpha, "candidate": label, "seed": seed, **judged}


def heartbeats(dataset: Dataset, seed: int) -> Iterator[dict[str, Any]]:
    """Yield what every candidate reaches on one split of ECG5000 at every contamination."""
    card = dataset.card
    parts = split_rows(dataset.data, card.columns, seed=seed)
    normal, test = parts["train"].features, parts["test"]
    pool = np.random.default_rng(seed).permutation(parts["pool"].features)
    n_labelled = round(LABELLED * len(normal))
    truth = (test.labels == 1).astype(np.int8)
    for rho in LEVELS:
        n_hidden = round(rho / (1 - rho) * len(normal))
        unlabelled = np.concatenate([normal, pool[n_labelled : n_labelled + n_hidden]])
        scaler = card.modality.scaler().fit(unlabelled)
        rows, labelled, tested = (scaler.transform(x) for x in (unlabelled, pool[:n_labelled], test.features))
        for label, candidate in ECG.items():
            judged = measure(candidate, rows, labelled, tested, truth, seed=seed, modality=Series(STEPS))
            yield {"contamination": rho, "candidate": label, "seed": seed, **judged}


def table(found: pd.DataFrame, first: str) -> str:
    """Format mean ± standard deviation over seeds as Markdown, the best means of each row in bold."""
    order = list(dict.fromkeys(found["candidate"]))
    n_seeds = found["seed"].nunique()
    words = []
    for metric in ("AUPRC", "AUROC"):
        words.append(f"\n### {metric}, x 100, mean ± standard deviation over {n_seeds} seeds\n")
        words.append(f"| {first} | " + " | ".join(order) + " |")
        words.append("|---|" + "---|" * len(order))
        for level, rows in found.groupby("contamination", sort=False):
            means = 100 * rows.groupby("candidate")[metric].mean()[order]
            deviations = 100 * rows.groupby("candidate")[metric].std()[order]
            cells = [f"{m:.1f} ± {d:.1f}" for m, d in zip(means, deviations, strict=True)]
            best = f"{means.max():.1f} "
            cells = [f"**{cell}**" if cell.startswith(best) else cell for cell in cells]
            words.append(f"| {level:g} | " + " | ".join(cells) + " |")
    return "\n".join(words) + "\n"


def draw(found: pd.DataFrame) -> None:
    """Draw figure 1 of the paper: AUPRC against contamination."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    groups = (list(SYNTHETIC)[:3], ["baseline", *list(SYNTHETIC)[3:]])
    for axis, names in zip(axes, groups, strict=True):
        for name in names:
            rows = found[found["candidate"] == name].groupby("contamination")["AUPRC"]
            axis.errorbar(100 * np.array(ALPHAS), rows.mean(), rows.std(), marker="o", ms=3, capsize=2, label=name)
        axis.set_xlabel("contamination, %")
        axis.legend(fontsize=8)
    axes[0].set_ylabel("AUPRC")
    figure.savefig(PICTURE, dpi=90)


def main() -> None:
    """Measure everything, write docs/benchmarks/contradicting.md and the picture beside it."""
    quiet = not sys.stderr.isatty()
    rows = [row for seed in track(SYNTHETIC_SEEDS, "sequences", disable=quiet) for row in synthetic(seed)]
    made = pd.DataFrame(rows)
    draw(made)
    mirror = os.environ.get("ASSAY_DATA_MIRROR")
    dataset = load_named("ecg5000", mirror=Path(mirror) if mirror else None, cache=ROOT / ".assay" / "downloads")
    rows = [row for seed in track(ECG_SEEDS, "heartbeats", disable=quiet) for row in heartbeats(dataset, seed)]
    protocol = (__doc__ or "").split("Usage:")[0].strip()
    text = (
        f"# Contradicting training\n\n{protocol}\n\nMade by `python benchmarks/contradicting.py`.\n\n## Sequences\n\n"
        f"![AUPRC against contamination]({PICTURE.name})\n{table(made, 'alpha')}"
        f"\n## Heartbeats\n{table(pd.DataFrame(rows), 'rho')}"
    )
    OUT.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
