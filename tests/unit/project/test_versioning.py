"""What is read of the files that DVC writes."""

from pathlib import Path

import pytest

from assay.errors import ConfigError
from assay.project import versioning

BROKEN = ["stages: [", "- 1\n", "stages: 3\n", "outs: []\n", "[" * 100_000]


@pytest.mark.parametrize("content", [*BROKEN, "stages: {a: {outs: [{path: work}]}}\n"])
def test_a_broken_lock_file_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "dvc.lock").write_text(content)
    with pytest.raises(ConfigError, match=r"dvc\.lock is not"):
        versioning.locked_version(tmp_path, "work")


@pytest.mark.parametrize("content", [*BROKEN, "outs: [{path: data}]\n", ""])
def test_a_broken_data_file_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "data.dvc").write_text(content)
    with pytest.raises(ConfigError, match=r"data\.dvc is not"):
        versioning.tracked_version(tmp_path)


def test_versions_are_read(tmp_path: Path) -> None:
    assert versioning.tracked_version(tmp_path) is versioning.locked_version(tmp_path, "work") is None
    (tmp_path / "data.dvc").write_text("outs:\n- md5: 1a.dir\n  path: data\n")
    (tmp_path / "dvc.lock").write_text("stages: {a: {outs: [{path: work, md5: 2b.dir}]}, b: {cmd: x}}\n")
    assert versioning.tracked_version(tmp_path) == "1a.dir"
    assert versioning.locked_version(tmp_path, "work") == "2b.dir"
    assert versioning.locked_version(tmp_path, "other") is None
