"""A few of the faults of `make chaos`: a command that meets one is set right by the next, and nothing is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks import chaos
from tests.conftest import Checkout
from tests.killing import FULL, KILL_ALL, KILL_ONE


@pytest.fixture
def campaign(finished: Checkout, tmp_path: Path) -> chaos.Campaign:
    """A campaign whose project after a run is the finished one."""
    (tmp_path / "projects" / "done").mkdir(parents=True)
    shutil.move(finished.root, tmp_path / "projects" / "done" / "project")
    return chaos.Campaign(tmp_path / "projects", seed=0)


@pytest.mark.parametrize("name", ["assay promote", "assay label", "assay restore"])
def test_what_meets_a_fault_at_a_write_is_set_right(campaign: chaos.Campaign, name: str) -> None:
    (case,) = (case for case in chaos.CASES if case.name == name)
    n_writes = campaign.write_count(case)
    assert n_writes > 5
    for kind, share in ((KILL_ALL, 0.6), (KILL_ONE, 0.9), (FULL, 0.3)):
        write, was_met = 1 + int(share * (n_writes - 1)), False
        while not was_met:  # how often DVC writes differs from call to call
            was_met, lost = campaign.meet(case, write, kind)
            assert lost == []
            assert was_met or write > 1, kind
            write = 1 + write // 2


def test_losses_are_seen(campaign: chaos.Campaign) -> None:
    (case,) = (case for case in chaos.CASES if case.name == "assay label")
    campaign.write_count(case)
    with campaign.copy(case) as project:
        logged = chaos.lines(project.root)
        (project.root / "labels" / ".x.csv.99999999-0123abcd.part").mkdir()
        (project.root / "targets" / f"{chaos.NAME}.csv").write_text("row_id\n")
        assert "left: " in campaign.losses(case, project, [*logged, b"{}"])[-1]
        (project.root / "labels" / ".x.csv.99999999-0123abcd.part").rmdir()
        assert "differs from an undisturbed one: targets/" in campaign.losses(case, project, logged)[-1]
        assert "entries of the log were there" in campaign.losses(case, project, [*logged, b"{}"])[0]
        next(path for path in sorted((project.root / ".dvc/cache/files").rglob("*")) if path.is_file()).unlink()
        assert "missing or changed: .dvc/cache/files/" in campaign.losses(case, project, logged)[0]


def test_a_command_that_cuts_the_log_before_a_fault_loses_entries(campaign: chaos.Campaign) -> None:
    (case,) = (case for case in chaos.CASES if case.name == "assay label")
    campaign.write_count(case)
    state = ".assay/events"
    cutting = f"sed -i '$d' {state}.jsonl; rm {state}.head; exit 1"
    assert any("entries of the log" in each for each in campaign.meet(replace(case, command=once(cutting)), 1, FULL)[1])


def once(script: str) -> Callable[[Path], tuple[str, ...]]:
    """Return a command that is a script first, and then `assay label`."""
    left = [("sh", "-c", script)]
    return lambda _: left.pop() if left else ("assay", "label", "--budget", "5")
