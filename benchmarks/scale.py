"""Unit costs behind docs/scale.md: seconds and bytes for a row, a scorer, an event and a dataset.

Costs of a row are slopes between two tables of 20 columns without labels, of 10,000 and of 60,000 rows, after a smaller
one that has modules imported: processor seconds of a step in one process, and bytes of what it writes. Below 50,000
training rows and 20,000 rows that calibrate, the most that a detector gets, costs grow with rows; above, those of train
and calibrate do not. Costs of an event are of a log of so many events of the kind that a run writes. Costs of a dataset
are those of DVC's own command for a project with so many datasets in its settings, one of which exists.

Usage: python benchmarks/scale.py          (two minutes of one processor)
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parent))
from assay.data.dataset import read_dataset
from assay.environment import set_environment
from assay.eventlog import EventLog
from assay.ledger.rows import keep_rows
from assay.project.cells import refresh_cells
from assay.project.freshness import run_verb
from assay.project.layout import Project
from assay.scorer.loading import load_scorer
from size import assay, cost, write_table

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "benchmarks" / "scale.md"
WARMING, SIZES = 4_000, (10_000, 60_000)
DETECTORS = {
    "knn": None,
    "isolation_forest": None,
    "mcd": None,
    "reach-minmax": {"detector": {"rescaled": {"detector": "reach"}}},
}
SETTINGS = {"contaminate": {"levels": [0]}, "calibrate": {}, "train": {"device": "cpu"}}


def bytes_of(folder: Path) -> int:
    """Return the bytes of the files in a folder, or of a file."""
    files = [folder] if folder.is_file() else [path for path in folder.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files)


def spent(work: Callable[[], object]) -> float:
    """Return the processor seconds of a call in this process."""
    started = time.process_time()
    work()
    return time.process_time() - started


def steps(project_root: Path, name: str) -> dict[str, tuple[float, int]]:
    """Run every stage of a dataset; return the processor seconds and the bytes of each verb, of all its cells."""
    raw = yaml.safe_load((project_root / "params.yaml").read_text())
    raw |= {"dataset": name, "datasets": [name], "detectors": {k: v or {} for k, v in DETECTORS.items()}}
    for section, values in SETTINGS.items():
        raw[section] |= values
    (project_root / "params.yaml").write_text(yaml.safe_dump(raw))
    project = Project(project_root)
    refresh_cells(project)
    costs: dict[str, tuple[float, int]] = {}
    for stage in project.stages.values():
        if stage.verb == "train" and "kept rows" not in costs:
            before = bytes_of(project.state)
            seconds = spent(lambda: keep_rows(project.root, project.events, project.dataset))
            costs["kept rows"] = (seconds, bytes_of(project.state) - before)
        seconds = spent(lambda name=stage.name: run_verb(project, name))  # type: ignore[misc]
        label = stage.verb if stage.detector is None else f"{stage.verb} {stage.detector}"
        costs[label] = (seconds, bytes_of(project.root / stage.folder))
    return costs


def of_rows(folder: Path) -> list[tuple[str, float, float, float, float]]:
    """Return by step: seconds and bytes that do not depend on rows, and those of a row."""
    project = folder / "project"
    assay(folder, "init", str(project))
    costs: dict[str, list[tuple[float, int]]] = {}
    for n in (WARMING, *SIZES):
        file = write_table(folder / f"{n}.parquet", n, 1)
        seconds, _ = cost(project, "ingest", str(file), "--name", f"rows-{n}", "--id", "id")
        costs = {"ingest": (seconds, bytes_of(project / "data" / f"rows-{n}")), **steps(project, f"rows-{n}")}
        for step, each in costs.items() if n in SIZES else ():
            costs.setdefault(step, []).append(each)
        print(n, file=sys.stderr, flush=True)
    return [
        (step, *_line([each[0] for each in pair]), *_line([float(each[1]) for each in pair]))
        for step, pair in costs.items()
    ]


def _line(values: list[float]) -> tuple[float, float]:
    """Return intercept and slope of a line through two points."""
    slope = (values[1] - values[0]) / (SIZES[1] - SIZES[0])
    return values[0] - slope * SIZES[0], slope


def of_scorer(project: Path) -> list[tuple[str, str]]:
    """Return what one scorer costs: bytes on disk, in memory, in the log, and seconds to load and to score a row."""
    import psutil

    name = f"rows-{SIZES[0]}"
    (folder,) = (path for path in (project / "work" / "package" / name).iterdir() if path.is_dir())
    load_scorer(folder)
    process, before, held = psutil.Process(), 0, []
    before = process.memory_info().rss
    seconds = spent(lambda: held.extend(load_scorer(folder) for _ in range(50)))
    memory = (process.memory_info().rss - before) / 50
    rows = read_dataset(project / "data" / name).data.features
    scoring = spent(lambda: held[0].p_values(rows[:2_000])) / 2_000
    single = spent(lambda: [held[0].p_values(rows[i : i + 1]) for i in range(200)]) / 200
    log = project / ".assay" / "events.jsonl"
    lines = log.read_bytes().splitlines()
    return [
        (
            f"bytes of a scorer with its statement ({held[0].head.get('name', name)}, trained on 3,800 rows)",
            f"{bytes_of(folder):,}",
        ),
        ("memory of a loaded one", f"{memory / 1e6:.2f} MB"),
        ("processor seconds to load it", f"{seconds / 50:.4f}"),
        ("processor seconds to judge a row, in blocks of 2,000", f"{scoring:.2e}"),
        ("processor seconds to judge a row by itself, without HTTP", f"{single:.2e}"),
        ("events of a run by its stages", f"{len(lines) // (1 + len(SIZES))}"),
        ("bytes of an event", f"{len(log.read_bytes()) / len(lines):,.0f}"),
    ]


def of_events(folder: Path) -> list[str]:
    """Return lines of a table: what a log of so many events costs."""
    lines = [
        "| events | bytes | append one, s | look for a stage of the last run, s | for one that is not there, s "
        "| begin a command, s | check all, s |",
        "|---:" * 7 + "|",
    ]
    for n in (1_000, 10_000, 100_000):
        log = EventLog(folder / f"{n}" / "events.jsonl")
        details = {
            "stage": "train",
            "dataset": "rows",
            "detector": "knn",
            "key": "0" * 64,
            "record": "0" * 64,
            "seconds": 1.0,
        }
        log.append("stage", **details)
        first = json.loads(log.path.read_bytes())
        content, previous = [], "0" * 64
        from assay.hashing import hash_bytes

        for _ in range(n):
            line = json.dumps({**first, "previous": previous}, sort_keys=True).encode()
            content.append(line)
            previous = hash_bytes(line)
        log.path.write_bytes(b"\n".join(content) + b"\n")
        log.mark.unlink()
        log.append("stage", **details | {"key": "2" * 64})
        append = spent(lambda log=log, d=details: [log.append("stage", **d) for _ in range(20)]) / 20  # type: ignore[misc]
        works = [partial(log.last, "stage", key=digit * 64) for digit in "21"]
        last, absent = map(spent, works)
        begin = spent(lambda log=log: [log.require_whole(), log.heads])  # type: ignore[misc]
        lines.append(
            f"| {n:,} | {bytes_of(log.path):,} | {append:.4f} | {last:.4f} | {absent:.3f} | {begin:.3f} "
            f"| {spent(log.check):.3f} |"
        )
    return lines


def of_datasets(project: Path) -> list[str]:
    """Return lines of a table: what so many datasets in params.yaml cost DVC and Git."""
    lines = [
        "| datasets | cells | stages | cells.yaml, bytes | `dvc status data.dvc`, s | of a stage, s |",
        "|---:" * 6 + "|",
    ]
    raw = yaml.safe_load((project / "params.yaml").read_text())
    for n in (1, 10, 100):
        names = [raw["dataset"], *(f"other-{i}" for i in range(n - 1))]
        (project / "params.yaml").write_text(yaml.safe_dump({**raw, "datasets": names}))
        refresh_cells(Project(project))
        cells = n * len(DETECTORS)
        costs = [dvc(project, "status", target) for target in ("data.dvc", f"split@{raw['dataset']}")]
        lines.append(
            f"| {n} | {cells} | {6 * n + 2 * cells} | {bytes_of(project / 'cells.yaml'):,} "
            f"| {costs[0]:.1f} | {costs[1]:.1f} |"
        )
    return lines


def dvc(project: Path, *arguments: str) -> float:
    """Return the processor seconds of a command of DVC."""
    import resource
    import subprocess

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=project, capture_output=True, check=False)
    if b"ERROR" in done.stderr:
        raise RuntimeError(done.stderr.decode())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and write docs/benchmarks/scale.md."""
    with tempfile.TemporaryDirectory(prefix="assay-scale-") as name:
        folder = Path(name)
        set_environment(folder / "project")
        rows = of_rows(folder)
        parts = [
            "| step | s, any size | s a million rows | bytes, any size | bytes a row |\n|---|---:|---:|---:|---:|",
            *(
                f"| {step} | {max(fixed, 0):.2f} | {1e6 * slope:.1f} | {max(size, 0):,.0f} | {each:.1f} |"
                for step, fixed, slope, size, each in rows
            ),
            "",
            "| a scorer, a run | |\n|---|---:|",
            *(f"| {what} | {value} |" for what, value in of_scorer(folder / "project")),
            "",
            *of_events(folder),
            "",
            *of_datasets(folder / "project"),
        ]
    protocol = (__doc__ or "").split("Usage:")[0].strip()
    load = f"load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
    text = f"# Unit costs\n\n{protocol}\n\nMade by `python benchmarks/scale.py`, {load}.\n\n"
    OUT.write_text(text + "\n".join(parts) + "\n", encoding="utf-8")
    print("\n".join(parts))


if __name__ == "__main__":
    main()
