"""Real projects for the tests: copies of this one, with a Git repository and DVC of their own."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from assay.environment import SWITCHES
from assay.errors import AssayError
from assay.project.cells import refresh_cells
from assay.project.layout import Project
from tests.waiting import HANG_SECONDS
from tests.warm import warm_commands

# The same examples in every run, and no limit in seconds: what fails, fails for whoever changed it.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")

ROOT = Path(__file__).resolve().parents[1]
SHARED = "ASSAY_TESTS"
SOURCES = (
    *(
        ".dvc/.gitignore",
        ".dvc/plots",
        ".dvcignore",
        ".gitattributes",
        ".gitignore",
        "bentofile.yaml",
        "constraints.txt",
        "dvc.yaml",
    ),
    *("expectations/breast_cancer.json", "expectations/digits.json", "flows", "pyproject.toml", "src"),
)

QUICK = """\
dataset: breast_cancer
datasets: [breast_cancer]
eps: 0.05
split: {seed: 0}
contaminate: {levels: [0, 0.1], source: auto, labelled: 0, seed: 1}
train: {seed: 0, device: cpu}
calibrate: {within: all, ties: counted, promise: average, seed: 2}
detectors:
  knn: {}
  isolation_forest: {n_estimators: 25}
  mcd: {}
adapters: [none, cadet]
select: {seed: 0, without_labels: probes}
run: {cells_at_once: 1, runner: local, address: ""}
"""

DATA_DVC = """\
outs:
- md5: 96efd3badb3ffba47ee9c8af354abe5f.dir
  size: 1137444
  nfiles: 6
  hash: md5
  path: data
"""
FIXED = {
    "data.dvc": DATA_DVC,
    ".dvc/config": "[core]\n    analytics = false\n    check_update = false\n",
}


@functools.cache
def warm_folder() -> Path:
    """Return the folder of the commands of `tests.warm`, whose server ends with this process."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(warm_commands(Path(os.environ[SHARED])))


@functools.cache
def prefect_url() -> str:
    """Return the address of a Prefect server on loopback without a password, which ends with this process."""
    from assay.runs.scheduling import local_server

    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="assay-prefect-")))
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    for name, value in {**SWITCHES, "PREFECT_HOME": str(root / ".prefect")}.items():
        patch.setenv(name, value)
    return stack.enter_context(local_server(Project(root)))


class Checkout:
    """A project folder of its own, driven by the real commands."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def environment(self, *first: Path, **extra: str) -> dict[str, str]:
        """The environment of a command; the folders `first` come first in PATH."""
        own = {"PREFECT_HOME": str(self.root / ".prefect"), "BENTOML_HOME": str(self.root / ".bentoml")}
        path = os.pathsep.join([*map(str, first), str(Path(sys.executable).parent), os.environ["PATH"]])
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
        """Run a command to its end; a run of the flow uses the server of all tests, where nothing else is said."""
        if command[:2] == ("assay", "run") and "PREFECT_API_URL" not in extra:
            extra["PREFECT_API_URL"] = prefect_url()
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.environment(warm_folder(), **extra),
            capture_output=True,
            text=True,
            check=False,
            timeout=HANG_SECONDS,
        )

    def assay(self, *arguments: str, code: int = 0, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run `assay` and expect an exit code."""
        done = self.call("assay", *arguments, **extra)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def params(self, text: str) -> None:
        """Write params.yaml, and cells.yaml as Assay does."""
        (self.root / "params.yaml").write_text(text)
        with contextlib.suppress(AssayError):
            refresh_cells(Project(self.root))


def make_checkout(root: Path) -> Checkout:
    """Make a project at `root` as it is before anything was run, whatever was run in this folder.

    Code, templates and the suites of the bundled sets are those of this folder, edits under test included. All that
    runs and people change is left out (params.yaml, dvc.lock, labels, deployments, ...) or fixed here (`FIXED`).
    """
    for name in SOURCES:
        source, target = ROOT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    for name, text in FIXED.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    project = Checkout(root)
    project.params(QUICK)
    return project


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A fresh project, nothing run yet, with quick settings."""
    return make_checkout(tmp_path / "project")


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder that all workers of a test run share; workers have its name from the environment."""
    if SHARED not in os.environ:
        os.environ[SHARED] = tempfile.mkdtemp(prefix="assay-tests-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(SHARED)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put a file first that makes its own runs: its worker does not wait until the other has made the finished one."""
    items.sort(key=lambda item: item.path.name != "test_drivers.py")


@pytest.fixture(scope="session")
def finished_once() -> Checkout:
    """One finished run of the quick settings through `dvc repro`, then delivered; never changed.

    The first worker that needs it makes it, for all: its events name its folder.
    """
    project = Checkout(Path(os.environ[SHARED]) / "finished" / "project")
    whole = project.root.with_name("whole")
    with Path(os.environ[SHARED], "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            shutil.rmtree(project.root, ignore_errors=True)
            make_checkout(project.root)
            project.assay("restore")
            done = project.call("dvc", "repro", "-q")
            assert done.returncode == 0, done.stdout + done.stderr
            project.assay("run")
            whole.touch()
    return project


@pytest.fixture
def finished(finished_once: Checkout, tmp_path: Path) -> Checkout:
    """A copy of the finished run, to be spoilt."""
    shutil.copytree(finished_once.root, tmp_path / "project", symlinks=True)
    return Checkout(tmp_path / "project")
