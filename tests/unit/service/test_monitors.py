"""The monitors of answers: as one stream whatever comes between, their levels, and how an alarm is reported."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from tests.scorers import made_scorer
from tests.waiting import HANG_SECONDS

from assay.calibration.streams.martingale import LargePValues
from assay.calibration.streams.monitor import Monitor
from assay.calibration.streams.watching import calibration_scores
from assay.errors import ScorerError
from assay.project.pending import log_of
from assay.runs.showing import NOTIFY
from assay.runs.watcher import ALARMED
from assay.scorer.loading import load_scorer
from assay.scorer.scorer import Scorer
from assay.service.monitors import (
    FALSE_ALARMS,
    MONITOR_BINS,
    Monitors,
    MonitorState,
    ensure_monitors,
    log10_threshold,
    monitors_path,
    shown_monitors,
)
from assay.service.spool import MONITORED, append_scores, spool_path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return load_scorer(made_scorer(tmp_path_factory.mktemp("scorers"), "made", 1))


@pytest.fixture
def scores(made: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of scores of a server in a project."""
    folder = tmp_path / ".assay" / "monitor"
    folder.mkdir(parents=True)
    monkeypatch.setenv(MONITORED, str(folder))
    path = spool_path(folder, made.tag)
    ensure_monitors(made)
    assert monitors_path(path).is_file()
    return path


def stream(made: Scorer, n: int, shift: float = 0.0) -> Any:
    return made.decision_function(np.random.default_rng(9).normal(size=(n, 3)) + shift)


def test_monitors_go_on_over_restarts_as_one_stream(made: Scorer, scores: Path) -> None:
    path, threshold = monitors_path(scores), log10_threshold(1)
    answered = np.concatenate([stream(made, 400), stream(made, 300, 1.0), np.float32([np.inf])])
    for block in np.split(answered, [1, 130, 131, 500]):
        append_scores(scores, block)
        monitors = Monitors.read(path)
        while monitors.catch_up(scores, threshold):
            pass
        monitors.write(path)
    drift, normal = shown_monitors(path)
    reference = calibration_scores(made.calibrator)
    for state, martingale in ((drift, None), (normal, LargePValues())):
        direct = Monitor.start(reference, seed=0, martingale=martingale, memory=MONITOR_BINS, threshold=10**threshold)
        highest = direct.update(answered).max()
        assert (state.rows, state.alarm) == (701, direct.alarm)
        assert (state.log10_capital, state.log10_highest) == (direct.log10_value, highest)
    assert drift.alarm is not None
    assert 400 < drift.alarm < 700
    before = path.read_bytes()
    ensure_monitors(made)
    assert path.read_bytes() == before


def test_a_file_of_scores_that_was_emptied_is_read_from_its_beginning(made: Scorer, scores: Path) -> None:
    monitors = Monitors.start(made)
    append_scores(scores, stream(made, 20))
    assert monitors.catch_up(scores, 2.0)
    scores.write_bytes(b"")
    assert not monitors.catch_up(scores, 2.0)
    append_scores(scores, stream(made, 5))
    assert monitors.catch_up(scores, 2.0)
    assert monitors.states[0].rows == 25


@pytest.mark.parametrize("damage", ["cut", "no state", "a wrong type", "not there"])
def test_a_damaged_file_is_not_gone_on_with(made: Scorer, scores: Path, damage: str) -> None:
    path = monitors_path(scores)
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:-9])
    elif damage == "not there":
        path.unlink()
    else:
        monitors = Monitors.start(made)
        monitors.states = [] if damage == "no state" else [MonitorState("x", rows="many"), MonitorState("y")]  # type: ignore[arg-type]
        monitors.write(path)
    with pytest.raises(ScorerError, match="missing" if damage == "not there" else "is damaged"):
        Monitors.read(path)
    if damage != "no state":
        assert shown_monitors(path) == []
    ensure_monitors(made)
    assert [asdict(state) for state in Monitors.read(path).states] == [
        asdict(state) for state in Monitors.start(made).states
    ]


def test_a_server_starts_though_its_monitors_cannot_be_written(
    made: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(MONITORED, str(tmp_path / "file"))
    with caplog.at_level(logging.ERROR):
        ensure_monitors(made)
    assert f"{made.tag} is not monitored" in caplog.text


def test_levels_of_all_live_versions_add_up() -> None:
    for live in (1, 2, 7):
        assert 2 * live * 10 ** -log10_threshold(live) == pytest.approx(FALSE_ALARMS)


def test_false_alarms_are_as_rare_as_stated() -> None:
    """Over redraws of calibration rows and streams; at the level of one monitor times two, and not by orders below."""
    rng, alarms, n = np.random.default_rng(0), 0, 400
    threshold = np.log10(2 / 0.2)  # a level that shows in few redraws
    for _ in range(n):
        reference, answered = np.split(rng.normal(size=700).astype(np.float32), [200])
        monitors = [
            Monitor.start(reference, seed=0, martingale=martingale, memory=MONITOR_BINS)
            for martingale in (None, LargePValues())
        ]
        alarms += any(monitor.update(answered).max() >= threshold for monitor in monitors)
    assert alarms / n <= 0.2 + 3 * (0.2 * 0.8 / n) ** 0.5
    assert alarms > 0


@contextmanager
def watching(root: Path, errors: int | None = None, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-P", "-m", "assay.runs.watcher", str(root), "1", "made"]
    settings = {**os.environ, **environment}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors, env=settings, cwd=root) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(HANG_SECONDS) == 0


def until(seen: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + HANG_SECONDS
    while not seen():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    posted: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/", posted
        server.shutdown()
        thread.join()


def test_an_alarm_is_posted_at_once_and_logged_when_no_other_command_works(
    made: Scorer, scores: Path, tmp_path: Path, hook: tuple[str, list[dict[str, Any]]]
) -> None:
    url, posted = hook
    path = monitors_path(scores)
    append_scores(scores, stream(made, 300))
    with FileLock(tmp_path / ".assay" / "lock") as lock, watching(tmp_path, **{NOTIFY: url}) as process:
        until(lambda: shown_monitors(path)[0].rows == 300, process)
        assert shown_monitors(path)[0].alarm is None
        append_scores(scores, stream(made, 300, 1.5))
        until(lambda: len(posted) == 2, process)
        assert list(log_of(tmp_path)) == []
        lock.release()
        until(lambda: all(state.is_logged for state in shown_monitors(path)), process)
    events = [event for event in log_of(tmp_path) if event["event"] == ALARMED]
    drift, normal = shown_monitors(path)
    # The lock may have come free between the two.
    assert {(event["monitor"], event["row"]) for event in events} == {
        (drift.name, drift.alarm),
        (normal.name, normal.alarm),
    }
    assert len(events) == 2
    assert {event["scorer"] for event in events} == {made.tag}
    assert [message["monitor"] for message in posted] == [drift.name, normal.name]
    assert f"{drift.name}: alarm at row {drift.alarm}" in posted[0]["text"]
    log_of(tmp_path).check()
    append_scores(scores, stream(made, 10, 3.0))
    with watching(tmp_path, **{NOTIFY: url}) as process:  # a later server reports nothing twice
        until(lambda: shown_monitors(path)[0].rows == 610, process)
    assert (len(posted), len(list(log_of(tmp_path)))) == (2, 2)


def test_an_alarm_that_cannot_be_logged_is_posted_once_and_said_once(
    made: Scorer,
    scores: Path,
    tmp_path: Path,
    hook: tuple[str, list[dict[str, Any]]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    url, posted = hook
    path, log = monitors_path(scores), tmp_path / ".assay" / "events.jsonl"
    log.with_suffix(".head").write_text('{"entries": 9, "head": "x"}')
    append_scores(scores, stream(made, 300, 2.0))
    said = ""
    with watching(tmp_path, **{NOTIFY: url}) as process:
        until(lambda: len(posted) == 2, process)
        append_scores(scores, stream(made, 10, 2.0))
        until(lambda: shown_monitors(path)[0].rows == 310, process)
        said += capfd.readouterr().err
        log.with_suffix(".head").unlink()
        until(lambda: all(state.is_logged for state in shown_monitors(path)), process)
    assert len(posted) == 2
    assert said.count("an alarm could not be logged") == 1
    assert "was cut or changed" in said
    assert [event["event"] for event in log_of(tmp_path)] == [ALARMED] * 2


@pytest.mark.parametrize("reader", ["gone", "asleep"])
def test_alarms_are_logged_where_nobody_reads_what_is_printed(
    made: Scorer, scores: Path, tmp_path: Path, reader: str
) -> None:
    ours, its = os.pipe()
    os.set_blocking(its, False)
    with suppress(BlockingIOError):
        while reader == "asleep":
            os.write(its, bytes(4096))
    os.set_blocking(its, True)
    with os.fdopen(its, "wb", buffering=0), os.fdopen(ours, "rb") as end:
        if reader == "gone":
            end.close()
        append_scores(scores, stream(made, 300, 2.0))
        with watching(tmp_path, its) as process:
            until(lambda: all(state.is_logged for state in shown_monitors(monitors_path(scores))), process)
    assert [event["event"] for event in log_of(tmp_path)] == [ALARMED] * 2


def test_one_process_watches_and_the_next_takes_over(made: Scorer, scores: Path, tmp_path: Path) -> None:
    path = monitors_path(scores)
    with watching(tmp_path) as second_to_last:
        append_scores(scores, stream(made, 10))
        until(lambda: shown_monitors(path)[0].rows == 10, second_to_last)
        with watching(tmp_path) as last:
            assert second_to_last.stdin is not None
            second_to_last.stdin.close()
            assert second_to_last.wait(HANG_SECONDS) == 0
            append_scores(scores, stream(made, 30))
            until(lambda: shown_monitors(path)[0].rows == 40, last)
