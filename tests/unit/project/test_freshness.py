"""Stages: outputs appear whole or not at all, run again only for a reason, and are never taken on trust."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Checkout, make_checkout
from tests.waiting import wait_until

from assay.data.answers import ensure_answers
from assay.data.quarantine import ensure_quarantine
from assay.errors import StageError, TamperedError
from assay.hashing import hash_file, hash_tree
from assay.project.freshness import (
    Outcome,
    StageWork,
    check_outputs,
    is_fresh,
    read_record,
    require_settings,
    run_stage,
)
from assay.project.layout import Project
from assay.project.modules import code_digest

STAGE = "split"
INPUT = "data/breast_cancer/rows.csv"
CODE = "src/assay/data/splitting.py"


@pytest.fixture
def root(checkout: Checkout) -> Path:
    """A project whose dataset is two small files; what a stage makes of them is up to each test."""
    (checkout.root / INPUT).parent.mkdir(parents=True)
    (checkout.root / INPUT).write_bytes(b"row_id,label\na,0\n")
    (checkout.root / "data/breast_cancer/card.json").write_bytes(b"{}")
    ensure_quarantine(checkout.root, "breast_cancer")
    ensure_answers(checkout.root, "breast_cancer")
    return checkout.root


def made(project: Project, out: Path, checkpoints: Path) -> dict[str, Any]:
    """Work that writes two files."""
    (out / "train").mkdir()
    (out / "train" / "rows.csv").write_bytes((project.root / INPUT).read_bytes())
    (out / "split.json").write_bytes(b"{}")
    return {"fit_seconds": 0.5}


def refused(project: Project, out: Path, checkpoints: Path) -> dict[str, Any]:
    raise AssertionError("the stage ran")


def run(root: Path, work: StageWork = made) -> Outcome:
    """Run the stage as a command of its own would: settings are read anew."""
    return run_stage(Project(root), STAGE, work)


def beside(root: Path) -> list[str]:
    """Everything in the folder of the dataset's stages."""
    return sorted(path.name for path in (root / "work/breast_cancer").iterdir())


def outputs(root: Path) -> dict[str, str]:
    return {**hash_tree(root / "work/breast_cancer/split"), "record.json": hash_file(record_of(root))}


def record_of(root: Path) -> Path:
    return root / "work/breast_cancer/split/record.json"


def test_a_stage_s_folder_holds_its_outputs_and_their_record(root: Path) -> None:
    outcome = run(root)
    assert (outcome.stage.name, outcome.ran, outcome.details) == ("split@breast_cancer", True, {"fit_seconds": 0.5})
    assert beside(root) == [STAGE]
    assert set(outputs(root)) == {"train/rows.csv", "split.json", "record.json"}
    record = json.loads(record_of(root).read_bytes())
    inputs = ("answers/breast_cancer.csv", INPUT, "data/breast_cancer/card.json", "quarantine/breast_cancer.csv")
    assert record["inputs"] == {path: hash_file(root / path) for path in inputs}
    assert record["outputs"] == hash_tree(root / "work/breast_cancer/split")
    assert record["code"]["assay.data.splitting"] == code_digest(root / "src", "assay.data.splitting")
    assert record["params"] == {"split": {"seed": 0}, "contaminate.source": "auto"}
    found = read_record(root / "work/breast_cancer/split")
    assert found is not None
    assert found.to_json() == record


def test_the_event_log_names_the_record(root: Path) -> None:
    run(root)
    event = Project(root).events.last("stage", stage=STAGE)
    assert event is not None
    assert event["record"] == hash_file(record_of(root))
    record = read_record(record_of(root).parent)
    assert record is not None
    assert event["key"] == record.key
    assert event["details"] == {"fit_seconds": 0.5}


def test_a_record_holds_no_place_and_no_time(root: Path, tmp_path: Path) -> None:
    run(root)
    elsewhere = make_checkout(tmp_path / "elsewhere").root
    for name in ("answers/breast_cancer.csv", INPUT, "data/breast_cancer/card.json", "quarantine/breast_cancer.csv"):
        (elsewhere / name).parent.mkdir(parents=True, exist_ok=True)
        (elsewhere / name).write_bytes((root / name).read_bytes())
    time.sleep(1)
    run(elsewhere)
    assert record_of(elsewhere).read_bytes() == record_of(root).read_bytes()


def test_a_fresh_stage_does_not_run_again(root: Path) -> None:
    run(root)
    before = outputs(root), Project(root).events.head
    assert not run(root, refused).ran
    assert (outputs(root), Project(root).events.head) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda root: os.utime(root / INPUT),
        lambda root: replace(root / "params.yaml", "eps: 0.05", "eps: 0.1"),
        lambda root: replace(root / "params.yaml", "seed: 1}", "seed: 2}"),
        lambda root: replace(root / "params.yaml", "split: {seed: 0}", "# a comment\nsplit:\n  seed: 0"),
        lambda root: put(root / "src/assay/cli/main.py", b"# another command line\n"),
        lambda root: put(root / "src/assay/detectors/new.py", b"x = 1\n"),
        lambda root: put(root / CODE, b"# a comment\n\n" + (root / CODE).read_bytes()),
        lambda root: replace(root / "constraints.txt", "ruff==", "ruff==1."),
        lambda root: put(root / "src/assay/data/__pycache__/splitting.pyc", b"cache"),
        lambda root: put(root / "data/digits/rows.csv", b"another dataset"),
        lambda root: (root / ".assay/events.jsonl").unlink(),
        lambda root: (root / "work/breast_cancer/split/empty").mkdir(),
    ],
    ids=(
        *("mtime", "eps", "other seed", "comment", "cli", "other code", "comment in code", "pin", "cache"),
        *("other data", "no log", "folder"),
    ),
)
def test_what_a_stage_does_not_depend_on_leaves_it_fresh(root: Path, change: Callable[[Path], object]) -> None:
    run(root)
    change(root)
    assert is_fresh(Project(root), STAGE)


@pytest.mark.parametrize(
    "change",
    [
        lambda root: put(root / INPUT, b"row_id,label\na,1\n"),
        lambda root: put(root / "data/breast_cancer/more.csv", b""),
        lambda root: (root / "data/breast_cancer/card.json").unlink(),
        lambda root: (root / INPUT).rename(root / "data/breast_cancer/renamed.csv"),
        lambda root: replace(root / "params.yaml", "split: {seed: 0}", "split: {seed: 7}"),
        lambda root: replace(root / "params.yaml", "source: auto", "source: local"),
        lambda root: put(root / CODE, (root / CODE).read_bytes() + b"more = 1\n"),
        lambda root: put(root / "src/assay/data/recipes.py", b"this is not Python\n"),
        lambda root: (root / "src/assay/data/recipes.py").unlink(),
    ],
    ids=["byte", "new file", "lost file", "renamed", "param", "param inside", "code", "broken code", "lost code"],
)
def test_what_it_depends_on_makes_it_run_again(root: Path, change: Callable[[Path], object]) -> None:
    run(root)
    before = record_of(root).read_bytes()
    change(root)
    assert not is_fresh(Project(root), STAGE)

    def work(project: Project, out: Path, checkpoints: Path) -> dict[str, Any]:
        (out / "other.json").write_bytes(b"{}")
        return {}

    assert run(root, work).ran
    assert set(outputs(root)) == {"other.json", "record.json"}
    assert record_of(root).read_bytes() != before
    assert beside(root) == [STAGE]
    assert not run(root, refused).ran


def test_going_back_to_old_settings_runs_again_and_gives_the_old_record(root: Path) -> None:
    run(root)
    before = outputs(root)
    for old, new in (("split: {seed: 0}", "split: {seed: 7}"), ("split: {seed: 7}", "split: {seed: 0}")):
        replace(root / "params.yaml", old, new)
        assert run(root).ran
    assert outputs(root) == before


@pytest.mark.parametrize("error", [ValueError, StageError, KeyboardInterrupt, SystemExit])
def test_a_stage_that_fails_leaves_no_trace(root: Path, error: type[BaseException]) -> None:
    def work(project: Project, out: Path, checkpoints: Path) -> dict[str, Any]:
        made(project, out, checkpoints)
        raise error("halfway")

    with pytest.raises(error, match="halfway"):
        run(root, work)
    assert beside(root) == []
    assert list(Project(root).events) == []
    assert run(root).ran


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_stage_that_fails_leaves_the_outputs_before_it(root: Path, error: type[BaseException]) -> None:
    run(root)
    before = outputs(root)
    replace(root / "params.yaml", "split: {seed: 0}", "split: {seed: 7}")

    def work(project: Project, out: Path, checkpoints: Path) -> dict[str, Any]:
        (out / "half").write_bytes(b"")
        raise error

    with pytest.raises(error):
        run(root, work)
    assert outputs(root) == before
    assert beside(root) == [STAGE]
    assert not is_fresh(Project(root), STAGE)
    replace(root / "params.yaml", "split: {seed: 7}", "split: {seed: 0}")
    assert not run(root, refused).ran


KILLED = """
import time
from pathlib import Path
from assay.project.freshness import run_stage
from assay.project.layout import Project
from assay.project.modules import code_digest

def work(project, out, checkpoints):
    (out / "half").write_bytes(b"")
    time.sleep(3600)

run_stage(Project(Path.cwd()), "split", work)
"""


@pytest.mark.parametrize("finished_before", [False, True])
def test_what_a_killed_run_left_is_swept_by_the_next(root: Path, finished_before: bool) -> None:
    if finished_before:
        run(root)
        replace(root / "params.yaml", "split: {seed: 0}", "split: {seed: 7}")
    (root / "work/breast_cancer/.splitter.kept").mkdir(parents=True)
    process = Checkout(root).start(sys.executable, "-c", KILLED)
    wait_until(lambda: list(root.glob("work/breast_cancer/.split.*/half")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(beside(root)) == 2 + finished_before
    assert (root / "work/breast_cancer/split").exists() == finished_before
    with Project(root).lock():
        assert run(root).ran
    assert beside(root) == [".splitter.kept", STAGE]
    assert set(outputs(root)) == {"train/rows.csv", "split.json", "record.json"}


@pytest.mark.parametrize("path", [INPUT, CODE, "data/breast_cancer/appeared.csv"])
def test_inputs_that_change_while_a_stage_works_make_it_fail(root: Path, path: str) -> None:
    def work(project: Project, out: Path, checkpoints: Path) -> dict[str, Any]:
        (project.root / path).write_bytes(b"changed meanwhile")
        return made(project, out, checkpoints)

    with pytest.raises(StageError, match="stage split@breast_cancer: its inputs changed while it ran"):
        run(root, work)
    assert beside(root) == []
    assert list(Project(root).events) == []


def test_settings_that_change_while_a_stage_works_are_those_of_the_next_run(root: Path) -> None:
    def work(project: Project, out: Path, checkpoints: Path) -> dict[str, Any]:
        replace(project.root / "params.yaml", "split: {seed: 0}", "split: {seed: 7}")
        return made(project, out, checkpoints)

    run(root, work)
    assert json.loads(record_of(root).read_bytes())["params"]["split"] == {"seed": 0}
    assert not is_fresh(Project(root), STAGE)


def test_a_missing_input_is_named(root: Path) -> None:
    (root / "data").rename(root / "gone")
    with pytest.raises(StageError, match="stage split@breast_cancer needs data/breast_cancer, which is missing"):
        run(root, refused)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: put(folder / "split.json", b"[]"), "split.json was changed"),
        (lambda folder: put(folder / "split.json", b""), "split.json was changed"),
        (lambda folder: (folder / "train/rows.csv").unlink(), "train/rows.csv is missing"),
        (lambda folder: put(folder / "train/extra.csv", b""), "train/extra.csv is not on record"),
        (lambda folder: put(folder / "record.json", b"{"), "record.json is not a record"),
        (lambda folder: put(folder / "record.json", b"[]\n"), "record.json is not a record"),
        (lambda folder: put(folder / "record.json", b"[" * 100_000), "record.json is not a record"),
        (lambda folder: replace(folder / "record.json", ": ", ":  "), "record.json is not a record"),
        (lambda folder: replace(folder / "record.json", '"schema": 1', '"schema": 2'), "record.json is not a record"),
        (lambda folder: replace(folder / "record.json", '"schema": 1', '"scheme": 1'), "record.json is not a record"),
    ],
    ids=["bytes", "emptied", "missing", "extra", "cut", "no object", "deep", "respaced", "schema", "no schema"],
)
@pytest.mark.parametrize("stale", [False, True])
def test_outputs_that_are_not_the_recorded_ones_stop_the_run(
    root: Path, change: Callable[[Path], object], words: str, stale: bool
) -> None:
    """Even where the stage would run anyway: whoever changed them should know before they are gone."""
    run(root)
    if stale:
        put(root / INPUT, b"row_id,label\na,1\n")
    change(root / "work/breast_cancer/split")
    before, head = outputs(root), Project(root).events.head
    with pytest.raises(TamperedError, match=words):
        run(root, refused)
    assert (outputs(root), Project(root).events.head) == (before, head)


def test_all_differences_are_counted(root: Path) -> None:
    run(root)
    put(root / "work/breast_cancer/split/split.json", b"[]")
    put(root / "work/breast_cancer/split/train/rows.csv", b"")
    put(root / "work/breast_cancer/split/zz", b"")
    with pytest.raises(TamperedError, match=r"and 2 more"):
        check_outputs(Project(root), STAGE)


@pytest.mark.parametrize("gone", ["work/breast_cancer/split/record.json", "work/breast_cancer/split", "work"])
def test_without_a_record_a_stage_runs_again(root: Path, gone: str) -> None:
    run(root)
    before = outputs(root)
    (root / gone).rename(root / "gone")
    assert check_outputs(Project(root), STAGE) is None
    assert run(root).ran
    assert outputs(root) == before


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_stage_refuses_inputs_that_were_made_with_other_settings(root: Path) -> None:
    def both(project: Project, out: Path, checkpoints: Path) -> dict[str, Any]:
        (out / "pool").mkdir()
        return made(project, out, checkpoints)

    run(root, both)
    project = Project(root)
    assert project.raw_params["split"] == {"seed": 0}
    replace(root / "params.yaml", "split: {seed: 0}", "split: {seed: 7}")
    words = (
        r"params.yaml has split: \{'seed': 7\}, and split@breast_cancer was made with \{'seed': 0\}; nothing was run"
    )
    with pytest.raises(StageError, match=words):
        run_stage(Project(root), "contaminate", refused)
    assert run_stage(project.on("breast_cancer"), "contaminate", made).ran
    with pytest.raises(StageError, match="changed while it ran"):
        require_settings(project, project.stage("split"))
    require_settings(project, project.stage("contaminate"))
