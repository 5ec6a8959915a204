"""The command ``assay review``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from assay.cli.common import find_project

if TYPE_CHECKING:
    from assay.project.layout import Project


@click.command("review")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--dataset", metavar="NAME", help="Dataset to review; default: the one in params.yaml.")
@click.option("--budget", type=click.IntRange(1), default=10, show_default=True, help="How many answers are wanted.")
def review_command(file: Path | None, dataset: str | None, budget: int) -> None:
    """Ask about training rows that may not be normal; with FILE, take the answers.

    Shows the groups that training rows form apart from the others, and single rows, the most valuable first, here and
    as a page with buttons, which downloads answers.csv. Rows answered bad leave the training rows of later runs; no
    other row changes.
    """
    project = find_project()
    project = project.on(dataset) if dataset else project
    if file is not None:
        _take(project, file)
        return
    from assay import console
    from assay.runs.answering import require_taken
    from assay.runs.review_page import shown_lines, write_review
    from assay.runs.reviewing import questions_of

    reviews = project.state / "reviews"
    require_taken(project, reviews / f"{project.dataset}.csv")
    questions = questions_of(project, budget=budget)
    for line in shown_lines(questions):
        console.paper.print(line)
    page, sheet = write_review(reviews, project.dataset, questions)
    shown = [path.relative_to(project.root) for path in (page, sheet)]
    click.echo(f"\npage:  {shown[0]} (answer by buttons or keys, download answers.csv)")
    click.echo(f"sheet: {shown[1]} (the same to fill in by hand: one answer in the lines of a group is enough)")
    click.echo(f"next:  assay review answers.csv --dataset {project.dataset}")


def _take(project: Project, file: Path) -> None:
    from assay.runs.answering import take_answers

    taken = take_answers(project, file)
    counts = ", ".join(f"{count} {answer}" for answer, count in taken.counts.items())
    click.echo(f"{taken.path}: {taken.new} rows answered; {counts} in all")
    click.echo(
        f"next: assay run --dataset {project.dataset} trains without the bad ones; calibration, selection, gate and "
        "test rows stay as they are, and `assay label` then asks about calibration rows of their kind"
    )
    click.echo(f"keep it: git add {taken.path}")
