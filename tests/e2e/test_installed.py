"""A project of one's own with an Assay that was installed from its wheel: no source of it is anywhere near."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
from tests.conftest import QUICK, ROOT, Checkout
from tests.waiting import HANG_SECONDS, wait_until

import assay
from assay.audit.chain import read_chain
from assay.audit.commits import differences_at, find_origin
from assay.audit.replay import replay_scorer
from assay.project.layout import Project

NAME = "machines"
SETTINGS = QUICK.replace("breast_cancer", NAME).replace("[0, 0.1]", "auto").replace("[none, cadet]", "[none]")


class Installed(Checkout):
    """A folder in which commands run in an environment of their own."""

    def __init__(self, root: Path, venv: Path) -> None:
        super().__init__(root)
        self.venv = venv

    def environment(self, *_: Path, **extra: str) -> dict[str, str]:
        variables = super().environment(**extra)
        variables.pop("PYTHONPATH", None)
        return {**variables, "PATH": f"{self.venv / 'bin'}{os.pathsep}{variables['PATH']}"}

    @property
    def package(self) -> Path:
        return self.venv / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages/assay"

    def python(self, *arguments: str) -> str:
        done = self.call(str(self.venv / "bin/python"), *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel of this project; everything else is that of the running one."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([*pip, *wheel], check=True)
    (built,) = folder.glob("*.whl")
    made = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(made)], check=True)
    there = Installed(folder, made)
    there.package.parent.joinpath("locked.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    install = ["--python", str(made / "bin/python"), "install", "--no-deps", "--no-index", str(built)]
    subprocess.run([*pip, *install], check=True)
    assert Path(there.python("-c", "import assay; print(assay.__file__)").strip()).parent == there.package
    return made


@pytest.fixture(scope="module")
def project(venv: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A project after its first run."""
    folder = tmp_path_factory.mktemp("own")
    generator = np.random.default_rng(0)
    labels = np.arange(600) < 16
    frame = pd.DataFrame(generator.normal(size=(600, 5)) + 4 * labels[:, None], columns=list("abcde"))
    frame.assign(broken=labels.astype(int)).to_csv(folder / "some.csv", index=False)
    Installed(folder, venv).assay("init", "project")
    project = Installed(folder / "project", venv)
    project.assay("ingest", "../some.csv", "--name", NAME, "--label", "broken")
    project.params(SETTINGS)
    result = json.loads(project.assay("run", "--json").stdout)
    assert result["scorer"] == result["champion"]
    assert re.search(r"the injection pool holds \d+ anomalies: .*0.1 \(it takes \d+ rows\)$", result["left_out"])
    assert result["uncommitted"] == ["deployments", "scorers"]
    return project


def test_records_name_the_installed_assay(project: Installed) -> None:
    record = json.loads((project.root / f"work/{NAME}/train/knn/record.json").read_bytes())
    assert (record["assay"], record["detector"]) == (assay.__version__, "knn")
    assert {name.replace("/", ".").partition(".")[0] for name in record["code"]} == {"assay", "distributions"}
    assert "assay.detectors.baselines.knn" in record["code"]
    assert "assay.detectors.baselines.mcd" not in record["code"]
    assert not any(name.startswith(("assay.lock", "work/code")) for name in record["inputs"])


def test_dvc_and_the_audit_find_everything_as_it_was(project: Installed) -> None:
    assert json.loads(project.python("-m", "dvc", "status", "--json")) == {}
    assert "Running stage" not in project.python("-m", "dvc", "repro")
    output = project.assay("audit", "verify", NAME).stdout
    assert f"made by Assay {assay.__version__}, installed is {assay.__version__}: the same " in output
    assert output.endswith("intact\n")


def test_a_commit_holds_what_a_scorer_was_made_from(project: Installed) -> None:
    git = ("git", "-c", "user.name=tests", "-c", "user.email=tests@example.org")
    for command in (("add", "--all"), ("commit", "--quiet", "--message", "run")):
        assert project.call(*git, *command).returncode == 0
    origin = find_origin(read_chain(Project(project.root), NAME))
    assert origin.commit == project.call("git", "rev-parse", "HEAD").stdout.strip()
    assert "holds data, parameters, code and every output by content" in origin.note
    assert f"its code is that of Assay {assay.__version__}, to be installed" in origin.note
    lock = project.root / "assay.lock"
    lock.write_text(lock.read_text().replace('"assay.pipeline.training": "', '"assay.pipeline.training": "0'))
    assert project.call(*git, "commit", "--quiet", "--amend", "--all", "--no-edit").returncode == 0
    assert differences_at(read_chain(Project(project.root), NAME), "HEAD") == ("assay.lock",)
    assert project.call("git", "checkout", "--quiet", origin.commit, "--", "assay.lock").returncode == 0


def test_its_champion_is_served(project: Installed) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    content = {"columns": list("abcde"), "rows": [[0.0] * 5, [6.0] * 5]}
    with (
        project.start("assay", "serve", "--port", str(port)) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANG_SECONDS) as client,
    ):
        try:
            wait_until(lambda: is_ready(client), server)
            answer = client.post("/score", json=content)
            assert answer.status_code == 200, answer.text
            assert [row["flagged"] for row in answer.json()["results"]] == [False, True]
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=HANG_SECONDS)
    assert server.returncode == 0


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_a_replay_by_the_same_files_is_the_same(project: Installed) -> None:
    """By those of this process, which are not the same copy."""
    assert replay_scorer(Project(project.root), NAME).same


@pytest.mark.long
def test_an_upgrade_runs_what_it_changes_and_nothing_else(project: Installed) -> None:
    """The last test here: from now on another Assay is installed."""
    version, code = project.package / "__init__.py", project.package / "evaluation" / "selection.py"
    version.write_text(version.read_text().replace(f'"{assay.__version__}"', '"9.9.9"'))
    code.write_text(code.read_text() + "MORE = 1\n")
    moved = f"Assay {assay.__version__}; installed is 9.9.9, with other 1 modules (assay.evaluation.selection)"
    replayed = project.assay("audit", "replay", NAME)
    assert moved in replayed.stderr
    assert "same bytes by other code" in replayed.stdout
    output = project.assay("audit", "verify", NAME).stdout
    assert "superseded code: made by Assay" in " ".join(output.split())
    assert output.endswith("intact\n")
    done = project.assay("stage", "select", code=1)
    assert f"assay.lock: Assay {assay.__version__} -> 9.9.9: stages whose code changed run again" in done.stderr
    assert "begins at the first stage whose code changed" in done.stderr
    told = project.python("-m", "dvc", "repro")
    ran = re.findall(r"Running stage '(.*)'", told)
    assert ran[0] == "code"
    assert sorted(ran[1:]) == [f"{verb}@{NAME}" for verb in ("package", "select")]
    record = json.loads((project.root / f"work/{NAME}/select/record.json").read_bytes())
    assert record["assay"] == "9.9.9"
    assert json.loads(project.python("-m", "dvc", "status", "--json")) == {}
