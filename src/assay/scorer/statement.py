"""Statements: where a scorer comes from, sealed beside it.

``statements/<hash>.json`` in a scorer folder names the hash of ``scorer.json``, the candidate and its selection, the
data version, the records of the stages that made the scorer, and the hash of the list of rows that it learned from,
``statements/<hash>.safetensors``. Both are named by their own content. The same scorer reached twice has one folder and
two statements. Scorers of schemas 1 and 2 hold all this themselves, which is their only statement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.errors import ScorerError, TamperedError
from assay.hashing import hash_file, hash_json, lineage_root
from assay.parts import Array, canonical_json, parse_json, write_arrays, write_json
from assay.scorer.folder import HEAD, LAST_EMBEDDED, read_head

STATEMENTS = "statements"
STATEMENT_SCHEMA = 1
EMBEDDED_ROWS = "rows.safetensors"
CHOICE = "select"  # its record says which candidate was chosen, not what made the candidate


@dataclass(frozen=True, slots=True)
class Statement:
    """Where a scorer comes from.

    Attributes
    ----------
    hash : str
        SHA-256 of its file; that of ``scorer.json`` where it is a part of that.
    scorer : str
        SHA-256 of ``scorer.json`` of the scorer that it is about.
    content : dict
        ``name``, ``candidate``, ``calibration``, ``lineage`` (``root``, ``data_version``, hashes of ``records``) and so
        on.
    records : dict of str to bytes
        The content of each record, by the name that the lineage lists it under; missing ones of a damaged folder are
        left out.
    path : Path
        Its file.
    rows : Path or None
        The list of the rows that the scorer learned from, by use.
    rows_hash : str
        SHA-256 of that list, "" where there is none.
    """

    hash: str
    scorer: str
    content: dict[str, Any] = field(repr=False)
    records: dict[str, bytes] = field(repr=False)
    path: Path
    rows: Path | None
    rows_hash: str

    @property
    def id(self) -> str:
        """The first 12 hex digits of its hash."""
        return self.hash[:12]

    @property
    def version(self) -> str:
        """Version of the scorer."""
        return self.scorer[:12]

    @property
    def is_embedded(self) -> bool:
        """Whether it is a part of ``scorer.json`` (schemas 1 and 2)."""
        return self.hash == self.scorer

    @property
    def name(self) -> str:
        """Name of the scorer's dataset."""
        return str(self.content["name"])

    @property
    def tag(self) -> str:
        """``name:version-statement``, or ``name:version`` where the scorer has no statement but itself."""
        return sealed_tag(f"{self.name}:{self.version}", self.id)

    @property
    def candidate(self) -> dict[str, str]:
        """``detector``, ``adapter`` and ``level`` of the packaged candidate."""
        return dict(self.content["candidate"])

    @property
    def calibration(self) -> dict[str, Any]:
        """Content of ``calibration.json``; empty for scorers of schema 1."""
        return dict(self.content.get("calibration") or {})

    @property
    def data_version(self) -> str:
        """DVC's hash of the folder of the dataset that the scorer was trained on."""
        return str(self.content["lineage"]["data_version"])

    @property
    def root(self) -> str:
        """Hash of the hashes of the records behind the scorer's parts."""
        return str(self.content["lineage"]["root"])

    @property
    def record_hashes(self) -> dict[str, str]:
        """SHA-256 of each record, by its name."""
        return dict(self.content["lineage"]["records"])


def sealed_tag(tag: str, statement: str) -> str:
    """Return the tag of a scorer with that of its statement, where it has one but itself."""
    return tag if not statement or tag.endswith(f":{statement}") else f"{tag}-{statement}"


def root_of(record_hashes: Mapping[str, str]) -> str:
    """Return the lineage root of the records of a statement: all but that of the choice among candidates."""
    return lineage_root({name: digest for name, digest in record_hashes.items() if name != CHOICE})


def write_statement(
    folder: Path,
    content: Mapping[str, Any],
    *,
    data_version: str,
    records: Mapping[str, bytes],
    rows: Mapping[str, Array],
) -> str:
    """Add a statement to a scorer folder, of which nothing else changes, and return its id.

    Parameters
    ----------
    folder : Path
        A scorer folder.
    content : mapping
        ``name``, ``candidate``, ``calibration`` and whatever else is to be kept.
    data_version : str
        DVC's hash of the folder of the dataset.
    records : mapping of str to bytes
        Content of the ``record.json`` of each stage behind the scorer, by any name.
    rows : mapping of str to array
        Fingerprints of the rows that the scorer learned from, by use.
    """
    parsed = {name: parse_json(record) for name, record in records.items()}
    hashes = {name: hash_json(record) for name, record in parsed.items()}
    into = folder / STATEMENTS
    sealed = {
        **content,
        "schema": STATEMENT_SCHEMA,
        "scorer": hash_file(folder / HEAD),
        "lineage": {"root": root_of(hashes), "data_version": data_version, "records": hashes},
        "records": parsed,
        "rows": _write_sealed(into, "safetensors", lambda path: write_arrays(path, rows)),
    }
    return _write_sealed(into, "json", lambda path: write_json(path, sealed))[:12]


def _write_sealed(folder: Path, suffix: str, write: Callable[[Path], None]) -> str:
    """Write a file that is named by the first 12 hex digits of its hash, and return the hash."""
    staging = folder / f".sealed.{suffix}"
    write(staging)
    digest = hash_file(staging)
    staging.replace(folder / f"{digest[:12]}.{suffix}")
    return digest


def statement_ids(folder: Path) -> list[str]:
    """Return the ids of the statements in a scorer folder, sorted; damaged ones too."""
    if read_head(folder)["schema"] <= LAST_EMBEDDED:
        return [hash_file(folder / HEAD)[:12]]
    return sorted(path.stem for path in (folder / STATEMENTS).glob("*.json") if not path.name.startswith("."))


def read_statement(folder: Path, statement: str | None = None) -> Statement:
    """Read a statement of a scorer folder and check its seal: its own hash, that of the scorer, and that of the rows.

    Parameters
    ----------
    folder : Path
        A scorer folder.
    statement : str, optional
        Its id; by default the first one. All of them are about the same function.

    Raises
    ------
    ScorerError
        There is none, none of that id, or it is of a newer version of Assay.
    TamperedError
        It, or the list of rows, is missing or was changed, or it is about another scorer.
    """
    head = read_head(folder)
    ids = statement_ids(folder)
    if statement is None and not ids:
        raise ScorerError(
            f"{folder} has no statement in {STATEMENTS}/ of where the scorer comes from; copy the folder again, whole"
        )
    chosen = ids[0] if statement is None else statement
    if chosen not in ids:
        raise ScorerError(f"{folder} has no statement {chosen}; there are {', '.join(ids) or 'none'}")
    scorer = hash_file(folder / HEAD)
    if head["schema"] <= LAST_EMBEDDED:
        return _embedded(folder, head, scorer)
    return _sealed(folder, folder / STATEMENTS / f"{chosen}.json", scorer)


def _embedded(folder: Path, head: dict[str, Any], scorer: str) -> Statement:
    """Return the statement within the head of a scorer of schema 1 or 2; `check_files` checks its files."""
    try:
        names = [name for name in head["lineage"]["records"] if f"lineage/{name}.json" in head["files"]]
        content: dict[str, Any] = {name: head.get(name) for name in ("name", "candidate", "calibration", "lineage")}
        content["candidate"]["detector"], content["lineage"]["data_version"], content["lineage"]["root"]
    except (KeyError, TypeError) as error:
        raise ScorerError(f"{folder / HEAD} is not the head of a scorer: {error!r}") from error
    paths = {name: folder / "lineage" / f"{name}.json" for name in names}
    records = {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
    rows_hash = str(head["files"].get(EMBEDDED_ROWS, ""))
    rows = folder / EMBEDDED_ROWS if rows_hash else None
    return Statement(scorer, scorer, content, records, folder / HEAD, rows, rows_hash)


def _sealed(folder: Path, path: Path, scorer: str) -> Statement:
    digest = hash_file(path)
    if digest[:12] != path.stem:
        raise TamperedError(f"{path} was changed: its hash begins with {digest[:12]}; nothing was loaded")
    try:
        content = parse_json(path.read_bytes())
        schema, about, rows_hash = content["schema"], content["scorer"], str(content["rows"])
        hashes = {name: hash_json(record) for name, record in content["records"].items()}
        str(content["name"]), content["candidate"]["detector"], content["lineage"]["data_version"]
        is_whole = content["lineage"]["records"] == hashes and isinstance(content["lineage"]["root"], str)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ScorerError(f"{path} is not a statement that Assay wrote: {error!r}") from error
    if schema != STATEMENT_SCHEMA:
        raise ScorerError(f"{path} has schema {schema!r}; this Assay reads {STATEMENT_SCHEMA}; install a newer one")
    if not is_whole:
        raise TamperedError(f"{path} lists other hashes than those of the records in it; it is not what Assay wrote")
    if about != scorer:
        raise TamperedError(f"{path} is about another scorer, {about}; {folder / HEAD} is {scorer}")
    rows = folder / STATEMENTS / f"{rows_hash[:12]}.safetensors"
    if not rows.is_file() or hash_file(rows) != rows_hash:
        state = "was changed" if rows.is_file() else "is missing"
        raise TamperedError(f"{rows}, the rows that the scorer learned from, {state}; nothing was loaded")
    records = {name: canonical_json(record).encode() for name, record in content["records"].items()}
    return Statement(digest, scorer, content, records, path, rows, rows_hash)


def statement_files(folder: Path, statement: Statement) -> list[str]:
    """Return the files of a statement in a scorer folder, in addition to the scorer's own, relative to the folder."""
    if statement.is_embedded:
        return []
    paths = [statement.path, *([] if statement.rows is None else [statement.rows])]
    return [path.relative_to(folder).as_posix() for path in paths]
