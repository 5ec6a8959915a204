"""`assay ingest --append` and `assay data` with real files: what is added, parked, dropped and listed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import Checkout
from tests.integration.test_ingest import OPTIONS, is_clean, patients, roles, tracked

from assay.data.card import read_card
from assay.data.dataset import read_dataset
from assay.data.seen_labels import append_seen_labels, seen_labels_path
from assay.hashing import dvc_directory_md5, hash_tree
from assay.parts import read_json


def part(project: Checkout, first: int, last: int, name: str = "more.csv") -> None:
    patients(last)[first:].to_csv(project.root / name, index=False)


@pytest.fixture(scope="module")
def clinic_once(finished_once: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A project in which clinic has 400 rows; never changed."""
    root = tmp_path_factory.mktemp("clinic") / "project"
    shutil.copytree(finished_once.root, root, symlinks=True)
    project = Checkout(root)
    part(project, 0, 400, "patients.csv")
    project.assay("ingest", "patients.csv", *OPTIONS)
    return project


@pytest.fixture
def clinic(clinic_once: Checkout, tmp_path: Path) -> Checkout:
    """A copy of that project, to be changed."""
    shutil.copytree(clinic_once.root, tmp_path / "project", symlinks=True)
    return Checkout(tmp_path / "project")


def batches(project: Checkout) -> list[str]:
    return [arrival.batch for arrival in read_card(project.root / "data/clinic").batches]


def test_a_batch_is_added_and_dropped_and_old_rows_keep_their_roles(clinic: Checkout) -> None:
    root = clinic.root
    first, before, start = batches(clinic), roles(clinic), hash_tree(root / "data/clinic")
    part(clinic, 400, 900)
    told = clinic.assay("ingest", "--append", "more.csv", "--name", "clinic", "--batch", "may").stdout.splitlines()
    assert told[0] == "batch may: 500 rows from more.csv"
    assert told[1].startswith("data/clinic: 900 rows x 4 columns")
    assert is_clean(clinic)
    dataset = read_dataset(root / "data/clinic")
    assert dataset.data.rows["batch"].value_counts().to_dict() == {"may": 500, first[0]: 400}
    assert batches(clinic) == [*first, "may"]
    grown = roles(clinic)
    assert len(grown) == 900
    assert {row: grown[row] for row in before} == before
    assert not (root / ".assay/parked/clinic").is_dir() or not list((root / ".assay/parked/clinic").iterdir())

    line, _ = clinic.assay("data", "drop", "may", "--name", "clinic").stdout.splitlines()
    assert line.startswith("data/clinic: without the 500 rows of batch may; ")
    assert is_clean(clinic)
    assert roles(clinic) == before
    after = hash_tree(root / "data/clinic")
    assert after["features.npy"] == start["features.npy"]
    assert after["rows.csv"] == start["rows.csv"]
    assert "again" not in clinic.assay("ingest", "--append", "more.csv", "--name", "clinic", code=2).stdout

    log = json.loads(clinic.assay("data", "log", "--name", "clinic", "--json").stdout)
    assert [version["change"] for version in log["versions"]] == [
        "ingested from patients.csv",
        "added batch may",
        "dropped batch may",
    ]
    assert [version["rows"] for version in log["versions"]] == [400, 900, 400]
    assert [version["current"] for version in log["versions"]] == [False, False, True]
    assert log["versions"][-1]["data_version"] == dvc_directory_md5(root / "data/clinic")
    assert [(b["batch"], b["rows"], b["dropped"]) for b in log["batches"]] == [
        (first[0], 400, False),
        ("may", 500, True),
    ]
    text = clinic.assay("data", "log", "--name", "clinic").stdout
    assert "added batch may" in text
    assert "(now)" in text.splitlines()[2]
    assert text.splitlines()[-1].split() == ["batch", "may", "500", "rows", "more.csv", "dropped"]


def test_a_batch_that_fails_validation_is_parked_with_its_report(clinic: Checkout) -> None:
    root = clinic.root
    frame = patients(550)[400:]
    frame["b"] = 1000 * frame["b"]
    frame.to_csv(root / "more.csv", index=False)
    before = tracked(clinic), hash_tree(root / "data"), (root / "expectations/clinic.json").read_bytes()
    done = clinic.assay("ingest", "--append", "more.csv", "--name", "clinic", code=3)
    assert (tracked(clinic), hash_tree(root / "data"), (root / "expectations/clinic.json").read_bytes()) == before
    (parked,) = (root / ".assay/parked/clinic").iterdir()
    assert "new rows by column: b: " in done.stderr
    assert f"Batch {parked.name} was not added: it is in .assay/parked/clinic/{parked.name}" in done.stderr
    assert (parked / "more.csv").read_bytes() == (root / "more.csv").read_bytes()
    assert read_json(parked / "report.json")["success"] is False
    assert "b: 100 % of the values are" in "".join(path.read_text() for path in (parked / "docs").rglob("*.html"))

    suite = read_json(root / "expectations/clinic.json")
    (shift,) = (entry for entry in suite["expectations"] if entry["kwargs"].get("column") == "shift")
    shift["kwargs"] |= {"min_value": -1e6, "max_value": 1e6}
    (root / "expectations/clinic.json").write_text(json.dumps(suite))
    accepted = clinic.assay("ingest", "--append", "more.csv", "--name", "clinic")
    assert "warning: new rows by column: b: " in accepted.stderr
    assert not parked.exists()
    assert len(read_dataset(root / "data/clinic").data) == 550


def test_of_a_folder_that_fails_validation_what_is_read_is_parked(clinic: Checkout) -> None:
    folder = clinic.root / "more"
    folder.mkdir()
    frame = patients(550)[400:]
    frame.assign(b=1000 * frame["b"]).to_csv(folder / "part.csv", index=False)
    (folder / ".up").symlink_to("..")
    done = clinic.call("bash", "-c", "cd more && assay ingest --append . --name clinic")
    assert done.returncode == 3, done.stderr
    (parked,) = (clinic.root / ".assay/parked/clinic").iterdir()
    assert [path.name for path in (parked / "more").iterdir()] == ["part.csv"]


def test_a_suite_of_before_stays_until_it_is_learned_again(clinic: Checkout) -> None:
    path = clinic.root / "expectations/clinic.json"
    kwargs = {"column": "b", "min_value": -100, "max_value": 100}
    old = {"type": "expect_column_values_to_be_between", "kwargs": kwargs, "meta": {}}
    path.write_text(json.dumps({"name": "clinic", "expectations": [old], "meta": {"notes": ""}}))
    frame = patients(550)[400:]
    frame["a"] = 1000 * frame["a"]
    frame.loc[450, "b"] = 1e6
    frame.to_csv(clinic.root / "more.csv", index=False)
    assert (
        "column 'b'" in (stopped := clinic.assay("ingest", "--append", "more.csv", "--name", "clinic", code=3)).stderr
    )
    assert "first row ids 0450" in stopped.stderr
    assert "by column" not in stopped.stderr
    assert "learned from 400 rows" in clinic.assay("suite", "relearn", "--name", "clinic").stdout
    assert read_json(path)["meta"]["reference"]["rows"] == 400
    told = clinic.assay("ingest", "--append", "more.csv", "--name", "clinic", code=3).stderr
    assert "new rows by column: a: " in told
    assert "b: " not in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--append", "patients.csv", "--name", "clinic"), "400 rows from patients.csv) is in dataset clinic already"),
        (("--append", "patients.csv", "--name", "klinik"), "there is no dataset 'klinik'; there are"),
        (("--append", "patients.csv"), "give the name of the dataset"),
        (("--append", "absent.csv", "--name", "clinic"), "there is no file absent.csv"),
        (("patients.csv", "--name", "clinic", "--batch", "may"), "with --append"),
        (("--append", "patients.csv", "--name", "clinic", "--batch", "a/b"), "the batch's id is 'a/b'"),
    ],
)
def test_what_cannot_be_added_changes_nothing(clinic: Checkout, arguments: tuple[str, ...], words: str) -> None:
    before = tracked(clinic), hash_tree(clinic.root / "data")
    assert words in clinic.assay("ingest", *arguments, code=2).stderr
    assert (tracked(clinic), hash_tree(clinic.root / "data")) == before
    assert "has no batch 'june'" in clinic.assay("data", "drop", "june", "--name", "clinic", code=2).stderr
    assert (tracked(clinic), hash_tree(clinic.root / "data")) == before


def test_a_dataset_keeps_the_scheme_of_its_fingerprints(clinic: Checkout) -> None:
    """As one of format 1 would: its rows keep their roles when it is ingested again, or grows."""
    import numpy as np

    from assay.hashing import hash_file
    from assay.parts import write_json

    folder = clinic.root / "data/clinic"
    data = read_dataset(folder)
    np.save(folder / "features.npy", data.data.features.astype("<f4"))
    card = read_json(folder / "card.json")
    seal = {**card["sha256"], "features.npy": hash_file(folder / "features.npy")}
    dropped = ("format", "fingerprint_scheme", "batches", "label_column", "group_column")
    write_json(folder / "card.json", {**{k: v for k, v in card.items() if k not in dropped}, "sha256": seal})
    clinic.call("dvc", "add", "data")
    clinic.call("git", "add", "data.dvc")
    clinic.call("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "old data")
    assert read_card(folder).scheme == 1
    clinic.assay("ingest", "patients.csv", *OPTIONS)
    assert read_card(folder).scheme == 1
    assert read_json(folder / "card.json")["format"] == 2
    part(clinic, 400, 500)
    clinic.assay("ingest", "--append", "more.csv", "--name", "clinic")
    again = read_dataset(folder)
    assert again.card.scheme == 1
    assert pd.Series(again.card.fingerprints(again.data.features)).is_unique


def test_who_saw_and_quarantine_take_a_batch(clinic: Checkout) -> None:
    root = clinic.root
    (arrival,) = read_card(root / "data/breast_cancer").batches
    seen = json.loads(clinic.assay("audit", "who-saw", "--batch", arrival.batch, "--json").stdout)
    assert (seen["rows"], seen["known"], seen["datasets"]) == (569, 569, ["breast_cancer"])
    assert sum(use["rows"] for use in seen["scorers"][0]["uses"].values()) > 300
    part(clinic, 400, 500)
    clinic.assay("ingest", "--append", "more.csv", "--name", "clinic", "--batch", "may")
    barred = json.loads(clinic.assay("audit", "quarantine", "--batch", "may", "--why", "wrong sensor", "--json").stdout)
    assert (barred["dataset"], barred["changed"], barred["in_data"]) == ("clinic", 100, 100)
    now = roles(clinic)
    assert {row for row, role in now.items() if role == "excluded"} == {f"0{i}" for i in range(400, 500)}
    clinic.assay("data", "drop", "may", "--name", "clinic")
    gone = json.loads(clinic.assay("audit", "who-saw", "--batch", "may", "--json").stdout)
    assert (gone["rows"], gone["datasets"]) == (100, ["clinic"])
    lifted = clinic.assay("audit", "quarantine", "--batch", "may", "--why", "it was right", "--lift", "--json").stdout
    assert json.loads(lifted)["changed"] == 100
    for arguments, words in (
        (("who-saw",), "give either a file of rows or a batch"),
        (("who-saw", "more.csv", "--batch", "may"), "give either a file of rows or a batch"),
        (("who-saw", "--batch", "june"), "batch 'june' is in no dataset here"),
    ):
        assert words in clinic.assay("audit", *arguments, code=2).stderr


def test_labels_mean_the_same_in_every_batch(clinic: Checkout) -> None:
    for name, labels in (("first", ["1", "-1"] * 50), ("second", ["1"] * 100)):
        frame = pd.DataFrame({"x": np.random.default_rng(len(name)).normal(size=100), "y": labels})
        frame.to_csv(clinic.root / f"{name}.csv", index=False)
    refused = clinic.assay("ingest", "first.csv", "--name", "lines", "--label", "y", code=2)
    assert "just 1 and -1, and either may stand for normal rows" in refused.stderr
    absent = clinic.assay("ingest", "first.csv", "--name", "lines", "--label", "y", "--normal", "ok", code=2)
    assert "no row of first.csv has the label 'ok'" in absent.stderr
    clinic.assay("ingest", "first.csv", "--name", "lines", "--label", "y", "--normal", "1")
    clinic.assay("ingest", "--append", "second.csv", "--name", "lines")
    labels = read_dataset(clinic.root / "data/lines").data.labels
    assert np.bincount(labels).tolist() == [150, 50]


def test_labels_that_were_given_after_the_score_was_seen_are_not_taken(clinic: Checkout) -> None:
    root = clinic.root
    part(clinic, 400, 500)
    arriving = patients(500)[400:]
    labelled = arriving["patient"][arriving["ill"].notna()].tolist()
    seen = labelled[:3]
    append_seen_labels(seen_labels_path(root, "clinic"), [(row, 1) for row in seen], "somebody")
    done = clinic.assay("ingest", "--append", "more.csv", "--name", "clinic")
    assert "3 rows come in as unknown" in done.stderr
    rows = read_dataset(root / "data/clinic").data.rows.set_index("row_id")
    assert rows.loc[seen, "label"].tolist() == [-1, -1, -1]
    assert (rows.loc[labelled[3:], "label"] != -1).all()
    assert is_clean(clinic)
