"""How time and memory of `assay ingest`, `assay score` and the default run grow with the number of rows.

Tables of 20 columns, which five factors and noise make, with an id, as Parquet and as CSV. The scorers are Isolation
Forest, and `reach` on min-max scaled rows, what ships without labels, with 3,800 training rows (it keeps up to
10,000). The run is that of the settings of `assay init`, without labels, stage by stage. Each command is a process of
its own; its processor seconds and its largest memory are what the system counted for it.

Usage: python benchmarks/size.py [ROWS ...] [parquet] [csv]. What the page has of other sizes and kinds stays.
       python benchmarks/size.py run ROWS COLUMNS prints what `assay ingest`, `run` and `score` take from end to end.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
from matplotlib.figure import Figure
from pyarrow import csv, parquet

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "benchmarks" / "size.md"
PICTURE = OUT.with_suffix(".png")
TRAINED_ON, COLUMNS, FACTORS = 10_000, 20, 5
AT_ONCE, MOST_MEMORY = 1_000_000, 6  # rows; GB
VERBS = ("split", "contaminate", "validate", "train", "calibrate", "select", "evaluate", "package")
MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)
sys.exit(done.stderr if done.returncode else 0)
"""


def write_table(path: Path, n: int, seed: int, width: int = COLUMNS) -> Path:
    """Write n rows as Parquet or CSV."""
    rng = np.random.default_rng(seed)
    loadings = np.random.default_rng(0).normal(size=(FACTORS, width))
    schema = pa.schema({"id": pa.int64(), **{f"x{i}": pa.float64() for i in range(width)}})
    with (parquet.ParquetWriter if path.suffix == ".parquet" else csv.CSVWriter)(path, schema) as writer:
        for start in range(0, n, AT_ONCE):
            m = min(AT_ONCE, n - start)
            rows = rng.normal(size=(m, FACTORS)) @ loadings + 0.3 * rng.normal(size=(m, width))
            columns = [pa.array(np.arange(start, start + m)), *(pa.array(column) for column in rows.round(4).T.copy())]
            writer.write_table(pa.table(columns, schema=schema))
    return path


def assay(project: Path, *arguments: str) -> str:
    """Run a command in a project, and return what it printed."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "BENTOML_"))}
    command = [str(Path(sys.executable).with_name("assay")), *arguments]
    return subprocess.run(command, cwd=project, env=kept, check=True, capture_output=True, text=True).stdout


def cost(project: Path, *arguments: str) -> tuple[float, float]:
    """Return the processor seconds and the largest memory, in bytes, of a command in a project."""
    command = [sys.executable, "-c", MEASURE, str(Path(sys.executable).with_name("assay")), *arguments]
    seconds, peak = subprocess.run(command, cwd=project, check=True, capture_output=True, text=True).stdout.split()
    return float(seconds), float(peak)


def by_the_clock(project: Path, *arguments: str) -> str:
    """Return the seconds of a command, its processor seconds, and the most that all its processes held at once."""
    before, started, peak = os.times(), time.perf_counter(), 0.0
    with subprocess.Popen(
        [str(Path(sys.executable).with_name("assay")), *arguments], cwd=project, stdout=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            held = 0.0
            for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
                with suppress(psutil.Error):
                    held += each.memory_full_info().pss
            peak = max(peak, held)
            time.sleep(1)
    after = os.times()
    if process.returncode:
        raise SystemExit(f"assay {' '.join(arguments)}: exit code {process.returncode}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return f"{time.perf_counter() - started:,.0f} s by the clock, {cpu:,.0f} processor seconds, {peak / 1e9:.2f} GB"


def whole(n: int, width: int) -> None:
    """Print what a default run takes on a table without labels, and what comes before and after it."""
    with tempfile.TemporaryDirectory() as name:
        folder, project = Path(name), Path(name) / "project"
        assay(folder, "init", str(project))
        file = write_table(folder / "rows.parquet", n, 2, width)
        print(f"{n:,} rows x {width} columns", flush=True)
        for what in (
            ["ingest", str(file), "--name", "rows", "--id", "id"],
            ["run", "--dataset", "rows"],
            ["score", str(file), "--out", str(folder / "scored.parquet")],
        ):
            print(f"assay {what[0]}: {by_the_clock(project, *what)}", flush=True)


def make_scorers(project: Path, folder: Path) -> dict[str, str]:
    """Return the tags of the scorers, by the label of the detector."""
    assay(folder, "init", str(project))
    of_init = (project / "params.yaml").read_text()
    settings = of_init.replace("  autoencoder: {}\n", "")
    assay(project, "ingest", str(write_table(folder / "first.parquet", TRAINED_ON, 1)), "--name", "rows", "--id", "id")
    tags = {}
    for label in ("isolation_forest", "reach-minmax"):
        chosen = settings.replace("without_labels: reach-minmax", f"without_labels: {label}")
        (project / "params.yaml").write_text(chosen)
        tags[label] = json.loads(assay(project, "run", "--dataset", "rows", "--no-deploy", "--json"))["scorer"]
        settings = (
            (project / "params.yaml").read_text().replace(f"without_labels: {label}", "without_labels: reach-minmax")
        )
        (version,) = (path for path in (project / "work/package/rows").iterdir() if path.is_dir())
        shutil.copytree(version, project / "scorers/rows" / version.name, dirs_exist_ok=True)
    (project / "params.yaml").write_text(of_init)
    return tags


def measure(sizes: list[int], kinds: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the cost of each command at each size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        project = folder / "project"
        tags = make_scorers(project, folder)
        for n, kind in product(sizes, kinds):
            file, data = write_table(folder / f"{n}.{kind}", n, 2), f"{kind}-{n}"
            commands = {f"assay ingest, {kind}": ["ingest", str(file), "--name", data, "--id", "id"]}
            for label, tag in tags.items():
                if label == "isolation_forest" or kind == "parquet":
                    commands[f"assay score, {kind}, {label}"] = ["score", str(file), tag, "--out", f"{file}.out.{kind}"]
            if kind == "parquet":
                for verb in VERBS:
                    commands[f"{verb} of a run"] = ["stage", verb]
            for what, arguments in commands.items():
                if arguments == ["stage", VERBS[0]]:
                    settings = project / "params.yaml"
                    one = re.sub(r"(?m)^dataset: .*$", f"dataset: {data}", settings.read_text())
                    settings.write_text(re.sub(r"(?m)^datasets: .*$", f"datasets: [{data}]", one))
                seconds, peak = cost(project, *arguments)
                yield {"command": what, "rows": n, "seconds": seconds, "peak": peak}
                print(f"{what}, {n:,} rows: {seconds:.1f} s, {peak / 1e9:.2f} GB", flush=True)
            file.unlink()
            shutil.rmtree(project / "data" / data)
            shutil.rmtree(project / "work" / data, ignore_errors=True)


def measured_before() -> list[dict[str, Any]]:
    """Return the costs that the page has."""
    rows = [line.strip("| ").split(" | ") for line in OUT.read_text(encoding="utf-8").splitlines() if " s, " in line]
    head = next(line for line in OUT.read_text(encoding="utf-8").splitlines() if line.startswith("| command"))
    sizes = [int(re.sub(r"\D", "", cell)) for cell in head.strip("| ").split(" | ")[1:]]
    costs = []
    for what, *cells in rows:
        for n, cell in zip(sizes, cells, strict=False):
            if measured := re.fullmatch(r"\**([\d.,]+) s, ([\d.]+) GB\**", cell.strip()):
                seconds, peak = (float(number.replace(",", "")) for number in measured.groups())
                costs.append({"command": what, "rows": n, "seconds": seconds, "peak": peak * 1e9})
    return costs


def draw(costs: pd.DataFrame) -> None:
    """Draw seconds and memory against the number of rows, on logarithmic axes, the run as a whole, with its aims."""
    run = costs[costs["command"].str.endswith("of a run")]
    whole = run.groupby("rows").agg(seconds=("seconds", "sum"), peak=("peak", "max"), verbs=("command", "size"))
    whole = whole[whole["verbs"] == len(VERBS)].reset_index().assign(command="run, all stages")
    shown = pd.concat([costs.drop(run.index), whole], ignore_index=True)
    figure = Figure(figsize=(10, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    for row, table in zip(axes, (shown, run), strict=True):
        for axis, column, unit in zip(row, ("seconds", "peak"), (1, 1e9), strict=True):
            for what, rows in table.groupby("command", sort=False):
                axis.loglog(rows["rows"], rows[column] / unit, marker="o", ms=3, label=what)
            axis.set_xlabel("rows")
            axis.set_ylabel("processor seconds" if column == "seconds" else "largest memory, GB")
        row[0].legend(fontsize=7)
    for axis in axes[:, 1]:
        axis.axhline(MOST_MEMORY, ls=":", color="grey")
        place = axis.get_yaxis_transform()
        axis.text(0.02, MOST_MEMORY, "aim of the run on 10 million rows", va="bottom", fontsize=7, transform=place)
    figure.savefig(PICTURE, dpi=80)


def write_page(costs: pd.DataFrame) -> None:
    """Write docs/benchmarks/size.md and the picture beside it; what stands below its table stays."""
    draw(costs)
    words = [f"{s:,.1f} s, {p / 1e9:.2f} GB" for s, p in zip(costs["seconds"], costs["peak"], strict=True)]
    costs = costs.assign(words=words)
    sizes = sorted(costs["rows"].unique())
    lines = [f"| command | {' | '.join(f'{n:,} rows' for n in sizes)} |", f"|---{'|---:' * len(sizes)}|"]
    for what, rows in costs.groupby("command", sort=False):
        of_sizes = rows.set_index("rows")["words"]
        lines.append(f"| {what} | {' | '.join(of_sizes.get(n, '-') for n in sizes)} |")
    protocol = (__doc__ or "").split("Usage:")[0].strip()
    above, _, rest = OUT.read_text(encoding="utf-8").partition("\n## How")
    _, _, below = rest.partition("\n## ")
    OUT.write_text(
        f"{above.rstrip()}\n\n## How\n\n{protocol}\n\nMade by `python benchmarks/size.py`.\n\n"
        f"![By number of rows]({PICTURE.name})\n\n{chr(10).join(lines)}\n" + (f"\n## {below}" if below else ""),
        encoding="utf-8",
    )


def main() -> None:
    """Measure everything that is asked for; the page is written anew after each command."""
    if sys.argv[1:2] == ["run"]:
        whole(int(sys.argv[2]), int(sys.argv[3]))
        return
    sizes = [int(word) for word in sys.argv[1:] if word.isdigit()] or [10**power for power in range(4, 8)]
    kinds = [word for word in sys.argv[1:] if not word.isdigit()] or ["parquet", "csv"]
    costs = {(cost["command"], cost["rows"]): cost for cost in measured_before()}
    for cost_of_one in measure(sizes, kinds):
        costs[cost_of_one["command"], cost_of_one["rows"]] = cost_of_one
        write_page(pd.DataFrame(list(costs.values())).sort_values("rows", kind="stable"))


if __name__ == "__main__":
    main()
