"""The quarantine: what is in it no later run uses, nothing else changes, and it can be lifted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from tests.conftest import QUICK

from assay.data.answers import ensure_answers
from assay.data.card import Card
from assay.data.dataset import Dataset, RowSet, write_dataset
from assay.data.fingerprints import fingerprints
from assay.data.modalities.tabular import TABULAR
from assay.data.quarantine import (
    QUARANTINE_COLUMNS,
    ensure_quarantine,
    quarantine_path,
    read_quarantine,
    write_quarantine,
)
from assay.data.splitting import EXCLUDED, ROLES, split_rows
from assay.errors import ConfigError, DataError, StageError
from assay.hashing import hash_tree
from assay.ledger.quarantine import Quarantine
from assay.ledger.quarantine import quarantine as exclude
from assay.parts import read_json
from assay.project.freshness import run_verb
from assay.project.layout import Project

ROOT = Path(__file__).parents[3]
NAME, OTHER, NAMES = "clinic", "wards", ("age", "pulse", "dose")
HEADER = b"fingerprint,copy,row_id,why,when\n"
OLD_HEADER = b"fingerprint,row_id,why,when\n"


def make_rows(n: int, seed: int, *, timed: bool = False) -> RowSet:
    """Rows of which the last three are copies of the first three."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, len(NAMES))).astype(np.float32)
    features[-3:] = features[:3]
    times = [f"2026-01-01T{i:06d}" for i in range(n)] if timed else ""
    labels = (rng.random(n) < 0.2).astype(np.int8)
    labels[-3:] = labels[:3]
    ids = [f"p-{i}" for i in range(n)]
    return RowSet(features, pd.DataFrame({"row_id": ids, "label": labels, "group": "", "time": times}))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with two datasets of the same columns, nothing run."""
    monkeypatch.delenv("BENTOML_HOME", raising=False)
    root = tmp_path / "project"
    root.mkdir()
    shutil.copy(ROOT / "dvc.yaml", root)
    params = yaml.safe_load(QUICK) | {"dataset": NAME, "datasets": [NAME, OTHER]}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    for seed, name in enumerate((NAME, OTHER)):
        write_dataset(root / "data" / name, Dataset(Card(name, TABULAR, NAMES, "made"), make_rows(300, seed)))
        ensure_answers(root, name)
        ensure_quarantine(root, name)
    return Project(root)


def put(project: Project, frame: pd.DataFrame, **options: Any) -> Quarantine:
    path = project.root / "asked.csv"
    frame.to_csv(path, index=False)
    return exclude(project, path, **{"why": "a bad batch", "dataset": NAME, **options})


def table(n: int = 5) -> pd.DataFrame:
    data = make_rows(300, 0)
    return pd.DataFrame(data.features, columns=list(NAMES)).assign(row_id=data.rows["row_id"]).iloc[:n]


def prints(n: int = 5) -> list[str]:
    return fingerprints(make_rows(300, 0).features[:n], NAMES).tolist()


def listed(project: Project) -> pd.DataFrame:
    return read_quarantine(quarantine_path(project.root, NAME))


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("copy", ["0", "1", ""])
def test_quarantined_rows_are_excluded_and_nothing_else_moves(timed: bool, copy: str) -> None:
    """A row, or by content all its copies. The other copies stay, and no longer count as seen where they were."""
    data = make_rows(300, 0, timed=timed)
    before = split_rows(data, NAMES, seed=1)
    after = split_rows(data, NAMES, seed=1, quarantined=pd.DataFrame({"fingerprint": prints(), "copy": copy}))
    first, second = {f"p-{i}" for i in range(5)}, {"p-297", "p-298", "p-299"}
    barred = {"0": first, "1": second, "": first | second}[copy]
    for role in ROLES:
        kept = before[role].rows[~before[role].rows["row_id"].isin(barred)].reset_index(drop=True)
        kept, found = (rows.drop(columns="seen", errors="ignore") for rows in (kept, after[role].rows))
        pd.testing.assert_frame_equal(kept, found)
    assert {*after[EXCLUDED].rows["row_id"]} == barred
    assert not len(before[EXCLUDED])


def test_an_empty_or_missing_quarantine_changes_no_byte(project: Project) -> None:
    split = project.folder("split")
    run_verb(project, "split")
    before = hash_tree(split)
    assert "quarantined" not in read_json(split / "split.json")
    assert pd.read_csv(split / "excluded/rows.csv").columns.tolist()[-1] == "fingerprint"
    from assay import pipeline

    out = project.root / "other"
    pipeline.split(
        out,
        data=project.data,
        quarantine=project.root / "nowhere.csv",
        answers=project.root / "nowhere.csv",
        seed=0,
        source="auto",
    )
    assert hash_tree(out) == before


def test_the_next_run_excludes_the_rows_and_counts_them(project: Project) -> None:
    run_verb(project, "split")
    done = put(project, table())
    assert (done.changed, done.already, done.listed, done.in_data, done.others) == (5, 0, 5, 5, 0)
    assert run_verb(project, "split").ran
    assert read_json(project.folder("split") / "split.json")["quarantined"] == 5
    rows = pd.concat([pd.read_csv(project.folder("split") / role / "rows.csv") for role in ROLES])
    assert not rows["row_id"].isin(table()["row_id"]).any()
    assert set(rows.loc[rows["fingerprint"].isin(prints()), "row_id"]) == {"p-297", "p-298", "p-299"}
    assert not run_verb(project, "split").ran


@pytest.mark.parametrize("ids", [True, False])
def test_by_content_every_copy_goes_and_the_healthy_ones_are_counted(project: Project, ids: bool) -> None:
    asked = table() if ids else table()[list(NAMES)]
    done = put(project, asked, content=True)
    assert (done.changed, done.listed, done.in_data, done.others) == (5, 5, 8, 3)
    assert done.share == 3 / 295
    assert any(
        "3 of them are rows of equal content that asked.csv does not name, 1.0%" in line for line in done.lines()
    )
    assert set(listed(project)["copy"]) == {""}
    run_verb(project, "split")
    assert read_json(project.folder("split") / "split.json")["quarantined"] == 8
    with pytest.raises(DataError, match=r"none of the rows is in .*`--content` lifts these"):
        put(project, table(), lift=True)
    assert put(project, table(), lift=True, content=True).listed == 0


def test_rows_without_ids_are_taken_only_if_no_other_row_is_equal(project: Project) -> None:
    with pytest.raises(DataError, match=r"8 rows of clinic have the content of its 5; .* 3 more .*, 1\.0% of the rest"):
        put(project, table()[list(NAMES)])
    assert listed(project).empty
    both = pd.concat([table()[list(NAMES)], table(3)[list(NAMES)]])
    assert put(project, both).in_data == 8
    assert set(listed(project)["row_id"]) == {*table()["row_id"], "p-297", "p-298", "p-299"}


def test_an_id_with_other_content_is_another_row(project: Project) -> None:
    asked = table(4).assign(age=lambda frame: frame["age"] + [0, 0, 0, 1])
    done = put(project, asked)
    assert done.changed == 3
    assert any("1 row ids are not known and are left out: p-3" in note for note in done.seen.notes)


def test_a_quarantine_of_everything_is_told(project: Project) -> None:
    put(project, table(300))
    with pytest.raises(StageError, match=r"too few to split, 300 of them quarantined in .*clinic\.csv"):
        run_verb(project, "split")


def test_rows_that_would_fail_validation_do_not_once_they_are_quarantined(project: Project) -> None:
    from assay.data.dataset import read_dataset
    from assay.data.expectations import learn_suite
    from assay.errors import ValidationFailedError
    from assay.parts import write_json

    clean = make_rows(300, 0)
    features = clean.features.copy()
    features[7, 1] = np.nan
    write_json(project.suite, learn_suite(read_dataset(project.data)))
    spoilt = Dataset(Card(NAME, TABULAR, NAMES, "made"), RowSet(features, clean.rows))
    write_dataset(project.data, spoilt)
    for stage in ("split", "contaminate"):
        run_verb(project, stage)
    with pytest.raises(ValidationFailedError, match="p-7"):
        run_verb(project, "validate")
    put(project, pd.DataFrame({"row_id": ["p-7"]}))
    for stage in ("split", "contaminate"):
        run_verb(project, stage)
    assert run_verb(project, "validate").ran


def test_the_file_is_sorted_and_holds_a_row_once(project: Project) -> None:
    put(project, table(3))
    put(project, table(5)[::-1], why="again,\n with more")
    path = quarantine_path(project.root, NAME)
    found = listed(project)
    assert found["fingerprint"].tolist() == sorted(prints())
    assert set(found["copy"]) == {"0"}
    assert dict(zip(found["fingerprint"], found["row_id"], strict=True)) == dict(
        zip(prints(), table()["row_id"], strict=True)
    )
    assert found["why"].value_counts().to_dict() == {"a bad batch": 3, "again, with more": 2}
    assert path.read_bytes().startswith(HEADER)
    assert b"\r" not in path.read_bytes()
    before = path.read_bytes(), project.events.head
    done = put(project, table(5))
    assert (done.changed, done.already) == (0, 5)
    assert (path.read_bytes(), project.events.head) == before


def test_what_was_done_is_logged(project: Project) -> None:
    put(project, table(3))
    put(project, table(2), lift=True, why="they were right")
    put_in, lifted = (project.events.last(name, dataset=NAME) for name in ("quarantined", "quarantine-lifted"))
    assert put_in is not None
    assert lifted is not None
    assert (put_in["rows"], put_in["why"], lifted["rows"], lifted["why"]) == (3, "a bad batch", 2, "they were right")


@pytest.mark.parametrize("column", ["row_id", "fingerprint", None])
def test_a_quarantine_is_lifted_by_whatever_tells_the_rows(project: Project, column: str | None) -> None:
    put(project, table(5))
    frame = table(2).assign(fingerprint=prints(2))
    done = put(project, frame[[column]] if column else frame[list(NAMES)], lift=True)
    assert (done.changed, done.listed) == (2, 3)
    assert listed(project)["fingerprint"].tolist() == sorted(prints()[2:])
    put(project, table(5), lift=True)
    assert quarantine_path(project.root, NAME).read_bytes() == HEADER


def test_an_id_means_the_content_it_has_now_or_else_had_when_it_was_used(project: Project) -> None:
    from assay.ledger.rows import keep_rows

    for stage in ("split", "contaminate"):
        run_verb(project, stage)
    keep_rows(project.root, project.events, NAME)
    data = make_rows(300, 0)
    fewer = RowSet(data.features[10:] + 1, data.rows.iloc[10:])
    write_dataset(project.data, Dataset(Card(NAME, TABULAR, NAMES, "made"), fewer))
    done = put(project, pd.DataFrame({"row_id": ["p-4", "p-20", "p-4", "never"]}))
    assert done.changed == 2
    now = fingerprints(fewer.features[10:11], NAMES)[0]
    found = listed(project)
    assert dict(zip(found["row_id"], found["fingerprint"], strict=True)) == {"p-4": prints()[4], "p-20": now}
    assert any("1 row ids are not known and are left out: never" in note for note in done.seen.notes)


def test_ids_that_only_runs_know_take_time_in_proportion(project: Project) -> None:
    """Seventeen times as many take less than forty times as long, where the square would be 289 times."""
    from time import process_time

    from assay.ledger.rows import keep_rows

    data = make_rows(20_000, 0)
    write_dataset(project.data, Dataset(Card(NAME, TABULAR, NAMES, "made"), data))
    for stage in ("split", "contaminate"):
        run_verb(project, stage)
    keep_rows(project.root, project.events, NAME)
    write_dataset(project.data, Dataset(Card(NAME, TABULAR, NAMES, "made"), data.take(np.arange(9_000, 20_000))))
    seconds = []
    for first, last in ((0, 1_000), (1_000, 18_000)):
        started = process_time()
        assert put(project, pd.DataFrame({"row_id": data.rows["row_id"].iloc[first:last]})).changed == last - first
        seconds.append(process_time() - started)
    assert seconds[1] < 40 * seconds[0]


def test_quarantined_target_rows_are_told(project: Project) -> None:
    from assay.data.target import target_path, write_target

    write_target(
        target_path(project.root, NAME), pd.DataFrame(make_rows(300, 0).features[3:100], columns=list(NAMES)), seed=0
    )
    done = put(project, table())
    assert any("2 of them are in targets/clinic.csv too" in note for note in done.seen.notes)
    assert not any("targets" in note for note in put(project, table(), lift=True).seen.notes)


def test_rows_that_were_never_ingested_can_be_barred_beforehand(project: Project) -> None:
    with pytest.raises(DataError, match=r"no row of asked.csv is known in dataset clinic.*--content"):
        put(project, table(2)[list(NAMES)] * 7)
    done = put(project, table(2)[list(NAMES)] * 7, content=True)
    assert (done.changed, done.in_data, done.others) == (2, 0, 0)
    assert set(listed(project)["row_id"]) == {""}


@pytest.mark.parametrize(
    ("frame", "options", "error", "words"),
    [
        (table(), {"why": " "}, ConfigError, "--why is empty"),
        (table()[list(NAMES)], {"dataset": None}, DataError, r"fit several datasets \(clinic, wards\).*--dataset"),
        (table(), {"dataset": "nowhere"}, DataError, "there is no dataset 'nowhere'"),
        (table()[["row_id"]], {"dataset": None}, DataError, r"fit several datasets \(clinic, wards\)"),
        (pd.DataFrame({"row_id": ["never"]}), {}, DataError, "no row of asked.csv is known in dataset clinic"),
        (pd.DataFrame({"fingerprint": ["0" * 32]}), {"dataset": None}, DataError, "are in no dataset here"),
        (table(), {"lift": True}, DataError, "none of the rows is in"),
        (table()[["age"]], {}, DataError, "lacks 2 of the 3 feature columns"),
    ],
)
def test_what_is_refused_changes_nothing(
    project: Project, frame: pd.DataFrame, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    files = [quarantine_path(project.root, name) for name in (NAME, OTHER)]
    with pytest.raises(error, match=words):
        put(project, frame, **options)
    assert [path.read_bytes() for path in files] == [HEADER, HEADER]
    assert not project.events.path.exists()


def test_a_project_whose_split_does_not_depend_on_it_is_told_which_line_to_add(project: Project) -> None:
    path = project.root / "dvc.yaml"
    path.write_text(path.read_text().replace("        - quarantine/${item}.csv\n", ""))
    with pytest.raises(ConfigError, match=r'add the line - "quarantine/\$\{item\}\.csv"'):
        put(Project(project.root), table())


def test_not_while_a_run_is_going_on(project: Project) -> None:
    with project.lock(), pytest.raises(StageError, match="another assay command is working"):
        put(project, table())
    assert quarantine_path(project.root, NAME).read_bytes() == HEADER


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("fingerprint,why\n", "has the columns fingerprint, why; it needs fingerprint,copy,row_id,why,when"),
        (f"{','.join(QUARANTINE_COLUMNS)}\nabc,0,p-1,why,when\n", "row 0: 'abc' is not a fingerprint"),
        (
            f"{','.join(QUARANTINE_COLUMNS)}\n{'0' * 32},first,p-1,why,when\n",
            "row 0: 'first' is not the number of a copy",
        ),
        ("", "cannot be read"),
    ],
)
def test_a_file_edited_by_hand_into_something_else_stops_the_split(project: Project, content: str, words: str) -> None:
    quarantine_path(project.root, NAME).write_text(content)
    with pytest.raises(DataError, match=words):
        run_verb(project, "split")


def test_a_file_edited_by_hand_in_its_own_form_is_heeded(project: Project) -> None:
    path = quarantine_path(project.root, NAME)
    path.write_bytes(HEADER + f"{prints(1)[0]},1,,by hand,yesterday\n".encode())
    run_verb(project, "split")
    assert pd.read_csv(project.folder("split") / "excluded/rows.csv")["row_id"].tolist() == ["p-297"]


def test_a_listed_row_stays_listed_when_the_dataset_comes_in_another_order(project: Project) -> None:
    put(project, pd.DataFrame({"row_id": ["p-0"]}))
    turned = make_rows(300, 0).take(np.arange(300)[::-1])
    write_dataset(project.data, Dataset(Card(NAME, TABULAR, NAMES, "made"), turned))
    run_verb(project, "split")
    assert "p-0" in pd.read_csv(project.folder("split") / "excluded/rows.csv")["row_id"].tolist()


def test_a_file_of_before_lists_contents(project: Project) -> None:
    path = quarantine_path(project.root, NAME)
    path.write_bytes(OLD_HEADER + f"{prints(1)[0]},,by hand,yesterday\n".encode())
    run_verb(project, "split")
    assert read_json(project.folder("split") / "split.json")["quarantined"] == 2
    write_quarantine(path, read_quarantine(path))
    assert path.read_bytes() == HEADER + f"{prints(1)[0]},,,by hand,yesterday\n".encode()
    run_verb(project, "split")
    assert read_json(project.folder("split") / "split.json")["quarantined"] == 2


def test_ids_and_reasons_that_a_spreadsheet_program_would_run_are_guarded_and_come_back(tmp_path: Path) -> None:
    rows = {"fingerprint": ["0" * 32, "1" * 32, "2" * 32], "copy": ["0", "", "1"]}
    texts = {"row_id": ["=1+1", "-5", "'@r"], "why": ["@sensor", "broken", "-"], "when": "2026-05-01T00:00:00+00:00"}
    frame = pd.DataFrame(rows | texts, dtype="str")
    path = tmp_path / "q.csv"
    write_quarantine(path, frame)
    assert path.read_text().splitlines()[1].split(",")[2:4] == ["'=1+1", "'@sensor"]
    assert read_quarantine(path).to_dict("list") == frame.to_dict("list")
