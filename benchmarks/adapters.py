"""Score adapters on public sets: autoencoder with and without CADET beside kNN and Isolation Forest.

Protocol: for each of 5 seeds the rows are split anew by content hash (train .40, adapt, calibration, selection,
test .15 each of the normals; half of the anomalies are the injection pool, a quarter is tested on). Training rows
are the train normals plus injected pool anomalies at rho; the test rows of a seed are the same for every rho and
every detector. All settings are the product's defaults; none was chosen by labels of these five sets, with one
exception: the convolutional form of the autoencoder was designed on scikit-learn's digits (other digits as the
anomaly; its learning rate and epochs also looked at with digit 0), which are among the images of optdigits. Labels
of other sets (breast_cancer, cardio, thyroid) served as development sets, for the activation of the autoencoder and
the default prior weight of CADET. Scores are judged by AUROC and AUPRC on the test rows; mean and standard
deviation over the seeds are printed.

Usage: python benchmarks/adapters.py            (ASSAY_DATA_MIRROR or network access for the public sets)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.progress import track

from assay.calibration.adapters import make_adapter
from assay.calibration.hardness import make_null_model
from assay.calibration.outputs import Outputs
from assay.data.contamination import inject
from assay.data.dataset import Dataset
from assay.data.registry import load_named
from assay.data.scaling import scaler_for
from assay.data.splitting import split_rows
from assay.detectors.registry import make_detector
from assay.evaluation.metrics import auprc, auroc

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "benchmarks" / "adapters.md"
SEEDS = range(5)
LEVELS = {
    "satellite": (0, 0.01, 0.1),
    "satimage-2": (0, 0.01),
    "optdigits": (0, 0.01),
    "pendigits": (0, 0.01),
    "vertebral": (0, 0.01, 0.1),
}
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("none", {}),
    "cadet": ("cadet", {}),
    "cadet-no-prior": ("cadet", {"prior_weight": 0}),
}
CANDIDATES = (
    ("autoencoder", "none"),
    ("autoencoder", "cadet"),
    ("autoencoder", "cadet-no-prior"),
    ("knn", "none"),
    ("isolation_forest", "none"),
)


def measure(dataset: Dataset, seed: int) -> Iterator[dict[str, Any]]:
    """Yield AUROC and AUPRC of every candidate at every level of one split."""
    card = dataset.card
    parts = split_rows(dataset.data, card.columns, seed=seed)
    test = parts["test"]
    truth = (test.labels == 1).astype(np.int8)
    levels = inject(
        parts["train"],
        parts["pool"],
        levels=LEVELS[card.name],
        source="pool",
        seed=seed,
        columns=card.columns,
        image_shape=card.image_shape,
    )
    for level in levels:
        features = np.concatenate([parts["train"].features, level.injected.features])
        scaler = scaler_for(card.modality).fit(features)
        scaled, adapt, tested = (scaler.transform(x) for x in (features, parts["adapt"].features, test.features))
        null_model = make_null_model(card.modality, card.image_shape).fit(scaled)
        for name in dict.fromkeys(name for name, _ in CANDIDATES):
            detector = make_detector(name, {}, seed=seed, image_shape=card.image_shape, device="cpu").fit(scaled)
            of_adapt, of_test = detector.decision_function(adapt), detector.decision_function(tested)
            for label in (label for found, label in CANDIDATES if found == name):
                kind, params = ADAPTERS[label]
                adapter = make_adapter(kind, params).fit(Outputs(of_adapt, null_model.hardness(adapt)))
                scores = adapter.transform(Outputs(of_test, null_model.hardness(tested)))
                candidate = name if label == "none" else f"{name}+{label}"
                yield {
                    "set": card.name,
                    "rho": level.rho,
                    "candidate": candidate,
                    "seed": seed,
                    "n_train": len(features),
                    "AUROC": auroc(truth, scores),
                    "AUPRC": auprc(truth, scores),
                }


def table(found: pd.DataFrame) -> str:
    """Format mean ± standard deviation over seeds as Markdown, the best mean of each column in bold."""
    order = list(dict.fromkeys(found["candidate"]))
    words = []
    for metric in ("AUROC", "AUPRC"):
        words.append(f"\n### {metric}, x 100, mean ± standard deviation over {len(SEEDS)} seeds\n")
        words.append("| set | rho | n train | " + " | ".join(order) + " |")
        words.append("|---|---|---|" + "---|" * len(order))
        for (name, rho), rows in found.groupby(["set", "rho"], sort=False):
            means = 100 * rows.groupby("candidate")[metric].mean()[order]
            deviations = 100 * rows.groupby("candidate")[metric].std()[order]
            cells = [f"{m:.1f} ± {d:.1f}" for m, d in zip(means, deviations, strict=True)]
            cells[int(np.argmax(means.to_numpy()))] = f"**{cells[int(np.argmax(means.to_numpy()))]}**"
            words.append(f"| {name} | {rho:g} | {rows['n_train'].mean():.0f} | " + " | ".join(cells) + " |")
    return "\n".join(words) + "\n"


def main() -> None:
    """Measure everything and write docs/benchmarks/adapters.md."""
    mirror = os.environ.get("ASSAY_DATA_MIRROR")
    jobs = [(name, seed) for name in LEVELS for seed in SEEDS]
    found: list[dict[str, Any]] = []
    for name, seed in track(jobs, description="measuring", disable=not sys.stderr.isatty()):
        dataset = load_named(name, mirror=Path(mirror) if mirror else None, cache=ROOT / ".assay" / "downloads")
        found += measure(dataset, seed)
    text = table(pd.DataFrame(found))
    protocol = (__doc__ or "").split("Usage:")[0].strip()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    head = f"# Score adapters\n\n{protocol}\n\nMade by `python benchmarks/adapters.py`.\n"
    OUT.write_text(head + text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
