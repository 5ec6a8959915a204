"""What ships, without labels and with fifty, on sets by which nothing was chosen.

The default detector (`select.without_labels` in params.yaml) beside fixed methods and blends, on eleven sets that
played no part in its making: classes of MNIST and Fashion-MNIST (pixels as columns), ECG5000, and four tables of
machines. For each seed: trained on 1,000 normals and, at rho, anomalies that nobody labels; tested on 700 other
normals and up to 150 other anomalies. Rows are drawn at random (CMAPSS and SKAB are runs of machines: their rows are
not independent). All settings are the product's defaults. The share of anomalies differs from set to set. With 50
labels, 34 of them (9 of the selection rows, 25 of the pool, as on ships.md) and up to 350 selection normals judge, by
the product's rule, among the candidates of params.yaml but for the autoencoder, which takes too long here, and
without stress levels (`contaminate.levels: [0]`); not on the hydraulic rig, which has no normals left for that. With
ten labels a run takes the default, as without.

Usage: python benchmarks/held_out.py [seeds]    (ASSAY_DATA_MIRROR; goes on where it stopped, from .assay/held_out)
"""

from __future__ import annotations

import os
import sys
import tarfile
from collections.abc import Iterator
from itertools import product
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
from assay.errors import TrainingError
from assay.evaluation.metrics import auprc, auroc
from ships import BLENDS, DEFAULT, chosen, rates, tail

ROOT = Path(__file__).resolve().parents[1]
OUT, CACHE = ROOT / "docs" / "benchmarks" / "held_out.md", ROOT / ".assay" / "held_out"
NAMED = (*(f"{family}-{normal}" for family in ("mnist", "fashion-mnist") for normal in (0, 3, 6)), "ecg5000")
SEEDS, LEVELS = 2, (0, 0.01, 0.05, 0.1)
N_TRAIN, N_NORMALS, N_ANOMALIES = 1000, 700, 150
LATE_CYCLES = 30
N_OTHERS, N_LABELLED, N_JUDGE_FIRST = 350, 34, 9
FIXED: dict[str, tuple[str, dict[str, Any]]] = {
    "knn": ("knn", {}),
    "knn-minmax": ("rescaled", {"detector": "knn"}),
    "isolation_forest": ("isolation_forest", {}),
    "mcd": ("mcd", {}),
}
SHIPS = "ships, 50 labels"
Set = tuple[str, NDArray[np.float64], NDArray[np.bool_]]
Rows = dict[str, NDArray[Any]]


def candidates() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the default of params.yaml and the fixed methods, by name."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    label = params["select"]["without_labels"]
    kind = params["detectors"][label]["detector"]
    name, settings = (kind, {}) if isinstance(kind, str) else next(iter(kind.items()))
    return {DEFAULT: (name, settings), **FIXED}


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


def roles_of(rows: NDArray[np.float64], anomalous: NDArray[np.bool_], seed: int) -> tuple[Rows, NDArray[np.float64]]:
    """Return the rows by role, and the anomalies that nobody labels."""
    rng = np.random.default_rng(seed)
    normals, anomalies = (rng.permutation(np.flatnonzero(which)) for which in (~anomalous, anomalous))
    pool, tested = np.split(anomalies, [len(anomalies) // 2])
    rest = normals[N_TRAIN + N_NORMALS :]
    each = min(len(rest) // 3, N_OTHERS)
    parts = {"train": normals[:N_TRAIN], "test": normals[N_TRAIN : N_TRAIN + N_NORMALS]}
    parts |= {role: rest[i * each : (i + 1) * each] for i, role in enumerate(("adapt", "calibration", "selection"))}
    parts |= {"test_anom": tested[:N_ANOMALIES], "sel_anom": pool[-N_LABELLED:][:N_JUDGE_FIRST]}
    parts |= {"pool": pool[-N_LABELLED:][N_JUDGE_FIRST:]}
    return {role: rows[of] for role, of in parts.items()}, rows[pool[:-N_LABELLED]]


def scores(name: str, rows: NDArray[np.float64], anomalous: NDArray[np.bool_], seed: int) -> Rows:
    """Return the scores of all rows but the train rows, by "rho candidate role", from the cache or anew."""
    path = CACHE / f"{name}.{seed}.npz"
    if path.is_file():
        return dict(np.load(path))
    roles, unlabelled = roles_of(rows, anomalous, seed)
    scored: Rows = {}
    for rho in LEVELS:
        n_injected = round(rho * N_TRAIN / (1 - rho))
        if n_injected > len(unlabelled):
            continue
        train = np.concatenate([roles["train"], unlabelled[:n_injected]])
        scaler = TABULAR.scaler().fit(train)
        for method, (kind, params) in candidates().items():
            try:
                detector = make_detector(kind, params, seed=seed, device="cpu").fit(scaler.transform(train))
            except TrainingError:
                continue  # mcd takes at most 262 columns
            for role in roles.keys() - {"train"}:
                scored[f"{rho} {method} {role}"] = detector.decision_function(scaler.transform(roles[role]))
    CACHE.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **scored)
    return scored


def measure(name: str, rows: NDArray[np.float64], anomalous: NDArray[np.bool_], seeds: int) -> Iterator[dict[str, Any]]:
    """Yield what each method reaches at each level."""
    for seed, rho in product(range(seeds), LEVELS):
        by: dict[tuple[float, str], Rows] = {}
        for key, values in scores(name, rows, anomalous, seed).items():
            level, method, role = key.split(" ")
            if float(level) == rho:
                by.setdefault((0.0, method), {})[role] = values
        fixed = {method: of for (_, method), of in by.items()}
        if not fixed:
            continue
        if not len(fixed[DEFAULT]["selection"]):  # no normals are left over to judge or to calibrate by
            for method, of in fixed.items():
                yield {"set": name, "seed": seed, "rho": rho, "method": method} | ranks(of)
            continue
        which = chosen(by, default=DEFAULT)
        for method, of in {**fixed, SHIPS: fixed[which or DEFAULT]}.items():
            yield {"set": name, "seed": seed, "rho": rho, "method": method, "which": which} | rates(of) | ranks(of)
        for blend, members in BLENDS.items():
            if fixed.keys() >= set(members):
                parts = [tail(fixed[each], is_distance=each != "isolation_forest") for each in members]
                of = {role: np.sum([part[role] for part in parts], axis=0) for role in ("test", "test_anom")}
                yield {"set": name, "seed": seed, "rho": rho, "method": blend} | ranks(of)


def ranks(rows: Rows) -> dict[str, float]:
    """Return AUPRC and AUROC x 100 of the test rows."""
    truth = np.repeat([0, 1], [len(rows["test"]), len(rows["test_anom"])]).astype(np.int8)
    both = np.concatenate([rows["test"], rows["test_anom"]])
    return {"AUPRC": 100 * auprc(truth, both), "AUROC": 100 * auroc(truth, both)}


def differences(results: pd.DataFrame) -> str:
    """Return in words how the mean AUPRC of others differs from that of the default, over sets and levels."""
    by_set = results.pivot_table("AUPRC", "set", "method", sort=False)
    words = []
    for other in by_set.columns.drop(DEFAULT):
        change = (by_set[other] - by_set[DEFAULT]).dropna()
        few = f" on {len(change)} sets" if len(change) < len(by_set) else ""
        words.append(f"{other} {change.mean():+.1f} ± {change.std(ddof=1) / len(change) ** 0.5:.1f}{few}")
    return "; ".join(words) + "."


def labelled(results: pd.DataFrame) -> str:
    """Return in words what 50 labels chose, on which sets it was worse, and the false-positive rates."""
    table = results.pivot_table("AUPRC", ["set", "rho"], "method", sort=False)
    change = (table[SHIPS] - table[DEFAULT]).dropna().groupby("set", sort=False).mean()
    rows, without = (results[(results["method"] == method) & results["FPR"].notna()] for method in (SHIPS, DEFAULT))
    shares = rows["which"].replace("", "nothing").value_counts(normalize=True)
    chosen_by = ", ".join(f"{which} {share:.0%}" for which, share in shares.items())
    by_set = ", ".join(f"{name} {value:+.1f}" for name, value in change.items())
    rates_of = [f"{each['FPR'].mean():.4f} ({each['inside'].mean():.0%})" for each in (without, rows)]
    return (
        f"With 50 labels less without, AUPRC by set, mean over levels and seeds: {by_set}. Chosen: {chosen_by}. "
        f"False-positive rates at eps .05, mean over all (share inside the 95 % band of one scorer): {rates_of[0]} "
        f"without, {rates_of[1]} with labels, where {rows['expected'].mean():.4f} is expected."
    )


def write(results: pd.DataFrame) -> str:
    """Write held_out.md; return the text."""
    title, _, protocol = (__doc__ or "").split("Usage:")[0].strip().partition("\n\n")
    words = [f"# {title}\n\n{protocol.strip()}"]
    words.append(f"{results['seed'].nunique()} seeds. Made by `python benchmarks/held_out.py`.")
    words.append(
        "AUPRC of others less that of the default, mean over sets and levels, ± standard error over the sets: "
        + differences(results)
    )
    words.append(labelled(results))
    everywhere = results.groupby("method")["set"].transform("nunique") == results["set"].nunique()
    for metric in ("AUPRC", "AUROC"):
        means = results[everywhere].pivot_table(metric, "method", "rho", sort=False).round(1)
        words.append(f"## {metric} x 100, mean over the sets\n\n{means.to_markdown()}")
    of_sets = results[~results["method"].isin(BLENDS)].groupby(["set", "method", "rho"], sort=False)["AUPRC"]
    of_sets = of_sets.agg(["mean", "std"]).reset_index()
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
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS
    all_sets = track(sets(mirror), "sets", total=len(NAMED) + 4, disable=not sys.stderr.isatty())
    print(write(pd.DataFrame([row for one in all_sets for row in measure(*one, seeds)])))


if __name__ == "__main__":
    main()
