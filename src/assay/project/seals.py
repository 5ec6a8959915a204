"""Seals: the head of a machine's event log and the statements of the deployed scorers, signed with an SSH key.

``seals/TIME-HEAD.json`` is what was signed, the file with ``.sig`` behind it the signature, and ``allowed_signers`` the
keys that count, in OpenSSH's form; all of them are for Git. `assay.audit.sealing` signs and checks them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from assay.errors import TamperedError
from assay.parts import parse_json

SEAL_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Seal:
    """A seal, as its file has it.

    Attributes
    ----------
    path : Path
    machine, name : str
        Id and name of the machine whose chain it is of.
    entries : int
    head : str
        Number and hash of the newest entry that it covers.
    scorers : dict of str to str
        By tag with statement: SHA-256 of the statement of each scorer that was deployed.
    time : str
    """

    path: Path
    machine: str
    name: str
    entries: int
    head: str
    scorers: dict[str, str]
    time: str

    @property
    def signature(self) -> Path:
        """The file of its signature."""
        return self.path.with_name(f"{self.path.name}.sig")


def seals_folder(root: Path) -> Path:
    """Return the folder of a project's seals."""
    return root / "seals"


def read_seals(root: Path) -> list[Seal]:
    """Return the seals of a project, oldest first: those of a machine in the order of its chain, others by their times.

    Raises
    ------
    TamperedError
        A file is not a seal.
    """
    seals, latest, keys = list(map(_read, seals_folder(root).glob("*.json"))), dict[str, str](), {}
    for seal in sorted(seals, key=lambda seal: (seal.entries, seal.path.name)):
        # A clock that was set back does not turn the order round.
        latest[seal.machine] = max(seal.time, latest.get(seal.machine, ""))
        keys[seal.path] = (latest[seal.machine], seal.machine, seal.entries, seal.path.name)
    return sorted(seals, key=lambda seal: keys[seal.path])


def _read(path: Path) -> Seal:
    try:
        content: dict[str, Any] = parse_json(path.read_bytes())
        if content["schema"] != SEAL_SCHEMA:
            raise ValueError(f"schema {content['schema']}")
        texts = {name: str(content[name]) for name in ("machine", "name", "head", "time")}
        datetime.fromisoformat(texts["time"])
        scorers = {str(tag): str(digest) for tag, digest in content["scorers"].items()}
        return Seal(path=path, entries=int(content["entries"]), scorers=scorers, **texts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TamperedError(f"{path} is not a seal that this Assay knows; restore it from Git") from error
