"""The command ``assay``. Everything heavy is imported inside the commands."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assay import __version__
from assay.cli.audit import audit
from assay.cli.calibration import label_command, reweight_command, score_command
from assay.cli.common import as_json, find_project, load_flow, runner_options
from assay.cli.data import data, suite
from assay.cli.ingesting import ingest_command
from assay.cli.monitoring import monitor_command
from assay.cli.refusals import refusal
from assay.cli.reviewing import review_command
from assay.cli.sweeping import sweep_command
from assay.cli.tokens import token
from assay.environment import search_garbage_rarely
from assay.errors import AssayError

if TYPE_CHECKING:
    from assay.project.layout import Project
    from assay.runs.run import Result


class Commands(click.Group):
    """Shows errors that Assay raises on purpose as one line, with the exit code of their class.

    So it does with what the system refuses, such as writing to a full disk; the exit code is 1 then.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; see the class."""
        search_garbage_rarely()
        try:
            return super().invoke(ctx)
        except AssayError as error:
            click.echo(f"assay: {error}", err=True)
            ctx.exit(error.exit_code)
        except MemoryError:
            click.echo("assay: the memory of this machine is not enough for this; nothing is half-written", err=True)
            ctx.exit(1)
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever read the output has ended
                raise
            click.echo(f"assay: {refusal(error)}", err=True)
            ctx.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Train, calibrate, audit and deploy anomaly scorers on data that may be contaminated."""


@main.command("init")
@click.argument("folder", type=click.Path(path_type=Path))
def init_command(folder: Path) -> None:
    """Make a project in FOLDER: settings, pipeline and flow, with Git and DVC, for the installed Assay."""
    from assay.environment import set_environment
    from assay.project.creation import create

    set_environment(folder.resolve())
    root = create(folder)
    click.echo(
        f"{root}: a project; its README.md explains the files\nnext: cd {folder} && assay ingest FILE --name NAME"
    )


@main.command("run")
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
    else:
        runs.print_result(result)


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


@main.command("stage")
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


@main.command("restore")
def restore_command() -> None:
    """Restore data/ and the champions: from DVC's cache or remote, data also from the bundled sets."""
    project = find_project()
    from assay.project.deployed import bring_back
    from assay.project.ingest import restore

    with project.lock():
        restore(project)
        champions = bring_back(project.root)
    datasets = sorted(path.parent.name for path in (project.root / "data").glob("*/card.json"))
    click.echo(f"data/ is what data.dvc names: {', '.join(datasets) or 'no dataset yet'}")
    if champions:
        click.echo(f"scorers/ holds {', '.join(champions)}")


@main.command("sync")
def sync_command() -> None:
    """Exchange the histories of this project's machines by its Git remote."""
    project = find_project()
    from assay.ledger.sharing import sync

    with project.lock():
        synced = sync(project)
    click.echo("\n".join(synced.lines()))


@main.command("migrate")
def migrate_command() -> None:
    """Bring a project of an earlier Assay up to date; nothing is lost, and a second call changes nothing."""
    project = find_project(any_format=True)
    from assay.project.migration import migrate

    with project.lock():
        changes = migrate(project)
    click.echo("\n".join(changes) or "nothing to do: the project is up to date")
    if changes:
        click.echo("next: assay run, and commit: git add --all")


@main.command("schedule")
@click.option("--cron", metavar="EXPRESSION", help='When to run, for instance "0 2 * * *".')
@click.option("--interval", type=click.FloatRange(min=1), metavar="SECONDS", help="Seconds between runs.")
@click.option("--dataset", metavar="NAME", help="Dataset to run on; default: the one in params.yaml.")
@click.option(
    "--on-new-data",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Add new files of FOLDER to the dataset; without --cron and --interval, run as soon as there is one.",
)
@click.option("--notify", metavar="URL", help="Post a JSON message to URL on verdicts, failures and refused files.")
def schedule_command(
    cron: str | None, interval: float | None, dataset: str | None, folder: Path | None, notify: str | None
) -> None:
    """Serve the flow on a schedule through Prefect until interrupted."""
    if (cron is not None and interval is not None) or (cron is None and interval is None and folder is None):
        raise click.UsageError('give either --cron "0 2 * * *" or --interval SECONDS, or --on-new-data FOLDER')
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

    serve_schedule(project, cron=cron, interval=interval, folder=folder, dataset=dataset)


@main.command("serve")
@click.argument("tags", nargs=-1, metavar="[NAME|TAG]...")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Processes that answer.")
@click.option("--access-log", is_flag=True, help="Print a line of JSON for each request.")
@click.option("--notify", metavar="URL", help="Post a JSON message to URL when a monitor raises an alarm.")
@click.option(
    "--shadow", metavar="TAG", help="A challenger that scores the same rows, answers nothing, and is compared."
)
@click.option(
    "--record", metavar="FOLDER", type=click.Path(path_type=Path), help="Keep the rows that are scored in FOLDER."
)
@click.option(
    "--record-share",
    "share",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Keep a random sample of them, this share.",
)
def serve_command(
    tags: tuple[str, ...],
    host: str,
    port: int,
    workers: int,
    access_log: bool,
    notify: str | None,
    shadow: str | None,
    record: Path | None,
    share: float,
) -> None:
    """Serve scorers over HTTP, one of each dataset; by default the champion of the dataset in params.yaml.

    By the NAME of a dataset its champion answers, also one that is promoted later; by a TAG, that scorer.
    """
    if share < 1 and record is None:
        raise click.UsageError("--record-share is the share of the rows that --record FOLDER keeps")
    project = find_project()
    from assay.release.bento import serve

    if notify is not None:
        from assay.runs.showing import NOTIFY, require_url

        os.environ[NOTIFY] = require_url(notify)
    serve(
        *(tags or (project.dataset,)),
        root=project.root,
        host=host,
        port=port,
        access_log=access_log,
        workers=workers,
        shadow=shadow,
        record=record,
        share=share,
    )


@main.command("scorers")
@as_json
def scorers_command(as_json: bool) -> None:
    """List the packaged scorers of this project."""
    project = find_project()
    from assay.project.collecting import locate
    from assay.project.scorers import list_scorers

    rows = list_scorers(project.root)
    locate(project.root, rows)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        quarantined = ", ".join(f"{use} {n}" for use, n in row["quarantined"].items())
        marks = (
            "champion" if row["champion"] else "",
            row["where"],
            f"learned from quarantined rows, or rows answered bad ({quarantined})" if quarantined else "",
        )
        click.echo(
            f"{row['tag']:<32}{row.get('detector') or '-'}+{row.get('adapter') or '-'}  "
            f"{'; '.join(filter(None, (*marks, row.get('broken'))))}"
        )
        for each in row["statements"]:
            remarks = (
                "deployed" if each["deployed"] else "",
                f"data {each['data_version']}" if "data_version" in each else "",
            )
            click.echo(
                f"    statement {each['statement']:<18}{each['broken'] or '; '.join(filter(None, remarks))}".rstrip()
            )
    if not rows:
        click.echo("none yet; `assay run` makes one", err=True)


@main.command("gc")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
def gc_command(dry_run: bool) -> None:
    """Remove the scorers in scorers/ that no deployment names; DVC's cache and remote keep their bytes."""
    project = find_project()
    from assay.project.collecting import collect_garbage

    with project.lock():
        scorers = collect_garbage(project, dry_run=dry_run)
    for scorer in scorers:
        verb = f"kept: {scorer.reason}" if scorer.reason else "would be removed" if dry_run else "removed"
        click.echo(f"{scorer.tag:<32}{verb}")
    removed = [scorer for scorer in scorers if not scorer.reason]
    if removed and not dry_run:
        click.echo("commit it: git add --all scorers; the bytes stay in DVC's cache and remote until `dvc gc`")
    if not removed:
        click.echo("nothing to remove")


@main.command("detectors")
@as_json
def detectors_command(as_json: bool) -> None:
    """List the detectors that params.yaml may name, with their parameters and defaults."""
    from assay.detectors.registry import describe_detectors

    descriptions = describe_detectors()
    if as_json:
        click.echo(json.dumps(descriptions, indent=2))
        return
    for row in descriptions:
        params = ", ".join(f"{name}={value!r}" for name, value in row["params"].items())
        labels = " Learns from labelled anomalies." if row["uses_labels"] else ""
        click.echo(f"{row['name']:<23}{row['summary']}{labels}\n{'':<23}{params}")
    click.echo("\nAlso any outlier or density detector of scikit-learn or PyOD by its path, for instance")
    click.echo("sklearn.svm.OneClassSVM: {nu: 0.1}; these are compared and calibrated, but not packaged.")


@main.command("promote")
@click.argument("tag")
@click.option("--why", required=True, help="The reason, which is recorded.")
def promote_command(tag: str, why: str) -> None:
    """Make a scorer the champion by hand, for instance to roll back."""
    project = find_project()
    from assay.openlineage.client import emit_done
    from assay.project.deployed import keep_scorer
    from assay.project.deployment import promote
    from assay.project.scorers import find_packaged
    from assay.release.bento import bind, publish
    from assay.scorer.loading import load_scorer

    with project.lock():
        packaged = find_packaged(tag, project.root)
        scorer = load_scorer(packaged.folder, packaged.statement.id)
        published = publish(packaged, root=project.root, chain_head=project.events.head)
        bind(published, project.events)
        keep_scorer(project.root, packaged.folder)
        promote(
            project.root,
            scorer.name,
            scorer.version,
            statement=scorer.statement.id,
            bento=published.bento_tag,
            reason=why,
        )
        emit_done(project.on(scorer.name), "promote")
    click.echo(
        f"{scorer.statement.tag} is the champion; a service that serves {scorer.name} by name follows within seconds"
    )


for command in (
    audit,
    data,
    suite,
    token,
    label_command,
    monitor_command,
    review_command,
    reweight_command,
    score_command,
    ingest_command,
    sweep_command,
):
    main.add_command(command)
