"""Projects with a past, shared by the tests of the audit."""

from __future__ import annotations

import shutil

import pytest
from tests.conftest import Checkout

from assay.project.freshness import run_verb
from assay.project.layout import Project
from assay.runs import run as runs

GIT = ("git", "-c", "user.name=tests", "-c", "user.email=tests@example.org")


@pytest.fixture(scope="session")
def moved_on(finished_once: Checkout, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, str, str]:
    """A finished run that was committed to Git, a second one with settings that were not: project, both versions.

    Whoever changes a file of it puts it back.
    """
    root = tmp_path_factory.mktemp("moved-on") / "project"
    shutil.copytree(finished_once.root, root, symlinks=True)
    checkout = Checkout(root)
    for command in (("add", "--all"), ("commit", "--quiet", "--message", "first run")):
        assert checkout.call(*GIT, *command).returncode == 0
    params = root / "params.yaml"
    params.write_text(params.read_text().replace("train: {seed: 0", "train: {seed: 7").replace("0.05", "0.1"))
    folder = root / "work/package/breast_cancer"
    (old,) = (path.name for path in folder.iterdir() if path.is_dir())
    project = Project(root)
    run = runs.open_run(project, "tests")
    for verb in ("train", "calibrate", "select", "evaluate"):
        for stage in project.stages_of(verb):
            assert run_verb(project, stage.name).ran
    checkout.assay("stage", "package")
    runs.deliver(project)
    runs.close_run(project, run, [], None)
    (new,) = (path.name for path in folder.iterdir() if path.is_dir())
    assert new != old
    return checkout, old, new
