"""A sweep beside PyOD: 9 public sets x 6 detectors x 5 seeds at 4 levels of contamination; and 1,000 tiny cells.

What is lost against PyOD stands first. kNN, Isolation Forest and PCA cost more here: a cell spends .2 s on calibration,
evaluation and files, which PyOD does not do, and that is most of what PCA costs. Our PCA ranks below PyOD's: it scores
what is left outside the leading components (the Q statistic), PyOD's a distance along all of them. One Deep SVDD ranks
about as PyOD's does. The aim for networks, five times less processor time, is met; so is half a second of overhead.

Protocol of the first table: `assay sweep` with two processes of one thread each, injected rows made by the recipe
"cluster", so that every set has the four levels 0, .01, .05 and .1; optdigits is taken as a table. Networks have widths
64 and 32, 10 epochs, batches of 32 and the rates of [Speed of training](training.md), as PyOD's have; ours are five
members trained as one network, and PyOD's are five networks, one after the other. PyOD is given the same training rows,
scaled by them, at one seed and one level (.05), one network of each kind, in one process and on one thread, and scores
the same test rows. It costs that many times more for all seeds and levels, and five times more for five networks, which
is computed, not measured.

CPU seconds of a cell are all of it: training, calibration and evaluation at four levels, and reading and writing
between them. Those of PyOD are fit and scores alone. Seconds by the clock are of a machine that others used too.

Protocol of the last table: "tiny" is 1,000 cells of 240 rows of 3 columns, kNN by 1 to 20 neighbours, 50 seeds, one
level; "nine" are the cells of above. Overhead is what is left of the time of a cell when its training, calibration and
evaluation are taken away; CPU is that of the command, of its Prefect server and of its processes.

Usage: python benchmarks/sweep.py FOLDER SECONDS [tiny] [nine] [pyod]      (ASSAY_DATA_MIRROR)
A part ends after so many seconds, and goes on when it is called again with the same FOLDER.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "benchmarks" / "sweep.md"
SETS = ("vertebral", "cardio", "thyroid", "optdigits-flat", "satimage-2", "satellite", "pendigits")
SETS += ("mammography", "shuttle")
IMAGES, FLAT = "optdigits", "optdigits-flat"  # images, taken as a table, as the other sets are
LEVELS, SEEDS, MEMBERS = (0, 0.01, 0.05, 0.1), 5, 5
NETWORKS = ("autoencoder", "deep_svdd")
COMMON = "hidden: [64], latent_dim: 32, epochs: 10, batch_size: 32"
DETECTORS = f"""\
  knn: {{}}
  isolation_forest: {{}}
  mcd: {{}}
  pca: {{}}
  autoencoder: {{{COMMON}, learning_rate: 0.001}}
  deep_svdd: {{{COMMON}, learning_rate: 0.0001, pretrain_epochs: 0}}
"""


def assay(project: Path, *arguments: str, limit: float | None = None) -> tuple[str, float, float]:
    """Run `assay`; return its output, and the seconds and CPU seconds of it and of all that it started."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = ["timeout", "-s", "INT", f"{limit:.0f}", "assay"] if limit else ["assay"]
    done = subprocess.run([*command, *arguments], cwd=project, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if done.returncode not in (0, 124, 130):
        raise RuntimeError(f"{arguments}: {done.stderr[-2000:]}")
    return done.stdout, time.perf_counter() - started, cpu


def make_project(folder: Path) -> Path:
    """Make a project with the nine sets and a tiny table, unless there is one."""
    project = folder / "project"
    if not project.is_dir():
        assay(folder, "init", str(project))
        for name in SETS:
            assay(project, "ingest", IMAGES if name == FLAT else name)
        pixels = pd.DataFrame(np.load(project / "data" / IMAGES / "features.npy")).add_prefix("pixel_")
        pixels["bad"] = pd.read_csv(project / "data" / IMAGES / "rows.csv")["label"]
        pixels.to_csv(folder / f"{FLAT}.csv", index=False)
        assay(project, "ingest", str(folder / f"{FLAT}.csv"), "--name", FLAT, "--label", "bad")
        rng = np.random.default_rng(0)
        rows = np.r_[rng.normal(size=(200, 3)), rng.normal(3, 1, (40, 3))]
        pd.DataFrame(rows, columns=["a", "b", "c"]).assign(bad=np.repeat([0, 1], [200, 40])).to_csv(folder / "tiny.csv")
        assay(project, "ingest", str(folder / "tiny.csv"), "--name", "tiny", "--label", "bad")
        params = project / "params.yaml"
        text = params.read_text().replace("source: auto", "source: cluster").replace("device: auto", "device: cpu")
        params.write_text(text)
    define(project, "nine", SETS, DETECTORS, range(SEEDS), LEVELS)
    tiny = "".join(f"  knn-{k}: {{detector: knn, n_neighbors: {k}}}\n" for k in range(1, 21))
    define(project, "tiny", ("tiny",), tiny, range(50), (0,))
    return project


def define(project: Path, name: str, sets: Any, detectors: str, seeds: Any, levels: Any) -> None:
    """Write the definition of a sweep."""
    path = project / "sweeps" / name / "sweep.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"datasets: [{', '.join(sets)}]\nseeds: {list(seeds)}\nlevels: {list(levels)}\ndetectors:\n{detectors}"
    )


def pyod_of(detector: str, width: int) -> Any:
    """Return PyOD's detector."""
    if detector in NETWORKS:
        from training import pyod

        return pyod(detector, 0, width)
    from pyod.models.iforest import IForest
    from pyod.models.knn import KNN
    from pyod.models.mcd import MCD
    from pyod.models.pca import PCA

    kinds = {"knn": KNN, "isolation_forest": IForest, "mcd": MCD, "pca": PCA}
    return kinds[detector]() if detector == "knn" else kinds[detector](random_state=0)


def measure_pyod(project: Path, limit: float) -> pd.DataFrame:
    """Fit each detector of PyOD once on each set, on the rows of seed 0 at level .05, unless it is measured already."""
    from assay.data.scaling import Standard
    from assay.evaluation.metrics import auprc
    from assay.pipeline.rows import evidence_rows, level_rows
    from assay.project.layout import Project
    from assay.project.sweeping import prepare_rows, read_cells

    kept = project.parent / "pyod.json"
    results: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.is_file() else []
    begun = time.perf_counter()
    for cell in read_cells(Project(project), "nine"):
        name = cell.detector
        if time.perf_counter() - begun > limit:
            break
        if cell.seed or any((row["dataset"], row["detector"]) == (cell.dataset, name) for row in results):
            continue
        rows = prepare_rows(project, cell)
        train = level_rows(rows / "split" / "train", rows / "contaminate", "level-0.05")
        normals, anomalies, _ = evidence_rows(rows / "split" / "test")
        scaler = Standard().fit(train.features)
        scaled, tested = (
            scaler.transform(part) for part in (train.features, np.r_[normals.features, anomalies.features])
        )
        pyod_of(name, 4).fit(np.random.default_rng(0).normal(size=(100, 4)))  # imports are not to count
        started, cpu = time.perf_counter(), time.process_time()
        detector = pyod_of(name, scaled.shape[1]).fit(scaled)
        scores = detector.decision_function(tested)
        spent = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}
        truth = np.repeat([0, 1], [len(normals), len(anomalies)]).astype(np.int8)
        results.append({"dataset": cell.dataset, "detector": name, **spent, "auprc": auprc(truth, scores)})
        kept.write_text(json.dumps(results))
    return pd.DataFrame(results)


def beside(results: pd.DataFrame, pyod: pd.DataFrame) -> str:
    """Return the table of CPU seconds beside PyOD, of the cells that are finished on both sides."""
    single = pyod.set_index(["dataset", "detector"])
    results = results[results["reason"].isna() & results.set_index(["dataset", "detector"]).index.isin(single.index)]
    cells = results.drop_duplicates(["dataset", "detector", "seed"])
    heads = "| | sets | cells | Assay, CPU s | PyOD, CPU s | PyOD / Assay | one network each | AUPRC at .05 | PyOD's |"
    rows = [heads, "|---|" + "---:|" * 8]
    classical = [name for name in dict.fromkeys(pyod["detector"]) if name not in NETWORKS]
    for group, names in (("classical", classical), ("networks", list(NETWORKS))):
        for title, chosen in [*((name, [name]) for name in names), (f"**all {group}**", names)]:
            own = cells[cells["detector"].isin(chosen)]
            if not len(own):
                continue
            counts = own.groupby(["dataset", "detector"]).size()
            theirs = float((single["cpu"].reindex(counts.index) * counts).sum()) * len(LEVELS)
            ours, members = float(own["cell_cpu_seconds"].sum()), MEMBERS if group == "networks" else 1
            at = results[(results["level"] == 0.05) & (results["seed"] == 0) & results["detector"].isin(chosen)]
            score = single["auprc"].reindex(pd.MultiIndex.from_frame(at[["dataset", "detector"]])).mean()
            rows.append(
                f"| {title} | {own['dataset'].nunique()} | {len(own)} | {ours:,.0f} | {members * theirs:,.0f} "
                f"| {members * theirs / ours:.1f} | {theirs / ours:.1f} "
                f"| {100 * at['auprc'].mean():.1f} | {100 * score:.1f} |"
            )
    return "\n".join(rows)


def main() -> None:
    """Go on with the named parts for so many seconds, and write docs/benchmarks/sweep.md of what is finished."""
    import torch

    warnings.simplefilter("ignore")  # PyOD's own
    torch.set_num_threads(1)
    folder, limit, parts = Path(sys.argv[1]).resolve(), float(sys.argv[2]), sys.argv[3:] or ["tiny", "nine", "pyod"]
    folder.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(Path(__file__).parent))
    project, kept, ends = make_project(folder), folder / "spent.json", time.monotonic() + limit
    spent: dict[str, list[float]] = json.loads(kept.read_text()) if kept.is_file() else {}
    # One seed of all sets first, so that what time allows is of all of them.
    for name, seeds in (("tiny", 50), ("nine", 1), ("nine", SEEDS)):
        if name not in parts or (begun := time.monotonic()) > ends:
            continue
        if name == "nine":
            define(project, name, SETS, DETECTORS, range(seeds), LEVELS)
        _, wall, cpu = assay(project, "sweep", name, "--json", "--at-once", "2", limit=max(ends - begun, 10))
        locked = (project / ".assay" / "prefect-server.log").read_text(errors="replace").count("database is locked")
        spent[name] = [a + b for a, b in zip(spent.get(name, [0, 0, 0, 0]), (wall, cpu, locked, 1), strict=True)]
        kept.write_text(json.dumps(spent))
    write_page(project, spent, measure_pyod(project, limit if "pyod" in parts else 0))


def finished(project: Path, name: str) -> tuple[pd.DataFrame, int]:
    """Return the table of the finished cells of a sweep, and the number of all."""
    from assay.project.layout import Project
    from assay.project.sweeping import read_cells
    from assay.runs.sweeps import kept_path, write_results

    cells = read_cells(Project(project), name)
    write_results(project, name, [cell for cell in cells if kept_path(project, cell).is_file()], {})
    return pd.read_parquet(project / "sweeps" / name / "results.parquet"), len(cells)


def write_page(project: Path, spent: dict[str, list[float]], pyod: pd.DataFrame) -> None:
    """Write the page."""
    tables = {name: finished(project, name) for name in spent}
    lines = [
        "| sweep | cells | commands | wall s | CPU s | CPU s of cells | overhead a cell, CPU s | locked | failed |",
        "|---|" + "---:|" * 8,
    ]
    for name, (table, n_all) in tables.items():
        part = table.drop_duplicates(["dataset", "detector", "seed"])
        wall, cpu, locked, n_calls = spent[name]
        over = (cpu - part["cell_cpu_seconds"].sum()) / len(part)
        lines.append(
            f"| {name} | {len(part):,} of {n_all:,} | {n_calls:.0f} | {wall:,.0f} | {cpu:,.0f} "
            f"| {part['cell_cpu_seconds'].sum():,.0f} | {over:.2f} | {locked:.0f} | {part['reason'].notna().sum()} |"
        )
    protocol = (__doc__ or "").split("Usage:")[0].strip()
    load = f"load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
    text = f"# Sweeps\n\n{protocol}\n\nMade by `python benchmarks/sweep.py`, {load}.\n\n"
    text += beside(tables["nine"][0], pyod) + "\n\n" if "nine" in tables and len(pyod) else ""
    text += "\n".join(lines) + "\n"
    OUT.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
