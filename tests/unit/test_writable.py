"""A place that cannot be written is named before the work that would be lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from assay.cli.common import require_writable
from assay.cli.main import main
from assay.errors import ConfigError


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.csv").mkdir()
    for place, words in (
        (tmp_path / "file" / "out.csv", "Not a directory"),
        (tmp_path / "folder.csv", "it is a folder"),
        (tmp_path / f"{'a' * 250}.csv", "name is too long"),
        (Path("/proc/out.csv"), "cannot be written"),
    ):
        with pytest.raises(ConfigError, match=words):
            require_writable(place)
    require_writable(tmp_path / "new" / "folder" / "out.csv")
    require_writable(tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.csv"]


@pytest.mark.parametrize(
    "command",
    [
        ["score", "rows.csv", "--out", "file/out.csv"],
        ["audit", "suspects", "knn", "--out", "file/out.csv"],
        ["audit", "show", "digits", "--html", "file/out.html"],
    ],
)
def test_commands_say_so_before_anything_else(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert f"{command[-1]} cannot be written: Not a directory" in result.output


def test_what_a_killed_command_left_of_the_same_file_goes(tmp_path: Path) -> None:
    left = tmp_path / ".scored.csv.99999999-0123abcd.part"
    others = [
        tmp_path / f".scored.csv.{os.getpid()}-0123abcd.part",
        tmp_path / ".other.csv.99999999-0123abcd.part",
        tmp_path / ".scored.csv.judged",
    ]
    for path in (left, *others):
        path.write_text("half")
    require_writable(tmp_path / "scored.csv")
    assert sorted(tmp_path.iterdir()) == sorted(others)
