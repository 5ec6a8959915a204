"""A process beside a server, which is started again when it ends by itself."""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from assay.service.telling import tell
from assay.service.workers import ended_by

_LEAST_PAUSE, _MOST_PAUSE = 1.0, 60.0


class Beside:
    """Runs a command as long as the ``with`` block lasts; its standard input is open as long.

    One that ends is started again after a pause, which grows where it keeps ending.

    Parameters
    ----------
    command : tuple of str
    """

    def __init__(self, command: tuple[str, ...]) -> None:
        self._command = command
        self._is_over, self._lock = threading.Event(), threading.Lock()

    def __enter__(self) -> Self:
        self._start()
        threading.Thread(target=self._keep, name="beside", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_over.set()
        with self._lock:
            process = self.process
        assert process.stdin is not None
        process.stdin.close()
        process.wait()

    def _start(self) -> None:
        with self._lock:
            if not self._is_over.is_set():
                self.process = subprocess.Popen(self._command, stdin=subprocess.PIPE, bufsize=0)
                self._since = time.monotonic()

    def _keep(self) -> None:
        pause = _LEAST_PAUSE
        while True:
            code = self.process.wait()
            if self._is_over.is_set():
                return
            pause = _LEAST_PAUSE if time.monotonic() - self._since > _MOST_PAUSE else min(2 * pause, _MOST_PAUSE)
            tell(f"the process that feeds the monitors ended ({ended_by(code)}); it is started again in {pause:g} s")
            with suppress(OSError):
                assert self.process.stdin is not None
                self.process.stdin.close()
            if self._is_over.wait(pause):
                return
            try:
                self._start()
            except OSError as error:  # say too many processes: it is tried again
                tell(f"it could not be started: {error.strerror}")
