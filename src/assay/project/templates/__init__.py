"""The files that `assay init` writes: copies of this repository's files, except for the README.

``python -m assay.project.templates`` (part of ``make format``) copies them again; a test compares them. They have the
suffix ``.template`` here, since DVC, Git and Assay act on files with the real names wherever they find them.
"""

from __future__ import annotations

from pathlib import Path

COPIES = (
    ".dvc/config",
    ".dvc/plots/candidates.json",
    ".dvcignore",
    ".gitattributes",
    ".gitignore",
    "bentofile.yaml",
    "dvc.yaml",
    "flows/retrain.py",
    "flows/sweep.py",
    "params.yaml",
    "prefect.yaml",
)
README = "README.md"


def template_path(name: str) -> Path:
    """Return where the package keeps the template of a project's file."""
    return Path(__file__).parent / f"{name.lstrip('.').replace('/', '-')}.template"


def read_template(name: str) -> bytes:
    """Return the content of a project's file as Assay's own repository has it."""
    return template_path(name).read_bytes()
