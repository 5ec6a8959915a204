"""The callback by which a verb reports its progress."""

from __future__ import annotations

from collections.abc import Callable

StageProgress = Callable[[str, float], None]  # current task, finished share of the stage


def silent(task: str, share: float) -> None:
    """Report nothing."""
