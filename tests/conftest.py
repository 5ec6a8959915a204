"""Real projects for the tests: copies of this one, with a Git repository and DVC of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from assay.environment import SWITCHES

ROOT = Path(__file__).resolve().parents[1]

QUICK = """\
dataset: breast_cancer
eps: 0.05
split: {seed: 0}
contaminate: {levels: [0, 0.1], source: auto, labelled: 0, seed: 1}
train: {seed: 0, device: cpu}
calibrate: {within: all, ties: counted, seed: 2}
detectors:
  - knn
  - isolation_forest: {n_estimators: 25}
  - mcd
adapters: [none, cadet]
select: {seed: 0}
"""


class Checkout:
    """A project folder of its own, driven by the real commands."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def environment(self, **extra: str) -> dict[str, str]:
        own = {"PREFECT_HOME": str(self.root / ".prefect"), "BENTOML_HOME": str(self.root / ".bentoml")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "BENTOML_"))}
        return {**kept, **own, "PATH": path, **extra}

    def start(self, *command: str, **extra: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment(**extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def call(self, *command: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.environment(**extra),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def assay(self, *arguments: str, code: int = 0, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run `assay` and expect an exit code."""
        done = self.call("assay", *arguments, **extra)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def params(self, text: str) -> None:
        (self.root / "params.yaml").write_text(text)


def make_checkout(root: Path) -> Checkout:
    """Copy what Git knows of this project (and what is new in it) to `root`."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/", "benchmarks/")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, root / name)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return Checkout(root)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A fresh project, nothing run yet, with quick settings."""
    project = make_checkout(tmp_path / "project")
    project.params(QUICK)
    return project


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """One finished run of the quick settings through `dvc repro`; never changed."""
    project = make_checkout(tmp_path_factory.mktemp("finished") / "project")
    project.params(QUICK)
    project.assay("restore")
    done = project.call("dvc", "repro", "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.fixture
def finished(finished_once: Checkout, tmp_path: Path) -> Checkout:
    """A copy of the finished run, to be spoilt."""
    shutil.copytree(finished_once.root, tmp_path / "project", symlinks=True)
    return Checkout(tmp_path / "project")


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prefect server on loopback, shared by the tests that run the flow."""
    from assay.project import Project
    from assay.scheduling import prefect_server

    root = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**SWITCHES, "PREFECT_HOME": str(root / ".prefect")}.items():
            patch.setenv(name, value)
        with prefect_server(Project(root)) as url:
            yield url
