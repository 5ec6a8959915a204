"""Making a project: what `assay init` writes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from assay.errors import ConfigError, ToolError
from assay.parts import temporary_folder, write_bytes, write_json
from assay.project import versioning
from assay.project.cells import CELLS, refresh_cells
from assay.project.installed import CONSTRAINTS, LOCK, SOURCE, lock_content
from assay.project.layout import Project
from assay.project.merging import set_merge_driver
from assay.project.recovery import remove_left
from assay.project.templates import COPIES, README, read_template

PIPELINE = "dvc.yaml"


def create(folder: Path) -> Path:
    """Make a project in a new or existing folder; on an error nothing of it is left behind.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ToolError
        Git is not installed, or Git or DVC fails.
    ConfigError
        The folder holds a project, or a file or folder with a name that a project needs.
    """
    folder = folder.resolve()
    if not versioning.has_git():
        raise ToolError("git is not installed, and a project is a Git repository; install git, then run this again")
    _require_room(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    parent = folder if folder.is_dir() else folder.parent
    inside = versioning.git(parent, "rev-parse", "--is-inside-work-tree") is not None
    remove_left(parent.glob(".assay-init.*"))
    staging = temporary_folder(parent, "assay-init")
    try:
        _write(staging, own_git=not inside)
        if folder.is_dir():
            _move(staging, folder)
        else:
            staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    set_merge_driver(folder)
    return folder


def pipeline() -> bytes:
    """Return the content of a project's dvc.yaml: that of this repository, with assay.lock in place of its code."""
    text = read_template(PIPELINE).decode()
    code = f"[{SOURCE}assay, {CONSTRAINTS}, {CELLS}]"
    assert code in text
    return text.replace(code, f"[{LOCK}, {CELLS}]").encode()


def _require_room(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a new folder, or an empty one")
    names = sorted({name.partition("/")[0] for name in (*COPIES, README, LOCK, CELLS)})
    if occupied := [name for name in names if os.path.lexists(folder / name)]:
        problem = "is an Assay project already" if {PIPELINE, "params.yaml"} <= {*occupied} else "is not empty enough"
        raise ConfigError(
            f"{folder} {problem}: it holds {', '.join(occupied)}, which `assay init` would write; nothing was written. "
            "Name a new folder, or move these away"
        )


def _write(root: Path, *, own_git: bool) -> None:
    """Write a whole project. `dvc init` needs a Git repository and changes its index, so it gets a temporary one."""
    _git_init(root)
    versioning.dvc(root, "init", "--quiet")
    for scratch in (root / ".git", root / ".dvc" / "tmp"):
        shutil.rmtree(scratch, ignore_errors=True)
    if own_git:
        _git_init(root)
    for name in (README, *COPIES):
        write_bytes(root / name, read_template(name))
    write_bytes(root / PIPELINE, pipeline())
    project = Project(root)
    refresh_cells(project)
    write_json(root / LOCK, lock_content(project))


def _git_init(root: Path) -> None:
    process = subprocess.run(["git", "init", "--quiet"], cwd=root, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        raise ToolError(f"`git init` failed in {root.parent}: {process.stderr.strip()}")


def _move(staging: Path, folder: Path) -> None:
    """Move everything into an existing folder, dvc.yaml last, which makes it a project. An error undoes all moves."""
    moved = []
    try:
        for path in sorted(staging.iterdir(), key=lambda path: (path.name == PIPELINE, path.name)):
            path.rename(folder / path.name)
            moved.append(path)
    except BaseException:
        for path in moved:
            (folder / path.name).rename(path)
        raise
