"""What surrounds the flow of a sweep: its lock, the cells that are kept, and the table and the leaderboard of all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from assay import console
from assay.errors import StageError
from assay.parts import read_json, replacing, temporary_folder, write_bytes, write_json
from assay.pipeline.plotting import FLAT_METRICS
from assay.pipeline.rows import rho_of
from assay.project.config import parse_config
from assay.project.ingest import require_known_data, restore
from assay.project.installed import on_device, require_own_code
from assay.project.layout import Project
from assay.project.recovery import remove_left
from assay.project.sweeping import SWEEPS, SWEPT, Cell, CellProcess, CellView, prepared_folder, require_same_code
from assay.project.work import Work, WorkRunner

if TYPE_CHECKING:
    from pandas import DataFrame

Computing = Callable[[Path, Cell], dict[str, Any]]
SHOWN = {"auroc": "AUROC", "auprc": "AUPRC", "fpr": "FPR at eps", "power": "power"}
_CANDIDATE, _CASE = ["level", "detector", "adapter"], ["dataset", "level", "seed"]
_IGNORED = "# `assay sweep` makes results again; what was asked for is for Git.\n*\n!*/\n!.gitignore\n!*/sweep.yaml\n"


@contextmanager
def sweeping(project: Project) -> Iterator[None]:
    """Check data and code, and hold the lock of sweeps, one at a time in a project; what a killed one left goes."""
    with project.lock():
        restore(project)
        require_known_data(project)
        require_own_code(project)
    folder = project.root / SWEEPS
    # Here, not among the project's own files, so that projects of before have it.
    write_bytes(folder / ".gitignore", _IGNORED.encode())
    try:
        with FileLock(folder / ".lock", timeout=0):
            _remove_rows(project.root)
            remove_left(folder.rglob(".*"))
            yield
            _remove_rows(project.root)
    except Timeout as error:
        raise StageError(f"another sweep is working in {project.root}; wait until it has ended") from error


def _remove_rows(root: Path) -> None:
    """Remove the prepared rows, at once: a cell of a killed sweep that still works finishes no half of them."""
    folder = prepared_folder(root)
    if folder.is_dir():
        aside = temporary_folder(folder.parent, folder.name[1:])
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def kept_path(root: Path, cell: Cell) -> Path:
    """Return where the result of a cell is kept."""
    return root / SWEEPS / ".cells" / f"{cell.key}.json"


def missing_cells(root: Path, cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells whose results are not kept yet, each key once."""
    return list({cell.key: cell for cell in cells if not kept_path(root, cell).is_file()}.values())


def log_looks(project: Project, name: str, cells: Sequence[Cell]) -> None:
    """Log by which seeds of roles cells look at test rows: other seeds give roles that calibrate and gate a scorer."""
    seeds: dict[str, set[int]] = {}
    for cell in cells:
        seeds.setdefault(cell.dataset, set()).add(cell.params["split"]["seed"])
    with project.lock(waits=True):
        for dataset, of_roles in seeds.items():
            project.events.append(SWEPT, dataset=dataset, sweep=name, split_seeds=sorted(of_roles))


def computing(runner: WorkRunner) -> Computing:
    """Return what computes one cell after the other: a process of this machine that stays, or another runner."""
    return CellProcess().compute if type(runner) is WorkRunner else lambda root, cell: _sent(runner, root, cell)


def _sent(runner: WorkRunner, root: Path, cell: Cell) -> dict[str, Any]:
    """Compute a cell by a runner, which is told what it reads."""
    people = (name for name in cell.inputs if not name.startswith("data/"))
    folder = prepared_folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    out = temporary_folder(folder, cell.key[:16])
    inputs, title = (f"data/{cell.dataset}", *people), f"{cell.detector} on {cell.dataset}, seed {cell.seed}"
    trains_there = on_device(CellView(root, cell.params, cell.detector, {}), cell.detector)
    return runner.do(Work(title, "assay.project.sweeping:do_cell", {"cell": asdict(cell)}, inputs, out, trains_there))


def finish_cell(root: Path, cell: Cell, compute: Computing) -> str | None:
    """Compute a cell and keep its result; return why that cannot be kept, if it cannot."""
    try:
        result = compute(root, cell)
        require_same_code(root, cell)
        write_json(kept_path(root, cell), result)
    except Exception as error:  # the sweep goes on
        return f"{type(error).__name__}: {error}"
    return None


def drop_rows(root: Path, done: Cell, others: Sequence[Cell]) -> None:
    """Remove the prepared rows of a cell that is done, unless others still need them."""
    if done.rows not in {cell.rows for cell in others}:
        shutil.rmtree(prepared_folder(root) / done.rows, ignore_errors=True)


def write_results(root: Path, name: str, cells: Sequence[Cell], refused: Mapping[str, str]) -> dict[str, Any]:
    """Write the table and the page of a sweep; return what ``assay sweep --json`` prints, without counts of cells."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for cell in cells:
        result = {"failure": refused[cell.key]} if cell.key in refused else read_json(kept_path(root, cell))
        rows += _rows_of(cell, result)
    table, folder = pd.DataFrame(rows), f"{SWEEPS}/{name}"
    with replacing(root / folder / "results.parquet") as stream:
        table.to_parquet(stream, index=False)
    standing = leaders(table)
    write_bytes(root / folder / "leaderboard.html", _page(name, table, standing).encode())
    return {
        "failed_rows": int(table["reason"].notna().sum()),
        "results": f"{folder}/results.parquet",
        "page": f"{folder}/leaderboard.html",
        "leaderboard": json.loads(standing.reset_index().to_json(orient="records", double_precision=15)),
    }


def _rows_of(cell: Cell, result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each level and adapter of a cell; one that failed has the reason, and no metrics."""
    metrics = {(row["level"], row["adapter"]): row for row in result.get("rows", ())}
    asked = cell.params["contaminate"]["levels"]
    cell_seconds, cell_cpu_seconds = result.get("spent", (None, None))
    for level in result.get("levels", [None] if isinstance(asked, str) else [f"level-{rho:g}" for rho in asked]):
        for adapter in parse_config(cell.params).adapters:
            seconds, cpu_seconds = result.get("fits", {}).get(level, (None, None))
            yield {
                "dataset": cell.dataset,
                "detector": cell.detector,
                "adapter": adapter.label,
                "level": None if level is None else rho_of(level),
                "seed": cell.seed,
                "eps": cell.params["eps"],
                **{name: result.get(name) for name in ("evidence", "n_normals", "n_anomalies")},
                **{name: metrics.get((level, adapter.label), {}).get(name) for name in FLAT_METRICS},
                "seconds": seconds,
                "cpu_seconds": cpu_seconds,
                "cell_seconds": cell_seconds,
                "cell_cpu_seconds": cell_cpu_seconds,
                "reason": result.get("failure") or result.get("failures", {}).get(level),
                "key": cell.key,
            }


def leaders(table: DataFrame) -> DataFrame:
    """Return the standing of each candidate at each level, the best mean rank first.

    Returns
    -------
    DataFrame
        By level, detector and adapter: the mean over datasets of each metric, as a mean over seeds with its deviation
        over seeds (``_sd``, NaN for one seed); ``rank``: the mean over cases (a dataset, level and seed) of the rank by
        AUPRC, 1 the best, where whoever failed is last; ``first`` and ``last``: in how many cases it was that;
        ``cases``, ``failed``; and means over cases of ``seconds`` and ``cpu_seconds``.
    """
    table = table[table["level"].notna()].astype(dict.fromkeys(FLAT_METRICS, float))
    cases = table.groupby(_CASE)["auprc"]
    table = table.assign(rank=cases.rank(ascending=False, na_option="bottom"), failed=table["auprc"].isna())
    table["first"] = table["auprc"] == cases.transform("max")
    table["last"] = table["rank"] == table.groupby(_CASE)["rank"].transform("max")
    by = table.groupby(_CANDIDATE)
    standing = by.agg(rank=("rank", "mean"), first=("first", "sum"), last=("last", "sum"), failed=("failed", "sum"))
    of_seeds = table.groupby([*_CANDIDATE, "seed"])[list(SHOWN)].mean().groupby(_CANDIDATE)
    for name in SHOWN:
        standing[name], standing[f"{name}_sd"] = of_seeds[name].mean(), of_seeds[name].std()
    standing["cases"] = by.size()
    standing[["seconds", "cpu_seconds"]] = by[["seconds", "cpu_seconds"]].mean()
    return standing.sort_values(["level", "rank"], kind="stable")


def _page(name: str, table: DataFrame, standing: DataFrame) -> str:
    from jinja2 import Environment, PackageLoader

    rows: list[dict[str, Any]] = standing.reset_index().to_dict("records")  # type: ignore[assignment]
    by_dataset: dict[float, dict[str, dict[str, str]]] = {}
    grouped: Any = table[table["level"].notna()].groupby(["level", "dataset", "detector", "adapter"])["auprc"]
    for (level, dataset, detector, adapter), values in grouped:
        of_level = by_dataset.setdefault(level, {}).setdefault(dataset, {"dataset": dataset})
        of_level[f"{detector}+{adapter}"] = _spread(values.astype(float).mean(), values.astype(float).std())
    failures = table[table["reason"].notna()][["dataset", "detector", "level", "reason"]].astype(object)
    environment = Environment(loader=PackageLoader("assay.runs", "."), autoescape=True, trim_blocks=True)
    return environment.get_template("sweep.html").render(
        name=name,
        table=table,
        levels=[
            (level, [_texts(row) for row in rows if row["level"] == level], list(by_dataset[level].values()))
            for level in by_dataset
        ],
        failures=failures.drop_duplicates().to_dict("records"),
        probes=sorted(set(table.loc[table["evidence"] == "probes", "dataset"])),
        picture=_picture(standing) if rows else None,
    )


def _texts(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the standing of a candidate as texts by title."""
    shown = {title: _spread(row[key], row[f"{key}_sd"]) for key, title in SHOWN.items()}
    counts = {key: f"{row[key]}" for key in ("first", "last", "failed", "cases")}
    spent = {"train s": f"{row['seconds']:.2f}", "CPU s": f"{row['cpu_seconds']:.2f}"}
    return {
        "candidate": f"{row['detector']}+{row['adapter']}",
        "rank": f"{row['rank']:.2f}",
        **shown,
        **counts,
        **spent,
    }


def _spread(mean: float, deviation: float) -> str:
    return "-" if mean != mean else f"{mean:.3f}" + ("" if deviation != deviation else f" ± {deviation:.3f}")


def _picture(standing: DataFrame) -> str:
    """Draw AUPRC of each candidate by level, with deviations over seeds; returns it as a data URI."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from assay.evaluation.pictures import SERIES
    from assay.runs.foremost import picture_source

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    grouped: Any = standing.reset_index().groupby(["detector", "adapter"], sort=False)
    for number, (candidate, part) in enumerate(grouped):
        (colour, marker), style = SERIES[number % len(SERIES)], ("-", "--", ":", "-.")[number // len(SERIES) % 4]
        drawn = part.sort_values("level")
        how: dict[str, Any] = {"linestyle": style, "color": colour, "marker": marker, "markersize": 4, "capsize": 2}
        axes.errorbar(drawn["level"], drawn["auprc"], drawn["auprc_sd"].fillna(0), label="+".join(candidate), **how)
    axes.set(xlabel="injected contamination", ylabel="AUPRC, mean over datasets")
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return picture_source(figure)


def print_leaders(result: Mapping[str, Any]) -> None:
    """Print the leaderboard, and where the table and the page are."""
    import pandas as pd

    columns = ["level", "detector", "adapter", "rank", "first", "last", "failed", "cases", *SHOWN, "cpu_seconds"]
    if result["leaderboard"]:
        table = pd.DataFrame(result["leaderboard"])[columns]
        console.paper.print(table.round(3).to_string(index=False), markup=False, soft_wrap=True)
    for name in ("cells", "computed", "refused", "failed_rows", "results", "page"):
        console.paper.print(f"{name.replace('_', ' '):<12}{result[name]}", markup=False)
