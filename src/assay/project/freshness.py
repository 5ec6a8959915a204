"""Stage outputs: whether they are the recorded ones, and whether they are up to date with their inputs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from assay.errors import StageError, TamperedError
from assay.eventlog import START
from assay.hashing import RECORD, RECORD_SCHEMA, Record, dvc_directory_md5, hash_bytes, hash_file, hash_paths, hash_tree
from assay.parts import canonical_json, parse_json, write_bytes
from assay.pipeline.progress import StageProgress, silent
from assay.project.installed import made_by, stage_code
from assay.project.layout import Project, Stage
from assay.project.pending import Change
from assay.project.versioning import locked_version
from assay.project.work import THREADS, Doing, do_here

_LONGEST = 60  # letters of a setting in a message
StageWork = Callable[[Project, Path, Path], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of running a stage: whether it ran or was fresh, the seconds it took, and its timings."""

    stage: Stage
    ran: bool
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)


def read_record(folder: Path) -> Record | None:
    """Return the record of a stage folder, None where the stage never finished there.

    Raises
    ------
    TamperedError
        The record exists but was not written by this version of Assay.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = Record.from_json(parse_json(path.read_bytes()))
    except ValueError:
        record = None
    if record is not None and record.schema == RECORD_SCHEMA and _content(record) == path.read_bytes():
        return record
    raise TamperedError(f"{path} is not a record that this version of Assay wrote; remove {folder} to compute it again")


def require_record(folder: Path) -> Record:
    """Return the record of a stage folder; raise `StageError` where the stage never finished there."""
    record = read_record(folder)
    if record is None:
        raise StageError(f"{folder} has no {RECORD}: the stage has not finished there; run `assay run`")
    return record


def _content(record: Record) -> bytes:
    return canonical_json(record.to_json()).encode()


def differences(folder: Path, record: Record) -> list[str]:
    """Return a message for every output of a stage that is missing, changed or not in its record."""
    hashes, recorded = hash_tree(folder), record.outputs
    messages = [
        f"{folder / name} was changed" for name in recorded if name in hashes and hashes[name] != recorded[name]
    ]
    messages += [f"{folder / name} is missing" for name in recorded if name not in hashes]
    messages += [f"{folder / name} is not on record" for name in hashes if name not in recorded]
    return sorted(messages)


def describe_inputs(project: Project, stage_name: str) -> Record:
    """Return the record of a stage for the present files, without outputs: all that determines the outputs."""
    stage = project.stage(stage_name)
    for path in stage.inputs:
        if not (project.root / path).exists():
            raise StageError(
                f"stage {stage.name} needs {path}, which is missing; run `assay run` (or `dvc repro`), or `dvc pull`"
            )
    return Record(
        stage=stage.verb,
        dataset=stage.dataset,
        inputs=hash_paths(project.root, stage.inputs),
        params=project.params_of(stage),
        code=stage_code(project, stage),
        detector=stage.detector,
        threads=None if stage.detector is None else THREADS,
    )


def require_same_settings(project: Project, stage: Stage) -> None:
    """Raise `StageError` if the outputs that a stage reads were made with other settings than those of now.

    `dvc repro` starts each stage by itself; without this check an edit of params.yaml between two of them would make a
    scorer of both.
    """
    for source in project.stages.values():
        if not any(path == source.folder or path.startswith(f"{source.folder}/") for path in stage.inputs):
            continue
        record = read_record(project.root / source.folder)
        made_with = {} if record is None else record.params
        for name, value in project.params_of(source).items():
            if (former := made_with.get(name, value)) != value:
                raise StageError(
                    f"stage {stage.name}: params.yaml has {name}: {_short(value)}, and {source.name} was made with "
                    f"{_short(former)}; nothing was run. Run `assay run` or `dvc repro`, which begin with {source.name}"
                )


def require_settings(project: Project, stage: Stage) -> None:
    """Raise `StageError` if the settings of a stage in params.yaml are other ones now than when it began."""
    try:
        is_same = project.as_it_is().params_of(stage) == project.params_of(stage)
    except (KeyError, TypeError):
        is_same = False
    if not is_same:
        raise StageError(
            f"stage {stage.name}: its settings in params.yaml changed while it ran, and its outputs are those of the "
            "former ones; run the same command again"
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def check_outputs(project: Project, stage_name: str) -> Record | None:
    """Return a stage's record if its folder is exactly what was recorded, None if it never finished.

    Raises
    ------
    TamperedError
        An output differs from the record, or neither the event log, if there is one, nor dvc.lock (which may name what
        was computed on another machine and pulled) has the record.
    """
    stage = project.stage(stage_name)
    folder = project.root / stage.folder
    record = read_record(folder)
    if record is None:
        return None
    if problems := differences(folder, record):
        remainder = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise TamperedError(
            f"stage {stage.name}: {problems[0]}{remainder} since it was recorded; "
            f"nothing was run. Find out why, then remove {folder} to compute it again, or `dvc checkout --force`"
        )
    event = project.events.last("stage", key=record.key)
    is_lost = project.events.head == START
    logged = is_lost if event is None else event["record"] == hash_file(folder / RECORD)
    if not logged and locked_version(project.root, stage.folder) != dvc_directory_md5(folder):
        raise TamperedError(
            f"stage {stage.name}: {folder / RECORD} is not the record that was logged for these inputs; "
            f"nothing was run. Find out why, then remove {folder} to compute it again"
        )
    return record


def is_fresh(project: Project, stage_name: str) -> bool:
    """Return whether a stage's outputs are intact and up to date with its inputs, parameters and code."""
    record = check_outputs(project, stage_name)
    if record is None or any(not (project.root / path).exists() for path in project.stage(stage_name).inputs):
        return False
    return replace(record, outputs={}, assay=None) == describe_inputs(project, stage_name)


def run_stage(project: Project, stage_name: str, work: StageWork) -> Outcome:
    """Run one stage unless it is fresh; its folder appears complete with its record, or not at all.

    Parameters
    ----------
    project : Project
    stage_name : str
    work : callable
        Gets the project, an empty folder and a folder of checkpoints, which lasts until this very work is finished;
        writes the outputs to the empty folder, and returns details for the event log.

    Raises
    ------
    TamperedError
        The stage's present outputs are not the recorded ones.
    StageError
        An input is missing.
    """
    started, stage = time.perf_counter(), project.stage(stage_name)
    if is_fresh(project, stage_name):
        return Outcome(stage, ran=False, seconds=time.perf_counter() - started)
    described = describe_inputs(project, stage_name)
    require_same_settings(project, stage)
    folder = project.root / stage.folder
    checkpoints = project.state / "checkpoints" / stage.verb / stage.name.partition("@")[2]
    with Change(project.root) as change:
        # In the same folder, since a rename is atomic within one file system alone.
        staging = change.folder(folder.parent, folder.name)
        details = work(project, staging, checkpoints / described.key[:16])
        if describe_inputs(project, stage_name) != described:
            raise StageError(f"stage {stage.name}: its inputs changed while it ran; run again")
        content = _content(replace(described, outputs=hash_tree(staging), assay=made_by(project.root)))
        write_bytes(staging / RECORD, content)
        change.place(staging, folder)
        seconds = round(time.perf_counter() - started, 3)
        of_cell = {} if stage.detector is None else {"detector": stage.detector}
        made = {"stage": stage.verb, "dataset": stage.dataset, **of_cell, "key": described.key}
        change.commit("stage", {**made, "record": hash_bytes(content), "seconds": seconds, "details": details})
        shutil.rmtree(checkpoints, ignore_errors=True)
    return Outcome(stage, ran=True, seconds=time.perf_counter() - started, details=details)


def run_verb(
    project: Project,
    stage: str,
    progress: StageProgress = silent,
    begin: Callable[[], None] = lambda: None,
    *,
    do: Doing = do_here,
) -> Outcome:
    """Run the verb of a stage unless the stage is fresh; see `run_stage`.

    Parameters
    ----------
    project : Project
    stage : str
        Its name in DVC, or a verb; see `Project.stage`.
    progress : callable
        Called with the current step and the finished share of the work.
    begin : callable
        Called when the work begins; never for a fresh stage.
    do : callable
        Does the work, in this process or another one; see `assay.project.work`.
    """

    its_stage = project.stage(stage)

    def work(its_project: Project, out: Path, checkpoints: Path) -> dict[str, Any]:
        begin()
        return do(its_project, its_stage, out, checkpoints, progress)

    return run_stage(project, stage, work)
