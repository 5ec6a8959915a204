"""Being killed at a chosen moment: in a fork, by SIGKILL, right before the file system would be changed."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
import traceback
from collections.abc import Callable
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


def obey_permissions() -> None:
    """Give up what lets the superuser write where permissions forbid it, for the rest of this process."""
    header = struct.pack("Ii", 0x20080522, 0)  # version 3 of Linux's capabilities, this process
    if ctypes.CDLL(None, use_errno=True).capset(header, bytes(24)):
        raise OSError(ctypes.get_errno(), "capset")
