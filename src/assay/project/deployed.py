"""Scorers that are or were champions: copied to ``scorers/``, where DVC tracks each one by a file of its own for Git.

``work/package`` holds the newest scorer alone. What a deployment record names stays in ``scorers/NAME/VERSION``, and
``scorers/NAME/VERSION.dvc`` brings it back wherever that commit is checked out.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from assay.errors import ScorerError, TamperedError, ToolError
from assay.hashing import dvc_directory_md5, hash_file
from assay.parts import write_bytes
from assay.project import versioning
from assay.project.deployment import Deployment, read_deployment
from assay.project.scorers import check_scorer, kept_folder, not_here, pointer_of
from assay.scorer.folder import HEAD, check_files, read_head
from assay.scorer.statement import read_statement, statement_files, statement_ids


def keep_scorer(root: Path, folder: Path) -> Path:
    """Copy a scorer to ``scorers/NAME/VERSION`` and track it with DVC; call it under the project's lock.

    A version that is there already is given the statements that it lacks, and nothing else of it changes.

    Returns
    -------
    Path
        The copy.

    Raises
    ------
    TamperedError
        A file of the scorer, or of the copy that is there, was changed.
    ToolError
        DVC could not track it.
    """
    check_scorer(folder)
    statement = read_statement(folder)
    kept = kept_folder(root, statement.name, statement.version)
    if kept.is_dir():
        _add_statements(folder, kept)
    else:
        _copy(folder, kept)
    if not is_tracked(kept):
        versioning.dvc(root, "add", kept.relative_to(root).as_posix())
    return kept


def is_tracked(kept: Path) -> bool:
    """Return whether a folder in ``scorers/`` is exactly what its .dvc file names."""
    pointer = pointer_of(kept)
    return kept.is_dir() and pointer.is_file() and versioning.named_md5(pointer) == dvc_directory_md5(kept)


def _copy(folder: Path, kept: Path) -> None:
    """Copy a scorer under a temporary name, check the copy, and rename it."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    for leftover in kept.parent.glob(f".{kept.name}.*"):
        shutil.rmtree(leftover)
    staging = Path(tempfile.mkdtemp(dir=kept.parent, prefix=f".{kept.name}."))
    try:
        staging.chmod(0o755)
        for name in _members(folder):
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, staging / name)
        if check_files(staging) or read_statement(staging).version != kept.name:
            raise TamperedError(f"{folder} changed while it was copied; nothing was kept; run again")
        staging.rename(kept)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _add_statements(folder: Path, kept: Path) -> None:
    check_scorer(kept)
    for name in _members(folder):
        if not (kept / name).is_file():
            write_bytes(kept / name, (folder / name).read_bytes())
        elif hash_file(kept / name) != hash_file(folder / name):
            raise TamperedError(f"{kept / name} and {folder / name} differ; one of them was changed; nothing was kept")


def _members(folder: Path) -> list[str]:
    """Return the files of a scorer: its head, those that it lists, and its statements, whose seals are checked."""
    statements = [statement_files(folder, read_statement(folder, each)) for each in statement_ids(folder)]
    return [HEAD, *read_head(folder)["files"], *dict.fromkeys(chain.from_iterable(statements))]


def deployments(root: Path, names: Sequence[str] = ()) -> list[Deployment]:
    """Return the deployment records of these datasets, or of all, as far as they have one."""
    names = names or [path.stem for path in sorted((root / "deployments").glob("*.json"))]
    records = (read_deployment(root, name) for name in names)
    return [record for record in records if record is not None]


def bring_back(root: Path, names: Sequence[str] = ()) -> list[str]:
    """Bring champions, and the ones before them, back to ``scorers/`` as their .dvc files name them.

    They come from DVC's cache, or from its remote.

    Parameters
    ----------
    root : Path
        Project folder.
    names : sequence of str
        Datasets; all of them where there is none.

    Returns
    -------
    list of str
        Tags of the scorers that are in ``scorers/`` now.

    Raises
    ------
    ScorerError
        A champion is neither in DVC's cache nor in a remote, or its folder was changed.
    """
    records = deployments(root, names)
    named = [folder for record in records for folder in _named(root, record)]
    missing = [folder for folder in named if not is_tracked(folder)]
    if not missing:
        return _tags(named)
    pointers = [pointer_of(folder).relative_to(root).as_posix() for folder in missing]
    command = "pull" if versioning.has_remote(root) else "checkout"
    try:
        versioning.dvc(root, command, *pointers)
    except ToolError as error:
        champions = {kept_folder(root, record.name, record.version) for record in records}
        if lost := [folder for folder in missing if folder in champions and not is_tracked(folder)]:
            raise ScorerError(_damaged(root, lost[0])) from error
    return _tags(folder for folder in named if folder.is_dir())


def _tags(kept: Iterable[Path]) -> list[str]:
    return [f"{folder.parent.name}:{folder.name}" for folder in kept]


def _damaged(root: Path, kept: Path) -> str:
    if not kept.is_dir():
        return not_here(root, kept)
    pointer = pointer_of(kept).relative_to(root)
    return f"{kept} is not what {pointer} names; find out why, then `dvc checkout --force {pointer}` brings that back"


def _named(root: Path, record: Deployment) -> list[Path]:
    """Return the folders of the scorers that a deployment names, if DVC tracks them."""
    versions = [version for version in (record.version, record.previous) if version is not None]
    folders = [kept_folder(root, record.name, version) for version in versions]
    return [folder for folder in folders if pointer_of(folder).is_file()]
