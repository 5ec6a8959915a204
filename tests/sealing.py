"""Scorers changed and sealed anew, as whoever packaged them so would have."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from assay.errors import TamperedError
from assay.hashing import hash_file
from assay.parts import Array, canonical_json, read_arrays, read_json, write_json
from assay.project.freshness import run_verb
from assay.project.layout import Project
from assay.scorer.folder import HEAD, read_head
from assay.scorer.statement import Statement, read_statement, statement_files, statement_ids, write_statement

SEALED = ("schema", "scorer", "lineage", "records", "rows")


def learned_rows(folder: Path) -> dict[str, Array]:
    """Return the list of rows that a scorer learned from, by use."""
    rows = read_statement(folder).rows
    assert rows is not None
    return read_arrays(rows)


def without_first(rows: Mapping[str, Array], n: int) -> dict[str, Array]:
    """Return a list of rows without the first n of use train."""
    return {use: packed[n:] if use.startswith("train") else packed for use, packed in rows.items()}


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


def copy_scorer(source: Path, target: Path, statements: Iterable[str] | None = None) -> None:
    """Copy a scorer to `target`, a folder that may hold the same scorer already: then its statements alone are added.

    Parameters
    ----------
    source, target : Path
        Scorer folders.
    statements : iterable of str, optional
        Ids of the statements to copy; by default all.

    Raises
    ------
    TamperedError
        `target` holds another scorer, or a statement of `source` was changed.
    """
    if (target / HEAD).is_file() and hash_file(target / HEAD) != hash_file(source / HEAD):
        raise TamperedError(f"{target / HEAD} is not that of {source}; find out why, and remove {target}")
    chosen = [read_statement(source, each) for each in (statement_ids(source) if statements is None else statements)]
    # The head comes last: with it the folder becomes a scorer.
    names = [*(name for each in chosen for name in statement_files(source, each)), *read_head(source)["files"], HEAD]
    for name in names:
        if not (target / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / f"{name}.part")
            (target / f"{name}.part").replace(target / name)
