"""The command ``assay``."""

from assay.cli.main import main

__all__ = ["main"]
