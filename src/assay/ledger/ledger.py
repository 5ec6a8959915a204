"""The ledger: which run and which scorer used which row, for what; Parquet tables that DuckDB queries.

It is an index of the event log, the kept rows (`assay.ledger.rows`), the scorer folders and the deployments. It can be
deleted, and is rebuilt whenever one of its sources has changed. One entry (run, dataset, data version, fingerprint,
row id, use) is a join: the tables hold which run and which scorer used which file of rows, and the rows themselves are
stored once for all runs that share them.
"""

from __future__ import annotations

import atexit
import errno
import io
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.errors import AssayError
from assay.hashing import hash_bytes, hash_file, hash_json
from assay.ledger.history import History
from assay.ledger.rows import (
    FIRST,
    TARGETS,
    about_rows,
    keep_rows,
    key_in_work,
    key_of,
    pack,
    require_schema,
    rows_folder,
)
from assay.parts import parse_json, write_bytes, write_json
from assay.pipeline.learned import learned_by, uses_learned
from assay.pipeline.rows import LABELLED
from assay.project.accounts import accounts_of, missing_words
from assay.project.layout import Project
from assay.project.recovery import remove_left
from assay.project.scorers import list_scorers
from assay.scorer.folder import read_head
from assay.scorer.statement import Statement, read_statement

if TYPE_CHECKING:
    import duckdb

LEDGER_SCHEMA = 3
LEDGER = "ledger.json"
CARRIED_ROWS = "carried-"
FROM_ROWS, FROM_SCORER, FROM_NOTHING = "rows of its run", "the scorer's own list", "nothing"
TABLES = {
    "files": {"rows": "string", "dataset": "string", "data_version": "string", "path": "string", "columns": "strings"},
    "runs": dict.fromkeys(("run", "driver", "machine", "dataset", "started", "state", "reason"), "string"),
    "reads": dict.fromkeys(("run", "rows", "use"), "string"),
    "scorers": {
        **dict.fromkeys(("scorer", "statement", "dataset", "rows", "run", "data_version", "known_from"), "string"),
        "rho": "number",
        "labels": "flag",
    },
}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ledger:
    """An up-to-date ledger: its tables as they were when it was opened, also if it is rebuilt on disk meanwhile.

    The kept rows are in separate files, which queries read.

    Attributes
    ----------
    root : Path
        The project folder.
    scorers : list of dict
        As `assay.project.scorers.list_scorers` describes them, now.
    notes : tuple of str
        What the ledger does not cover, in words.
    tables : dict of str to bytes
        The content of each table's Parquet file.
    folder : Path
        Where the lists are that scorers carried.
    """

    root: Path
    scorers: list[Row]
    notes: tuple[str, ...]
    tables: dict[str, bytes] = field(repr=False)
    folder: Path

    def connect(self) -> duckdb.DuckDBPyConnection:
        """Open DuckDB with the ledger's tables as views; it can read ``.assay`` and nothing else, no network either."""
        import duckdb
        import pyarrow as pa
        from pyarrow import parquet

        folders = [ledger_folder(self.root).parent, self.folder]
        # DuckDB would otherwise install extensions from the network and write temporary files to the current folder.
        switches = ("autoinstall_known_extensions", "autoload_known_extensions", "allow_community_extensions")
        connection = duckdb.connect(config={**dict.fromkeys(switches, False), "temp_directory": ""})
        connection.execute(f"SET allowed_directories = [{', '.join(map(quoted, folders))}]")
        connection.execute("SET enable_external_access = false")
        for name in TABLES:
            connection.register(name, parquet.read_table(pa.BufferReader(self.tables[name])))
        return connection


def quoted(path: Path) -> str:
    """Return a path as an SQL text."""
    return "'" + str(path).replace("'", "''") + "'"


def ledger_folder(root: Path) -> Path:
    """Return the folder of a project's ledger."""
    return root / ".assay" / "ledger"


def open_ledger(project: Project) -> Ledger:
    """Return a project's ledger, rebuilt first if it is missing, damaged, of an older schema or out of date.

    Raises
    ------
    LedgerError
        A newer version of Assay wrote it, or the rows it is made from. Nothing is changed then.
    TamperedError
        The event log cannot be read.
    """
    from filelock import FileLock

    root = project.root
    checked = _checked(_read_head(ledger_folder(root)))
    for name, stamp in _stamps(root).items():
        if checked.get(name) != stamp:
            about_rows(rows_folder(root) / f"{name}.parquet")
    problems = keep_work(project)
    if (ledger := _read(project)) is None:
        try:
            with FileLock(root / ".assay" / "ledger.lock"):
                ledger = _read(project) or _rebuild(project, ledger_folder(root))
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            scratch = Path(tempfile.mkdtemp(prefix="assay-ledger-"))
            atexit.register(shutil.rmtree, scratch, ignore_errors=True)
            ledger = _rebuild(project, scratch)
    return replace(ledger, notes=(*ledger.notes, *problems))


def _read(project: Project) -> Ledger | None:
    """Return the ledger on disk, None where it is missing, damaged, out of date or being rebuilt."""
    head, scorers = _read_head(ledger_folder(project.root)), list_scorers(project.root)
    if head is None or head["sources"] != _sources(project, scorers, _stamps(project.root)):
        return None
    tables = _intact_tables(ledger_folder(project.root), head["files"])
    folder = ledger_folder(project.root)
    return None if tables is None else Ledger(project.root, scorers, tuple(head["notes"]), tables, folder)


def _rebuild(project: Project, folder: Path) -> Ledger:
    """Build the ledger in a folder; call it under the ledger's lock, since two at once would mix their files.

    In a project that cannot be written it is built in a temporary folder.
    """
    root = project.root
    checked, scorers, stamps = _checked(_read_head(ledger_folder(root))), list_scorers(root), _stamps(root)
    sources = _sources(
        project, scorers, stamps
    )  # before reading the rows, so that later changes make the ledger out of date
    build = Build(root, folder, notes=[])
    build.add_rows({name: checked.get(name) == stamp for name, stamp in stamps.items()})
    for account in accounts_of(root):
        try:
            build.add_history(History.of(account.log))
        except (KeyError, TypeError, AttributeError) as error:  # of another machine, whose entries are not checked
            build.notes.append(f"the history of {account.name} is left out, it cannot be read: {error!r}")
    build.notes += missing_words(accounts_of(root))
    build.add_scorers(scorers)
    _write(folder, build, {"schema": LEDGER_SCHEMA, "sources": sources, "notes": build.notes, "checked": stamps})
    return Ledger(root, scorers, tuple(build.notes), build.tables(), folder)


def _sources(project: Project, scorers: list[Row], stamps: Row) -> str:
    """Return the hash of the sources of a ledger."""
    heads = [account.log.head for account in accounts_of(project.root)]
    return hash_json({"events": heads, "scorers": scorers, "rows": stamps})


def keep_work(project: Project) -> list[str]:
    """Keep the rows in ``work/`` that were pulled and so are not kept yet; return the problems."""
    kept = {key_of(event) for event in project.events if event["event"] == "rows"}
    keys = {path.name: key_in_work(project.root, path.name) for path in (project.root / "work").glob("*")}
    names = [name for name, key in sorted(keys.items()) if key is not None and key_of(key) not in kept]
    problems = []
    for name in names:
        try:
            with project.lock():
                keep_rows(project.root, project.events, name)
        except (AssayError, OSError) as error:
            problems.append(f"the rows in work/{name} are left out: {error}")
    return problems


@dataclass
class Build:
    """The ledger's tables while they are made."""

    root: Path
    folder: Path
    notes: list[str]
    files: list[Row] = field(default_factory=list)
    runs: list[Row] = field(default_factory=list)
    reads: list[Row] = field(default_factory=list)
    scorers: list[Row] = field(default_factory=list)
    carried: dict[str, bytes] = field(default_factory=dict)
    by_key: dict[tuple[str | None, ...], str] = field(default_factory=dict)
    made: dict[str, tuple[str | None, str]] = field(default_factory=dict)

    def add_rows(self, names: dict[str, bool]) -> None:
        """Add the kept files of rows; check the hash of those that were not checked before."""
        for name, checked in sorted(names.items()):
            path = rows_folder(self.root) / f"{name}.parquet"
            metadata = about_rows(path) if checked or hash_file(path) == name else None
            if metadata is None:
                self.notes.append(f"{path} was changed and is left out; remove it")
                continue
            self._add_file(name, path, metadata)
            self.by_key[key_of(metadata)] = name

    def add_history(self, history: History) -> None:
        """Add the runs in the event log of a machine; a run that another one's log holds too is the same."""
        kept, known = {row["rows"] for row in self.files}, {row["run"] for row in self.runs}
        self.runs += [row for run, row in history.runs.items() if run not in known]
        reads = [{"run": run, "rows": rows, "use": use} for run, rows, use in sorted(history.reads)]
        self.reads += [read for read in reads if read["run"] not in known]
        self.made = history.made | self.made
        missing = sorted({rows for _, rows, _ in history.reads} - kept)
        self.notes += [f"the rows of some runs, {rows_folder(self.root) / name}.parquet, are gone" for name in missing]
        if count := len(history.without_rows):
            self.notes.append(f"{count} run{'s' * (count > 1)} ended before rows were kept, and cannot be searched")

    def add_scorers(self, scorers: list[Row]) -> None:
        """Add every statement of every scorer: those present, and those that were packaged here and are gone."""
        descriptions = {
            each["tag"]: {**row, **each, "scorer": row["tag"]} for row in scorers for each in row["statements"]
        }
        made = {tag[: tag.index(":") + 13] for tag in self.made}
        unreadable = {row["tag"] for row in scorers if not row["statements"]} - made
        files = {row["rows"]: row for row in self.files}
        for tag in sorted({*descriptions, *self.made, *unreadable}):
            rows, run = self.made.get(tag, (None, None))
            name, _, version = tag.partition(":")
            scorer, _, statement = version.partition("-")
            row: Row = {"scorer": f"{name}:{scorer}", "statement": statement or scorer, "dataset": name, "run": run}
            row |= {"data_version": None, "rho": 0.0, "labels": True}
            description = descriptions.get(tag)
            if description is not None and description["broken"] is None:
                folder = Path(description["folder"])
                head, sealed = read_head(folder), read_statement(folder, description["statement"])
                row["rho"] = float(sealed.candidate["level"].removeprefix("level-"))
                row["data_version"] = sealed.data_version
                row["labels"] = sealed.rows is not None and LABELLED in uses_learned(sealed.rows)
                recorded_rows = self._rows_of(sealed)
                rows = recorded_rows or (rows if rows in files else self._list_of(sealed, head["columns"]))
            row["rows"] = rows if rows in files or rows in self.carried else None
            row["known_from"] = FROM_SCORER if rows in self.carried else FROM_ROWS if rows in files else FROM_NOTHING
            if row["rows"] is None:
                self.notes.append(f"{tag}: the rows that it used are not known here")
            elif row["data_version"] is None and rows is not None:
                row["data_version"] = files[rows]["data_version"]
            self.scorers.append(row)

    def _rows_of(self, statement: Statement) -> str | None:
        """Return the file of kept rows of a statement: that of its split, contamination and target rows."""
        records = statement.record_hashes
        key = {"dataset": statement.name, **{stage: records.get(stage) for stage in FIRST}}
        if not statement.calibration.get("n_target"):
            return self.by_key.get(key_of(key))
        target = f"targets/{statement.name}.csv"
        inputs = [parse_json(record)["inputs"] for record in statement.records.values()]
        target_key = key | {TARGETS: next((each[target] for each in inputs if target in each), None)}
        if (kept := self.by_key.get(key_of(target_key))) is None:
            self.notes.append(f"{statement.tag} was weighted towards target rows that are not known here")
        return kept or self.by_key.get(key_of(key))

    def _list_of(self, statement: Statement, columns: list[str]) -> str | None:
        """Return the file of the rows in a statement's own list, None where it has none."""
        if statement.rows is None:
            return None
        name = f"{CARRIED_ROWS}{statement.rows_hash[:16]}"
        metadata = {"dataset": statement.name, "data_version": statement.data_version, "columns": columns}
        if name not in self.carried:
            self.carried[name] = pack(learned_by(statement).assign(row_id=None, rho=0.0), metadata)
            self._add_file(name, self.folder / f"{name}.parquet", metadata)
        return name

    def _add_file(self, name: str, path: Path, metadata: Row) -> None:
        columns = {key: metadata[key] for key in ("dataset", "data_version", "columns")}
        self.files.append({"rows": name, "path": self._path(path), **columns})

    def _path(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def contents(self) -> dict[str, bytes]:
        """Return the ledger's files by name."""
        return {f"{name}.parquet": content for name, content in (self.tables() | self.carried).items()}

    def tables(self) -> dict[str, bytes]:
        """Return the content of each table's Parquet file."""
        return {name: _pack_table(getattr(self, name), columns) for name, columns in TABLES.items()}


def _pack_table(rows: list[Row], columns: dict[str, str]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    types = {
        "string": pa.string(),
        "number": pa.float64(),
        "flag": pa.bool_(),
        "strings": pa.list_(pa.string()),
    }
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def _write(folder: Path, build: Build, head: Row) -> None:
    """Write every file under a temporary name and rename it. The head comes last: it makes the others valid."""
    contents = build.contents()
    for name, content in contents.items():
        write_bytes(folder / name, content)
    hashes = {name: hash_bytes(content) for name, content in contents.items()}
    write_json(folder / LEDGER, {**head, "files": hashes})
    remove_left(folder.glob(".*"))
    for path in folder.glob(f"{CARRIED_ROWS}*.parquet"):
        if path.name not in contents:
            path.unlink(missing_ok=True)


def _read_head(folder: Path) -> Row | None:
    """Return the ledger's head, None where this version wrote none."""
    try:
        head = parse_json((folder / LEDGER).read_bytes())
        schema = head["schema"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    require_schema(folder / LEDGER, schema, LEDGER_SCHEMA)
    whole = schema == LEDGER_SCHEMA and {"sources", "notes", "checked", "files"} <= head.keys()
    return head if whole else None


def _checked(head: Row | None) -> Row:
    """Return the stamps of the kept files that were checked, by the ledger's head."""
    return {} if head is None else dict(head["checked"])


def _intact_tables(folder: Path, hashes: dict[str, str]) -> dict[str, bytes] | None:
    """Return the content of the ledger's tables, None where a file of the ledger is not the one that its head lists."""
    tables = {f"{name}.parquet": name for name in TABLES}
    contents: dict[str, bytes] = {}
    try:
        for name, digest in hashes.items():
            if name in tables:
                contents[tables[name]] = (folder / name).read_bytes()
            actual = hash_bytes(contents[tables[name]]) if name in tables else hash_file(folder / name)
            if actual != digest:
                return None
    except OSError:
        return None
    return contents if contents.keys() == TABLES.keys() else None


def _stamps(root: Path) -> dict[str, list[int]]:
    """Return size and time of every kept file of rows, so that a checked file is not hashed again."""
    stats = {path.stem: path.stat() for path in sorted(rows_folder(root).glob("*.parquet"))}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
