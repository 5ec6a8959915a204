"""`assay audit replay`, and the commands that bring a scorer's data, code and outputs back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import Checkout
from tests.integration.conftest import GIT
from tests.sealing import reseal

from assay.audit.chain import read_chain
from assay.audit.commits import find_origin
from assay.audit.replay import (
    ATOL,
    BY_OTHER_CODE,
    CLOSE,
    DIFFERS,
    RTOL,
    SAME,
    Replayed,
    StageReplay,
    compare_files,
    replay_scorer,
)
from assay.errors import ScorerError, StageError, TamperedError
from assay.hashing import dvc_directory_md5, hash_file, hash_tree
from assay.parts import read_arrays, write_arrays, write_json
from assay.project.installed import hash_code
from assay.project.layout import Project
from assay.scorer.statement import read_statement

NAME = "breast_cancer"


@pytest.fixture(autouse=True)
def own_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENTOML_HOME", raising=False)


def replay(project: Checkout, tag: str = NAME) -> Replayed:
    return replay_scorer(Project(project.root), tag)


def contents(project: Checkout) -> dict[str, str]:
    """Every file of the project that is the user's, by its hash."""
    return {name: digest for name, digest in hash_tree(project.root).items() if not name.startswith(".git/")}


def refusal(project: Checkout, error: type[Exception] = ScorerError, tag: str = NAME) -> str:
    before = contents(project)
    with pytest.raises(error) as raised:
        replay(project, tag)
    assert contents(project) == before
    return str(raised.value)


def scorer_folder(project: Checkout) -> Path:
    (path,) = (project.root / "work/package" / NAME).glob("*/scorer.json")
    return path.parent


# replay ----------------------------------------------------------------------------------------------------


def test_a_replay_gives_the_same_bytes_and_touches_nothing(finished: Checkout) -> None:
    before = contents(finished)
    told = json.loads(finished.assay("audit", "replay", NAME, "--json", TMPDIR=str(finished.root.parent)).stdout)
    assert contents(finished) == before
    assert [path.name for path in finished.root.parent.iterdir()] == ["project"]
    assert (told["same"], told["trained_here"]) == (True, True)
    stages = ("split", "contaminate", "validate", "train", "calibrate", "select", "evaluate")
    assert [found["what"] for found in told["compared"]] == [*(f"stage {stage}" for stage in stages), "scorer"]
    assert {found["state"] for found in told["compared"]} == {SAME}


def test_an_old_scorer_is_replayed_from_the_cache_and_a_forged_one_is_told(finished: Checkout) -> None:
    """Its data and suite have moved on since; and it was packaged anew with other calibration scores."""
    for command in (("add", "--all"), ("commit", "--quiet", "--message", "run")):
        assert finished.call(*GIT, *command).returncode == 0
    (finished.root / "data").rename(finished.root.parent / "elsewhere")
    suite = finished.root / f"expectations/{NAME}.json"
    suite.write_text(suite.read_text() + "\n")
    folder = scorer_folder(finished)
    path = folder / "calibrator.safetensors"
    write_arrays(path, {"scores": read_arrays(path)["scores"] * np.float32(2)})
    forged = reseal(folder)
    done = replay(finished, f"{NAME}:{forged.name}")
    assert not done.same
    assert {found.state for found in done.compared[:-1]} == {SAME}
    assert done.compared[-1].state == DIFFERS
    assert "calibrator.safetensors" in done.compared[-1].detail


@pytest.mark.parametrize(("change", "state"), [(0.0, SAME), (0.5, CLOSE), (2.0, DIFFERS)])
def test_numbers_are_held_to_the_stated_tolerance(tmp_path: Path, change: float, state: str) -> None:
    then, now = tmp_path / "then", tmp_path / "now"
    values = np.linspace(-1, 1, 9)
    for folder, step in ((then, np.zeros(9)), (now, change * ATOL + change * RTOL * np.abs(values))):
        arrays = {"x": values + step, "n": np.arange(3)}
        write_arrays(folder / "a.safetensors", arrays)
        write_json(folder / "b.json", {"x": [float(v) for v in arrays["x"]], "name": "a"})
        np.save(folder / "c.npy", arrays["x"])
        rows = [f"{name},{n},{float(x)!r}" for name, n, x in zip("abcdefghi", range(9), arrays["x"], strict=True)]
        (folder / "d.csv").write_text("\n".join(["row_id,n,suspicion", *rows[:: -1 if step.any() else 1]]))
    for name in ("a.safetensors", "b.json", "c.npy", "d.csv"):
        found = compare_files("it", {name: hash_file(then / name)}, {name: hash_file(now / name)}, then.joinpath, now)
        assert found.state == state


def test_a_table_of_other_rows_is_another_one(tmp_path: Path) -> None:
    then, now = tmp_path / "then", tmp_path / "now"
    for folder, rows in ((then, "007,1,0.5\n8,0,0.25\n"), (now, "7,1,0.5\n8,0,0.25\n")):
        folder.mkdir()
        (folder / "t.csv").write_text(f"row_id,suspect,suspicion\n{rows}")
    assert compare_files("it", hash_tree(then), hash_tree(now), then.joinpath, now).state == DIFFERS


def test_labels_that_were_filled_in_since_do_not_stand_in_the_way(finished: Checkout) -> None:
    finished.assay("label", "--budget", "5")
    assert replay_scorer(Project(finished.root), NAME).same


def test_what_is_no_number_has_to_be_equal(tmp_path: Path) -> None:
    for folder, name in ((tmp_path / "then", "a"), (tmp_path / "now", "b")):
        write_json(folder / "b.json", {"x": 1.0, "name": name})
        (folder / "r.csv").write_text(f"{name}\n")
        write_arrays(folder / "i.safetensors", {"i": np.array([len(name), ord(name)])})
    then, now = (hash_tree(tmp_path / part) for part in ("then", "now"))
    found = compare_files("it", then, {**now, "new": ""}, (tmp_path / "then").joinpath, tmp_path / "now")
    assert found == StageReplay("it", DIFFERS, "new is new; b.json; i.safetensors; r.csv")
    assert "no intact copy" in compare_files("it", then, now, lambda name: None, tmp_path / "now").detail


def test_bytes_count_on_the_machine_of_the_training_and_the_tolerance_elsewhere() -> None:
    found = (StageReplay("a", SAME, ""), StageReplay("b", CLOSE, ""))
    assert not Replayed("t", "s", found, trained_here=True).same
    assert Replayed("t", "s", found, trained_here=False).same
    assert not Replayed("t", "s", (*found, StageReplay("c", DIFFERS, "")), trained_here=False).same


# what is refused -------------------------------------------------------------------------------------------


def test_other_code_that_leaves_the_same_bytes_is_said_to_do_so(finished: Checkout) -> None:
    """With the files that differ, and the commands that bring back the recorded ones."""
    for command in (("add", "--all"), ("commit", "--quiet", "--message", "run")):
        assert finished.call(*GIT, *command).returncode == 0
    path = finished.root / "src/assay/pipeline/rows.py"
    path.write_bytes(path.read_bytes() + b"more = 1\n")
    told = finished.assay("audit", "replay", NAME, PYTHONPATH=str(finished.root / "src"))
    lines = told.stdout.splitlines()
    for what in ("stage train", "stage select", "scorer"):
        assert any(line.startswith(f"{BY_OTHER_CODE}  {what}") for line in lines), told.stdout
    commit = finished.call("git", "rev-parse", "HEAD").stdout.strip()
    assert "1 modules differ from those that" in told.stdout + told.stderr
    assert "assay.pipeline.rows" in told.stdout + told.stderr
    assert f"git checkout {commit}" in told.stdout + told.stderr


def test_code_that_no_commit_holds_is_said_to_be_so(finished: Checkout) -> None:
    path = finished.root / "src/assay/pipeline/rows.py"
    path.write_bytes(path.read_bytes() + b"more = 1\n")
    told = finished.assay("audit", "replay", NAME, PYTHONPATH=str(finished.root / "src"))
    assert "assay.pipeline.rows" in told.stdout + told.stderr
    assert "no commit in Git holds what" in told.stdout + told.stderr


def test_a_running_assay_that_is_not_the_project_s_is_refused(finished: Checkout) -> None:
    path = finished.root / "src/assay/pipeline/rows.py"
    path.write_bytes(path.read_bytes() + b"# more\n")
    assert "differs from" in refusal(finished, StageError)


def test_a_missing_cache_entry_names_the_remote(finished: Checkout) -> None:
    shutil.rmtree(finished.root / "data")
    chain = read_chain(Project(finished.root), NAME)
    found = chain.find_data(f"data/{NAME}/features.npy")
    assert found is not None
    found.unlink()
    assert "no DVC remote is configured" in refusal(finished)
    assert finished.call("dvc", "remote", "add", "-d", "store", "/somewhere/safe").returncode == 0
    told = refusal(finished)
    assert f"data/{NAME}/features.npy of the recorded data version" in told
    assert "store (/somewhere/safe)" in told


def test_a_lost_suite_and_a_broken_record_are_named(finished: Checkout) -> None:
    suite = finished.root / f"expectations/{NAME}.json"
    before = suite.read_bytes()
    suite.write_bytes(before + b"\n")
    assert f"expectations/{NAME}.json was edited since" in refusal(finished)
    suite.write_bytes(before)
    path = read_statement(scorer_folder(finished)).path
    copies = [found for found in finished.root.rglob(path.name) if not found.is_relative_to(finished.root / ".dvc")]
    before = path.read_bytes()
    for copy in copies:
        copy.chmod(0o644)
        copy.write_bytes(b"{")
    assert "was changed" in refusal(finished, TamperedError)
    for copy in copies:
        copy.write_bytes(before)
    assert "there is no scorer" in refusal(finished, tag=f"{NAME}:000000000000")


# Git and DVC -----------------------------------------------------------------------------------------------


def test_the_printed_commands_bring_the_recorded_bytes_back_in_a_fresh_clone(
    finished: Checkout, tmp_path: Path
) -> None:
    remote, clone = tmp_path / "remote", tmp_path / "clone"
    assert finished.call("dvc", "remote", "add", "-d", "store", str(remote)).returncode == 0
    for command in (("add", "--all"), ("commit", "--quiet", "--message", "run")):
        assert finished.call(*GIT, *command).returncode == 0
    assert finished.call("dvc", "push", "-q").returncode == 0
    (finished.root / "params.yaml").write_text((finished.root / "params.yaml").read_text().replace("0.05", "0.2"))
    assert finished.call(*GIT, "commit", "-qam", "later settings").returncode == 0
    told = json.loads(finished.assay("audit", "show", NAME, "--json").stdout)
    commands = told["origin"]["commands"]
    shown = finished.assay("audit", "show", NAME).stdout
    assert all(f"    {command}\n" in shown for command in commands)
    subprocess.run(["git", "clone", "-q", str(finished.root), str(clone)], check=True)
    there = Checkout(clone)
    for command in commands:
        done = there.call(*command.split())
        assert done.returncode == 0, done.stderr
    chain = read_chain(Project(finished.root), NAME)
    assert dvc_directory_md5(clone / "data" / NAME) == chain.data_version
    files = {**chain.data, **chain.settings}
    assert {path: hash_file(clone / path) for path in files} == files
    assert hash_code(clone, chain.code) == chain.code
    for stage in ("train", "calibrate", "evaluate"):
        folder = clone / chain.work(stage).relative_to(finished.root)
        assert hash_tree(folder) == chain.records[stage].outputs
    assert hash_tree(clone / "work/package" / NAME) == hash_tree(finished.root / "work/package" / NAME)
    assert (clone / "params.yaml").read_text().count("eps: 0.05") == 1


def test_settings_that_were_not_committed_are_said_to_be_so(moved_on: tuple[Checkout, str, str]) -> None:
    project, old, new = moved_on
    commit = project.call("git", "rev-parse", "HEAD").stdout.strip()
    before, after = (find_origin(read_chain(Project(project.root), f"{NAME}:{version}")) for version in (old, new))
    assert (before.commit, before.logged, before.differs) == (commit, None, ())
    assert "which commit was checked out when it ran has not been logged" in before.note
    assert (after.commit, after.logged, after.differs) == (commit, commit, ("params.yaml",))
    assert "with changes that were not committed: params.yaml" in after.note


def test_no_commit_at_all_is_said_to_be_so(finished: Checkout) -> None:
    found = find_origin(read_chain(Project(finished.root), NAME))
    assert (found.commit, found.logged, found.commands) == (None, None, ())
    assert found.note.startswith("no commit in Git holds what")
    assert os.fspath(finished.root) not in found.note
