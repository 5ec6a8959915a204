"""The command ``assay monitor``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from assay.cli.common import as_json, find_project


@click.command("monitor")
@click.argument("tag", required=False)
@click.option(
    "--scores",
    "files",
    type=click.Path(path_type=Path),
    multiple=True,
    help="File of scores, one for each machine, always in the same order; default: that of `assay serve` here.",
)
@click.option("--share", type=float, help="Stated share of anomalies: also monitor the rate of flags against it.")
@click.option(
    "--false-alarms", type=float, default=0.01, show_default=True, help="Probability that a monitor ever raises one."
)
@as_json
def monitor_command(
    tag: str | None, files: tuple[Path, ...], share: float | None, false_alarms: float, as_json: bool
) -> None:
    """Say whether the scores that a service gave have drifted; without TAG, those of the champion.

    The exit code is 1 if a monitor has raised an alarm.
    """
    project = find_project()
    from assay.calibration.streams.watching import watch
    from assay.project.scorers import find_packaged
    from assay.scorer.loading import load_scorer
    from assay.service.spool import monitored_folder, read_spool, spool_path

    packaged = find_packaged(tag or project.dataset, project.root)
    scorer = load_scorer(packaged.folder, packaged.statement.id)
    paths = files or (spool_path(monitored_folder(project.root), scorer.tag),)
    if len({path.resolve() for path in paths}) < len(paths):
        raise click.UsageError("a file of scores is given twice; give that of each machine once")
    streams = [read_spool(path) for path in paths]
    monitors = watch(scorer.calibrator, streams, false_alarms=false_alarms, eps=scorer.head["eps"], share=share)
    if as_json:
        described = [asdict(watched) for watched in monitors]
        click.echo(json.dumps({"scorer": scorer.tag, "machines": len(streams), "monitors": described}, indent=2))
    else:
        machines = "" if len(streams) == 1 else f" on {len(streams)} machines"
        click.echo(f"{scorer.tag}: {monitors[0].rows} rows{machines}")
        for watched in monitors:
            row = "" if watched.row is None else f" at row {watched.row}"
            says = f"ALARM{row}" if watched.alarm else "no alarm"
            click.echo(
                f"  {watched.name:<22}{says}; highest capital 10^{watched.log10_highest:.2f}, alarm at "
                f"{watched.threshold:.4g}"
            )
    sys.exit(int(any(watched.alarm for watched in monitors)))
