"""A DVC remote as what machines exchange files by: passwords stay, content is what its name says."""

from __future__ import annotations

from pathlib import Path

import pytest

from assay.errors import ConfigError, TamperedError
from assay.project.store import Store, file_md5, remote_settings


def configure(root: Path, text: str, name: str = "config") -> None:
    (root / ".dvc").mkdir(exist_ok=True)
    (root / ".dvc" / name).write_text(text)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store({"name": "a", "url": str(tmp_path / "store")})


def test_what_only_this_machine_is_told_is_not_shared(tmp_path: Path) -> None:
    configure(tmp_path, "[core]\n    remote = a\n['remote \"a\"']\n    url = s3://bucket/x\n")
    configure(tmp_path, "['remote \"a\"']\n    secret_access_key = hush\n", "config.local")
    assert remote_settings(tmp_path, shared=True) == {"name": "a", "url": "s3://bucket/x"}
    assert remote_settings(tmp_path, shared=False)["secret_access_key"] == "hush"


@pytest.mark.parametrize("url", ["nonsense://x", "remote://other/x"])
def test_a_remote_that_cannot_be_used_is_refused_in_a_sentence(tmp_path: Path, url: str) -> None:
    configure(tmp_path, f"[core]\n    remote = a\n['remote \"a\"']\n    url = {url}\n")
    with pytest.raises(ConfigError, match="cannot use the DVC remote a: "):
        Store(remote_settings(tmp_path, shared=True))
    configure(tmp_path, "[core\n")
    with pytest.raises(ConfigError, match="cannot read its settings"):
        remote_settings(tmp_path, shared=True)


def test_a_file_that_changes_meanwhile_is_never_stored_under_its_former_name(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    md5 = file_md5(path)
    path.write_text("after")
    with pytest.raises(OSError, match="changed while it was stored"):
        store.put(path, md5)
    assert not store.has(md5)
    assert not [each for each in (tmp_path / "store").rglob("*") if each.is_file()]


def test_other_content_under_a_name_is_told_and_not_taken(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "file"
    path.write_text("content")
    md5 = file_md5(path)
    store.put(path, md5)
    store.get(md5, tmp_path / "again")
    assert (tmp_path / "again").read_text() == "content"
    stored = tmp_path / "store" / "files" / "md5" / md5[:2] / md5[2:]
    stored.chmod(0o644)
    stored.write_text("other")
    with pytest.raises(TamperedError, match=md5):
        store.get(md5, tmp_path / "other")
    assert {each.name for each in tmp_path.iterdir() if each.is_file()} == {"file", "again"}
