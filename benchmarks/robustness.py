"""Robustness against contaminated training rows, label-free: detectors alone, subsampled, and trimmed.

Protocol: for each seed the rows are split anew by content hash. Training rows are the train normals plus injected
pool anomalies at rho; the test rows of a seed are the same for every rho and every detector. Where the pool is too
small for the highest level of a line, the train normals are subsampled, the same subsample for every rho of that
line including 0 (not to fewer than 100). Deviations are over seeds, thus over new splits too.
Detectors have their default parameters, on all sets the same. Only kNN is subsampled too: Isolation Forest draws
samples itself, and the autoencoder would take hours; for the same reason it has one seed, fewer lines and fewer
sets. What `trimmed` does, and its constants, were chosen on labels of cardio, optdigits, pendigits and satimage-2 (the
development sets) with 5-NN and Isolation Forest on the first seeds, and the autoencoder on one; then frozen. The
other five sets were first looked at by the run that made these tables.

A loss is against the same detector trained on the same line's rows without contaminants.

Usage: python benchmarks/robustness.py [detector ...]   (ASSAY_DATA_MIRROR or network access for the public sets)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.progress import track

from assay.data.contamination import Level, inject
from assay.data.dataset import ANOMALY, Dataset, RowSet
from assay.data.registry import load_named
from assay.data.scaling import scaler_for
from assay.data.splitting import split_rows
from assay.detectors.registry import make_detector
from assay.detectors.trimmed import Trimmed
from assay.evaluation.metrics import auprc, auroc

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "benchmarks" / "robustness.md"
FEWEST_NORMALS = 100
DEVELOPMENT = ("cardio", "optdigits", "pendigits", "satimage-2")
OTHERS = ("mammography", "satellite", "shuttle", "thyroid", "vertebral")
# The levels of each line: what all train normals allow; where anomalies are few, the higher ones on fewer normals.
LINES: dict[str, tuple[tuple[float, ...], ...]] = {
    "cardio": ((0, 0.01, 0.05, 0.1),),
    "optdigits": ((0, 0.01, 0.03), (0, 0.05, 0.1)),
    "pendigits": ((0, 0.01, 0.03), (0, 0.05, 0.1)),
    "satimage-2": ((0, 0.01), (0, 0.05, 0.1)),
    "mammography": ((0, 0.01, 0.03), (0, 0.05, 0.1)),
    "satellite": ((0, 0.01, 0.05, 0.1),),
    "shuttle": ((0, 0.01, 0.05),),
    "thyroid": ((0, 0.01, 0.02), (0, 0.05, 0.1)),
    "vertebral": ((0, 0.01, 0.05, 0.1),),
}
SEEDS = {"knn": 5, "isolation_forest": 5, "autoencoder": 1}
SUBSAMPLED = ("knn",)  # Isolation Forest draws samples itself; the autoencoder would take hours
LEFT_OUT = {"autoencoder": ("shuttle", "mammography")}
FIRST_LINE_ONLY = ("autoencoder",)
FORMS = ("alone", "subsampled", "trimmed")


def make(form: str, base: str, seed: int, image_shape: tuple[int, int] | None) -> Any:
    """Return a detector alone or in a wrapper."""
    name, params = (base, {}) if form == "alone" else (form, {"detector": base})
    return make_detector(name, params, seed=seed, image_shape=image_shape, device="cpu")


def levels_of(dataset: Dataset, levels: tuple[float, ...], seed: int) -> tuple[RowSet, list[Level], RowSet]:
    """Return train normals, contamination levels and test rows; no levels where too few normals are left."""
    parts = split_rows(dataset.data, dataset.card.columns, seed=seed)
    train, pool = parts["train"], parts["pool"]
    n_pool = int((pool.labels == ANOMALY).sum())
    n_train = min(len(train), int(n_pool * (1 - levels[-1]) / levels[-1]))
    if n_train < FEWEST_NORMALS and n_train < len(train):
        return train, [], parts["test"]
    if n_train < len(train):
        train = train.take(np.sort(np.random.default_rng(seed).choice(len(train), n_train, replace=False)))
    card = dataset.card
    found = inject(
        train, pool, levels=levels, source="pool", seed=seed, columns=card.columns, image_shape=card.image_shape
    )
    return train, found, parts["test"]


def measure(dataset: Dataset, base: str, line: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield what every form of a detector reaches at every level of one split."""
    card = dataset.card
    train, levels, test = levels_of(dataset, LINES[card.name][line], seed)
    truth = (test.labels == ANOMALY).astype(np.int8)
    for level in levels:
        features = np.concatenate([train.features, level.injected.features])
        bad = np.arange(len(features)) >= len(train)
        scaler = scaler_for(card.modality).fit(features)
        scaled, tested = scaler.transform(features), scaler.transform(test.features)
        row = {"set": card.name, "line": line, "rho": level.rho, "seed": seed, "normals": len(train), "base": base}
        for form in FORMS:
            if form == "subsampled" and base not in SUBSAMPLED:
                continue
            detector = make(form, base, seed, card.image_shape).fit(scaled)
            scores = detector.decision_function(tested)
            found = audit(detector, bad) if isinstance(detector, Trimmed) else {}
            yield row | {"form": form, "AUROC": auroc(truth, scores), "AUPRC": auprc(truth, scores)} | found


def audit(detector: Trimmed, bad: NDArray[np.bool_]) -> dict[str, float]:
    """Return how the suspects and the estimated share compare with the truth."""
    hits, truth = int((detector.suspects_ & bad).sum()), float(bad.mean())
    n_suspects = int(detector.suspects_.sum())
    return {
        "precision": hits / n_suspects if n_suspects else np.nan,
        "recall": hits / bad.sum() if bad.any() else np.nan,
        "share": detector.rho_,
        "low": detector.rho_low_,
        "high": detector.rho_high_,
        "covered": float(detector.rho_low_ <= truth <= detector.rho_high_),
    }


def starred(name: object) -> str:
    """Mark the development sets."""
    return f"{name}*" if name in DEVELOPMENT else str(name)


def table_of_losses(found: pd.DataFrame, metric: str) -> str:
    """Format mean and deviation of every form, and the loss against the detector trained clean, as Markdown."""
    forms = [form for form in FORMS if form in set(found["form"])]
    words = ["| set | normals | rho | " + " | ".join(forms) + " | " + " | ".join(f"loss {f}" for f in forms) + " |"]
    words.append("|---|---|---|" + "---|" * 2 * len(forms))
    for (name, _), rows in found.groupby(["set", "line"], sort=False):
        clean = rows[(rows["rho"] == 0) & (rows["form"] == "alone")].set_index("seed")[metric]
        for rho, level in rows.groupby("rho"):
            values = {form: level[level["form"] == form].set_index("seed")[metric] for form in forms}
            cells = [
                f"{100 * value.mean():.1f}" + (f" ± {100 * value.std():.1f}" if len(value) > 1 else "")
                for value in values.values()
            ]
            losses = [f"{100 * (clean - value).mean():+.1f}" for value in values.values()]
            words.append(
                f"| {starred(name)} | {rows['normals'].mean():.0f} | {rho:g} | " + " | ".join(cells + losses) + " |"
            )
    return "\n".join(words)


def table_of_suspects(found: pd.DataFrame) -> str:
    """Format what `trimmed` says of the training rows against the truth; it is the same for every base."""
    trimmed = found[found["form"] == "trimmed"]
    words = [
        "| set | normals | rho | precision | recall | estimate | interval | covers |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (name, _, rho), rows in trimmed.groupby(["set", "line", "rho"], sort=False):
        mean = rows.mean(numeric_only=True)
        percent = ["–" if np.isnan(mean[key]) else f"{100 * mean[key]:.0f}" for key in ("precision", "recall")]
        words.append(
            f"| {starred(name)} | {mean['normals']:.0f} | {rho:g} | {percent[0]} | {percent[1]} | "
            f"{mean['share']:.3f} | {mean['low']:.3f} to {mean['high']:.3f} | "
            f"{rows['covered'].sum():.0f} of {len(rows)} |"
        )
    return "\n".join(words)


def summary(found: pd.DataFrame) -> str:
    """Format mean AUPRC losses over lines, development sets and others apart, as Markdown."""
    words = [
        "| detector | sets | rho | lines | " + " | ".join(f"loss {f}" for f in FORMS) + " |",
        "|---|---|---|---|" + "---|" * len(FORMS),
    ]
    keys = ["set", "line", "seed"]
    for base, rows in found.groupby("base", sort=False):
        clean = rows[(rows["rho"] == 0) & (rows["form"] == "alone")].set_index(keys)["AUPRC"]
        lost = rows.assign(loss=[clean[tuple(key)] for key in rows[keys].to_numpy()] - rows["AUPRC"])
        for label, names in (("development", DEVELOPMENT), ("other", OTHERS)):
            of_sets = lost[lost["set"].isin(names)]
            for rho, level in of_sets.groupby("rho"):
                means = 100 * level.groupby("form")["loss"].mean()
                cells = [f"{means[form]:+.1f}" if form in means else "–" for form in FORMS]
                n_lines = len(level[["set", "line"]].drop_duplicates())
                words.append(f"| {base} | {label} | {rho:g} | {n_lines} | " + " | ".join(cells) + " |")
    return "\n".join(words)


def page(found: pd.DataFrame) -> str:
    """Return the page of docs/benchmarks."""
    protocol = (__doc__ or "").split("Usage:")[0].strip()
    head, rest = protocol.split("\n", 1)
    text = [f"# Robustness\n\n{head}\n{rest}\n\nMade by `python benchmarks/robustness.py`. * = development set."]
    text.append(f"## Mean AUPRC lost, x 100\n\nNegative = gained.\n\n{summary(found)}")
    for base, rows in found.groupby("base", sort=False):
        n_seeds = rows["seed"].nunique()
        for metric in ("AUPRC", "AUROC"):
            text.append(f"## {base}: {metric}, x 100, {n_seeds} seed(s)\n\n{table_of_losses(rows, metric)}")
    first = found[found["base"] == found["base"].iloc[0]]
    text.append(
        f"## Suspects against the truth\n\nIn percent; the same for every detector.\n\n{table_of_suspects(first)}"
    )
    return "\n\n".join(text) + "\n"


def main() -> None:
    """Measure everything and write docs/benchmarks/robustness.md."""
    mirror = os.environ.get("ASSAY_DATA_MIRROR")
    bases = sys.argv[1:] or list(SEEDS)
    jobs = [
        (base, name, line, seed)
        for base in bases
        for name in LINES
        if name not in LEFT_OUT.get(base, ())
        for line in range(1 if base in FIRST_LINE_ONLY else len(LINES[name]))
        for seed in range(SEEDS[base])
    ]
    found: list[dict[str, Any]] = []
    for base, name, line, seed in track(jobs, description="measuring", disable=not sys.stderr.isatty()):
        dataset = load_named(name, mirror=Path(mirror) if mirror else None, cache=ROOT / ".assay" / "downloads")
        found += measure(dataset, base, line, seed)
    text = page(pd.DataFrame(found))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
