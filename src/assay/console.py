"""Output on the screen: a line for each stage, a progress bar, and tables."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class _Screen(Console):
    """Standard error; what is printed there says how the work goes, and the work goes on where nobody reads it."""

    def on_broken_pipe(self) -> None:
        """Print nothing from now on."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


screen = _Screen(stderr=True, highlight=False, soft_wrap=True)
paper = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
SECONDS_BETWEEN_LINES = 60.0  # of progress where there is no terminal


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


@contextmanager
def counted_progress(task: str, n_all: int, unit: str = "rows") -> Iterator[Callable[[int], None]]:
    """Show how many of some units are done, how fast, and the time left; yields the callback that counts more of them.

    On terminals it is a bar, elsewhere a line each minute.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(unit + ", {task.fields[rate]:,.1f} a second,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    started = shown = time.monotonic()
    done = 0
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task_id = bar.add_task(task, total=n_all, rate=0.0)

        def count(more: int) -> None:
            nonlocal done, shown
            done, now = done + more, time.monotonic()
            rate = done / max(now - started, 1e-9)
            bar.update(task_id, completed=done, rate=rate)
            if not screen.is_terminal and now - shown >= SECONDS_BETWEEN_LINES:
                shown = now
                left = (n_all - done) / rate / 60
                say(f"{task}: {done:,} of {n_all:,} {unit}, {rate:,.1f} a second, {left:.0f} minutes left")

        yield count


def say(text: str) -> None:
    """Print one line of progress to standard error."""
    screen.print(text, markup=False)
