"""Work in this process, in a process of its own, or, by another runner, on another machine.

The process of a unit of work writes outputs to the folder that it is given and nothing else. Its parent holds the
project's lock, writes records and events, and calls DVC. Whatever runs beside it, a cell computes with `THREADS`
threads, since the number of threads changes the rounding of sums.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from assay import errors
from assay.data.word_vectors import VECTOR_FILES
from assay.errors import AssayError, ConfigError, StageError
from assay.pipeline.progress import StageProgress, silent
from assay.pipeline.rows import levels_of
from assay.project.installed import is_network, on_device
from assay.project.layout import Project, Stage
from assay.project.stages import STAGES, StageRun

THREADS, SECONDS_BETWEEN_LOOKS = 1, 0.5
PINS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
Doing = Callable[[Project, Stage, Path, Path, StageProgress], dict[str, Any]]
_running: set[subprocess.Popen[bytes]] = set()
_ending = threading.Event()


@dataclass(frozen=True, slots=True)
class Work:
    """A unit of work: a function, what it reads, and the folder that it fills.

    Attributes
    ----------
    name : str
        For people.
    function : str
        ``assay.module:function``, called as ``function(root, out, progress, **arguments)`` in a process of its own with
        one thread; it returns details, plain JSON values. On another machine `root` and `out` are folders there.
    arguments : dict
        Plain JSON values.
    inputs : tuple of str
        Files and folders that it reads, relative to the root; on another machine there may be nothing else.
    out : Path
        An empty folder. What a worker that died left is never in it.
    on_device : bool
        Whether it computes on a GPU where there is one.
    """

    name: str
    function: str
    arguments: dict[str, Any]
    inputs: tuple[str, ...]
    out: Path
    on_device: bool = False


class WorkRunner:
    """Does units of work in processes of this machine, which end with it; use it in a ``with`` block.

    Parameters
    ----------
    root : Path
        Folder that what is read is in.
    slots : int
        How many units `submit` does at the same time.
    """

    def __init__(self, root: Path, slots: int = 1) -> None:
        self.root, self.slots = root, slots
        self._pool: ThreadPoolExecutor | None = None
        self._closing = threading.Event()

    def __enter__(self) -> Self:
        _opened.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _opened.remove(self)
        if error is not None:
            self._closing.set()
        if self._pool is not None:
            self._pool.shutdown(wait=error is None, cancel_futures=True)

    def do(self, work: Work, progress: StageProgress = silent) -> dict[str, Any]:
        """Do a unit of work, and return its details; other threads may do others meanwhile.

        Raises
        ------
        AssayError
            As the function raised it there.
        OSError
            The system refused the work there, for instance since the disk is full.
        RuntimeError
            The process failed otherwise; the message is the end of what it wrote.
        """
        return self._do_until(threading.Event(), work, progress)

    def submit(self, work: Work, progress: StageProgress = silent) -> Future[dict[str, Any]]:
        """Do a unit of work as `do` does, as soon as one of the `slots` is free."""
        return self._in_pool(self.do, work, progress)

    def do_all(self, works: Sequence[Work], progress: StageProgress = silent) -> list[dict[str, Any]]:
        """Do units of work as `submit` does; where one fails, or the wait for them ends, the others are ended first.

        It tells of their progress in this thread, which has a task of Prefect's.

        Raises
        ------
        AssayError, OSError, RuntimeError
            As `do` does, and `StageError` for those that never began since the run was ended.
        """
        ended, steps = threading.Event(), {work.name: ("", 0.0) for work in works}

        def keep(name: str, task: str, share: float) -> None:
            steps[name] = (task, share)

        futures = [self._in_pool(self._do_until, ended, work, partial(keep, work.name)) for work in works]
        try:
            while wait(futures, SECONDS_BETWEEN_LOOKS, FIRST_EXCEPTION).not_done:
                shares = [share for _, share in steps.values()]
                progress(", ".join(task for task, share in steps.values() if 0 < share < 1), sum(shares) / len(shares))
                if any(future.done() and future.exception() for future in futures):
                    break
            return [future.result() for future in futures if future.done()]
        except CancelledError as error:
            raise StageError(f"{', '.join(work.name for work in works)}: ended with the run") from error
        finally:
            ended.set()
            # One that never began is not waited for: a pool that is shut down tells nobody of its end.
            wait([future for future in futures if not future.cancel()])

    def _do_until(self, ended: threading.Event, work: Work, progress: StageProgress) -> dict[str, Any]:
        reply = run_process(self.root, work, progress, lambda: ended.is_set() or self._closing.is_set())
        return details_of(reply, work)

    def _in_pool(self, function: Callable[..., dict[str, Any]], *arguments: Any) -> Future[dict[str, Any]]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.slots, thread_name_prefix="work")
        return self._pool.submit(function, *arguments)


_opened: list[WorkRunner] = []


def do_here(
    project: Project, stage: Stage, out: Path, checkpoints: Path, progress: StageProgress, level: str | None = None
) -> dict[str, Any]:
    """Do the work of a stage in this process, and return the details for the event log.

    Parameters
    ----------
    project : Project
        Seen from the dataset of the stage.
    stage : Stage
    out, checkpoints : Path
        See `assay.project.stages.StageRun`.
    progress : callable
    level : str, optional
        The one level to train; see `assay.pipeline.training.train`.
    """
    entry = STAGES[stage.verb]
    of_level = {} if level is None else {"level": level}
    with pinned() if entry.cells else contextlib.nullcontext():
        made = entry.verb(out, **entry.arguments(StageRun(project, stage.detector, checkpoints, progress)), **of_level)
    details: dict[str, Any] = made.details
    return details


def do_elsewhere(
    project: Project, stage: Stage, out: Path, checkpoints: Path, progress: StageProgress
) -> dict[str, Any]:
    """Do the work of a stage as `do_here` does, by the runner that is open, else in a process of its own.

    Where this machine does several at the same time, the levels of a network, which take longest, are trained so.
    """
    runner = _opened[-1] if _opened else WorkRunner(project.root)
    work = work_of(project, stage, out, checkpoints)
    if runner.slots == 1 or type(runner) is not WorkRunner:
        return runner.do(work, progress)
    if stage.verb == "train" and is_network(project, stage.detector):
        levels = levels_of(project.folder("contaminate"))
        checkpoints.mkdir(parents=True, exist_ok=True)  # what counts is there, and a run that is killed leaves no more
        with tempfile.TemporaryDirectory(dir=checkpoints) as scratch:
            runner.do_all([_of_level(work, level, Path(scratch)) for level in levels], progress)
    return runner.do_all([work], progress)[0]


def _of_level(work: Work, level: str, scratch: Path) -> Work:
    """Return the work of training one level of a cell; see `assay.pipeline.training.train`."""
    out = scratch / level
    out.mkdir()
    return replace(work, name=f"{work.name}, {level}", arguments={**work.arguments, "level": level}, out=out)


def work_of(project: Project, stage: Stage, out: Path, checkpoints: Path) -> Work:
    """Return the work of a stage for a `WorkRunner`; see `do_here`."""
    vectors = (f"data/{project.dataset}/{name}" for name in VECTOR_FILES)
    more = [path for path in ("dvc.yaml", *vectors) if (project.root / path).is_file()]
    return Work(
        name=stage.name,
        function="assay.project.work:do_stage",
        arguments={
            "stage": stage.name,
            "settings": project.raw_params,
            "checkpoints": os.path.relpath(checkpoints, project.root),
        },
        inputs=(*stage.inputs, *more),
        out=out,
        on_device=stage.verb == "train" and on_device(project, stage.detector),
    )


def do_stage(
    root: Path,
    out: Path,
    progress: StageProgress,
    *,
    stage: str,
    settings: dict[str, Any],
    checkpoints: str,
    level: str | None = None,
) -> dict[str, Any]:
    """Do what `work_of` describes."""
    project = Project(root, params=settings).seen_from(stage)
    return do_here(project, project.stage(stage), out, root / checkpoints, progress, level)


def run_process(
    root: Path, work: Work, progress: StageProgress = silent, is_cancelled: Callable[[], bool] | None = None
) -> dict[str, Any]:
    """Do a unit of work in a process, and return what it told last, for `details_of`.

    The process ends when this one does, and soon after `is_cancelled` becomes true.
    """
    request = json.dumps({**asdict(work), "root": str(root), "out": str(work.out)})
    command = [sys.executable, "-m", "assay.project.work"]
    with tempfile.TemporaryFile() as noise:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": noise}
        with subprocess.Popen(command, env=os.environ | dict.fromkeys(PINS, str(THREADS)), **pipes) as process:
            _running.add(process)
            try:
                if _ending.is_set():
                    process.kill()
                if is_cancelled is not None:
                    threading.Thread(target=_watch, args=(process, is_cancelled), daemon=True).start()
                reply = _follow(process, request, progress)
            finally:
                _running.discard(process)
                process.kill()
        if not {"details", "refused", "error"} & {*reply}:
            noise.seek(0)
            reply = {"failed": noise.read()[-2000:].decode(errors="replace")}
        return reply


def details_of(reply: dict[str, Any], work: Work) -> dict[str, Any]:
    """Return the details that a process told of, or raise what ended it; see `WorkRunner.do`."""
    if "details" in reply:
        details: dict[str, Any] = reply["details"]
        return details
    if "refused" in reply:
        raise OSError(*reply["refused"])
    if "error" in reply:
        kind = getattr(errors, reply["error"])
        raise kind(reply["message"])
    if _ending.is_set():
        raise StageError(f"stage {work.name} was ended with the run")
    raise RuntimeError(f"the process of {work.name} failed: {reply['failed']}")


def is_ending() -> bool:
    """Return whether this process is about to end; see `end_all`."""
    return _ending.is_set()


def end_all() -> None:
    """End the processes of this machine's work, those that are starting included; for the end of this process."""
    _ending.set()
    for process in list(_running):
        process.kill()


def _watch(process: subprocess.Popen[bytes], is_cancelled: Callable[[], bool]) -> None:
    while process.returncode is None and not is_cancelled():
        time.sleep(SECONDS_BETWEEN_LOOKS)
    process.kill()


def _follow(process: subprocess.Popen[bytes], request: str, progress: StageProgress) -> dict[str, Any]:
    """Send a process its request, pass on its progress, and return what it told last.

    A process that tells nothing is not waited for in one piece: Python hands a timeout to a thread only between calls.
    """
    reply: dict[str, Any] = {}
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None

    def read() -> None:
        with contextlib.suppress(ValueError):  # closed, and nobody waits any more
            for line in stdout:
                lines.put(line)
        lines.put(b"")

    try:
        stdin.write(f"{request}\n".encode())
        stdin.flush()
    except BrokenPipeError:  # ended already; what is left to write would be refused again at the end
        with contextlib.suppress(BrokenPipeError):
            stdin.close()
    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=SECONDS_BETWEEN_LOOKS)
        except queue.Empty:
            continue
        if not line:
            return reply
        reply = json.loads(line)
        if "task" in reply:
            progress(reply["task"], reply["share"])


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


def _main() -> None:
    """Do a unit of work as the process that `run_process` starts; tell of it as JSON on standard output."""
    from assay.environment import search_garbage_rarely
    from assay.interruption import end_with_parent

    line = sys.stdin.buffer.readline()  # nothing where the parent has ended
    end_with_parent()
    search_garbage_rarely()
    telling = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what libraries print is no message

    def tell(**message: Any) -> None:
        telling.write(json.dumps(message) + "\n")

    try:
        request = json.loads(line)
        module, _, name = request["function"].partition(":")
        if not module.startswith("assay."):
            raise ConfigError(f"{request['function']} is not a function of Assay; give assay.MODULE:NAME")
        function = getattr(importlib.import_module(module), name)
        root, out = Path(request["root"]), Path(request["out"])
        tell(details=function(root, out, lambda task, share: tell(task=task, share=share), **request["arguments"]))
    except AssayError as error:
        tell(error=type(error).__name__, message=str(error))
    except OSError as error:
        tell(refused=[error.errno, error.strerror or str(error), str(error.filename or "")])


if __name__ == "__main__":
    _main()
