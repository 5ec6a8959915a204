"""The files that `assay init` writes: copies of this repository's files, except for the README.

``python -m assay.project.templates`` (part of ``make format``) copies them again; a test compares them. They have the
suffix ``.template`` here, since DVC, Git and Assay act on files with the real names wherever they find them.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from assay.parts import parse_yaml

COPIES = (
    ".dvc/config",
    ".dvc/plots/candidates.json",
    ".dvcignore",
    ".gitattributes",
    ".gitignore",
    "bentofile.yaml",
    "dvc.yaml",
    "flows/retrain.py",
    "params.yaml",
)
README = "README.md"


def template_path(name: str) -> Path:
    """Return where the package keeps the template of a project's file."""
    return Path(__file__).parent / f"{name.lstrip('.').replace('/', '-')}.template"


def read_template(name: str) -> bytes:
    """Return the content of a project's file as Assay's own repository has it."""
    return template_path(name).read_bytes()


@lru_cache(maxsize=1)
def template_stages() -> dict[str, dict[str, Any]]:
    """Return the stages of this repository's dvc.yaml, which names the code of each by its path in ``src/``."""
    stages: dict[str, dict[str, Any]] = template_pipeline()["stages"]
    return stages


def template_pipeline() -> dict[str, Any]:
    """Return the content of this repository's dvc.yaml: stages, metrics and plots."""
    path = template_path("dvc.yaml")
    return dict(parse_yaml(path.read_bytes(), path))
