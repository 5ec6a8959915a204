"""Shared by all commands: finding the project around the current folder, and the option ``--json``."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from assay.project.layout import Project

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON to standard output and nothing else.")


def find_project(*, any_format: bool = False) -> Project:
    """Find the project around the current folder and set the frameworks' environment for it.

    Raises
    ------
    ConfigError
        There is none, or it is of an earlier format (unless `any_format`).
    """
    from assay.environment import set_environment
    from assay.errors import AssayError
    from assay.project.formats import require_current
    from assay.project.layout import Project
    from assay.project.pending import pending_changes

    project = Project.find()
    if not any_format:
        require_current(project.root)
    set_environment(project.root)
    if pending_changes(project.root):
        # A command that holds the lock settles what a killed one began; one that only reads can do so, too.
        with contextlib.suppress(AssayError, OSError), project.lock():
            pass
    return project
