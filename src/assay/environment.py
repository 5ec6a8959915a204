"""The process of a command: variables of the frameworks (telemetry off, state inside the project), and garbage."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from pathlib import Path

SWITCHES = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
    # What runs and tasks say goes to Prefect's server.
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "INFO",
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "INFO",
    # Prefect's own temporary server outlives a killed run; `assay.runs.scheduling.prefect_server` does not.
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "False",
    "BENTOML_DO_NOT_TRACK": "True",
}
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
OBJECTS_BETWEEN_SEARCHES = 100_000


def set_environment(root: Path) -> None:
    """Set every switch and state folder that the user has not set; call before importing a framework."""
    state = {
        "PREFECT_HOME": str(root / ".prefect"),
        "PREFECT_LOCAL_STORAGE_PATH": str(root / ".prefect" / "storage"),
        "BENTOML_HOME": str(root / ".bentoml"),
    }
    for name, value in {**SWITCHES, **state}.items():
        os.environ.setdefault(name, value)
    spare_loopback()


def n_processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def bentoml_home(root: Path) -> Path:
    """Return the folder of BentoML's stores for a project."""
    return Path(os.environ.get("BENTOML_HOME", root / ".bentoml")).resolve()


def spare_loopback() -> None:
    """Exclude loopback from the user's proxies, which cannot reach a server on this machine."""
    if not any(os.environ.get(name) or os.environ.get(name.lower()) for name in PROXIES):
        return
    configured = ",".join(os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY"))
    hosts = [host.strip() for host in configured.split(",") if host.strip()]
    if "*" not in hosts:
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(dict.fromkeys([*hosts, *LOOPBACK]))


def search_garbage_rarely() -> None:
    """Search for garbage rarely, and not at the end; for processes of one command.

    Imports make hundreds of thousands of objects that stay; searching these took a fifth of the time of short commands.
    """
    gc.set_threshold(OBJECTS_BETWEEN_SEARCHES)
    atexit.register(_leave_garbage)


def _leave_garbage() -> None:
    # DuckDB's bindings print fifty lines about leaks where the end of the process finds their objects still there.
    if "duckdb" not in sys.modules:
        gc.freeze()
