"""Which project a command works in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from assay.errors import ConfigError
from assay.project.layout import Project


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that looks like a project, with a folder inside."""
    (tmp_path / "params.yaml").write_text("")
    (tmp_path / "dvc.yaml").write_text("")
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_it_is_the_one_at_or_above_the_folder(root: Path) -> None:
    assert Project.find(root).root == Project.find(root / "notes").root == root


def test_that_of_another_user_has_to_be_entered(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = root.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ConfigError, match=rf"belongs to user {owner}, .* if you trust it, cd into {root}"):
        Project.find(root / "notes")
    assert Project.find(root).root == root
