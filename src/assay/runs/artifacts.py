"""Artifacts of runs and stages, which Prefect's page shows."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from assay.errors import AssayError
from assay.pipeline.progress import StageProgress, silent
from assay.project.layout import Project

PROGRESS_SECONDS = 5  # shorter stages have no progress artifact, and longer ones move it as often


@contextmanager
def stage_artifact(project: Project, stage: str) -> Iterator[StageProgress]:
    """Keep the progress of a stage that takes more than a moment as an artifact of the present task run."""
    if "prefect" not in sys.modules:  # outside a flow a stage does not pay for importing it
        yield silent
        return
    from prefect.artifacts import create_progress_artifact, update_progress_artifact
    from prefect.context import TaskRunContext

    if TaskRunContext.get() is None:
        yield silent
        return
    artifact, shown = None, time.monotonic()

    def move(_task: str, share: float) -> None:
        nonlocal artifact, shown
        if time.monotonic() - shown < PROGRESS_SECONDS:
            return
        percent = 100 * min(max(share, 0.0), 1.0)
        if artifact is None:
            key, title = artifact_key("progress", stage), project.stage(stage).title
            artifact = create_artifact(create_progress_artifact, progress=percent, key=key, description=title)
        else:
            create_artifact(update_progress_artifact, artifact_id=artifact, progress=percent)
        shown = time.monotonic()

    yield move
    if artifact is not None:
        create_artifact(update_progress_artifact, artifact_id=artifact, progress=100.0)


def create_artifact(function: Any, **content: Any) -> Any:
    """Create or change an artifact, and return its id. A run is not to fail for a picture of it."""
    try:
        return function(**content)
    except AssayError:
        raise
    except Exception as error:
        logging.getLogger(__name__).warning("Prefect took no artifact: %s", error)
    return None


def artifact_key(kind: str, dataset: str) -> str:
    return f"{kind}-{re.sub('[^a-z0-9]+', '-', dataset.lower()).strip('-')}"
