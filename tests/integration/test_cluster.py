"""Work on a Dask cluster: the same bytes, also where workers see nothing of the project, die, or are another make."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import LocalCluster
from tests.conftest import ROOT, Checkout
from tests.waiting import HANG_SECONDS

from assay.errors import ConfigError, ScorerError
from assay.hashing import files_of, hash_tree
from assay.project.cluster import DaskRunner, describe_here, judge_worker
from assay.project.freshness import require_record
from assay.project.layout import Project
from assay.project.runners import open_runner
from assay.project.work import Work, work_of

HIDDEN = "HIDDEN_FROM_WORKERS"
# What the processes of a worker run first: whatever is below a folder is not there for them.
HIDE = f"""
import os, sys
hidden = os.path.realpath(os.environ[{HIDDEN!r}])
def refuse(event, arguments):
    if event in ("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.link"):
        if isinstance(arguments[0], str) and os.path.realpath(arguments[0]).startswith(hidden + os.sep):
            raise FileNotFoundError(2, "hidden from workers", arguments[0])
sys.addaudithook(refuse)
"""
FIT, OLD = ("near", "far"), "old"


class Team:
    """A scheduler, and workers as other machines would have them: folders of their own, nothing of the project."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root
        self.scheduler = LocalCluster(
            n_workers=0, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address="127.0.0.1:0"
        )
        self.address = str(self.scheduler.scheduler_address)
        (folder / "hiding").mkdir()
        (folder / "hiding" / "sitecustomize.py").write_text(HIDE)
        other = folder / "other" / "scipy-0.0.1.dist-info"
        other.mkdir(parents=True)
        (other / "METADATA").write_text("Metadata-Version: 2.1\nName: scipy\nVersion: 0.0.1\n")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *options: str, first: str = "") -> None:
        """Start a worker; what is in the folder `first` comes before all other modules."""
        paths = [str(self.folder / each) for each in (first, "hiding") if each]
        environment = os.environ | {HIDDEN: str(self.root), "PYTHONPATH": os.pathsep.join([*paths, str(ROOT / "src")])}
        command = [sys.executable, "-m", "distributed.cli.dask_worker", self.address, "--no-nanny", "--no-dashboard"]
        own = self.folder / name
        own.mkdir(exist_ok=True)
        command += ["--name", name, "--nthreads", "1", "--local-directory", str(own), "--host", "127.0.0.1", *options]
        with (own / "log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, env=environment, cwd=own, stdout=log, stderr=log)

    def wait(self) -> None:
        """Wait until every worker that runs is known to the scheduler."""
        wait_for(lambda: len(self.scheduler.scheduler_info["workers"]) == len(self.processes))

    def find_cell(self) -> tuple[str, psutil.Process]:
        """Wait until a worker has begun a cell; return its name and the process of the cell."""
        cells: list[tuple[str, psutil.Process]] = []

        def look() -> bool:
            for name, worker in self.processes.items():
                children = psutil.Process(worker.pid).children()
                cells.extend((name, child) for child in children if "assay.project.work" in child.cmdline())
            return bool(cells)

        wait_for(look)
        return cells[0]

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.scheduler.close()


def wait_for(seen: Callable[[], object]) -> None:
    end = time.monotonic() + HANG_SECONDS
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.05)


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.fixture(scope="module")
def project(finished_once: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished run with a folder as DVC remote, which holds nothing yet."""
    import shutil

    root = tmp_path_factory.mktemp("cluster") / "project"
    shutil.copytree(finished_once.root, root, symlinks=True)
    with (root / ".dvc" / "config").open("a") as config:
        config.write(f"    remote = store\n['remote \"store\"']\n    url = {root.parent / 'store'}\n")
    return Project(root)


@pytest.fixture(scope="module")
def team(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    team = Team(tmp_path_factory.mktemp("team"), project.root)
    try:
        team.start("near", "--resources", "GPU=1")
        team.start("far")
        team.start(OLD, first="other")
        team.wait()
        yield team
    finally:
        team.end()


def cell(project: Project, name: str, out: Path) -> Work:
    out.mkdir()
    return work_of(project, project.stage(name), out, project.state / "checkpoints" / out.name)


def test_a_dead_worker_leaves_nothing_and_another_does_its_cell(
    project: Project, team: Team, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {str(path) for path in files_of(project.root)}
    work = cell(project, "train@breast_cancer--isolation_forest", tmp_path / "out")
    with open_runner(project, "dask", team.address) as runner, ThreadPoolExecutor(1) as pool:
        assert runner.slots == len(FIT)
        told = " ".join(capsys.readouterr().err.split())
        assert "worker old (tcp://127.0.0.1" in told
        assert "has scipy 0.0.1, and this process" in told
        made = pool.submit(runner.do, work)
        name, process = team.find_cell()
        assert name in FIT
        team.processes[name].kill()
        team.processes.pop(name).wait()
        details = made.result(HANG_SECONDS)
    assert details["fit_seconds"]["isolation_forest"].keys() == {"level-0", "level-0.1"}
    assert hash_tree(tmp_path / "out") == require_record(project.folder("train", "isolation_forest")).outputs
    wait_for(lambda: has_ended(process))
    assert {str(path) for path in files_of(project.root)} == before
    team.start(name, *(["--resources", "GPU=1"] if name == "near" else []))
    team.wait()


def test_a_cell_that_nobody_waits_for_ends(project: Project, team: Team, tmp_path: Path) -> None:
    work = cell(project, "train@breast_cancer--isolation_forest", tmp_path / "out")
    processes = []

    def begin_and_fail() -> None:
        with DaskRunner(project.root, 1, team.address) as runner:
            runner.submit(work)
            processes.append(team.find_cell()[1])
            processes[0].suspend()  # so that it does not end by itself
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        begin_and_fail()
    wait_for(lambda: has_ended(processes[0]))
    assert not list((tmp_path / "out").iterdir())


def test_a_worker_gets_what_its_cell_reads_and_no_more(project: Project, team: Team, tmp_path: Path) -> None:
    work = cell(project, "calibrate@breast_cancer--mcd", tmp_path / "out")
    with DaskRunner(project.root, 1, team.address) as runner:
        runner.do(work)
        (project.folder("train", "mcd") / "failures.json").rename(project.root / "aside")
        try:
            with pytest.raises(ScorerError, match=r"failures\.json is missing"):
                runner.do(cell(project, "calibrate@breast_cancer--mcd", tmp_path / "other"))
        finally:
            (project.root / "aside").rename(project.folder("train", "mcd") / "failures.json")
    assert hash_tree(tmp_path / "out") == require_record(project.folder("calibrate", "mcd")).outputs
    stored = {path.name for path in files_of(project.root.parent / "store")}
    kept = {path.name[2:] for name in FIT for path in (team.folder / name).rglob("assay/files/*")}
    assert kept
    assert kept <= stored
    read = {path.name for name in ("selection", "test", "gate") for path in files_of(project.folder("split") / name)}
    assert "features.npy" in read
    hidden = [(project.folder("split") / name / "features.npy").read_bytes() for name in ("selection", "test", "gate")]
    assert not [path for path in files_of(project.root.parent / "store") if path.read_bytes() in hidden]


def test_what_asks_for_a_device_goes_to_the_workers_that_are_labelled(
    project: Project, team: Team, tmp_path: Path
) -> None:
    where = "assay.hashing:hash_json"
    work = Work("label", where, {}, (), tmp_path, on_device=True)
    with DaskRunner(project.root, 1, team.address) as runner:
        info = runner._workers()
        for on_device, names in ((True, {"near"}), (False, {*FIT})):
            workers, on_gpu = runner._workers_for(Work("label", where, {}, (), tmp_path, on_device=on_device))
            assert ({info[address]["name"] for address in workers}, on_gpu) == (names, on_device)
    settings = json.loads(json.dumps(project.raw_params))
    settings["detectors"]["autoencoder"] = {"epochs": 1}
    for device, asks in (("auto", True), ("cpu", False)):
        settings["train"]["device"] = device
        with_network = Project(project.root, params=settings)
        asked = {
            label: cell(with_network, f"train@breast_cancer--{label}", tmp_path / f"{device}-{label}").on_device
            for label in ("autoencoder", "knn")
        }
        assert asked == {"autoencoder": asks, "knn": False}
    assert work.on_device


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"versions": {"Assay": "0.0.1"}}, "worker w (tcp://h:1) has Assay 0.0.1, and this process "),
        ({"versions": {"torch": "1.0"}}, "worker w (tcp://h:1) has torch 1.0, and this process "),
        ({"code": "other"}, "worker w (tcp://h:1) has other files of Assay "),
    ],
)
def test_workers_of_another_make_are_refused_by_name(change: dict[str, Any], reason: str) -> None:
    installed = json.loads(describe_here("", ""))
    assert installed["versions"].keys() >= {"Assay", "Python", "torch", "numpy", "distributed", "pyod"}
    theirs = installed | change
    theirs["versions"] = installed["versions"] | theirs["versions"]
    seen = judge_worker("w", "tcp://h:1", json.dumps(theirs))
    assert seen.reason.startswith(reason)
    assert bool(seen.reason) == bool(reason)


def test_another_worker_at_the_address_of_one_that_ended_is_asked(tmp_path: Path) -> None:
    address, answers = "tcp://h:1", [describe_here("", "")]

    class Cluster:
        folder = "worker-a"

        def scheduler_info(self, n_workers: int) -> dict[str, Any]:
            return {"workers": {address: {"name": "w", "local_directory": self.folder}}}

        def run(self, *_: Any, **__: Any) -> dict[str, str]:
            return {address: answers.pop()}

    runner, cluster = DaskRunner(tmp_path, 1, ""), Cluster()
    runner._client, runner._attempts = cluster, tmp_path
    assert runner._fit_workers() == runner._fit_workers() == [address]
    cluster.folder = "worker-b"
    answers.append(json.dumps({"versions": {}, "code": "", "sees_attempts": False}))
    assert runner._fit_workers() == []


def test_without_a_fit_worker_nothing_runs(project: Project, team: Team) -> None:
    alone = Team.__new__(Team)
    alone.folder, alone.root, alone.processes = team.folder, team.root, {}
    alone.scheduler = LocalCluster(
        n_workers=0, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address="127.0.0.1:0"
    )
    alone.address = str(alone.scheduler.scheduler_address)
    try:
        with (
            pytest.raises(ConfigError, match=r"has no workers; start some"),
            open_runner(project, address=alone.address),
        ):
            pass
        alone.start(OLD, first="other")
        alone.wait()
        with (
            pytest.raises(ConfigError, match=r"worker old .* has scipy 0\.0\.1"),
            open_runner(project, "dask", alone.address),
        ):
            pass
    finally:
        alone.end()
    assert not list((project.state / "cluster").glob("*"))


@pytest.mark.long
def test_a_run_on_a_cluster_leaves_the_bytes_of_dvc_repro(finished_once: Checkout, checkout: Checkout) -> None:
    checkout.assay("restore")
    checkout.assay("run", "--runner", "dask", "--no-deploy")
    for folder in ("breast_cancer/train", "breast_cancer/calibrate", "package/breast_cancer"):
        ours, theirs = (hash_tree(each.root / "work" / folder) for each in (checkout, finished_once))
        made = {name for name in ours if not name.endswith("record.json") and "/statements/" not in name}
        assert made
        assert {name: ours[name] for name in made} == {name: theirs.get(name) for name in made}
