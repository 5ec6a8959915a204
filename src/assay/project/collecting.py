"""What becomes of the scorers in ``scorers/``: where the bytes of each are, and removing those that nothing names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay import console
from assay.errors import ScorerError, ToolError
from assay.parts import parse_json
from assay.project import versioning
from assay.project.comparisons import read_comparisons, tag_version
from assay.project.deployed import is_tracked
from assay.project.deployment import Deployment, deployment_path, read_deployments
from assay.project.layout import Project
from assay.project.pending import Change
from assay.project.scorers import LOST, TRACKED, kept_folder, pointer_of

REMOTE = "in the remote"


@dataclass(frozen=True, slots=True)
class Kept:
    """A scorer in ``scorers/``, and why it stays there; "" where nothing names it."""

    name: str
    version: str
    reason: str

    @property
    def tag(self) -> str:
        """``name:version``."""
        return f"{self.name}:{self.version}"


def locate(root: Path, rows: list[dict[str, Any]]) -> None:
    """Ask the DVC remote for the scorers that `list_scorers` calls "tracked": they are in it, or lost.

    They stay "tracked" where the remote does not answer.
    """
    tracked = [row for row in rows if row["where"] == TRACKED]
    if not tracked:
        return
    pointers = [pointer_of(Path(row["folder"])).relative_to(root).as_posix() for row in tracked]
    try:
        present = versioning.fetchable(root, *pointers) if versioning.has_remote(root) else []
    except ToolError as error:
        console.say(f"the DVC remote does not answer: {error}")
        return
    for row, pointer in zip(tracked, pointers, strict=True):
        row["where"] = REMOTE if pointer in present else LOST


def collect_garbage(project: Project, *, dry_run: bool) -> list[Kept]:
    """Remove the scorers in ``scorers/`` that no deployment names; call it under the project's lock.

    A deployment record names the champion and the one before it. The records in the working tree and at the tip of
    every branch and tag count. The first champion that a scorer was compared with stays, too, and so do a folder that
    is not what its .dvc file names and all scorers of a dataset whose record cannot be read. What is removed is logged
    with its MD5, by which DVC's cache and remote go on holding it.

    Parameters
    ----------
    project : Project
    dry_run : bool
        Only tell.

    Returns
    -------
    list of Kept
        Every scorer in ``scorers/``; those without a reason were removed.

    Raises
    ------
    ScorerError
        A deployment record of a Git commit cannot be read, so that it is unknown what it names.
    """
    root = project.root
    deployed, unreadable = read_deployments(root)
    named = _named_here(deployed.values()) | _named_in_git(root)
    found = sorted(
        {(path.parent.name, path.name.removesuffix(".dvc")) for path in (root / "scorers").glob("*/[0-9a-f]*")}
    )
    anchors = _anchors(project, {name for name, _ in found})
    scorers = [
        Kept(name, version, unreadable.get(name) or _reason(root, name, version, named, anchors))
        for name, version in found
    ]
    if not dry_run:
        for scorer in scorers:
            if not scorer.reason:
                _remove(project, scorer)
    return scorers


def _named_here(deployed: Iterable[Deployment]) -> set[tuple[str, str]]:
    return {(record.name, version) for record in deployed for version in (record.version, record.previous) if version}


def _named_in_git(root: Path) -> set[tuple[str, str]]:
    """Return name and version of what the deployment records at the tips of all branches and tags name."""
    refs = (versioning.git(root, "for-each-ref", "--format=%(refname)") or b"").decode().split()
    names = {path.name for path in (root / "scorers").glob("*") if path.is_dir()}
    paths = {name: deployment_path(root, name).relative_to(root).as_posix() for name in names}
    asked = [(ref, path) for ref in refs for path in paths.values()]
    named = set()
    for (ref, path), content in zip(asked, versioning.committed_files(root, asked), strict=True):
        if content is None:
            continue
        try:
            record = parse_json(content)
            named |= {(record["name"], record["version"]), (record["name"], record.get("previous") or "")}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ScorerError(f"{path} at {ref} cannot be read, so nothing was removed: {error!r}") from error
    return named


def _anchors(project: Project, names: set[str]) -> set[tuple[str, str]]:
    """Return name and version of the first champion of each dataset that a scorer was compared with."""
    compared = {name: read_comparisons(project.root, name, project.events) for name in names}
    return {(name, tag_version(found[0].first or found[0].champion)) for name, found in compared.items() if found}


def _reason(root: Path, name: str, version: str, named: set[tuple[str, str]], anchors: set[tuple[str, str]]) -> str:
    if (name, version) in named:
        return "a deployment names it"
    if (name, version) in anchors:
        return "the first champion, at which the margin of `gate: noninferior` is anchored"
    kept = kept_folder(root, name, version)
    if kept.is_dir() and pointer_of(kept).is_file() and not is_tracked(kept):
        return f"{kept.relative_to(root)} is not what {pointer_of(kept).name} names"
    return ""


def _remove(project: Project, scorer: Kept) -> None:
    kept = kept_folder(project.root, scorer.name, scorer.version)
    pointer = pointer_of(kept)
    md5 = versioning.named_md5(pointer) if pointer.is_file() else None
    with Change(project.root) as change:
        change.remove(pointer)
        change.remove(kept)
        change.commit("scorer-removed", {"name": scorer.name, "version": scorer.version, "md5": md5})
