"""Scorers changed and sealed anew, as whoever packaged them so would have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from assay.hashing import hash_file
from assay.parts import Array, canonical_json, read_arrays, read_json, write_json
from assay.project.freshness import run_verb
from assay.project.layout import Project
from assay.scorer.folder import HEAD
from assay.scorer.statement import Statement, read_statement, write_statement

SEALED = ("schema", "scorer", "lineage", "records", "rows")


def learned_rows(folder: Path) -> dict[str, Array]:
    """Return the list of rows that a scorer learned from, by use."""
    rows = read_statement(folder).rows
    assert rows is not None
    return read_arrays(rows)


def restate(
    folder: Path,
    *,
    records: Callable[[dict[str, Any]], object] = lambda records: None,
    content: Callable[[dict[str, Any]], object] = lambda content: None,
    rows: Mapping[str, Array] | None = None,
    about: Statement | None = None,
) -> str:
    """Add a statement to a scorer folder, its own one or the one `about` another, with changes; return its id."""
    statement = about or read_statement(folder)
    changed = {name: value for name, value in statement.content.items() if name not in SEALED}
    content(changed)
    parsed = {name: dict(record) for name, record in statement.content["records"].items()}
    records(parsed)
    assert statement.rows is not None
    return write_statement(
        folder,
        changed,
        data_version=statement.data_version,
        records={name: canonical_json(record).encode() for name, record in parsed.items()},
        rows=read_arrays(statement.rows) if rows is None else rows,
    )


def package_by_other_code(project: Project) -> None:
    """Package what work/ holds again, as if other code had trained it to the same bytes."""
    for path in (project.root / "work" / project.dataset / "train").rglob("record.json"):
        record = read_json(path)
        record["code"]["src/assay/other.py"] = "0" * 64
        write_json(path, record)
    assert run_verb(project, "package").ran


def reseal(
    folder: Path,
    *,
    head: Callable[[dict[str, Any]], object] = lambda head: None,
    **changes: Any,
) -> Path:
    """Seal a changed scorer: hashes of its files, its version, and one statement about it; return its new folder."""
    statement = read_statement(folder)  # which the changed files do not concern
    changed = read_json(folder / HEAD)
    head(changed)
    changed["files"] = {name: hash_file(folder / name) for name in changed["files"]}
    write_json(folder / HEAD, changed)
    made = read_statement(folder, restate(folder, about=statement, **changes))
    statement.path.unlink()
    if statement.rows is not None and statement.rows != made.rows:
        statement.rows.unlink()
    return folder.rename(folder.parent / hash_file(folder / HEAD)[:12])
