"""Bytes that changed under a run's feet make it refuse; nothing is blessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.conftest import Checkout


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()  # DVC may have linked it to its cache
    path.write_bytes(bytes(content))


def lock_and_data(project: Checkout) -> tuple[bytes, bytes]:
    return (project.root / "dvc.lock").read_bytes(), (project.root / "data.dvc").read_bytes()


@pytest.mark.parametrize("name", ["features.npy", "rows.csv", "card.json"])
def test_a_changed_raw_file_stops_the_run(finished: Checkout, name: str) -> None:
    before = lock_and_data(finished)
    flip(finished.root / "data" / "breast_cancer" / name)
    done = finished.assay("run", code=5)
    assert "differs from what data.dvc names" in done.stderr
    assert "dvc checkout --force data.dvc" in done.stderr
    assert lock_and_data(finished) == before


def test_the_advice_for_a_changed_raw_file_works(finished: Checkout) -> None:
    flip(finished.root / "data" / "breast_cancer" / "features.npy")
    finished.assay("run", code=5)
    assert finished.call("dvc", "checkout", "--force", "data.dvc").returncode == 0
    finished.assay("run")


@pytest.mark.parametrize("name", ["features.npy", pytest.param("card.json", marks=pytest.mark.long)])
def test_dvc_repro_refuses_a_changed_raw_file_too_and_its_advice_works(finished: Checkout, name: str) -> None:
    """DVC tracks the changed file before any stage runs; the stage refuses what nobody brought in."""
    finished.call("git", "add", "data.dvc")
    assert finished.call("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "data").returncode == 0
    flip(finished.root / "data" / "breast_cancer" / name)
    done = finished.call("dvc", "repro")
    assert done.returncode != 0
    assert "neither brought in by `assay ingest` nor committed" in done.stderr
    finished.assay("run", code=5)
    assert finished.call("git", "checkout", "data.dvc").returncode == 0
    assert finished.call("dvc", "checkout", "--force", "data.dvc").returncode == 0
    finished.assay("run")


def test_a_changed_file_is_refused_even_when_dvc_already_tracks_it(finished: Checkout) -> None:
    from assay.data.dataset import read_dataset
    from assay.errors import TamperedError

    flip(finished.root / "data" / "breast_cancer" / "features.npy")
    with pytest.raises(TamperedError, match=r"features\.npy was changed after it was ingested"):
        read_dataset(finished.root / "data" / "breast_cancer")


def test_ingest_does_not_bless_a_changed_neighbour(finished: Checkout) -> None:
    before = lock_and_data(finished)
    flip(finished.root / "data" / "digits" / "rows.csv")
    (finished.root / "new.csv").write_text("a,b\n1,2\n3,4\n")
    done = finished.assay("ingest", "new.csv", "--name", "new", code=5)
    assert "data/digits/rows.csv" in done.stderr
    assert lock_and_data(finished) == before
    assert not (finished.root / "data" / "new").exists()


@pytest.mark.parametrize(
    "path",
    [
        "work/breast_cancer/split/test/features.npy",
        "work/breast_cancer/contaminate/level-0.1/rows.csv",
        "work/breast_cancer/validate/summary.json",
        "work/breast_cancer/train/knn/level-0/knn.safetensors",
        "work/breast_cancer/calibrate/knn/reference/level-0/knn+none.safetensors",
        "work/breast_cancer/select/selection.json",
        "work/breast_cancer/evaluate/evaluation.json",
    ],
)
def test_a_changed_stage_output_stops_the_run(finished: Checkout, path: str) -> None:
    before = lock_and_data(finished)
    flip(finished.root / path)
    done = finished.assay("run", code=5)
    assert f"{path} was changed since it was recorded" in done.stderr
    assert lock_and_data(finished) == before


def test_a_removed_and_an_added_stage_output_are_named(finished: Checkout) -> None:
    folder = finished.root / "work" / "breast_cancer" / "split"
    (folder / "test" / "rows.csv").unlink()
    assert "test/rows.csv is missing" in finished.assay("run", code=5).stderr
    finished.call("dvc", "checkout", "--force", "split@breast_cancer")
    (folder / "extra.txt").write_text("x")
    assert "extra.txt is not on record" in finished.assay("run", code=5).stderr


def test_an_output_forged_together_with_its_record_stops_the_run(finished: Checkout) -> None:
    from assay.hashing import hash_tree
    from assay.parts import canonical_json

    folder = finished.root / "work" / "breast_cancer" / "select"
    flip(folder / "selection.json")
    record = json.loads((folder / "record.json").read_text())
    record["outputs"] = hash_tree(folder)
    (folder / "record.json").unlink()
    (folder / "record.json").write_text(canonical_json(record))
    assert "is not the record that was logged" in finished.assay("run", code=5).stderr


def test_a_changed_event_log_stops_the_run(finished: Checkout) -> None:
    log = finished.root / ".assay" / "events.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:1] + lines[2:]))
    assert "it was cut or changed. Nothing was done." in finished.assay("run", code=5).stderr


def test_changed_settings_are_no_tampering(finished: Checkout) -> None:
    params = finished.root / "params.yaml"
    params.write_text(params.read_text().replace("eps: 0.05", "eps: 0.1"))
    told = finished.assay("run")
    fresh = [line.split()[0] for line in told.stderr.splitlines() if line.endswith("fresh")]
    assert fresh == ["split", "contaminate", "validate", *["train"] * 3, *["calibrate"] * 3]
