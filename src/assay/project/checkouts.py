"""Folders that DVC brings back: whole, or not at all.

DVC fills a folder file by file. Which ones it is about to fill stands in ``.assay/checkout.json`` until it has ended,
so that the next command can empty those that a killed one left half-filled.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path

from assay.errors import ScorerError, ToolError
from assay.hashing import files_of
from assay.parts import read_json, write_json
from assay.project import versioning
from assay.project.archive import Archive


def bring(root: Path, pointers: Iterable[str]) -> None:
    """Bring the folders of .dvc files from the remote, or from DVC's cache; call it under the project's lock.

    Where there is something at such a folder, it is what DVC's cache holds as well.

    Raises
    ------
    ToolError
        DVC could not; folders that were not there are not there now.
    """
    pointers = list(pointers)
    folders = [pointer.removesuffix(".dvc") for pointer in pointers]
    made = [folder for folder in folders if not (root / folder).exists()]
    marker = _marker(root)
    write_json(marker, folders)
    try:
        versioning.dvc(root, "pull" if versioning.has_remote(root) else "checkout", *pointers)
    except ToolError:
        _empty(root, made)
        marker.unlink()
        raise
    marker.unlink()


def is_half_filled(root: Path) -> bool:
    """Return whether a command is filling folders, or was killed while it did."""
    return _marker(root).exists()


def take_back(root: Path) -> None:
    """Empty the folders that a killed command left half-filled; call it under the project's lock."""
    if not is_half_filled(root):
        return
    marker = _marker(root)
    with contextlib.suppress(ScorerError):  # not written by `bring`, which puts whole files in place
        _empty(root, read_json(marker))
    marker.unlink()


def _marker(root: Path) -> Path:
    return root / ".assay" / "checkout.json"


def _empty(root: Path, folders: list[str]) -> None:
    """Remove what DVC put into folders: what its cache holds, empty and temporary files; anything else stays."""
    archive = Archive(root)
    for name in folders:
        for path in files_of(root / name):
            is_temporary = path.name.startswith(".") and path.suffix == ".tmp"
            if is_temporary or not path.stat().st_size or archive.object(_md5(path)) is not None:
                path.unlink()
        inner = sorted((path for path in (root / name).rglob("*") if path.is_dir()), reverse=True)
        for folder in (*inner, root / name):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
