"""The cells of a project: one for each dataset and detector. DVC reads their list from ``cells.yaml``.

DVC makes the stages ``train@DATASET--DETECTOR`` from one list of names. It cannot make that list from the two settings
``datasets`` and ``detectors``, so Assay writes it. ``assay run`` brings it up to date, and so does the stage ``code``,
which DVC runs first whenever these settings change.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from assay.errors import StageError
from assay.names import cell_name
from assay.parts import write_bytes
from assay.project.config import Config

if TYPE_CHECKING:
    from assay.project.layout import Project

CELLS = "cells.yaml"
RETIRED = ".retired"
_HEADER = (
    "# One line for each dataset and detector of params.yaml. Assay writes this file, and DVC reads it; do not edit.\n"
)


def cells_content(config: Config) -> bytes:
    """Return what cells.yaml has to hold."""
    lines = [
        f'  "{cell_name(dataset, choice.label)}": {{dataset: "{dataset}", detector: "{choice.label}"}}\n'
        for dataset in config.datasets
        for choice in config.detectors
    ]
    return "".join([_HEADER, "cells:\n", *lines]).encode()


def refresh_cells(project: Project) -> bool:
    """Bring cells.yaml up to date with params.yaml; return whether it changed."""
    path, content = project.root / CELLS, cells_content(project.config)
    if path.is_file() and path.read_bytes() == content:
        return False
    write_bytes(path, content)
    return True


def require_cells(project: Project) -> None:
    """Bring cells.yaml up to date for DVC, which read it before.

    Raises
    ------
    StageError
        It was not up to date, so that DVC would run other stages than params.yaml asks for.
    """
    if refresh_cells(project):
        raise StageError(
            f"params.yaml names other datasets or detectors than {CELLS}, from which DVC had made its stages; nothing "
            f"was run. {CELLS} is up to date now: run the same command again"
        )


def retire_cells(project: Project) -> None:
    """Move the outputs of detectors that params.yaml no longer names out of sight, and bring those back that it does.

    The stages that compare detectors depend, for DVC, on the folder of all cells.
    """
    for folder in project.cell_folders():
        _retire(folder, {choice.label for choice in project.config.detectors})


def _retire(folder: Path, labels: set[str]) -> None:
    retired = folder / RETIRED
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name not in labels and not path.name.startswith("."):
            retired.mkdir(exist_ok=True)
            target = retired / path.name
            shutil.rmtree(target, ignore_errors=True)
            target.unlink(missing_ok=True)
            path.rename(target)
    for path in sorted(retired.iterdir()) if retired.is_dir() else ():
        if path.name in labels and not (folder / path.name).exists():
            path.rename(folder / path.name)
