"""A project: the folder with params.yaml and dvc.yaml, and the paths in it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from assay.errors import ConfigError, StageError
from assay.eventlog import EventLog
from assay.names import check_name
from assay.parts import parse_yaml, write_bytes
from assay.project.config import Config, parse_config, read_params
from assay.project.installed import check_params, is_own, stage_code


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml: DVC and Assay's records use the same inputs, code and parameters.

    Attributes
    ----------
    name : str
    inputs : tuple of str
        Paths relative to the project.
    code : tuple of str
        Paths in ``src/``, and constraints.txt; or, where the stage depends on assay.lock, names of installed code
        (see `assay.project.installed.hash_code`).
    params : tuple of str
        Names in params.yaml.
    folder : str
        The one output folder.
    """

    name: str
    inputs: tuple[str, ...]
    code: tuple[str, ...]
    params: tuple[str, ...]
    folder: str


class Project:
    """Paths and settings of one project folder.

    Parameters
    ----------
    root : Path
        The folder that holds params.yaml and dvc.yaml.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    @classmethod
    def find(cls, start: Path | None = None) -> Project:
        """Return the project at or above `start` (default: the current folder)."""
        folder = (start or Path.cwd()).resolve()
        for candidate in (folder, *folder.parents):
            if (candidate / "params.yaml").is_file() and (candidate / "dvc.yaml").is_file():
                return cls(candidate)
        raise ConfigError(
            f"{folder} is not inside an Assay project (a folder with params.yaml and dvc.yaml); cd into one, or "
            "make one: `assay init FOLDER`"
        )

    @cached_property
    def raw_params(self) -> dict[str, Any]:
        """Content of params.yaml, checked."""
        return read_params(self.root / "params.yaml")

    @cached_property
    def config(self) -> Config:
        """The settings in params.yaml."""
        return parse_config(self.raw_params)

    @property
    def dataset(self) -> str:
        """Name of the dataset of this run."""
        return self.config.dataset

    @property
    def data(self) -> Path:
        """Folder of this run's dataset."""
        return self.root / "data" / self.dataset

    @property
    def suite(self) -> Path:
        """The Great Expectations suite of this run's dataset."""
        return self.root / "expectations" / f"{self.dataset}.json"

    @property
    def state(self) -> Path:
        """Folder of local state: events, downloads, reports, the lock."""
        return self.root / ".assay"

    @property
    def events(self) -> EventLog:
        """The project's event log."""
        return EventLog(self.state / "events.jsonl")

    def folder(self, stage: str) -> Path:
        """Output folder of a stage."""
        return self.root / self.stages[stage].folder

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """The stages of dvc.yaml with ``${dataset}`` filled in, in the order of the pipeline."""
        from assay.project.stages import STAGES

        path = self.root / "dvc.yaml"
        raw = (parse_yaml(path.read_bytes(), path) or {}).get("stages", {})
        if missing := sorted(set(STAGES) - set(raw)):
            raise ConfigError(f"dvc.yaml has no stage {missing[0]!r}; it needs {', '.join(STAGES)}")
        return {name: self._stage(name, raw[name]) for name in STAGES}

    def _stage(self, name: str, raw: dict[str, Any]) -> Stage:
        deps = [path.replace("${dataset}", self.dataset) for path in raw["deps"]]
        params = raw.get("params", ())
        return Stage(
            name=name,
            inputs=tuple(path for path in deps if not is_own(path)),
            code=stage_code(name) if check_params(name, params) else tuple(filter(is_own, deps)),
            params=tuple(entry for entry in params if isinstance(entry, str)),
            folder=raw["outs"][0].replace("${dataset}", self.dataset),
        )

    def params_of(self, stage: Stage) -> dict[str, Any]:
        """Values in params.yaml that a stage depends on."""
        values: dict[str, Any] = {}
        for name in stage.params:
            value: Any = self.raw_params
            for key in name.split("."):
                value = value[key]
            values[name] = value
        return values

    def use_dataset(self, name: str) -> None:
        """Write ``dataset: name`` into params.yaml, so that DVC sees the same run.

        Raises
        ------
        ConfigError
            The name is not allowed, or params.yaml has not one line that begins with ``dataset:``.
        StageError
            There is no such dataset.
        """
        check_name(name, "--dataset")
        self.require_dataset(name)
        path = self.root / "params.yaml"
        text, n_lines = re.subn(r"(?m)^dataset:.*$", f"dataset: {name}", path.read_text(encoding="utf-8"))
        if n_lines != 1:
            raise ConfigError(f"{path} has {n_lines} lines that begin with 'dataset:'; it needs one")
        write_bytes(path, text.encode())
        for cached in ("raw_params", "config", "stages"):
            self.__dict__.pop(cached, None)

    def require_dataset(self, name: str) -> None:
        """Raise `StageError` unless the dataset has been ingested."""
        if not (self.root / "data" / name).is_dir():
            have = ", ".join(sorted(p.name for p in (self.root / "data").glob("*"))) or "none"
            raise StageError(f"there is no dataset {name!r} in data/ (there are: {have}); add it with `assay ingest`")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the project's lock; raise `StageError` at once if another command holds it."""
        from filelock import FileLock, Timeout

        self.state.mkdir(exist_ok=True)
        path = self.state / "lock"
        try:
            with FileLock(path, timeout=0):
                path.write_text(f"{os.getpid()}\n", encoding="utf-8")
                yield
        except Timeout as error:
            raise StageError(f"another assay command is working in {self.root}; wait until it has ended") from error
