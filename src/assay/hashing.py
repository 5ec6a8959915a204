"""Stage records: content hashes of a stage's inputs, code and outputs, and its parameters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import numpy as np

from assay.arrays import Doubles
from assay.parts import canonical_json

RECORD = "record.json"
RECORD_SCHEMA = 1
IGNORED = ("__pycache__", ".gitignore")


@dataclass(frozen=True, slots=True)
class Record:
    """The content of ``record.json``: hashes of a stage's inputs, code and outputs, and its parameters.

    Attributes
    ----------
    stage, dataset : str
    inputs : dict of str to str
        SHA-256 by path relative to the project.
    code : dict of str to str
        Hashes and versions, by the names of `assay.project.modules.code_of`; in older records SHA-256 by path.
    params : dict
        Values in params.yaml by their dotted names.
    outputs : dict of str to str
        SHA-256 by path relative to the stage's folder; empty before it has run.
    schema : int
    assay : str, optional
        Version of Assay, where the code is installed code.
    detector : str, optional
        Label of the detector, where the stage is a cell.
    threads : int, optional
        Number of threads that a cell computes with.
    """

    stage: str
    dataset: str
    inputs: dict[str, str]
    params: dict[str, Any]
    code: dict[str, str]
    outputs: dict[str, str] = field(default_factory=dict)
    schema: int = RECORD_SCHEMA
    assay: str | None = None
    detector: str | None = None
    threads: int | None = None

    @property
    def key(self) -> str:
        """Hash of all that determines a stage's outputs: its inputs, parameters and code."""
        described = {name: getattr(self, name) for name in ("stage", "dataset", "inputs", "params", "code")}
        of_cells = {"detector": self.detector, "threads": self.threads}
        return hash_json(described | {name: value for name, value in of_cells.items() if value is not None})

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, content: Any) -> Self | None:
        """Return the record that `to_json` described, None for anything else."""
        optional = {part.name for part in fields(cls) if part.default is None}
        if not isinstance(content, dict) or {*content, *optional} != {part.name for part in fields(cls)}:
            return None
        whole = all(isinstance(content[name], dict) for name in ("inputs", "params", "code", "outputs"))
        return cls(**content) if whole else None


def hash_bytes(content: bytes) -> str:
    """Return the SHA-256 of `content` in hex."""
    return hashlib.sha256(content).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_json(value: object) -> str:
    """Return the SHA-256 of the canonical JSON of `value`."""
    return hash_bytes(canonical_json(value).encode())


def files_of(path: Path) -> list[Path]:
    """Return `path` itself if it is a file, else all files under it, sorted; caches are passed over."""
    if path.is_file():
        return [path]
    return sorted(p for p in path.rglob("*") if p.is_file() and not any(part in IGNORED for part in p.parts))


def files_in(folder: Path) -> dict[str, Path]:
    """Return the files of `files_of` by their paths relative to `folder`."""
    return {file.relative_to(folder).as_posix(): file for file in files_of(folder)}


def hash_paths(root: Path, paths: Iterable[str]) -> dict[str, str]:
    """Hash every file at or under `paths` (relative to `root`), by its path relative to `root`."""
    return {
        file.relative_to(root).as_posix(): hash_file(file) for path in sorted(paths) for file in files_of(root / path)
    }


def hash_tree(folder: Path) -> dict[str, str]:
    """Hash every file of a stage folder except its record, by its path relative to the folder."""
    hashes = {name: hash_file(file) for name, file in files_in(folder).items()}
    hashes.pop(RECORD, None)
    return hashes


def dvc_directory_md5(folder: Path) -> str:
    """Return DVC's hash of a folder: the data version of ``data/<name>``.

    The MD5 of the JSON list of every file's MD5 and path, sorted by path, with ``.dir`` at its end;
    a test compares it with DVC's own.
    """
    return dvc_md5(files_in(folder))


def dvc_md5(files: Mapping[str, Path]) -> str:
    """Return DVC's hash of a folder that would hold these files, by their relative paths."""
    entries = []
    for name, file in sorted(files.items()):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        entries.append({"md5": digest, "relpath": name})
    text = json.dumps(entries, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def lineage_root(records: dict[str, str]) -> str:
    """Return the hash of the record hashes (stage name -> SHA-256 of record.json) behind a scorer."""
    return hash_json(records)


def uniform_hashes(keys: Iterable[str], salt: str) -> Doubles:
    """Return a number in [0, 1) for each key: the first 53 bits of a BLAKE2b hash of salt and key.

    Equal keys get equal numbers on every machine; another salt gives independent numbers.

    Parameters
    ----------
    keys : iterable of str, n of them
    salt : str

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    start = blake2b(salt.encode() + b"\x1f", digest_size=8)
    digests = []
    for key in keys:
        digest = start.copy()
        digest.update(key.encode())
        digests.append(digest.digest())
    bits = np.frombuffer(b"".join(digests), dtype="<u8") >> np.uint64(11)
    return bits.astype(np.float64) / 2.0**53
