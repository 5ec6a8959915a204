"""What people see while the pipeline works: one line a stage, a bar while it trains, a table at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from assay.pipeline.progress import Progress as Callback
    from assay.project.freshness import Outcome

screen = Console(stderr=True, highlight=False, soft_wrap=True)
paper = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


@contextmanager
def stage_progress(stage: str) -> Iterator[Callback]:
    """Show a bar for a stage while it works, on terminals only; yields the callback that moves it."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task(stage, total=1.0)

        def move(what: str, share: float) -> None:
            bar.update(task, description=f"{stage}: {what}", completed=share)

        yield move


def say(text: str) -> None:
    """Print one line of progress to standard error."""
    screen.print(text, markup=False)


def stage_line(outcome: Outcome) -> str:
    """One line on what became of a stage."""
    words = f"{outcome.seconds:6.1f} s" if outcome.ran else "   fresh"
    return f"{outcome.stage:<12}{words}"


def candidates_table(rows: list[dict[str, Any]], *, eps: float, evidence: str, title: str) -> Table:
    """Build the table of candidates that ends a run.

    Parameters
    ----------
    rows : list of dict
        Rows of `assay.runs.report.leaderboard`.
    eps : float
    evidence : {"labels", "anomalies", "probes"}
        Where labels are missing the columns say what the numbers really are.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("detector")
    table.add_column("adapter")
    rates = [f"FPR at {eps:g}", "worst stratum FPR"]
    if evidence != "labels":
        rates = [f"flag rate on presumed normals at {eps:g}", "worst stratum flag rate"]
    names = ["AUROC", "AUPRC", *rates, "power", "fit s"]
    if evidence == "probes":
        names = ["AUROC on probes", "AUPRC on probes", *rates, "power on synthetic probes", "fit s"]
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("")
    for row in rows:
        numbers = [row[key] for key in ("auroc", "auprc", "fpr", "worst_stratum_fpr", "power")]
        shown = ["-" if number is None else f"{number:.3f}" for number in numbers]
        fit = "-" if row["fit_seconds"] is None else f"{row['fit_seconds']:.2f}"
        style = "bold" if row["chosen"] else None
        table.add_row(row["detector"], row["adapter"], *shown, fit, row["state"], style=style)
    return table
