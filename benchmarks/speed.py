"""Seconds that a user waits: a first run, a repeated run, the command line, the import, and the frameworks' share.

A first run starts from a fresh copy of the project with the environment there and nothing else: data are made,
every stage runs, the Bento is built. The frameworks' share of it is what is left when the verbs' own seconds
(from the event log) are taken away; DVC's and BentoML's commands are timed by themselves.

Usage: python benchmarks/speed.py
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "benchmarks" / "speed.md"
REPEATS = 5


def seconds(command: list[str], folder: Path) -> float:
    """Run a command in a folder with only the project's own settings, and return its wall-clock seconds."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "BENTOML_"))}
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, env=kept, check=True, capture_output=True)
    return time.perf_counter() - started


def median(command: list[str], folder: Path, repeats: int = REPEATS) -> float:
    """Return the median wall-clock seconds of a command."""
    return statistics.median(seconds(command, folder) for _ in range(repeats))


def copy_project(into: Path) -> Path:
    """Copy what Git tracks to a fresh folder with a Git repository of its own."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, into / name)
    subprocess.run(["git", "init", "-q"], cwd=into, check=True)
    return into


def stage_seconds(project: Path) -> dict[str, float]:
    """Return the stages' own seconds when they last ran, those of cells by detector."""
    events = [json.loads(line) for line in (project / ".assay/events.jsonl").read_text().splitlines()]
    stages = [event for event in events if event["event"] == "stage"]
    return {" ".join(filter(None, (event["stage"], event.get("detector")))): event["seconds"] for event in stages}


def measure() -> list[tuple[str, float, str]]:
    """Return (what, seconds, remark) rows."""
    python = sys.executable
    with tempfile.TemporaryDirectory() as folder:
        project = copy_project(Path(folder) / "project")
        first = seconds(["assay", "run"], project)
        stages = stage_seconds(project)
        rows = [
            ("`assay run`, first, fresh copy", first, "target: under 90"),
            ("`assay run`, nothing changed", median(["assay", "run"], project), "target: under 10"),
            ("`assay --help`", median(["assay", "--help"], project), "target: under 0.5"),
            (
                "`import assay`",
                median([python, "-c", "import assay"], project),
                "target: under 0.3, interpreter included",
            ),
            ("`python -c pass`", median([python, "-c", "pass"], project), "for comparison"),
        ]
        rows += [(f"verb {name}", spent, "its own work, in the first run") for name, spent in stages.items()]
        spare = first - sum(stages.values())
        rows.append(("frameworks in the first run", spare, "Prefect's start, DVC, BentoML, imports"))
        rows.append(("the same per stage", spare / len(stages), ""))
        rows.append(
            ("`dvc status`", median(["dvc", "status"], project, 3), "once before a run, once after an unchanged one")
        )
        rows.append(("`dvc commit -f`, all stages", median(["dvc", "commit", "-f", "-q"], project, 3), "once a run"))
        shutil.rmtree(project / "work")
        rows.append(("`dvc checkout`", seconds(["dvc", "checkout"], project), "all outputs back from the cache"))
        forced = seconds(["dvc", "repro", "--force"], project)
        spare = forced - sum(stage_seconds(project).values())
        rows.append(("`dvc repro --force`", forced, "the other driver, every stage, a process for each"))
        rows.append(("frameworks in it, per stage", spare / len(stages), "DVC, BentoML, imports"))
    return rows


def main() -> None:
    """Measure everything and write docs/benchmarks/speed.md."""
    lines = ["| what | seconds | |", "|---|---|---|"]
    lines += [f"| {what} | {spent:.2f} | {remark} |" for what, spent, remark in measure()]
    protocol = (__doc__ or "").split("Usage:")[0].strip()
    machine = (
        f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, medians of {REPEATS} where a command is repeated."
    )
    text = "\n".join(lines) + "\n"
    _, mark, rates = OUT.read_text(encoding="utf-8").partition("\n## ")  # of rates.py
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(
        f"# Speed\n\n{protocol}\n\n{machine} Made by `python benchmarks/speed.py`.\n\n{text}{mark}{rates}",
        encoding="utf-8",
    )
    print(text)


if __name__ == "__main__":
    main()
