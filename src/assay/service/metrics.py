"""What the service counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest


class Metrics:
    """The rows that were scored, and the number and seconds of requests to /score."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.rows = Counter("assay_rows", "Rows that were scored.", registry=self._registry)
        self.seconds = Histogram("assay_score_seconds", "Seconds of requests to /score.", registry=self._registry)

    def text(self) -> bytes:
        """Return all numbers in the text format of Prometheus."""
        return generate_latest(self._registry)
