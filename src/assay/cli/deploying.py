"""Commands about packaged scorers: ``assay serve``, ``assay promote``, ``assay scorers`` and ``assay gc``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from assay.cli.common import as_json, find_project


@click.command("serve")
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


@click.command("scorers")
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


@click.command("gc")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
def gc_command(dry_run: bool) -> None:
    """Remove the scorers in scorers/ that no deployment names; DVC's cache and remote keep their bytes.

    What DVC left half-written in its cache goes, too.
    """
    project = find_project()
    from assay.project.collecting import collect_garbage
    from assay.project.recovery import remove_left_by_dvc

    with project.lock():
        scorers = collect_garbage(project, dry_run=dry_run)
        if not dry_run:
            remove_left_by_dvc(project.root)
    for scorer in scorers:
        verb = f"kept: {scorer.reason}" if scorer.reason else "would be removed" if dry_run else "removed"
        click.echo(f"{scorer.tag:<32}{verb}")
    removed = [scorer for scorer in scorers if not scorer.reason]
    if removed and not dry_run:
        click.echo("commit it: git add --all scorers; the bytes stay in DVC's cache and remote until `dvc gc`")
    if not removed:
        click.echo("nothing to remove")


@click.command("promote")
@click.argument("tag")
@click.option("--why", required=True, help="The reason, which is recorded.")
def promote_command(tag: str, why: str) -> None:
    """Make a scorer the champion by hand, for instance to roll back."""
    project = find_project()
    from assay.runs.delivery import promote_by_hand

    with project.lock():
        done = promote_by_hand(project, tag, why)
    click.echo(f"{done.tag} is the champion; a service that serves {done.name} by name follows within seconds")
