"""Traces by OpenTelemetry, where its variables ask for them; without them nothing of it is imported."""

from __future__ import annotations

import os
from importlib.metadata import entry_points

from starlette.types import ASGIApp

from assay.errors import ToolError

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_EXPORTER = "OTEL_TRACES_EXPORTER"


def traced(application: ASGIApp) -> ASGIApp:
    """Return the application, with a span for each request where the variables of OpenTelemetry name an exporter.

    They are OTEL_TRACES_EXPORTER, or an endpoint of OTLP alone; OTEL_SDK_DISABLED=true and the exporter none switch it
    off. It starts a thread.

    Raises
    ------
    ToolError
        OpenTelemetry, or the exporter, is not installed.
    """
    chosen = os.environ.get(_EXPORTER) or ("otlp" if any(map(os.environ.get, _ENDPOINTS)) else "none")
    if chosen == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return application
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    name = {"otlp": "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"}.get(chosen, chosen)
    try:
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        (exporter,) = entry_points(group="opentelemetry_traces_exporter", name=name)
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(exporter.load()()))
    except (ImportError, ValueError) as error:
        raise ToolError(
            f"the variables of OpenTelemetry ask for traces by {chosen}, and what sends them is not installed; install "
            f"opentelemetry-exporter-{name.replace('_', '-')}, or unset them"
        ) from error
    return OpenTelemetryMiddleware(application, tracer_provider=provider, exclude_spans=["receive", "send"])
