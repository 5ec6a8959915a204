"""The process beside a server: it is started again when it is killed, and ends with the server."""

from __future__ import annotations

import os
import signal
import time

import pytest
from tests.waiting import HANG_SECONDS

from assay.service.beside import Beside


def test_a_killed_process_is_started_again_and_ends_with_the_server(capfd: pytest.CaptureFixture[str]) -> None:
    with Beside(("cat",)) as beside:
        first = beside.process
        os.kill(first.pid, signal.SIGKILL)
        end = time.monotonic() + HANG_SECONDS
        while beside.process is first:
            assert time.monotonic() < end
            time.sleep(0.05)
        second = beside.process
        assert second.poll() is None
    assert second.returncode == 0
    assert "the process that feeds the monitors ended (SIGKILL); it is started again" in capfd.readouterr().err
