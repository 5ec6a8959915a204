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
from assay.interruption import interruptible_once  # noqa: E402
from assay.project.runners import open_runner  # noqa: E402
from assay.project.sweeping import Cell, end_processes, read_cells  # noqa: E402
from assay.project.work import WorkRunner, end_all  # noqa: E402
from assay.runs import sweeps  # noqa: E402


@task
def compute_cell(free: SimpleQueue[sweeps.Computing], cell: Cell) -> str | None:
    """Compute a cell and keep its result; returns why the system refused it, if it did."""
    compute = free.get()
    try:
        return sweeps.finish_cell(ROOT, cell, compute)
    finally:
        free.put(compute)


@flow(name="sweep", flow_run_name="sweep {name}")
def sweep(name: str, at_once: int, runner: str | None = None, address: str | None = None) -> dict[str, str]:
    """Compute the cells of a sweep that are not kept yet; returns why the system refused those that it refused.

    Parameters
    ----------
    name : str
        ``sweeps/NAME/sweep.yaml`` defines the sweep.
    at_once : int
        Number of cells that are computed at the same time on this machine, each with one thread.
    runner, address : str, optional
        What computes, in place of `run.runner` and `run.address` in params.yaml.
    """
    project = Project(ROOT)
    waiting = sweeps.missing_cells(ROOT, read_cells(project, name))
    try:
        with interruptible_once(), open_runner(project, runner, address) as opened:
            return compute_all(name, waiting, opened, at_once if type(opened) is WorkRunner else opened.slots)
    except BaseException:
        end_all()
        raise
    finally:
        end_processes()


def compute_all(name: str, waiting: list[Cell], runner: WorkRunner, at_once: int) -> dict[str, str]:
    """Compute cells, so many at once; see `sweep`."""
    refused, running = dict[str, str](), dict[Any, Cell]()
    free: SimpleQueue[sweeps.Computing] = SimpleQueue()
    for _ in range(at_once):
        free.put(sweeps.computing(runner))
    with console.counted_progress(f"sweep {name}", len(waiting), "cells") as count:
        while waiting or running:
            while waiting and len(running) < at_once:
                cell = waiting.pop(0)
                named = f"{cell.dataset}--{cell.detector}--{cell.seed}"
                running[compute_cell.with_options(name=named).submit(free, cell)] = cell
            future = next(as_completed(list(running)))
            cell = running.pop(future)
            if reason := future.result():
                refused[cell.key] = reason
            count(1)
            sweeps.drop_rows(ROOT, cell, [*waiting, *running.values()])
    return refused
