"""Whole commands killed at every one of their writes: the next command just works, and nothing of the chain differs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import pandas as pd
import pytest
from tests.conftest import Checkout
from tests.killing import Moment, killed, renaming_to, write_number

from assay.data.dataset import read_dataset
from assay.project.deployment import read_deployment
from assay.project.layout import Project
from assay.project.pending import pending_changes

NAME = "breast_cancer"
INGEST = ("ingest", "more.csv", "--name", "more", "--label", "ill")


def call(root: Path, *arguments: str) -> None:
    """Run `assay` in this process, as the only one of its machine that knows the project."""
    from assay.cli.main import main

    os.environ |= Checkout(root).environment()
    os.chdir(root)
    main(arguments, standalone_mode=False)


def champion(root: Path) -> str:
    deployed = read_deployment(root, NAME)
    assert deployed is not None
    return deployed.tag


def copy(project: Checkout, folder: Path) -> Checkout:
    shutil.copytree(project.root, folder / "project", symlinks=True)
    (root := folder / "project").joinpath("rows.csv").write_text(
        read_dataset(root / "data" / NAME).data.rows[["row_id"]].head(3).to_csv(index=False)
    )
    pd.DataFrame({"a": range(60), "b": range(60), "ill": [0, 0, 1] * 20}).to_csv(root / "more.csv", index=False)
    return Checkout(root)


def is_well(project: Checkout, command: tuple[str, ...]) -> None:
    """Verify what ships, in full; nothing temporary is left; and the same command works now."""
    verified = project.call("assay", "audit", "verify", champion(project.root), "--json")
    differing = [each for each in json.loads(verified.stdout)["findings"] if each["state"] == "differs"]
    assert differing == [], verified.stdout
    assert not pending_changes(project.root)
    project.assay(*command)
    left = [path for path in project.root.rglob(".*-????????*") if path.parts[-2] not in ("tmp", ".git")]
    assert left == []
    Project(project.root).events.check()
    assert project.call("dvc", "status", "-q", "data.dvc").returncode == 0


COMMANDS = {
    "promote": lambda root: ("promote", champion(root), "--why", "again"),
    "quarantine": lambda root: ("audit", "quarantine", "rows.csv", "--why", "wrong", "--dataset", NAME),
    "ingest": lambda root: INGEST,
    "label": lambda root: ("label", "--budget", "5"),
}


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_any_write_a_command_leaves_what_the_next_one_sets_right(
    finished: Checkout, tmp_path: Path, command: str
) -> None:
    for number in count(1):
        project = copy(finished, tmp_path / f"{command}-{number}")
        arguments = COMMANDS[command](project.root)
        was_killed = killed(partial(call, project.root, *arguments), write_number(number))
        is_well(project, arguments)
        shutil.rmtree(project.root)
        if not was_killed:
            break
    assert number > 5


MOMENTS: dict[str, Callable[[Path], Moment]] = {
    "between the two renames": lambda root: renaming_to(root / "data/more"),
    "before DVC tracks": lambda root: lambda event, args: event == "subprocess.Popen" and "add" in args[1],
}


@pytest.mark.parametrize(
    "moment", ["between the two renames", pytest.param("before DVC tracks", marks=pytest.mark.long)]
)
def test_an_ingest_that_is_killed_while_it_replaces_a_dataset_is_finished(
    finished: Checkout, tmp_path: Path, moment: str
) -> None:
    project = copy(finished, tmp_path / "own")
    project.assay(*INGEST)
    more = pd.read_csv(project.root / "more.csv")
    grown = pd.concat([more, more + 100], ignore_index=True).assign(ill=[0, 0, 1] * 40)
    grown.to_csv(project.root / "more.csv", index=False)
    assert killed(lambda: call(project.root, *INGEST), MOMENTS[moment](project.root))
    assert (project.root / "data/more").exists() == (moment == "before DVC tracks")
    project.assay("audit", "verify", champion(project.root))
    assert len(read_dataset(project.root / "data/more").data) == 120
    is_well(project, INGEST)


@pytest.mark.parametrize("place", ["models", pytest.param("bentos", marks=pytest.mark.long)])
def test_a_bento_that_is_killed_on_its_way_into_the_store_is_finished(
    finished: Checkout, tmp_path: Path, place: str
) -> None:
    project = copy(finished, tmp_path / "own")
    (target,) = (path for path in (project.root / ".bentoml" / place).glob("*/*") if path.is_dir())
    shutil.rmtree(project.root / ".bentoml")
    again = ("promote", champion(project.root), "--why", "again")
    assert killed(lambda: call(project.root, *again), renaming_to(target))
    assert not target.exists()
    project.assay("audit", "verify", champion(project.root))
    assert target.is_dir()
    is_well(project, again)
