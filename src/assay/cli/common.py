"""Shared by all commands: finding the project around the current folder, and the option ``--json``."""

from __future__ import annotations

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
    from assay.project.formats import require_current
    from assay.project.layout import Project

    project = Project.find()
    if not any_format:
        require_current(project.root)
    set_environment(project.root)
    return project
