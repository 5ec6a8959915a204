"""The stages of a project: their titles, the files that their verbs get, and what the ledger and the audit need.

A new stage is a verb in `assay.pipeline`, an entry in `STAGES` at its place in the order, and a stage in dvc.yaml. The
drivers, the ledger, OpenLineage and the audit read `STAGES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay import pipeline
from assay.data.answers import answers_path
from assay.data.labelling import labels_path
from assay.data.quarantine import quarantine_path
from assay.data.target import target_path
from assay.hashing import RECORD
from assay.names import Choice
from assay.pipeline.candidates import Candidates
from assay.pipeline.made import Made
from assay.pipeline.progress import StageProgress

if TYPE_CHECKING:
    from assay.project.layout import Project


@dataclass(frozen=True, slots=True)
class StageRun:
    """One run of a stage.

    Attributes
    ----------
    project : Project
        Seen from the dataset of the stage.
    detector : str or None
        Label of the cell's detector.
    checkpoints : Path
        Folder for what an interrupted run of the same work may go on from; removed when the stage has finished.
    progress : callable
    """

    project: Project
    detector: str | None
    checkpoints: Path
    progress: StageProgress

    @property
    def choice(self) -> Choice:
        """The cell's detector as params.yaml has it."""
        return next(choice for choice in self.project.config.detectors if choice.label == self.detector)


@dataclass(frozen=True, slots=True)
class StageEntry:
    """Properties of a stage in addition to those in dvc.yaml.

    Attributes
    ----------
    title : str
        Name in outputs for people.
    verb : callable
        Does the work; gets the output folder and the arguments.
    arguments : callable
        Returns the verb's arguments, the project's files and settings among them, for a `StageRun`.
    uses : tuple of str
        Uses of rows in the stage; see `assay.ledger.rows.USES`.
    behind : bool
        Whether a scorer is made from its outputs and carries its record.
    parted : bool
        Whether each folder in its output folder is a separate dataset (for OpenLineage).
    cells : bool
        Whether there is one for each detector.
    parts : mapping of str to str
        By verb of cells: the one folder of each cell that the stage reads, where it does not read all.
    """

    title: str
    verb: Callable[..., Made[Any]]
    arguments: Callable[[StageRun], dict[str, Any]]
    uses: tuple[str, ...] = ()
    behind: bool = False
    parted: bool = False
    cells: bool = False
    parts: Mapping[str, str] = field(default_factory=dict)


def candidates_of(project: Project) -> Candidates:
    """Return the detectors of params.yaml by label, and the adapters in their order.

    The order of a mapping is no setting: neither DVC nor a record compares it.
    """
    detectors = sorted(project.config.detectors, key=lambda choice: choice.label)
    return Candidates(tuple(detectors), project.config.adapters)


def folders_of(project: Project, verb: str) -> dict[str, Path]:
    """Return the folder of each cell of a verb, by label of the detector."""
    return {choice.label: project.folder(verb, choice.label) for choice in project.config.detectors}


def _split(run: StageRun) -> dict[str, Any]:
    project, sections = run.project, run.project.config.sections
    return {
        "data": project.data,
        "quarantine": quarantine_path(project.root, project.dataset),
        "answers": answers_path(project.root, project.dataset),
        "seed": sections["split"]["seed"],
        "source": sections["contaminate"]["source"],
    }


def _contaminate(run: StageRun) -> dict[str, Any]:
    roles = run.project.folder("split")
    settings = run.project.config.sections["contaminate"]
    return {"card": run.project.data, "train": roles / "train", "pool": roles / "pool", **settings}


def _validate(run: StageRun) -> dict[str, Any]:
    project = run.project
    return {
        "data": project.data,
        "suite": project.suite,
        "split": project.folder("split"),
        "contaminated": project.folder("contaminate"),
        "docs": project.state / "data_docs" / project.dataset,
    }


def _train(run: StageRun) -> dict[str, Any]:
    return {
        "card": run.project.data,
        "train": run.project.folder("split") / "train",
        "contaminated": run.project.folder("contaminate"),
        "checkpoints": run.checkpoints,
        "detector": run.choice,
        "progress": run.progress,
        **run.project.config.sections["train"],
    }


def _calibrate(run: StageRun) -> dict[str, Any]:
    project, roles = run.project, run.project.folder("split")
    return {
        "card": project.data,
        "split": roles / "split.json",
        "adapt": roles / "adapt",
        "calibration": roles / "calibration",
        "labels": labels_path(project.root, project.dataset),
        "target": target_path(project.root, project.dataset),
        "trained": project.folder("train", run.detector),
        "detector": run.choice,
        "adapters": project.config.adapters,
        "checkpoints": run.checkpoints,
        "progress": run.progress,
        **project.config.sections["calibrate"],
    }


def _select(run: StageRun) -> dict[str, Any]:
    project = run.project
    return {
        "selection": project.folder("split") / "selection",
        "pool": project.folder("split") / "pool",
        "plan": project.folder("contaminate") / "plan.json",
        "trained": folders_of(project, "train"),
        "adapters": {label: folder / "adapters" for label, folder in folders_of(project, "calibrate").items()},
        "candidates": candidates_of(project),
        "eps": project.config.eps,
        **project.config.sections["select"],
    }


def _evaluate(run: StageRun) -> dict[str, Any]:
    project = run.project
    return {
        "test": project.folder("split") / "test",
        "trained": folders_of(project, "train"),
        "calibrated": folders_of(project, "calibrate"),
        "candidates": candidates_of(project),
        "eps": project.config.eps,
    }


def _package(run: StageRun) -> dict[str, Any]:
    project, roles = run.project, run.project.folder("split")
    behind = [stage for stage, entry in STAGES.items() if entry.behind and not entry.cells]
    return {
        "data": project.data,
        "split": roles / "split.json",
        "rows": {
            **{role: roles / role for role in ("train", "adapt", "calibration")},
            "labelled": project.folder("contaminate") / "labelled",
        },
        "records": {stage: project.folder(stage) / RECORD for stage in behind},
        "trained": folders_of(project, "train"),
        "calibrated": folders_of(project, "calibrate"),
        "selected": project.folder("select"),
        "eps": project.config.eps,
    }


STAGES: dict[str, StageEntry] = {
    "split": StageEntry(
        "Split into roles", pipeline.split, _split, uses=("excluded", "gate"), behind=True, parted=True
    ),
    "contaminate": StageEntry(
        "Contaminate", pipeline.contaminate, _contaminate, uses=("pool",), behind=True, parted=True
    ),
    "validate": StageEntry("Validate", pipeline.validate, _validate, behind=True),
    "train": StageEntry(
        "Train",
        pipeline.train,
        _train,
        uses=("train", "labelled", "injected"),
        behind=True,
        parted=True,
        cells=True,
    ),
    "calibrate": StageEntry(
        "Calibrate",
        pipeline.calibrate,
        _calibrate,
        uses=("adapt", "calibration", "target"),
        behind=True,
        parted=True,
        cells=True,
    ),
    "select": StageEntry(
        "Select", pipeline.select, _select, uses=("selection", "pool"), behind=True, parts={"calibrate": "adapters"}
    ),
    "evaluate": StageEntry("Evaluate", pipeline.evaluate, _evaluate, uses=("test",)),
    "package": StageEntry("Scorer", pipeline.package, _package, parted=True),
}
