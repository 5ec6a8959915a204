"""What verification says of a project in which everything was rehashed by somebody who may write to it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.conftest import Checkout
from tests.forger import NAME, forge, rechain
from tests.integration.conftest import GIT
from tests.sealing import restate

from assay.audit.findings import NOT_HERE, UNCHECKED, Findings
from assay.audit.sealing import seal_project
from assay.audit.verify import verify_scorer
from assay.errors import TamperedError, ToolError
from assay.parts import read_json, write_json
from assay.project.deployment import promote, read_deployment
from assay.project.layout import Project
from assay.project.seals import read_seals


@pytest.fixture(autouse=True)
def own_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENTOML_HOME", raising=False)


def verify(project: Checkout) -> Findings:
    return verify_scorer(Project(project.root), NAME)


def found(findings: Findings, *states: str) -> dict[str, str]:
    return {each.what: each.detail for each in findings.items if each.state in (states or ("differs",))}


def commit(project: Checkout) -> None:
    for command in (("add", "--all"), ("commit", "--quiet", "--message", "run")):
        assert project.call(*GIT, *command).returncode == 0


def test_nothing_outside_the_project_nothing_shows_and_the_limits_say_so(finished: Checkout) -> None:
    forged = forge(finished.root)
    findings = verify(finished)
    assert found(findings, "differs", NOT_HERE, UNCHECKED) == {}
    assert findings.tag == f"{NAME}:{forged}"
    assert any("forged as a whole" in line for line in findings.lines())


def test_a_commit_of_before_tells(finished: Checkout) -> None:
    commit(finished)
    assert verify(finished).intact
    forge(finished.root)
    findings = verify(finished)
    assert set(found(findings)) == {"dvc.lock"}
    assert "names other outputs of stage calibrate for the same inputs" in found(findings)["dvc.lock"]
    assert "no history here has the promotion of" in found(findings, NOT_HERE)["history"]


def test_a_dvc_lock_that_was_left_as_it_was_tells(finished: Checkout) -> None:
    before = (finished.root / "dvc.lock").read_bytes()
    forge(finished.root)
    (finished.root / "dvc.lock").write_bytes(before)
    assert "dvc.lock names other outputs of stage calibrate" in found(verify(finished))["dvc.lock"]


def test_a_deployment_of_an_older_commit_is_not_the_newest_promotion(finished: Checkout) -> None:
    commit(finished)
    older = (finished.root / f"deployments/{NAME}.json").read_bytes()
    deployed = read_deployment(finished.root, NAME)
    assert deployed is not None
    assert deployed.statement is not None
    log = Project(finished.root).events
    again = {name: getattr(deployed, name) for name in ("name", "version", "statement", "bento")}
    log.append("promoted", **again, reason="again", since="2999-01-01T00:00:00+00:00", replaces=None)
    told = found(verify(finished))["deployment"]
    assert f"deployments/{NAME}.json is that of commit" in told
    assert "the newest promotion on record is" in told
    assert "assay promote" in told
    promote(finished.root, NAME, deployed.version, statement=deployed.statement, bento=deployed.bento, reason="back")
    assert (finished.root / f"deployments/{NAME}.json").read_bytes() != older


def test_a_log_written_anew_without_what_a_deployed_label_speaks_of_is_not_gone_on_with(finished: Checkout) -> None:
    """Its head is that of the new log, so that only the Bento still tells."""
    project = Project(finished.root)
    events = list(project.events)
    rechain(project.events, [{**event, "time": "2026-01-01T00:00:00+00:00"} for event in events])
    project.events.check()
    for command in (("run",), ("promote", NAME, "--why", "x")):
        assert "it was cut or written anew. Nothing was done" in finished.assay(*command, code=5).stderr
    assert len(list(project.events)) == len(events)
    assert "the log was cut" in found(verify(finished))["event log"]


def test_a_lost_log_is_begun_anew_and_says_what_it_lacks(finished: Checkout) -> None:
    project = Project(finished.root)
    for path in (project.events.path, project.events.mark):
        path.unlink()
    with project.lock():
        pass
    (began,) = project.events
    assert began["event"] == "began"
    assert len(began["spoken_of"]) == 1
    findings = verify(finished)
    assert f"history before {began['time']}" in found(findings, NOT_HERE)["history"]
    assert "event log" not in found(findings)
    finished.assay("audit", "verify", NAME, code=1)  # the Bento and the deployment are in no log and no commit


def test_outputs_that_neither_the_log_nor_dvc_lock_knows_stop_a_run(finished: Checkout) -> None:
    project = Project(finished.root)
    record = read_json(finished.root / f"work/{NAME}/select/record.json")
    events = [event for event in project.events if event.get("stage") != "select"]
    rechain(project.events, events)
    with pytest.raises(TamperedError, match="speaks of"), project.lock():
        pass
    (finished.root / ".bentoml/bentos").rename(finished.root / "elsewhere")
    lock = (finished.root / "dvc.lock").read_text()
    assert record["stage"] == "select"
    (finished.root / "dvc.lock").write_text(lock.replace(f"path: work/{NAME}/select\n", "path: work/other\n"))
    assert "is not the record that was logged" in finished.assay("run", code=5).stderr


def test_what_was_shared_before_tells(finished: Checkout) -> None:
    finished.assay("sync")
    assert verify(finished).intact
    forge(finished.root)
    assert "is not what this machine shared before" in found(verify(finished))["event log"]
    for command in ("run", "sync"):
        assert "is not what this machine shared before" in finished.assay(command, code=5).stderr


def make_key(folder: Path, name: str = "key") -> Path:
    path = folder / name
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)]
    assert subprocess.run(command, check=False).returncode == 0
    return path


@pytest.fixture
def sealed(finished: Checkout, tmp_path: Path) -> Checkout:
    """A project whose owner sealed it."""
    finished.call("git", "config", "user.email", "owner@example.org")
    told = finished.assay("audit", "seal", "--key", str(make_key(tmp_path))).stdout
    assert "sealed by owner@example.org (ED25519 key SHA256:" in told
    return finished


def test_a_seal_says_by_whom_up_to_where_and_what_it_keeps_nobody_from(sealed: Checkout) -> None:
    told = sealed.assay("audit", "verify", NAME).stdout
    (line,) = (line for line in told.splitlines() if line.startswith("ok         seals"))
    assert "1 valid, the newest by owner@example.org" in line
    assert "this statement by owner@example.org" in line
    (seal,) = read_seals(sealed.root)
    (limit,) = (line for line in told.splitlines() if line.startswith("whoever may write here"))
    assert f"can add entries after entry {seal.entries} of {seal.name}" in limit
    assert "they cannot change what is up to there, nor a sealed statement" in limit
    assert Project(sealed.root).events.last("sealed", seal=seal.path.name) is not None


def test_a_project_rehashed_as_a_whole_is_told_by_its_seal(sealed: Checkout) -> None:
    forge(sealed.root)
    findings = verify(sealed)
    assert set(found(findings)) == {"seals"}
    assert "is not the one that owner@example.org" in found(findings)["seals"]
    assert "the log was rewritten" in found(findings)["seals"]
    refused = sealed.assay("run", code=5).stderr
    assert "it was cut or written anew. Nothing was done" in refused


def test_a_log_cut_to_before_its_seal_is_refused_and_told(sealed: Checkout) -> None:
    project = Project(sealed.root)
    rechain(project.events, list(project.events)[:-4])
    shutil.rmtree(sealed.root / ".bentoml")
    assert "is not the one that owner@example.org" in found(verify(sealed))["seals"]
    with pytest.raises(TamperedError, match="was cut or written anew"), project.lock():
        pass


def test_what_comes_after_the_seal_is_in_none(sealed: Checkout) -> None:
    """Whoever may write here may also run; the seal then says that it does not speak of it."""
    project = Project(sealed.root)
    project.events.append("run-ended", run="0", state="completed", reason="", stages=[])
    (folder,) = (path for path in (sealed.root / "scorers" / NAME).iterdir() if path.is_dir())
    made = restate(folder, content=lambda content: content.update(note="another"))
    detail = found(verify_scorer(project, f"{NAME}:{folder.name}-{made}"), "ok")["seals"]
    assert "1 valid" in detail
    assert "this statement is in none" in detail


@pytest.mark.parametrize("part", ["content", "signature", "both"])
def test_a_changed_seal_is_broken(sealed: Checkout, tmp_path: Path, part: str) -> None:
    (seal,) = read_seals(sealed.root)
    if part != "signature":
        write_json(seal.path, {**read_json(seal.path), "time": "2026-01-01T00:00:00+00:00"})
    if part == "signature":
        seal.signature.write_text(seal.signature.read_text().replace("A", "B"))
    if part == "both":
        stranger = make_key(tmp_path, "stranger")
        seal.signature.unlink()
        command = ["ssh-keygen", "-Y", "sign", "-q", "-f", str(stranger), "-n", "assay", str(seal.path)]
        assert subprocess.run(command, check=False).returncode == 0
    assert "is signed by no key in" in found(verify(sealed))["seals"]


def test_a_key_that_has_expired_still_counts_for_what_it_sealed_before(sealed: Checkout, tmp_path: Path) -> None:
    (seal,) = read_seals(sealed.root)
    write_json(seal.path, {**read_json(seal.path), "time": "2020-01-01T00:00:00+00:00"})
    seal.signature.unlink()
    command = ["ssh-keygen", "-Y", "sign", "-q", "-f", str(tmp_path / "key"), "-n", "assay", str(seal.path)]
    assert subprocess.run(command, check=False).returncode == 0
    allowed = sealed.root / "seals/allowed_signers"
    line = allowed.read_text()
    for end, state, said in (("20200601", "ok", "1 valid"), ("20190601", "differs", "is signed by no key")):
        allowed.write_text(line.replace("namespaces=", f'valid-before="{end}",namespaces='))
        assert said in found(verify(sealed), state)["seals"]


def test_a_stranger_who_lets_his_own_key_count_is_told_by_the_keys_that_are_kept_elsewhere(
    sealed: Checkout, tmp_path: Path
) -> None:
    allowed = sealed.root / "seals/allowed_signers"
    elsewhere = tmp_path / "allowed"
    elsewhere.write_bytes(allowed.read_bytes())
    commit(sealed)
    stranger = make_key(tmp_path, "stranger")
    refused = sealed.assay("audit", "seal", "--key", str(stranger), code=2).stderr
    assert "is not in" in refused
    line = refused.partition("add: ")[2].strip()
    assert len(read_seals(sealed.root)) == 1
    allowed.write_text(allowed.read_text() + line.replace("owner@", "stranger@") + "\n")
    sealed.assay("audit", "seal", "--key", str(stranger))
    assert "is not that of the present commit: keys were added" in found(verify(sealed), UNCHECKED)["seals"]
    commit(sealed)
    assert found(verify(sealed), "ok")["seals"].startswith("2 valid, the newest by stranger@example.org")
    told = sealed.assay("audit", "verify", NAME, "--signers", str(elsewhere), code=1).stdout
    assert f"is signed by no key in {elsewhere}" in told
    assert "1 valid, the newest by owner@example.org" in told
    sealed.assay("audit", "verify", NAME, "--signers", "nowhere", code=2)


def test_a_seal_that_the_log_speaks_of_is_missed(sealed: Checkout) -> None:
    """Or that the present commit has."""
    (seal,) = read_seals(sealed.root)
    commit(sealed)
    seal.path.unlink()
    assert f"the seal {seal.path.name} is missing" in found(verify(sealed), NOT_HERE)["seals"]
    log = Project(sealed.root).events
    rechain(log, [event for event in log if event["event"] != "sealed"])
    assert f"the seal {seal.path.name} is missing" in found(verify(sealed), NOT_HERE)["seals"]


def test_without_ssh_keygen_or_a_key(sealed: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = sealed.assay("audit", "seal", "--key", "nowhere", code=2).stderr
    assert "`ssh-keygen -t ed25519 -f FILE` makes one" in refused
    assert "there is no SSH key" in sealed.assay("audit", "seal", code=2, HOME=str(tmp_path)).stderr
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "git").symlink_to(str(shutil.which("git")))
    monkeypatch.setenv("PATH", str(commands))
    assert "ssh-keygen, which signs and checks seals, is not installed" in found(verify(sealed), UNCHECKED)["seals"]
    project = Project(sealed.root)
    with pytest.raises(ToolError, match="is not installed"), project.lock():
        seal_project(project, tmp_path / "key")
    assert len(read_seals(sealed.root)) == 1
