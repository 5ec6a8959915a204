"""Every detector on nine public tabular sets, with more and more contamination in the training rows.

Protocol: for each of 3 seeds the rows are split anew by hash. Trained on: at most 1,000 of the train normals,
the same for every level, plus anomalies of the injection pool at rho, which nobody labels. Tested on: the selection
and test rows (25 % of the normals, 36 % of the anomalies), the same for every level and every detector, so that what
changes with rho is caused by it. Detectors that learn from labels get labelled anomalies besides, one for every
hundred training normals, from the same pool; no other detector sees those. Levels that a set's pool does not reach
are left out. All settings are the product's defaults, equal for all sets (kNN, LOF and reach are also shown on min-max
scaled rows); none was chosen by labels of these sets, with these exceptions: cardio and thyroid served as development
sets for the activation of the autoencoder, and all of them (with kNN and Isolation Forest) for `trimmed`. Rows are
flat here, those of optdigits too. What a run ships, by which labels, is on ships.md. Mean and standard deviation over
the seeds; seconds are processor time of the fit.

Usage: python benchmarks/detection.py [processes]      (ASSAY_DATA_MIRROR or network access for the public sets)
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.progress import track

from assay.data.contamination import choose_labelled, inject
from assay.data.dataset import RowSet
from assay.data.modalities.tabular import TABULAR
from assay.data.public_sets import load_named
from assay.data.splitting import split_rows
from assay.detectors.registry import DETECTORS, make_detector
from assay.errors import PoolTooSmallError, TrainingError
from assay.evaluation.metrics import auprc, auroc

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "benchmarks"
SEEDS = range(3)
LEVELS = (0, 0.01, 0.05, 0.1, 0.2)
MOST_NORMALS = 1_000
SETS = (
    "cardio",
    "mammography",
    "optdigits",
    "pendigits",
    "satellite",
    "satimage-2",
    "shuttle",
    "thyroid",
    "vertebral",
)
WITHOUT = (
    "lstm_predictor",
    "rescaled",
    "subsampled",
    "trimmed",
    "blend",
)  # for series; wrappers, listed with what they wrap
CANDIDATES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in DETECTORS if name not in WITHOUT},
    "rapp (sap)": ("rapp", {"score": "sap"}),
    "deep_svdd (soft)": ("deep_svdd", {"objective": "soft-boundary"}),
    "knn, min-max": ("rescaled", {"detector": "knn"}),
    "lof, min-max": ("rescaled", {"detector": "lof"}),
    "reach, min-max": ("rescaled", {"detector": "reach"}),
    "subsampled knn": ("subsampled", {"detector": "knn"}),
    "trimmed knn": ("trimmed", {"detector": "knn"}),
    "trimmed autoencoder": ("trimmed", {"detector": "autoencoder"}),
    "trimmed isolation_forest": ("trimmed", {"detector": "isolation_forest"}),
    "OneClassSVM": ("sklearn.svm.OneClassSVM", {}),
    "HBOS (PyOD)": ("pyod.models.hbos.HBOS", {}),
}


def measure(job: tuple[str, int]) -> list[dict[str, Any]]:
    """Return what every candidate reaches at every level of one split of one set."""
    import torch

    torch.set_num_threads(1)
    name, seed = job
    mirror = os.environ.get("ASSAY_DATA_MIRROR")
    dataset = load_named(name, mirror=Path(mirror) if mirror else None, cache=ROOT / ".assay" / "downloads")
    columns = dataset.card.columns
    parts = split_rows(dataset.data, columns, seed=seed)
    train = parts["train"]
    drawn = np.random.default_rng(seed).permutation(len(train))[:MOST_NORMALS]
    train = train.take(np.sort(drawn))
    tested = [parts[role] for role in ("selection", "test")]
    truth = np.concatenate([part.labels == 1 for part in tested]).astype(np.int8)
    test = np.concatenate([part.features for part in tested])
    labelled, rest = choose_labelled(parts["pool"], share=0.01, n_train=len(train), seed=seed)
    found = []
    for rho in LEVELS:
        try:
            level = inject(
                train, rest, levels=[0, rho][rho == 0 :], source="pool", seed=seed, modality=TABULAR, columns=columns
            )[-1]
        except PoolTooSmallError:
            break
        for row in _judge(train, level.injected, labelled, test, truth, seed):
            found.append({"set": name, "rho": rho, "seed": seed, "n": len(train), **row})
    return found


def _judge(
    train: RowSet, injected: RowSet, labelled: RowSet, test: np.ndarray[Any, Any], truth: Any, seed: int
) -> list[dict[str, Any]]:
    features = np.concatenate([train.features, injected.features])
    scaler = TABULAR.scaler().fit(features)
    scaled, known, tested = (scaler.transform(x) for x in (features, labelled.features, test))
    found = []
    for candidate, (kind, params) in CANDIDATES.items():
        detector = make_detector(kind, params, seed=seed, device="cpu")
        rows, labels = scaled, np.full(len(scaled), -1)
        if detector.uses_labels:
            rows, labels = np.concatenate([scaled, known]), np.append(labels, np.ones(len(known), dtype=int))
        started = time.process_time()
        try:
            detector.fit(rows, labels)
        except TrainingError as error:
            found.append({"candidate": candidate, "failure": str(error)})
            continue
        seconds = time.process_time() - started
        scores = detector.decision_function(tested)
        found.append(
            {
                "candidate": candidate,
                "seconds": seconds,
                "AUROC": 100 * auroc(truth, scores),
                "AUPRC": 100 * auprc(truth, scores),
            }
        )
    return found


def summary(found: pd.DataFrame, metric: str) -> str:
    """Format the mean over the sets that reach a level, and the change from rho 0 on the same sets."""
    means = found.groupby(["candidate", "rho", "set"], sort=False)[metric].mean()
    levels = [rho for rho in LEVELS if rho in means.index.get_level_values("rho")]
    counts = {rho: found.loc[found["rho"] == rho, "set"].nunique() for rho in levels}
    words = [f"\n### {metric} x 100, mean over the sets that reach a level (change from rho 0 on the same sets)\n"]
    words.append("| detector | " + " | ".join(f"rho {rho:g} ({counts[rho]} sets)" for rho in levels) + " |")
    words.append("|---|" + "---|" * len(levels))
    for candidate in found["candidate"].drop_duplicates():
        cells = []
        for rho in levels:
            now = means.get(candidate).get(rho) if candidate in means.index else None
            if now is None or now.isna().any():
                cells.append("fails on some")
                continue
            clean = means[candidate][0].loc[now.index]
            cells.append(f"{now.mean():.1f}" + (f" ({now.mean() - clean.mean():+.1f})" if rho else ""))
        words.append(f"| {candidate} | " + " | ".join(cells) + " |")
    return "\n".join(words) + "\n"


def details(found: pd.DataFrame) -> str:
    """Format one table for each set: AUROC and AUPRC by level."""
    words = []
    for name, rows in found.groupby("set", sort=False):
        levels = list(rows["rho"].drop_duplicates())
        words.append(f"\n### {name} ({rows['n'].mean():.0f} training normals)\n")
        words.append("| detector | " + " | ".join(f"AUROC, {r:g} | AUPRC, {r:g}" for r in levels) + " | seconds |")
        words.append("|---|" + "---|" * (2 * len(levels) + 1))
        for candidate, own in rows.groupby("candidate", sort=False):
            cells = [_cell(own[own["rho"] == rho][metric]) for rho in levels for metric in ("AUROC", "AUPRC")]
            words.append(f"| {candidate} | " + " | ".join(cells) + f" | {own['seconds'].mean():.1f} |")
    return "\n".join(words) + "\n"


def _cell(values: pd.Series[float]) -> str:
    return "fails" if values.isna().any() else f"{values.mean():.1f} ± {values.std():.1f}"


def failures(found: pd.DataFrame) -> str:
    """List what could not be trained, and why."""
    if "failure" not in found or found["failure"].isna().all():
        return ""
    words = ["\n### What could not be trained\n"]
    for (candidate, name, why), rows in found.groupby(["candidate", "set", "failure"], sort=False):
        words.append(f"- {candidate} on {name}, rho {', '.join(f'{r:g}' for r in sorted(set(rows['rho'])))}: {why}")
    return "\n".join(words) + "\n"


def picture(found: pd.DataFrame, path: Path) -> None:
    """Draw every detector's AUPRC on every set and level as a map of colours."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    means = found.pivot_table("AUPRC", "candidate", ["set", "rho"], sort=False, dropna=False).dropna(axis=1, how="all")
    figure, axes = plt.subplots(figsize=(13, 0.28 * len(means) + 2.2), layout="constrained")
    shown = axes.imshow(means.to_numpy(), cmap="viridis", vmin=0, vmax=100, aspect="auto")
    axes.set_yticks(range(len(means)), list(means.index), fontsize=8)
    axes.set_xticks(range(means.shape[1]), [f"{s} {r:g}" for s, r in means.columns], rotation=90, fontsize=7)
    figure.colorbar(shown, label="AUPRC x 100 (white: could not be trained)")
    axes.set_title("Clean and contaminated training rows: set and rho from left to right")
    figure.savefig(path, dpi=110)


def write(found: pd.DataFrame) -> str:
    """Write the page and its picture, and return the tables."""
    protocol = (__doc__ or "").split("Usage:")[0].strip()
    text = summary(found, "AUPRC") + summary(found, "AUROC") + failures(found) + details(found)
    OUT.mkdir(parents=True, exist_ok=True)
    picture(found, OUT / "detection.png")
    head = f"# Detection\n\n{protocol}\n\nMade by `python benchmarks/detection.py`.\n\n![AUPRC](detection.png)\n"
    (OUT / "detection.md").write_text(head + text, encoding="utf-8")
    return text


def main() -> None:
    """Measure everything and write docs/benchmarks/detection.md and detection.png."""
    processes = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    jobs = [(name, seed) for seed in SEEDS for name in SETS]
    found: list[dict[str, Any]] = []
    with ProcessPoolExecutor(processes) as pool:
        done = track(pool.map(measure, jobs), "measuring", total=len(jobs), disable=not sys.stderr.isatty())
        for (_, seed), rows in zip(jobs, done, strict=True):
            found += rows
            if len({row["set"] for row in found if row["seed"] == seed}) == len(SETS):
                text = write(pd.DataFrame(found))
    print(text)


if __name__ == "__main__":
    main()
