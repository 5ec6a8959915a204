"""Content hashes: the same for the same content, DVC's own where DVC has one, another for any change."""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from assay.hashing import (
    Record,
    dvc_directory_md5,
    files_of,
    hash_bytes,
    hash_file,
    hash_json,
    hash_paths,
    hash_tree,
    lineage_root,
    uniform_hashes,
)

FILES = {
    "features.npy": b"\x93NUMPY" + bytes(range(256)),
    "rows.csv": b"row_id,label\na,0\n",
    "empty": b"",
    "a-b": b"before the folder a when sorted as text",
    "a/b": b"1",
    "a/c/d e.txt": b"2",
    "a/Z": b"3",
    "größe.csv": b"4",
    "データ/ß'\".json": b"5",
    "crlf.csv": b"a,b\r\n1,2\r\n",
}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def dvc_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dvc")
    for command in (["init", "--no-scm", "--quiet"], ["config", "core.analytics", "false"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=root, check=True)
    return root


@pytest.mark.parametrize("caches", [{}, {"__pycache__/x.pyc": b"cache", "a/__pycache__/y.pyc": b"cache"}])
def test_a_folder_s_version_is_the_one_that_dvc_gives_it(dvc_project: Path, caches: dict[str, bytes]) -> None:
    name = f"data-{len(caches)}"
    folder = write(dvc_project / name, {**FILES, **caches})
    (dvc_project / ".dvcignore").write_text("__pycache__\n")
    subprocess.run([sys.executable, "-m", "dvc", "add", "--quiet", name], cwd=dvc_project, check=True)
    (out,) = yaml.safe_load((dvc_project / f"{name}.dvc").read_text())["outs"]
    assert dvc_directory_md5(folder) == out["md5"]
    assert out["nfiles"] == len(FILES)


def test_hashes_are_sha256_of_the_content(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    assert hash_bytes(b"abc") == hashlib.sha256(b"abc").hexdigest()
    assert hash_file(tmp_path / "rows.csv") == hashlib.sha256(FILES["rows.csv"]).hexdigest()
    assert hash_json({"b": 1, "a": [2.5]}) == hash_json({"a": [2.5], "b": 1})


def test_a_tree_lists_every_file_but_its_own_record(tmp_path: Path) -> None:
    write(tmp_path, {**FILES, "record.json": b"{}", "a/record.json": b"of another stage"})
    found = hash_tree(tmp_path)
    assert set(found) == {*FILES, "a/record.json"}
    assert found["a/c/d e.txt"] == hashlib.sha256(b"2").hexdigest()


def test_caches_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    before = hash_tree(tmp_path), dvc_directory_md5(tmp_path), hash_paths(tmp_path, ["a"])
    write(tmp_path, {"__pycache__/m.pyc": b"x", "a/__pycache__/n.pyc": b"y"})
    assert (hash_tree(tmp_path), dvc_directory_md5(tmp_path), hash_paths(tmp_path, ["a"])) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "a" / "Z").write_bytes(b"4"),
        lambda root: (root / "empty").unlink(),
        lambda root: (root / "new").write_bytes(b""),
        lambda root: (root / "a" / "b").rename(root / "a" / "bb"),
        lambda root: (root / "crlf.csv").write_bytes(b"a,b\n1,2\n"),
    ],
)
def test_any_change_shows(tmp_path: Path, change: Callable[[Path], object]) -> None:
    write(tmp_path, FILES)
    before = hash_tree(tmp_path), dvc_directory_md5(tmp_path)
    change(tmp_path)
    after = hash_tree(tmp_path), dvc_directory_md5(tmp_path)
    assert after[0] != before[0]
    assert after[1] != before[1]


def test_paths_are_hashed_by_their_names_in_the_project(tmp_path: Path) -> None:
    write(tmp_path / "src", FILES)
    found = hash_paths(tmp_path, ["src/a", "src/rows.csv"])
    assert list(found) == ["src/a/Z", "src/a/b", "src/a/c/d e.txt", "src/rows.csv"]
    assert hash_paths(tmp_path, ["src/rows.csv", "src/a"]) == found
    assert files_of(tmp_path / "src" / "rows.csv") == [tmp_path / "src" / "rows.csv"]


RECORD = Record(
    stage="train",
    dataset="digits",
    inputs={"work/digits/split/train/features.npy": "00"},
    params={"train": {"seed": 0}},
    code={"src/assay/pipeline.py": "11"},
    outputs={"level-0/knn.json": "22"},
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stage", "calibrate"),
        ("dataset", "clinic"),
        ("inputs", {"work/digits/split/train/features.npy": "01"}),
        ("inputs", {"work/digits/split/test/features.npy": "00"}),
        ("inputs", {}),
        ("params", {"train": {"seed": 1}}),
        ("params", {"train": {"seed": "0"}}),
        ("code", {"src/assay/pipeline.py": "12"}),
        ("code", {}),
    ],
)
def test_a_key_changes_with_all_that_determines_the_outputs(name: str, value: object) -> None:
    assert replace(RECORD, **{name: value}).key != RECORD.key


def test_a_key_does_not_change_with_the_outputs_or_the_order_of_entries() -> None:
    assert replace(RECORD, outputs={}).key == RECORD.key
    assert replace(RECORD, inputs={"b": "1", "a": "2"}).key == replace(RECORD, inputs={"a": "2", "b": "1"}).key


def test_a_record_is_read_back_from_its_json_and_nothing_else_is_one() -> None:
    content = json.loads(json.dumps(RECORD.to_json()))
    assert set(content) == {"schema", "stage", "dataset", "inputs", "params", "code", "outputs"}
    assert Record.from_json(content) == RECORD
    fewer = {name: content[name] for name in list(content)[1:]}
    for wrong in (None, [], {}, {**content, "host": "here"}, {**content, "outputs": []}, fewer):
        assert Record.from_json(wrong) is None


def test_a_lineage_root_changes_with_every_record() -> None:
    records = {"split": "aa", "train": "bb", "calibrate": "cc"}
    roots = [lineage_root(records), lineage_root({**records, "extra": "dd"}), lineage_root({"split": "aa"})]
    for stage in records:
        other = copy.copy(records)
        other[stage] = "ff"
        roots.append(lineage_root(other))
    swapped = {**records, "split": "bb", "train": "aa"}
    assert len({*roots, lineage_root(swapped)}) == len(roots) + 1
    assert lineage_root(dict(reversed(records.items()))) == lineage_root(records)


def test_the_schema_of_records_and_the_hashes_that_give_roles_are_pinned() -> None:
    assert Record("split", "digits", {}, {}, {}).to_json()["schema"] == 1
    pinned = [0.4054373316548515, 0.32169873026346196, 0.8744729206879218]
    assert uniform_hashes(["a", "b", ""], "role:0").tolist() == pinned
