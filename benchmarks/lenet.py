"""LeNet-type networks of the thesis beside the smaller ones that images get by default.

Protocol: the rows of the page on contaminated images (600 training images of a class, 1,000 of it and of the nine
other classes to test), class 4 of MNIST and of Fashion-MNIST, seeds 0 and 1; for NCAE, which is made for them, a
share rho of .1 of the training rows are images of the other classes.
"lenet" has the modules of Ruff (2021), appendix B.1: on MNIST `channels: [8, 4]` and a code of 32, on Fashion-MNIST
`channels: [16, 32]`, a dense layer of 64 and a code of 32. "small" is the default network, two strided 3x3 convolutions
of 8 and 16 channels, with the same code and no dense layer. One member, batches of 128, rate 3e-3, 30 epochs (NCAE and
Deep SVDD: 10 and 20); all else as by default. Nothing was chosen after a look at these numbers. CPU seconds of one
thread are those of a fit of 600 rows, and of the scores of 1,000.

Reading:

READING

Usage: python benchmarks/lenet.py          (ASSAY_DATA_MIRROR names the folder with the images; about 10 min of a core)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.progress import track

from assay.data.modalities.image import Image
from assay.detectors.registry import make_detector
from assay.errors import TrainingError
from assay.evaluation.metrics import auroc
from ncae import rows

OUT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "lenet.md"
NORMAL, SEEDS = 4, (0, 1)
COMMON: dict[str, Any] = {"latent_dim": 32, "learning_rate": 3e-3, "members": 1}
DETECTORS: dict[str, tuple[float, dict[str, Any]]] = {
    "autoencoder": (0.0, {"epochs": 30}),
    "deep_svdd": (0.0, {"pretrain_epochs": 10, "epochs": 20}),
    "ncae": (0.1, {"warm_up": 10, "epochs": 20}),
}
LENET: dict[str, dict[str, Any]] = {
    "mnist": {"channels": [8, 4], "hidden": []},
    "fashion-mnist": {"channels": [16, 32], "hidden": [64]},
}


def measure(collection: str, seed: int) -> Iterator[dict[str, Any]]:
    """Yield what each detector with each network reaches on one draw."""
    normals, others, tested, truth = rows(collection, NORMAL, seed)
    for kind, (rho, params) in DETECTORS.items():
        train = np.concatenate([normals, others[: round(rho / (1 - rho) * len(normals))]])
        for network, layers in {"small": {"hidden": []}, "lenet": LENET[collection]}.items():
            result: dict[str, Any] = {"set": collection, "rho": rho, "detector": kind, "network": network}
            start = time.process_time()
            given = COMMON | params | layers
            detector = make_detector(kind, given, seed=seed, device="cpu", modality=Image((28, 28)))
            try:
                detector.fit(train)
            except TrainingError as error:
                print(error)
                yield result
                continue
            fitted = time.process_time()
            scores = detector.decision_function(tested)
            spent = (time.process_time() - fitted) * 1000 / len(tested)
            area = 100 * auroc(truth, scores)
            yield result | {"AUROC": area, "fit, CPU s": fitted - start, "1,000 scores, CPU s": spent}


def document(results: pd.DataFrame) -> str:
    """Return the page."""
    columns = ["set", "rho", "detector", "network", "AUROC", "fit, CPU s", "1,000 scores, CPU s"]
    words = ["# LeNet-type networks", "", (__doc__ or "").rsplit("Usage:", 1)[0].strip(), ""]
    words += ["Made by `python benchmarks/lenet.py`.", "", f"### AUROC x 100, {len(SEEDS)} seeds", ""]
    words += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for key, group in results.groupby(columns[:4], sort=False):
        lost = int(group["AUROC"].isna().sum())
        cells = [f"{group['AUROC'].mean():.1f} ± {group['AUROC'].std():.1f}" + f"; {lost} collapsed" * (lost > 0)]
        cells += [f"{group[column].mean():.1f}" for column in columns[5:]]
        words.append(f"| {' | '.join([*map(str, key), *cells])} |")
    return "\n".join(words) + "\n"


def main() -> int:
    """Measure all and write the page."""
    torch.set_num_threads(1)
    tasks = [(collection, seed) for collection in LENET for seed in SEEDS]
    results: list[dict[str, Any]] = []
    for task in track(tasks, "measuring"):
        for row in measure(*task):
            results.append(row)
            OUT.write_text(document(pd.DataFrame(results)), encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
