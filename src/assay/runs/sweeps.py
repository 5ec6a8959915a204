"""What surrounds the flow of a sweep: which cells are kept already, and the table and the page of all of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay import console
from assay.errors import StageError
from assay.parts import read_json, replacing, write_bytes, write_json
from assay.pipeline.rows import rho_of
from assay.project.cell_work import METRICS, rows_folder
from assay.project.config import parse_config
from assay.project.ingest import require_known_data, restore
from assay.project.installed import require_own_code
from assay.project.layout import Project
from assay.project.sweeping import SWEEPS, Cell, Sweep, kept_path

if TYPE_CHECKING:
    pass

RESULTS, PAGE = "results.parquet", "leaderboard.html"
_IGNORED = "# `assay sweep` makes results again; what was asked for is for Git.\n*\n!*/\n!.gitignore\n!*/sweep.yaml\n"


@contextmanager
def sweeping(project: Project) -> Iterator[None]:
    """Check data and code, and hold the lock of sweeps, one at a time in a project; what a killed one left goes."""
    from filelock import FileLock, Timeout

    with project.lock():
        restore(project)
        require_known_data(project)
        require_own_code(project)
    folder = project.root / SWEEPS
    # Here, not among the project's own files, so that projects of before have it.
    write_bytes(folder / ".gitignore", _IGNORED.encode())
    try:
        with FileLock(folder / ".lock", timeout=0):
            shutil.rmtree(rows_folder(project.root), ignore_errors=True)
            yield
            shutil.rmtree(rows_folder(project.root), ignore_errors=True)
    except Timeout as error:
        raise StageError(f"another sweep is working in {project.root}; wait until it has ended") from error


def missing_cells(root: Path, cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells whose results are not kept yet, each key once."""
    missing = {cell.key: cell for cell in cells if not kept_path(root, cell.key).is_file()}
    return list(missing.values())


def finish_cell(root: Path, cell: Cell, compute: Callable[[Path, Cell], dict[str, Any]]) -> str | None:
    """Compute a cell and keep its result; return why that cannot be kept, if it cannot."""
    try:
        result = compute(root, cell)
    except Exception as error:  # the sweep goes on
        return f"{type(error).__name__}: {error}"
    write_json(kept_path(root, cell.key), result)
    return None


def drop_rows(root: Path, done: Cell, others: Sequence[Cell]) -> None:
    """Remove the prepared rows of a cell that is done, unless others still need them."""
    if done.rows not in {cell.rows for cell in others}:
        shutil.rmtree(rows_folder(root) / done.rows, ignore_errors=True)


def write_results(project: Project, sweep: Sweep, cells: Sequence[Cell], refused: Mapping[str, str]) -> dict[str, Any]:
    """Write the table and the page of a sweep; return what ``assay sweep --json`` prints, without counts of cells."""
    import pandas as pd

    from assay.runs.sweep_page import leaders, page

    rows: list[dict[str, Any]] = []
    for cell in cells:
        kept = kept_path(project.root, cell.key)
        result = {"failure": refused.get(cell.key)} if cell.key in refused else read_json(kept)
        rows += _rows_of(cell, result)
    table = pd.DataFrame(rows)
    folder = project.root / SWEEPS / sweep.name
    with replacing(folder / RESULTS) as stream:
        table.to_parquet(stream, index=False)
    write_bytes(folder / PAGE, page(sweep.name, table).encode())
    return {
        "results": str((folder / RESULTS).relative_to(project.root)),
        "page": str((folder / PAGE).relative_to(project.root)),
        "failed_rows": int(table["reason"].notna().sum()),
        "leaderboard": json.loads(leaders(table).reset_index().to_json(orient="records", double_precision=15)),
    }


def print_leaders(result: Mapping[str, Any]) -> None:
    """Print the leaderboard of each level, and where the table and the page are."""
    from rich.table import Table

    shown = ("detector", "adapter", "rank", "first", "last", "auroc", "auprc", "fpr", "power", "cpu_seconds")
    for level in dict.fromkeys(row["level"] for row in result["leaderboard"]):
        table = Table(
            title=f"contamination {level:g}: ranks by AUPRC; means over datasets, seeds", title_justify="left"
        )
        for name in shown:
            table.add_column(name.replace("_", " "), justify="left" if name in ("detector", "adapter") else "right")
        for row in result["leaderboard"]:
            if row["level"] == level:
                values = [row[name] for name in shown]
                table.add_row(*(f"{each:.3f}" if isinstance(each, float) else str(each) for each in values))
        console.paper.print(table)
    for name in ("cells", "computed", "refused", "failed_rows", "results", "page"):
        console.paper.print(f"{name.replace('_', ' '):<12}{result[name]}", markup=False)


def _rows_of(cell: Cell, result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each level and adapter of a cell; one that failed has the reason, and no metrics."""
    metrics = {(row["level"], row["adapter"]): row for row in result.get("rows", ())}
    asked = cell.params["contaminate"]["levels"]
    for level in result.get("levels", [None] if isinstance(asked, str) else [f"level-{rho:g}" for rho in asked]):
        for adapter in parse_config(cell.params).adapters:
            of_row = metrics.get((level, adapter.label), {})
            seconds, cpu_seconds = result.get("fits", {}).get(level, (None, None))
            yield {
                "dataset": cell.dataset,
                "detector": cell.choice.label,
                "adapter": adapter.label,
                "level": None if level is None else rho_of(level),
                "seed": cell.seed,
                "eps": cell.params["eps"],
                **{name: result.get(name) for name in ("evidence", "n_normals", "n_anomalies")},
                **{name: of_row.get(name) for name in METRICS},
                "seconds": seconds,
                "cpu_seconds": cpu_seconds,
                "cell_seconds": result.get("seconds"),
                "cell_cpu_seconds": result.get("cpu_seconds"),
                "reason": result.get("failure") or result.get("failures", {}).get(level),
                "key": cell.key,
            }
