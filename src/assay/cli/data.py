"""The commands ``assay data ...`` and ``assay suite ...``. Everything heavy is imported inside them."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from assay.cli.common import as_json, find_project

dataset_option = click.option("--name", metavar="NAME", help="The dataset; by default the one in params.yaml.")


@click.group()
def data() -> None:
    """List the versions and batches of a dataset, and drop a batch."""


@data.command("log")
@dataset_option
@as_json
def log_command(name: str | None, as_json: bool) -> None:
    """Show the versions of a dataset and what came with each, oldest first, then its batches."""
    project = find_project()
    from assay.project.appending import data_versions

    versions, batches = data_versions(project, name or project.dataset)
    if as_json:
        content = {"versions": [asdict(v) for v in versions], "batches": [asdict(batch) for batch in batches]}
        click.echo(json.dumps(content, indent=2))
        return
    for version in versions:
        rows = "" if version.rows is None else f"{version.rows} rows"
        mark = "  (now)" if version.current else ""
        click.echo(
            f"{version.time or '-':<27}{version.data_version.removesuffix('.dir')[:12]}  {rows:<14}"
            f"{version.change}{mark}"
        )
    for batch in batches:
        gone = "  dropped" if batch.dropped else ""
        click.echo(f"batch {batch.batch:<21}{batch.rows:>8} rows  {batch.source}{gone}")


@data.command("drop")
@click.argument("batch")
@dataset_option
def drop_command(batch: str, name: str | None) -> None:
    """Remove the rows of BATCH from a dataset; all other rows keep their roles."""
    project = find_project()
    from assay.project.appending import drop

    with project.lock():
        dataset = name or project.dataset
        arrival = drop(project, batch, name=dataset)
    click.echo(
        f"data/{dataset}: without the {arrival.rows} rows of batch {batch}; "
        f"what used them: assay audit who-saw --batch {batch} --dataset {dataset}\nnext: assay run --dataset {dataset}"
    )


@click.group()
def suite() -> None:
    """Learn again what the rows of a dataset must be like."""


@suite.command("relearn")
@dataset_option
def relearn_command(name: str | None) -> None:
    """Learn the expectation suite of a dataset from the rows that it has now.

    What was edited in expectations/NAME.json is lost, except in Git. Suites that an earlier Assay learned stay in
    force until then.
    """
    project = find_project()
    from assay.project.ingest import relearn_suite

    with project.lock():
        dataset = name or project.dataset
        rows = relearn_suite(project, dataset)
    click.echo(f"expectations/{dataset}.json: learned from {rows} rows\nnext: assay run --dataset {dataset}")
