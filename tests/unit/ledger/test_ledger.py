"""The ledger: which rows a scorer or a run used is found again, whatever was overwritten, lost or pulled since."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from tests.conftest import QUICK

from assay.data.answers import ensure_answers
from assay.data.card import Card, read_card
from assay.data.dataset import Dataset, RowSet, read_dataset, read_rows, write_dataset
from assay.data.modalities.tabular import TABULAR
from assay.data.quarantine import ensure_quarantine
from assay.data.target import ensure_target, target_path, write_target
from assay.errors import DataError, LedgerError, TamperedError
from assay.hashing import hash_file
from assay.ledger import ledger as ledger_module
from assay.ledger.history import History
from assay.ledger.hits import find
from assay.ledger.ledger import ledger_folder, open_ledger
from assay.ledger.rows import FIRST, about_rows, keep_rows, pack, rows_folder
from assay.ledger.who_saw import Answer, who_saw
from assay.parts import write_arrays, write_bytes, write_json
from assay.pipeline.learned import packed_rows
from assay.project.freshness import run_verb
from assay.project.layout import Project
from assay.runs import run as runs

ROOT = Path(__file__).parents[3]
FROZEN = ROOT / "tests/frozen/scorer-1/27ce352cf8b7"
NAME, OTHER, COLUMNS = "clinic", "wards", ("age", "pulse", "dose")
SCORER = f"{NAME}:0123456789ab"
READ = ("train", "calibrate", "select", "evaluate", "package")
OWN = ("train", "adapt", "calibration", "selection", "test")


def make_rows(n: int, seed: int, prefix: str) -> RowSet:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, len(COLUMNS))).astype(np.float32)
    labels = (rng.random(n) < 0.2).astype(np.int8)
    ids = [f"{prefix}-{i}" for i in range(n)]
    return RowSet(features, pd.DataFrame({"row_id": ids, "label": labels, "group": "", "time": ""}))


def ingest(root: Path, name: str, data: RowSet, id_column: str | None = None) -> None:
    write_dataset(root / "data" / name, Dataset(Card(name, TABULAR, COLUMNS, "made here", id_column), data))
    ensure_answers(root, name)
    ensure_quarantine(root, name)


def settings(root: Path, **changes: Any) -> Project:
    """Write params.yaml with changes in its sections, and read the project anew."""
    params = yaml.safe_load(QUICK)
    params["contaminate"]["levels"] = [0, 0.1, 0.15]
    for name, value in {"dataset": NAME, **changes}.items():
        params[name] = {**params[name], **value} if isinstance(value, dict) else value
    params["datasets"] = [params["dataset"]]
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    return Project(root)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with one dataset, nothing run."""
    monkeypatch.delenv("BENTOML_HOME", raising=False)
    root = tmp_path / "project"
    root.mkdir()
    shutil.copy(ROOT / "dvc.yaml", root)
    ingest(root, NAME, make_rows(300, 0, "p"))
    return settings(root)


def run(project: Project, *, read: tuple[str, ...] = READ, scorer: str | None = SCORER) -> None:
    """Split and contaminate for real, keep the rows, and log the other stages as they would be."""
    for stage in ("split", "contaminate"):
        run_verb(project, stage)
    name = project.dataset
    keep_rows(project.root, project.events, name)
    for stage in read:
        details = {"scorer": scorer} if stage == "package" and scorer else {}
        project.events.append("stage", stage=stage, dataset=name, record="", seconds=0, details=details)


def roles(project: Project) -> dict[str, pd.DataFrame]:
    """Rows by use, read from ``work/`` without the ledger."""
    work = project.root / "work" / project.dataset
    found = {path.parent.name: pd.read_csv(path) for path in (work / "split").glob("*/rows.csv")}
    return {**found, "injected": pd.read_csv(work / "contaminate/level-0.15/rows.csv")}


def table(project: Project, name: str = NAME) -> pd.DataFrame:
    """All rows of a dataset as a user has them."""
    dataset = read_dataset(project.root / "data" / name)
    frame = pd.DataFrame(dataset.data.features, columns=list(dataset.card.columns))
    return frame.assign(row_id=dataset.data.rows["row_id"].to_numpy())


def ask(project: Project, frame: pd.DataFrame, dataset: str | None = None) -> Answer:
    path = project.root / "asked.csv"
    frame.to_csv(path, index=False)
    return who_saw(project, path, dataset=dataset)


def counts(uses: dict[str, dict[str, int]]) -> dict[str, int]:
    return {use: n["rows"] for use, n in uses.items()}


def expected(project: Project, ids: set[str], names: tuple[str, ...]) -> dict[str, int]:
    found = {use: int(rows["row_id"].isin(ids).sum()) for use, rows in roles(project).items() if use in names}
    return {use: n for use, n in found.items() if n}


def test_every_use_of_rows_is_found_by_content(project: Project) -> None:
    run(project)
    asked = table(project).iloc[::3]
    found = ask(project, asked[["dose", "age", "pulse"]].assign(remark="x"))
    (scorer,) = found.scorers
    assert scorer["scorer"] == SCORER
    assert counts(scorer["uses"]) == expected(project, {*asked["row_id"]}, OWN)
    assert counts(scorer["run_only"]) == expected(project, {*asked["row_id"]}, ("injected", "pool", "gate"))
    (told,) = found.runs
    assert counts(told["uses"]) == counts(scorer["uses"]) | counts(scorer["run_only"])
    assert told["scorers"] == [SCORER]
    assert (found.query.by, sum(found.known)) == ("content", len(asked))
    assert "not used: column 'remark'" in found.notes
    assert list(scorer["uses"]) == [use for use in OWN if use in scorer["uses"]]


def test_rows_are_told_by_id_and_by_fingerprint_too(project: Project) -> None:
    run(project)
    asked = table(project).iloc[:100]
    by_content = ask(project, asked.drop(columns="row_id"))
    by_id = ask(project, asked[["row_id"]])
    prints = pd.concat(roles(project).values())[["row_id", "fingerprint"]].drop_duplicates()
    by_print = ask(project, asked[["row_id"]].merge(prints)[["fingerprint"]])
    assert [found.query.by for found in (by_content, by_id, by_print)] == ["content", "row_id", "fingerprint"]
    assert by_content.scorers == by_id.scorers == by_print.scorers != []


def test_the_column_that_ids_were_ingested_with(project: Project) -> None:
    ingest(project.root, NAME, make_rows(300, 0, "p"), id_column="patient")
    run(project)
    asked = table(project).iloc[:50]
    assert ask(project, asked[["row_id"]].rename(columns={"row_id": "patient"})).scorers
    with pytest.raises(DataError, match=r"lacks 3 of the 3 feature columns .* add them, or a column row_id or patient"):
        ask(project, asked[["row_id"]].rename(columns={"row_id": "name"}))


def test_duplicates_are_counted_and_near_misses_are_not_guessed(project: Project) -> None:
    data = make_rows(300, 0, "p")
    twice = RowSet(
        np.concatenate([data.features, data.features[:1]]),
        pd.concat([data.rows, data.rows.iloc[:1].assign(row_id="again")], ignore_index=True),
    )
    ingest(project.root, NAME, twice)
    run(project)
    one = table(project).iloc[[0]].drop(columns="row_id")
    near = one + np.float32(1e-3)
    found = ask(project, pd.concat([one, one, near, one * 0 - 0.0]))
    assert found.known == [True, True, False, False]
    assert (found.query.n_rows, found.query.different) == (4, 3)
    uses = {**found.scorers[0]["uses"], **found.scorers[0]["run_only"]}.values()
    assert {use["rows"] for use in uses} == {2}
    assert sum(use["stored"] for use in uses) == 2


def test_copies_asked_about_and_copies_stored_are_not_multiplied(project: Project) -> None:
    """A sensor that was off gives thousands of rows of one content, and so does the batch that is asked about."""
    data = make_rows(300, 0, "p")
    features = np.concatenate([data.features, np.zeros((500, 3), dtype=np.float32)])
    off = data.rows.iloc[:1].assign(label=0).loc[[0] * 500].assign(row_id=[f"off-{i}" for i in range(500)])
    ingest(project.root, NAME, RowSet(features, pd.concat([data.rows, off], ignore_index=True)))
    project = settings(project.root, contaminate={"levels": [0, 0.01]})
    run(project)
    asked = pd.DataFrame(np.zeros((400, 3)), columns=list(COLUMNS))
    found = ask(project, pd.concat([asked, table(project).iloc[:1].drop(columns="row_id")]))
    split = project.folder("split")
    zeros = {role: int((read_rows(split / role).features == 0).all(axis=1).sum()) for role in OWN}
    for role, n in zeros.items():
        use = found.scorers[0]["uses"][role]
        assert use in ({"rows": 400, "stored": n}, {"rows": 401, "stored": n + 1})
    assert sum(found.known) == 401
    ledger = open_ledger(project)
    with ledger.connect() as connection:
        find(connection, project.root, found.query)
        assert connection.execute("SELECT count(*) FROM hits").fetchone() == (501,)


def test_runs_are_remembered_when_work_has_moved_on(project: Project) -> None:
    run(project)
    first, before = roles(project), table(project)
    project = settings(project.root, split={"seed": 5})
    run(project, scorer=f"{NAME}:aaaaaaaaaaaa")
    asked = before[before["row_id"].isin(first["train"]["row_id"])]
    by = {row["scorer"]: counts(row["uses"]) for row in ask(project, asked).scorers}
    assert by[SCORER] == {"train": len(asked)}
    assert by[f"{NAME}:aaaaaaaaaaaa"] == expected(project, {*asked["row_id"]}, OWN) != by[SCORER]


def test_rows_are_kept_once_for_all_runs_that_share_them(project: Project) -> None:
    run(project)
    run(project)
    (kept,) = rows_folder(project.root).iterdir()
    assert kept.stem == hash_file(kept)
    other = settings(project.root, split={"seed": 5})
    run(other)
    back = settings(project.root)
    run(back)
    assert len([*rows_folder(project.root).iterdir()]) == 2
    named = [event["rows"] for event in back.events if event["event"] == "rows"]
    assert [rows == kept.stem for rows in named] == [True, False, True]
    about = about_rows(kept)
    assert about is not None
    assert about["columns"] == list(COLUMNS)


def test_rows_of_changed_stages_are_not_kept(project: Project) -> None:
    run(project)
    path = project.root / "work" / NAME / "split/train/rows.csv"
    path.write_bytes(path.read_bytes().replace(b"p-1", b"q-1"))
    shutil.rmtree(rows_folder(project.root))
    with pytest.raises(TamperedError, match=r"train/rows\.csv was changed since it was recorded"):
        keep_rows(project.root, project.events, NAME)


def test_what_was_not_reached_was_not_read(project: Project) -> None:
    run(project, read=("train",), scorer=None)
    found = ask(project, table(project))
    assert found.scorers == []
    (told,) = found.runs
    assert set(told["uses"]) == {"train", "injected", "pool", "gate"}
    assert told["state"] == "unfinished"


def damage(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    "spoil",
    [
        shutil.rmtree,
        lambda folder: damage(folder / "ledger.json"),
        lambda folder: damage(folder / "reads.parquet"),
        lambda folder: (folder / "scorers.parquet").unlink(),
        lambda folder: (folder / "files.parquet").write_bytes((folder / "runs.parquet").read_bytes()),
        lambda folder: (folder / "ledger.json").write_text('{"schema": 0, "sources": ""}'),
        lambda folder: (folder / "ledger.json").write_text("[]"),
        lambda folder: (folder / "ledger.json").write_text("[" * 100_000),
    ],
    ids=["lost", "head", "table", "no table", "wrong table", "older", "not a head", "deep"],
)
def test_a_lost_damaged_or_older_ledger_is_rebuilt(project: Project, spoil: Callable[[Path], object]) -> None:
    run(project)
    before = ask(project, table(project)).to_json()
    log = project.events.path.read_bytes()
    spoil(ledger_folder(project.root))
    assert ask(project, table(project)).to_json() == before
    assert project.events.path.read_bytes() == log


def test_an_up_to_date_ledger_is_not_written_again(project: Project) -> None:
    run(project)
    ask(project, table(project))
    stamps = {path: path.stat().st_mtime_ns for path in ledger_folder(project.root).iterdir()}
    ask(project, table(project))
    assert {path: path.stat().st_mtime_ns for path in ledger_folder(project.root).iterdir()} == stamps
    assert len(stamps) == 5


def test_ledgers_that_are_rebuilt_at_once_are_not_mixed(project: Project) -> None:
    """Every entry of this log is a run of its own that read rows: a ledger in which one did not is two ledgers."""
    run(project)
    one_at_a_time, mixed = threading.Lock(), "SELECT run FROM runs ANTI JOIN reads USING (run)"

    def rebuild(_: int) -> list[Any]:
        with one_at_a_time:
            project.events.append("stage", stage="train", dataset=NAME, record="", seconds=0, details={})
        ledger = open_ledger(project)
        with ledger.connect() as connection:
            return connection.execute(mixed).fetchall()

    with ThreadPoolExecutor(3) as pool:
        assert not any(pool.map(rebuild, range(30)))
    stamps = {path: path.stat().st_mtime_ns for path in ledger_folder(project.root).iterdir()}
    with open_ledger(project).connect() as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (31,)
    assert {path: path.stat().st_mtime_ns for path in ledger_folder(project.root).iterdir()} == stamps


def test_an_open_ledger_stays_what_it_is_while_others_rebuild(project: Project) -> None:
    run(project)
    ledger = open_ledger(project)
    project.events.append("stage", stage="train", dataset=NAME, record="", seconds=0, details={})
    again = open_ledger(project)
    for each, n in ((ledger, 1), (again, 2)):
        with each.connect() as connection:
            assert connection.execute("SELECT count(*) FROM runs").fetchone() == (n,)
            assert connection.execute("SELECT count(DISTINCT run) FROM reads").fetchone() == (n,)


def test_rows_that_come_while_a_ledger_is_rebuilt_are_in_the_next(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held up right after it has looked which rows are kept, until another process has kept some and logged them."""
    run(project)
    (kept,) = rows_folder(project.root).iterdir()
    content, log = kept.read_bytes(), project.events.path.read_bytes()
    entries = log.splitlines(keepends=True)
    before = next(place for place, line in enumerate(entries) if json.loads(line)["event"] == "rows")
    kept.unlink()
    project.events.path.write_bytes(b"".join(entries[:before]))
    monkeypatch.setattr(ledger_module, "keep_work", lambda _: [])
    looked = ledger_module._stamps

    def late(root: Path) -> dict[str, list[int]]:
        stamps = looked(root)
        if sys._getframe(1).f_code.co_name == "_rebuild":
            kept.write_bytes(content)
            project.events.path.write_bytes(log)
        return stamps

    monkeypatch.setattr(ledger_module, "_stamps", late)
    open_ledger(project)
    with open_ledger(project).connect() as connection:
        assert connection.execute("SELECT count(*) FROM files").fetchone() == (1,)


def tree(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): hash_file(path) for path in root.rglob("*") if path.is_file()}


def test_a_newer_ledger_is_refused(project: Project) -> None:
    run(project)
    ask(project, table(project))
    head = ledger_folder(project.root) / "ledger.json"
    head.write_text(json.dumps({**json.loads(head.read_text()), "schema": 9}))
    before = tree(project.root)
    with pytest.raises(
        LedgerError, match=r"ledger\.json has schema 9, and this Assay supports 3; a newer version wrote"
    ):
        who_saw(project, project.root / "asked.csv")
    assert tree(project.root) == before


def test_newer_rows_are_refused(project: Project) -> None:
    run(project)
    table(project).to_csv(project.root / "asked.csv")
    frame = pd.DataFrame({"fingerprint": ["0" * 32], "row_id": "a", "use": "train", "rho": 0.0})
    write_bytes(rows_folder(project.root) / "newer.parquet", pack(frame, {"schema": 9}))
    before = tree(project.root)
    with pytest.raises(LedgerError, match=r"newer\.parquet has schema 9"):
        who_saw(project, project.root / "asked.csv")
    assert tree(project.root) == before


def test_changed_and_lost_rows_are_missed(project: Project) -> None:
    run(project)
    (kept,) = rows_folder(project.root).iterdir()
    ask(project, table(project))
    content = kept.read_bytes()
    kept.write_bytes(content[:-1])
    shutil.rmtree(project.root / "work")
    found = ask(project, table(project))
    assert found.scorers == found.runs == []
    assert any(f"{kept} was changed and is left out" in note for note in found.notes)
    assert any(f"{SCORER}: the rows that it used are not known here" in note for note in found.notes)
    kept.unlink()
    assert any(f"{kept}, are gone" in note for note in ask(project, table(project)).notes)
    kept.write_bytes(content)
    assert ask(project, table(project)).scorers


def test_what_was_pulled_without_events_is_kept_at_the_next_question(project: Project) -> None:
    run(project)
    shutil.rmtree(project.state)
    found = ask(project, table(project))
    assert (found.scorers, sum(found.known)) == ([], 300)
    assert len([*rows_folder(project.root).iterdir()]) == 1


def test_a_question_during_a_run(project: Project) -> None:
    """It neither waits nor stands in the way."""
    run(project)
    with project.lock():
        assert ask(project, table(project)).scorers
        shutil.rmtree(rows_folder(project.root))
        project.events.path.unlink()
        assert any(f"the rows in work/{NAME} are left out" in note for note in ask(project, table(project)).notes)


def test_a_pulled_scorer_is_answered_for_by_its_own_list(project: Project) -> None:
    from assay.parts import read_arrays

    shutil.copytree(FROZEN, project.root / ".bentoml/models/breast_cancer" / FROZEN.name)
    lists = read_arrays(FROZEN / "rows.safetensors")
    asked = pd.DataFrame({"fingerprint": [row.tobytes().hex() for rows in lists.values() for row in rows[:7]]})
    found = ask(project, asked)
    (scorer,) = found.scorers
    assert scorer["scorer"] == "breast_cancer:27ce352cf8b7"
    assert counts(scorer["uses"]) == dict.fromkeys(("train", "adapt", "calibration"), 7)
    assert any("was made elsewhere: only the rows that it learned from" in note for note in found.notes)
    assert ask(project, asked).scorers == found.scorers


def test_a_pulled_scorer_is_asked_by_id_too(project: Project) -> None:
    """Its own list holds contents alone: those that the ids have in the data now, and had when runs used them."""
    run(project)
    rows = roles(project)
    lists = {use: np.frombuffer(bytes.fromhex("".join(rows[use]["fingerprint"])), np.uint8) for use in OWN[:3]}
    folder = pulled_scorer(project, {use: packed.reshape(-1, 16) for use, packed in lists.items()})
    asked = pd.concat([rows["train"].iloc[:4], rows["adapt"].iloc[:2]])[["row_id"]]
    before = ask(project, pd.concat([asked, asked[:1], pd.DataFrame({"row_id": ["p-none"]})]))
    by = {row["scorer"]: row for row in before.scorers}
    assert counts(by[f"{NAME}:{folder.name}"]["uses"]) == {"train": 5, "adapt": 2} == counts(by[SCORER]["uses"])
    assert by[f"{NAME}:{folder.name}"]["uses"]["train"] == {"rows": 5, "stored": 4}
    assert before.known == [True] * 7 + [False]
    shutil.rmtree(project.root / "data")
    assert ask(project, asked).scorers == ask(project, asked).scorers != []
    ingest(project.root, NAME, make_rows(300, 0, "p"))
    shutil.rmtree(project.root / "work")
    shutil.rmtree(project.state)
    (alone,) = ask(project, asked).scorers
    assert counts(alone["uses"]) == {"train": 4, "adapt": 2}


def with_copies(project: Project, n: int = 40) -> RowSet:
    """Ingest 300 rows and `n` normals that are all zero."""
    data = make_rows(300, 0, "p")
    features = np.concatenate([data.features, np.zeros((n, 3), dtype=np.float32)])
    off = data.rows.iloc[:1].assign(label=0).loc[[0] * n].assign(row_id=[f"off-{i}" for i in range(n)])
    rows = RowSet(features, pd.concat([data.rows, off], ignore_index=True))
    ingest(project.root, NAME, rows)
    return rows


def test_copies_are_told_apart_by_their_ids(project: Project) -> None:
    """Also in the list of a scorer from elsewhere, which holds contents and copies; by content all are meant."""
    with_copies(project)
    run(project)
    train = read_rows(project.folder("split") / "train")
    folder = pulled_scorer(project, packed_rows("train", train, read_card(project.data)))
    off = [row_id for row_id in train.rows["row_id"] if row_id.startswith("off-")]
    other = next(row_id for row_id in roles(project)["test"]["row_id"] if row_id.startswith("off-"))
    every = table(project)
    asked = every[every["row_id"].isin([*off[:2], other])]
    for frame in (asked, asked[["row_id"]]):
        by = {row["scorer"]: row["uses"] for row in ask(project, frame).scorers}
        assert by[SCORER] == {"train": {"rows": 2, "stored": 2}, "test": {"rows": 1, "stored": 1}}
        assert by[f"{NAME}:{folder.name}"] == {"train": {"rows": 2, "stored": 2}}
    path = project.root / "asked.csv"
    for frame, content in ((asked, True), (asked[list(COLUMNS)], False)):
        frame.to_csv(path, index=False)
        found = who_saw(project, path, content=content)
        by = {row["scorer"]: row["uses"] for row in found.scorers}
        assert by[f"{NAME}:{folder.name}"] == {"train": {"rows": 3, "stored": len(off)}}
        assert by[SCORER]["train"] == {"rows": 3, "stored": len(off)}
        assert any("other rows of equal content count too" in note for note in found.notes) is not content


def test_an_id_with_other_content_is_not_known(project: Project) -> None:
    run(project)
    asked = table(project).iloc[:3].assign(age=lambda frame: frame["age"] + [0, 1, 0])
    found = ask(project, asked)
    assert found.known == [True, False, True]
    assert any("--content searches by content alone" in note for note in found.notes)
    assert ask(project, asked[["row_id"]]).known == [True] * 3


def test_rows_kept_before_copies_were_told_apart_are_found_still(project: Project) -> None:
    """By id as before; in the lists of scorers all copies of a content are meant then."""
    from pyarrow import parquet

    with_copies(project)
    run(project)
    train = read_rows(project.folder("split") / "train")
    off = [row_id for row_id in train.rows["row_id"] if row_id.startswith("off-")]
    lists = {
        name: array for name, array in packed_rows("train", train, read_card(project.data)).items() if name == "train"
    }
    folder = pulled_scorer(project, lists)
    (kept,) = rows_folder(project.root).iterdir()
    old = parquet.read_table(kept).drop_columns(["copy"])
    (event,) = (event for event in project.events if event["event"] == "rows")
    about = json.loads(old.schema.metadata[b"assay"]) | {"schema": 1}
    parquet.write_table(old.replace_schema_metadata({b"assay": json.dumps(about)}), kept)
    renamed = kept.rename(kept.with_name(f"{hash_file(kept)}.parquet"))
    project.events.append(
        "rows", **{**{k: event[k] for k in ("dataset", *FIRST, "data_version", "counts")}, "rows": renamed.stem}
    )
    for stage in READ:
        details = {"scorer": SCORER} if stage == "package" else {}
        project.events.append("stage", stage=stage, dataset=NAME, record="", seconds=0, details=details)
    by = {row["scorer"]: row["uses"] for row in ask(project, pd.DataFrame({"row_id": off[:2]})).scorers}
    assert by[SCORER] == {"train": {"rows": 2, "stored": 2}}
    assert by[f"{NAME}:{folder.name}"] == {"train": {"rows": 2, "stored": 2 * len(off)}}


def pulled_scorer(project: Project, lists: dict[str, Any], **about: Any) -> Path:
    """Put a scorer of another machine into BentoML's store: its head, its records and its list of rows."""
    folder = project.root / ".bentoml/models" / NAME / "new"
    write_arrays(folder / "rows.safetensors", lists)
    write_json(folder / "lineage/calibrate.json", {"inputs": about.pop("inputs", {})})
    files = {name: hash_file(folder / name) for name in ("rows.safetensors", "lineage/calibrate.json")}
    records = {**about.pop("records", {}), "calibrate": files["lineage/calibrate.json"]}
    lineage = {"root": "", "data_version": "v", "records": records}
    candidate = {"detector": "knn", "adapter": "none", "level": "level-0"}
    head = {"schema": 1, "name": NAME, "columns": [*COLUMNS], "eps": 0.1, "candidate": candidate, "lineage": lineage}
    write_json(folder / "scorer.json", {**head, "files": files, **about})
    return folder.rename(folder.with_name(hash_file(folder / "scorer.json")[:12]))


def towards(project: Project, n: int, seed: int) -> pd.DataFrame:
    """Write target rows and return them as the user has them."""
    features = make_rows(n, seed, "t").features
    ensure_target(project.root, NAME)
    write_target(target_path(project.root, NAME), pd.DataFrame(features, columns=list(COLUMNS)), seed=0)
    return pd.DataFrame(features, columns=list(COLUMNS))


def test_who_was_weighted_towards_rows_has_seen_them(project: Project) -> None:
    targets = towards(project, 40, 77)
    run(project)
    found = ask(project, targets.iloc[:9])
    assert counts(found.scorers[0]["uses"]) == {"target": 9}
    assert found.learned
    assert counts(found.runs[0]["uses"]) == {"target": 9}
    assert sum(found.known) == 9
    assert "target" in found.lines()[2]
    target_path(project.root, NAME).write_bytes(b"")
    other = f"{NAME}:aaaaaaaaaaaa"
    run(project, scorer=other)
    assert [row["scorer"] for row in ask(project, targets).scorers] == [SCORER]
    assert {row["scorer"] for row in ask(project, table(project)).scorers} == {SCORER, other}
    assert len([*rows_folder(project.root).iterdir()]) == 2


def test_a_weighted_scorer_is_matched_to_its_own_target_rows(project: Project) -> None:
    targets = towards(project, 40, 77)
    run(project, scorer=None)
    path, work = target_path(project.root, NAME), project.root / "work" / NAME
    records = {stage: hash_file(work / stage / "record.json") for stage in ("split", "contaminate")}
    inputs, about = {f"targets/{NAME}.csv": hash_file(path)}, {"calibration": {"n_target": 40}, "records": records}
    folder = pulled_scorer(project, {"train": np.zeros((1, 16), np.uint8)}, inputs=inputs, **about)
    (scorer,) = ask(project, targets).scorers
    assert (scorer["scorer"], counts(scorer["uses"])) == (f"{NAME}:{folder.name}", {"target": 40})
    shutil.rmtree(folder)
    towards(project, 40, 78)
    run(project, scorer=None)
    folder = pulled_scorer(project, {"train": np.ones((1, 16), np.uint8)}, inputs=inputs, **about)
    (scorer,) = ask(project, targets).scorers
    assert scorer["scorer"] == f"{NAME}:{folder.name}"
    shutil.rmtree(project.state)
    found = ask(project, targets)
    assert found.scorers == []
    assert any("was weighted towards target rows that are not known here" in note for note in found.notes)


def test_target_rows_that_cannot_be_read_prevent_no_answer(project: Project) -> None:
    ensure_target(project.root, NAME)
    target_path(project.root, NAME).write_text("age,pulse\nx,y\n")
    run(project)
    assert ask(project, table(project)).scorers


def test_ids_that_are_numbers_of_another_dataset(project: Project) -> None:
    """There, a column of this dataset's ids is a feature; here they are texts."""
    data = make_rows(300, 0, "p")
    ids = [f"{i:05d}" for i in range(300)]
    ingest(project.root, NAME, RowSet(data.features, data.rows.assign(row_id=ids)), id_column="patient")
    columns = ("patient", "height")
    other = RowSet(data.features[:, :2], data.rows)
    write_dataset(project.root / "data" / OTHER, Dataset(Card(OTHER, TABULAR, columns, "made here"), other))
    run(project)
    found = ask(project, pd.DataFrame({"patient": ids[:20]}))
    assert found.query.by == "row_id"
    assert sum(found.known) == 20


def test_rows_that_fit_several_layouts_of_a_dataset_are_counted_once(project: Project) -> None:
    run(project)
    data = make_rows(300, 0, "p")
    fewer = Dataset(Card(NAME, TABULAR, COLUMNS[:2], "made here"), RowSet(data.features[:, :2], data.rows))
    asked = table(project).iloc[:30].drop(columns="row_id")
    write_dataset(project.root / "data" / NAME, fewer)
    found = ask(project, asked)
    assert (found.query.n_rows, found.query.different, sum(found.known)) == (30, 30, 30)


def test_datasets_with_the_same_columns_are_kept_apart(project: Project) -> None:
    ingest(project.root, OTHER, make_rows(300, 9, "w"))
    shared = make_rows(300, 0, "p")
    run(project)
    other = settings(project.root, dataset=OTHER)
    run(other, scorer=f"{OTHER}:0123456789ab")
    frame = pd.concat([table(other).iloc[:10], table(other, OTHER).iloc[:20]])
    found = ask(other, frame)
    used = {row["scorer"]: sum({**counts(row["uses"]), **counts(row["run_only"])}.values()) for row in found.scorers}
    assert set(used) == {SCORER, f"{OTHER}:0123456789ab"}
    assert found.datasets == [NAME, OTHER]
    assert len(shared) == 300
    only = ask(other, frame, OTHER)
    assert [row["dataset"] for row in only.scorers] == [OTHER]
    assert sum(only.known) == 20


def test_content_of_another_dataset_is_not_taken_for_the_same(project: Project) -> None:
    """Ids say nothing about other datasets unless these have them."""
    ingest(project.root, OTHER, make_rows(300, 9, "w"))
    run(settings(project.root, dataset=OTHER), scorer=f"{OTHER}:0123456789ab")
    found = ask(project, pd.DataFrame({"row_id": ["w-1", "p-1"]}))
    assert found.known == [True, False]
    assert found.datasets == [OTHER]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no file"),
        ("", "is empty"),
        ("age,pulse,dose\n", "has no rows"),
        (
            "age,pulse\n1,2\n",
            r"lacks 1 of the 3 feature columns of dataset clinic \('dose'\); add them, or a column row",
        ),
        ("age,pulse,dose\n1,2,tall\n", "column 'dose' is not numeric: row 0 has 'tall'"),
        ("age,age\n1,2\n", "more than one column named 'age'"),
        ("fingerprint\nxyz\n", "row 0: 'xyz' is not a fingerprint"),
        (f"fingerprint,suspect\n{'0' * 32},maybe\n", "row 0: suspect is 'maybe'; allowed are 0, 1"),
        (f"fingerprint,suspect\n{'0' * 32},0\n", "marks no row as suspect"),
    ],
)
def test_files_that_cannot_be_used(project: Project, content: str | None, words: str) -> None:
    run(project)
    path = project.root / "asked.csv"
    if content is not None:
        path.write_text(content)
    open_ledger(project)
    before = tree(project.root)
    with pytest.raises(DataError, match=words):
        who_saw(project, path)
    assert tree(project.root) == before


def test_an_unknown_dataset(project: Project) -> None:
    with pytest.raises(DataError, match="there is no dataset 'nowhere'; there are clinic"):
        ask(project, table(project), "nowhere")


def test_suspects_are_asked_about_and_what_was_injected_on_purpose_is_not(project: Project) -> None:
    run(project)
    train = roles(project)["train"].iloc[:6]
    flags = {"suspicion": 0.5, "suspect": [1, 1, 1, 0, 0, 1], "injected": [0, 0, 0, 0, 0, 1]}
    found = ask(project, train[["row_id", "fingerprint"]].assign(**flags))
    assert counts(found.scorers[0]["uses"]) == {"train": 3}
    assert found.query.n_rows == 3
    assert any("3 of 6 rows are marked as suspect" in note for note in found.notes)


def test_the_ledger_reads_nothing_else_and_no_network(project: Project) -> None:
    import duckdb

    run(project)
    outside = project.root / "outside.parquet"
    shutil.copy(next(rows_folder(project.root).iterdir()), outside)
    with open_ledger(project).connect() as connection:
        assert connection.execute("SELECT count(*) FROM files").fetchone() == (1,)
        for statement in (f"FROM read_parquet('{outside}')", "INSTALL httpfs", "SET enable_external_access = true"):
            with pytest.raises(duckdb.Error):
                connection.execute(statement)


def event(name: str, **fields: Any) -> dict[str, Any]:
    return {"event": name, "dataset": NAME, "time": "t", "previous": "0" * 64, "details": {}, **fields}


def test_a_run_without_valid_candidate_has_read_rows() -> None:
    done = ["split", "contaminate", "validate", "train", "calibrate", "select", "evaluate"]
    start = event("run-started", run="a", driver="prefect")
    end = event("run-ended", run="a", state="failed", reason="no valid candidate", stages=done)
    history = History.of([start, event("rows", rows="f"), end])
    assert {use for _, _, use in history.reads} == {*OWN, "labelled", "injected", "pool", "excluded", "gate", "target"}
    assert history.runs["a"]["reason"] == "no valid candidate"


def test_a_run_that_failed_before_training_has_read_nothing_of_the_run_before() -> None:
    start = event("run-started", run="b", driver="prefect")
    end = event("run-ended", run="b", state="failed", reason="x", stages=["split"])
    assert History.of([event("rows", rows="f"), start, event("stage", stage="split"), end]).reads == set()


def test_a_run_that_was_killed_is_interrupted_once_another_begins() -> None:
    """Runs hold the project's lock, so that no two are open at once."""
    killed = [event("run-started", run="a", driver="prefect"), event("rows", rows="f"), event("stage", stage="train")]
    assert History.of(killed).runs["a"]["state"] == "unfinished"
    later = History.of([*killed, event("run-started", run="b", driver="prefect")])
    assert [(run["run"], run["state"]) for run in later.runs.values()] == [("a", "interrupted"), ("b", "unfinished")]
    assert ("a", "f", "train") in later.reads


def test_the_end_of_a_killed_run_is_logged_by_the_next_command(project: Project) -> None:
    """Or else what it does would count as done by the run."""
    runs.end_interrupted(project)
    assert list(project.events) == []
    project.events.append("run-started", run="a", driver="prefect", dataset=NAME, commit="")
    run(project, read=("train",), scorer=None)
    runs.end_interrupted(project)
    runs.end_interrupted(project)
    run(project)
    assert [event["run"] for event in project.events if event["event"] == "run-ended"] == ["a"]
    killed, repeated = ask(project, table(project)).runs
    assert (killed["run"], killed["state"], repeated["driver"]) == ("a", "interrupted", "dvc")
    assert "it was killed" in killed["reason"]
    assert set(killed["uses"]) == {"train", "injected", "pool", "gate"}
    assert (killed["scorers"], repeated["scorers"]) == ([], [SCORER])


def test_stages_without_a_run_make_up_runs() -> None:
    """Each time that the stages begin anew, and with the rows of that time."""
    log = [event("rows", rows="f"), *(event("stage", stage=name, previous="1" * 64) for name in READ)]
    log += [event("rows", rows="g"), event("stage", stage="train", previous="2" * 64)]
    history = History.of(log)
    assert [(run["run"], run["state"]) for run in history.runs.values()] == [
        ("dvc-111111111111", "completed"),
        ("dvc-222222222222", "unfinished"),
    ]
    assert {rows for run, rows, _ in history.reads if run == "dvc-222222222222"} == {"g"}
    assert ("dvc-111111111111", "g", "train") not in history.reads


def test_cells_belong_to_the_run_around_them_in_any_order() -> None:
    """DVC may calibrate one detector before it trains the next, and work on two datasets in turn."""
    cells = [("train", "knn"), ("calibrate", "knn"), ("train", "mcd"), ("calibrate", "mcd")]
    first = [
        *(event("stage", stage=stage, detector=detector, previous="1" * 64) for stage, detector in cells),
        event("stage", stage="select", previous="1" * 64),
    ]
    between = [{**one, "dataset": OTHER, "previous": "2" * 64} for one in first]
    woven = [one for pair in zip(first, between, strict=True) for one in pair]
    again = event("stage", stage="calibrate", detector="mcd", previous="3" * 64)
    history = History.of([*woven, again])
    assert [(run["run"][:5], run["dataset"]) for run in history.runs.values()] == [
        ("dvc-1", NAME),
        ("dvc-2", OTHER),
        ("dvc-3", NAME),
    ]


def test_a_stage_that_is_not_known_belongs_to_the_run_around_it() -> None:
    """Of a version that has more stages, or has none of them any more."""
    names = ("train", "refine", "calibrate", "summarise", "train", "refine")
    log = [event("stage", stage=name, previous=f"{place}" * 64) for place, name in enumerate(names)]
    history = History.of([event("rows", rows="f"), *log])
    assert [run["driver"] for run in history.runs.values()] == ["dvc", "dvc"]
    first, _ = history.runs
    assert {use for run, _, use in history.reads if run == first} >= {"train", "calibration"}


def test_runs_of_the_time_before_rows_were_kept_are_counted(project: Project) -> None:
    project.events.append("run-started", run="a", driver="prefect", dataset=NAME, commit="")
    project.events.append("run-ended", run="a", state="completed", reason="", stages=["split", "contaminate", "train"])
    assert "1 run ended before rows were kept, and cannot be searched" in ask(project, table(project)).notes
