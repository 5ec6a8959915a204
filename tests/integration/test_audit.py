"""`assay audit verify`: whatever was changed behind a scorer is named, and a later run is no change."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import Checkout
from tests.sealing import reseal

from assay.audit.chain import read_chain
from assay.audit.findings import LIMITS, NOT_HERE, UNCHECKED, Findings
from assay.audit.verify import verify_scorer
from assay.eventlog import EventLog
from assay.hashing import files_of, hash_file
from assay.parts import read_arrays, read_json, write_arrays, write_json
from assay.project.freshness import run_verb
from assay.project.layout import Project
from assay.project.versioning import commit
from assay.scorer.statement import read_statement

BEHIND = ("split", "contaminate", "validate", "train", "calibrate", "select")
CELLS = {verb: f"{verb}/isolation_forest" for verb in ("train", "calibrate")}
WHAT = [
    "scorer folder",
    "statement",
    "event log",
    "parts against the records",
    "lineage root",
    "data/breast_cancer",
    "data.dvc",
    "answers/breast_cancer.csv",
    "expectations/breast_cancer.json",
    "labels/breast_cancer.csv",
    "quarantine/breast_cancer.csv",
    "targets/breast_cancer.csv",
    "code",
    *(f"stage {stage}" for stage in (*BEHIND, "evaluate")),
    "stage package",
    "rows of the run",
    "kept copy",
    "BentoML model",
    "Bento",
    "dvc.lock",
    "history",
    "deployment",
    "comparisons",
    "seals",
]
NAME = "breast_cancer"
WORK = f"work/{NAME}"
GIT = ("git", "-c", "user.name=tests", "-c", "user.email=tests@example.org")


@pytest.fixture(autouse=True)
def own_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scorers are looked for in the project's own store, whatever this machine has."""
    monkeypatch.delenv("BENTOML_HOME", raising=False)


@pytest.fixture(scope="module")
def spoilt(finished_once: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy of the finished run whose files are changed and put back."""
    root = tmp_path_factory.mktemp("spoilt") / "project"
    shutil.copytree(finished_once.root, root, symlinks=True)
    return Checkout(root)


def scorer_folder(project: Checkout) -> Path:
    """The champion as it is kept."""
    (folder,) = (path for path in (project.root / "scorers/breast_cancer").iterdir() if path.is_dir())
    return folder


def packaged_folder(project: Checkout) -> Path:
    """The newest run's output."""
    (folder,) = (path for path in (project.root / "work/package/breast_cancer").iterdir() if path.is_dir())
    return folder


def sealed(project: Checkout) -> str:
    """The version of the scorer with its statement, as in BentoML's store."""
    return read_statement(scorer_folder(project)).tag.partition(":")[2]


def verify(project: Checkout, tag: str = "breast_cancer") -> Findings:
    return verify_scorer(Project(project.root), tag)


def wrong(findings: Findings) -> dict[str, str]:
    return {finding.what: finding.detail for finding in findings.items if finding.state == "differs"}


def unchecked(findings: Findings) -> dict[str, str]:
    return {finding.what: finding.detail for finding in findings.items if finding.state in (NOT_HERE, UNCHECKED)}


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
    told = finished.assay("audit", "verify", "breast_cancer").stdout.splitlines()
    assert [line.split(maxsplit=1)[0] for line in told[: len(WHAT)]] == ["ok"] * len(WHAT)
    assert [line[11:].partition(":")[0] for line in told[: len(WHAT)]] == WHAT
    assert told[len(WHAT) : -1] == list(LIMITS)
    assert told[-1] == f"breast_cancer:{sealed(finished)}: intact"


def test_findings_in_json(finished: Checkout) -> None:
    tag = f"breast_cancer:{scorer_folder(finished).name}"
    found = json.loads(finished.assay("audit", "verify", tag, "--json").stdout)
    assert (f"{found['scorer']}-{found['statement']}", found["intact"]) == (f"breast_cancer:{sealed(finished)}", True)
    assert [finding["what"] for finding in found["findings"]] == WHAT
    assert all(finding.keys() == {"what", "state", "detail"} for finding in found["findings"])
    spoil(finished.root / "work/breast_cancer/train/isolation_forest/level-0/isolation_forest.safetensors")
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
    assert len(files) > 8
    for path in files:
        before = spoil(path)
        found = wrong(verify(finished, f"breast_cancer:{folder.name}"))
        what = "statement" if path.parent.name == "statements" else "scorer folder"
        assert str(path) in found[what]
        assert "was changed" in found[what]
        path.write_bytes(before)
    assert verify(finished).intact


@pytest.mark.parametrize("stage", [*BEHIND, "evaluate"])
def test_every_output_and_record_behind_the_scorer_is_checked(finished: Checkout, stage: str) -> None:
    folder = finished.root / "work/breast_cancer" / CELLS.get(stage, stage)
    record, files = folder / "record.json", files_of(folder)
    files.remove(record)
    assert files
    # All outputs at once: each has to be named as changed, and so none hides behind another.
    originals = {path: spoil(path) for path in files}
    named = wrong(verify(finished))[f"stage {stage}"].split("; ")
    assert {f"{path} was changed" for path in files} <= {*named}
    for path, content in originals.items():
        path.write_bytes(content)
    content = spoil(record)
    assert str(record) in wrong(verify(finished))[f"stage {stage}"]
    record.write_bytes(content)
    for path in (files[0], record):
        before = path.read_bytes()
        path.unlink()
        assert f"{path} is missing" in wrong(verify(finished))[f"stage {stage}"]
        path.write_bytes(before)
    (folder / "added.txt").write_bytes(b"")
    assert f"{folder / 'added.txt'} is not on record" in wrong(verify(finished))[f"stage {stage}"]
    (folder / "added.txt").unlink()
    assert verify(finished).intact


def test_the_detectors_that_were_not_chosen_are_checked_too(finished: Checkout) -> None:
    """As inputs of the selection; one that was trained anew since is a later run's."""
    for name in ("train/knn/level-0/knn.safetensors", "calibrate/knn/adapters/level-0.1/knn+cadet.json"):
        path = finished.root / WORK / name
        before = spoil(path)
        assert f"{WORK}/{name} was changed" in wrong(verify(finished))["stage select"]
        path.write_bytes(before)
    params = finished.root / "params.yaml"
    params.write_text(params.read_text().replace("knn: {}", "knn: {n_neighbors: 3}"))
    run_verb(Project(finished.root), f"train@{NAME}--knn")
    states = {finding.what: finding.state for finding in verify(finished).items}
    assert (states["stage train"], states["stage select"]) == ("ok", "superseded")
    assert "differs" not in states.values()


@pytest.mark.parametrize("name", ["features.npy", "rows.csv", "card.json"])
def test_the_data_are_checked(finished: Checkout, name: str) -> None:
    spoil(finished.root / "data/breast_cancer" / name)
    found = wrong(verify(finished))
    assert "data/breast_cancer" in found
    assert f"data/breast_cancer/{name} was changed" in found["stage validate"]


def test_lost_data_are_named(finished: Checkout) -> None:
    (finished.root / "data").rename(finished.root / "lost")
    findings = verify(finished)
    assert not findings.intact
    assert wrong(findings) == {}
    found = {finding.what: (finding.state, finding.detail) for finding in findings.items}
    assert found["data/breast_cancer"] == (
        NOT_HERE,
        f"{finished.root / 'data/breast_cancer'}; `assay restore` brings it back",
    )
    state, detail = found["stage split"]
    assert state == "ok"
    assert "data/breast_cancer/card.json is not here" in detail


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
    folder = packaged_folder(finished)
    path = folder / f"{part}.safetensors"
    arrays = read_arrays(path)
    name = next(name for name, array in arrays.items() if array.size and array.dtype.kind == "f")
    write_arrays(path, {**arrays, name: arrays[name] * 2})
    forged = reseal(folder)
    found = wrong(verify(finished, f"breast_cancer:{forged.name}"))
    assert set(found) == {"parts against the records", "stage package"}
    assert f"{forged / part}.safetensors is not the recorded" in found["parts against the records"]


def test_settings_of_a_part_are_held_to_the_records(finished: Checkout) -> None:
    forged = reseal(packaged_folder(finished), head=lambda head: head["parts"]["detector"]["config"].update(extra=1))
    found = wrong(verify(finished, f"breast_cancer:{forged.name}"))
    assert "detector in" in found["parts against the records"]


def test_a_changed_bento_is_named(finished: Checkout) -> None:
    bento = finished.root / ".bentoml/bentos/assay-breast_cancer" / sealed(finished)
    listed = bento / "files.json"
    spoil(bento / "src/assay/cli/main.py")
    files = {**read_json(listed), "src/assay/cli/main.py": hash_file(bento / "src/assay/cli/main.py")}
    write_json(listed, files)
    assert "is not the one that was built" in wrong(verify(finished))["Bento"]


KINDS = {
    "raw features": "data/breast_cancer/features.npy",
    "raw rows": "data/breast_cancer/rows.csv",
    "card": "data/breast_cancer/card.json",
    "expectation suite": "expectations/breast_cancer.json",
    "quarantine": "quarantine/breast_cancer.csv",
    "counts per role": f"{WORK}/split/split.json",
    "rows of a role": f"{WORK}/split/calibration/rows.csv",
    "features of a role": f"{WORK}/split/train/features.npy",
    "plan": f"{WORK}/contaminate/plan.json",
    "injected rows": f"{WORK}/contaminate/level-0.1/rows.csv",
    "validation": f"{WORK}/validate/summary.json",
    "weights": f"{WORK}/train/isolation_forest/level-0/isolation_forest.safetensors",
    "weights at a stress level": f"{WORK}/train/isolation_forest/level-0.1/isolation_forest.safetensors",
    "weights of another detector": f"{WORK}/train/knn/level-0.1/knn.safetensors",
    "adapter": f"{WORK}/calibrate/isolation_forest/adapters/level-0/isolation_forest+none.json",
    "adapter of another detector": f"{WORK}/calibrate/knn/adapters/level-0/knn+cadet.json",
    "calibration scores": f"{WORK}/calibrate/isolation_forest/reference/level-0/isolation_forest+none.safetensors",
    "how rows are compared": f"{WORK}/calibrate/isolation_forest/calibration.json",
    "selection": f"{WORK}/select/selection.json",
    "metrics": f"{WORK}/evaluate/evaluation.json",
    "diagnostics": f"{WORK}/evaluate/diagnostics/isolation_forest+none.json",
    "test p-values": f"{WORK}/evaluate/p_values/level-0.safetensors",
    **{f"record of {stage}": f"{WORK}/{CELLS.get(stage, stage)}/record.json" for stage in (*BEHIND, "evaluate")},
    "record of package": "work/package/breast_cancer/record.json",
    "head of the packaged scorer": "work/package/breast_cancer/VERSION/scorer.json",
    "packaged weights": "work/package/breast_cancer/VERSION/detector.safetensors",
    "head of the scorer": "scorers/breast_cancer/VERSION/scorer.json",
    "shipped weights": "scorers/breast_cancer/VERSION/detector.safetensors",
    "shipped calibration scores": "scorers/breast_cancer/VERSION/calibrator.safetensors",
    "statement": "scorers/breast_cancer/VERSION/statements/STATEMENT.json",
    "list of rows": "scorers/breast_cancer/VERSION/statements/*.safetensors",
    "event": ".assay/events.jsonl",
    "BentoML's copy": ".bentoml/models/breast_cancer/VERSION-STATEMENT/calibrator.safetensors",
    "BentoML's statement": ".bentoml/models/breast_cancer/VERSION-STATEMENT/statements/STATEMENT.json",
    "BentoML's head": ".bentoml/models/breast_cancer/VERSION-STATEMENT/model.yaml",
    "Bento": ".bentoml/bentos/assay-breast_cancer/VERSION-STATEMENT/bento.yaml",
    "code in the Bento": ".bentoml/bentos/assay-breast_cancer/VERSION-STATEMENT/src/assay/scorer/scorer.py",
    "deployment": "deployments/breast_cancer.json",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_in_any_kind_of_file_is_told_by_its_name(spoilt: Checkout, kind: str) -> None:
    version = scorer_folder(spoilt).name
    statement = sealed(spoilt).partition("-")[2]
    (path,) = spoilt.root.glob(KINDS[kind].replace("VERSION", version).replace("STATEMENT", statement))
    for change in (flipped, lambda content: bytes([content[0] ^ 1]) + content[1:]):
        before = spoil(path, change)
        findings = verify(spoilt, f"{NAME}:{version}")
        # An edited suite or quarantine may be the user's own; in no commit, the recorded one is kept nowhere.
        told = unchecked(findings) if kind in ("expectation suite", "quarantine") else wrong(findings)
        assert any(path.name in detail or path.name in what for what, detail in told.items()), told
        path.write_bytes(before)


def test_files_that_were_put_back_are_intact(spoilt: Checkout) -> None:
    assert verify(spoilt).intact


def test_the_kept_copy_of_the_champion_is_the_tracked_one(spoilt: Checkout) -> None:
    kept = scorer_folder(spoilt)
    pointer = kept.with_name(f"{kept.name}.dvc")
    before = spoil(pointer, lambda content: content.replace(b"md5: ", b"md5: 0", 1))
    assert f"{kept} is not what {pointer.name} names" in wrong(verify(spoilt))["kept copy"]
    pointer.unlink()
    assert f"{pointer} is missing" in wrong(verify(spoilt))["kept copy"]
    kept.rename(spoilt.root / "elsewhere")
    assert "`assay promote" in wrong(verify(spoilt))["kept copy"]
    (spoilt.root / "elsewhere").rename(kept)
    pointer.write_bytes(before)
    assert verify(spoilt).intact


def test_rows_kept_for_the_ledger_are_checked(spoilt: Checkout) -> None:
    (path,) = (spoilt.root / ".assay/rows").iterdir()
    before = spoil(path)
    assert f"{path} was changed" in wrong(verify(spoilt))["rows of the run"]
    path.write_bytes(before)


def test_a_log_cut_before_its_newest_deployed_label_is_told(finished: Checkout) -> None:
    path = finished.root / ".assay/events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    events = [json.loads(line)["event"] for line in lines]
    path.write_bytes(b"".join(lines[: events.index("published") - 1]))
    path.with_suffix(".head").unlink()
    found = wrong(verify(finished))
    assert "the log was cut" in found["event log"]
    assert str(path) in found["event log"]
    assert "bento" in found["event log"]


def test_a_log_cut_before_the_promotion_is_told(finished: Checkout) -> None:
    path = finished.root / ".assay/events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert "deployments/breast_cancer.json" in wrong(verify(finished))["deployment"]
    path.write_bytes(b"".join(lines[:-2]))
    assert "the log does not know that it was published" in wrong(verify(finished))["Bento"]


def test_a_cut_after_the_newest_deployed_label_shows_unless_the_mark_is_forged_too(finished: Checkout) -> None:
    log = EventLog(finished.root / ".assay/events.jsonl")
    before, marked = log.path.read_bytes(), log.mark.read_bytes()
    log.append("run-ended", run="0", state="completed", reason="", stages=[])
    assert verify(finished).intact
    log.path.write_bytes(before)
    assert "is not the log of" in wrong(verify(finished))["event log"]
    for command in (("run",), ("promote", NAME, "--why", "x")):
        refused = finished.assay(*command, code=5)
        assert "it was cut or changed. Nothing was done" in refused.stderr
    log.mark.write_bytes(marked)
    told = finished.assay("audit", "verify", NAME).stdout
    assert "a cut of entries after its newest deployed label" in told


def test_an_edited_suite_moved_on_only_if_git_knows_the_recorded_one(finished: Checkout) -> None:
    path = finished.root / "expectations/breast_cancer.json"
    assert finished.call("git", "add", "expectations").returncode == 0
    before = spoil(path)
    told = unchecked(verify(finished))
    assert set(told) == {"expectations/breast_cancer.json"}
    assert "no Git commit holds the recorded one" in told["expectations/breast_cancer.json"]
    path.write_bytes(before)
    assert finished.call(*GIT, "commit", "-qm", "suite", "--", "expectations").returncode == 0
    spoil(path)
    found = {finding.what: finding for finding in verify(finished).items}
    assert found["expectations/breast_cancer.json"].state == "superseded"
    assert "was edited since; commit " in found["expectations/breast_cancer.json"].detail


def test_a_logged_quarantine_is_no_tampering(finished: Checkout) -> None:
    path = finished.root / "quarantine/breast_cancer.csv"
    path.write_bytes(path.read_bytes() + b"0" * 32 + b",,why,2026-01-01\n")
    assert (set(unchecked(verify(finished))), wrong(verify(finished))) == ({"quarantine/breast_cancer.csv"}, {})
    log = EventLog(finished.root / ".assay/events.jsonl")
    log.append("quarantined", dataset=NAME, rows=1, why="why", file=hash_file(path))
    assert verify(finished).intact


def test_labels_and_target_rows_that_were_filled_in_are_no_tampering(finished: Checkout) -> None:
    """Commands write these files and people fill them in, and neither is logged."""
    finished.assay("label", "--budget", "5")
    (finished.root / f"targets/{NAME}.csv").write_text("a\n1\n")
    found = {finding.what: finding for finding in verify(finished).items}
    for path in (f"labels/{NAME}.csv", f"targets/{NAME}.csv"):
        assert found[path].state == "superseded"
        assert "the recorded one had no entries" in found[path].detail
    assert verify(finished).intact


def test_code_that_went_on_is_no_tampering_while_the_recorded_one_is_kept(finished: Checkout) -> None:
    path = finished.root / "src/assay/detectors/base.py"
    path.write_text(path.read_text() + "# more\n")
    assert {finding.what: finding for finding in verify(finished).items}["code"].state == "ok"
    path.write_text(path.read_text() + "MORE = 1\n")
    found = {finding.what: finding for finding in verify(finished).items}
    assert found["code"].state == "superseded"
    assert "assay.detectors.base: changed since" in found["code"].detail
    (
        finished.root / ".bentoml/bentos/assay-breast_cancer" / sealed(finished) / path.relative_to(finished.root)
    ).unlink()
    assert "assay.detectors.base: changed since, and neither" in unchecked(verify(finished))["code"]


def test_data_of_another_dataset_do_not_matter(finished: Checkout) -> None:
    spoil(finished.root / "data/digits/features.npy")
    assert verify(finished).intact


def test_a_run_with_other_settings_supersedes_and_spoils_nothing(moved_on: tuple[Checkout, str, str]) -> None:
    """The old scorer is kept in scorers/; its stages' folders now hold what the new one was made of."""
    project, old, new = moved_on
    done = project.assay("audit", "verify", f"{NAME}:{old}")
    states = {line[11:].partition(":")[0]: line.split()[0] for line in done.stdout.splitlines()[: len(WHAT)]}
    later = ["stage train", "stage calibrate", "stage select", "stage evaluate", "stage package"]
    assert [what for what, state in states.items() if state == "superseded"] == later
    assert {states[what] for what in WHAT if states[what] != "superseded"} == {"ok"}
    assert re.fullmatch(rf"{NAME}:{old}-[0-9a-f]{{12}}: intact", done.stdout.splitlines()[-1])
    assert "DVC's cache holds the recorded outputs, intact" in done.stdout
    assert {finding.state for finding in verify(project, f"{NAME}:{new}").items} == {"ok"}
    kept = project.root / "scorers/breast_cancer" / old
    (statement,) = kept.glob("statements/*.json")
    for path, what in ((kept / "detector.safetensors", "scorer folder"), (statement, "statement")):
        before = spoil(path)
        assert f"{path} was changed" in wrong(verify(project, f"{NAME}:{old}"))[what]
        path.write_bytes(before)
    record = project.root / f"{WORK}/select/record.json"
    before = spoil(record)
    for tag in (f"{NAME}:{old}", f"{NAME}:{new}"):
        assert f"{record} is not a record that was logged" in wrong(verify(project, tag))["stage select"]
    record.write_bytes(before)


def test_what_moved_on_is_re_hashed_in_the_cache_of_dvc(moved_on: tuple[Checkout, str, str]) -> None:
    project, old, _ = moved_on
    chain = read_chain(Project(project.root), f"{NAME}:{old}")
    path = chain.find("train", "level-0/isolation_forest.safetensors")
    assert path is not None
    assert ".dvc/cache" in path.as_posix()
    path.chmod(0o644)
    before = spoil(path)
    told = wrong(verify(project, f"{NAME}:{old}"))["stage train"]
    assert f"{path} (train/level-0/isolation_forest.safetensors) was changed" in told
    path.unlink()
    found = {finding.what: finding for finding in verify(project, f"{NAME}:{old}").items}
    assert found["stage train"].state == UNCHECKED
    assert "intact" not in found["stage train"].detail
    assert "but for 1" in found["stage train"].detail
    assert wrong(verify(project, f"{NAME}:{old}")) == {}
    path.write_bytes(before)


def test_a_later_run_that_nobody_logged_is_no_later_run(finished: Checkout) -> None:
    """Without its event, a record in the place of the scorer's own is not to be told from a forged one."""
    params = finished.root / "params.yaml"
    params.write_text(params.read_text().replace("eps: 0.05", "eps: 0.1"))
    log = EventLog(finished.root / ".assay/events.jsonl")
    before = log.path.read_bytes()
    run_verb(Project(finished.root), "select")
    assert {f.what: f.state for f in verify(finished).items}["stage select"] == "superseded"
    log.path.write_bytes(before)
    assert "is not a record that was logged here" in wrong(verify(finished))["stage select"]


def test_a_later_run_that_was_pulled_is_a_later_run(finished: Checkout) -> None:
    """dvc.lock names what another machine made, in whose log it is."""
    params = finished.root / "params.yaml"
    params.write_text(params.read_text().replace("eps: 0.05", "eps: 0.1"))
    log = EventLog(finished.root / ".assay/events.jsonl")
    before = log.path.read_bytes()
    run_verb(Project(finished.root), "select")
    log.path.write_bytes(before)
    commit(finished.root, [f"select@{NAME}"])
    found = {finding.what: finding for finding in verify(finished).items}
    assert found["stage select"].state == "superseded"
    assert "now holds a later run's outputs" in found["stage select"].detail


def test_what_a_scorer_from_elsewhere_lacks_after_a_run_here_is_said(finished: Checkout) -> None:
    """And what the finding advises brings it back."""
    for command in (("add", "--all"), ("commit", "--quiet", "--message", "made elsewhere")):
        assert finished.call(*GIT, *command).returncode == 0
    (finished.root / ".assay/events.jsonl").unlink()
    assert "stage select" not in wrong(verify(finished))
    params = finished.root / "params.yaml"
    params.write_text(params.read_text().replace("eps: 0.05", "eps: 0.1"))
    run_verb(Project(finished.root), "select")
    told = unchecked(verify(finished))["stage select"]
    assert "the record of stage select in" in told
    assert "is not a record that was logged here" in told
    assert "made elsewhere" in told
    (show, again) = (part for part in told.split("`")[1::2])
    shown = finished.assay(*show.split()[1:]).stdout
    (checkout,) = (line.split() for line in shown.splitlines() if line.startswith("    git checkout "))
    assert finished.call(*checkout, "--force").returncode == 0
    assert finished.call(*again.split(), "--force").returncode == 0
    assert "stage select" not in wrong(verify(finished))


def test_what_could_not_be_checked_has_an_exit_code_of_its_own_and_a_replay_answers_for_it(finished: Checkout) -> None:
    """The outputs are in neither work/ nor DVC's cache; made again, they are the recorded ones."""
    shutil.rmtree(finished.root / WORK / "train")
    shutil.rmtree(finished.root / ".dvc/cache")
    told = finished.assay("audit", "verify", NAME, code=6).stdout
    assert "nothing differs, 1 not here" in told.splitlines()[-1]
    finished.assay("audit", "verify", NAME, "--strict", code=1)
    found = json.loads(finished.assay("audit", "verify", NAME, "--strict", "--replay", "--json").stdout)
    (train,) = (finding for finding in found["findings"] if finding["what"] == "stage train")
    assert (found["intact"], train["state"]) == (True, "ok")
    assert "replayed: same bytes" in train["detail"]


def test_a_replay_that_cannot_be_done_leaves_things_unchecked(finished: Checkout) -> None:
    suite = finished.root / f"expectations/{NAME}.json"
    spoil(suite)
    shutil.rmtree(finished.root / WORK / "train")
    shutil.rmtree(finished.root / ".dvc/cache")
    told = finished.assay("audit", "verify", NAME, "--replay", code=6).stdout
    (line,) = (line for line in told.splitlines() if line.startswith("unchecked  replay"))
    assert f"expectations/{NAME}.json was edited since" in line
