"""Quarantining rows of a dataset and lifting that: the file, the event, and the scorers that used the rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from assay.arrays import Flags
from assay.data.card import read_card
from assay.data.dataset import read_dataset, row_keys
from assay.data.dialects import OBSERVED, Dialect
from assay.data.quarantine import EVERY_COPY, is_listed, quarantine_content, quarantine_path, read_quarantine
from assay.errors import ConfigError, DataError
from assay.hashing import hash_bytes
from assay.ledger.hits import find
from assay.ledger.ledger import Ledger, open_ledger
from assay.ledger.query import ID, PRINT, RowQuery
from assay.ledger.rows import target_fingerprints
from assay.ledger.who_saw import Answer, answer_query, query_of
from assay.project.layout import Project
from assay.project.pending import Change


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Result of a change to a quarantine, and the runs and scorers that used the rows.

    Attributes
    ----------
    dataset : str
    path : Path
        The quarantine file.
    lifted : bool
        Whether rows were taken out.
    changed : int
        Entries put in, or lifted: rows, or contents.
    already : int
        Entries that were in the quarantine already; when lifting, those that were not in it.
    listed : int
        Entries in the quarantine now.
    in_data : int
        How many rows of the dataset as it is now these entries are about.
    others : int
        How many of these rows the file does not name: copies of its rows, where contents were asked for.
    share : float
        What part they are of all rows that the file does not name.
    seen : Answer
    """

    dataset: str
    path: Path
    lifted: bool
    changed: int
    already: int
    listed: int
    in_data: int
    others: int
    share: float
    seen: Answer

    def lines(self) -> list[str]:
        """Return the result as text."""
        changed, unchanged = ("lifted", "not in it") if self.lifted else ("put in", "in it already")
        others = f"{self.others} of them are rows of equal content that {self.seen.query.path.name} does not name"
        return [
            f"{self.path}: {self.changed} {changed}, {self.already} {unchanged}, {self.listed} in all; "
            f"{self.in_data} rows of {self.dataset} as it is now are meant",
            *([f"{others}, {self.share:.1%} of all such rows{_BY_CONTENT}"] if self.others else []),
            f"keep it: git add {self.path}",
            f"next: assay run --dataset {self.dataset}",
            "",
            *self.seen.lines(advice=False),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        names = ("dataset", "lifted", "changed", "already", "listed", "in_data", "others", "share")
        return {**{name: getattr(self, name) for name in names}, "path": str(self.path), **self.seen.to_json()}


def quarantine(
    project: Project,
    path: Path | None = None,
    *,
    why: str,
    batch: str | None = None,
    dataset: str | None = None,
    lift: bool = False,
    content: bool = False,
    dialect: Dialect = OBSERVED,
) -> Quarantine:
    """Exclude the rows of a file or of a batch from every later run of a dataset, or lift the exclusion.

    A row is told by its id, and by its content too if the file holds it; its copies stay in use. With `content` all
    rows of equal content are excluded, later ones too, and healthy rows that happen to be equal: no false-positive rate
    is promised for such content then. `dialect` says how a CSV file is written.

    Raises
    ------
    DataError
        The file cannot be used, fits several datasets or none, none of its rows is known or to be lifted, or it has no
        ids and its contents are also those of other rows.
    ConfigError
        ``dvc.yaml`` does not make the split depend on the quarantine, or no reason is given.
    StageError
        Another command holds the project's lock.
    """
    _require_dependency(project)
    if not why.strip():
        raise ConfigError("--why is empty; give the reason, which is recorded")
    ledger = open_ledger(project)
    query = query_of(ledger, path, batch=batch, dataset=dataset, content=content, dialect=dialect)
    current_rows = _data_now(project.root, [dataset] if dataset else query.datasets)
    name = dataset or (query.datasets[0] if batch else _the_dataset(ledger, query, current_rows))
    query = _by_scheme_of(project.root, name, query)
    data = current_rows.get(name, _NO_ROWS)
    listed_before = read_quarantine(quarantine_path(project.root, name))
    notes: list[str] = []
    if content:
        entries = _contents(query, name, data)
    elif query.by == ID:
        entries, notes = _rows_by_id(ledger, query, name, pd.concat([data, _dropped(project.root, name)]))
    else:
        entries = _rows_by_content(query, name, listed_before if lift else data)
    if not lift and (count := int(entries["fingerprint"].isin(target_fingerprints(project.root, name)).sum())):
        notes.append(f"{count} of them are in targets/{name}.csv too, which this does not change: see `assay reweight`")
    with project.lock():
        changed, listed = _write(project, name, entries, why=" ".join(why.split()), lift=lift)
    n_named = _n_named(query, name, data)
    others = int(is_listed(entries, data).sum()) - n_named if content else 0
    seen = answer_query(open_ledger(project), replace(query, notes=(*query.notes, *notes)), name)
    return Quarantine(
        dataset=name,
        path=quarantine_path(project.root, name).relative_to(project.root),
        lifted=lift,
        changed=changed,
        already=len(entries) - changed,
        listed=listed,
        in_data=int(is_listed(entries, data).sum()),
        others=others,
        share=others / max(1, len(data) - n_named),
        seen=seen,
    )


def _by_scheme_of(root: Path, name: str, query: RowQuery) -> RowQuery:
    """Return the query without fingerprints of another scheme than that of a dataset in ``data/``."""
    if not (root / "data" / name / "card.json").is_file():
        return query
    return replace(query, keys=query.keys[query.keys["scheme"].isin((0, read_card(root / "data" / name).scheme))])


def _write(project: Project, name: str, new_entries: pd.DataFrame, *, why: str, lift: bool) -> tuple[int, int]:
    """Change the file and log it; return the number of changed entries, and of those listed now."""
    file = quarantine_path(project.root, name)
    entries_before = read_quarantine(file)
    found, there = pd.Index(row_keys(new_entries)), pd.Index(row_keys(entries_before))
    moving = new_entries[found.isin(there) if lift else ~found.isin(there)]
    if lift and moving.empty:
        by_content = is_listed(entries_before[entries_before["copy"] == EVERY_COPY], new_entries).any()
        advice = "; contents of them are: `--content` lifts these, for all rows that have them" if by_content else ""
        raise DataError(f"none of the rows is in {file}{advice}; nothing was changed")
    if moving.empty:
        return 0, len(entries_before)
    if lift:
        entries_after = entries_before[~there.isin(found)]
    else:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        entries_after = pd.concat([entries_before, moving.assign(why=why, when=when)], ignore_index=True)
    content = quarantine_content(entries_after)
    with Change(project.root) as change:
        change.write(file, content)
        event = "quarantine-lifted" if lift else "quarantined"
        change.commit(event, {"dataset": name, "rows": len(moving), "why": why, "file": hash_bytes(content)})
    return len(moving), len(entries_after)


_NO_ROWS = pd.DataFrame({"fingerprint": [], "copy": [], "row_id": []}, dtype="str")
_BY_CONTENT = "; without them no false-positive rate is promised for such content"


def _require_dependency(project: Project) -> None:
    path = f"quarantine/{project.dataset}.csv"
    if path not in project.stage("split").inputs:
        raise ConfigError(
            "dvc.yaml: the stage split does not depend on the quarantine, so that runs would ignore it; add the line "
            '- "quarantine/${item}.csv" to its deps'
        )


def _data_now(root: Path, names: list[str]) -> dict[str, pd.DataFrame]:
    """Return what an entry tells of every row in ``data/``, by dataset; of all datasets if `names` is empty."""
    datasets = {}
    for card in sorted((root / "data").glob("*/card.json")):
        if names and card.parent.name not in names:
            continue
        dataset = read_dataset(card.parent)
        prints = dataset.card.fingerprints(dataset.data.features)
        rows = dataset.data.rows.assign(fingerprint=prints, copy=dataset.data.rows["copy"].astype("str"))
        datasets[dataset.card.name] = rows[list(_NO_ROWS)]
    return datasets


def _dropped(root: Path, name: str) -> pd.DataFrame:
    """Return what an entry tells of every row that left a dataset in ``data/`` with its batch."""
    folder = root / "data" / name
    dropped = read_dataset(folder).dropped if (folder / "card.json").is_file() else None
    return _NO_ROWS if dropped is None else dropped.assign(copy=dropped["copy"].astype("str"))[list(_NO_ROWS)]


def _the_dataset(ledger: Ledger, query: RowQuery, current_rows: dict[str, pd.DataFrame]) -> str:
    """Return the one dataset that the rows belong to."""
    names = set(query.datasets)
    if query.by in (ID, PRINT):
        in_data = {name for name, rows in current_rows.items() if _n_named(query, name, rows)}
        with ledger.connect() as connection:
            find(connection, ledger.root, query)
            used = connection.execute("SELECT DISTINCT dataset FROM hits JOIN files USING (rows)").fetchall()
        candidates = in_data | {name for (name,) in used}
        names = candidates & names if names else candidates
    if len(names) != 1:
        problem = f"fit several datasets ({', '.join(sorted(names))})" if names else "are in no dataset here"
        raise DataError(
            f"the rows of {query.path.name} {problem}; nothing was changed. Name the dataset with --dataset"
        )
    return names.pop()


def _queried(query: RowQuery, name: str) -> pd.DataFrame:
    """Return ``fingerprint`` and ``row_id`` of the rows of a query by content that fit a dataset."""
    keys = query.keys[query.keys["dataset"].fillna(name) == name]
    return pd.DataFrame({"fingerprint": keys["key"], "row_id": query.row_ids[keys["place"].to_numpy()]})


def _contents(query: RowQuery, name: str, current_rows: pd.DataFrame) -> pd.DataFrame:
    """Return an entry for every different content of the queried rows, with the id of a row that has it."""
    queried = _queried(query, name)
    current_ids = current_rows.drop_duplicates("fingerprint").set_index("fingerprint")["row_id"]
    ids = np.where(queried["row_id"] == "", queried["fingerprint"].map(current_ids).fillna(""), queried["row_id"])
    return queried.assign(row_id=ids, copy=EVERY_COPY).drop_duplicates("fingerprint")[list(_NO_ROWS)]


def _rows_by_content(query: RowQuery, name: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the entries of rows that have the contents of a file without ids, if no other rows have them."""
    asked = _queried(query, name)["fingerprint"]
    found = rows[rows["fingerprint"].isin(asked)]
    file = query.path.name
    by_content = "--content takes every row of equal content, later ones too"
    if found.empty:
        raise DataError(f"no row of {file} is known in dataset {name}; nothing was changed ({by_content})")
    more = found["fingerprint"].value_counts().sub(asked.value_counts(), fill_value=0).clip(lower=0)
    if others := int(more.sum()):
        share = others / max(1, len(rows) - (len(found) - others))
        raise DataError(
            f"{file} has no row ids, and {len(found)} rows of {name} have the content of its {query.n_rows}; nothing "
            f"was changed. Add the column of ids ({by_content}: {others} more than are in the file, {share:.1%} of the "
            "rest)"
        )
    return found[list(_NO_ROWS)]


def _rows_by_id(
    ledger: Ledger, query: RowQuery, name: str, current_rows: pd.DataFrame
) -> tuple[pd.DataFrame, list[str]]:
    """Return the entries of the queried rows, and notes.

    A row id stands for its content and copy in ``data/`` now, or when its batch was dropped, or else for those when a
    run used it. Runs of before did not keep the number of the copy; such rows are listed by content.
    """
    keys = query.keys[query.keys["dataset"] == name]
    entries = current_rows[_named(keys, current_rows)]
    with ledger.connect() as connection:
        find(connection, ledger.root, query, name, contents=True)
        used_rows = connection.execute(
            "SELECT DISTINCT replace(fingerprint::VARCHAR, '-', ''), coalesce(copy::VARCHAR, ''), key "
            "FROM hits ORDER BY ALL"
        ).fetchall()
    ids_in_data = {*entries["row_id"]}
    past_rows = pd.DataFrame(
        [row for row in used_rows if row[2] not in ids_in_data], columns=list(_NO_ROWS), dtype="str"
    )
    entries = pd.concat([entries, past_rows])
    unknown = sorted({*keys["key"]} - {*entries["row_id"]})
    if entries.empty:
        raise DataError(f"no row of {query.path.name} is known in dataset {name}; nothing was changed")
    notes = [f"{len(unknown)} row ids are not known and are left out: {', '.join(unknown[:6])}"] if unknown else []
    return entries.drop_duplicates(["fingerprint", "copy"]), notes


def _named(keys: pd.DataFrame, rows: pd.DataFrame) -> Flags:
    """Return which rows have an id among the keys, and the content that a key asks for too."""
    if "fingerprint" not in keys:
        return rows["row_id"].isin(keys["key"]).to_numpy(dtype=bool)
    pairs = pd.MultiIndex.from_frame(keys[["key", "fingerprint"]])
    return np.asarray(pd.MultiIndex.from_frame(rows[["row_id", "fingerprint"]]).isin(pairs))


def _n_named(query: RowQuery, name: str, rows: pd.DataFrame) -> int:
    """Return how many rows the file names: by id if it has ids, else as many of each content as are in it."""
    if query.by == ID:
        return int(_named(query.keys[query.keys["dataset"] == name], rows).sum())
    queried = _queried(query, name)
    if (queried["row_id"] != "").all():
        pairs = pd.MultiIndex.from_frame(queried)
        return int(pd.MultiIndex.from_frame(rows[["fingerprint", "row_id"]]).isin(pairs).sum())
    asked, there = queried["fingerprint"].value_counts(), rows["fingerprint"].value_counts()
    return int(there[there.index.isin(asked.index)].clip(upper=asked.reindex(there.index)).sum())
