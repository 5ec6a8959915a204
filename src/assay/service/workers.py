"""Several processes that answer on one socket, and the one above them, which only waits."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from prometheus_client.multiprocess import mark_process_dead

from assay.service.metrics import SHARED_FOLDER
from assay.service.telling import tell

_LEAST_SECONDS = 1.0


def run_workers(serve: Callable[[], None], n: int, listening: socket.socket) -> int:
    """Run `serve` in n processes until a signal ends them; return the exit code.

    They are forked, so that they share the memory of what is loaded. One that ends by itself is replaced; where it
    lasted less than a second all end, since the next would fare no better. Workers whose parent is gone, even if it
    was killed, answer what they have and end, so that nobody holds the port.

    Parameters
    ----------
    serve : callable
        Answers on the socket; a SIGTERM lets it finish and return.
    n : int
    listening : socket
        It is closed when the end begins.
    """
    orphaned, alive = os.pipe()
    started: dict[int, float] = {}
    is_ending = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal is_ending
        is_ending = True
        listening.close()
        for process in started:
            with suppress(ProcessLookupError):  # it has ended by itself just now
                os.kill(process, signal.SIGTERM)

    def start() -> None:
        # A signal that comes before the worker is on the list would pass it by.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
        process = os.fork()
        if not process:
            os.close(alive)
            _work(serve, orphaned)
        started[process] = time.monotonic()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS)

    for number in _ENDS:
        signal.signal(number, end)
    for _ in range(n):
        start()
    code = 0
    while started:
        process, status = os.waitpid(-1, 0)
        if process not in started:
            continue
        seconds = time.monotonic() - started.pop(process)
        mark_process_dead(process)  # type: ignore[no-untyped-call]
        if is_ending:
            continue
        tell(f"worker {process} ended ({ended_by(os.waitstatus_to_exitcode(status))})")
        if seconds < _LEAST_SECONDS:
            code = 1
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            start()
    if folder := os.environ.get(SHARED_FOLDER):
        shutil.rmtree(folder, ignore_errors=True)
    return code


_ENDS = (signal.SIGINT, signal.SIGTERM)


def _work(serve: Callable[[], None], orphaned: int) -> None:
    """Serve in a process that was just forked, and end it."""
    code = 1
    try:
        for number in _ENDS:
            signal.signal(number, _end_at_once)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS)
        threading.Thread(target=_end_with_parent, args=(orphaned,), daemon=True).start()
        serve()
        code = 0
    except SystemExit:
        code = 0
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _end_with_parent(orphaned: int) -> None:
    os.read(orphaned, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def ended_by(code: int) -> str:
    """Return what ended a process, in words, by its exit code, or the negative number of a signal."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
