"""`assay init`: a whole project or none, of this repository's own files, with the installed Assay as its code."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import ROOT, Checkout

import assay
from assay.errors import ConfigError, ToolError
from assay.hashing import hash_file, hash_tree
from assay.parts import write_json
from assay.project.cells import CELLS
from assay.project.creation import _move, create, pipeline
from assay.project.installed import LOCK, PACKAGE, hash_code, read_lock, refresh_lock, stage_code
from assay.project.layout import Project
from assay.project.stages import STAGES
from assay.project.templates import COPIES, read_template

WRITTEN = {*COPIES, ".dvc/.gitignore", "README.md", LOCK, CELLS}


def files(folder: Path) -> set[str]:
    """Every file of a project but those of Git and DVC's scratch folder."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if path.parts[0] != ".git" and path.parts[:2] != (".dvc", "tmp")}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new project; whoever changes a file of it puts it back."""
    return create(tmp_path_factory.mktemp("made") / "deep" / "project")


@pytest.mark.parametrize("name", COPIES)
def test_templates_are_this_repository_s_own_files(name: str) -> None:
    """`make format` (python -m assay.project.templates) copies them anew."""
    assert read_template(name) == (ROOT / name).read_bytes()


def test_the_pipeline_is_this_repository_s_but_for_its_code(made: Path) -> None:
    ours = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    theirs = yaml.safe_load((made / "dvc.yaml").read_text())["stages"]
    assert list(theirs) == list(ours) == ["code", *STAGES]
    assert ours.pop("code")["deps"] == ["src/assay", "constraints.txt", CELLS]
    assert theirs.pop("code")["deps"] == [LOCK, CELLS]
    assert theirs == ours
    assert yaml.safe_load(pipeline())["stages"].keys() == {"code", *STAGES}


def test_a_project_is_whole(made: Path) -> None:
    assert files(made) == WRITTEN
    assert [path.name for path in made.parent.iterdir()] == ["project"]
    for name in {*COPIES} - {"dvc.yaml"}:
        assert (made / name).read_bytes() == (ROOT / name).read_bytes()
    assert git(made, "status", "--porcelain", "--untracked-files=all").split() == [
        word for name in sorted(WRITTEN) for word in ("??", name)
    ]


def test_the_lock_has_the_code_of_every_record(made: Path) -> None:
    locked, project = json.loads((made / LOCK).read_bytes()), Project(made)
    assert locked["assay"] == assay.__version__
    for stage in project.stages.values():
        assert stage_code(project, stage).items() <= locked["code"].items()
    assert "assay.networks.mlp" in stage_code(project, project.stage("train@digits--autoencoder"))
    assert "assay.cli.main" not in locked["code"]
    assert hash_code(made, locked["code"]) == locked["code"]


def test_recorded_names_are_hashed_one_by_one(made: Path) -> None:
    names = [
        "assay/parts.py",
        "distributions/torch",
        "assay/gone.py",
        "flows/retrain.py",
        "assay.gone",
        "assay.parts:gone",
    ]
    assert hash_code(made, names) == {
        "flows/retrain.py": hash_file(made / "flows/retrain.py"),
        "assay/parts.py": hash_file(PACKAGE / "parts.py"),
        "distributions/torch": json.loads((made / LOCK).read_bytes())["code"]["distributions/torch"],
    }


def test_inside_a_git_repository_no_second_one_is_made(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    there = tmp_path / "there"
    there.mkdir()
    (there / "notes.txt").write_text("mine")
    assert create(there) == there
    assert files(there) == {*WRITTEN, "notes.txt"}
    assert not (there / ".git").exists()
    assert [path.name for path in there.glob(".assay*")] == []
    assert git(tmp_path, "diff", "--cached", "--name-only") == ""
    assert Checkout(there).call("dvc", "stage", "list", "--name-only").stdout.split() == [
        "code",
        *Project(there).stages,
    ]


def refused(folder: Path, problem: type[Exception] = ConfigError) -> str:
    before = hash_tree(folder.parent)
    with pytest.raises(problem) as caught:
        create(folder)
    assert hash_tree(folder.parent) == before
    return str(caught.value)


def test_a_project_is_refused(made: Path) -> None:
    told = refused(made)
    assert f"{made} is an Assay project already" in told
    assert "dvc.yaml" in told


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "flows").mkdir(parents=True)
    (folder / ".gitignore").symlink_to("nowhere")
    told = refused(folder)
    assert "it holds .gitignore, flows, which `assay init` would write; nothing was written" in told
    (tmp_path / "file").write_text("")
    assert "file is a file" in refused(tmp_path / "file")


def test_without_git_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert "git is not installed" in refused(tmp_path / "project", ToolError)


def test_when_dvc_fails_nothing_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sick" / "dvc").mkdir(parents=True)
    (tmp_path / "sick" / "dvc" / "__init__.py").write_text("")
    (tmp_path / "sick" / "dvc" / "__main__.py").write_text("raise SystemExit('ERROR: sick')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "sick"), prepend=os.pathsep)
    assert "`dvc init --quiet` failed" in refused(tmp_path / "project", ToolError)
    assert [path.name for path in tmp_path.iterdir()] == ["sick"]


def test_files_that_cannot_all_be_placed_go_back(tmp_path: Path) -> None:
    staging, folder = tmp_path / "staging", tmp_path / "folder"
    for path in (staging / "README.md", staging / "flows" / "a.py", folder / "flows" / "b.py"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    with pytest.raises(OSError, match="flows"):
        _move(staging, folder)
    assert (files(staging), files(folder)) == ({"README.md", "flows/a.py"}, {"flows/b.py"})


# an upgrade --------------------------------------------------------------------------------------------------


def locked_before(made: Path, **changes: Any) -> dict[str, Any]:
    """Write an assay.lock as another installation would have; returns today's."""
    now: dict[str, Any] = json.loads((made / LOCK).read_bytes())
    write_json(made / LOCK, {**now, **changes})
    return now


def test_an_upgrade_is_said_in_one_line(made: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refresh_lock(Project(made))
    now = locked_before(made, assay="0.0.9")
    refresh_lock(Project(made))
    assert capfd.readouterr().err == (
        f"assay.lock: Assay 0.0.9 -> {assay.__version__}: stages whose code changed run again\n"
    )
    assert read_lock((made / LOCK).read_bytes()) == {**now, "stages": {}}


def test_versions_that_moved_are_named(made: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = json.loads((made / LOCK).read_bytes())["code"]
    locked_before(made, code={**code, "distributions/numpy": "1.0"})
    refresh_lock(Project(made))
    told = f"assay.lock: numpy 1.0 -> {code['distributions/numpy']}: stages whose code changed run again\n"
    assert capfd.readouterr().err == told
    assert json.loads((made / LOCK).read_bytes())["code"] == code


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"assay": 1}', None])
def test_a_lock_that_cannot_be_read_is_written_anew(made: Path, content: bytes | None) -> None:
    before = (made / LOCK).read_bytes()
    (made / LOCK).unlink()
    if content is not None:
        (made / LOCK).write_bytes(content)
    refresh_lock(Project(made))
    assert (made / LOCK).read_bytes() == before


def test_a_checkout_has_no_lock(checkout: Checkout) -> None:
    refresh_lock(Project(checkout.root))
    assert not (checkout.root / LOCK).exists()


def test_parameters_of_another_file_are_refused(checkout: Checkout) -> None:
    path = checkout.root / "dvc.yaml"
    text = path.read_text()
    assert "params: [contaminate]" in text
    path.write_text(text.replace("params: [contaminate]", "params: [contaminate, {more.yaml: [x]}]"))
    with pytest.raises(ConfigError, match=r"stage contaminate has parameters in more\.yaml"):
        Project(checkout.root).stages  # noqa: B018
