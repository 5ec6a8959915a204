"""Who saw these rows: every scorer and run that used them, and for what."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.data.dataset import fingerprints, read_card, read_dataset
from assay.ledger.ledger import CARRIED_ROWS, FROM_SCORER, Ledger, Row, open_ledger, quoted
from assay.ledger.query import ID, Layout, RowQuery, read_query
from assay.ledger.rows import INJECTED, LABELLED, USES, as_uuids
from assay.project.layout import Project

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

LEARNED = ("train", "labelled", "adapt", "calibration", "target")
JUDGED = ("selection", "test")


@dataclass(frozen=True, slots=True)
class Answer:
    """Who saw some rows.

    Attributes
    ----------
    asked : RowQuery
    known : list of bool
        For each row asked about, whether any run or scorer here used it.
    scorers : list of dict
        Deployed ones first. ``uses``: what the scorer learned from or was judged by; ``run_only``: what its run used
        beside it (rows injected in the stress test, the pool, excluded rows). Both map a use to how many of
        the ``rows`` asked about, and how many ``stored`` rows have their content (duplicates count).
    runs : list of dict
        Every run that used any of them, oldest first.
    notes : list of str
    """

    asked: RowQuery
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
        """What to call to train anew, for each dataset with a scorer that used the rows."""
        return [f"assay run --dataset {name}" for name in sorted({r["dataset"] for r in self.scorers if r["uses"]})]

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets whose scorers or runs used the rows; where none did, of those whose columns fit."""
        return sorted({row["dataset"] for row in (*self.scorers, *self.runs)}) or self.asked.datasets

    def lines(self, *, advice: bool = True) -> list[str]:
        """Return the answer as text, with or without what to call next."""
        asked, known = self.asked, sum(self.known)
        what = f"{asked.path.name}: {asked.n_rows} rows, {asked.different} different, told by {asked.by}"
        where = f" in {', '.join(self.datasets)}" if self.datasets else ""
        lines = [f"{what}{where}; {known} were used here, {asked.n_rows - known} were not"]
        if self.scorers:
            lines += ["", *_aligned([_SCORER_HEAD, *map(_cells, self.scorers)])]
        if self.runs:
            lines += ["", *_aligned([_RUN_HEAD, *map(_run_cells, self.runs)])]
        lines += ["", *(f"note: {note}" for note in self.notes)] if self.notes else []
        if self.learned and advice:
            lines += ["", f"to exclude the rows: assay audit quarantine {asked.path} --why WHY"]
            lines += [f"to train anew:       {command}" for command in self.commands]
        return lines

    def to_json(self) -> Row:
        """Return the answer as plain JSON values."""
        return {
            "file": str(self.asked.path),
            "matched_by": self.asked.by,
            "datasets": self.datasets,
            "rows": self.asked.n_rows,
            "different": self.asked.different,
            "known": sum(self.known),
            "unknown_rows": [place for place, known in enumerate(self.known) if not known],
            "scorers": self.scorers,
            "runs": self.runs,
            "retrain": self.commands,
            "notes": self.notes,
        }


def who_saw(project: Project, path: Path, *, dataset: str | None = None) -> Answer:
    """Match the rows of a file to every run and scorer that the ledger knows.

    Raises
    ------
    DataError
        The file cannot be used.
    LedgerError
        A newer version of Assay wrote the ledger.
    """
    ledger = open_ledger(project)
    return answer_query(ledger, read_query(path, layouts_of(ledger), dataset=dataset), dataset)


def layouts_of(ledger: Ledger) -> list[Layout]:
    """Return the columns of every dataset that is in ``data/``, or that a run or a scorer here used."""
    cards = [read_card(path.parent) for path in sorted((ledger.root / "data").glob("*/card.json"))]
    found = {(card.name, card.columns): card.id_column for card in cards}
    names = {card.name: card.id_column for card in cards}
    with ledger.connect() as connection:
        used = connection.execute("SELECT DISTINCT dataset, columns FROM files ORDER BY ALL").fetchall()
    for name, columns in used:
        if columns:
            found.setdefault((name, tuple(columns)), names.get(name))
    return [Layout(name, columns, id_column) for (name, columns), id_column in found.items()]


def answer_query(ledger: Ledger, asked: RowQuery, dataset: str | None = None) -> Answer:
    """Find the rows in the ledger; see `who_saw`."""
    with ledger.connect() as connection:
        find(connection, ledger.root, asked, dataset)
        same = "a.key = h.key AND a.dataset IS NOT DISTINCT FROM h.named"
        places = connection.execute(f"SELECT DISTINCT a.place FROM asked a SEMI JOIN hits h ON {same}").fetchall()
        seen = {place for (place,) in places}
        uses = _scorer_uses(connection)
        runs = _runs(connection)
        known_from = dict(connection.execute("SELECT scorer, known_from FROM scorers").fetchall())
    listed = {row["tag"]: row for row in ledger.scorers}
    scorers = [_scorer(tag, found, listed.get(tag)) for tag, found in uses.items()]
    scorers.sort(key=lambda row: (not row["champion"], not {*row["uses"]} & {*LEARNED}, row["scorer"]))
    notes = [*asked.notes, *ledger.notes]
    short = sorted(tag for tag, whence in known_from.items() if whence == FROM_SCORER)
    notes += [f"{tag} was made elsewhere: only the rows that it learned from are known" for tag in short]
    return Answer(asked, [place in seen for place in range(asked.n_rows)], scorers, runs, notes)


def find(
    connection: duckdb.DuckDBPyConnection,
    root: Path,
    asked: RowQuery,
    dataset: str | None = None,
    *,
    contents: bool = False,
) -> None:
    """Scan the kept rows once for those asked about, into the table ``hits``.

    Its columns: the ``key`` that rows of the file asked about are told by and the dataset that it was ``named`` for,
    the first ``place`` in that file with this key and how many ``copies`` it has there, ``rows`` (the file of rows),
    the ``number`` of the row in it, ``use`` and ``rho``; with `contents` also ``fingerprint``, which makes questions
    by id slower. A table ``asked`` holds every place with its key.
    """
    import pyarrow as pa

    by_id = asked.by == ID
    key = pa.array(asked.keys["key"], pa.string()) if by_id else as_uuids(asked.keys["key"])
    places, names = pa.array(asked.keys["place"], pa.int64()), pa.array(asked.keys["dataset"], pa.string())
    connection.register("given", pa.table({"place": places, "dataset": names, "key": key}))
    connection.execute("CREATE TEMP TABLE asked AS SELECT * FROM given")
    connection.execute("CREATE TEMP TABLE chosen AS SELECT * FROM files WHERE ? IN ('', dataset)", [dataset or ""])
    paths = connection.execute(
        "SELECT path FROM chosen WHERE dataset IN (SELECT dataset FROM asked) "
        "OR EXISTS (FROM asked WHERE dataset IS NULL) ORDER BY path"
    ).fetchall()
    lists = [root / path for (path,) in paths if Path(path).name.startswith(CARRIED_ROWS)] if by_id else []
    content = ", r.fingerprint" if contents or lists else ""
    wanted = "(SELECT min(place) AS place, count(*) AS copies, dataset, key FROM asked GROUP BY ALL)"
    connection.execute(
        f"CREATE TEMP TABLE hits AS WITH found AS ("
        f"SELECT a.place, a.copies, a.key, a.dataset AS named, r.filename, r.file_row_number AS number, r.use, "
        f"r.rho{content} FROM {_source([root / path for (path,) in paths])} r "
        f"JOIN {wanted} a ON a.key = r.{'row_id' if by_id else 'fingerprint'}) "
        f"SELECT found.* EXCLUDE (filename), rows FROM found JOIN chosen "
        f"ON parse_filename(filename, true) = rows WHERE named IS NULL OR named = chosen.dataset"
    )
    if lists:
        _find_in_lists(connection, root, asked, lists)


def _source(paths: list[Path]) -> str:
    """Return the SQL that reads files of rows, none of them too."""
    if paths:
        return f"read_parquet([{', '.join(map(quoted, paths))}], filename = true, file_row_number = true)"
    nothing = "NULL::VARCHAR AS filename, 0 AS file_row_number, '' AS use, 0.0 AS rho, '' AS row_id"
    return f"(SELECT {nothing}, NULL::UUID AS fingerprint LIMIT 0)"


def _find_in_lists(connection: duckdb.DuckDBPyConnection, root: Path, asked: RowQuery, lists: list[Path]) -> None:
    """Find rows told by id in scorers' own lists, which hold contents alone.

    An id stands for the content that it has in ``data/`` now, and for every one that it had when a run used it.
    """
    import pyarrow as pa

    now = contents_now(root, asked)
    columns = {name: pa.array(now[name], pa.string()) for name in ("dataset", "key")}
    connection.register("now", pa.table({**columns, "fingerprint": as_uuids(now["fingerprint"])}))
    connection.execute(
        f"INSERT INTO hits BY NAME WITH known AS ("
        f"FROM now UNION SELECT dataset, key, fingerprint FROM hits JOIN files USING (rows)), "
        f"told AS (SELECT min(place) AS place, count(*) AS copies, dataset, key, fingerprint "
        f"FROM asked JOIN known USING (dataset, key) GROUP BY ALL) "
        f"SELECT t.place, t.copies, t.key, t.dataset AS named, r.file_row_number AS number, r.use, r.rho, "
        f"r.fingerprint, rows FROM {_source(lists)} r JOIN told t USING (fingerprint) "
        f"JOIN chosen c ON parse_filename(r.filename, true) = rows AND c.dataset = t.dataset"
    )


def contents_now(root: Path, asked: RowQuery) -> pd.DataFrame:
    """Return ``dataset``, ``key`` (row id) and ``fingerprint`` of rows told by id, as they are in ``data/`` now."""
    import pandas as pd

    parts = [pd.DataFrame({"dataset": [], "key": [], "fingerprint": []}, dtype="str")]
    for name in asked.datasets:
        if (root / "data" / name / "card.json").is_file():
            found = read_dataset(root / "data" / name)
            ids = asked.keys.loc[asked.keys["dataset"] == name, "key"]
            rows = found.data.take(found.data.rows["row_id"].isin(ids).to_numpy(dtype=bool))
            prints = fingerprints(rows.features, found.card.columns)
            parts.append(pd.DataFrame({"dataset": name, "key": rows.rows["row_id"], "fingerprint": prints}))
    return pd.concat(parts, ignore_index=True)


def _counts(kinds: str, source: str) -> str:
    """Return the SQL that counts hits of each kind: rows asked about, and stored rows with their content."""
    return (
        f"SELECT {kinds}, sum(copies)::INTEGER AS n_rows, sum(numbers)::INTEGER AS n_stored FROM ("
        f"SELECT {kinds}, place, max(copies) AS copies, count(DISTINCT number) AS numbers FROM {source} GROUP BY ALL"
        f") GROUP BY ALL"
    )


def _scorer_uses(connection: duckdb.DuckDBPyConnection) -> dict[str, Row]:
    """Return, by scorer, the counts of each use, and apart from them what its run alone used.

    Hits are counted once for all scorers of the same rows, level and use of labels.
    """
    own = (
        f"CASE h.use WHEN '{INJECTED}' THEN h.rho <= k.level WHEN '{LABELLED}' THEN k.labels "
        f"ELSE h.use IN {(*LEARNED, *JUDGED)!r} END"
    )
    kinds = "(SELECT DISTINCT rows, rho AS level, labels FROM scorers)"
    counted = _counts(
        "rows, level, labels, own, use", f"(SELECT *, ({own}) AS own FROM hits h JOIN {kinds} k USING (rows))"
    )
    found = connection.execute(
        f"SELECT scorer, own, use, n_rows, n_stored FROM ({counted}) c JOIN scorers s "
        f"ON c.rows = s.rows AND c.level = s.rho AND c.labels = s.labels"
    ).fetchall()
    uses: dict[str, Row] = {}
    for tag, is_own, use, rows, stored in found:
        kinds_of = uses.setdefault(tag, {"uses": {}, "run_only": {}})
        kinds_of["uses" if is_own else "run_only"][use] = {"rows": rows, "stored": stored}
    return {tag: {kind: _ordered(counts) for kind, counts in kinds_of.items()} for tag, kinds_of in uses.items()}


def _runs(connection: duckdb.DuckDBPyConnection) -> list[Row]:
    """Return the runs that used any of the rows; hits are counted once for all runs that read the same files."""
    read = (
        "SELECT run, data_version, use, list(rows ORDER BY rows) AS sources "
        "FROM reads JOIN files USING (rows) GROUP BY ALL"
    )
    each = f"(SELECT sources, use, unnest(sources) AS rows FROM (SELECT DISTINCT sources, use FROM ({read})))"
    counted = _counts("sources, use", f"(FROM hits JOIN {each} USING (rows, use))")
    found = connection.execute(
        f"SELECT u.run, u.driver, u.dataset, r.data_version, u.started, u.state, u.reason, use, n_rows, n_stored "
        f"FROM ({read}) r JOIN ({counted}) USING (sources, use) JOIN runs u USING (run) "
        f"ORDER BY u.started, u.run, r.data_version"
    ).fetchall()
    made: dict[str, list[str]] = {}
    for run, tag in connection.execute("SELECT run, scorer FROM scorers ORDER BY ALL").fetchall():
        made.setdefault(run, []).append(tag)
    names = ("run", "driver", "dataset", "data_version", "started", "state", "reason")
    runs: dict[tuple[Any, ...], Row] = {}
    for *about, use, rows, stored in found:
        row = runs.setdefault(
            tuple(about), {**dict(zip(names, about, strict=True)), "scorers": made.get(about[0], []), "uses": {}}
        )
        row["uses"][use] = {"rows": rows, "stored": stored}
    return [{**row, "uses": _ordered(row["uses"])} for row in runs.values()]


def _scorer(tag: str, found: Row, listed: Row | None) -> Row:
    """Describe a scorer that used the rows; `listed` is None where its folder is gone."""
    return {
        "scorer": tag,
        "dataset": tag.partition(":")[0],
        "champion": listed is not None and listed["champion"],
        "bento": None if listed is None else listed["bento"],
        "folder": None if listed is None else listed["folder"],
        "broken": "its folder is gone" if listed is None else listed["broken"],
        "quarantined": {} if listed is None else listed["quarantined"],
        **found,
    }


_SCORER_HEAD = ("scorer", "deployed", *LEARNED, *JUDGED, "only its run", "")
_RUN_HEAD = ("run", "driver", "started", "state", "data version", "used")


def _cells(row: Row) -> tuple[str, ...]:
    counts = (str(row["uses"].get(use, {"rows": 0})["rows"] or "-") for use in (*LEARNED, *JUDGED))
    deployed = "champion" if row["champion"] else "Bento" if row["bento"] else "-"
    barred = f"learned from quarantined rows ({_told(row['quarantined'])})" if row["quarantined"] else ""
    remarks = "; ".join(filter(None, (barred, row["broken"])))
    return (row["scorer"], deployed, *counts, _told(row["run_only"]) or "-", remarks)


def _run_cells(row: Row) -> tuple[str, ...]:
    version = (row["data_version"] or "-")[:12]
    return (row["run"][:12], row["driver"], row["started"], row["state"], version, _told(row["uses"]))


def _told(uses: Row) -> str:
    """Return counts by use in words; a count is a number, or a dict with the number of ``rows``."""
    return ", ".join(f"{use} {n['rows'] if isinstance(n, dict) else n}" for use, n in uses.items())


def _aligned(table: list[tuple[str, ...]]) -> list[str]:
    """Return lines with columns as wide as their widest cell, and without those that say nothing."""
    columns = [column for column in zip(*table, strict=True) if {*column[1:]} - {"-", ""}]
    widths = [max(map(len, column)) for column in columns]
    rows = zip(*columns, strict=True)
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _ordered(counts: Row) -> Row:
    return {use: counts[use] for use in _order(counts)}


def _order(uses: Iterable[str]) -> list[str]:
    return sorted(uses, key=lambda use: (USES.index(use) if use in USES else len(USES), use))
