"""Which files of a project each verb gets: the one binding that every driver goes through."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assay import pipeline
from assay.data.labelling import labels_path
from assay.data.quarantine import quarantine_path
from assay.data.target import target_path
from assay.errors import StageError
from assay.hashing import RECORD, hash_json, hash_tree
from assay.pipeline.progress import Progress, silent
from assay.project.freshness import Outcome, run_stage
from assay.project.installed import hash_code
from assay.project.layout import Project

LEARNED_FROM = ("train", "adapt", "calibration")
BEHIND = ("split", "contaminate", "validate", "train", "calibrate")


def _split(project: Project, out: Path, progress: Progress) -> dict[str, Any]:
    sections = project.config.sections
    return pipeline.split(
        project.data,
        quarantine_path(project.root, project.dataset),
        out,
        seed=sections["split"]["seed"],
        source=sections["contaminate"]["source"],
    )


def _contaminate(project: Project, out: Path, progress: Progress) -> dict[str, Any]:
    settings, roles = project.config.sections["contaminate"], project.folder("split")
    return pipeline.contaminate(project.data, roles / "train", roles / "pool", out, **settings)


def _validate(project: Project, out: Path, progress: Progress) -> dict[str, Any]:
    return pipeline.validate(
        project.data,
        project.suite,
        project.folder("split"),
        project.folder("contaminate"),
        out,
        docs=project.state / "data_docs" / project.dataset,
    )


def _train(project: Project, out: Path, progress: Progress) -> dict[str, Any]:
    """Train; states of interrupted trainings are kept by the code that made them, until one is finished."""
    checkpoints = project.state / "checkpoints" / project.dataset
    code = hash_json(hash_code(project.root, project.stages["train"].code))[:12]
    details = pipeline.train(
        project.data,
        project.folder("split") / "train",
        project.folder("contaminate"),
        out,
        detectors=project.config.detectors,
        checkpoints=checkpoints / code,
        progress=progress,
        **project.config.sections["train"],
    )
    shutil.rmtree(checkpoints, ignore_errors=True)
    return details


def _calibrate(project: Project, out: Path, progress: Progress) -> dict[str, Any]:
    roles = project.folder("split")
    return pipeline.calibrate(
        project.data,
        roles / "split.json",
        roles / "adapt",
        roles / "calibration",
        labels_path(project.root, project.dataset),
        target_path(project.root, project.dataset),
        project.folder("train"),
        out,
        detectors=project.config.detectors,
        adapters=project.config.adapters,
        progress=progress,
        **project.config.sections["calibrate"],
    )


def _select(project: Project, out: Path, progress: Progress) -> dict[str, Any]:
    return pipeline.select(
        project.folder("split") / "selection",
        project.folder("train"),
        project.folder("calibrate") / "adapters",
        out,
        detectors=project.config.detectors,
        adapters=project.config.adapters,
        eps=project.config.eps,
        seed=project.config.sections["select"]["seed"],
    )


def _evaluate(project: Project, out: Path, progress: Progress) -> dict[str, Any]:
    return pipeline.evaluate(
        project.folder("split") / "test",
        project.folder("train"),
        project.folder("calibrate"),
        out,
        detectors=project.config.detectors,
        adapters=project.config.adapters,
        eps=project.config.eps,
    )


def _package(project: Project, out: Path, progress: Progress) -> dict[str, Any]:
    pipeline.package(
        project.data,
        project.folder("split") / "split.json",
        {role: project.folder("split") / role for role in LEARNED_FROM},
        project.folder("contaminate") / "labelled",
        {stage: project.folder(stage) / RECORD for stage in (*BEHIND, "select")},
        project.folder("train"),
        project.folder("calibrate"),
        project.folder("select"),
        out,
        eps=project.config.eps,
    )
    (scorer,) = (path.name for path in out.iterdir() if path.is_dir())
    return {"scorer": f"{project.dataset}:{scorer}"}


VERBS: dict[str, Callable[[Project, Path, Progress], dict[str, Any]]] = {
    "split": _split,
    "contaminate": _contaminate,
    "validate": _validate,
    "train": _train,
    "calibrate": _calibrate,
    "select": _select,
    "evaluate": _evaluate,
    "package": _package,
}


def run(project: Project, stage: str, progress: Progress = silent) -> Outcome:
    """Run one stage of a project unless it is fresh; see `assay.project.freshness.run_stage`."""
    return run_stage(project, stage, lambda its_project, out: VERBS[stage](its_project, out, progress))


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
