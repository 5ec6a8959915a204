"""Quarantining rows of a dataset and lifting that: the file, the event, and the scorers that used the rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from assay.data.dataset import fingerprints, read_dataset
from assay.data.quarantine import quarantine_path, read_quarantine, write_quarantine
from assay.errors import ConfigError, DataError
from assay.hashing import hash_file
from assay.ledger.ledger import Ledger, open_ledger
from assay.ledger.query import ID, PRINT, RowQuery, read_query
from assay.ledger.rows import target_fingerprints
from assay.ledger.who_saw import Answer, answer_query, find, layouts_of
from assay.project.layout import Project


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
        Contents put in, or lifted.
    already : int
        Contents that were in the quarantine already; when lifting, those that were not in it.
    listed : int
        Contents in the quarantine now.
    in_data : int
        How many rows of the dataset as it is now have the content of a row of the file.
    seen : Answer
    """

    dataset: str
    path: Path
    lifted: bool
    changed: int
    already: int
    listed: int
    in_data: int
    seen: Answer

    def lines(self) -> list[str]:
        """Return the result as text."""
        changed, unchanged = ("lifted", "not in it") if self.lifted else ("put in", "in it already")
        return [
            f"{self.path}: {self.changed} {changed}, {self.already} {unchanged}, {self.listed} in all; "
            f"{self.in_data} rows of {self.dataset} as it is now have such content",
            f"keep it: git add {self.path}",
            f"next: assay run --dataset {self.dataset}",
            "",
            *self.seen.lines(advice=False),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        names = ("dataset", "lifted", "changed", "already", "listed", "in_data")
        return {**{name: getattr(self, name) for name in names}, "path": str(self.path), **self.seen.to_json()}


def quarantine(project: Project, path: Path, *, why: str, dataset: str | None = None, lift: bool = False) -> Quarantine:
    """Exclude the rows of a file from every later run of a dataset, or lift the exclusion.

    Raises
    ------
    DataError
        The file cannot be used, fits several datasets or none, or none of its rows is known or to be lifted.
    ConfigError
        ``dvc.yaml`` does not make the split depend on the quarantine, or no reason is given.
    StageError
        Another command holds the project's lock.
    """
    _require_dependency(project)
    if not why.strip():
        raise ConfigError("--why is empty; give the reason, which is recorded")
    ledger = open_ledger(project)
    query = read_query(path, layouts_of(ledger), dataset=dataset)
    current_rows = _data_now(project.root, [dataset] if dataset else query.datasets)
    name = dataset or _the_dataset(ledger, query, current_rows)
    data = current_rows.get(name, _NO_ROWS)
    entries, notes = _entries(ledger, query, name, data)
    if not lift and (count := int(entries["fingerprint"].isin(target_fingerprints(project.root, name)).sum())):
        notes.append(f"{count} of them are in targets/{name}.csv too, which this does not change: see `assay reweight`")
    with project.lock():
        changed, listed = _write(project, name, entries, why=" ".join(why.split()), lift=lift)
    seen = answer_query(open_ledger(project), replace(query, notes=(*query.notes, *notes)), name)
    return Quarantine(
        dataset=name,
        path=quarantine_path(project.root, name).relative_to(project.root),
        lifted=lift,
        changed=changed,
        already=len(entries) - changed,
        listed=listed,
        in_data=int(data["fingerprint"].isin(entries["fingerprint"]).sum()),
        seen=seen,
    )


def _write(project: Project, name: str, new_entries: pd.DataFrame, *, why: str, lift: bool) -> tuple[int, int]:
    """Change the file and log it; return the number of changed contents, and of those listed now."""
    file = quarantine_path(project.root, name)
    entries_before = read_quarantine(file)
    is_listed = new_entries["fingerprint"].isin(entries_before["fingerprint"])
    moving = new_entries[is_listed if lift else ~is_listed]
    if lift and moving.empty:
        raise DataError(f"none of the rows is in {file}; nothing was changed")
    if moving.empty:
        return 0, len(entries_before)
    if lift:
        entries_after = entries_before[~entries_before["fingerprint"].isin(moving["fingerprint"])]
    else:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        entries_after = pd.concat([entries_before, moving.assign(why=why, when=when)], ignore_index=True)
    write_quarantine(file, entries_after)
    event = "quarantine-lifted" if lift else "quarantined"
    project.events.append(event, dataset=name, rows=len(moving), why=why, file=hash_file(file))
    return len(moving), len(entries_after)


_NO_ROWS = pd.DataFrame({"fingerprint": [], "row_id": []}, dtype="str")


def _require_dependency(project: Project) -> None:
    path = f"quarantine/{project.dataset}.csv"
    if path not in project.stage("split").inputs:
        raise ConfigError(
            "dvc.yaml: the stage split does not depend on the quarantine, so that runs would ignore it; add the line "
            '- "quarantine/${item}.csv" to its deps'
        )


def _data_now(root: Path, names: list[str]) -> dict[str, pd.DataFrame]:
    """Return fingerprint and row id of every row in ``data/``, by dataset; of all datasets if `names` is empty."""
    datasets = {}
    for card in sorted((root / "data").glob("*/card.json")):
        if names and card.parent.name not in names:
            continue
        dataset = read_dataset(card.parent)
        prints = fingerprints(dataset.data.features, dataset.card.columns)
        datasets[dataset.card.name] = pd.DataFrame({"fingerprint": prints, "row_id": dataset.data.rows["row_id"]})
    return datasets


def _the_dataset(ledger: Ledger, query: RowQuery, current_rows: dict[str, pd.DataFrame]) -> str:
    """Return the one dataset that the rows belong to."""
    names = set(query.datasets)
    if query.by in (ID, PRINT):
        column = "row_id" if query.by == ID else "fingerprint"
        in_data = {name for name, rows in current_rows.items() if rows[column].isin(query.keys["key"]).any()}
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


def _entries(ledger: Ledger, query: RowQuery, name: str, current_rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the different contents of the queried rows with a row id each, and notes.

    A row id stands for its content in ``data/`` now, or else for its content when a run used it.
    """
    if query.by != ID:
        keys = query.keys[query.keys["dataset"].fillna(name) == name]
        queried = pd.DataFrame({"fingerprint": keys["key"], "row_id": query.row_ids[keys["place"].to_numpy()]})
        current_ids = current_rows.drop_duplicates("fingerprint").set_index("fingerprint")["row_id"]
        ids = np.where(queried["row_id"] == "", queried["fingerprint"].map(current_ids).fillna(""), queried["row_id"])
        return queried.assign(row_id=ids).drop_duplicates("fingerprint"), []
    row_ids = query.keys.loc[query.keys["dataset"] == name, "key"].drop_duplicates()
    entries = current_rows[current_rows["row_id"].isin(row_ids)]
    with ledger.connect() as connection:
        find(connection, ledger.root, query, name, contents=True)
        used_rows = connection.execute(
            "SELECT DISTINCT replace(fingerprint::VARCHAR, '-', ''), key FROM hits ORDER BY ALL"
        ).fetchall()
    ids_in_data = {*entries["row_id"]}
    past_rows = [row for row in used_rows if row[1] not in ids_in_data]
    entries = pd.concat([entries, pd.DataFrame(past_rows, columns=["fingerprint", "row_id"], dtype="str")])
    unknown = sorted({*row_ids} - {*entries["row_id"]})
    if entries.empty:
        raise DataError(f"no row of {query.path.name} is known in dataset {name}; nothing was changed")
    notes = [f"{len(unknown)} row ids are not known and are left out: {', '.join(unknown[:6])}"] if unknown else []
    return entries.drop_duplicates("fingerprint"), notes
