"""`assay ingest` with real files: what comes in, what grows, what is refused, and what a kill leaves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from tests.conftest import Checkout
from tests.waiting import wait_until

from assay.data.dataset import read_dataset
from assay.hashing import dvc_directory_md5, hash_tree
from assay.project.freshness import run_verb
from assay.project.layout import Project

OPTIONS = ("--name", "clinic", "--label", "ill", "--id", "patient", "--group", "family")


def patients(n: int) -> pd.DataFrame:
    """The first n patients, two to a family; the last quarter of any hundred has no label."""
    draw = np.random.default_rng(0).normal(size=(1000, 3))[:n]
    frame = pd.DataFrame(draw, columns=["größe, cm", "b", "a"])
    frame.insert(1, "patient", [f"0{i}" for i in range(n)])
    frame["smoker"] = np.arange(n) % 3 == 0
    frame["family"] = np.arange(n) // 2
    frame["ill"] = pd.array([int(i % 10 == 0) if i % 100 < 75 else None for i in range(n)], dtype="Int8")
    return frame


def tracked(project: Checkout) -> str:
    return str(yaml.safe_load((project.root / "data.dvc").read_text())["outs"][0]["md5"])


def is_clean(project: Checkout) -> bool:
    return bool(json.loads(project.call("dvc", "status", "--json", "data.dvc").stdout) == {})


def roles(project: Checkout) -> dict[str, str]:
    """Role of each row of clinic."""
    params = project.root / "params.yaml"
    named = "dataset: clinic\ndatasets: [breast_cancer, clinic]\n"
    params.write_text(params.read_text().replace("dataset: breast_cancer\ndatasets: [breast_cancer]\n", named))
    run_verb(Project(project.root), "split")
    folders = [path.parent for path in (project.root / "work/clinic/split").glob("*/rows.csv")]
    return {row: folder.name for folder in folders for row in pd.read_csv(folder / "rows.csv", dtype=str)["row_id"]}


def test_a_file_comes_in_and_grows(finished: Checkout) -> None:
    root = finished.root
    patients(400).to_csv(root / "patients.csv", index=False)
    told = finished.assay("ingest", "patients.csv", *OPTIONS)
    assert told.stdout == (
        "data/clinic: 400 rows x 4 columns, 32 labelled anomalies, 100 unlabelled\nnext: assay run --dataset clinic\n"
    )
    assert told.stderr == ""
    first = read_dataset(root / "data/clinic")
    assert first.card.columns == ("größe, cm", "b", "a", "smoker")
    assert first.data.rows["row_id"].tolist() == [f"0{i}" for i in range(400)]
    assert first.data.rows["group"].tolist()[:3] == ["0", "0", "1"]
    assert np.bincount(first.data.labels + 1).tolist() == [100, 268, 32]
    expected = patients(400)[list(first.card.columns)].to_numpy(dtype=np.float64)
    np.testing.assert_array_equal(first.data.features, expected)
    assert is_clean(finished)
    suite, before = (root / "expectations/clinic.json").read_bytes(), roles(finished)
    old = (root / "data.dvc").read_bytes(), hash_tree(root / "data/clinic")

    grown = patients(900).sample(frac=1, random_state=1)
    grown[grown.columns[::-1]].to_parquet(root / "patients.parquet")
    finished.assay("ingest", "patients.parquet", *OPTIONS)
    assert len(read_dataset(root / "data/clinic").data) == 900
    assert is_clean(finished)
    assert (root / "expectations/clinic.json").read_bytes() == suite
    after = roles(finished)
    assert len(after) == 900
    assert {row: after[row] for row in before} == before

    versions = [e["data_version"] for e in Project(root).events if e["event"] == "ingested"]
    assert len(set(versions)) == 2
    assert versions[-1] == dvc_directory_md5(root / "data/clinic")
    (root / "data.dvc").write_bytes(old[0])
    assert finished.call("dvc", "checkout", "data.dvc").returncode == 0
    assert hash_tree(root / "data/clinic") == old[1]
    assert dvc_directory_md5(root / "data/clinic") == versions[0]


def test_the_same_file_again_changes_nothing(finished: Checkout) -> None:
    patients(50).to_csv(finished.root / "patients.csv", index=False)
    finished.assay("ingest", "patients.csv", *OPTIONS)
    before = tracked(finished), hash_tree(finished.root / "data"), hash_tree(finished.root / "expectations")
    finished.assay("ingest", "patients.csv", *OPTIONS)
    assert (tracked(finished), hash_tree(finished.root / "data"), hash_tree(finished.root / "expectations")) == before


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        (
            "a.csv",
            lambda path: path.write_text("patient,ill,family,x\n1,0,1,tall\n2,0,1,3\n"),
            "column 'x' holds numbers and text",
        ),
        ("a.csv", lambda path: path.write_text("patient,ill,family,x\n1,0,1,2\n1,0,1,3\n"), "'1' of an earlier row"),
        ("a.parquet", lambda path: path.write_bytes(b"PAR1 cut short"), "a.parquet cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_leaves_no_trace(
    finished: Checkout, name: str, write: Callable[[Path], object], words: str
) -> None:
    write(finished.root / name)
    before = hash_tree(finished.root)
    done = finished.assay("ingest", name, *OPTIONS, code=2)
    (line,) = done.stderr.splitlines()
    assert words in line
    assert done.stdout == ""
    after = hash_tree(finished.root)
    assert after == {**before, ".assay/lock": after[".assay/lock"]}


def inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def kill_when(project: Checkout, seen: Callable[[], bool]) -> None:
    """Start to ingest and kill it, with all its children, as soon as something is seen."""
    process = project.start("assay", "ingest", "patients.csv", *OPTIONS)
    try:
        wait_until(seen, process, pause=0.0005)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_killed_while_it_writes(finished: Checkout) -> None:
    """Nothing of it is in data/, and the next command sweeps what is left elsewhere."""
    root = finished.root
    patients(1000).to_csv(root / "patients.csv", index=False)
    names, before, old = set(root.iterdir()), tracked(finished), hash_tree(root / "data")
    kill_when(finished, lambda: set(root.iterdir()) != names)
    assert set(root.iterdir()) != names
    assert tracked(finished) == before
    assert hash_tree(root / "data") == old
    finished.assay("ingest", "patients.csv", *OPTIONS)
    assert set(root.iterdir()) == names
    assert len(read_dataset(root / "data/clinic").data) == 1000
    assert is_clean(finished)


@pytest.fixture
def half_ingested(finished: Checkout) -> Checkout:
    """A project in which clinic grew from 300 to 700 rows, killed between placing the files and tracking them."""
    clinic = finished.root / "data/clinic"
    patients(300).to_csv(finished.root / "patients.csv", index=False)
    finished.assay("ingest", "patients.csv", *OPTIONS)
    before, folder = tracked(finished), inode(clinic)
    patients(700).to_csv(finished.root / "patients.csv", index=False)
    kill_when(finished, lambda: inode(clinic) not in (folder, None))
    assert len(read_dataset(clinic).data) == 700
    assert tracked(finished) == before
    return finished


def test_killed_before_tracking_is_finished_by_the_next_command(half_ingested: Checkout) -> None:
    half_ingested.assay("restore")
    assert is_clean(half_ingested)
    root = half_ingested.root
    assert len(read_dataset(root / "data/clinic").data) == 700
    event = Project(root).events.last("ingested", dataset="clinic")
    assert event is not None
    assert event["data_version"] == dvc_directory_md5(root / "data/clinic")


def test_what_was_changed_after_the_kill_is_not_tracked(half_ingested: Checkout) -> None:
    rows = half_ingested.root / "data/clinic/rows.csv"
    rows.write_bytes(rows.read_bytes().replace(b",1,", b",0,", 1))
    before = tracked(half_ingested)
    done = half_ingested.assay("ingest", "patients.csv", *OPTIONS, code=5)
    assert "data/clinic/rows.csv differs from what data.dvc names" in done.stderr
    assert tracked(half_ingested) == before
    assert half_ingested.call("dvc", "checkout", "--force", "data.dvc").returncode == 0
    assert len(read_dataset(rows.parent).data) == 300
    half_ingested.assay("ingest", "patients.csv", *OPTIONS)
    assert len(read_dataset(rows.parent).data) == 700


@pytest.mark.long
def test_files_of_one_dataset_that_cannot_be_read_stop_no_other(finished: Checkout) -> None:
    root = finished.root
    patients(100).to_csv(root / "patients.csv", index=False)
    finished.assay("ingest", "patients.csv", *OPTIONS)
    (root / "quarantine/clinic.csv").unlink()
    (root / "quarantine/clinic.csv").mkdir()
    (root / "deployments/clinic.json").write_text("{")
    (root / "rows.csv").write_text("row_id\nbreast_cancer-0000\nbreast_cancer-0001\n")
    finished.assay("restore")
    assert finished.assay("scorers").stdout.startswith("breast_cancer:")
    finished.assay("audit", "who-saw", "rows.csv", "--dataset", "breast_cancer")
    finished.assay("run", "--no-deploy")
    (left := root / ".dvc/cache/files/md5/22/.aMBZg-GhoyMs9pPJ_0e_gx.tmp").parent.mkdir(exist_ok=True)
    left.touch()
    finished.assay("gc")
    assert not left.exists()
    done = finished.assay("run", "--dataset", "clinic", code=1)
    *_, line = done.stderr.splitlines()
    assert "deployments/clinic.json is not a deployment record" in line
    (root / "deployments/clinic.json").unlink()
    *_, line = finished.assay("run", code=1).stderr.splitlines()
    assert line.startswith(f"assay: {root}/quarantine/clinic.csv: is a directory; a folder is where a file should be")
