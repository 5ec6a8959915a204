"""What ships without labels, on sets by which nothing was chosen.

The detector that is the default without labels (`select.without_labels` in params.yaml) beside fixed methods, on
eleven sets that played no part in its making: classes of MNIST and Fashion-MNIST (pixels as columns), ECG5000, and four
tables of machines. For each of 2 seeds: trained on 1,000 normals and, at rho, anomalies that nobody labels; tested on
700 other normals and up to 150 other anomalies. Rows are drawn at random (CMAPSS and SKAB are runs of machines: their
rows are not independent). All settings are the product's defaults. The share of anomalies differs from set to set.

Usage: python benchmarks/held_out.py            (ASSAY_DATA_MIRROR)
"""

from __future__ import annotations

import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from rich.progress import track

from assay.data.modalities.tabular import TABULAR
from assay.data.public_sets import load_named
from assay.detectors.registry import make_detector
from assay.evaluation.metrics import auprc, auroc

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "benchmarks" / "held_out.md"
NAMED = (*(f"{family}-{normal}" for family in ("mnist", "fashion-mnist") for normal in (0, 3, 6)), "ecg5000")
SEEDS, LEVELS = range(2), (0, 0.01, 0.05, 0.1)
N_TRAIN, N_NORMALS, N_ANOMALIES = 1000, 700, 150
LATE_CYCLES = 30
FIXED: dict[str, tuple[str, dict[str, Any]]] = {
    "knn": ("knn", {}),
    "knn, min-max": ("rescaled", {"detector": "knn"}),
    "isolation_forest": ("isolation_forest", {}),
}
Set = tuple[str, NDArray[np.float64], NDArray[np.bool_]]


def candidates() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the default of params.yaml and the fixed methods, by name."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    label = params["select"]["without_labels"]
    kind = params["detectors"][label]["detector"]
    name, settings = (kind, {}) if isinstance(kind, str) else next(iter(kind.items()))
    return {f"{label} (the default)": (name, settings), **FIXED}


def sets(mirror: Path) -> Iterator[Set]:
    """Yield name, rows and which of them are anomalies."""
    for name in NAMED:
        data = load_named(name, mirror=mirror, cache=ROOT / ".assay" / "downloads").data
        yield name, data.features.reshape(len(data.labels), -1).astype(np.float64), data.labels == 1
    wider = mirror / "wider"
    table = pd.read_csv(wider / "ai4i2020.csv")
    kinds = ("UDI", "Machine failure", "TWF", "HDF", "PWF", "OSF", "RNF")
    yield "AI4I", numbers(table, kinds), (table["Machine failure"] == 1).to_numpy()
    table = pd.read_csv(wider / "skab_all.csv.gz", sep=";")
    table = table[table["anomaly"].notna()]
    yield "SKAB", numbers(table, ("anomaly", "changepoint")), (table["anomaly"] == 1).to_numpy()
    with tarfile.open(wider / "cmapss.tar.gz") as packed:
        (member,) = [name for name in packed.getnames() if "train_FD001" in name]
        table = pd.read_csv(packed.extractfile(member), sep=r"\s+", header=None)
    late = table.groupby(0)[1].transform("max") - table[1] < LATE_CYCLES
    yield "CMAPSS FD001", table.iloc[:, 5:].to_numpy(dtype=np.float64), late.to_numpy()
    rig = np.load(wider / "hydraulic_8x60.npz")
    yield "hydraulic cooler", rig["X"].reshape(len(rig["X"]), -1).astype(np.float64), rig["profile"][:, 0] == 3


def numbers(table: pd.DataFrame, without: tuple[str, ...]) -> NDArray[np.float64]:
    """Return the columns of numbers but for some."""
    return table.select_dtypes("number").drop(columns=list(without)).to_numpy(dtype=np.float64)


def measure(name: str, rows: NDArray[np.float64], anomalous: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    """Yield what each method reaches at each level."""
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        normals, anomalies = (rng.permutation(np.flatnonzero(which)) for which in (~anomalous, anomalous))
        pool, tested = np.split(anomalies, [len(anomalies) // 2])
        test = np.concatenate([normals[N_TRAIN : N_TRAIN + N_NORMALS], tested[:N_ANOMALIES]])
        truth = anomalous[test].astype(np.int8)
        for rho in LEVELS:
            n_injected = round(rho * N_TRAIN / (1 - rho))
            if n_injected > len(pool):
                continue
            train = rows[np.concatenate([normals[:N_TRAIN], pool[:n_injected]])]
            scaler = TABULAR.scaler().fit(train)
            for method, (kind, params) in candidates().items():
                detector = make_detector(kind, params, seed=seed, device="cpu").fit(scaler.transform(train))
                scores = detector.decision_function(scaler.transform(rows[test]))
                values = {"AUPRC": 100 * auprc(truth, scores), "AUROC": 100 * auroc(truth, scores)}
                yield {"set": name, "seed": seed, "rho": rho, "method": method} | values


def differences(found: pd.DataFrame) -> str:
    """Return in words how the mean AUPRC of the default differs from that of each fixed method."""
    by_set = found.pivot_table("AUPRC", "set", "method", sort=False)
    default, *others = by_set.columns
    changes = {other: by_set[default] - by_set[other] for other in others}
    return "; ".join(f"{o} {c.mean():+.1f} ± {c.std(ddof=1) / len(c) ** 0.5:.1f}" for o, c in changes.items()) + "."


def write(found: pd.DataFrame) -> str:
    """Write held_out.md; return the text."""
    title, _, protocol = (__doc__ or "").split("Usage:")[0].strip().partition("\n\n")
    words = [f"# {title}\n\n{protocol.strip()}\n\nMade by `python benchmarks/held_out.py`."]
    for metric in ("AUPRC", "AUROC"):
        means = found.pivot_table(metric, "method", "rho", sort=False).round(1)
        words.append(f"## {metric} x 100, mean over the sets\n\n{means.to_markdown()}")
    words.append(
        "AUPRC of the default less that of a fixed method, mean over sets and levels, ± standard error over the sets: "
        + differences(found)
    )
    of_sets = found.groupby(["set", "method", "rho"], sort=False)["AUPRC"].agg(["mean", "std"]).reset_index()
    of_sets["shown"] = [f"{mean:.1f} ± {std:.1f}" for mean, std in zip(of_sets["mean"], of_sets["std"], strict=True)]
    table = of_sets.pivot_table("shown", ["set", "method"], "rho", aggfunc="first", sort=False)
    words.append(
        "## AUPRC x 100 by set, mean and standard deviation over the seeds\n\n"
        + table.reset_index().to_markdown(index=False)
    )
    text = "\n\n".join(words) + "\n"
    OUT.write_text(text, encoding="utf-8")
    return text


def main() -> None:
    """Measure everything and write docs/benchmarks/held_out.md."""
    mirror = Path(os.environ["ASSAY_DATA_MIRROR"])
    all_sets = track(sets(mirror), "sets", total=len(NAMED) + 4, disable=not sys.stderr.isatty())
    print(write(pd.DataFrame([row for one in all_sets for row in measure(*one)])))


if __name__ == "__main__":
    main()
