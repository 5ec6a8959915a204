"""What the service counts, for Prometheus, by dataset and version of the scorer."""

from __future__ import annotations

import os
from collections import Counter as Counted
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from assay.arrays import Doubles, Flags
from assay.service.monitors import MonitorState

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # where the workers of a server keep their numbers
P_VALUE_EDGES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_LABELS = ("dataset", "version")
_BINS = tuple(f"{low:g}-{high:g}" for low, high in pairwise(P_VALUE_EDGES))
_MOST_COUNTED = 100
_BETWEEN = np.array(P_VALUE_EDGES[1:-1])


class Metrics:
    """The numbers of a server, of all its datasets and versions."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.rows = Counter("assay_rows", "Rows that were scored.", _LABELS, registry=registry)
        self.flagged = Counter("assay_flagged_rows", "Rows that were flagged.", _LABELS, registry=registry)
        self.p_values = Counter("assay_p_values", "Rows by p-value.", (*_LABELS, "bin"), registry=registry)
        category = *_LABELS, "category"
        self.category_p_values = Counter(
            "assay_category_p_values", "Rows of a category by p-value.", (*category, "bin"), registry=registry
        )
        self.category_flagged = Counter(
            "assay_category_flagged_rows", "Rows of a category that were flagged.", category, registry=registry
        )
        self.compared = Counter(
            "assay_compared_rows",
            "Rows by who flags them, champion and challenger.",
            (*_LABELS, "challenger", "flagged_by"),
            registry=registry,
        )
        self.requests = Counter("assay_requests", "Requests to /score.", (*_LABELS, "status"), registry=registry)
        self.seconds = Histogram("assay_score_seconds", "Seconds of requests to /score.", _LABELS, registry=registry)
        # Of several workers, the one that set a gauge last is right; what is counted adds up.
        gauge = partial(Gauge, multiprocess_mode="livemostrecent", registry=registry)
        self.answering = gauge("assay_answering", "1 for the versions that answer.", _LABELS)
        self.stuck = gauge("assay_champion_not_loaded", "1 if a new champion could not be loaded.", ("dataset",))
        monitor = (*_LABELS, "monitor")
        self._capital = gauge("assay_monitor_log10_capital", "Evidence that scores have drifted.", monitor)
        self._alarm = gauge("assay_monitor_alarm", "1 after an alarm.", monitor)
        self._watched = gauge("assay_monitor_rows", "Rows that a monitor has seen.", monitor)

    def show_monitors(self, dataset: str, version: str, monitors: Iterable[MonitorState]) -> None:
        """Set what the monitors of a version say."""
        for monitor in monitors:
            labels = dataset, version, monitor.name
            self._capital.labels(*labels).set(monitor.log10_capital)
            self._alarm.labels(*labels).set(monitor.alarm is not None)
            self._watched.labels(*labels).set(monitor.rows)

    def text(self) -> bytes:
        """Return all numbers in the text format of Prometheus, those of all workers where there are several."""
        registry = self._registry
        if os.environ.get(SHARED_FOLDER):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


class VersionMetrics:
    """The numbers of one version of a dataset's scorer.

    Parameters
    ----------
    metrics : Metrics
    dataset, version : str
    """

    def __init__(self, metrics: Metrics, dataset: str, version: str) -> None:
        self.labels, self._metrics = (dataset, version), metrics
        self._seconds = metrics.seconds.labels(*self.labels)
        self._rows, self._flagged = metrics.rows.labels(*self.labels), metrics.flagged.labels(*self.labels)
        self._p_values = [metrics.p_values.labels(*self.labels, name) for name in _BINS]
        self._categories: set[str] = set()

    def count(self, p_values: Doubles, flags: Flags, categories: Sequence[str] = ()) -> None:
        """Count scored rows, by p-values and flags of shape (n,), and n categories or none; a bin holds its upper end.

        The first `_MOST_COUNTED` categories that come are counted by themselves, the rest together.
        """
        self._rows.inc(len(flags))
        self._flagged.inc(int(flags.sum()))
        of_row = np.searchsorted(_BETWEEN, p_values)
        for counter, number in zip(self._p_values, np.bincount(of_row, minlength=len(_BINS)).tolist(), strict=True):
            if number:
                counter.inc(number)
        if not categories:
            return
        for (category, place, flag), number in Counted(
            zip(map(self._name, categories), of_row.tolist(), flags.tolist(), strict=True)
        ).items():
            self._metrics.category_p_values.labels(*self.labels, category, _BINS[place]).inc(number)
            self._metrics.category_flagged.labels(*self.labels, category).inc(number * flag)

    def _name(self, category: str) -> str:
        if len(self._categories) < _MOST_COUNTED:
            self._categories.add(category)
        return category if category in self._categories else ""

    def count_requests(self, requests: list[tuple[int, float]]) -> None:
        """Count requests to /score by the status of the answer, and how many seconds each took."""
        for _, seconds in requests:
            self._seconds.observe(seconds)
        for status, number in Counted(status for status, _ in requests).items():
            self._metrics.requests.labels(*self.labels, str(status)).inc(number)
