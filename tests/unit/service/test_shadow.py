"""A challenger in the shadow: what it is compared by, and that no answer depends on it."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.scorers import COLUMNS, made_scorer
from tests.serving import running
from tests.waiting import HANG_SECONDS

from assay.calibration.decisions import Rule
from assay.scorer.loading import load_scorer
from assay.scorer.scorer import Scorer
from assay.service.metrics import Metrics
from assay.service.requests import Question
from assay.service.routes import make_application
from assay.service.shadow import MOST_WAITING, Shadow
from assay.service.spool import MONITORED, read_spool, spool_path
from assay.service.versions import Following, Plan, Served

ROWS = np.random.default_rng(7).normal(size=(400, len(COLUMNS))) * 1.5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("scorers")
    return [made_scorer(root, "made", seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def scorers(folders: list[Path]) -> list[Scorer]:
    return [load_scorer(folder) for folder in folders]


def compared(text: str) -> dict[str, int]:
    """Return the numbers of compared rows by who flagged them, from the text of /metrics."""
    lines = re.findall(r'assay_compared_rows_total\{[^}]*flagged_by="(\w+)"[^}]*\} ([\d.]+)', text)
    return {name: int(float(number)) for name, number in lines}


def until(seen: Callable[[], object]) -> None:
    end = time.monotonic() + HANG_SECONDS
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_shadow_is_scored_recorded_and_compared_and_answers_nothing(
    folders: list[Path], scorers: list[Scorer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion, challenger = scorers
    monkeypatch.setenv(MONITORED, str(tmp_path))
    shadow = str(folders[1]), challenger.statement.id
    served = Served(str(folders[0]), champion.statement.id, shadow=shadow)
    rule = {"eps": 0.2}
    with running(Plan((served,)), tmp_path / "log") as server, server.client() as client:
        for rows in np.split(ROWS, 8):
            body = {"columns": list(COLUMNS), "rows": rows.tolist(), **rule}
            answer = client.post("/score", json=body).json()
            assert answer["model_version"] == champion.version
            assert [row["score"] for row in answer["results"]] == champion.decision_function(rows).tolist()
        server.until(lambda: sum(compared(client.get("/metrics").text).values()) == len(ROWS))
        text = client.get("/metrics").text
        assert client.get("/info").json()["challenger"]["model_version"] == challenger.version
    first, second = (scorer.predict(ROWS, **rule) for scorer in scorers)
    assert compared(text) == {
        "both": int((first & second).sum()),
        "champion": int((first & ~second).sum()),
        "challenger": int((~first & second).sum()),
        "neither": int((~first & ~second).sum()),
    }
    assert min(compared(text).values()) > 0
    assert f'assay_flagged_rows_total{{dataset="made",version="{challenger.version}"}} {second.sum()}.0' in text
    for scorer in scorers:
        np.testing.assert_array_equal(read_spool(spool_path(tmp_path, scorer.tag)), scorer.decision_function(ROWS))


class Held:
    """A detector that waits, and then scores or fails."""

    def __init__(self, inner: Any, error: Exception | None = None) -> None:
        self.inner, self.error, self.going = inner, error, threading.Event()

    def decision_function(self, X: Any) -> Any:
        assert self.going.wait(HANG_SECONDS)
        if self.error is not None:
            raise self.error
        return self.inner.decision_function(X)


def with_detector(scorer: Scorer, detector: Any) -> Scorer:
    return replace(scorer, function=replace(scorer.function, detector=detector))


def test_rows_beyond_those_that_may_wait_are_skipped(scorers: list[Scorer]) -> None:
    champion, challenger = scorers
    held, metrics = Held(challenger.function.detector), Metrics()
    shadow = Shadow(with_detector(challenger, held), metrics)
    shadow.follow(champion, Question(ROWS[:1]), Rule(0.1), np.zeros(1, bool))
    shadow.follow(champion, Question(np.zeros((MOST_WAITING, 3))), Rule(0.1), np.zeros(MOST_WAITING, bool))
    assert compared(metrics.text().decode()) == {"skipped": MOST_WAITING}
    held.going.set()
    until(lambda: sum(compared(metrics.text().decode()).values()) == MOST_WAITING + 1)
    shadow.follow(champion, Question(ROWS), Rule(0.1), np.zeros(len(ROWS), bool))
    until(lambda: sum(compared(metrics.text().decode()).values()) == MOST_WAITING + 1 + len(ROWS))
    assert compared(metrics.text().decode())["skipped"] == MOST_WAITING


def test_a_server_that_ends_scores_what_waits_in_the_shadow(
    folders: list[Path], scorers: list[Scorer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker ends without waiting for its threads."""
    champion, challenger = scorers
    monkeypatch.setenv(MONITORED, str(tmp_path))
    application, held = make_application(), Held(challenger.function.detector)
    with Following(application, Plan((Served(str(folders[0]), champion.statement.id),))):
        shadow = Shadow(with_detector(challenger, held), application.state.shared.metrics)
        application.state.shared.shadows[champion.name] = shadow
        shadow.follow(champion, Question(ROWS), Rule(0.1), np.zeros(len(ROWS), bool))
        threading.Timer(0.2, held.going.set).start()
    assert len(read_spool(spool_path(tmp_path, challenger.tag))) == len(ROWS)


def test_a_challenger_that_fails_is_logged_once_without_values(
    scorers: list[Scorer], caplog: pytest.LogCaptureFixture
) -> None:
    champion, challenger = scorers
    metrics = Metrics()
    failing = Held(None, ValueError("secret 12.5"))
    failing.going.set()
    shadow = Shadow(with_detector(challenger, failing), metrics)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            shadow.follow(champion, Question(ROWS[:5]), Rule(0.1), np.zeros(5, bool))
        until(lambda: compared(metrics.text().decode()) == {"skipped": 15})
    assert len(caplog.records) == 1
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


def test_a_challenger_of_other_columns_scores_nothing(scorers: list[Scorer], caplog: pytest.LogCaptureFixture) -> None:
    champion, challenger = scorers
    metrics = Metrics()
    shadow = Shadow(replace(challenger, head={**challenger.head, "columns": ["c", "b", "a"]}), metrics)
    with caplog.at_level(logging.ERROR):
        shadow.follow(champion, Question(ROWS[:5]), Rule(0.1), np.zeros(5, bool))
        until(lambda: compared(metrics.text().decode()) == {"skipped": 5})
    assert "it takes other columns than made:" in caplog.text


def test_a_challenger_that_became_the_champion_is_not_compared(scorers: list[Scorer]) -> None:
    metrics = Metrics()
    Shadow(scorers[0], metrics).follow(scorers[0], Question(ROWS), Rule(0.1), np.zeros(len(ROWS), bool))
    assert compared(metrics.text().decode()) == {}
