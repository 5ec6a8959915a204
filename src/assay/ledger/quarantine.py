"""Putting rows into a dataset's quarantine and lifting it: the file, the event, and whom it concerns."""

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
    """What became of a quarantine, and who saw the rows.

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
        Contents that were in the quarantine already; of those to be lifted: that were not in it.
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
        """Return all of it as text."""
        done, rest = ("lifted", "not in it") if self.lifted else ("put in", "in it already")
        return [
            f"{self.path}: {self.changed} {done}, {self.already} {rest}, {self.listed} in all; "
            f"{self.in_data} rows of {self.dataset} as it is now have such content",
            f"keep it: git add {self.path}",
            f"next: assay run --dataset {self.dataset}",
            "",
            *self.seen.lines(advice=False),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON values."""
        names = ("dataset", "lifted", "changed", "already", "listed", "in_data")
        return {**{name: getattr(self, name) for name in names}, "path": str(self.path), **self.seen.to_json()}


def quarantine(project: Project, path: Path, *, why: str, dataset: str | None = None, lift: bool = False) -> Quarantine:
    """Exclude the rows of a file from every later run of a dataset, or lift that.

    Raises
    ------
    DataError
        The file cannot be used, fits several datasets or none, no row of it can be told, or none is to be lifted.
    ConfigError
        ``dvc.yaml`` does not make the split depend on the quarantine, or no reason is given.
    StageError
        A run is going on.
    """
    _require_dependency(project)
    if not why.strip():
        raise ConfigError("--why is empty; say why, it is kept on record")
    ledger = open_ledger(project)
    asked = read_query(path, layouts_of(ledger), dataset=dataset)
    now = _data_now(project.root, [dataset] if dataset else asked.datasets)
    name = dataset or _the_dataset(ledger, asked, now)
    data = now.get(name, _NO_ROWS)
    entries, notes = _entries(ledger, asked, name, data)
    if not lift and (n := int(entries["fingerprint"].isin(target_fingerprints(project.root, name)).sum())):
        notes.append(f"{n} of them are in targets/{name}.csv too, which this does not change: see `assay reweight`")
    with project.lock():
        changed, listed = _write(project, name, entries, why=" ".join(why.split()), lift=lift)
    seen = answer_query(open_ledger(project), replace(asked, notes=(*asked.notes, *notes)), name)
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


def _write(project: Project, name: str, entries: pd.DataFrame, *, why: str, lift: bool) -> tuple[int, int]:
    """Change the file and log it; return how many contents were moved, and how many are listed now."""
    file = quarantine_path(project.root, name)
    before = read_quarantine(file)
    inside = entries["fingerprint"].isin(before["fingerprint"])
    moving = entries[inside if lift else ~inside]
    if lift and moving.empty:
        raise DataError(f"none of the rows is in {file}; nothing was changed")
    if moving.empty:
        return 0, len(before)
    if lift:
        after = before[~before["fingerprint"].isin(moving["fingerprint"])]
    else:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        after = pd.concat([before, moving.assign(why=why, when=when)], ignore_index=True)
    write_quarantine(file, after)
    event = "quarantine-lifted" if lift else "quarantined"
    project.events.append(event, dataset=name, rows=len(moving), why=why, file=hash_file(file))
    return len(moving), len(after)


_NO_ROWS = pd.DataFrame({"fingerprint": [], "row_id": []}, dtype="str")


def _require_dependency(project: Project) -> None:
    wanted = f"quarantine/{project.dataset}.csv"
    if wanted not in project.stages["split"].inputs:
        raise ConfigError(
            "dvc.yaml: the stage split does not depend on the quarantine, so that no run would heed it; add the line "
            '- "quarantine/${dataset}.csv" to its deps'
        )


def _data_now(root: Path, names: list[str]) -> dict[str, pd.DataFrame]:
    """Return fingerprint and row id of every row of these datasets (none named: of all) in ``data/``, by dataset."""
    found = {}
    for card in sorted((root / "data").glob("*/card.json")):
        if names and card.parent.name not in names:
            continue
        dataset = read_dataset(card.parent)
        prints = fingerprints(dataset.data.features, dataset.card.columns)
        found[dataset.card.name] = pd.DataFrame({"fingerprint": prints, "row_id": dataset.data.rows["row_id"]})
    return found


def _the_dataset(ledger: Ledger, asked: RowQuery, now: dict[str, pd.DataFrame]) -> str:
    """Return the one dataset that the rows belong to."""
    names = set(asked.datasets)
    if asked.by in (ID, PRINT):
        column = "row_id" if asked.by == ID else "fingerprint"
        here = {name for name, rows in now.items() if rows[column].isin(asked.keys["key"]).any()}
        with ledger.connect() as connection:
            find(connection, ledger.root, asked)
            once = connection.execute("SELECT DISTINCT dataset FROM hits JOIN files USING (rows)").fetchall()
        found = here | {name for (name,) in once}
        names = found & names if names else found
    if len(names) != 1:
        told = f"fit several datasets ({', '.join(sorted(names))})" if names else "are in no dataset here"
        raise DataError(f"the rows of {asked.path.name} {told}; nothing was changed. Name the dataset with --dataset")
    return names.pop()


def _entries(ledger: Ledger, asked: RowQuery, name: str, now: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the different contents asked about with a row id each, and notes.

    A row told by its id has the content that it has in ``data/`` now, or else that it had when a run used it.
    """
    if asked.by != ID:
        keys = asked.keys[asked.keys["dataset"].fillna(name) == name]
        given = pd.DataFrame({"fingerprint": keys["key"], "row_id": asked.row_ids[keys["place"].to_numpy()]})
        known = now.drop_duplicates("fingerprint").set_index("fingerprint")["row_id"]
        ids = np.where(given["row_id"] == "", given["fingerprint"].map(known).fillna(""), given["row_id"])
        return given.assign(row_id=ids).drop_duplicates("fingerprint"), []
    wanted = asked.keys.loc[asked.keys["dataset"] == name, "key"].drop_duplicates()
    entries = now[now["row_id"].isin(wanted)]
    with ledger.connect() as connection:
        find(connection, ledger.root, asked, name, contents=True)
        used = connection.execute(
            "SELECT DISTINCT replace(fingerprint::VARCHAR, '-', ''), key FROM hits ORDER BY ALL"
        ).fetchall()
    here = {*entries["row_id"]}
    gone = [row for row in used if row[1] not in here]
    entries = pd.concat([entries, pd.DataFrame(gone, columns=["fingerprint", "row_id"], dtype="str")])
    unknown = sorted({*wanted} - {*entries["row_id"]})
    if entries.empty:
        raise DataError(f"no row of {asked.path.name} is known in dataset {name}; nothing was changed")
    notes = [f"{len(unknown)} row ids are not known and are left out: {', '.join(unknown[:6])}"] if unknown else []
    return entries.drop_duplicates("fingerprint"), notes
