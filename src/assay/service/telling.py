"""Lines for whoever reads them: a server neither fails nor waits where nobody does."""

from __future__ import annotations

import os
import select

STDOUT, STDERR = 1, 2


def tell(line: str, number: int = STDERR) -> bool:
    """Write a line to standard error, or to another open file by its number; return whether it was taken.

    A pipe that is full, or whose reader has gone, takes none. It is one write, so that lines of workers do not mix.
    """
    content = f"{line}\n".encode(errors="backslashreplace")
    try:
        return bool(select.select([], [number], [], 0)[1]) and os.write(number, content) == len(content)
    except (OSError, ValueError):
        return False
