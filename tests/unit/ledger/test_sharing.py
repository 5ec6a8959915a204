"""Histories of several machines: exchanged by a real Git remote, only ever longer, and nobody's word is lost."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from assay.audit.anchoring import check_log
from assay.errors import TamperedError, ToolError
from assay.hashing import hash_bytes
from assay.ledger.rows import rows_folder
from assay.ledger.sharing import REF, Synced, sync
from assay.parts import write_bytes, write_json
from assay.project.accounts import (
    accounts_of,
    all_events,
    chains_folder,
    machine_id,
    make_machine_id,
    missing_words,
)
from assay.project.anchors import bento_folder
from assay.project.deployment import Deployment
from assay.project.layout import Project


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def machines(tmp_path: Path) -> list[Path]:
    """Three clones of a bare repository, each with an event of its own."""
    git(tmp_path, "init", "--quiet", "--bare", "origin")
    roots = [tmp_path / name for name in ("laptop", "desk", "server")]
    for root in roots:
        git(tmp_path, "clone", "--quiet", str(tmp_path / "origin"), root.name)
        git(root, "config", "user.name", f"who has the {root.name}")
        git(root, "config", "user.email", f"{root.name}@example.org")
        Project(root).events.append("stage", dataset="pumps", stage="split", record=root.name)
    return roots


def sync_at(root: Path) -> Synced:
    project = Project(root)
    with project.lock():
        return sync(project)


def records(root: Path) -> list[str]:
    return sorted(event["record"] for event in all_events(root) if event["event"] == "stage")


def test_everybody_has_everybody_s_history_in_whatever_order_they_come(machines: list[Path]) -> None:
    laptop, desk, server = machines
    hook = laptop / ".git" / "hooks" / "pre-push"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    for root in (laptop, desk, server, laptop, desk):
        sync_at(root)
    for root in machines:
        assert records(root) == ["desk", "laptop", "server"]
        for account in accounts_of(root):
            account.log.check()
    assert git(laptop, "ls-remote", "origin", "refs/heads/*") == ""
    assert git(laptop, "status", "--porcelain", "--", "chains", "rows") == ""
    people = {event["person"] for event in all_events(laptop) if event["event"] == "stage"}
    assert people == {f"who has the {root.name} <{root.name}@example.org>" for root in machines}
    before = git(laptop, "ls-remote", "origin", REF)
    sync_at(laptop)
    assert git(laptop, "ls-remote", "origin", REF) == before


def test_entries_made_since_are_brought_and_counted(machines: list[Path]) -> None:
    laptop, desk, _ = machines
    sync_at(laptop)
    sync_at(desk)
    Project(laptop).events.append("stage", dataset="pumps", stage="train", record="more")
    assert sync_at(laptop).own == 2
    ((_, *brought),) = sync_at(desk).brought
    assert brought == [2, 1]


def test_rows_of_the_runs_come_along_and_are_what_their_name_says(machines: list[Path]) -> None:
    laptop, desk, _ = machines
    content = b"rows of a run"
    digest = hash_bytes(content)
    write_bytes(rows_folder(laptop) / f"{digest}.parquet", content)
    Project(laptop).events.append("rows", dataset="pumps", rows=digest)
    sync_at(laptop)
    sync_at(desk)
    assert (rows_folder(desk) / f"{digest}.parquet").read_bytes() == content
    for root, action in ((laptop, Path.unlink), (desk, lambda path: path.write_bytes(b"others"))):
        action(rows_folder(root) / f"{digest}.parquet")
        sync_at(root)
    assert (rows_folder(laptop) / f"{digest}.parquet").read_bytes() == content
    assert (rows_folder(desk) / f"{digest}.parquet").read_bytes() == b"others"
    blob = git(desk, "rev-parse", f"{REF}:rows/{digest}.parquet").strip()
    assert git(desk, "cat-file", "blob", blob) == content.decode()


def test_a_machine_that_rewrote_what_it_shared_is_refused(machines: list[Path]) -> None:
    laptop, _, _ = machines
    sync_at(laptop)
    shared = git(laptop, "ls-remote", "origin", REF)
    log = Project(laptop).events
    for path in (log.path, log.mark):
        path.unlink()
    log.append("stage", dataset="pumps", stage="split", record="another")
    with pytest.raises(TamperedError, match="is not what this machine shared before"):
        sync_at(laptop)
    assert git(laptop, "ls-remote", "origin", REF) == shared


def test_a_log_of_an_older_backup_is_made_whole_from_what_was_shared(machines: list[Path]) -> None:
    laptop, _, _ = machines
    log = Project(laptop).events
    backup = [(path, path.read_bytes()) for path in (log.path, log.mark)]
    log.append("stage", dataset="pumps", stage="train", record="newer")
    sync_at(laptop)
    for path, content in backup:
        path.write_bytes(content)
    with pytest.raises(TamperedError, match="an older one, of a backup") as refused:
        sync_at(laptop)
    command = str(refused.value).partition("`")[2].partition("`")[0]
    assert subprocess.run(command, shell=True, cwd=laptop, check=False).returncode == 0
    sync_at(laptop)
    assert records(laptop) == ["laptop", "newer"]
    log.check()


def test_a_history_that_somebody_rewrote_at_the_remote_is_refused_and_one_that_is_gone_put_back(
    machines: list[Path],
) -> None:
    laptop, desk, server = machines
    sync_at(laptop)
    sync_at(desk)
    origin = laptop.parent / "origin"
    git(origin, "update-ref", "-d", REF)
    assert records(desk) == ["desk", "laptop"]
    sync_at(desk)
    sync_at(server)
    assert records(server) == ["desk", "laptop", "server"]

    git(origin, "update-ref", "-d", REF)
    log = Project(laptop).events
    for path in (log.path, log.mark, *chains_folder(laptop).glob("*.jsonl")):
        path.unlink()
    git(laptop, "update-ref", "-d", REF)
    log.append("stage", dataset="pumps", stage="split", record="another")
    sync_at(laptop)
    with pytest.raises(TamperedError, match="does not go on from what was seen of it before"):
        sync_at(desk)
    assert records(desk) == ["desk", "laptop"]


def test_a_lost_log_becomes_another_machine_s_and_comes_back(machines: list[Path]) -> None:
    laptop, desk, _ = machines
    sync_at(laptop)
    sync_at(desk)
    sync_at(laptop)
    former = machine_id(laptop)
    log = Project(laptop).events
    for path in (log.path, log.mark, *chains_folder(laptop).glob("*.jsonl")):
        path.unlink()
    write_bytes(laptop / "deployments/pumps.json", b"{}")
    with Project(laptop).lock():
        pass
    (began,) = log
    assert (began["event"], began["saw"]) == ("began", {})
    assert list(missing_words(accounts_of(laptop)))
    sync_at(laptop)
    assert records(laptop) == ["desk", "laptop"]
    assert machine_id(laptop) != former
    assert former in {account.machine for account in accounts_of(laptop)}
    assert list(missing_words(accounts_of(laptop))) == []


def test_a_machine_that_comes_later_names_what_it_saw(machines: list[Path]) -> None:
    laptop, desk, _ = machines
    sync_at(laptop)
    log = Project(desk).events
    for path in (log.path, log.mark):
        path.unlink()
    sync_at(desk)
    with Project(desk).lock():
        pass
    (began,) = log
    assert began["saw"] == {machine_id(laptop): Project(laptop).events.head}
    assert list(missing_words(accounts_of(desk))) == []
    (copy,) = chains_folder(desk).glob("*.jsonl")
    copy.unlink()
    (told,) = missing_words(accounts_of(desk))
    assert f"history before {began['time']}" in told


def test_without_a_remote_or_a_repository(tmp_path: Path) -> None:
    root = tmp_path / "alone"
    root.mkdir()
    Project(root).events.append("stage", dataset="pumps", stage="split", record="alone")
    with pytest.raises(ToolError, match="is in no Git repository"):
        sync_at(root)
    git(root, "init", "--quiet")
    assert "in this repository alone" in sync_at(root).lines()[0]
    git(root, "remote", "add", "origin", str(tmp_path / "nowhere"))
    with pytest.raises(ToolError, match="`git ls-remote` failed"):
        sync_at(root)


def test_a_store_of_bentos_that_machines_share_stops_nobody(
    machines: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    laptop, desk, _ = machines
    sync_at(desk)
    tag = "pumps:0123456789ab-0123456789ab"
    head, machine = Project(laptop).events.append("published", bento=f"assay-{tag}"), make_machine_id(laptop)
    label = bento_folder(laptop, tag) / "bento.yaml"
    write_bytes(label, f"labels: {{chain_head: {head}, machine: {machine}}}".encode())
    deployed = Deployment("pumps", tag[6:18], tag[:18], f"assay-{tag}", "better", "2026-01-01T00:00:00+00:00", None)
    for root in (laptop, desk):
        write_json(root / "deployments" / "pumps.json", deployed.to_json())
    assert check_log(Project(desk))[0] == "not here"
    sync_at(laptop)
    sync_at(desk)
    assert check_log(Project(desk))[0] == "ok"
    log = Project(laptop).events
    log.path.write_bytes(log.content.splitlines(keepends=True)[0])
    log.mark.unlink()
    with pytest.raises(TamperedError, match="it was cut"):
        sync_at(laptop)


@pytest.mark.parametrize(
    "entry",
    [
        {"event": "stage", "time": "", "machine": "a\x1b[2Jb"},
        {"event": "stage", "time": ""},
        {"event": "began", "time": "", "machine": "a", "saw": {}, "commit": ""},
        {"event": "began", "time": "", "machine": "a", "saw": [], "spoken_of": {}, "commit": ""},
        {"event": "began", "time": "", "machine": "a", "saw": {"b": 1}, "spoken_of": {}, "commit": ""},
    ],
)
def test_a_history_whose_entries_are_no_events_is_not_brought(machines: list[Path], entry: dict[str, object]) -> None:
    laptop, desk, _ = machines
    write_bytes(laptop / "chain", json.dumps({"previous": "0" * 64, **entry}).encode() + b"\n")
    blob = git(laptop, "hash-object", "-w", "chain").strip()
    git(laptop, "update-index", "--add", "--cacheinfo", f"100644,{blob},chains/{'a' * 32}.jsonl")
    commit = git(laptop, "commit-tree", git(laptop, "write-tree").strip(), "-m", "forged").strip()
    git(laptop, "push", "--quiet", "origin", f"{commit}:{REF}")
    with pytest.raises(TamperedError, match="entry 1 is no event"):
        sync_at(desk)
    assert not list(chains_folder(desk).glob("*"))
