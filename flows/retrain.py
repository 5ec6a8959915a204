"""The retraining flow: one Prefect task for each verb, over the same functions that DVC's stages call."""

from __future__ import annotations

import os
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any

from assay.environment import set_environment
from assay.project.layout import Project
from assay.project.work import end_all

set_environment(Path(__file__).resolve().parents[1])

from prefect import flow, task  # noqa: E402  (its switches are set above)
from prefect.client.schemas.objects import State, TaskRun  # noqa: E402
from prefect.futures import as_completed  # noqa: E402
from prefect.tasks import Task  # noqa: E402

from assay import console, interruption  # noqa: E402
from assay.errors import AssayError  # noqa: E402
from assay.runs import run as runs  # noqa: E402
from assay.runs.scheduling import SCHEDULED  # noqa: E402


def worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Retry what may pass by itself (a full disk, a lost mount), never what Assay refused on purpose."""
    return not isinstance(state.result(raise_on_failure=False), AssayError)


@task(retries=2, retry_delay_seconds=[1, 10], retry_condition_fn=worth_retrying)
def verb(root: str, stage: str, params: dict[str, Any], *, beside_others: bool = False) -> bool:
    """Run one stage of the pipeline with the settings that the run has read; returns whether it had to run."""
    return runs.execute(Project(Path(root), params=params), stage, beside_others=beside_others).ran


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
    is_scheduled = bool(os.environ.get(SCHEDULED))
    if is_scheduled:
        interruption.end_with_parent()
    project = Project(Path(__file__).resolve().parents[1])
    # Prefect cancels the run of a schedule in order only while its own handler stands.
    with nullcontext() if is_scheduled else interruption.interruptible_once(), project.lock():
        if dataset is not None:
            project.use_dataset(dataset)
        return run_stages(project, deploy=deploy).to_json()


def run_all(project: Project, stages: list[str], finished: list[str]) -> None:
    """Run the stages of one verb, as many at once as the settings say, and add those that finished to `finished`."""
    root, params = str(project.root), project.raw_params
    at_once = min(project.config.sections["run"]["cells_at_once"], len(stages))
    if at_once == 1:
        for stage in stages:
            verb.with_options(name=stage)(root, stage, params)
            finished.append(stage)
        return
    waiting, running, failed = list(stages), dict[Any, str](), list[Exception]()
    while running or (waiting and not failed):
        while waiting and not failed and len(running) < at_once:
            stage = waiting.pop(0)
            running[verb.with_options(name=stage).submit(root, stage, params, beside_others=True)] = stage
        future = next(as_completed(list(running)))
        stage = running.pop(future)
        try:
            future.result()
            finished.append(stage)
        except Exception as error:
            failed.append(error)
    if failed:
        raise failed[0]


def run_stages(project: Project, *, deploy: bool) -> runs.Result:
    """Run the tasks in order; DVC hears of those that finished, whatever becomes of the rest."""
    runs.prepare(project)
    runs.check_choices(project)
    run, finished, problem = runs.open_run(project, "prefect"), list[str](), None
    try:
        for _, stages in groupby(project.stages.values(), key=lambda stage: stage.verb):
            run_all(project, [stage.name for stage in stages], finished)
        result = runs.summarise(project, runs.deliver(project, deploy=deploy))
        console.say(f"{result.scorer}: {result.verdict}")
        return result
    except BaseException as error:
        problem = error
        if not isinstance(error, Exception):
            end_all()
        raise
    finally:
        runs.close_run(project, run, finished, problem)
