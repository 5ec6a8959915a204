"""How many steps an autoencoder needs: AUPRC and time of a fit by the most steps that it may take.

Protocol: public tables with more than 4,000 normal rows, of which four fifths train and the others are tested with all
anomalies, three seeds of rows and networks, three members; and 5,200 training images of a class of MNIST, tested on
4,000 other images of all classes, five classes, one seed, one member. Columns are standardised, pixels too. All else is
the default: batches of 128, at most 150 epochs, whose learning rate falls to zero over the epochs there are. Time is
processor seconds of one thread.

Reading: on tables 6,000 steps, the bound of these, cost half a point on shuttle for a fifth of the time, gain 3.6 on
mammography, and change nothing where there are fewer than 5,000 rows; 3,000 cost 8 points on pendigits. On images
3,000, their bound, cost nothing, and 1,500 a tenth of a point. Time varies by a third with what else the machine does.

Usage: python benchmarks/steps.py          (ASSAY_DATA_MIRROR names the folder with the data; about 15 min of a core)
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.progress import track

from assay.detectors.methods.autoencoder import Autoencoder
from assay.evaluation.metrics import auprc

OUT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "steps.md"
TABLES = ("23_mammography", "26_optdigits", "28_pendigits", "30_satellite", "31_satimage-2", "32_shuttle")
MOST = {"tables": (None, 6_000, 3_000, 1_500), "images": (None, 3_000, 1_500)}
UNBOUNDED = 10**9
Drawn = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int8]]


def standardised(train: NDArray[Any], test: NDArray[Any], truth: NDArray[Any]) -> Drawn:
    """Return training and test rows in standard deviations of the former, and the truth."""
    mean, sd = train.mean(axis=0), train.std(axis=0)
    sd[sd == 0] = 1
    return ((train - mean) / sd).astype(np.float32), ((test - mean) / sd).astype(np.float32), truth.astype(np.int8)


def table(mirror: Path, name: str, seed: int) -> Drawn:
    """Return one draw of a table."""
    with np.load(mirror / "adbench" / f"{name}.npz") as archive:
        X, y = archive["X"].astype(float), archive["y"]
    normals = np.random.default_rng(seed).permutation(X[y == 0])
    n = int(0.8 * len(normals))
    test = np.concatenate([normals[n:], X[y == 1]])
    return standardised(normals[:n], test, np.arange(len(test)) >= len(normals) - n)


def digit(mirror: Path, normal: int) -> Drawn:
    """Return the images of a class of MNIST to train on, and others to test."""
    with np.load(mirror / "mnist_70k_uint8.npz") as archive:
        X, y, X_test, y_test = (
            archive[name] for name in ("train_images", "train_labels", "test_images", "test_labels")
        )
    tested = np.random.default_rng(normal).permutation(len(X_test))[:4_000]
    train, test = (images.reshape(-1, 784) / 255 for images in (X[y == normal][:5_200], X_test[tested]))
    return standardised(train, test, y_test[tested] != normal)


def measure(mirror: Path, kind: str, name: str | int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield what each bound gives on one draw."""
    train, test, truth = table(mirror, str(name), seed) if kind == "tables" else digit(mirror, int(name))
    settings: dict[str, Any] = {"members": 3} if kind == "tables" else {"members": 1, "image_shape": (28, 28)}
    for most in MOST[kind]:
        start = time.process_time()
        detector = Autoencoder(max_steps=most or UNBOUNDED, seed=seed, device="cpu", **settings).fit(train)
        spent = time.process_time() - start
        area = 100 * auprc(truth, detector.decision_function(test))
        bound = "150 epochs" if most is None else f"{most:,} steps"
        label = str(name).partition("_")[2] or f"MNIST {name}"
        yield {"kind": kind, "set": label, "rows": len(train), "bound": bound, "AUPRC": area, "s": spent}


def document(results: pd.DataFrame) -> str:
    """Return the page."""
    lines = ["# Steps", "", (__doc__ or "").rsplit("Usage:", 1)[0].strip(), ""]
    lines += ["Made by `python benchmarks/steps.py`."]
    for kind, group in results.groupby("kind", sort=False):
        bounds = list(group["bound"].unique())
        lines += ["", f"## {str(kind).capitalize()}: AUPRC x 100, and seconds of a fit", ""]
        lines += [f"| set | training rows | {' | '.join(bounds)} |", "|---|---:|" + "---:|" * len(bounds)]
        for name, of_set in group.groupby("set", sort=False):
            cells = [_cell(of_set[of_set["bound"] == bound]) for bound in bounds]
            lines.append(f"| {name} | {of_set['rows'].iloc[0]:,} | {' | '.join(cells)} |")
        means = [group[group["bound"] == bound] for bound in bounds]
        cells = [f"{part['AUPRC'].mean():.1f}, {part['s'].mean():.1f} s" for part in means]
        lines.append(f"| mean | | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(part: pd.DataFrame) -> str:
    deviation = f" ± {part['AUPRC'].std():.1f}" if len(part) > 1 else ""
    return f"{part['AUPRC'].mean():.1f}{deviation}, {part['s'].mean():.1f} s"


def main() -> int:
    """Measure all and write the page."""
    torch.set_num_threads(1)
    mirror = Path(os.environ["ASSAY_DATA_MIRROR"])
    tasks: list[tuple[str, str | int, int]] = [("tables", name, seed) for name in TABLES for seed in range(3)]
    tasks += [("images", normal, 0) for normal in (0, 2, 4, 5, 8)]
    results: list[dict[str, Any]] = []
    for task in track(tasks, "measuring"):
        results += measure(mirror, *task)
        OUT.write_text(document(pd.DataFrame(results)), encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
