"""Environment of the frameworks: their telemetry off, their state inside the project."""

from __future__ import annotations

import os
from pathlib import Path

SWITCHES = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "False",
    "BENTOML_DO_NOT_TRACK": "True",
}


def set_environment(root: Path) -> None:
    """Set every switch and state folder that the user has not set; call before importing a framework."""
    state = {
        "PREFECT_HOME": str(root / ".prefect"),
        "PREFECT_LOCAL_STORAGE_PATH": str(root / ".prefect" / "storage"),
        "BENTOML_HOME": str(root / ".bentoml"),
    }
    for name, value in {**SWITCHES, **state}.items():
        os.environ.setdefault(name, value)
