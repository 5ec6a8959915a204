"""Parts on disk: the same bytes everywhere, whole or not at all, and files that cannot be read are named."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.errors import ScorerError
from assay.parts import (
    Part,
    canonical_json,
    parse_json,
    read_arrays,
    read_json,
    read_part,
    temporary_folder,
    write_arrays,
    write_bytes,
    write_json,
    write_part,
)

ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "single": np.array([[0.1, -0.0, 1e-45], [np.nan, np.inf, -np.inf]], dtype=np.float32),
    "double": np.array([0.1, 1 / 3, 5e-324]),
    "columns first": np.arange(6, dtype=np.int64).reshape(2, 3, order="F"),
    "strided": np.arange(10, dtype=np.int32)[::3],
    "none": np.empty((0, 3), dtype=np.float32),
    "bytes": np.arange(4, dtype=np.uint8),
    "flags": np.array([True, False]),
}


def test_canonical_json_has_one_form() -> None:
    one = canonical_json({"b": [1, 2.5, None], "ä": {"y": True, "x": "ß\n"}, "a": 1e-9})
    other = canonical_json({"a": 1e-9, "ä": {"x": "ß\n", "y": True}, "b": [1, 2.5, None]})
    assert one == other
    assert one == (
        '{\n  "a": 1e-09,\n  "b": [\n    1,\n    2.5,\n    null\n  ],\n'
        '  "ä": {\n    "x": "ß\\n",\n    "y": true\n  }\n}\n'
    )


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_without_nan_and_nothing_is_written(tmp_path: Path, number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "head.json", {"eps": [number]})
    assert list(tmp_path.iterdir()) == []


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"columns": ["größe", "a\tb"], "eps": 0.1, "shape": None, "n": 2**60}
    write_json(tmp_path / "deep" / "er" / "head.json", value)
    assert read_json(tmp_path / "deep" / "er" / "head.json") == value


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000, "9" * 5000])
def test_what_python_cannot_take_in_is_no_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "head.json"
    path.write_text(text)
    with pytest.raises(ScorerError, match=r"head\.json is not valid JSON"):
        read_json(path)
    with pytest.raises(ValueError, match=r"nested too deeply|int"):
        parse_json(text)


def test_what_is_nested_too_deeply_is_not_written(tmp_path: Path) -> None:
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="nested too deeply"):
        write_json(tmp_path / "head.json", value)
    assert list(tmp_path.iterdir()) == []


def test_writing_replaces_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"a longer first text", b"short", b""):
        write_bytes(path, content)
        assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_who_may_read_what_is_written_is_what_the_umask_says(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_bytes(tmp_path / "file", b"")
        folder = temporary_folder(tmp_path, "folder")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask
    assert folder.stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.parametrize("before", [None, b"before"])
def test_an_interrupted_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None
) -> None:
    def interrupt(_handle: int) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_bytes(path, b"after")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({} if before is None else {"file": before})


FULL_DISK = f"""
import resource, signal, sys
from pathlib import Path
from assay.parts import write_bytes
signal.signal(signal.SIGXFSZ, getattr(signal, sys.argv[2]))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, {resource.RLIM_INFINITY}))
write_bytes(Path(sys.argv[1]), b"x" * 1_000_000)
"""


@pytest.mark.parametrize(("upon_limit", "left"), [("SIG_IGN", 0), ("SIG_DFL", 1)])
def test_no_file_is_ever_half_written(tmp_path: Path, upon_limit: str, left: int) -> None:
    """The kernel refuses all beyond 64 KiB, as a full disk does, and then kills the process outright."""
    path = tmp_path / "file"
    path.write_bytes(b"before")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, path, upon_limit], capture_output=True, check=False)
    assert b"File too large" in done.stderr if upon_limit == "SIG_IGN" else done.returncode == -signal.SIGXFSZ
    assert path.read_bytes() == b"before"
    others = [p.name for p in tmp_path.iterdir() if p != path]
    assert len(others) == left
    assert all(name.startswith(".") for name in others)


def test_a_part_comes_back_as_it_was(tmp_path: Path) -> None:
    part = Part("knn", {"n_neighbors": 5, "of": ["a", None, 0.1]}, ARRAYS)
    write_part(tmp_path, "detector", part)
    again = read_part(tmp_path, "detector")
    assert (again.kind, again.config) == (part.kind, part.config)
    assert again.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert again.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(again.arrays[name], array)
        assert again.arrays[name].tobytes() == array.tobytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["detector.json", "detector.safetensors"]


def test_a_part_without_arrays_comes_back(tmp_path: Path) -> None:
    write_part(tmp_path, "adapter", Part("none"))
    assert read_part(tmp_path, "adapter") == Part("none", {}, {})


def test_the_order_of_arrays_and_their_layout_change_no_byte(tmp_path: Path) -> None:
    write_arrays(tmp_path / "one", ARRAYS)
    write_arrays(tmp_path / "two", {name: np.array(ARRAYS[name], order="C") for name in reversed(ARRAYS)})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_numbers_are_stored_little_endian(tmp_path: Path) -> None:
    write_arrays(tmp_path / "big", {"x": np.arange(3, dtype=">f4")})
    write_arrays(tmp_path / "little", {"x": np.arange(3, dtype="<f4")})
    assert (tmp_path / "big").read_bytes() == (tmp_path / "little").read_bytes()


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": }', b"\xff\xfe\x00", b"not json"])
def test_broken_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scorer.json"
    path.write_bytes(content)
    with pytest.raises(ScorerError, match=r"scorer\.json is not valid JSON"):
        read_json(path)


def test_broken_arrays_are_named(tmp_path: Path) -> None:
    path = tmp_path / "detector.safetensors"
    write_arrays(path, ARRAYS)
    whole = path.read_bytes()
    for content in (b"", whole[:4], whole[:40], whole[:-1], b"\xff" * 100, whole + b"x"):
        path.write_bytes(content)
        with pytest.raises(ScorerError, match=r"detector\.safetensors is not a safetensors file"):
            read_arrays(path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match=r"head\.json is missing"):
        read_json(tmp_path / "head.json")
    with pytest.raises(ScorerError, match=r"x\.safetensors is missing"):
        read_arrays(tmp_path / "x.safetensors")
    write_json(tmp_path / "half.json", {"kind": "knn", "config": {}})
    with pytest.raises(ScorerError, match=r"half\.safetensors is missing"):
        read_part(tmp_path, "half")


def test_nothing_pickled_is_ever_read(tmp_path: Path) -> None:
    import pickle

    path = tmp_path / "detector.safetensors"
    path.write_bytes(pickle.dumps(np.arange(3)))
    with pytest.raises(ScorerError):
        read_arrays(path)
