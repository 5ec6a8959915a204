"""The retraining flow: one Prefect task for each verb, over the same functions that DVC's stages call."""

from __future__ import annotations

import os
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any

from assay.environment import search_garbage_rarely, set_environment
from assay.project.layout import Project
from assay.project.runners import cells_elsewhere
from assay.project.work import end_all

ROOT = Path(__file__).resolve().parents[1]
set_environment(ROOT)
search_garbage_rarely()

from prefect import flow, tags, task  # noqa: E402  (its switches are set above)
from prefect.client.schemas.objects import State, TaskRun  # noqa: E402
from prefect.futures import as_completed  # noqa: E402
from prefect.runtime import deployment  # noqa: E402
from prefect.task_engine import TaskRunTimeoutError  # noqa: E402
from prefect.tasks import Task  # noqa: E402

from assay import console, interruption  # noqa: E402
from assay.errors import AssayError, StageError  # noqa: E402
from assay.project.deployment import read_deployment  # noqa: E402
from assay.runs import arrivals, asking, showing  # noqa: E402
from assay.runs import run as runs  # noqa: E402
from assay.runs.scheduling import SCHEDULED  # noqa: E402

# A stage that takes longer hangs, on a mount for instance. Its run fails; the next one goes on from its checkpoints.
STAGE_SECONDS = 2 * 24 * 3600.0
# So long the run of a deployment waits for the answer to `gate: ask`, without a process and without the lock.
ANSWER_SECONDS = 7 * 24 * 3600.0


def worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Retry what may pass by itself (a full disk, a lost mount), never what Assay refused on purpose, nor a timeout."""
    return not isinstance(state.result(raise_on_failure=False), AssayError | TaskRunTimeoutError)


@task(retries=2, retry_delay_seconds=[1, 10], retry_condition_fn=worth_retrying, timeout_seconds=STAGE_SECONDS)
def verb(root: str, stage: str, params: dict[str, Any], *, beside_others: bool = False) -> bool:
    """Run one stage of the pipeline with the settings that the run has read; returns whether it had to run."""
    outcome = runs.execute(Project(Path(root), params=params), stage, beside_others=beside_others)
    showing.log_line(runs.stage_line(outcome))
    return outcome.ran


def run_name() -> str:
    """Return the name of the present run."""
    return showing.run_name(ROOT)


@flow(name="retrain", flow_run_name=run_name)
def retrain(
    dataset: str | None = None,
    deploy: bool = True,
    new_data: str | None = None,
    runner: str | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Run every stage that is not fresh, publish the scorer, and decide who is champion.

    Parameters
    ----------
    dataset : str, optional
        Written to params.yaml first; what stands there is used where this is left out.
    deploy : bool
        Whether the scorer is published and compared with the champion, or only packaged.
    new_data : str, optional
        Folder; every file in it that no run has seen yet is added to the dataset first, as a batch.
    runner, address : str, optional
        What trains and calibrates, in place of `run.runner` and `run.address` in params.yaml.
    """
    is_scheduled = bool(os.environ.get(SCHEDULED))
    if is_scheduled:
        interruption.end_with_parent()
    project = Project(ROOT)
    if question := asking.suspended_question():
        return act_on_answer(project, question)
    # Prefect cancels the run of a schedule in order only while its own handler stands. A run that a person started says
    # who holds the lock, one of a deployment waits for it.
    with (
        nullcontext() if is_scheduled else interruption.interruptible_once(),
        project.lock(waits=deployment.id is not None),
    ):
        try:
            runs.prepare(project, dataset)
            before = champion_of(project)
            with tags(*showing.tags_of(project)):
                if new_data is not None:
                    showing.show_arrivals(project, arrivals.take_in(project, Path(new_data)))
                result, ran = run_stages(project, deploy=deploy, runner=runner, address=address)
        except Exception as error:
            showing.show_failure(project, dataset, error)
            raise
        if ran or result.champion != before:
            showing.show_verdict(result, before)
    if ran and deployment.id is not None and (asked := asking.PromotionQuestion.of(result)):
        asking.ask_in_prefect(asked, ANSWER_SECONDS)
    return result.to_json()


def act_on_answer(project: Project, question: asking.PromotionQuestion) -> dict[str, Any]:
    """Promote a scorer, or leave it, as the answer says for which this run was suspended."""
    answer = asking.ask_in_prefect(question, ANSWER_SECONDS)
    if not answer.promote:
        showing.show_refusal(question.dataset, refusal := question.refusal(answer.name, answer.why))
        return {"scorer": question.scorer, "champion": question.champion, "verdict": refusal}
    with project.lock(waits=True):
        try:
            before = champion_of(project.on(question.dataset))
            asking.promote_as_asked(project, question, answer.name, answer.why)
            result = runs.summarise(project.on(question.dataset), f"{answer.name} promoted it; {question.comparison}")
        except Exception as error:
            showing.show_failure(project, question.dataset, error)
            raise
    showing.keep_artifacts(result, ROOT)
    showing.show_verdict(result, before)
    return result.to_json()


def run_all(project: Project, stages: list[str], finished: list[str], at_once: int) -> None:
    """Run the stages of one verb, so many at once, by the open runner, and add those that finished to `finished`.

    With 0 at once they run one after the other in this process.
    """
    root, params = str(project.root), project.raw_params
    if not at_once:
        for stage in stages:
            verb.with_options(name=stage)(root, stage, params)
            finished.append(stage)
        return
    waiting, running, failed = runs.quick_first(project, stages), dict[Any, str](), list[Exception]()
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


def run_stages(
    project: Project, *, deploy: bool, runner: str | None = None, address: str | None = None
) -> tuple[runs.Result, bool]:
    """Run the tasks in order, and return the result and whether any had to run.

    DVC hears of those that finished, whatever becomes of the rest.
    """
    if not (stale := runs.stale_stages(project)):
        showing.log_line("nothing changed: every stage is fresh")
        return runs.refresh(project, deploy=deploy), False
    runs.check_choices(project)
    run, finished = runs.open_run(project, "prefect"), list[str]()
    problem: BaseException | None = None
    try:
        with cells_elsewhere(project, stale, runner, address) as at_once:
            kinds = groupby(project.stages.values(), key=lambda stage: (stage.verb, stage.detector is not None))
            for (_, of_cells), stages in kinds:
                run_all(project, [stage.name for stage in stages], finished, at_once if of_cells else 0)
        result = runs.summarise(project, runs.deliver(project, deploy=deploy))
        console.say(f"{result.scorer}: {result.verdict}")
        showing.keep_artifacts(result, project.root)
        return result, True
    except TaskRunTimeoutError as error:
        problem = StageError(
            f"a stage took longer than {STAGE_SECONDS:g} s (STAGE_SECONDS in flows/retrain.py), and was ended; "
            "the next run goes on from its checkpoints"
        )
        raise problem from error
    except BaseException as error:
        problem = error
        if not isinstance(error, Exception):
            end_all()
        raise
    finally:
        runs.close_run(project, run, finished, problem)


def champion_of(project: Project) -> str | None:
    """Return the tag of the champion of a project's dataset."""
    deployment = read_deployment(project.root, project.dataset)
    return None if deployment is None else deployment.tag
