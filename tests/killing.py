"""Being killed at a chosen moment: by SIGKILL, right before the file system would be changed.

In a fork of the test (`killed`), or in all processes of a command of `tests.warm`, which their environment asks for
(`obey_fault`).
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import errno
import os
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "subprocess.Popen")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

Moment = Callable[[str, tuple[Any, ...]], bool]


def is_change(event: str, arguments: tuple[Any, ...]) -> bool:
    """Return whether an audit event of Python is about to change files, or to start a process that may."""
    return event in CHANGES or (event == "open" and bool((arguments[2] or 0) & WRITING))


def write_number(number: int) -> Moment:
    """Return the moment before the change of that number, from 1 on."""
    left = iter(range(1, number))
    return lambda event, arguments: is_change(event, arguments) and next(left, None) is None


def renaming_to(path: object) -> Moment:
    """Return the moment before something is renamed to a path."""
    return lambda event, arguments: event == "os.rename" and str(arguments[1]) == str(path)


def killed(call: Callable[[], object], moment: Moment) -> bool:
    """Call in a fork and kill it at a moment; return False if it ended before that."""

    def watched() -> None:
        sys.addaudithook(lambda event, args: os.kill(os.getpid(), signal.SIGKILL) if moment(event, args) else None)
        call()

    return in_fork(watched)


def in_fork(call: Callable[[], object]) -> bool:
    """Call in a process of its own, which may change what concerns all of it; return whether a signal ended it."""
    child = os.fork()
    if not child:
        try:
            call()
        except BaseException:
            traceback.print_exc()
            os._exit(70)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, "it failed; see above"
    return os.WIFSIGNALED(status)


def set_clock(error: datetime.timedelta) -> None:
    """Let the clock of this process be wrong, for Python's own functions."""
    right, real = time.time, datetime.datetime

    class Times(type):
        """Every time is one of `Wrong`: what was imported before makes those of the right class."""

        def __instancecheck__(cls, instance: object) -> bool:
            """Return whether it is a time."""
            return isinstance(instance, real)

    class Wrong(real, metaclass=Times):  # type: ignore[valid-type, misc]
        """A time that is now by the wrong clock."""

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            """Return the wrong time."""
            return real.now(tz) + error

    time.time = lambda: right() + error.total_seconds()
    for name, module in list(sys.modules.items()):
        if name == "datetime" or (name.partition(".")[0] == "assay" and getattr(module, "datetime", None) is real):
            module.datetime = Wrong  # type: ignore[attr-defined]


def obey_permissions() -> None:
    """Give up what lets the superuser write where permissions forbid it, for the rest of this process."""
    header = struct.pack("Ii", 0x20080522, 0)  # version 3 of Linux's capabilities, this process
    if ctypes.CDLL(None, use_errno=True).capset(header, bytes(24)):
        raise OSError(ctypes.get_errno(), "capset")


FAULT, GROUP = "ASSAY_TESTS_FAULT", "ASSAY_TESTS_GROUP"
COUNT, KILL_ALL, KILL_ONE, FULL = "count", "kill all", "kill one", "full"
READ_ONLY, CLOCK = "read-only", "clock"
_GROWING = ("os.mkdir", "open")


def fault(kind: str, number: int, counter: Path, root: Path) -> dict[str, str]:
    """Return the environment of a command whose change of that number in a folder, from 1 on, meets a fault.

    Parameters
    ----------
    kind : str
        "kill all" kills all processes of the command, as a loss of power does, "kill one" only the one that writes,
        as a system without memory does; "full" lets this and every later file or folder fail for want of space;
        "count" only counts. "read-only" takes the superuser's right to write anywhere; "clock" sets the clock.
    number : int
        The number of the change, or the seconds by which the clock is wrong.
    counter : Path
        A file that does not exist yet, outside of the folder; each change adds a byte to it.
    root : Path
    """
    return {FAULT: "\n".join((kind, str(number), str(counter), str(root)))}


def obey_fault() -> None:
    """In a process of a command, count its changes and meet the fault that the environment asks for, if any."""
    if FAULT not in os.environ:
        return
    kind, number, counter, root = os.environ[FAULT].split("\n")
    if kind == READ_ONLY:
        obey_permissions()
    if kind == CLOCK:
        set_clock(datetime.timedelta(seconds=int(number)))
    group = int(os.environ.setdefault(GROUP, str(os.getpid())))
    with contextlib.suppress(OSError):  # whose first process was killed
        os.setpgid(0, group)
    written = os.open(counter, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    is_met = threading.Event()

    def is_inside(event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "subprocess.Popen" or isinstance(arguments[0], int):
            return True
        path = Path.cwd() / os.fsdecode(arguments[0])
        return path.is_relative_to(root) and not path.is_relative_to(Path(root, ".prefect"))

    def meet(event: str, arguments: tuple[Any, ...]) -> None:
        if is_met.is_set() or not is_change(event, arguments) or not is_inside(event, arguments):
            return
        os.write(written, b".")
        changes = os.lseek(written, 0, os.SEEK_CUR)
        is_new = event in _GROWING and not isinstance(arguments[0], int)  # else it is open already
        if kind == FULL and changes >= int(number) and is_new:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsdecode(arguments[0]))
        if kind in (KILL_ALL, KILL_ONE) and changes == int(number):
            is_met.set()
            if event == "open":  # the worst that a kill leaves of it: a new or an old file, and nothing in it
                with contextlib.suppress(OSError, TypeError):
                    os.open(arguments[0], arguments[2], 0o666)
            if kind == KILL_ALL:
                os.killpg(group, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(meet)
