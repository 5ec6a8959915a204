"""Seconds that the ledger takes: a question about 10,000 rows among 10^8 entries, and the keeping of a run's rows.

An entry is (run, row, use). The 10^8 entries are 200 runs, each of a data version of its own of 500,000 rows with
one use each. The versions share no row but 5,000: those are rows of the file asked about, and every version holds
them. The other 5,000 rows asked about are in none. Each version is a file of random fingerprints and of row ids, as a
run keeps it; real runs on one data version share a file, so that this is the worst case for that many entries. The
question is asked through the function behind `assay audit who-saw`, from the CSV file to the answer; starting Python
and its imports come on top. "Cold" means that the kernel was asked to drop the files from its cache.

A run's rows are kept once for each split and contamination. Its cost is held against the stages' own seconds of a run
on 50,000 rows of 20 features (kNN, Isolation Forest and MCD, two levels, no adapter).

Usage: python benchmarks/ledger.py
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from assay.data.card import Card
from assay.data.dataset import Dataset, RowSet, write_dataset
from assay.data.fingerprints import fingerprints
from assay.data.modalities.tabular import TABULAR
from assay.environment import set_environment
from assay.eventlog import EventLog
from assay.hashing import hash_bytes
from assay.ledger.ledger import ledger_folder, open_ledger
from assay.ledger.rows import keep_rows, pack, rows_folder
from assay.ledger.who_saw import who_saw
from assay.parts import write_bytes
from assay.project.ingest import ingest
from assay.project.layout import Project
from assay.project.stages import STAGES
from assay.runs import run as runs

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "benchmarks" / "ledger.md"
VERSIONS, ROWS, ASKED, SHARED = 200, 500_000, 10_000, 5_000
COLUMNS = tuple(f"x{i:02d}" for i in range(20))
SHARES = {"train": 0.40, "adapt": 0.15, "calibration": 0.15, "selection": 0.15, "test": 0.15}
QUICK = {"detectors": {"knn": {}, "isolation_forest": {}, "mcd": {}}, "adapters": ["none"]}


def make_project(root: Path, name: str) -> Project:
    """Make an empty project with the settings of this one, but three detectors and two levels."""
    root.mkdir(parents=True)
    shutil.copy(ROOT / "dvc.yaml", root)
    settings = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")) | QUICK
    settings |= {"dataset": name, "datasets": [name]}
    settings["contaminate"]["levels"] = [0, 0.05]
    (root / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return Project(root)


def fill(project: Project, planted: list[str]) -> None:
    """Keep the rows of all runs and log them, as the runs would have done."""
    rng = np.random.default_rng(1)
    uses = np.repeat(list(SHARES), [round(share * ROWS) for share in SHARES.values()])
    for number in range(VERSIONS):
        text = rng.bytes(16 * (ROWS - SHARED)).hex()
        prints = planted + [text[i : i + 32] for i in range(0, len(text), 32)]
        order = rng.permutation(ROWS)
        frame = pd.DataFrame(
            {
                "fingerprint": np.array(prints, dtype=object)[order],
                "row_id": [f"ledger-{i:07d}" for i in order],
                "use": uses,
                "rho": 0.0,
            }
        )
        about = {"dataset": "ledger", "data_version": f"{number:032x}.dir", "split": f"{number}", "contaminate": "0"}
        content = pack(frame, {**about, "columns": list(COLUMNS)})
        digest = hash_bytes(content)
        write_bytes(rows_folder(project.root) / f"{digest}.parquet", content)
        run = f"{number:032x}"
        project.events.append("run-started", run=run, driver="benchmark", dataset="ledger", commit="")
        project.events.append("rows", rows=digest, **about, counts={})
        details = {"scorer": f"ledger:{number:012x}"}
        project.events.append("stage", stage="package", dataset="ledger", record="", seconds=0, details=details)
        project.events.append("run-ended", run=run, state="completed", reason="", stages=list(STAGES))
        print(f"\r{number + 1} of {VERSIONS} versions", end="", file=sys.stderr)


def forget(folder: Path) -> None:
    """Ask the kernel to drop a folder's files from its cache."""
    for path in folder.rglob("*.parquet"):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


Spent = tuple[float, float]


def timed(work: Callable[[], object]) -> Spent:
    """Return the seconds that a call takes by the clock, and the seconds of all cores."""
    started, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - used


def questions(folder: Path) -> list[tuple[str, Spent, str]]:
    """Measure questions among all entries."""
    project = make_project(folder / "asked", "ledger")
    rng = np.random.default_rng(0)
    features = rng.normal(size=(ASKED, len(COLUMNS))).astype(np.float32)
    card = Card("ledger", TABULAR, COLUMNS, "made here")
    rows = pd.DataFrame({"row_id": ["a"], "label": [0], "group": [""], "time": [""]})
    write_dataset(project.root / "data" / "ledger", Dataset(card, RowSet(features[:1], rows)))
    content, ids = folder / "rows.csv", folder / "ids.csv"
    pd.DataFrame(features, columns=list(COLUMNS)).to_csv(content, index=False)
    pd.DataFrame({"row_id": [f"ledger-{i:07d}" for i in rng.permutation(ROWS)[:ASKED]]}).to_csv(ids, index=False)
    fill(project, fingerprints(features, COLUMNS).tolist()[:SHARED])

    def ask(path: Path, known: int) -> None:
        found = who_saw(project, path)
        assert sum(found.known) == known, sum(found.known)
        assert len(found.scorers) == len(found.runs) == VERSIONS

    size = sum(path.stat().st_size for path in rows_folder(project.root).iterdir()) / 1e9
    rebuilt = timed(lambda: open_ledger(project))
    known = [timed(lambda: ask(content, SHARED)) for _ in range(5)]
    by_id = [timed(lambda: ask(ids, ASKED)) for _ in range(3)]
    forget(project.state)
    cold = timed(lambda: ask(content, SHARED))
    shutil.rmtree(ledger_folder(project.root))
    index = timed(lambda: ask(content, SHARED))
    few = folder / "one.csv"
    pd.read_csv(content, nrows=1).to_csv(few, index=False)
    one = timed(lambda: ask(few, 1))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    total = f"{VERSIONS * ROWS:.0e}".replace("e+0", "e")
    return [
        (
            f"10,000 rows by content among {total} entries, warm, worst of 5",
            max(known),
            "target: under 10; 1e6 matches",
        ),
        ("the same, best of 5", min(known), ""),
        ("the same, cold", cold, "once"),
        ("10,000 rows by row id, all found in every version, worst of 3", max(by_id), "2e6 matches"),
        ("one row by content", one, f"once; peak memory of all this {peak:.1f} GB"),
        ("the same question where the ledger was lost", index, "every file of rows is hashed again"),
        ("the ledger built for the first time", rebuilt, f"{VERSIONS} runs, {size:.1f} GB of kept rows"),
    ]


def keeping(folder: Path) -> list[tuple[str, Spent, str]]:
    """Measure what keeping its rows adds to a run."""
    project = make_project(folder / "run", "big")
    for name in ("src", "constraints.txt"):
        (project.root / name).symlink_to(ROOT / name)
    os.chdir(project.root)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, check=True)
    set_environment(project.root)
    n = 50_000
    rng = np.random.default_rng(2)
    rows = pd.DataFrame({"row_id": [f"big-{i:07d}" for i in range(n)], "label": 0, "group": "", "time": ""})
    rows["label"] = (rng.random(n) < 0.1).astype(np.int8)
    features = rng.normal(size=(n, len(COLUMNS))).astype(np.float32)
    features[rows["label"] == 1] *= 3
    ingest(project, Dataset(Card("big", TABULAR, COLUMNS, "made here"), RowSet(features, rows)))
    for stage in project.stages:
        runs.execute(project, stage)
    spent = sum(event["seconds"] for event in project.events if event["event"] == "stage")
    kept = timed(lambda: keep_rows(project.root, EventLog(folder / "log.jsonl"), "big"))
    known = timed(lambda: keep_rows(project.root, project.events, "big"))
    shutil.rmtree(ledger_folder(project.root), ignore_errors=True)
    built = timed(lambda: open_ledger(project))
    return [
        (
            "a run's rows kept, 50,000 rows",
            kept,
            f"{kept[0] / spent:.2%} of its stages' {spent:.0f} s; target: under 5 %",
        ),
        ("the same where they are kept already", known, "at every later stage and run"),
        ("the ledger built after that run", built, "at the next question, not in the run"),
    ]


def main() -> None:
    """Measure everything and write docs/benchmarks/ledger.md."""
    with tempfile.TemporaryDirectory(prefix="assay-ledger-") as folder:
        measured = questions(Path(folder))
        measured += keeping(Path(folder))
        os.chdir(ROOT)
    lines = ["| what | seconds | of all cores | |", "|---|---|---|---|"]
    lines += [f"| {what} | {clock:.2f} | {cores:.2f} | {remark} |" for what, (clock, cores), remark in measured]
    protocol = (__doc__ or "").split("Usage:")[0].strip()
    text = "\n".join(lines) + "\n"
    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}, Python {sys.version.split()[0]}."
    made = f"{machine} Made by `python benchmarks/ledger.py`."
    OUT.write_text(f"# The ledger\n\n{protocol}\n\n{made}\n\n{text}", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
