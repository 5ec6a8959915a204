"""The stages of a project: their titles, the files that their verbs get, and what the ledger and the audit need.

A new stage is a verb in `assay.pipeline`, an entry in `STAGES` at its place in the order, and a stage in dvc.yaml. The
drivers, the ledger, OpenLineage and the audit read `STAGES`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay import pipeline
from assay.data.labelling import labels_path
from assay.data.quarantine import quarantine_path
from assay.data.target import target_path
from assay.hashing import RECORD, hash_json
from assay.pipeline.candidates import Candidates
from assay.pipeline.made import Made
from assay.pipeline.progress import StageProgress
from assay.project.installed import hash_code

if TYPE_CHECKING:
    from assay.project.layout import Project


@dataclass(frozen=True, slots=True)
class StageEntry:
    """Properties of a stage in addition to those in dvc.yaml.

    Attributes
    ----------
    title : str
        Name in outputs for people.
    make : callable
        Calls the verb with the project's files; gets the project, the output folder and the progress callback.
    uses : tuple of str
        Uses of rows in the stage; see `assay.ledger.rows.USES`.
    behind : bool
        Whether a scorer is made from its outputs and carries its record.
    parted : bool
        Whether each folder in its output folder is a separate dataset (for OpenLineage).
    """

    title: str
    make: Callable[[Project, Path, StageProgress], Made[Any]]
    uses: tuple[str, ...] = ()
    behind: bool = False
    parted: bool = False


def candidates_of(project: Project) -> Candidates:
    """Return the detectors and adapters of params.yaml."""
    return Candidates(project.config.detectors, project.config.adapters)


def _split(project: Project, out: Path, progress: StageProgress) -> Made[Any]:
    sections = project.config.sections
    return pipeline.split(
        out,
        data=project.data,
        quarantine=quarantine_path(project.root, project.dataset),
        seed=sections["split"]["seed"],
        source=sections["contaminate"]["source"],
    )


def _contaminate(project: Project, out: Path, progress: StageProgress) -> Made[Any]:
    roles = project.folder("split")
    settings = project.config.sections["contaminate"]
    return pipeline.contaminate(out, card=project.data, train=roles / "train", pool=roles / "pool", **settings)


def _validate(project: Project, out: Path, progress: StageProgress) -> Made[Any]:
    return pipeline.validate(
        out,
        data=project.data,
        suite=project.suite,
        split=project.folder("split"),
        contaminated=project.folder("contaminate"),
        docs=project.state / "data_docs" / project.dataset,
    )


def _train(project: Project, out: Path, progress: StageProgress) -> Made[Any]:
    """Train. Checkpoints of interrupted trainings are kept per code version, until a training finishes."""
    checkpoints = project.state / "checkpoints" / project.dataset
    code = hash_json(hash_code(project.root, project.stages["train"].code))[:12]
    result = pipeline.train(
        out,
        card=project.data,
        train=project.folder("split") / "train",
        contaminated=project.folder("contaminate"),
        checkpoints=checkpoints / code,
        detectors=project.config.detectors,
        progress=progress,
        **project.config.sections["train"],
    )
    shutil.rmtree(checkpoints, ignore_errors=True)
    return result


def _calibrate(project: Project, out: Path, progress: StageProgress) -> Made[Any]:
    roles = project.folder("split")
    return pipeline.calibrate(
        out,
        card=project.data,
        split=roles / "split.json",
        adapt=roles / "adapt",
        calibration=roles / "calibration",
        labels=labels_path(project.root, project.dataset),
        target=target_path(project.root, project.dataset),
        trained=project.folder("train"),
        candidates=candidates_of(project),
        progress=progress,
        **project.config.sections["calibrate"],
    )


def _select(project: Project, out: Path, progress: StageProgress) -> Made[Any]:
    return pipeline.select(
        out,
        selection=project.folder("split") / "selection",
        trained=project.folder("train"),
        adapters=project.folder("calibrate") / "adapters",
        candidates=candidates_of(project),
        eps=project.config.eps,
        **project.config.sections["select"],
    )


def _evaluate(project: Project, out: Path, progress: StageProgress) -> Made[Any]:
    return pipeline.evaluate(
        out,
        test=project.folder("split") / "test",
        trained=project.folder("train"),
        calibrated=project.folder("calibrate"),
        candidates=candidates_of(project),
        eps=project.config.eps,
    )


def _package(project: Project, out: Path, progress: StageProgress) -> Made[Any]:
    roles = project.folder("split")
    return pipeline.package(
        out,
        data=project.data,
        split=roles / "split.json",
        rows={
            **{role: roles / role for role in ("train", "adapt", "calibration")},
            "labelled": project.folder("contaminate") / "labelled",
        },
        records={stage: project.folder(stage) / RECORD for stage, entry in STAGES.items() if entry.behind},
        trained=project.folder("train"),
        calibrated=project.folder("calibrate"),
        selected=project.folder("select"),
        eps=project.config.eps,
    )


STAGES: dict[str, StageEntry] = {
    "split": StageEntry("Split into roles", _split, uses=("excluded", "gate"), behind=True, parted=True),
    "contaminate": StageEntry("Contaminate", _contaminate, uses=("pool",), behind=True, parted=True),
    "validate": StageEntry("Validate", _validate, behind=True),
    "train": StageEntry("Train", _train, uses=("train", "labelled", "injected"), behind=True, parted=True),
    "calibrate": StageEntry("Calibrate", _calibrate, uses=("adapt", "calibration", "target"), behind=True, parted=True),
    "select": StageEntry("Select", _select, uses=("selection",), behind=True),
    "evaluate": StageEntry("Evaluate", _evaluate, uses=("test",)),
    "package": StageEntry("Scorer", _package, parted=True),
}
