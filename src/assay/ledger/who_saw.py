"""The scorers and runs that used given rows, and for what."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from assay.data.card import read_card
from assay.data.dialects import OBSERVED, Dialect
from assay.data.words import WORD_COLUMNS
from assay.errors import DataError
from assay.ledger.hits import EVALUATED, LEARNED, find, run_uses, scorer_uses
from assay.ledger.ledger import FROM_SCORER, Ledger, Row, open_ledger
from assay.ledger.query import Layout, RowQuery, query_of_batch, read_query
from assay.ledger.spans import spans_of
from assay.project.layout import Project


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
        spans = partial(spans_of, ledger)
        return read_query(path, layouts_of(ledger), dataset=dataset, content=content, dialect=dialect, spans=spans)
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
    plans = {(card.name, card.columns): card.windows for card in cards}
    layouts = []
    for (name, columns), id_column in id_columns.items():
        text = texts.get(name)
        if columns == WORD_COLUMNS and text is not None:
            layouts.append(Layout(name, (text,), id_column, coded=(text,), of_texts=True))
            continue
        coded, dates = (tuple(c for c in columns if c in names) for names in kinds.get(name, ((), ())))
        layouts.append(Layout(name, columns, id_column, coded, dates, windows=plans.get((name, columns))))
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
        uses_by_scorer = scorer_uses(connection)
        runs = run_uses(connection)
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


def _scorer(tag: str, uses: Row, description: Row | None) -> Row:
    """Describe a scorer that used the rows; `listed` is None where its folder is gone."""
    return {
        "scorer": tag,
        "dataset": tag.partition(":")[0],
        "champion": description is not None and description["champion"],
        "deployed": None if description is None else _deployed(description),
        "bento": None if description is None else description["bento"],
        "folder": None if description is None else description["folder"],
        "broken": "its folder is not here" if description is None else description["broken"],
        "quarantined": {} if description is None else description["quarantined"],
        "n_statements": 0 if description is None else len(description["statements"]),
        **uses,
    }


def _deployed(description: Row) -> str | None:
    return next((str(each["statement"]) for each in description["statements"] if each["deployed"]), None)


_SCORER_HEAD = ("scorer", "deployed", *LEARNED, *EVALUATED, "only its run", "")
_RUN_HEAD = ("run", "driver", "machine", "started", "state", "data version", "used")


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
    return (
        row["run"][:12],
        row["driver"],
        row["machine"],
        row["started"],
        row["state"],
        version,
        _counts_text(row["uses"]),
    )


def _counts_text(counts: Row) -> str:
    """Return counts by use in words; a count is a number, or a dict with the number of ``rows``."""
    return ", ".join(f"{use} {count['rows'] if isinstance(count, dict) else count}" for use, count in counts.items())


def _aligned(table: list[tuple[str, ...]]) -> list[str]:
    """Return lines with columns as wide as their widest cell, without empty columns."""
    columns = [column for column in zip(*table, strict=True) if {*column[1:]} - {"-", ""}]
    widths = [max(map(len, column)) for column in columns]
    rows = zip(*columns, strict=True)
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
