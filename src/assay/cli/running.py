"""Commands that run the stages: ``assay run``, ``assay stage`` and ``assay schedule``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from assay.cli.common import as_json, find_project, load_flow, runner_options

if TYPE_CHECKING:
    from assay.project.layout import Project
    from assay.runs.run import Result


@click.command("run")
@click.option("--dataset", metavar="NAME", help="Dataset to run on; it is written to params.yaml.")
@click.option("--deploy/--no-deploy", default=True, help="Publish and compare with the champion, or only package.")
@runner_options
@as_json
def run_command(dataset: str | None, deploy: bool, runner: str | None, address: str | None, as_json: bool) -> None:
    """Run the stages that are not fresh, publish the scorer and compare it with the champion."""
    for name in ("PREFECT_LOGGING_LEVEL", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"):
        os.environ.setdefault(name, "CRITICAL")
    project = find_project()
    from assay.errors import NoValidCandidateError
    from assay.interruption import interruptible
    from assay.runs import run as runs

    try:
        with interruptible():
            result = _run(project, dataset, deploy=deploy, runner=runner, address=address)
    except NoValidCandidateError:
        if not as_json:
            runs.print_result(runs.summarise(project, "no valid candidate, nothing ships", shipped=False))
        raise
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
        return
    runs.print_result(result)
    from assay.runs.asking import ask_on_screen

    ask_on_screen(project, result)


def _run(project: Project, dataset: str | None, *, deploy: bool, runner: str | None, address: str | None) -> Result:
    """Check the records first; Prefect is imported only if a stage has to run."""
    from assay.runs import run as runs

    with project.lock():
        runs.prepare(project, dataset)
        if not runs.stale_stages(project):
            return runs.refresh(project, deploy=deploy)
        runs.check_choices(project)
    from assay.runs.scheduling import prefect_server
    from assay.runs.showing import tags_of

    given = {"runner": runner, "address": address}
    elsewhere = {name: value for name, value in given.items() if value is not None}
    with prefect_server(project):
        from prefect import tags

        with tags(*tags_of(project)):
            return runs.Result.from_json(load_flow(project, "retrain").retrain(deploy=deploy, **elsewhere))


@click.command("stage")
@click.argument("name", metavar="STAGE")
def stage_command(name: str) -> None:
    """Run one stage of dvc.yaml unless it is fresh; `dvc repro` calls this.

    STAGE is as in DVC, for instance train@digits--knn. A verb alone, as train, means all its stages for the dataset in
    params.yaml.
    """
    project = find_project()
    from assay.project.cells import retire_cells
    from assay.project.freshness import require_settings
    from assay.project.ingest import require_known_data
    from assay.project.installed import require_code, require_own_code
    from assay.project.scorers import scorer_folders
    from assay.runs import run as runs

    with project.lock():
        require_own_code(project)
        if name == runs.CODE_STAGE:
            runs.write_code(project)
            return
        require_known_data(project)
        runs.end_interrupted(project)
        project = project.seen_from(name)
        for stage in project.stages_named(name):
            require_code(project, stage)
            retire_cells(project)
            runs.execute(project, stage.name)
            require_settings(project, stage)
        if stage.verb == "package":
            click.echo(f"{project.dataset}:{scorer_folders(project)[0].name}: {runs.deliver(project, deploy=False)}")


@click.command("schedule")
@click.option("--cron", metavar="EXPRESSION", help='When to run, for instance "0 2 * * *".')
@click.option("--interval", type=click.FloatRange(min=1), metavar="SECONDS", help="Seconds between runs.")
@click.option("--dataset", metavar="NAME", help="Dataset to run on; default: the one in params.yaml.")
@click.option(
    "--on-new-data",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Add new files of FOLDER to the dataset; where no other option says when to run, as soon as there is one.",
)
@click.option("--on-alarm", is_flag=True, help="Run when a monitor of the champion has raised an alarm.")
@click.option("--notify", metavar="URL", help="Post a JSON message to URL on verdicts, failures and refused files.")
def schedule_command(
    cron: str | None,
    interval: float | None,
    dataset: str | None,
    folder: Path | None,
    on_alarm: bool,
    notify: str | None,
) -> None:
    """Serve the flow on a schedule through Prefect until interrupted."""
    if (cron is not None and interval is not None) or not (cron or interval or folder or on_alarm):
        raise click.UsageError(
            'give either --cron "0 2 * * *" or --interval SECONDS, or --on-new-data FOLDER, or --on-alarm'
        )
    project = find_project()
    if folder is not None:
        from assay.runs.arrivals import require_folder

        folder = require_folder(folder)
    if notify is not None:
        from assay.runs.showing import NOTIFY, require_url

        os.environ[NOTIFY] = require_url(notify)
    if dataset is not None:
        from assay.project.ingest import restore

        with project.lock(waits=True):
            restore(project)
        project.require_dataset(dataset)
    from assay.runs.scheduling import serve_schedule

    serve_schedule(project, cron=cron, interval=interval, folder=folder, on_alarm=on_alarm, dataset=dataset)
