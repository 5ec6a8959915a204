"""A project that may only be read: what reads it answers, what would write says so."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Checkout
from tests.killing import in_fork, obey_permissions

from assay.audit.show import show_scorer
from assay.audit.verify import verify_scorer
from assay.hashing import hash_tree
from assay.ledger.ledger import ledger_folder
from assay.ledger.quarantine import quarantine
from assay.ledger.who_saw import who_saw
from assay.project.layout import Project

NAME = "breast_cancer"


@pytest.fixture
def locked(finished: Checkout, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The finished project with its ledger out of date, and no right to write for anybody."""
    monkeypatch.delenv("BENTOML_HOME", raising=False)
    root = finished.root
    (root / "rows.csv").write_text("row_id\nbreast_cancer-0000\nbreast_cancer-0001\n")
    shutil.rmtree(ledger_folder(root), ignore_errors=True)
    paths = [root, *root.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths if not path.is_symlink()}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    yield root
    for path, mode in modes.items():
        path.chmod(mode)


def test_who_saw_show_and_verify_answer(locked: Path) -> None:
    before = hash_tree(locked)

    def ask() -> None:
        obey_permissions()
        project = Project(locked)
        assert who_saw(project, locked / "rows.csv").to_json()["runs"]
        assert any("intact" in line for line in verify_scorer(project, NAME).lines())
        assert show_scorer(project, NAME).lines()
        with pytest.raises(PermissionError):
            (locked / "new").write_text("")
        with pytest.raises(PermissionError):
            quarantine(project, locked / "rows.csv", why="wrong")

    assert not in_fork(ask)
    assert hash_tree(locked) == before
