"""Scorers that are or were champions: copied to ``scorers/``, where DVC tracks each one by a file of its own for Git.

``work/package`` holds the newest scorer alone. What a deployment record names stays in ``scorers/NAME/VERSION``, and
``scorers/NAME/VERSION.dvc`` brings it back wherever that commit is checked out.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from assay import console
from assay.errors import ScorerError, TamperedError, ToolError
from assay.hashing import dvc_directory_md5, dvc_md5, files_in, hash_file
from assay.project import versioning
from assay.project.checkouts import bring
from assay.project.deployment import Deployment, read_deployments
from assay.project.pending import Change
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
    with Change(root) as change:
        files = _add_statements(change, folder, kept) if kept.is_dir() else _copy(change, folder, kept)
        if change.moves or not is_tracked(kept):
            change.commit(tracked=(kept, dvc_md5(files)))
    return kept


def is_tracked(kept: Path) -> bool:
    """Return whether a folder in ``scorers/`` is exactly what its .dvc file names."""
    pointer = pointer_of(kept)
    return kept.is_dir() and pointer.is_file() and versioning.named_md5(pointer) == dvc_directory_md5(kept)


def _copy(change: Change, folder: Path, kept: Path) -> dict[str, Path]:
    """Copy a scorer, check the copy, and let it take its place; return its files by name."""
    staging = change.folder(kept.parent, kept.name)
    for name in _members(folder):
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, staging / name)
    if check_files(staging) or read_statement(staging).version != kept.name:
        raise TamperedError(f"{folder} changed while it was copied; nothing was kept; run again")
    change.place(staging, kept)
    return files_in(staging)


def _add_statements(change: Change, folder: Path, kept: Path) -> dict[str, Path]:
    """Give a kept scorer the statements that it lacks; return its files by name, where each is now."""
    check_scorer(kept)
    files = files_in(kept)
    for name in _members(folder):
        if not (kept / name).is_file():
            change.write(kept / name, (folder / name).read_bytes())
            files[name] = folder / name
        elif hash_file(kept / name) != hash_file(folder / name):
            raise TamperedError(f"{kept / name} and {folder / name} differ; one of them was changed; nothing was kept")
    return files


def _members(folder: Path) -> list[str]:
    """Return the files of a scorer: its head, those that it lists, and its statements, whose seals are checked."""
    statements = [statement_files(folder, read_statement(folder, each)) for each in statement_ids(folder)]
    return [HEAD, *read_head(folder)["files"], *dict.fromkeys(chain.from_iterable(statements))]


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
    found, unreadable = read_deployments(root)
    records = [record for name, record in found.items() if not names or name in names]
    for name, reason in unreadable.items():
        if not names or name in names:
            console.say(f"the champion of {name} was not looked for: {reason}")
    named = [folder for record in records for folder in _named(root, record)]
    missing = [folder for folder in named if not is_tracked(folder)]
    if not missing:
        return _tags(named)
    pointers = [pointer_of(folder).relative_to(root).as_posix() for folder in missing]
    try:
        bring(root, pointers)
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
