"""The work of a cell of a sweep, by the verbs of a run: here, or in a process for one after the other.

Rows are prepared once for the cells of a dataset and a seed; of their roles only those that a cell may read are kept.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from assay.environment import search_garbage_rarely
from assay.errors import AssayError
from assay.parts import read_json, temporary_folder
from assay.pipeline.evaluating import read_evaluation
from assay.pipeline.progress import StageProgress, silent
from assay.pipeline.rows import FAILURES, levels_of
from assay.project.stages import STAGES, StageRun
from assay.project.sweeping import OF_CELL, PREPARING, SWEEPS, Cell, CellView, read_inputs
from assay.project.work import pinned

UNREAD = ("selection", "gate", "excluded")
METRICS = ("auroc", "auprc", "fpr", "worst_stratum_fpr", "power")


def rows_folder(root: Path) -> Path:
    """Return the folder of the rows that are prepared for cells, and of the cells' own scratch."""
    return root / SWEEPS / ".rows"


def compute(root: Path, cell: Cell) -> dict[str, Any]:
    """Compute a cell, and return JSON values.

    Returns
    -------
    dict
        ``levels``: their names; ``rows``: metrics on test rows, for each level and adapter; ``failures``: by level, why
        the detector could not be trained; ``fits``: by level, seconds and CPU seconds of training, scaling included;
        ``seconds``, ``cpu_seconds``: of the cell without preparing rows. Or ``failure``: why Assay refused the cell.

    Raises
    ------
    OSError
        The system refused it, or the project's files changed meanwhile; such a cell is to be computed again.
    """
    try:
        result = _compute(root, cell)
    except AssayError as error:
        result = {"failure": str(error)}
    if read_inputs(root, cell.dataset) != cell.inputs:
        raise OSError(f"the files of {cell.dataset} changed during the sweep; sweep again")
    return result


def _compute(root: Path, cell: Cell) -> dict[str, Any]:
    prepared, label = _prepared(root, cell), cell.choice.label
    scratch = temporary_folder(rows_folder(root), cell.key[:16])
    folders = {verb: prepared / verb for verb in PREPARING} | {verb: scratch / verb for verb in OF_CELL}
    view, clock = CellView(root, cell.params, cell.choice, folders), _LevelClock()
    started = _now()
    try:
        with pinned():
            _do(view, "train", view.folder("train", label), scratch / "checkpoints", clock)
            clock("", 1.0)
            _do(view, "calibrate", view.folder("calibrate", label), scratch / "checkpoints-of-calibrate")
            _do(view, "evaluate", view.folder("evaluate"), scratch, brief=True)
        evaluation, spent = read_evaluation(view.folder("evaluate")), _now()
        return {
            "levels": levels_of(view.folder("train", label)),
            "rows": [
                {name: getattr(row, name) for name in ("level", "adapter", *METRICS)} for row in evaluation.candidates
            ],
            "failures": read_json(view.folder("train", label) / FAILURES),
            "fits": clock.fits,
            **{name: getattr(evaluation, name) for name in ("evidence", "n_normals", "n_anomalies")},
            **dict(zip(("seconds", "cpu_seconds"), (spent[0] - started[0], spent[1] - started[1]), strict=True)),
        }
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _do(view: CellView, verb: str, out: Path, checkpoints: Path, told: StageProgress = silent, **more: Any) -> None:
    detector = view.config.detectors[0].label if STAGES[verb].cells else None
    out.mkdir(parents=True)
    STAGES[verb].verb(out, **STAGES[verb].arguments(StageRun(view, detector, checkpoints, told)), **more)


def _prepared(root: Path, cell: Cell) -> Path:
    """Return the folder of a cell's rows, prepared if no other cell has."""
    from filelock import FileLock

    folder = rows_folder(root) / cell.rows
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if folder.is_dir():
            return folder
        staging = temporary_folder(folder.parent, cell.rows[:16])
        try:
            view = CellView(root, cell.params, cell.choice, {verb: staging / verb for verb in PREPARING})
            for verb in PREPARING:
                _do(view, verb, staging / verb, staging)
            for role in UNREAD:
                shutil.rmtree(staging / "split" / role, ignore_errors=True)
            staging.rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return folder


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


class _LevelClock:
    """Takes the seconds and the CPU seconds of each level of a training, which tells when one begins."""

    def __init__(self) -> None:
        self._level, self._start = "", _now()
        self.fits: dict[str, tuple[float, float]] = {}

    def __call__(self, task: str, _: float) -> None:
        level = task.rpartition(" at ")[2].partition(",")[0]
        if level != self._level:
            now = _now()
            if self._level:
                self.fits[self._level] = (now[0] - self._start[0], now[1] - self._start[1])
            self._level, self._start = level, now


class CellProcess:
    """A process that computes one cell after the other, and ends with this one; another one follows where it dies."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def compute(self, root: Path, cell: Cell) -> dict[str, Any]:
        """Compute a cell there, as `compute` does; `OSError` also says that the process died."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin)
        try:
            return self._pool.submit(compute, root, cell).result()
        except BrokenProcessPool as error:
            self._pool = None
            raise OSError("the process of the cell died, as where memory is short; sweep again") from error


def end_processes() -> None:
    """End the processes of cells, whatever they do."""
    for process in multiprocessing.active_children():
        process.kill()


def _begin() -> None:
    """Begin a process of cells: what libraries print is no output of its parent, with which it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)
    search_garbage_rarely()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()
