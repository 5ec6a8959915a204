"""Sweeps: datasets x detectors x seeds as cells, each with a key of all that decides its numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from assay.data.answers import answers_path
from assay.data.labelling import labels_path
from assay.data.quarantine import quarantine_path
from assay.data.target import target_path
from assay.errors import ConfigError
from assay.hashing import hash_json, hash_paths
from assay.names import Choice, check_name
from assay.parts import parse_yaml, write_bytes
from assay.project.config import ALWAYS, parse_config, parse_detector
from assay.project.installed import stage_code
from assay.project.layout import Project

SWEEPS = "sweeps"
PREPARING, OF_CELL = ("split", "contaminate"), ("train", "calibrate", "evaluate")
_DECIDING = {
    "split": ("split", "contaminate"),  # probes are made by other recipes than the injected rows
    "contaminate": ("contaminate",),
    "train": ("train",),
    "calibrate": ("calibrate", "adapters"),
    "evaluate": ("eps", "adapters"),
}
SWEEP_SCHEMA = 1  # of the numbers that a cell gives
LISTS = ("datasets", "detectors", "seeds")
_MOVED = ("split", "contaminate", "train", "calibrate")


@dataclass(frozen=True, slots=True)
class Sweep:
    """The content of ``sweeps/NAME/sweep.yaml``; `levels` and `adapters` are None where params.yaml has them."""

    name: str
    datasets: tuple[str, ...]
    detectors: tuple[Choice, ...]
    seeds: tuple[int, ...]
    levels: Any = None
    adapters: Any = None


@dataclass(frozen=True, slots=True)
class Cell:
    """One detector on one dataset with one seed.

    Attributes
    ----------
    dataset : str
    choice : Choice
    seed : int
    params : dict
        Content of params.yaml for this cell, but for the detectors.
    inputs : dict of str to str
        SHA-256 of the files of the project that it reads.
    rows : str
        Key of its rows, which the cells of a dataset and a seed share.
    key : str
        Hash of all that decides its numbers.
    """

    dataset: str
    choice: Choice
    seed: int
    params: dict[str, Any]
    inputs: dict[str, str]
    rows: str
    key: str

    def to_json(self) -> dict[str, Any]:
        """Return the cell as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Cell:
        """Return the cell that `to_json` described."""
        return cls(**{**content, "choice": Choice(**content["choice"])})


class CellView(Project):
    """A project as a cell sees it: its settings, its one detector, and a folder for the outputs of each verb."""

    def __init__(self, root: Path, params: dict[str, Any], choice: Choice, folders: Mapping[str, Path]) -> None:
        super().__init__(root, params["dataset"], params)
        self.__dict__["config"] = replace(parse_config(params), detectors=(choice,))
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
    if path.is_file():
        former = parse_yaml(path.read_bytes(), path)
        if not isinstance(former, Mapping) or any(former.get(key) != values for key, values in lists.items()):
            raise ConfigError(f"{path.relative_to(root)} asks for something else; edit it, or name another sweep")
        return
    text = "".join(f"{key}: [{', '.join(map(str, values))}]\n" for key, values in lists.items())
    write_bytes(path, text.encode())


def read_sweep(project: Project, name: str) -> Sweep:
    """Read and check the definition of a sweep.

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
    datasets = _different(raw["datasets"], f"{where}: datasets")
    for dataset in datasets:
        check_name(dataset, f"{where}: datasets")
        project.require_dataset(dataset)
    detectors = _chosen(project, raw["detectors"], f"{where}: detectors")
    seeds = _different(parse_seeds(raw["seeds"], f"{where}: seeds"), f"{where}: seeds")
    sweep = Sweep(name, datasets, detectors, seeds, raw.get("levels"), raw.get("adapters"))
    for choice in detectors:
        make_detector(choice.name, choice.params, seed=0, device="cpu")
    for adapter in parse_config(_params(project, sweep, datasets[0], max(seeds)), where=where).adapters:
        make_adapter(adapter.name, adapter.params)
    return sweep


def parse_seeds(raw: Any, where: str) -> list[int]:
    """Return the seeds of a list of numbers, or of a text such as "0-4" or "0,2,5"."""
    if isinstance(raw, str) and re.fullmatch(r"\d{1,9}(-\d{1,9})?(,\d{1,9}(-\d{1,9})?)*", raw):
        ends = [part.partition("-") for part in raw.split(",")]
        return [seed for low, _, high in ends for seed in range(int(low), int(high or low) + 1)]
    if isinstance(raw, list) and all(type(seed) is int and seed >= 0 for seed in raw):
        return raw
    raise ConfigError(f"{where}: {raw!r} must be whole numbers from 0 on, such as 0-4 or [0, 1, 2]")


def _different(values: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{where} must be a list with at least one entry; got {values!r}")
    if repeated := [value for value in values if values.count(value) > 1]:
        raise ConfigError(f"{where}: {repeated[0]!r} occurs twice; name it once")
    return tuple(values)


def _chosen(project: Project, raw: Any, where: str) -> tuple[Choice, ...]:
    """Return the detectors of a mapping as in params.yaml, or of a list of labels in params.yaml, names and paths."""
    if isinstance(raw, Mapping) and raw:
        return tuple(parse_detector(label, entry, where) for label, entry in raw.items())
    own, chosen = {choice.label: choice for choice in project.config.detectors}, []
    for name in _different(raw, where):
        label = str(name).rpartition(".")[2]
        chosen.append(own.get(name) or parse_detector(label, {"detector": name}, where))
    _different([choice.label for choice in chosen], where)
    return tuple(chosen)


def _params(project: Project, sweep: Sweep, dataset: str, seed: int) -> dict[str, Any]:
    """Return the content of params.yaml for the cells of a dataset and a seed, which is added to every seed in it."""
    params = {**project.raw_params, "dataset": dataset, "datasets": [dataset]}
    params |= {name: {**params[name], "seed": params[name]["seed"] + seed} for name in _MOVED}
    if sweep.levels is not None:
        params["contaminate"]["levels"] = sweep.levels
    if sweep.adapters is not None:
        params["adapters"] = sweep.adapters
    params["select"] = {**params["select"], "without_labels": "probes"}  # which no cell reads
    return {**params, "detectors": {name: {} for name in ALWAYS}}


def cells_of(project: Project, sweep: Sweep) -> list[Cell]:
    """Return the cells of a sweep, those that share rows next to each other."""
    codes: dict[str, dict[str, Any]] = {}
    cells = []
    for dataset in sweep.datasets:
        inputs = read_inputs(project.root, dataset)
        for seed in sweep.seeds:
            params = _params(project, sweep, dataset, seed)
            for choice in sweep.detectors:
                detector = [choice.name, choice.params]
                if (named := hash_json([dataset, detector])) not in codes:
                    view = CellView(project.root, params, choice, {})
                    codes[named] = {verb: stage_code(view, view.stages_of(verb)[0]) for verb in _DECIDING}
                parts = {
                    verb: [codes[named][verb], {name: params[name] for name in names}]
                    for verb, names in _DECIDING.items()
                }
                rows = hash_json([SWEEP_SCHEMA, inputs, [parts[verb] for verb in PREPARING]])
                key = hash_json([rows, detector, [parts[verb] for verb in OF_CELL]])
                cells.append(Cell(dataset, choice, seed, params, inputs, rows, key))
    return cells


def read_inputs(root: Path, dataset: str) -> dict[str, str]:
    """Return the SHA-256 of the files of a project that the cells of a dataset read."""
    people = (path(root, dataset) for path in (answers_path, labels_path, quarantine_path, target_path))
    paths = [path.relative_to(root).as_posix() for path in people if path.is_file()]
    return hash_paths(root, [f"data/{dataset}", *paths])


def kept_path(root: Path, key: str) -> Path:
    """Return where the result of a cell is kept."""
    return root / SWEEPS / ".cells" / f"{key}.json"
