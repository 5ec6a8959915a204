"""Waiting for what happens, never for seconds: a slow machine takes longer, and what ends too early says why."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

HANG_SECONDS = 15 * 60


def wait_until(seen: Callable[[], object], process: subprocess.Popen[str], pause: float = 0.05) -> None:
    """Wait until something is seen; fail with what a process wrote where it ends before that, or hangs."""
    end = time.monotonic() + HANG_SECONDS
    while not seen():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(f"not seen; exit code {process.returncode}: {process.communicate()[0]}")
        time.sleep(pause)


def at_work(root: Path) -> list[str]:
    """Return the command lines of the processes that work in a folder; those of the tests do not."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == root and process.pid != os.getpid():
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def wait_until_none_works(root: Path) -> None:
    """Wait until the last process of a project has ended; fail with the command lines of those that stay."""
    end = time.monotonic() + HANG_SECONDS
    while left := at_work(root):
        assert time.monotonic() < end, left
        time.sleep(0.05)
