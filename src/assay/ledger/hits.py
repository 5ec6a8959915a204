"""The rows of a query among the kept ones, counted by scorer, by run and by use: the ledger's SQL."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.data.dataset import read_dataset
from assay.ledger.ledger import CARRIED_ROWS, Row, quoted
from assay.ledger.query import ID, RowQuery
from assay.ledger.rows import INJECTED, USES, as_uuids
from assay.pipeline.rows import LABELLED

if TYPE_CHECKING:
    import duckdb
    import pandas as pd


LEARNED = ("train", "labelled", "adapt", "calibration", "target")
EVALUATED = ("selection", "test")


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


def scorer_uses(connection: duckdb.DuckDBPyConnection) -> dict[str, Row]:
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


def run_uses(connection: duckdb.DuckDBPyConnection) -> list[Row]:
    """Return the runs that used any of the rows; hits are counted once for all runs that read the same files."""
    read = (
        "SELECT run, data_version, use, list(rows ORDER BY rows) AS sources "
        "FROM reads JOIN files USING (rows) GROUP BY ALL"
    )
    sources = f"(SELECT sources, use, unnest(sources) AS rows FROM (SELECT DISTINCT sources, use FROM ({read})))"
    counted = _counts("sources, use", f"(FROM hits JOIN {sources} USING (rows, use))")
    counts = connection.execute(
        f"SELECT u.run, u.driver, u.machine, u.dataset, r.data_version, u.started, u.state, u.reason, "
        f"use, n_rows, n_stored FROM ({read}) r JOIN ({counted}) USING (sources, use) JOIN runs u USING (run) "
        f"ORDER BY u.started, u.run, r.data_version"
    ).fetchall()
    scorers: dict[str, list[str]] = {}
    for run, tag in connection.execute("SELECT DISTINCT run, scorer FROM scorers ORDER BY ALL").fetchall():
        scorers.setdefault(run, []).append(tag)
    names = ("run", "driver", "machine", "dataset", "data_version", "started", "state", "reason")
    runs: dict[tuple[Any, ...], Row] = {}
    for *run_values, use, rows, stored in counts:
        row = runs.setdefault(
            tuple(run_values),
            dict(zip(names, run_values, strict=True)) | {"scorers": scorers.get(run_values[0], []), "uses": {}},
        )
        row["uses"][use] = {"rows": rows, "stored": stored}
    return [{**row, "uses": _ordered(row["uses"])} for row in runs.values()]


def _ordered(counts: Row) -> Row:
    return {use: counts[use] for use in _order(counts)}


def _order(uses: Iterable[str]) -> list[str]:
    return sorted(uses, key=lambda use: (USES.index(use) if use in USES else len(USES), use))
