"""Work on the workers of a Dask cluster.

A worker needs this very Assay, and either the folder of the project at the same path, or the project's DVC remote: then
it gets what a unit of work reads by content, and puts there what it made. It writes to a folder of its own for each
attempt, so that one that dies leaves nothing in the project.

What passes through Dask are the functions `describe_here` and `do_there`, by reference, and texts of JSON. Nothing else
of Assay imports Dask.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import dask
from distributed import Client, Future, LocalCluster, get_worker
from distributed.scheduler import KilledWorker
from distributed.security import Security

import assay
from assay.console import say
from assay.errors import AssayError, ConfigError, StageError
from assay.hashing import files_in, files_of, hash_json, hash_tree
from assay.pipeline.progress import StageProgress, silent
from assay.project.store import Store, file_md5, remote_settings
from assay.project.work import Work, WorkRunner, details_of, is_ending, run_process

GPU = "GPU"
CONNECT_SECONDS, FIT_SECONDS, SECONDS_BETWEEN_MESSAGES = 30, 300, 1.0
SECONDS_KEPT = 7 * 24 * 3600
_PROBE, _ATTEMPT = "probe", "attempt-"
_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True, slots=True)
class _Seen:
    """A worker as it answered `describe_here`: why it gets no work, or "", and whether it sees the project."""

    reason: str
    sees_root: bool


class DaskRunner(WorkRunner):
    """Does units of work on the workers of a Dask cluster; see `WorkRunner`.

    A unit whose worker dies is done by another one. Workers with another Assay, or another version of a distribution
    that Assay requires, get none, and are named on screen.

    Parameters
    ----------
    root : Path
        Folder that what is read is in.
    slots : int
        Workers that are started where there is no address; of a cluster that runs, the threads of its workers count.
    address : str
        Of a scheduler; "" starts workers on this machine, which only this process can reach.
    """

    def __init__(self, root: Path, slots: int, address: str) -> None:
        super().__init__(root, slots)
        self._address, self._token, self._stack = address, secrets.token_hex(4), ExitStack()
        self._seen: dict[str, _Seen] = {}
        self._asked: dict[str, str] = {}
        self._looking, self._storing = threading.Lock(), threading.Lock()
        self._store: Store | None = None
        self._md5s: dict[tuple[str, int, int], str] = {}
        self._stored: set[str] = set()
        self._progress: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._attempts = _new_folder(self.root / ".assay" / "cluster")
            stack.callback(shutil.rmtree, self._attempts, ignore_errors=True)
            (self._attempts / _PROBE).write_text(self._token, encoding="utf-8")
            self._client = self._connect(stack)
            self._client.subscribe_topic(self._token, self._take_message)
            fit = self._fit_workers()
            info = self._workers()
            if not fit:
                raise ConfigError(self._none_fits(info))
            self.slots = max(1, sum(info[address]["nthreads"] for address in fit))
            self._stack = stack.pop_all()
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._closing.set()
        self._stack.close()

    def _connect(self, stack: ExitStack) -> Client:
        logging.getLogger("distributed").setLevel(logging.ERROR)
        cluster: LocalCluster | str = self._address
        if not self._address:
            # Without pages; what is left of Dask's HTTP servers answers nothing.
            pages: dict[str, list[str]] = {f"distributed.{each}.http.routes": [] for each in ("scheduler", "worker")}
            with dask.config.set(pages):
                cluster = LocalCluster(
                    n_workers=self.slots,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    scheduler_kwargs={"dashboard": False},
                    memory_limit=None,  # would be that of the worker alone, whose cells are processes of their own
                    security=Security.temporary(),  # for other users of this machine
                    silence_logs=logging.ERROR,
                )
            stack.enter_context(cluster)
        try:
            return stack.enter_context(Client(cluster, timeout=CONNECT_SECONDS, set_as_default=False))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(
                f"no Dask scheduler answers at {self._address}: {error}; start one (`dask scheduler`), or correct "
                "run.address in params.yaml"
            ) from error

    def do(self, work: Work, progress: StageProgress = silent) -> dict[str, Any]:
        """Do a unit of work on a worker; see `WorkRunner.do`.

        Raises
        ------
        StageError
            The workers died that did it, or none is left that may do it.
        """
        number = f"{self._token}-{secrets.token_hex(4)}"
        while True:
            workers, on_gpu = self._workers_for(work)
            request = self._request(work, number, workers)
            resources = {GPU: 1} if on_gpu else None
            future = self._client.submit(
                do_there, request, workers=workers, resources=resources, pure=False, key=f"assay-{number}"
            )
            try:
                answer = self._wait(future, workers, work, progress, number)
            finally:
                future.cancel()
            if answer is None:
                continue
            reply = json.loads(answer)
            try:
                details = details_of(reply, work)
                self._bring(reply, work.out)
            finally:
                if "attempt" in reply:
                    shutil.rmtree(reply["attempt"], ignore_errors=True)
            return details

    def _wait(
        self, future: Future[str], workers: Sequence[str], work: Work, progress: StageProgress, number: str
    ) -> str | None:
        """Return the answer of a worker, None where all that might have given it are gone."""
        while True:
            if self._closing.is_set() or is_ending():
                raise StageError(f"{work.name} was ended with the run")
            try:
                answer: str = future.result(timeout=SECONDS_BETWEEN_MESSAGES)
                return answer
            except TimeoutError:
                if message := self._progress.pop(number, None):
                    progress(*message)
                if self._client.status == "running" and not {*workers} & {*self._workers()}:
                    return None
            except (CancelledError, OSError) as error:
                raise StageError(f"{work.name}: the Dask scheduler at {self._address} is gone ({error})") from error
            except KilledWorker as error:
                raise StageError(
                    f"{work.name} was given up: every worker that did it died, perhaps for want of memory; see their "
                    f"logs ({error})"
                ) from error

    def _take_message(self, event: tuple[float, Any]) -> None:
        number, task, share = json.loads(event[1])
        self._progress[number] = (task, share)

    def _workers(self) -> dict[str, Any]:
        return dict(self._client.scheduler_info(n_workers=-1)["workers"])

    def _fit_workers(self) -> list[str]:
        """Return the addresses of the workers that may do work; those that are new are asked first.

        Another worker may have come to the address of one that ended; each has a folder of its own.
        """
        info = self._workers()
        with self._looking:
            folders = {address: str(worker["local_directory"]) for address, worker in info.items()}
            if new := [address for address in info if self._asked.get(address) != folders[address]]:
                answers = self._client.run(
                    describe_here, str(self._attempts), self._token, workers=new, on_error="return"
                )
                for address, answer in answers.items():
                    seen = judge_worker(str(info[address]["name"]), address, answer)
                    self._seen[address], self._asked[address] = seen, folders[address]
                    if seen.reason:
                        say(f"{seen.reason}; it gets no work")
            asked = [address for address in info if self._asked.get(address) == folders[address]]
        return [address for address in asked if not self._seen[address].reason]

    def _none_fits(self, info: dict[str, Any]) -> str:
        reasons = [self._seen[address].reason for address in info if address in self._seen]
        return (
            f"{reasons[0]}; nothing was run"
            if reasons
            else (f"the Dask scheduler at {self._address} has no workers; start some: dask worker {self._address}")
        )

    def _workers_for(self, work: Work) -> tuple[list[str], bool]:
        """Wait for workers that may do a unit of work; return them, and whether they are labelled as having GPUs."""
        until = time.monotonic() + FIT_SECONDS
        while not (fit := self._fit_workers()):
            if time.monotonic() > until or self._closing.is_set():
                raise StageError(f"{work.name}: {self._none_fits(self._workers())}")
            time.sleep(SECONDS_BETWEEN_MESSAGES)
        info = self._workers()
        with_gpu = [address for address in fit if info.get(address, {}).get("resources", {}).get(GPU, 0) > 0]
        return (with_gpu, True) if work.on_device and with_gpu else (fit, False)

    def _request(self, work: Work, number: str, workers: Sequence[str]) -> str:
        request = {**asdict(work), "out": "", "root": str(self.root), "attempts": str(self._attempts)}
        request |= {"number": number, "token": self._token}
        if not all(self._seen[address].sees_root for address in workers):
            with self._storing:
                if self._store is None:
                    self._store = Store(remote_settings(self.root, shared=False))
                request |= {"files": self._put(work.inputs), "remote": remote_settings(self.root, shared=True)}
        return json.dumps(request)

    def _put(self, paths: Sequence[str]) -> dict[str, str]:
        """Let the DVC remote have some files of the project; return their MD5 by path."""
        assert self._store is not None
        md5s = {}
        for file in (file for path in paths for file in files_of(self.root / path)):
            state = file.stat()
            key = (str(file), state.st_size, state.st_mtime_ns)
            md5 = self._md5s.setdefault(key, "") or file_md5(file)
            self._md5s[key] = md5
            if md5 not in self._stored:
                self._store.put(file, md5)
                self._stored.add(md5)
            md5s[file.relative_to(self.root).as_posix()] = md5
        return md5s

    def _bring(self, reply: dict[str, Any], out: Path) -> None:
        """Fill the folder of outputs with what a worker made."""
        if "attempt" in reply:
            for path in sorted(Path(reply["attempt"]).iterdir()):
                shutil.move(path, out / path.name)
            return
        assert self._store is not None
        for name, md5 in reply["files"].items():
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise StageError(f"a worker named an output {name!r}, which is not inside its folder")
            self._store.get(md5, out / name)


def judge_worker(name: str, address: str, answer: Any) -> _Seen:
    """Return what an answer of `describe_here`, or the error instead of it, says of a worker."""
    worker = f"worker {name} ({address})"
    advice = "install there what is installed here"
    if isinstance(answer, BaseException):
        return _Seen(f"{worker} cannot run this Assay ({type(answer).__name__}: {answer}); {advice}", False)
    theirs, ours = json.loads(answer), _installed()
    for what, here in ours["versions"].items():
        if (there := theirs["versions"].get(what, "none")) != here:
            return _Seen(f"{worker} has {what} {there}, and this process {here}; {advice}", False)
    if theirs["code"] != ours["code"]:
        return _Seen(f"{worker} has other files of Assay {assay.__version__} than this process; {advice}", False)
    return _Seen("", bool(theirs["sees_attempts"]))


def describe_here(attempts: str, token: str) -> str:
    """Return as JSON what is installed here, and whether the folder of attempts is the one of that token."""
    return json.dumps({**_installed(), "sees_attempts": _sees(attempts, token)})


def _sees(attempts: str, token: str) -> bool:
    try:
        return Path(attempts, _PROBE).read_text(encoding="utf-8") == token
    except OSError:
        return False


@cache
def _installed() -> dict[str, Any]:
    """Return the versions of Assay, of what it requires and of what detectors may be from, and a hash of its files."""
    names = ["dask", "distributed", "pyod"]
    for requirement in metadata.requires("assay") or ():
        if "extra ==" not in requirement and (match := _NAME.match(requirement)):
            names.append(match[0])
    versions = {"Assay": assay.__version__, "Python": ".".join(map(str, sys.version_info[:2]))}
    for name in sorted(names):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name).partition("+")[0]
    return {"versions": versions, "code": hash_json(hash_tree(Path(assay.__file__).parent))}


def do_there(request: str) -> str:
    """Do a unit of work on this worker, and return the reply of its process, with its outputs.

    Parameters
    ----------
    request : str
        JSON: the fields of `Work`, the root and the folder of attempts as its sender sees them; for workers that do not
        see these, the MD5s of the files that it reads, by path, and the settings of the DVC remote that holds them.
    """
    asked = json.loads(request)
    try:
        return json.dumps(_shared(asked) if _sees(asked["attempts"], asked["token"]) else _apart(asked))
    except AssayError as error:
        return json.dumps({"error": type(error).__name__, "message": str(error)})
    except OSError as error:
        return json.dumps({"refused": [error.errno, error.strerror or str(error), str(error.filename or "")]})


def _shared(asked: dict[str, Any]) -> dict[str, Any]:
    """Do a unit of work in the folder of the project, which this worker sees; only its outputs are elsewhere."""
    attempt = _new_folder(Path(asked["attempts"]))
    return {**_run(asked, Path(asked["root"]), attempt), "attempt": str(attempt)}


def _new_folder(parent: Path) -> Path:
    """Make a folder, and remove those of a week ago and more, which killed processes left.

    Its name holds no number of a process, which another machine would take for one of its own that has ended.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for former in parent.iterdir():
        with suppress(OSError):
            if former.name.startswith(_ATTEMPT) and former.stat().st_mtime < time.time() - SECONDS_KEPT:
                shutil.rmtree(former, ignore_errors=True)
    folder = parent / f"{_ATTEMPT}{secrets.token_hex(8)}"
    folder.mkdir()
    return folder


def _apart(asked: dict[str, Any]) -> dict[str, Any]:
    """Do a unit of work in a folder of this worker's, with what it reads from the DVC remote, where its outputs go."""
    if "remote" not in asked:
        raise StageError(f"a worker does not see {asked['root']} any more; run again")
    own = Path(get_worker().local_directory) / "assay"
    attempt = _new_folder(own)
    try:
        store, root, out = Store(asked["remote"]), attempt / "root", attempt / "out"
        out.mkdir()
        for name, md5 in asked["files"].items():
            kept, path = own / "files" / md5, root / name
            if not kept.is_file():
                store.get(md5, kept)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(kept, path)
        reply = _run(asked, root, out)
        if "details" in reply:
            reply["files"] = {name: file_md5(file) for name, file in files_in(out).items()}
            for name, md5 in reply["files"].items():
                store.put(out / name, md5)
        return reply
    finally:
        shutil.rmtree(attempt, ignore_errors=True)


def _run(asked: dict[str, Any], root: Path, out: Path) -> dict[str, Any]:
    """Run the process of a unit of work, which ends when nobody waits for it any more."""
    worker: Any = get_worker()
    key, last = worker.get_current_task(), 0.0

    def is_cancelled() -> bool:
        state = worker.state.tasks.get(key)
        return state is None or state.state == "cancelled"

    def progress(task: str, share: float) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_MESSAGES:
            last = time.monotonic()
            worker.log_event(asked["token"], json.dumps([asked["number"], task, share]))

    work = Work(asked["name"], asked["function"], asked["arguments"], (), out)
    return run_process(root, work, progress, is_cancelled)
