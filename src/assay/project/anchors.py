"""What speaks of the head of this machine's event log elsewhere: labels of deployed Bentos, and seals.

A log that lacks such a head was cut or written anew. Commands that write refuse it, so that they do not go on from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from assay.environment import bentoml_home
from assay.errors import ScorerError, TamperedError
from assay.eventlog import START, EventLog
from assay.parts import parse_yaml
from assay.project.accounts import BEGAN, accounts_of, begin
from assay.project.deployment import read_deployments
from assay.project.seals import read_seals


class SpokenOf(NamedTuple):
    """A head of a chain that something speaks of, and the id of the machine whose chain it is, "" where unknown."""

    head: str
    machine: str


def bento_folder(root: Path, tag: str) -> Path:
    """Return where BentoML's store keeps the Bento of the statement of that tag."""
    name, _, version = tag.partition(":")
    return bentoml_home(root) / "bentos" / f"assay-{name}" / version


def bento_labels(folder: Path) -> dict[str, str]:
    """Return the labels of a Bento."""
    try:
        labels = parse_yaml((folder / "bento.yaml").read_bytes(), folder / "bento.yaml")["labels"]
        return {str(key): str(value) for key, value in labels.items()}
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ScorerError(f"{folder / 'bento.yaml'} cannot be read: {error!r}") from error


def label_heads(root: Path, *tags: str) -> dict[str, SpokenOf]:
    """Return the heads in the labels of every deployed Bento, and of those of these tags, by what speaks of them."""
    deployed = [each.bento for each in read_deployments(root)[0].values() if each.bento.startswith("assay-")]
    folders = {bento_folder(root, tag) for tag in (*tags, *(bento.removeprefix("assay-") for bento in deployed))}
    labels = {f"the label of {folder}": bento_labels(folder) for folder in sorted(folders) if folder.is_dir()}
    return {what: SpokenOf(its.get("chain_head", ""), its.get("machine", "")) for what, its in labels.items()}


def unknown_heads(root: Path, spoken_of: Mapping[str, SpokenOf]) -> tuple[list[str], list[str]]:
    """Return what speaks of heads that no chain here holds, and that this machine's does not say it lacks.

    Those of this machine's chain come first, then those of others', which may share the store of Bentos.
    """
    if not spoken_of:
        return [], []
    accounts = accounts_of(root)
    known = {START, "", *admitted(accounts[0].log)}.union(*(account.log.heads for account in accounts))
    unknown = {
        what: its.machine in ("", accounts[0].machine) for what, its in spoken_of.items() if its.head not in known
    }
    return [what for what, is_own in unknown.items() if is_own], [w for w, is_own in unknown.items() if not is_own]


def admitted(log: EventLog) -> set[str]:
    """Return the heads of chains that a chain saw when it began, and does not hold."""
    first = next(iter(log), None)
    if first is None or first["event"] != BEGAN:
        return set()
    return {*first["saw"].values(), *first["spoken_of"].values()}


def require_anchored(root: Path) -> None:
    """Raise `TamperedError` if a deployed Bento or a seal speaks of a head that the log lacks; begin a new log.

    Call it under the project's lock.
    """
    seals = read_seals(root)
    try:
        labels = label_heads(root)
    except (ScorerError, OSError):
        labels = {}  # the commands that need the Bento say what is wrong with it
    spoken_of = {**labels, **{seal.path.name: SpokenOf(seal.head, seal.machine) for seal in seals}}
    begin(root, {what: its.head for what, its in spoken_of.items()})
    unknown, _ = unknown_heads(root, spoken_of)
    if unknown:
        path = accounts_of(root)[0].log.path
        raise TamperedError(
            f"{path} has no entry that {unknown[0]} speaks of: it was cut or written anew. Nothing was done. Restore "
            f"it from a backup; if it is lost, move it and {path.stem}.head away: the new log says what it lacks"
        )
