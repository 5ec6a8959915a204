"""The scorers and runs that used given rows, and for what."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.data.dataset import read_card, read_dataset
from assay.data.dialects import OBSERVED, Dialect
from assay.data.words import WORD_COLUMNS
from assay.errors import DataError
from assay.ledger.ledger import CARRIED_ROWS, FROM_SCORER, Ledger, Row, open_ledger, quoted
from assay.ledger.query import ID, Layout, RowQuery, query_of_batch, read_query
from assay.ledger.rows import INJECTED, USES, as_uuids
from assay.pipeline.rows import LABELLED
from assay.project.layout import Project

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

LEARNED = ("train", "labelled", "adapt", "calibration", "target")
EVALUATED = ("selection", "test")


@dataclass(frozen=True, slots=True)
class Answer:
    """The scorers and runs that used the rows of a query.

    Attributes
    ----------
    query : RowQuery
    known : list of bool
        For each row of the query, whether any run or scorer here used it.
    scorers : list of dict
        Champions first. ``uses``: rows that the scorer was trained, calibrated or evaluated on, by any of its
        statements; ``run_only``: rows that only its run used (injected in the stress test, pool, excluded). Both map a
        use to the number of the query's ``rows``, and of ``stored`` rows with their content (duplicates count).
        ``statements``: ids of those by which the scorer used rows; ``deployed``: that by which a champion is deployed.
    runs : list of dict
        Every run that used any of them, oldest first.
    notes : list of str
    """

    query: RowQuery
    known: list[bool]
    scorers: list[Row]
    runs: list[Row]
    notes: list[str]

    @property
    def learned(self) -> list[Row]:
        """The scorers that learned from any of the rows."""
        return [row for row in self.scorers if set(row["uses"]) & {*LEARNED}]

    @property
    def commands(self) -> list[str]:
        """Commands that retrain, one for each dataset with a scorer that used the rows."""
        return [f"assay run --dataset {name}" for name in sorted({r["dataset"] for r in self.scorers if r["uses"]})]

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets whose scorers or runs used the rows; where none did, the ones whose columns fit."""
        return sorted({row["dataset"] for row in (*self.scorers, *self.runs)}) or self.query.datasets

    def lines(self, *, advice: bool = True) -> list[str]:
        """Return the answer as text, with or without the commands to call next."""
        query, n_known = self.query, sum(self.known)
        summary = f"{query.path.name}: {query.n_rows} rows, {query.different} different, matched by {query.by}"
        datasets = f" in {', '.join(self.datasets)}" if self.datasets else ""
        lines = [f"{summary}{datasets}; {n_known} were used here, {query.n_rows - n_known} were not"]
        if self.scorers:
            lines += ["", *_aligned([_SCORER_HEAD, *map(_cells, self.scorers)])]
        if self.runs:
            lines += ["", *_aligned([_RUN_HEAD, *map(_run_cells, self.runs)])]
        lines += ["", *(f"note: {note}" for note in self.notes)] if self.notes else []
        if self.learned and advice:
            lines += ["", f"to exclude the rows: assay audit quarantine {query.argument} --why WHY"]
            lines += [f"to retrain:          {command}" for command in self.commands]
        return lines

    def to_json(self) -> Row:
        """Return the answer as plain JSON values."""
        return {
            "file": str(self.query.path),
            "matched_by": self.query.by,
            "datasets": self.datasets,
            "rows": self.query.n_rows,
            "different": self.query.different,
            "known": sum(self.known),
            "unknown_rows": [number for number, is_known in enumerate(self.known) if not is_known],
            "scorers": self.scorers,
            "runs": self.runs,
            "retrain": self.commands,
            "notes": self.notes,
        }


def who_saw(
    project: Project,
    path: Path | None = None,
    *,
    batch: str | None = None,
    dataset: str | None = None,
    content: bool = False,
    dialect: Dialect = OBSERVED,
) -> Answer:
    """Find every run and scorer in the ledger that used the rows of a file, or of a batch.

    With `content`, or where the file has no row ids, these are all rows of equal content; see `read_query`.
    `dialect` says how a CSV file is written.

    Raises
    ------
    DataError
        The file cannot be used, there is no such batch, or not exactly one of the two is given.
    LedgerError
        A newer version of Assay wrote the ledger.
    """
    ledger = open_ledger(project)
    query = query_of(ledger, path, batch=batch, dataset=dataset, content=content, dialect=dialect)
    return answer_query(ledger, query, dataset)


def query_of(
    ledger: Ledger,
    path: Path | None,
    *,
    batch: str | None,
    dataset: str | None,
    content: bool,
    dialect: Dialect = OBSERVED,
) -> RowQuery:
    """Return the rows of a file or of a batch; raise `DataError` unless one of them is given."""
    if (path is None) == (batch is None):
        raise DataError("give either a file of rows or a batch (--batch ID)")
    if path is not None:
        return read_query(path, layouts_of(ledger), dataset=dataset, content=content, dialect=dialect)
    assert batch is not None
    if content:
        raise DataError("--content is for files; a batch is told by the ids of its rows")
    return query_of_batch(ledger.root, batch, dataset=dataset)


def layouts_of(ledger: Ledger) -> list[Layout]:
    """Return the layouts of every dataset in ``data/``, or that a run or a scorer here used."""
    cards = [read_card(path.parent) for path in sorted((ledger.root / "data").glob("*/card.json"))]
    id_columns = {(card.name, card.columns): card.id_column for card in cards}
    current_id_columns = {card.name: card.id_column for card in cards}
    with ledger.connect() as connection:
        used = connection.execute("SELECT DISTINCT dataset, columns FROM files ORDER BY ALL").fetchall()
    for name, columns in used:
        if columns:
            id_columns.setdefault((name, tuple(columns)), current_id_columns.get(name))
    kinds = {card.name: (card.vocabulary, card.dates) for card in cards}
    texts = {card.name: card.text_column for card in cards}
    layouts = []
    for (name, columns), id_column in id_columns.items():
        text = texts.get(name)
        if columns == WORD_COLUMNS and text is not None:
            layouts.append(Layout(name, (text,), id_column, coded=(text,), of_texts=True))
            continue
        coded, dates = (tuple(c for c in columns if c in names) for names in kinds.get(name, ((), ())))
        layouts.append(Layout(name, columns, id_column, coded, dates))
    # Earlier versions may have had numbers where the present one has categories or dates.
    former = [
        replace(layout, coded=(), dates=())
        for layout in layouts
        if not layout.of_texts and (layout.coded or layout.dates)
    ]
    return [*layouts, *former]


def answer_query(ledger: Ledger, query: RowQuery, dataset: str | None = None) -> Answer:
    """Find the rows in the ledger; see `who_saw`."""
    with ledger.connect() as connection:
        find(connection, ledger.root, query, dataset)
        condition = "a.key = h.key AND a.dataset IS NOT DISTINCT FROM h.named"
        numbers = connection.execute(
            f"SELECT DISTINCT a.place FROM queried a SEMI JOIN hits h ON {condition}"
        ).fetchall()
        seen_rows = {number for (number,) in numbers}
        uses_by_scorer = _scorer_uses(connection)
        runs = _runs(connection)
        known_from = connection.execute("SELECT DISTINCT scorer, known_from FROM scorers").fetchall()
    descriptions = {row["tag"]: row for row in ledger.scorers}
    scorers = [_scorer(tag, uses, descriptions.get(tag)) for tag, uses in uses_by_scorer.items()]
    scorers.sort(key=lambda row: (not row["champion"], not {*row["uses"]} & {*LEARNED}, row["scorer"]))
    notes = [*query.notes, *ledger.notes]
    if "fingerprint" in query.keys and len(seen_rows) < query.n_rows:
        notes.append("rows are known where id and content agree; --content searches by content alone")
    partly_known = sorted(tag for tag, origin in known_from if origin == FROM_SCORER)
    notes += [f"{tag} was made elsewhere: only the rows that it learned from are known" for tag in partly_known]
    return Answer(query, [number in seen_rows for number in range(query.n_rows)], scorers, runs, notes)


def find(
    connection: duckdb.DuckDBPyConnection,
    root: Path,
    query: RowQuery,
    dataset: str | None = None,
    *,
    contents: bool = False,
) -> None:
    """Search the kept rows for those of the query in one scan, and create the table ``hits``.

    Its columns: the ``key`` of the query's rows and the dataset that it was ``named`` for, the first ``place`` in the
    user's file with this key and the number of its ``copies`` there, ``rows`` (the file of kept rows), the ``number``
    of the row in it, ``use`` and ``rho``; with `contents` also ``fingerprint`` and ``copy`` (None if it is not known),
    which makes queries by id slower. The table ``queried`` holds every place with its key, and the ``print`` of the
    content that the row must have too (None: any).
    """
    import pyarrow as pa

    by_id, keys = query.by == ID, query.keys
    key = pa.array(keys["key"], pa.string()) if by_id else as_uuids(keys["key"])
    places, names = pa.array(keys["place"], pa.int64()), pa.array(keys["dataset"], pa.string())
    both = "fingerprint" in keys
    prints = as_uuids(keys["fingerprint"]) if both else pa.nulls(len(keys), pa.string())
    connection.register("query_rows", pa.table({"place": places, "dataset": names, "key": key, "print": prints}))
    connection.execute("CREATE TEMP TABLE queried AS SELECT * FROM query_rows")
    connection.execute("CREATE TEMP TABLE chosen AS SELECT * FROM files WHERE ? IN ('', dataset)", [dataset or ""])
    paths = connection.execute(
        "SELECT path FROM chosen WHERE dataset IN (SELECT dataset FROM queried) "
        "OR EXISTS (FROM queried WHERE dataset IS NULL) ORDER BY path"
    ).fetchall()
    lists = [root / path for (path,) in paths if Path(path).name.startswith(CARRIED_ROWS)] if by_id else []
    content = ", r.fingerprint, r.copy" if contents or lists else ""
    distinct_keys = "(SELECT min(place) AS place, count(*) AS copies, dataset, key, print FROM queried GROUP BY ALL)"
    same_content = "AND a.print = r.fingerprint" if both else ""
    connection.execute(
        f"CREATE TEMP TABLE hits AS WITH matches AS ("
        f"SELECT a.place, a.copies, a.key, a.dataset AS named, r.filename, r.file_row_number AS number, r.use, "
        f"r.rho{content} FROM {_source([root / path for (path,) in paths], copies=bool(content))} r "
        f"JOIN {distinct_keys} a ON a.key = r.{'row_id' if by_id else 'fingerprint'} {same_content}) "
        f"SELECT matches.* EXCLUDE (filename), rows FROM matches JOIN chosen "
        f"ON parse_filename(filename, true) = rows WHERE named IS NULL OR named = chosen.dataset"
    )
    if lists:
        _find_in_lists(connection, root, query, lists)


def _source(paths: list[Path], *, copies: bool) -> str:
    """Return the SQL that reads files of rows, also an empty list of them; with `copies` also which copies they are.

    Files of schema 1 have no column ``copy``.
    """
    nothing = "NULL::VARCHAR AS filename, 0 AS file_row_number, '' AS use, 0.0 AS rho, '' AS row_id"
    nothing = f"SELECT {nothing}, NULL::UUID AS fingerprint, NULL::BIGINT AS copy WHERE false"
    if not paths:
        return f"({nothing})"
    options = f"filename = true, file_row_number = true{', union_by_name = true' if copies else ''}"
    files = f"read_parquet([{', '.join(map(quoted, paths))}], {options})"
    return f"(FROM {files} UNION ALL BY NAME {nothing})" if copies else files


def _find_in_lists(connection: duckdb.DuckDBPyConnection, root: Path, query: RowQuery, lists: list[Path]) -> None:
    """Find rows queried by id in scorers' own lists, which hold contents alone.

    An id stands for its content and copy in ``data/`` now, and for every one that it had when a run used it. Where a
    copy is not known, in a list or a run of before, all copies of the content match.
    """
    import pyarrow as pa

    contents = contents_now(root, query)
    columns = {name: pa.array(contents[name], pa.string()) for name in ("dataset", "key")}
    columns |= {"fingerprint": as_uuids(contents["fingerprint"]), "copy": pa.array(contents["copy"], pa.int64())}
    connection.register("current_rows", pa.table(columns))
    connection.execute(
        f"INSERT INTO hits BY NAME WITH contents AS ("
        f"FROM current_rows UNION SELECT dataset, key, fingerprint, copy FROM hits JOIN files USING (rows)), "
        f"matched AS (SELECT min(place) AS place, count(*) AS copies, q.dataset, q.key, fingerprint, copy "
        f"FROM queried q JOIN contents USING (dataset, key) "
        f"WHERE print IS NULL OR print::VARCHAR = fingerprint::VARCHAR GROUP BY ALL) "
        f"SELECT DISTINCT t.place, t.copies, t.key, t.dataset AS named, r.file_row_number AS number, r.use, r.rho, "
        f"r.fingerprint, r.copy, rows FROM {_source(lists, copies=True)} r JOIN matched t "
        f"ON r.fingerprint = t.fingerprint AND (r.copy = t.copy OR r.copy IS NULL OR t.copy IS NULL) "
        f"JOIN chosen c ON parse_filename(r.filename, true) = rows AND c.dataset = t.dataset"
    )


def contents_now(root: Path, query: RowQuery) -> pd.DataFrame:
    """Return ``dataset``, ``key``, ``fingerprint`` and ``copy`` of the rows with the query's ids.

    Those in ``data/`` now, and those that left it with a batch.
    """
    import pandas as pd

    parts = [pd.DataFrame({"dataset": [], "key": [], "fingerprint": []}, dtype="str").assign(copy=0)]
    for name in query.datasets:
        if (root / "data" / name / "card.json").is_file():
            dataset = read_dataset(root / "data" / name)
            ids = query.keys.loc[query.keys["dataset"] == name, "key"]
            rows = dataset.data.take(dataset.data.rows["row_id"].isin(ids).to_numpy(dtype=bool))
            prints = dataset.card.fingerprints(rows.features)
            now = {"key": rows.rows["row_id"], "fingerprint": prints, "copy": rows.rows["copy"]}
            parts.append(pd.DataFrame(now).assign(dataset=name))
            if dataset.dropped is not None:
                gone = dataset.dropped[dataset.dropped["row_id"].isin(ids)].rename(columns={"row_id": "key"})
                parts.append(gone[["key", "fingerprint", "copy"]].assign(dataset=name))
    return pd.concat(parts, ignore_index=True)


def _counts(kinds: str, source: str) -> str:
    """Return the SQL that counts hits of each kind: rows of the query, and stored rows with their content.

    A stored row that is in several files of rows is counted once, as far as the numbers in one file tell.
    """
    by_file = f"SELECT {kinds}, place, rows, max(copies) AS copies, count(DISTINCT number) AS numbers FROM {source}"
    by_place = f"SELECT {kinds}, place, max(copies) AS copies, max(numbers) AS numbers FROM ({by_file} GROUP BY ALL)"
    counted = "sum(copies)::INTEGER AS n_rows, sum(numbers)::INTEGER AS n_stored"
    return f"SELECT {kinds}, {counted} FROM ({by_place} GROUP BY ALL) GROUP BY ALL"


_OWN = (
    f"(CASE h.use WHEN '{INJECTED}' THEN h.rho <= k.level WHEN '{LABELLED}' THEN k.labels "
    f"ELSE h.use IN {(*LEARNED, *EVALUATED)!r} END)"
)


def _scorer_uses(connection: duckdb.DuckDBPyConnection) -> dict[str, Row]:
    """Return by scorer the counts of each use, for the scorer and for its run alone, and the statements that say so.

    The rows of a scorer are those of all of its statements. Hits are counted once for all scorers of the same files of
    rows, levels and use of labels.
    """
    import pyarrow as pa

    known = connection.execute("SELECT scorer, rows, rho, labels FROM scorers WHERE rows IS NOT NULL").fetchall()
    kinds: dict[str, set[tuple[str, float, bool]]] = {}
    for tag, *kind in known:
        kinds.setdefault(tag, set()).add(tuple(kind))
    numbers = {kind: number for number, kind in enumerate(dict.fromkeys(map(frozenset, kinds.values())))}
    table = [
        {"kind": number, "rows": rows, "level": level, "labels": labels}
        for kind, number in numbers.items()
        for rows, level, labels in kind
    ]
    types = [("kind", pa.int64()), ("rows", pa.string()), ("level", pa.float64()), ("labels", pa.bool_())]
    connection.register("kinds", pa.Table.from_pylist(table, schema=pa.schema(types)))
    counted = _counts("kind, own, use", f"(SELECT h.*, k.kind, {_OWN} AS own FROM hits h JOIN kinds k USING (rows))")
    counts: dict[int, Row] = {}
    for number, is_own, use, rows, stored in connection.execute(counted).fetchall():
        of_kind = counts.setdefault(number, {"uses": {}, "run_only": {}})
        of_kind["uses" if is_own else "run_only"][use] = {"rows": rows, "stored": stored}
    said = connection.execute(
        f"SELECT DISTINCT k.scorer, k.statement FROM (SELECT DISTINCT rows, use, rho FROM hits) h "
        f"JOIN (SELECT *, rho AS level FROM scorers) k ON h.rows = k.rows WHERE {_OWN} ORDER BY ALL"
    ).fetchall()
    statements: dict[str, list[str]] = {}
    for tag, statement in said:
        statements.setdefault(tag, []).append(statement)
    uses: dict[str, Row] = {}
    for tag, of_scorer in kinds.items():
        if (number := numbers[frozenset(of_scorer)]) in counts:
            by_use = {name: _ordered(each) for name, each in counts[number].items()}
            uses[tag] = {**by_use, "statements": statements.get(tag, [])}
    return uses


def _runs(connection: duckdb.DuckDBPyConnection) -> list[Row]:
    """Return the runs that used any of the rows; hits are counted once for all runs that read the same files."""
    read = (
        "SELECT run, data_version, use, list(rows ORDER BY rows) AS sources "
        "FROM reads JOIN files USING (rows) GROUP BY ALL"
    )
    sources = f"(SELECT sources, use, unnest(sources) AS rows FROM (SELECT DISTINCT sources, use FROM ({read})))"
    counted = _counts("sources, use", f"(FROM hits JOIN {sources} USING (rows, use))")
    counts = connection.execute(
        f"SELECT u.run, u.driver, u.dataset, r.data_version, u.started, u.state, u.reason, use, n_rows, n_stored "
        f"FROM ({read}) r JOIN ({counted}) USING (sources, use) JOIN runs u USING (run) "
        f"ORDER BY u.started, u.run, r.data_version"
    ).fetchall()
    scorers: dict[str, list[str]] = {}
    for run, tag in connection.execute("SELECT DISTINCT run, scorer FROM scorers ORDER BY ALL").fetchall():
        scorers.setdefault(run, []).append(tag)
    names = ("run", "driver", "dataset", "data_version", "started", "state", "reason")
    runs: dict[tuple[Any, ...], Row] = {}
    for *run_values, use, rows, stored in counts:
        row = runs.setdefault(
            tuple(run_values),
            dict(zip(names, run_values, strict=True)) | {"scorers": scorers.get(run_values[0], []), "uses": {}},
        )
        row["uses"][use] = {"rows": rows, "stored": stored}
    return [{**row, "uses": _ordered(row["uses"])} for row in runs.values()]


def _scorer(tag: str, uses: Row, description: Row | None) -> Row:
    """Describe a scorer that used the rows; `listed` is None where its folder is gone."""
    return {
        "scorer": tag,
        "dataset": tag.partition(":")[0],
        "champion": description is not None and description["champion"],
        "deployed": None if description is None else _deployed(description),
        "bento": None if description is None else description["bento"],
        "folder": None if description is None else description["folder"],
        "broken": "its folder is gone" if description is None else description["broken"],
        "quarantined": {} if description is None else description["quarantined"],
        "n_statements": 0 if description is None else len(description["statements"]),
        **uses,
    }


def _deployed(description: Row) -> str | None:
    return next((str(each["statement"]) for each in description["statements"] if each["deployed"]), None)


_SCORER_HEAD = ("scorer", "deployed", *LEARNED, *EVALUATED, "only its run", "")
_RUN_HEAD = ("run", "driver", "started", "state", "data version", "used")


def _cells(row: Row) -> tuple[str, ...]:
    counts = (str(row["uses"].get(use, {"rows": 0})["rows"] or "-") for use in (*LEARNED, *EVALUATED))
    deployed = "champion" if row["champion"] else "Bento" if row["bento"] else "-"
    counted = _counts_text(row["quarantined"]) if row["quarantined"] else ""
    quarantined = f"learned from quarantined rows, or rows answered bad ({counted})" if counted else ""
    # A scorer with one statement is told by its version; of several, it matters which.
    has_several = row["n_statements"] > 1
    several = f"by statement {', '.join(row['statements'])}" if has_several and row["statements"] else ""
    deployed_by = f"deployed by {row['deployed']}" if has_several and row["deployed"] else ""
    remarks = "; ".join(filter(None, (several, deployed_by, quarantined, row["broken"])))
    return (row["scorer"], deployed, *counts, _counts_text(row["run_only"]) or "-", remarks)


def _run_cells(row: Row) -> tuple[str, ...]:
    version = (row["data_version"] or "-")[:12]
    return (row["run"][:12], row["driver"], row["started"], row["state"], version, _counts_text(row["uses"]))


def _counts_text(counts: Row) -> str:
    """Return counts by use in words; a count is a number, or a dict with the number of ``rows``."""
    return ", ".join(f"{use} {count['rows'] if isinstance(count, dict) else count}" for use, count in counts.items())


def _aligned(table: list[tuple[str, ...]]) -> list[str]:
    """Return lines with columns as wide as their widest cell, without empty columns."""
    columns = [column for column in zip(*table, strict=True) if {*column[1:]} - {"-", ""}]
    widths = [max(map(len, column)) for column in columns]
    rows = zip(*columns, strict=True)
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _ordered(counts: Row) -> Row:
    return {use: counts[use] for use in _order(counts)}


def _order(uses: Iterable[str]) -> list[str]:
    return sorted(uses, key=lambda use: (USES.index(use) if use in USES else len(USES), use))
