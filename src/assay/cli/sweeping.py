"""The command `assay sweep`."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from assay.cli.common import as_json, find_project, load_flow, runner_options
from assay.environment import n_processors


@click.command("sweep")
@click.argument("name", default="default")
@click.option("--datasets", metavar="NAMES", help="Datasets, with commas between them.")
@click.option("--detectors", metavar="NAMES", help="Labels in params.yaml, names of `assay detectors`, or paths.")
@click.option("--seeds", metavar="SEEDS", help="As 0-4; added to those in params.yaml. All but 0 look at gate rows.")
@click.option("--at-once", type=click.IntRange(1), help="Cells at the same time on this machine; default: one a core.")
@runner_options
@as_json
def sweep_command(
    name: str,
    datasets: str | None,
    detectors: str | None,
    seeds: str | None,
    at_once: int | None,
    runner: str | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Compare detectors on datasets over seeds, by sweeps/NAME/sweep.yaml; nothing of it deploys.

    With --datasets, --detectors and --seeds that file is written first. What was computed before is not computed again.
    """
    given = [datasets, detectors, seeds]
    if any(given) and not all(given):
        raise click.UsageError("give all of --datasets, --detectors and --seeds, or none: sweep.yaml has them then")
    for variable in ("PREFECT_LOGGING_LEVEL", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"):
        os.environ.setdefault(variable, "CRITICAL")
    project = find_project()
    from assay.interruption import interruptible
    from assay.project.sweeping import define_sweep, parse_seeds, read_cells
    from assay.runs import sweeps

    with interruptible(), sweeps.sweeping(project):
        if datasets and detectors and seeds:
            lists: dict[str, list[Any]] = {"datasets": datasets.split(","), "detectors": detectors.split(",")}
            define_sweep(project.root, name, {**lists, "seeds": parse_seeds(seeds, "--seeds")})
        cells = read_cells(project, name)
        missing, refused = sweeps.missing_cells(project.root, cells), dict[str, str]()
        if missing:
            sweeps.log_looks(project, name, missing)
            from assay.runs.scheduling import prefect_server

            with prefect_server(project):
                at_once = at_once or n_processors()
                refused = load_flow(project, "sweep").sweep(name, at_once, runner, address)
        counts = {"sweep": name, "cells": len(cells), "computed": len(missing) - len(refused), "refused": len(refused)}
        result = {**counts, **sweeps.write_results(project.root, name, cells, refused)}
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        sweeps.print_leaders(result)
    if refused:
        click.get_current_context().exit(1)
