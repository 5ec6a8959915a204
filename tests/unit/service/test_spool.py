"""The file of scores: many processes, a killed one, a cut-off score, a folder that cannot be written."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from assay.errors import DataError
from assay.service.spool import Spool, append_scores, read_spool, spool_path

WRITER = """
import sys
from pathlib import Path
import numpy as np
from assay.service.spool import Spool
spool = Spool(Path(sys.argv[1]))
number, rounds = int(sys.argv[2]), int(sys.argv[3])
for i in range(rounds):
    spool.append(np.full(7, number * 1000 + i, dtype=np.float32))
    if i == 50:
        print("going", flush=True)
"""


def writer(path: Path, number: int, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), str(number), str(rounds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_workers_append_whole_answers_in_order_and_a_killed_one_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "machine.scores"
    endless, *others = [writer(path, 0, 10**9), *(writer(path, number, 300) for number in (1, 2, 3))]
    with endless:
        assert endless.stdout is not None
        assert endless.stdout.readline() == "going\n"
        endless.send_signal(signal.SIGKILL)
    for process in others:
        assert process.wait() == 0
        assert process.stdout is not None
        process.stdout.close()
    answers = read_spool(path).reshape(-1, 7)
    assert (answers == answers[:, :1]).all()
    for number in (1, 2, 3):
        own = answers[(answers[:, 0] >= number * 1000) & (answers[:, 0] < number * 1000 + 300), 0]
        np.testing.assert_array_equal(own[-300:], number * 1000 + np.arange(300))
    assert {0.0, 49.0} <= set(answers[:, 0].tolist())


def test_part_of_a_score_is_removed_and_infinities_stay(tmp_path: Path) -> None:
    path = spool_path(tmp_path, "machines:1ea2ebed825d")
    assert path.name == "machines-1ea2ebed825d.scores"
    append_scores(path, np.float32([1.5, np.inf]))
    with path.open("ab") as file:
        file.write(b"\0\1\2")
    assert read_spool(path).tolist() == [1.5, np.inf]
    append_scores(path, np.float32([-2]))
    assert read_spool(path).tolist() == [1.5, np.inf, -2.0]


def test_what_is_no_file_of_scores_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_spool(tmp_path / "nothing.scores")
    append_scores(tmp_path / "odd.scores", np.float32([1, np.nan]))
    with pytest.raises(DataError, match="NaN at row 2"):
        read_spool(tmp_path / "odd.scores")


def test_an_answer_does_not_fail_for_want_of_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = Spool(tmp_path / "missing" / "a.scores")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            spool.append(np.ones(2, dtype=np.float32))
    assert len(caplog.records) == 1
    assert "the monitors miss" in caplog.text
    Spool(None).append(np.ones(2, dtype=np.float32))
