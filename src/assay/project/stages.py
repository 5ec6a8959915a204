"""The stages of a project: what each is called, which files its verb gets, and what else others ask of it.

A new one is a verb in `assay.pipeline`, a line in `STAGES` at its place in the order, and its part of dvc.yaml. The
drivers, the ledger, OpenLineage and the audit read them here.
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
from assay.errors import StageError
from assay.hashing import RECORD, hash_json, hash_tree
from assay.pipeline.candidates import Candidates
from assay.pipeline.made import Made
from assay.pipeline.progress import StageProgress, silent
from assay.project.freshness import Outcome, run_stage
from assay.project.installed import hash_code

if TYPE_CHECKING:
    from assay.project.layout import Project


@dataclass(frozen=True, slots=True)
class Entry:
    """What there is to know of a stage beside its part of dvc.yaml.

    Attributes
    ----------
    title : str
        What people read.
    make : callable
        Calls the verb with the project's files: gets the project, the folder to write to, and whom to tell of progress.
    uses : tuple of str
        What it uses rows for; see `assay.ledger.rows.USES`.
    behind : bool
        Whether a scorer is made from it and carries its record.
    parted : bool
        Whether each folder in its folder is a dataset of its own.
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
    """Train; states of interrupted trainings are kept by the code that made them, until one is finished."""
    checkpoints = project.state / "checkpoints" / project.dataset
    code = hash_json(hash_code(project.root, project.stages["train"].code))[:12]
    made = pipeline.train(
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
    return made


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


STAGES: dict[str, Entry] = {
    "split": Entry("Split into roles", _split, uses=("excluded",), behind=True, parted=True),
    "contaminate": Entry("Contaminate", _contaminate, uses=("pool",), behind=True, parted=True),
    "validate": Entry("Validate", _validate, behind=True),
    "train": Entry("Train", _train, uses=("train", "labelled", "injected"), behind=True, parted=True),
    "calibrate": Entry("Calibrate", _calibrate, uses=("adapt", "calibration", "target"), behind=True, parted=True),
    "select": Entry("Select", _select, uses=("selection",), behind=True),
    "evaluate": Entry("Evaluate", _evaluate, uses=("test",)),
    "package": Entry("Scorer", _package, parted=True),
}


def run(
    project: Project, stage: str, progress: StageProgress = silent, begin: Callable[[], None] = lambda: None
) -> Outcome:
    """Run one stage of a project unless it is fresh; see `assay.project.freshness.run_stage`.

    Parameters
    ----------
    project : Project
    stage : str
        A key of `STAGES`.
    progress : callable
        Is told how far the work is.
    begin : callable
        Is called when the work begins, which that of a fresh stage never does.
    """

    def work(its_project: Project, out: Path) -> dict[str, Any]:
        begin()
        return STAGES[stage].make(its_project, out, progress).details

    return run_stage(project, stage, work)


def require_own_code(project: Project) -> None:
    """Raise `StageError` if the code that runs is not the code in ``src/``, whose hash goes on record."""
    import assay

    running, own = Path(assay.__file__).parent, project.root / "src" / "assay"
    if own.is_dir() and running.resolve() != own.resolve() and hash_tree(running) != hash_tree(own):
        raise StageError(
            f"the assay that runs, {running}, differs from {own}, whose hashes would go on record; "
            f"use the environment of this project (`make run`), or install it: pip install -e {project.root}"
        )


def scorer_folders(project: Project) -> list[Path]:
    """Return the folder of the scorer that the newest run packaged; an empty list where there is none."""
    return [path for path in project.folder("package").glob("*") if path.is_dir()]
