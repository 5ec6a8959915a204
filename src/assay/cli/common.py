"""Shared by all commands: finding the project around the current folder, and options that several of them take."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assay.errors import ConfigError

if TYPE_CHECKING:
    from assay.project.layout import Project

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON to standard output and nothing else.")


def runner_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what does the work; the command gets `runner` and `address`, None where not given."""
    for option in (
        click.option("--address", metavar="URL", help="Of a Dask scheduler, as tcp://HOST:8786; default: run.address."),
        click.option("--runner", type=click.Choice(["local", "dask"]), help="What does the work; default: run.runner."),
    ):
        command = option(command)
    return command


def reading_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how a CSV file is written; the command gets them as `dialect`."""

    @wraps(command)
    def with_dialect(
        *arguments: Any,
        sep: str | None,
        decimal: str | None,
        encoding: str | None,
        header: bool | None,
        no_quotes: bool,
        **options: Any,
    ) -> None:
        from assay.data.dialects import Dialect

        command(*arguments, dialect=Dialect(sep, decimal, encoding, header, not no_quotes), **options)

    for option in (
        click.option("--no-quotes", is_flag=True, help="In a CSV file, quotes are signs as any other."),
        click.option("--header/--no-header", default=None, help="Whether the first line of a CSV file holds names."),
        click.option("--encoding", metavar="NAME", help="Encoding of a CSV file, for instance latin-1."),
        click.option("--decimal", metavar="SIGN", help="Decimal sign in a CSV file, the point or the comma."),
        click.option("--sep", metavar="SIGN", help="Separator in a CSV file: one sign, or tab, or space."),
    ):
        with_dialect = option(with_dialect)
    return with_dialect


def require_writable(path: Path) -> None:
    """Raise `ConfigError` if a file cannot be written at `path`; folders above it may be missing.

    What a killed command left of the same file is removed.
    """
    from assay.parts import PART, temporary_prefix
    from assay.project.recovery import remove_left

    folder = path.absolute().parent
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        if path.is_symlink() and not path.exists():
            raise FileNotFoundError("it is a link to nothing")
        while not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
        added = len(f"{temporary_prefix('')}12345678{PART}")
        if len(os.fsencode(path.name)) + added > os.pathconf(folder, "PC_NAME_MAX"):
            raise OSError("its name is too long")
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{path} cannot be written: {reason}; give another place") from error
    if path.parent.is_dir():
        remove_left(each for each in path.parent.iterdir() if each.name.startswith(f".{path.name}."))


def find_project(*, any_format: bool = False) -> Project:
    """Find the project around the current folder and set the frameworks' environment for it.

    Raises
    ------
    ConfigError
        There is none, or it is of an earlier format (unless `any_format`).
    """
    from assay.environment import set_environment
    from assay.errors import AssayError
    from assay.project.checkouts import is_half_filled
    from assay.project.formats import require_current
    from assay.project.layout import Project
    from assay.project.pending import pending_changes

    project = Project.find()
    if not any_format:
        require_current(project.root)
    set_environment(project.root)
    if pending_changes(project.root) or is_half_filled(project.root):
        # A command that holds the lock settles what a killed one began; one that only reads can do so, too.
        with contextlib.suppress(AssayError, OSError), project.lock():
            pass
    return project


def load_flow(project: Project, name: str) -> Any:
    """Import a flow of a project, ``flows/NAME.py``; a project that was made before there was one gets it."""
    import importlib.util

    from assay.parts import write_bytes
    from assay.project.templates import read_template

    path = project.root / "flows" / f"{name}.py"
    if not path.is_file():
        write_bytes(path, read_template(f"flows/{name}.py"))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
