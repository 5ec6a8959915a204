"""What is counted and kept of answers to /score: a moment later, many at a time, in the order of the answers."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import numpy as np

from assay.service.answers import ScoreAnswer
from assay.service.metrics import VersionMetrics
from assay.service.spool import Spool

NOTED_SECONDS = 0.02


class Noted(NamedTuple):
    """An answered request: where it is counted and kept, status and seconds, and the answer, if rows were scored."""

    metrics: VersionMetrics
    spool: Spool
    status: int
    seconds: float
    answer: ScoreAnswer | None


class Notes:
    """The answers that are not counted yet, of all scorers of a server.

    Files and counters for each answer alone would take a fourth of its time. All methods belong to one thread.
    """

    def __init__(self) -> None:
        self._waiting: list[Noted] = []

    def add(self, noted: Noted) -> None:
        """Have an answer counted, and its scores kept, within `NOTED_SECONDS`."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(NOTED_SECONDS, self.write)
        self._waiting.append(noted)

    def write(self) -> None:
        """Count and keep all answers now."""
        by_version: dict[VersionMetrics, list[Noted]] = {}
        for noted in self._waiting:
            by_version.setdefault(noted.metrics, []).append(noted)
        self._waiting = []
        for metrics, requests in by_version.items():
            metrics.count_requests([(noted.status, noted.seconds) for noted in requests])
            if answers := [noted.answer for noted in requests if noted.answer is not None]:
                requests[0].spool.append(np.concatenate([answer.judged.scores for answer in answers]))
                metrics.count(
                    np.concatenate([answer.judged.p_values for answer in answers]),
                    np.concatenate([answer.flags for answer in answers]),
                    [category for answer in answers for category in answer.categories],
                )
