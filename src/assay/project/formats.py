"""Whether a project has the present format."""

from __future__ import annotations

from pathlib import Path

from assay.errors import ConfigError

FORMER, PRESENT = "work/scorers", "work/package"


def is_current(root: Path) -> bool:
    """Return whether a project has the present format."""
    names = [root / name for name in ("dvc.yaml", "dvc.lock")]
    named = any(path.is_file() and f"{FORMER}/".encode() in path.read_bytes() for path in names)
    return not named and not any((root / FORMER).glob("*"))


def require_current(root: Path) -> None:
    """Raise `ConfigError` for a project of the previous format."""
    if not is_current(root):
        raise ConfigError(f"{root} is a project of an earlier Assay; bring it up to date with `assay migrate`")
