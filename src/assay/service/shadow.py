"""A challenger in the shadow of a champion: it scores the same rows, answers nothing, and is compared."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from assay.arrays import Flags
from assay.calibration.decisions import Rule
from assay.errors import AssayError
from assay.scorer.scorer import Scorer
from assay.service.metrics import Metrics, VersionMetrics
from assay.service.requests import Question
from assay.service.rows import ColumnLayout
from assay.service.spool import Spool

MOST_WAITING = 100_000
_FLAGGED_BY = ("neither", "champion", "challenger", "both")
_LOGGER = logging.getLogger(__name__)


class Shadow:
    """Scores what a champion has answered, in a thread, by the rate of the request; counts who flags what.

    No answer waits for it, and none fails for it. Rows that come while `MOST_WAITING` wait are passed over and counted
    as skipped; so are rows that the challenger does not take.

    Parameters
    ----------
    scorer : Scorer
        The challenger.
    metrics : Metrics
    """

    def __init__(self, scorer: Scorer, metrics: Metrics) -> None:
        self.scorer, self._metrics = scorer, metrics
        self._counted = VersionMetrics(metrics, scorer.name, scorer.version)
        self._keep = Spool.of(scorer).append
        self._layout = ColumnLayout.of(scorer)
        self._thread = ThreadPoolExecutor(1, "shadow")
        self._waiting, self._lock = 0, threading.Lock()
        self._problem = ""

    def follow(self, champion: Scorer, question: Question, rule: Rule, flags: Flags) -> None:
        """Score the rows of a request that a champion answered with these flags, a bool for each."""
        n = len(flags)
        if champion.version == self.scorer.version or not n:
            return
        with self._lock:
            is_full = self._waiting + n > MOST_WAITING
            self._waiting += 0 if is_full else n
        if is_full:
            self._count(champion, "skipped", n)
            return
        self._thread.submit(self._compare, champion, question, rule, flags)

    def finish(self) -> None:
        """Score what waits; call it when no more rows come."""
        self._thread.shutdown()

    def _compare(self, champion: Scorer, question: Question, rule: Rule, flags: Flags) -> None:
        try:
            if ColumnLayout.of(champion) != self._layout:
                raise AssayError(f"it takes other columns than {champion.tag}")
            judged = self.scorer.judge(question.rows, question.categories, question.ids)
            rule.require(self.scorer.calibrator)
            own = rule.flags(judged.p_values)
        except Exception as error:  # whatever is wrong with the challenger, the champion goes on
            # Other errors may hold values of rows, which never go to a log.
            problem = str(error) if type(error) is AssayError else type(error).__name__
            if problem != self._problem:
                _LOGGER.error("%s in the shadow scores nothing now: %s", self.scorer.tag, problem)
            self._problem = problem
            self._count(champion, "skipped", len(flags))
            return
        finally:
            with self._lock:
                self._waiting -= len(flags)
        self._keep(judged.scores)
        self._counted.count(judged.p_values, own)
        for name, number in zip(_FLAGGED_BY, np.bincount(flags + 2 * own, minlength=4).tolist(), strict=True):
            self._count(champion, name, number)

    def _count(self, champion: Scorer, flagged_by: str, number: int) -> None:
        self._metrics.compared.labels(champion.name, champion.version, self.scorer.version, flagged_by).inc(number)
