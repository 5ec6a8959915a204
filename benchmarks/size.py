"""How time and memory of `assay ingest`, `assay score` and the default run grow with the number of rows.

Tables of 20 columns, which five factors and noise make, with an id, as Parquet and as CSV. The scorers are Isolation
Forest, and `reach` on min-max scaled rows, what ships without labels, with 3,800 training rows (it keeps up to
10,000). The default run is `assay run` with the settings of `assay init`, without labels. Each command is a process of
its own; its processor seconds and its largest memory are what the system counted for it.

Usage: python benchmarks/size.py [MOST_ROWS [MOST_ROWS_OF_A_RUN]]
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from matplotlib.figure import Figure
from pyarrow import csv, parquet

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "benchmarks" / "size.md"
PICTURE = OUT.with_suffix(".png")
TRAINED_ON, COLUMNS, FACTORS = 10_000, 20, 5
MOST_FOR_REACH, AT_ONCE = 100_000, 1_000_000
MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)
sys.exit(done.stderr if done.returncode else 0)
"""


def write_table(path: Path, n: int, seed: int) -> Path:
    """Write n rows as Parquet or CSV."""
    rng = np.random.default_rng(seed)
    loadings = np.random.default_rng(0).normal(size=(FACTORS, COLUMNS))
    schema = pa.schema({"id": pa.int64(), **{f"x{i}": pa.float64() for i in range(COLUMNS)}})
    with (parquet.ParquetWriter if path.suffix == ".parquet" else csv.CSVWriter)(path, schema) as writer:
        for start in range(0, n, AT_ONCE):
            m = min(AT_ONCE, n - start)
            rows = rng.normal(size=(m, FACTORS)) @ loadings + 0.3 * rng.normal(size=(m, COLUMNS))
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


def measure(most: int, most_of_a_run: int) -> Iterator[dict[str, object]]:
    """Yield the cost of each command at each size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        project = folder / "project"
        tags = make_scorers(project, folder)
        sizes = [10**power for power in range(4, 9) if 10**power <= most]
        for n in sizes:
            files = {kind: write_table(folder / f"{n}.{kind}", n, 2) for kind in ("parquet", "csv")}
            for kind, file in files.items():
                commands = {f"assay ingest, {kind}": ("ingest", str(file), "--name", f"{kind}-{n}", "--id", "id")}
                for label, tag in tags.items():
                    if label == "isolation_forest" or (n <= MOST_FOR_REACH and kind == "parquet"):
                        out = str(folder / f"out.{kind}")
                        commands[f"assay score, {kind}, {label}"] = ("score", str(file), tag, "--out", out)
                if n <= most_of_a_run and kind == "parquet":
                    commands["assay run"] = ("run", "--dataset", f"{kind}-{n}", "--no-deploy")
                for what, arguments in commands.items():
                    seconds, peak = cost(project, *arguments)
                    yield {"command": what, "rows": n, "seconds": seconds, "peak": peak}
                    print(f"{what}, {n:,} rows: {seconds:.1f} s, {peak / 1e9:.2f} GB", flush=True)
                file.unlink()
            for kind in files:
                shutil.rmtree(project / "data" / f"{kind}-{n}")


def draw(costs: pd.DataFrame) -> None:
    """Draw seconds and memory against the number of rows, on logarithmic axes."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axis, column, unit in zip(figure.subplots(1, 2), ("seconds", "peak"), (1, 1e9), strict=True):
        for what, rows in costs.groupby("command"):
            axis.loglog(rows["rows"], rows[column] / unit, marker="o", ms=3, label=what)
        axis.set_xlabel("rows")
        axis.set_ylabel("processor seconds" if column == "seconds" else "largest memory, GB")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(PICTURE, dpi=90)


def write_page(costs: pd.DataFrame, arguments: list[int]) -> None:
    """Write docs/benchmarks/size.md and the picture beside it; what stands below its table stays."""
    draw(costs)
    words = [f"{s:.1f} s, {p / 1e9:.2f} GB" for s, p in zip(costs["seconds"], costs["peak"], strict=True)]
    costs = costs.assign(words=words)
    sizes = sorted(costs["rows"].unique())
    lines = [f"| command | {' | '.join(f'{n:,} rows' for n in sizes)} |", f"|---{'|---:' * len(sizes)}|"]
    for what, rows in costs.groupby("command", sort=False):
        of_sizes = rows.set_index("rows")["words"]
        lines.append(f"| {what} | {' | '.join(of_sizes.get(n, '') for n in sizes)} |")
    protocol = (__doc__ or "").split("Usage:")[0].strip()
    _, _, below = OUT.read_text(encoding="utf-8").partition("\n## ")
    OUT.write_text(
        f"# Size\n\n{protocol}\n\nMade by `python benchmarks/size.py {' '.join(map(str, arguments))}`.\n\n"
        f"![By number of rows]({PICTURE.name})\n\n{chr(10).join(lines)}\n" + (f"\n## {below}" if below else ""),
        encoding="utf-8",
    )


def main() -> None:
    """Measure everything; the page is written anew after each command."""
    arguments = [*map(int, sys.argv[1:])] or [10**6]
    most, most_of_a_run = (*arguments, 10**5)[:2]
    costs = []
    for cost_of_one in measure(most, most_of_a_run):
        costs.append(cost_of_one)
        write_page(pd.DataFrame(costs), arguments)


if __name__ == "__main__":
    main()
