"""The command ``assay``. Everything heavy is imported inside the commands."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import click

from assay import __version__
from assay.cli.audit import audit
from assay.cli.calibration import label_command, reweight_command, score_command
from assay.cli.common import as_json, find_project
from assay.cli.data import data, suite
from assay.cli.deploying import gc_command, promote_command, scorers_command, serve_command
from assay.cli.ingesting import ingest_command
from assay.cli.monitoring import monitor_command
from assay.cli.refusals import refusal
from assay.cli.reviewing import review_command
from assay.cli.running import run_command, schedule_command, stage_command
from assay.cli.sweeping import sweep_command
from assay.cli.tokens import token
from assay.environment import search_garbage_rarely
from assay.errors import AssayError


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


for command in (
    audit,
    data,
    suite,
    token,
    gc_command,
    ingest_command,
    label_command,
    monitor_command,
    promote_command,
    review_command,
    reweight_command,
    run_command,
    schedule_command,
    score_command,
    scorers_command,
    serve_command,
    stage_command,
    sweep_command,
):
    main.add_command(command)
