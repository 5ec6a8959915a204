"""`assay audit verify`: whatever was changed behind a scorer is named, and a later run is no change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import Checkout

from assay import stages
from assay.lineage.audit import Findings, verify_scorer
from assay.lineage.events import EventLog
from assay.lineage.records import files_of, hash_file
from assay.parts import read_arrays, read_json, write_arrays, write_json
from assay.project import Project

BEHIND = ("split", "contaminate", "validate", "train", "calibrate", "select")
WHAT = [
    "scorer folder",
    "event log",
    "parts against the records",
    "lineage root",
    "data/breast_cancer",
    *(f"stage {stage}" for stage in BEHIND),
    "stage package",
    "Bento",
]


@pytest.fixture(autouse=True)
def own_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scorers are looked for in the project's own store, whatever this machine has."""
    monkeypatch.delenv("BENTOML_HOME", raising=False)


def scorer_folder(project: Checkout) -> Path:
    (folder,) = (path for path in (project.root / "work/scorers/breast_cancer").iterdir() if path.is_dir())
    return folder


def verify(project: Checkout, tag: str = "breast_cancer") -> Findings:
    return verify_scorer(Project(project.root), tag)


def wrong(findings: Findings) -> dict[str, str]:
    return {finding.what: finding.detail for finding in findings.found if finding.state == "differs"}


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def spoil(path: Path, change: Callable[[bytes], bytes] = flipped) -> bytes:
    """Change a file, though not DVC's copy of it, and return what it was."""
    before = path.read_bytes()
    path.unlink()
    path.write_bytes(change(before))
    return before


def test_an_intact_scorer(finished: Checkout) -> None:
    tag = f"breast_cancer:{scorer_folder(finished).name}"
    told = finished.assay("audit", "verify", "breast_cancer").stdout.splitlines()
    assert [line.split(maxsplit=1)[0] for line in told] == ["ok"] * len(WHAT) + [f"{tag}:"]
    assert [line[11:].partition(":")[0] for line in told[:-1]] == WHAT
    assert told[-1] == f"{tag}: intact"


def test_findings_in_json(finished: Checkout) -> None:
    tag = f"breast_cancer:{scorer_folder(finished).name}"
    found = json.loads(finished.assay("audit", "verify", tag, "--json").stdout)
    assert (found["scorer"], found["intact"]) == (tag, True)
    assert [finding["what"] for finding in found["findings"]] == WHAT
    assert all(finding.keys() == {"what", "state", "detail"} for finding in found["findings"])
    spoil(finished.root / "work/breast_cancer/train/level-0/knn.safetensors")
    found = json.loads(finished.assay("audit", "verify", tag, "--json", code=1).stdout)
    assert not found["intact"]
    states = {finding["what"]: finding["state"] for finding in found["findings"]}
    assert states["stage train"] == "differs"
    assert states["stage split"] == "ok"


def test_a_change_is_told_on_a_line_and_by_the_exit_code(finished: Checkout) -> None:
    spoil(finished.root / "work/breast_cancer/validate/summary.json")
    done = finished.assay("audit", "verify", "breast_cancer", code=1)
    (line,) = (line for line in done.stdout.splitlines() if "stage validate" in line)
    assert line.startswith("differs    stage validate: ")
    assert "work/breast_cancer/validate/summary.json was changed" in line
    assert done.stdout.splitlines()[-1].endswith(" differ")
    assert done.stderr == ""


def test_every_file_of_the_scorer_is_checked(finished: Checkout) -> None:
    folder = scorer_folder(finished)
    files = files_of(folder)
    assert len(files) > 10
    for path in files:
        before = spoil(path)
        found = wrong(verify(finished, f"breast_cancer:{folder.name}"))
        assert f"{path} was changed" in found["scorer folder"]
        path.write_bytes(before)
    assert verify(finished).intact


@pytest.mark.parametrize("stage", BEHIND)
def test_every_output_and_record_behind_the_scorer_is_checked(finished: Checkout, stage: str) -> None:
    folder = finished.root / "work/breast_cancer" / stage
    files = files_of(folder)
    assert folder / "record.json" in files
    assert len(files) > 1
    for path in files:
        before = spoil(path)
        assert str(path) in wrong(verify(finished))[f"stage {stage}"]
        path.unlink()
        assert f"{path} is missing" in wrong(verify(finished))[f"stage {stage}"]
        path.write_bytes(before)
    (folder / "added.txt").write_bytes(b"")
    assert f"{folder / 'added.txt'} is not on record" in wrong(verify(finished))[f"stage {stage}"]
    (folder / "added.txt").unlink()
    assert verify(finished).intact


@pytest.mark.parametrize("name", ["features.npy", "rows.csv", "card.json"])
def test_the_data_are_checked(finished: Checkout, name: str) -> None:
    spoil(finished.root / "data/breast_cancer" / name)
    found = wrong(verify(finished))
    assert "data/breast_cancer" in found
    assert f"data/breast_cancer/{name} was changed" in found["stage validate"]


def test_lost_data_are_named(finished: Checkout) -> None:
    (finished.root / "data").rename(finished.root / "lost")
    found = wrong(verify(finished))
    assert "now missing" in found["data/breast_cancer"]
    assert "data/breast_cancer/features.npy is missing" in found["stage split"]


def test_the_event_log_is_checked(finished: Checkout) -> None:
    path = finished.root / ".assay/events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines[:-1]):
        path.write_bytes(b"".join([*lines[:number], flipped(line), *lines[number + 1 :]]))
        found = wrong(verify(finished))
        assert "event log" in found
        assert str(path) in found["event log"]


@pytest.mark.parametrize("part", ["scaler", "detector", "null_model", "strata", "calibrator"])
def test_a_part_that_no_stage_made_is_named(finished: Checkout, part: str) -> None:
    """Packaged anew, a scorer is all of one piece; the records still say what each part was."""
    folder = scorer_folder(finished)
    path = folder / f"{part}.safetensors"
    arrays = read_arrays(path)
    name = next(name for name, array in arrays.items() if array.size and array.dtype.kind == "f")
    write_arrays(path, {**arrays, name: arrays[name] * 2})
    head = read_json(folder / "scorer.json")
    write_json(folder / "scorer.json", {**head, "files": {**head["files"], path.name: hash_file(path)}})
    forged = folder.rename(folder.parent / hash_file(folder / "scorer.json")[:12])
    found = wrong(verify(finished, f"breast_cancer:{forged.name}"))
    assert set(found) == {"parts against the records", "stage package"}
    assert f"{forged / part}.safetensors is not the recorded" in found["parts against the records"]


def test_settings_of_a_part_are_held_to_the_records(finished: Checkout) -> None:
    folder = scorer_folder(finished)
    head = read_json(folder / "scorer.json")
    head["parts"]["detector"]["config"]["extra"] = 1
    write_json(folder / "scorer.json", head)
    forged = folder.rename(folder.parent / hash_file(folder / "scorer.json")[:12])
    found = wrong(verify(finished, f"breast_cancer:{forged.name}"))
    assert "detector in" in found["parts against the records"]


def test_a_changed_bento_is_named(finished: Checkout) -> None:
    version = scorer_folder(finished).name
    bento = finished.root / ".bentoml/bentos/assay-breast_cancer" / version
    listed = bento / "files.json"
    spoil(bento / "src/assay/cli.py")
    files = {**read_json(listed), "src/assay/cli.py": hash_file(bento / "src/assay/cli.py")}
    write_json(listed, files)
    assert "is not the one that was built" in wrong(verify(finished))["Bento"]


def test_data_of_another_dataset_do_not_matter(finished: Checkout) -> None:
    spoil(finished.root / "data/digits/features.npy")
    assert verify(finished).intact


def test_a_run_with_other_settings_supersedes_and_spoils_nothing(finished: Checkout) -> None:
    """The old scorer is kept by BentoML; its stages' folders now hold what the new one was made of."""
    old = scorer_folder(finished).name
    params = finished.root / "params.yaml"
    params.write_text(params.read_text().replace("train: {seed: 0", "train: {seed: 7").replace("0.05", "0.1"))
    for stage in ("train", "calibrate", "select", "evaluate"):
        assert stages.run(Project(finished.root), stage).ran
    finished.assay("stage", "package")
    new = scorer_folder(finished).name
    assert new != old
    done = finished.assay("audit", "verify", f"breast_cancer:{old}")
    states = {line[11:].partition(":")[0]: line.split()[0] for line in done.stdout.splitlines()[:-1]}
    assert [what for what, state in states.items() if state == "superseded"] == [
        "stage train",
        "stage calibrate",
        "stage select",
        "stage package",
    ]
    assert {states[what] for what in WHAT if states[what] != "superseded"} == {"ok"}
    assert done.stdout.splitlines()[-1] == f"breast_cancer:{old}: intact"
    assert {finding.state for finding in verify(finished, f"breast_cancer:{new}").found} == {"ok"}
    kept = finished.root / ".bentoml/models/breast_cancer" / old
    for path in (kept / "detector.safetensors", kept / "lineage/train.json"):
        before = spoil(path)
        assert f"{path} was changed" in wrong(verify(finished, f"breast_cancer:{old}"))["scorer folder"]
        path.write_bytes(before)
    record = finished.root / "work/breast_cancer/select/record.json"
    spoil(record)
    for tag in (f"breast_cancer:{old}", f"breast_cancer:{new}"):
        assert f"{record} is not a record that was logged" in wrong(verify(finished, tag))["stage select"]


def test_a_later_run_that_nobody_logged_is_no_later_run(finished: Checkout) -> None:
    """Without its event, a record in the place of the scorer's own is not to be told from a forged one."""
    params = finished.root / "params.yaml"
    params.write_text(params.read_text().replace("eps: 0.05", "eps: 0.1"))
    log = EventLog(finished.root / ".assay/events.jsonl")
    before = log.path.read_bytes()
    stages.run(Project(finished.root), "select")
    assert {f.what: f.state for f in verify(finished).found}["stage select"] == "superseded"
    log.path.write_bytes(before)
    assert "is not a record that was logged here" in wrong(verify(finished))["stage select"]
