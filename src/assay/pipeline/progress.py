"""How a verb tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]


def silent(what: str, share: float) -> None:
    """Progress callback that shows nothing."""
