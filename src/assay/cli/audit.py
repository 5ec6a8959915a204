"""The commands ``assay audit ...``. Everything heavy is imported inside them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assay.cli.common import as_json, find_project, reading_options, require_writable

if TYPE_CHECKING:
    from assay.data.dialects import Dialect


@click.group()
def audit() -> None:
    """Trace, verify and compare scorers."""


def print_output(lines: Iterable[str], content: dict[str, Any], *, as_json: bool) -> None:
    """Print either the lines or the JSON."""
    for line in [json.dumps(content, indent=2)] if as_json else lines:
        click.echo(line)


@audit.command("show")
@click.argument("tag")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Draw the chain as one HTML file.")
@click.option("--rows", is_flag=True, help="List the injected rows with source row, recipe, seed and levels.")
@as_json
def show_command(tag: str, html: Path | None, rows: bool, as_json: bool) -> None:
    """Show the whole chain behind a scorer, from the deployment back to the raw bytes."""
    if html is not None:
        require_writable(html)
    project = find_project()
    from assay.audit.show import show_scorer

    shown = show_scorer(project, tag)
    if html is not None:
        from assay.audit.page import write_page

        write_page(html, shown)
    print_output(shown.lines(rows=rows), shown.to_json(), as_json=as_json)
    if html is not None and not as_json:
        click.echo(f"drawn: {html}")


@audit.command("verify")
@click.argument("tag")
@click.option("--strict", is_flag=True, help="Exit code 1 also if something could not be checked.")
@click.option("--replay", is_flag=True, help="Rebuild what could not be checked otherwise, and compare.")
@click.option("--signers", type=click.Path(path_type=Path), help="Keys that count, kept outside the project.")
@as_json
def verify_command(tag: str, strict: bool, replay: bool, signers: Path | None, as_json: bool) -> None:
    """Re-hash a scorer and everything behind it.

    Exit code 1 if anything differs, 6 if nothing does but something could not be checked.
    """
    project = find_project()
    from assay.audit.findings import DIFFERS_CODE, UNCHECKED_CODE
    from assay.audit.verify import verify_scorer
    from assay.errors import NotHereError

    try:
        findings = verify_scorer(project, tag, signers=signers)
    except NotHereError as error:
        error.exit_code = DIFFERS_CODE if strict else UNCHECKED_CODE
        raise
    if replay:
        from assay.audit.rebuilding import rebuild

        findings = rebuild(project, findings)
    print_output(findings.lines(), findings.to_json(), as_json=as_json)
    sys.exit(findings.exit_code(strict=strict))


@audit.command("seal")
@click.option("--key", type=click.Path(path_type=Path), help="SSH key; default: Git's signing key, or one in ~/.ssh.")
def seal_command(key: Path | None) -> None:
    """Sign the head of the event log and the statements of the deployed scorers with an SSH key."""
    project = find_project()
    from assay.audit.sealing import seal_project

    with project.lock():
        seal, who = seal_project(project, key)
    scorers = f" and {', '.join(seal.scorers)}" if seal.scorers else ""
    click.echo(f"sealed by {who}: entries up to {seal.entries}{scorers}\nkeep it: git add seals, and commit")


@audit.command("replay")
@click.argument("tag")
@as_json
def replay_command(tag: str, as_json: bool) -> None:
    """Rebuild a scorer from its recorded inputs in a temporary folder and compare; exit code 1 if it differs."""
    project = find_project()
    from assay.audit.replay import replay_scorer

    replayed = replay_scorer(project, tag)
    print_output(replayed.lines(), replayed.to_json(), as_json=as_json)
    sys.exit(0 if replayed.same else 1)


@audit.command("diff")
@click.argument("before")
@click.argument("after")
@as_json
def diff_command(before: str, after: str, as_json: bool) -> None:
    """Show what changed between two scorers: rows, parameters, code, metrics."""
    project = find_project()
    from assay.audit.diff import compare_scorers

    difference = compare_scorers(project, before, after)
    print_output(difference.lines(), difference.to_json(), as_json=as_json)


@audit.command("suspects")
@click.argument("tag_or_detector", metavar="TAG_OR_DETECTOR")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="CSV file for the suspected rows."
)
@as_json
def suspects_command(tag_or_detector: str, out: Path, as_json: bool) -> None:
    """Write the training rows that a scorer or a detector of the last run suspects to be anomalies."""
    require_writable(out)
    project = find_project()
    from assay.audit.suspects import find_suspects, write_suspects

    report = find_suspects(project, tag_or_detector)
    write_suspects(out, report)
    print_output([*report.lines(), f"written: {out}"], report.to_json(), as_json=as_json)


@audit.command("who-saw")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--batch", metavar="ID", help="The rows of this batch, in place of FILE.")
@click.option("--dataset", metavar="NAME", help="Search this dataset alone.")
@click.option("--content", is_flag=True, help="Match by content alone: every copy of the rows.")
@reading_options
@as_json
def who_saw_command(
    file: Path | None, batch: str | None, dataset: str | None, content: bool, dialect: Dialect, as_json: bool
) -> None:
    """List every scorer and run that used the rows of a CSV or Parquet file or of a batch, and for what."""
    project = find_project()
    from assay.ledger.who_saw import who_saw

    answer = who_saw(project, file, batch=batch, dataset=dataset, content=content, dialect=dialect)
    print_output(answer.lines(), answer.to_json(), as_json=as_json)


@audit.command("quarantine")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--batch", metavar="ID", help="The rows of this batch, in place of FILE.")
@click.option("--why", required=True, help="The reason, which is recorded.")
@click.option("--dataset", metavar="NAME", help="The dataset of the rows, if several fit.")
@click.option("--lift", is_flag=True, help="Take the rows out of the quarantine again.")
@click.option("--content", is_flag=True, help="Take every row of equal content, healthy ones and later ones too.")
@reading_options
@as_json
def quarantine_command(
    file: Path | None,
    batch: str | None,
    why: str,
    dataset: str | None,
    lift: bool,
    content: bool,
    dialect: Dialect,
    as_json: bool,
) -> None:
    """Exclude the rows of a file or of a batch from later runs, and list the scorers that used them."""
    project = find_project()
    from assay.ledger.quarantine import quarantine

    options: dict[str, Any] = {"batch": batch, "dataset": dataset, "lift": lift, "content": content}
    result = quarantine(project, file, why=why, dialect=dialect, **options)
    print_output(result.lines(), result.to_json(), as_json=as_json)
