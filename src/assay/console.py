"""Output on the screen: a line for each stage, a progress bar, and tables."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

screen = Console(stderr=True, highlight=False, soft_wrap=True)
paper = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


@contextmanager
def stage_progress(stage: str) -> Iterator[Callable[[str, float], None]]:
    """Show a bar for a stage while it works, on terminals only; yields the callback that moves it."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task(stage, total=1.0)

        def move(step: str, share: float) -> None:
            bar.update(task, description=f"{stage}: {step}", completed=share)

        yield move


def say(text: str) -> None:
    """Print one line of progress to standard error."""
    screen.print(text, markup=False)
