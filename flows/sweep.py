"""The flow of a sweep: one Prefect task for each cell that is not kept yet."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from typing import Any

from assay.environment import set_environment
from assay.project.layout import Project

ROOT = Path(__file__).resolve().parents[1]
set_environment(ROOT)

from prefect import flow, task  # noqa: E402  (its switches are set above)
from prefect.futures import as_completed  # noqa: E402

from assay import console  # noqa: E402
from assay.project.cell_work import CellProcess, end_processes  # noqa: E402
from assay.project.sweeping import Cell, cells_of, read_sweep  # noqa: E402
from assay.runs import sweeps  # noqa: E402


@task
def cell(processes: SimpleQueue[CellProcess], content: Cell) -> str | None:
    """Compute a cell and keep its result; returns why the system refused it, if it did."""
    process = processes.get()
    try:
        return sweeps.finish_cell(ROOT, content, process.compute)
    finally:
        processes.put(process)


@flow(name="sweep", flow_run_name="sweep {name}")
def sweep(name: str, at_once: int) -> dict[str, str]:
    """Compute the cells of a sweep that are not kept yet; returns why the system refused those that it refused.

    Parameters
    ----------
    name : str
        ``sweeps/NAME/sweep.yaml`` defines the sweep.
    at_once : int
        Number of cells that are computed at the same time, each with one thread.
    """
    project = Project(ROOT)
    waiting = sweeps.missing_cells(ROOT, cells_of(project, read_sweep(project, name)))
    processes: SimpleQueue[CellProcess] = SimpleQueue()
    for _ in range(at_once):
        processes.put(CellProcess())
    refused, running = dict[str, str](), dict[Any, Cell]()
    try:
        with console.counted_progress(f"sweep {name}", len(waiting), "cells") as count:
            while waiting or running:
                while waiting and len(running) < at_once:
                    content = waiting.pop(0)
                    named = f"{content.dataset}--{content.choice.label}--{content.seed}"
                    running[cell.with_options(name=named).submit(processes, content)] = content
                future = next(as_completed(list(running)))
                content = running.pop(future)
                if reason := future.result():
                    refused[content.key] = reason
                count(1)
                sweeps.drop_rows(ROOT, content, [*waiting, *running.values()])
    finally:
        end_processes()
    return refused
