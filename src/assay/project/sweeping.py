"""Sweeps: datasets x detectors x seeds as cells, each with a key of all that decides its numbers, and their work.

The work is that of a run, by the same verbs. Rows are prepared once for the cells of a dataset and a seed; of their
roles only those that a cell may read are kept.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from filelock import FileLock

from assay.data.answers import answers_path
from assay.data.labelling import labels_path
from assay.data.quarantine import quarantine_path
from assay.data.target import target_path
from assay.environment import search_garbage_rarely
from assay.errors import AssayError, ConfigError
from assay.hashing import hash_json, hash_paths
from assay.names import Choice, check_name
from assay.parts import parse_yaml, read_json, temporary_folder, write_bytes
from assay.pipeline.evaluating import read_evaluation
from assay.pipeline.plotting import FLAT_METRICS
from assay.pipeline.progress import StageProgress, silent
from assay.pipeline.rows import FAILURES, levels_of
from assay.project.config import ALWAYS, parse_config, parse_detector
from assay.project.installed import source_of, stage_code
from assay.project.layout import Project
from assay.project.stages import STAGES, StageRun
from assay.project.work import pinned

SWEEPS, LISTS, SWEEP_SCHEMA, SWEPT = "sweeps", ("datasets", "detectors", "seeds"), 1, "swept"
PREPARING, OF_CELL = ("split", "contaminate"), ("train", "calibrate", "evaluate")
UNREAD = ("selection", "gate", "excluded")
_CODES: dict[str, str] = {}
_DECIDING = {
    "split": ("split", "contaminate"),  # probes are made by other recipes than the injected rows
    "contaminate": ("contaminate",),
    "train": ("train",),
    "calibrate": ("calibrate", "adapters"),
    "evaluate": ("eps", "adapters"),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One detector, by its label, on one dataset with one seed; all plain JSON values.

    `params` are the content of params.yaml for it; `inputs` the SHA-256 of the project's files that it reads; `code`
    the hash of its code; `rows` the key of its rows, which other cells share; `key` the hash of all that decides its
    numbers.
    """

    dataset: str
    detector: str
    seed: int
    params: dict[str, Any]
    inputs: dict[str, str]
    code: str
    rows: str
    key: str


class CellView(Project):
    """A project as a cell sees it: its settings, its one detector, and a folder for the outputs of each verb."""

    def __init__(self, root: Path, params: dict[str, Any], label: str, folders: Mapping[str, Path]) -> None:
        super().__init__(root, params["dataset"], params)
        config = parse_config(params)
        own = tuple(choice for choice in config.detectors if choice.label == label)
        self.__dict__["config"] = replace(config, detectors=own)
        self._folders = folders

    def folder(self, verb: str, detector: str | None = None) -> Path:
        """Output folder of a stage, as in `Project.folder`."""
        return self._folders[verb] / (detector or "")


def definition_path(root: Path, name: str) -> Path:
    """Return where a sweep is defined."""
    check_name(name, "the name of the sweep")
    return root / SWEEPS / name / "sweep.yaml"


def define_sweep(root: Path, name: str, lists: Mapping[str, list[Any]]) -> None:
    """Write the definition of a new sweep, or raise `ConfigError` if there is another one of that name."""
    path = definition_path(root, name)
    former = parse_yaml(path.read_bytes(), path) if path.is_file() else None
    if former is None:
        lines = [f"{key}: {json.dumps(values)}\n" for key, values in lists.items()]  # quoted: YAML reads no as false
        write_bytes(path, "".join(lines).encode())
    elif not isinstance(former, Mapping) or any(former.get(key) != values for key, values in lists.items()):
        raise ConfigError(f"{path.relative_to(root)} asks for something else; edit it, or name another sweep")


def read_cells(project: Project, name: str) -> list[Cell]:
    """Read the definition of a sweep, and return its cells, those that share rows next to each other.

    Raises
    ------
    ConfigError
        There is none, or it names a detector, a seed or a setting that cannot be.
    StageError
        A dataset has not been ingested.
    """
    from assay.calibration.adapters.registry import make_adapter
    from assay.detectors.registry import make_detector

    path = definition_path(project.root, name)
    where = str(path.relative_to(project.root))
    if not path.is_file():
        raise ConfigError(
            f"there is no {where}; write it, or name datasets, detectors and seeds: "
            "`assay sweep --datasets digits --detectors knn,mcd --seeds 0-4`"
        )
    raw = parse_yaml(path.read_bytes(), where)
    if not isinstance(raw, Mapping) or not {*LISTS} <= {*raw} <= {*LISTS, "levels", "adapters"}:
        raise ConfigError(f"{where} must be a mapping with {', '.join(LISTS)} and, if wanted, levels and adapters")
    datasets, seeds = _listed(raw["datasets"], f"{where}: datasets"), parse_seeds(raw["seeds"], f"{where}: seeds")
    for dataset in datasets:
        check_name(dataset, f"{where}: datasets")
        project.require_dataset(dataset)
    choices = _choices(project, raw["detectors"], f"{where}: detectors")
    for choice in choices:
        make_detector(choice.name, choice.params, seed=0, device="cpu")
    for choice in parse_config(_params(project, raw, datasets[0], choices[0], max(seeds)), where=where).adapters:
        make_adapter(choice.name, choice.params)
    codes: dict[str, Any] = {}
    cells = []
    for dataset in datasets:
        inputs = read_inputs(project.root, dataset)
        for seed, choice in product(seeds, choices):
            params = _params(project, raw, dataset, choice, seed)
            if (named := f"{dataset} {choice.label}") not in codes:  # the same for all seeds
                codes[named] = _code_of(project.root, params, choice.label)
            parts = {verb: [codes[named][verb], [params[name] for name in names]] for verb, names in _DECIDING.items()}
            rows = hash_json([SWEEP_SCHEMA, inputs, [parts[verb] for verb in PREPARING]])
            key = hash_json([rows, choice.name, choice.params, [parts[verb] for verb in OF_CELL]])
            cells.append(Cell(dataset, choice.label, seed, params, inputs, hash_json(codes[named]), rows, key))
    return cells


def _listed(values: Any, where: str) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{where} must be a list with at least one entry; got {values!r}")
    if repeated := [value for value in values if values.count(value) > 1]:
        raise ConfigError(f"{where}: {repeated[0]!r} occurs twice; name it once")
    return values


def parse_seeds(raw: Any, where: str) -> list[int]:
    """Return the seeds of a list of numbers, or of a text such as "0-4" or "0,2,5"."""
    if isinstance(raw, str) and re.fullmatch(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*", raw):
        ends = [part.partition("-") for part in raw.split(",")]
        raw = [seed for low, _, high in ends for seed in range(int(low), int(high or low) + 1)]
    if not isinstance(raw, list) or not all(type(seed) is int and seed >= 0 for seed in raw):
        raise ConfigError(f"{where}: {raw!r} must be whole numbers from 0 on, such as 0-4 or [0, 1, 2]")
    return _listed(raw, where)


def _choices(project: Project, raw: Any, where: str) -> list[Choice]:
    """Return the detectors of a mapping as in params.yaml, or of a list of labels in params.yaml, names and paths."""
    if isinstance(raw, Mapping) and raw:
        return [parse_detector(label, entry, where) for label, entry in raw.items()]
    own, chosen = {choice.label: choice for choice in project.config.detectors}, []
    for name in _listed(raw, where):
        chosen.append(own.get(str(name)) or parse_detector(str(name).rpartition(".")[2], {"detector": name}, where))
    _listed([choice.label for choice in chosen], where)
    return chosen


def _params(project: Project, raw: Mapping[str, Any], dataset: str, choice: Choice, seed: int) -> dict[str, Any]:
    """Return the content of params.yaml for a cell: that of now, with the seed added to every seed in it."""
    moved = ("split", "contaminate", "train", "calibrate")
    params = {**project.raw_params, "dataset": dataset, "datasets": [dataset]}
    params |= {name: {**params[name], "seed": params[name]["seed"] + seed} for name in moved}
    params["contaminate"] |= {"levels": raw["levels"]} if "levels" in raw else {}
    params |= {"adapters": raw["adapters"]} if "adapters" in raw else {}
    params["select"] = {**params["select"], "without_labels": "probes"}  # which no cell reads
    own = {choice.label: {"detector": {choice.name: choice.params}}}
    return {**params, "detectors": {name: {} for name in ALWAYS} | own}


def read_inputs(root: Path, dataset: str) -> dict[str, str]:
    """Return the SHA-256 of the files of a project that the cells of a dataset read."""
    people = (path(root, dataset) for path in (answers_path, labels_path, quarantine_path, target_path))
    return hash_paths(root, [f"data/{dataset}", *(str(path.relative_to(root)) for path in people if path.is_file())])


def _code_of(root: Path, params: dict[str, Any], label: str) -> dict[str, dict[str, str]]:
    """Return the present code of each verb of a cell."""
    view = CellView(root, params, label, {})
    return {verb: stage_code(view, view.stages_of(verb)[0]) for verb in _DECIDING}


def require_same_code(root: Path, cell: Cell) -> None:
    """Raise `OSError` if the code of a cell changed since the cell was read; such a cell is to be computed again."""
    files = sorted((source_of(root) / "assay").rglob("*.py"))
    parts = [cell.dataset, cell.detector, cell.params["detectors"], cell.params["adapters"]]
    of_now = hash_json([str(root), parts, [[str(file), file.stat().st_mtime_ns] for file in files]])
    if of_now not in _CODES:  # reading all of it takes as long as a small cell
        _CODES[of_now] = hash_json(_code_of(root, cell.params, cell.detector))
    if _CODES[of_now] != cell.code:
        raise OSError("the code changed during the sweep; sweep again")


def prepared_folder(root: Path) -> Path:
    """Return the folder of the rows that are prepared for cells, and of the cells' own scratch."""
    return root / SWEEPS / ".rows"


def compute(root: Path, cell: Cell) -> dict[str, Any]:
    """Compute a cell, and return JSON values.

    These are ``levels``, their names; ``rows``, metrics on test rows for each level and adapter; ``failures``, by level
    why the detector could not be trained; ``fits``, by level seconds and CPU seconds of training, scaling included;
    ``spent``, those of the cell without preparing rows. Or ``failure``, why Assay refused the cell.

    Raises
    ------
    OSError
        The system refused it, or the project's files changed meanwhile; such a cell is to be computed again.
    """
    try:
        result = _compute(root, cell)
    except AssayError as error:
        if isinstance(error.__cause__, OSError):  # of the system, not of the cell
            raise OSError(str(error)) from error
        result = {"failure": str(error)}
    if read_inputs(root, cell.dataset) != cell.inputs:
        raise OSError(f"the files of {cell.dataset} changed during the sweep; sweep again")
    return result


def do_cell(root: Path, out: Path, progress: StageProgress, *, cell: dict[str, Any]) -> dict[str, Any]:
    """Compute a cell as a unit of work, which writes no file; see `assay.project.work.Work`."""
    return compute(root, Cell(**cell))


def _compute(root: Path, cell: Cell) -> dict[str, Any]:
    prepared, label = prepare_rows(root, cell), cell.detector
    scratch = temporary_folder(prepared_folder(root), cell.key[:16])
    folders = {verb: prepared / verb for verb in PREPARING} | {verb: scratch / verb for verb in OF_CELL}
    view, clock, of_cell = CellView(root, cell.params, label, folders), _Clock(), _Clock()
    try:
        of_cell(" at all", 0)
        with pinned():
            _do(view, "train", view.folder("train", label), scratch / "checkpoints", clock)
            clock("", 1)
            _do(view, "calibrate", view.folder("calibrate", label), scratch / "checkpoints-of-calibrate")
            _do(view, "evaluate", view.folder("evaluate"), scratch, brief=True)
        of_cell("", 1)
        evaluation, names = read_evaluation(view.folder("evaluate")), ("level", "adapter", *FLAT_METRICS)
        return {
            "levels": levels_of(view.folder("train", label)),
            "rows": [{name: getattr(row, name) for name in names} for row in evaluation.candidates],
            "failures": read_json(view.folder("train", label) / FAILURES),
            "fits": clock.spent,
            "spent": of_cell.spent["all"],
            **{name: getattr(evaluation, name) for name in ("evidence", "n_normals", "n_anomalies")},
        }
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _do(view: CellView, verb: str, out: Path, checkpoints: Path, progress: StageProgress = silent, **more: Any) -> None:
    detector = view.config.detectors[0].label if STAGES[verb].cells else None
    out.mkdir(parents=True)
    STAGES[verb].verb(out, **STAGES[verb].arguments(StageRun(view, detector, checkpoints, progress)), **more)


def prepare_rows(root: Path, cell: Cell) -> Path:
    """Split and contaminate for a cell, unless another one has; return the folder."""
    folder = prepared_folder(root) / cell.rows
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if folder.is_dir():
            return folder
        staging = temporary_folder(folder.parent, cell.rows[:16])
        try:
            view = CellView(root, cell.params, cell.detector, {verb: staging / verb for verb in PREPARING})
            for verb in PREPARING:
                _do(view, verb, staging / verb, staging)
            for role in UNREAD:
                shutil.rmtree(staging / "split" / role, ignore_errors=True)
            staging.rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return folder


class _Clock:
    """Takes seconds and CPU seconds of each level of a training, which tells when one begins."""

    def __init__(self) -> None:
        self._level, self._start = "", (0.0, 0.0)
        self.spent: dict[str, tuple[float, float]] = {}

    def __call__(self, task: str, _: float) -> None:
        level, now = task.rpartition(" at ")[2].partition(",")[0], (time.perf_counter(), time.process_time())
        if level != self._level:
            if self._level:
                self.spent[self._level] = (now[0] - self._start[0], now[1] - self._start[1])
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
        process.join()


def _begin() -> None:
    """Begin a process of cells: what libraries print is no output of its parent, with which it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)
    search_garbage_rarely()
    for name in ("pandas", "scipy.stats", "sklearn.covariance", "sklearn.ensemble", "torch"):
        importlib.import_module(name)  # so that the first cell does not pay for it
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()
