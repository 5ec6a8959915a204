"""The retraining flow: one Prefect task for each verb, over the same functions that DVC's stages call."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from assay.environment import set_environment
from assay.project.layout import Project
from assay.project.stages import STAGES

set_environment(Path(__file__).resolve().parents[1])

from prefect import flow, task  # noqa: E402  (its switches are set above)
from prefect.client.schemas.objects import State, TaskRun  # noqa: E402
from prefect.tasks import Task  # noqa: E402

from assay import console, interruption  # noqa: E402
from assay.errors import AssayError  # noqa: E402
from assay.runs import run as runs  # noqa: E402
from assay.runs.scheduling import SCHEDULED  # noqa: E402


def worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Retry what may pass by itself (a full disk, a lost mount), never what Assay refused on purpose."""
    return not isinstance(state.result(raise_on_failure=False), AssayError)


@task(retries=2, retry_delay_seconds=[1, 10], retry_condition_fn=worth_retrying)
def verb(root: str, stage: str) -> bool:
    """Run one verb of the pipeline; returns whether it had to run."""
    return runs.execute(Project(Path(root)), stage).ran


@flow(name="retrain")
def retrain(dataset: str | None = None, deploy: bool = True) -> dict[str, Any]:
    """Run every stage that is not fresh, publish the scorer, and decide who is champion.

    Parameters
    ----------
    dataset : str, optional
        Written to params.yaml first; what stands there is used where this is left out.
    deploy : bool
        Whether the scorer is published and compared with the champion, or only packaged.
    """
    if os.environ.get(SCHEDULED):
        interruption.end_with_parent()
    project = Project(Path(__file__).resolve().parents[1])
    with project.lock():
        if dataset is not None:
            project.use_dataset(dataset)
        return run_stages(project, deploy=deploy).to_json()


def run_stages(project: Project, *, deploy: bool) -> runs.Result:
    """Run the tasks in order; DVC hears of those that finished, whatever becomes of the rest."""
    runs.prepare(project)
    runs.check_choices(project)
    run, finished, problem = runs.open_run(project, "prefect"), [], None
    try:
        for stage in STAGES:
            verb.with_options(name=stage)(str(project.root), stage)
            finished.append(stage)
        result = runs.summarise(project, runs.deliver(project, deploy=deploy))
        console.say(f"{result.scorer}: {result.verdict}")
        return result
    except BaseException as error:
        problem = error
        raise
    finally:
        runs.close_run(project, run, finished, problem)
