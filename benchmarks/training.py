"""Speed of training beside PyOD's AutoEncoder and DeepSVDD, and of many members trained as one network.

Protocol: PyOD and Assay in one process, on one CPU thread, on the same rows: 60 % of a set's normals, standardised by
them; AUROC on the other rows. Same widths (64 and 32), epochs, batch size (32) and learning rate for both; PyOD's
autoencoder has batch normalisation and dropout besides, as it comes; ours holds a tenth of the rows out for early
stopping, which so few epochs do not reach. Every fit is made three times, with three seeds; time is the least of the
three, AUROC their mean and deviation. So many members as stated are trained as one network; "per member" is
the time divided by them. "Products alone" is the time of nothing but the matrix products of so many steps, at these
sizes, by the same library on the same thread.

Reading: one network by itself is trained 2.3 to 4.5 times as fast as PyOD's, ten at once 10.5 to 19.8 times as fast
each, fifty 14 to 25 times, with AUROCs that are higher. We had wished for ten times as fast for one alone, and ten
in at most twice, fifty in at most eight times the time of one. On this machine these exclude each other: were one
autoencoder trained on satellite in a tenth of PyOD's time, ten would have .15 s and fifty .6 s, and their matrix
products alone take .15 s and .76 s. For one alone, most of the rest is autograd's own time; derivatives written by
hand for two methods would save about half of it, and are not worth a second way to train.

Usage: python benchmarks/training.py            (ASSAY_DATA_MIRROR or network access for the public sets)
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.progress import track

from assay.data.public_sets import load_named
from assay.data.scaling import Standard
from assay.detectors.methods.autoencoder import Autoencoder
from assay.detectors.methods.deep_svdd import DeepSVDD
from assay.evaluation.metrics import auroc

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "benchmarks" / "training.md"
SETS = ("satellite", "shuttle")
EPOCHS, BATCH = 10, 32
RATES = {"autoencoder": 1e-3, "deep_svdd": 1e-4}
Rows = np.ndarray[Any, np.dtype[np.float32]]


def pyod(method: str, seed: int, width: int) -> Any:
    """Return PyOD's detector with the protocol's settings."""
    if method == "autoencoder":
        from pyod.models.auto_encoder import AutoEncoder

        return AutoEncoder(
            hidden_neuron_list=[64, 32],
            epoch_num=EPOCHS,
            batch_size=BATCH,
            lr=RATES[method],
            verbose=0,
            random_state=seed,
        )
    from pyod.models.deep_svdd import DeepSVDD as PyODDeepSVDD

    return PyODDeepSVDD(
        n_features=width,
        hidden_neurons=[64, 32],
        epochs=EPOCHS,
        batch_size=BATCH,
        learning_rate=RATES[method],
        verbose=0,
        random_state=seed,
    )


def ours(method: str, seed: int, members: int) -> Any:
    """Return our detector with the protocol's settings."""
    how: dict[str, Any] = {"epochs": EPOCHS, "batch_size": BATCH, "learning_rate": RATES[method], "members": members}
    if method == "autoencoder":
        return Autoencoder(hidden=(64,), latent_dim=32, device="cpu", seed=seed, **how)
    return DeepSVDD(hidden=(64,), latent_dim=32, pretrain_epochs=0, device="cpu", seed=seed, **how)


def rows_of(name: str) -> tuple[Rows, Rows, Any]:
    """Return training rows, test rows and the truth of the latter."""
    mirror = os.environ.get("ASSAY_DATA_MIRROR")
    data = load_named(name, mirror=Path(mirror) if mirror else None, cache=ROOT / ".assay" / "downloads").data
    normals = np.random.default_rng(0).permutation(np.flatnonzero(data.labels == 0))
    chosen = normals[: int(0.6 * len(normals))]
    scaler = Standard().fit(data.features[chosen])
    rest = np.setdiff1d(np.arange(len(data)), chosen)
    return scaler.transform(data.features[chosen]), scaler.transform(data.features[rest]), data.labels[rest] == 1


def timed(make: Callable[[int], Any], train: Rows, test: Rows, truth: Any) -> tuple[float, list[float]]:
    """Return the least seconds of three fits, and the AUROC of each."""
    seconds, found = [], []
    for seed in range(3):
        detector = make(seed)
        started = time.perf_counter()
        detector.fit(train)
        seconds.append(time.perf_counter() - started)
        found.append(100 * auroc(truth.astype(np.int8), detector.decision_function(test)))
    return min(seconds), found


def products(method: str, width: int, n_rows: int, members: int) -> float:
    """Return the seconds of the matrix products of a fit, and of nothing else."""
    widths = [width, 64, 32, 64, width] if method == "autoencoder" else [width, 64, 32]
    pairs = []
    for layer, (n_in, n_out) in enumerate(pairwise(widths)):
        x, weight, gradient = (torch.randn(members, *shape) for shape in ((BATCH, n_in), (n_in, n_out), (BATCH, n_out)))
        pairs += [(x, weight), (x.transpose(1, 2), gradient)]
        pairs += [(gradient, weight.transpose(1, 2))] if layer else []
    trained = n_rows - int(0.1 * n_rows) if method == "autoencoder" else n_rows  # the others are held out
    n_steps = EPOCHS * -(-trained // BATCH)
    repeats, best = max(10, 1000 // members), float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(repeats):
            for left, right in pairs:
                torch.bmm(left, right)
        best = min(best, (time.perf_counter() - started) / repeats)
    return best * n_steps


def measure(name: str, method: str) -> list[dict[str, Any]]:
    """Measure a method on a set: PyOD's, and ours with 1, 10 and 50 members."""
    train, test, truth = rows_of(name)
    jobs: list[tuple[str, int, Callable[[int], Any]]] = [("PyOD", 1, lambda s: pyod(method, s, train.shape[1]))]
    jobs += [(f"Assay, {m}", m, lambda s, m=m: ours(method, s, m)) for m in (1, 10, 50)]  # type: ignore[misc]
    found = []
    for who, members, make in jobs:
        seconds, areas = timed(make, train, test, truth)
        row = {"set": name, "method": method, "who": who, "members": members, "seconds": seconds, "areas": areas}
        alone = products(method, train.shape[1], len(train), members) if who != "PyOD" else float("nan")
        found.append(row | {"products": alone})
    return found


def table(found: list[dict[str, Any]]) -> str:
    """Format the times and their ratios as Markdown."""
    heads = (
        "seconds",
        "per member",
        "PyOD's seconds / per member",
        "seconds / one member's",
        "products alone",
        "AUROC",
    )
    words = ["| set | method | | " + " | ".join(heads) + " |", "|---" * (3 + len(heads)) + "|"]
    frame = pd.DataFrame(found)
    for (name, method), rows in frame.groupby(["set", "method"], sort=False):
        theirs, one = rows["seconds"].iloc[0], rows["seconds"].iloc[1]
        for row in rows.to_dict("records"):
            each = row["seconds"] / row["members"]
            cells = [f"{row['seconds']:.2f}", f"{each:.3f}", "", "", ""]
            if row["who"] != "PyOD":
                cells[2:] = [f"{theirs / each:.1f}", f"{row['seconds'] / one:.1f}", f"{row['products']:.2f}"]
            cells.append(f"{np.mean(row['areas']):.1f} ± {np.std(row['areas'], ddof=1):.1f}")
            words.append(f"| {name} | {method} | {row['who']} | " + " | ".join(cells) + " |")
    return "\n".join(words) + "\n"


def main() -> None:
    """Measure everything and write docs/benchmarks/training.md."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # PyOD's own
    jobs = [(name, method) for name in SETS for method in RATES]
    found: list[dict[str, Any]] = []
    for name, method in track(jobs, description="measuring", disable=not sys.stderr.isatty()):
        found += measure(name, method)
    text = table(found)
    protocol = (__doc__ or "").split("Usage:")[0].strip()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(
        f"# Speed of training\n\n{protocol}\n\nMade by `python benchmarks/training.py`.\n\n{text}", encoding="utf-8"
    )
    print(text)


if __name__ == "__main__":
    main()
