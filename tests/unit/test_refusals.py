"""What the system refuses is said in one sentence, and leaves nothing half-written."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.killing import in_fork

from assay.cli.refusals import refusal
from assay.data.answers import answers_path, read_row_answers
from assay.data.labelling import ensure_labels, labels_path
from assay.data.quarantine import ensure_quarantine, quarantine_path, read_quarantine
from assay.data.target import ensure_target, target_path
from assay.hashing import hash_tree
from assay.project.deployment import deployment_path, promote, read_deployment, read_deployments
from assay.project.layout import Project
from assay.project.pending import log_of


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "x/y.csv: no space left on device; free some space and run the same command again"),
        (errno.EROFS, "x/y.csv: read-only file system; what only reads works here"),
        (errno.EISDIR, "x/y.csv: is a directory; a folder is where a file should be"),
        (errno.ENOENT, "x/y.csv: no such file or directory; it is missing, or a link that leads nowhere"),
    ],
)
def test_a_sentence_names_the_path_and_what_to_do(number: int, words: str) -> None:
    said = refusal(OSError(number, os.strerror(number), "x/y.csv"))
    assert said.startswith(words)
    assert "\n" not in said


def test_an_error_without_a_number_is_said_as_it_is() -> None:
    assert refusal(OSError("the library says so")) == "the library says so"


@pytest.mark.parametrize(
    ("path_of", "read"),
    [
        (quarantine_path, lambda root: read_quarantine(quarantine_path(root, "pumps"))),
        (quarantine_path, lambda root: ensure_quarantine(root, "pumps")),
        (labels_path, lambda root: ensure_labels(root, "pumps")),
        (answers_path, lambda root: read_row_answers(answers_path(root, "pumps"))),
        (target_path, lambda root: ensure_target(root, "pumps")),
        (deployment_path, lambda root: read_deployment(root, "pumps")),
        (lambda root, _: log_of(root).path, lambda root: log_of(root).append("x")),
        (lambda root, _: log_of(root).path, lambda root: list(log_of(root))),
    ],
)
@pytest.mark.parametrize("kind", ["a folder", "a link to nowhere", "a file in place of its folder"])
def test_what_is_no_file_is_no_missing_file(
    tmp_path: Path, path_of: Callable[[Path, str], Path], read: Callable[[Path], object], kind: str
) -> None:
    """Taken for missing, a quarantine would list no rows."""
    path = path_of(tmp_path, "pumps")
    if kind == "a folder":
        path.mkdir(parents=True)
    elif kind == "a link to nowhere":
        path.parent.mkdir()
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.parent.write_text("mine")
    with pytest.raises(OSError, match=r"directory") as raised:
        read(tmp_path)
    assert str(raised.value.filename) == str(path)
    assert path.is_dir() or path.is_symlink() or path.parent.read_text() == "mine"


def test_one_broken_record_leaves_the_others(tmp_path: Path) -> None:
    promote(tmp_path, "pumps", "a" * 12, statement="1" * 12, bento="", reason="")
    (tmp_path / "deployments/valves.json").write_bytes(b"\xff")
    (tmp_path / "deployments/fans.json").mkdir()
    found, unreadable = read_deployments(tmp_path)
    assert list(found) == ["pumps"]
    assert sorted(unreadable) == ["fans", "valves"]


@pytest.mark.parametrize("room", [0, 300, None])
def test_a_full_disk_leaves_the_former_state(tmp_path: Path, room: int | None) -> None:
    """No file may become larger than `room` bytes: the record, the plan of the change, or the log cannot be written."""
    for _ in range(5):
        promote(tmp_path, "pumps", "a" * 12, statement="1" * 12, bento="", reason="")
    before = hash_tree(tmp_path)

    def without_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        size = log_of(tmp_path).path.stat().st_size + 100 if room is None else room
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        with pytest.raises(OSError, match="File too large"):
            promote(tmp_path, "pumps", "b" * 12, statement="2" * 12, bento="", reason="")

    in_fork(without_room)
    with Project(tmp_path).lock():
        pass
    deployed = read_deployment(tmp_path, "pumps")
    assert deployed is not None
    assert deployed.version == "a" * 12
    log_of(tmp_path).check()
    after = hash_tree(tmp_path)
    assert {*after} - {*before} == {".assay/lock"}
    promote(tmp_path, "pumps", "b" * 12, statement="2" * 12, bento="", reason="")
    log_of(tmp_path).check()
