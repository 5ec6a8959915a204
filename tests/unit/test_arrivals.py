"""Files that appear in a folder: which of them count, and that trouble with the folder is said and survived."""

from __future__ import annotations

import os
import time
from pathlib import Path
from uuid import uuid4

import pytest

from assay.errors import ConfigError
from assay.project.deployment import deployment_path, promote
from assay.project.layout import Project
from assay.runs.arrivals import ALARMED, SETTLED_SECONDS, champion_alarms, require_folder, states, waiting
from assay.runs.scheduling import _Watch


def settle(path: Path) -> None:
    before = time.time() - SETTLED_SECONDS - 1
    os.utime(path, (before, before))


def test_only_whole_files_count(tmp_path: Path) -> None:
    folder, project = tmp_path / "inbox", Project(tmp_path, "rows")
    (folder / "parts").mkdir(parents=True)
    for name in ("a.csv", "b.csv.part", ".hidden", "new.csv", "parts/one.parquet"):
        (folder / name).write_text("x")
    (folder / "nowhere.csv").symlink_to(tmp_path / "gone.csv")
    assert set(states(folder)) == {"a.csv", "new.csv", "parts"}
    assert not waiting(project, folder)
    settle(folder / "a.csv")
    settle(folder / "parts/one.parquet")
    assert set(waiting(project, folder)) == {"a.csv", "parts"}


def test_a_folder_that_is_gone_is_said_once_and_looked_for_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = _Watch(Project(tmp_path, "rows"), tmp_path / "inbox", uuid4())
    watch.look()
    watch.look()
    assert capsys.readouterr().err.count("it is tried again") == 1
    (tmp_path / "inbox").mkdir()
    watch.look()
    assert not capsys.readouterr().err
    with pytest.raises(ConfigError, match="is not a folder"):
        require_folder(tmp_path / "other")


def test_a_record_that_cannot_be_read_now_ends_no_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = deployment_path(tmp_path, "rows")
    record.parent.mkdir()
    record.write_text("<<<<<<< HEAD")
    watch = _Watch(Project(tmp_path, "rows"), None, uuid4(), alarms=True)
    watch.look()
    watch.look()
    assert capsys.readouterr().err.count("no look for alarms now, it is tried again") == 1


def test_alarms_count_for_the_champion_alone(tmp_path: Path) -> None:
    project = Project(tmp_path, "rows")
    details = {"dataset": "rows", "statement": "0" * 12, "monitor": "drift of all rows", "log10_threshold": 2.3}
    project.events.append(ALARMED, scorer=f"rows:{'1' * 12}", row=17, **details)
    assert champion_alarms(project) == {}
    for version, rows in (("1" * 12, {f"rows:{'1' * 12} drift of all rows": [17]}), ("2" * 12, {})):
        promote(tmp_path, "rows", version, reason="by hand", bento=f"assay-rows:{version}", statement="0" * 12)
        assert champion_alarms(project) == rows
