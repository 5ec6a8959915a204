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

from assay.errors import AssayError, ConfigError, StageError, ToolError
from assay.eventlog import EventLog
from assay.names import BETWEEN, cell_name, check_name
from assay.parts import parse_yaml, write_bytes
from assay.project.anchors import require_anchored
from assay.project.config import Config, parse_config, read_params
from assay.project.pending import log_of
from assay.project.recovery import recover

CODE = "work/code"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of dvc.yaml for one dataset or one cell: DVC and Assay's records use the same inputs and parameters.

    Attributes
    ----------
    name : str
        As DVC has it: ``split@DATASET`` or ``train@DATASET--DETECTOR``.
    verb : str
    dataset : str
    detector : str or None
        Label of the detector, None for a stage of the whole dataset.
    inputs : tuple of str
        Paths relative to the project.
    params : tuple of str
        Names in params.yaml.
    folder : str
        The one output folder.
    """

    name: str
    verb: str
    dataset: str
    detector: str | None
    inputs: tuple[str, ...]
    params: tuple[str, ...]
    folder: str

    @property
    def title(self) -> str:
        """Name in outputs for people, without the dataset."""
        return self.verb if self.detector is None else f"{self.verb} {self.detector}"


class Project:
    """Paths and settings of one project folder, seen from one of its datasets.

    Parameters
    ----------
    root : Path
        The folder that holds params.yaml and dvc.yaml.
    dataset : str, optional
        Default: the current one in params.yaml.
    params : dict, optional
        Content of params.yaml as a run has read it: settings are read once. Default: that of the file when it is first
        asked for.
    """

    def __init__(self, root: Path, dataset: str | None = None, params: dict[str, Any] | None = None) -> None:
        self.root = root.resolve()
        self._dataset = dataset
        if params is not None:
            self.__dict__["raw_params"] = params

    def on(self, dataset: str) -> Project:
        """Return the same project, seen from another dataset."""
        return Project(self.root, dataset, self.__dict__.get("raw_params"))

    def as_it_is(self) -> Project:
        """Return the same project with the settings that are in params.yaml now."""
        return Project(self.root, self._dataset)

    @classmethod
    def find(cls, start: Path | None = None) -> Project:
        """Return the project at or above `start` (default: the current folder).

        Raises
        ------
        ConfigError
            There is none; or it is above `start` and belongs to another user, whose code it would run.
        """
        folder = (start or Path.cwd()).resolve()
        for candidate in (folder, *folder.parents):
            if (candidate / "params.yaml").is_file() and (candidate / "dvc.yaml").is_file():
                if candidate != folder and (owner := candidate.stat().st_uid) != os.geteuid():
                    raise ConfigError(
                        f"the project in {candidate}, above {folder}, belongs to user {owner}, and its code "
                        f"would run as you; if you trust it, cd into {candidate} first"
                    )
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
        return self._dataset or self.config.dataset

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
        return log_of(self.root)

    def folder(self, verb: str, detector: str | None = None) -> Path:
        """Output folder of a stage; for a verb of cells without `detector`, the folder of all its cells."""
        stages = self.stages_of(verb)
        if detector is None and stages[0].detector is not None:
            return (self.root / stages[0].folder).parent
        return self.root / self.stage(verb if detector is None else self._name(verb, detector)).folder

    def cell_folders(self) -> list[Path]:
        """Folders that hold the outputs of all cells, one for each verb of cells."""
        return [
            self.folder(verb) for verb in dict.fromkeys(stage.verb for stage in self.stages.values() if stage.detector)
        ]

    def stage(self, name: str) -> Stage:
        """Return a stage by its name in DVC; the name of a verb alone means this project's dataset.

        Raises
        ------
        ConfigError
            There is no such stage, or the verb alone has several, one for each detector.
        """
        full_name = name if "@" in name else self._name(name)
        if full_name not in self.stages:
            raise ConfigError(f"there is no stage {name!r}; there are {', '.join(self.stages)}")
        return self.stages[full_name]

    def seen_from(self, name: str) -> Project:
        """Return the project, seen from the dataset of a stage (a name as in DVC); itself for a verb alone."""
        dataset = name.partition("@")[2].partition(BETWEEN)[0]
        return self.on(dataset) if dataset else self

    def stages_named(self, name: str) -> list[Stage]:
        """Return a stage by its name in DVC, or all stages of a verb."""
        return [self.stage(name)] if "@" in name else self.stages_of(name)

    def stages_of(self, verb: str) -> list[Stage]:
        """Return the stages of a verb: one, or one for each detector."""
        found = [stage for stage in self.stages.values() if stage.verb == verb]
        if not found:
            verbs = dict.fromkeys(stage.verb for stage in self.stages.values())
            raise ConfigError(f"there is no stage {verb!r}; there are {', '.join(verbs)}")
        return found

    def _name(self, verb: str, detector: str | None = None) -> str:
        return f"{verb}@{self.dataset if detector is None else cell_name(self.dataset, detector)}"

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """The stages of dvc.yaml for this dataset by their names in DVC, in the order of the pipeline."""
        from assay.project.stages import STAGES

        path = self.root / "dvc.yaml"
        raw = (parse_yaml(path.read_bytes(), path) or {}).get("stages", {})
        if missing := sorted(set(STAGES) - set(raw)):
            raise ConfigError(f"dvc.yaml has no stage {missing[0]!r}; it needs {', '.join(STAGES)}")
        return {stage.name: stage for verb in STAGES for stage in self._stages_of(verb, raw[verb])}

    def _stages_of(self, verb: str, raw: dict[str, Any]) -> list[Stage]:
        """Return the stages of one verb; see `assay.project.cells`."""
        if "do" not in raw:
            raise ConfigError(
                f"dvc.yaml: stage {verb} is not one for each dataset or cell (`foreach: ${{datasets}}` or "
                "`foreach: ${cells}`), as in projects of earlier versions of Assay; run `assay migrate`"
            )
        if raw["foreach"] == "${cells}":
            return [self._stage(verb, choice.label, raw["do"]) for choice in self.config.detectors]
        return [self._stage(verb, None, raw["do"])]

    def _stage(self, verb: str, detector: str | None, raw: dict[str, Any]) -> Stage:
        from assay.project.stages import STAGES

        def filled(text: str) -> str:
            values = {"key": f"{self.dataset}", "item": self.dataset}
            if detector is not None:
                cell = cell_name(self.dataset, detector)
                values = {"key": cell, "item.dataset": self.dataset, "item.detector": detector}
            for name, value in values.items():
                text = text.replace(f"${{{name}}}", value)
            return text

        labels = [choice.label for choice in self.config.detectors]
        whole = {f"work/{self.dataset}/{cells}": cells for cells, entry in STAGES.items() if entry.cells}
        inputs = []
        for path in map(filled, raw["deps"]):
            if path in whole:
                part = STAGES[verb].parts.get(whole[path], "")
                inputs += ["/".join(filter(None, (path, label, part))) for label in labels]
            elif not path.startswith(CODE + "/"):
                inputs.append(path)
        params = raw.get("params", ())
        if files := [name for entry in params if isinstance(entry, dict) for name in entry]:
            raise ConfigError(f"dvc.yaml: stage {verb} has parameters in {files[0]}; Assay reads params.yaml")
        return Stage(
            name=self._name(verb, detector),
            verb=verb,
            dataset=self.dataset,
            detector=detector,
            inputs=tuple(inputs),
            params=tuple(map(filled, params)),
            folder=filled(raw["outs"][0]),
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
        """Write ``dataset: name`` into params.yaml, and add it to ``datasets``, so that DVC sees the same run.

        The dataset that was current until now leaves ``datasets`` if it was never ingested, as the default of a new
        project: `dvc repro` would stop at it.

        Raises
        ------
        ConfigError
            The name is not allowed, or params.yaml has not one line each that begins with ``dataset:`` and, where the
            dataset is not in it yet, ``datasets: [``.
        StageError
            There is no such dataset.
        """
        check_name(name, "--dataset")
        self.require_dataset(name)
        path = self.root / "params.yaml"
        text = _replace_line(path, path.read_text(encoding="utf-8"), r"dataset:.*", f"dataset: {name}")
        if name not in self.config.datasets:
            others = (other for other in self.config.datasets if other != self.config.dataset or self._known(other))
            datasets = f"datasets: [{', '.join((*others, name))}]"
            text = _replace_line(path, text, r"datasets:[ ]*\[[^\]]*\]", datasets)
        write_bytes(path, text.encode())
        for cached in ("raw_params", "config", "stages"):
            self.__dict__.pop(cached, None)
        self._dataset = None

    def _known(self, name: str) -> bool:
        return (self.root / "data" / name).is_dir() or (self.root / "expectations" / f"{name}.json").is_file()

    def require_dataset(self, name: str) -> None:
        """Raise `StageError` unless the dataset has been ingested."""
        if not (self.root / "data" / name).is_dir():
            have = ", ".join(sorted(p.name for p in (self.root / "data").glob("*"))) or "none"
            raise StageError(f"there is no dataset {name!r} in data/ (there are: {have}); add it with `assay ingest`")

    @contextlib.contextmanager
    def lock(self, *, waits: bool = False) -> Iterator[None]:
        """Hold the project's lock, and first set right what killed commands left.

        Parameters
        ----------
        waits : bool
            Whether to wait until no other command holds it.

        Raises
        ------
        StageError
            Another command holds it, and this one does not wait.
        ToolError
            DVC failed in a change that a killed command had begun.
        TamperedError
            The event log lacks entries that it had, or that deployed Bentos and seals speak of.
        """
        from filelock import FileLock, Timeout

        self.state.mkdir(exist_ok=True)
        path = self.state / "lock"
        try:
            with FileLock(path, timeout=-1 if waits else 0, poll_interval=0.5):
                path.write_text(f"{os.getpid()}\n", encoding="utf-8")
                self.events.require_whole()
                require_anchored(self.root)
                unfinished = self.state / "unfinished"
                recover(self.root, is_after_kill=unfinished.exists())
                unfinished.touch()
                try:
                    yield
                except AssayError as error:  # a refusal leaves nothing; a tool that failed may have been killed
                    if not isinstance(error, ToolError):
                        unfinished.unlink(missing_ok=True)
                    raise
                unfinished.unlink(missing_ok=True)
        except Timeout as error:
            raise StageError(f"another assay command is working in {self.root}; wait until it has ended") from error


def _replace_line(path: Path, text: str, pattern: str, line: str) -> str:
    text, n_lines = re.subn(rf"(?m)^{pattern}", line, text)
    if n_lines != 1:
        start = line.partition(" ")[0]
        raise ConfigError(
            f"{path} has {n_lines} settings that can be replaced by `{line}`; it needs one that begins with {start!r}"
        )
    return text
