"""The work of a stage: in this process, or, for cells that run beside each other, in a process of its own.

The process of a cell writes outputs to the folder that it is given and nothing else. Its parent holds the project's
lock, writes records and events, and calls DVC. Whatever runs beside it, a cell computes with `THREADS` threads, since
the number of threads changes the rounding of sums.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assay import errors
from assay.errors import AssayError, StageError
from assay.pipeline.progress import StageProgress
from assay.project.layout import Project, Stage
from assay.project.stages import STAGES, StageRun

THREADS = 1
PINS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
Doing = Callable[[Project, Stage, Path, Path, StageProgress], dict[str, Any]]
_running: set[subprocess.Popen[bytes]] = set()
_ending = threading.Event()


def do_here(project: Project, stage: Stage, out: Path, checkpoints: Path, progress: StageProgress) -> dict[str, Any]:
    """Do the work of a stage in this process, and return the details for the event log.

    Parameters
    ----------
    project : Project
        Seen from the dataset of the stage.
    stage : Stage
    out, checkpoints : Path
        See `assay.project.stages.StageRun`.
    progress : callable
    """
    entry = STAGES[stage.verb]
    with pinned() if entry.cells else _as_it_is():
        made = entry.verb(out, **entry.arguments(StageRun(project, stage.detector, checkpoints, progress)))
    details: dict[str, Any] = made.details
    return details


def do_elsewhere(
    project: Project, stage: Stage, out: Path, checkpoints: Path, progress: StageProgress
) -> dict[str, Any]:
    """Do the work of a stage as `do_here` does, in a process of its own, which ends when this one does.

    Raises
    ------
    AssayError
        As the verb raised it there.
    OSError
        The system refused the work there, for instance since the disk is full.
    RuntimeError
        The process failed otherwise; the message is the end of what it wrote.
    """
    settings = json.dumps(project.raw_params)
    arguments = [str(project.root), stage.name, str(out), str(checkpoints), settings]
    command = [sys.executable, "-m", "assay.project.work", *arguments]
    with tempfile.TemporaryFile() as noise:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": noise}
        with subprocess.Popen(command, env=os.environ | dict.fromkeys(PINS, str(THREADS)), **pipes) as process:
            _running.add(process)
            try:
                if _ending.is_set():
                    process.kill()
                told = _follow(process, progress)
            finally:
                _running.discard(process)
                process.kill()
        if "details" in told:
            details: dict[str, Any] = told["details"]
            return details
        if "refused" in told:
            raise OSError(*told["refused"])
        if "error" in told:
            kind = getattr(errors, told["error"])
            raise kind(told["message"])
        if _ending.is_set():
            raise StageError(f"stage {stage.name} was ended with the run")
        noise.seek(0)
        raise RuntimeError(f"the process of {stage.name} failed: {noise.read()[-2000:].decode(errors='replace')}")


def end_all() -> None:
    """End the processes of `do_elsewhere`, those that are starting included; for the end of this process."""
    _ending.set()
    for process in list(_running):
        process.kill()


def _follow(process: subprocess.Popen[bytes], progress: StageProgress) -> dict[str, Any]:
    """Pass on the progress of a process, and return what it told last."""
    told: dict[str, Any] = {}
    assert process.stdout is not None
    for line in process.stdout:
        told = json.loads(line)
        if "task" in told:
            progress(told["task"], told["share"])
    return told


@contextmanager
def pinned() -> Iterator[None]:
    """Compute with `THREADS` threads inside the block, in libraries that are loaded already and in others."""
    from threadpoolctl import threadpool_limits

    before = {name: os.environ.get(name) for name in PINS}
    os.environ.update(dict.fromkeys(PINS, str(THREADS)))
    torch: Any = sys.modules.get("torch")
    torch_threads = torch.get_num_threads() if torch else None
    try:
        if torch:
            torch.set_num_threads(THREADS)
        with threadpool_limits(limits=THREADS):
            yield
    finally:
        if torch:
            torch.set_num_threads(torch_threads)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


def _main(root: str, name: str, out: str, checkpoints: str, settings: str) -> None:
    """Do the work of a stage as the process that `do_elsewhere` starts; tell of it as JSON on standard output."""
    from assay.environment import search_garbage_rarely
    from assay.interruption import end_with_parent

    end_with_parent()
    search_garbage_rarely()
    telling = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what libraries print is no message

    def tell(**message: Any) -> None:
        telling.write(json.dumps(message) + "\n")

    project = Project(Path(root), params=json.loads(settings)).seen_from(name)
    try:
        details = do_here(
            project,
            project.stage(name),
            Path(out),
            Path(checkpoints),
            lambda task, share: tell(task=task, share=share),
        )
        tell(details=details)
    except AssayError as error:
        tell(error=type(error).__name__, message=str(error))
    except OSError as error:
        tell(refused=[error.errno, error.strerror or str(error), str(error.filename or "")])


if __name__ == "__main__":
    _main(*sys.argv[1:])
