"""Changes of an event and files: whole or not at all, wherever their command is killed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.killing import killed, write_number

from assay.hashing import hash_file, hash_tree
from assay.project.collecting import Kept, _remove
from assay.project.deployment import Deployment, promote, read_deployment
from assay.project.layout import Project
from assay.project.pending import Change, log_of, pending_changes
from assay.project.recovery import RWLOCK, is_at_work
from assay.project.versioning import KEPT_LOCKED

OLD, NEW = "a" * 12, "b" * 12


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with a champion, a kept scorer, and outputs of a stage."""
    promote(tmp_path, "pumps", OLD, statement=OLD, bento="", reason="first")
    for name in ("scorers/pumps/old/scorer.json", "scorers/pumps/old.dvc", "work/pumps/split/a", "work/pumps/split/b"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("outs:\n- md5: 96efd3badb3ffba47ee9c8af354abe5f.dir\n")
    return tmp_path


def replace_folder(root: Path) -> None:
    with Change(root) as change:
        staging = change.folder(root / "work/pumps", "split")
        (staging / "c").write_text("new")
        change.place(staging, root / "work/pumps/split")
        change.write(root / "labels/pumps.csv", b"x\n")
        change.commit("stage", {"stage": "split", "details": {"n": 1}})


def is_promoted(root: Path) -> bool:
    deployed = read_deployment(root, "pumps")
    assert deployed is not None
    logged = log_of(root).last("promoted")
    assert logged is not None
    expected = Deployment(
        "pumps",
        logged["version"],
        f"pumps:{logged['version']}",
        "",
        logged["reason"],
        logged["since"],
        logged["replaces"],
    )
    assert {**deployed.to_json(), "statement": None} == {**expected.to_json(), "statement": None}
    return deployed.version == NEW


def is_removed(root: Path) -> bool:
    here = {(root / "scorers/pumps/old").exists(), (root / "scorers/pumps/old.dvc").exists()}
    assert here == {log_of(root).last("scorer-removed") is None}
    return here == {False}


def is_replaced(root: Path) -> bool:
    made = log_of(root).last("stage") is not None
    assert {*hash_tree(root / "work/pumps/split")} == ({"c"} if made else {"a", "b"})
    assert (root / "labels/pumps.csv").exists() == made
    return made


@pytest.mark.parametrize(
    ("change", "is_done"),
    [
        (lambda root: promote(root, "pumps", NEW, statement=NEW, bento="", reason="better"), is_promoted),
        (lambda root: _remove(Project(root), Kept("pumps", "old", "")), is_removed),
        (replace_folder, is_replaced),
    ],
    ids=["promote", "gc", "stage"],
)
def test_a_change_that_is_killed_at_any_write_is_whole_or_taken_back(
    root: Path, tmp_path_factory: pytest.TempPathFactory, change: Callable[[Path], Any], is_done: Callable[[Path], bool]
) -> None:
    seen = list[bool]()
    for number in range(1, 100):
        own = tmp_path_factory.mktemp("own") / "project"
        subprocess.run(["cp", "-r", str(root), str(own)], check=True)
        was_killed = killed(lambda own=own: change(own), write_number(number))
        with Project(own).lock():
            seen.append(is_done(own))
        log_of(own).check()
        assert not pending_changes(own)
        assert [path for path in own.rglob(".*") if path.is_file() or "split" in path.name] == []
        if not was_killed:
            break
    assert seen[0] is False
    assert seen[-1] is True
    assert seen == sorted(seen)
    assert len(seen) > 6
    log_of(root).check()


def test_what_is_refused_after_the_event_is_finished_by_the_next_command(root: Path) -> None:
    (root / "elsewhere").write_text("a file where a folder should be")
    with Change(root) as change:
        (staging := change.folder(root, "data")).joinpath("a").write_text("")
        change.place(staging, root / "elsewhere/data")
        with pytest.raises(NotADirectoryError):
            change.commit("moved")
    assert len(pending_changes(root)) == 1
    (root / "elsewhere").unlink()
    (root / "elsewhere").mkdir()
    with Project(root).lock():
        assert (root / "elsewhere/data/a").is_file()
    assert not pending_changes(root)
    assert not list(root.glob(".data.*"))


def test_a_change_that_is_given_up_leaves_nothing(root: Path) -> None:
    before = hash_tree(root)
    with Change(root) as change:
        change.write(root / "labels/pumps.csv", b"x")
        (change.folder(root / "work/pumps", "split") / "half").write_text("")
    assert hash_tree(root) == before


def test_a_folder_where_a_file_should_be_is_not_replaced(root: Path) -> None:
    path = root / "deployments/pumps.json"
    path.unlink()
    path.mkdir()
    (path / "mine").write_text("")
    with pytest.raises(IsADirectoryError), Change(root) as change:
        change.write(path, b"{}")
    assert (path / "mine").is_file()
    assert log_of(root).last("promoted")


@pytest.mark.parametrize(
    ("content", "left"),
    [
        ("", {}),
        ('{"write": {"a', {}),
        ("[]", {}),
        ('{"read": {"a": 3}}', {}),
        ('{"write": {"data": {"pid": 4194304, "cmd": "dvc add data"}}, "read": {}}', {}),
    ],
    ids=["empty", "cut short", "a list", "another form", "of a process that is gone"],
)
def test_what_killed_dvcs_left_in_their_lock_is_repaired(root: Path, content: str, left: dict[str, Any]) -> None:
    path = root / RWLOCK
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with Project(root).lock():
        assert json.loads(path.read_text()) == left


def test_entries_of_a_dvc_at_work_stay_and_those_of_an_earlier_one_of_its_number_go(root: Path) -> None:
    path = root / RWLOCK
    path.parent.mkdir(parents=True)
    entries = {"read": {"data": [{"pid": os.getpid(), "cmd": "dvc repro"}]}}
    path.write_text(json.dumps(entries))
    with Project(root).lock():
        assert json.loads(path.read_text()) == entries
    os.utime(path, (0, 0))
    assert not is_at_work(os.getpid(), 0)
    with Project(root).lock():
        assert json.loads(path.read_text()) == {}


@pytest.mark.parametrize("left", [".assay/unfinished", ".dvc/tmp/rwlock"])
def test_after_a_kill_temporary_files_of_dvc_go_unless_a_dvc_is_at_work(root: Path, left: str) -> None:
    object_ = root / ".dvc/cache/files/md5/22/abc"
    names = [".aMBZg-GhoyMs9pPJ_0e_gx.tmp", "abc.dir.DqVufb-3tWiKz7fuLyritw.tmp"]
    filled = (root / "work/pumps/split", root / "scorers/pumps/old", root / "data/pumps")
    temporary = [*(object_.with_name(name) for name in names), *(folder / names[0] for folder in filled)]
    kept = [object_, object_.with_name("notes.tmp")]
    for path in (*temporary, *kept, root / left, root / ".dvc/tmp/lock"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with (root / ".dvc/tmp/lock").open() as dvc:
        fcntl.flock(dvc, fcntl.LOCK_EX)
        with Project(root).lock():
            assert all(path.exists() for path in (*temporary, *kept))
    (root / left).write_text("")
    with contextlib.suppress(KeyError), Project(root).lock():
        assert not any(path.exists() for path in temporary)
        assert all(path.exists() for path in kept)
        temporary[0].touch()
        raise KeyError
    with Project(root).lock():
        assert not temporary[0].exists()
        temporary[0].touch()
    with Project(root).lock():  # nothing was killed: the cache is not looked through
        assert temporary[0].exists()


@pytest.mark.parametrize("written", ["", "schema: '2.0'\nsta", "schema: '2.0'\nstages:\n"])
@pytest.mark.parametrize("before", ["schema: '2.0'\nstages:\n  code:\n    cmd: assay\n", ""])
def test_a_dvc_lock_that_was_being_written_comes_back(root: Path, written: str, before: str) -> None:
    path, kept = root / "dvc.lock", root / KEPT_LOCKED
    path.write_text(written)
    kept.write_text(before)
    with Project(root).lock():
        assert path.read_text() == before if before else not path.exists()
    whole = "schema: '2.0'\nstages:\n  other: {}\n"
    path.write_text(whole)
    kept.write_text(before)
    with Project(root).lock():
        assert path.read_text() == whole
    assert not kept.exists()


def test_an_empty_dvc_lock_becomes_that_of_the_newest_commit(root: Path) -> None:
    path = root / "dvc.lock"
    path.write_text("")
    with Project(root).lock():
        assert not path.exists()
    whole = "schema: '2.0'\nstages: {}\n"
    path.write_text(whole)
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in (("init", "-q"), ("add", "dvc.lock"), (*who, "commit", "-q", "-m", "one")):
        subprocess.run(["git", *command], cwd=root, check=True)
    path.write_text("")
    with Project(root).lock():
        assert path.read_text() == whole
    path.write_text("<<<<<<< of a merge")
    with Project(root).lock():
        assert path.read_text() == "<<<<<<< of a merge"


def test_temporary_files_go_with_their_process(root: Path) -> None:
    """People's own files have none of these names: theirs lack the number of a process."""
    gone, mine = 4194304, os.getpid()
    left = [
        f".data.{gone}-abcdefgh/x",
        f".scores.csv.{gone}-abcdefgh.part",
        f"deployments/.pumps.json.{gone}-abcdefgh.part",
        f"work/pumps/train/.knn.{gone}-abcdefgh/half",
        f"scorers/pumps/.{OLD}.{gone}-abcdefgh/scorer.json",
        f".assay/rows/.x.parquet.{gone}-abcdefgh.part",
    ]
    kept = [
        f".data.{mine}-abcdefgh/x",
        f"deployments/.pumps.json.{mine}-abcdefgh.part",
        ".config.settings",
        ".data.original/x",
        "labels/.backup.20260501/x",
        ".notes.abcdefgh.part",
        "expectations/.pumps.json.autosave",
        "work/pumps/train/.retired/knn/x",
        "work/pumps/.splitter.kept/x",
        ".assay/ledger/.x.parquet.abcdefgh.part",
    ]
    for name in (*left, *kept):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    with Project(root).lock():
        assert [name for name in left if (root / name).exists()] == []
        assert [name for name in kept if not (root / name).exists()] == []


def test_the_event_of_a_promotion_holds_what_the_record_says(root: Path) -> None:
    promote(root, "pumps", NEW, statement=NEW, bento="", reason="better")
    assert is_promoted(root)
    assert hash_file(root / "deployments/pumps.json")
