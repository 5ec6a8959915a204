"""Fitted parts (scalers, detectors, adapters, references) as JSON and safetensors.

A *part* is anything fitted that a scorer needs: a registered ``kind``, a JSON ``config`` and named
arrays. Parts never name an import path, and reading one never runs code from the file.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from assay.errors import ConfigError, ScorerError

Array = NDArray[Any]
TOO_DEEP = "it is nested too deeply"
PART = ".part"


@dataclass(frozen=True, slots=True)
class Part:
    """The stored form of a fitted object: everything but its code.

    Attributes
    ----------
    kind : str
        Name in the registry of its family (detectors, adapters, scalers, ...).
    config : dict
        JSON-able settings, enough to rebuild the object together with ``arrays``.
    arrays : dict of str to ndarray
        Fitted arrays; little-endian, C order.
    """

    kind: str
    config: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)


def canonical_json(value: object) -> str:
    """Return `value` as JSON with sorted keys, two-space indent, LF and no NaN.

    The same value gives the same bytes on every machine.
    """
    try:
        return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error


def parse_json(content: str | bytes, **options: Any) -> Any:
    """Parse JSON from outside; invalid JSON raises `ValueError`, and so do too deep nesting and a key given twice.

    Parameters
    ----------
    content : str or bytes
    options
        Arguments of `json.loads`.
    """
    try:
        return json.loads(content, object_pairs_hook=unrepeated, **options)
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error


def unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members of a JSON object; raise `ValueError` where a key is given twice."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return content


def parse_yaml(content: str | bytes, where: object) -> Any:
    """Parse YAML; if it is invalid or has a key twice, a `ConfigError` names the file `where` it came from."""
    import yaml

    try:
        try:
            # libyaml takes tabs where PyYAML does not.
            has_tab = ("\t" if isinstance(content, str) else b"\t") in content  # type: ignore[operator]
            return _read_yaml(content, where, yaml.SafeLoader if has_tab else _fast_loader())
        except (yaml.YAMLError, ValueError):
            return _read_yaml(content, where, yaml.SafeLoader)  # whose words for what is wrong people know
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error
    except (LookupError, AttributeError) as error:  # PyYAML's, of `!!bool foo`, `!!int ''` and `!!timestamp foo`
        raise ConfigError(f"{where} is not valid YAML: a value is not of the type that its tag names") from error
    except RecursionError as error:
        raise ConfigError(f"{where} is not valid YAML: {TOO_DEEP}") from error


def _read_yaml(content: str | bytes, where: object, loader: Any) -> Any:
    """Parse YAML by a loader of PyYAML, whose errors pass; a `ConfigError` says which key is given twice."""
    reader = loader(content)
    try:
        root = reader.get_single_node()
        _refuse_repeated_keys(root, where)
        return None if root is None else reader.construct_document(root)
    finally:
        reader.dispose()


@functools.cache
def _fast_loader() -> Any:
    """Return a safe loader whose scanner is that of libyaml, eight times as fast, where PyYAML has it.

    Nodes are composed by Python, not by `yaml.CSafeLoader`: nested without end, those of C overflow the stack.
    """
    import yaml

    if not yaml.__with_libyaml__:
        return yaml.SafeLoader

    class FastLoader(yaml.composer.Composer, yaml.CSafeLoader):
        def __init__(self, stream: str | bytes) -> None:
            yaml.CSafeLoader.__init__(self, stream)
            yaml.composer.Composer.__init__(self)

    return FastLoader


def _refuse_repeated_keys(root: Any, where: object) -> None:
    """Raise `ConfigError` for a mapping in a composed YAML document that has a key twice, of which one would count."""
    nodes = [root] if root is not None else []
    visited = set()
    while nodes:
        node = nodes.pop()
        if id(node) in visited or node.id == "scalar":
            continue
        visited.add(id(node))
        if node.id == "sequence":
            nodes += node.value
            continue
        keys: set[tuple[str, str]] = set()
        for key, value in node.value:
            nodes += [key, value]
            if key.id == "scalar" and (key.tag, key.value) in keys:
                line = key.start_mark.line + 1
                raise ConfigError(f"{where}, line {line}: the key {key.value!r} is given twice; remove one of the two")
            keys |= {(key.tag, key.value)} if key.id == "scalar" else set()


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically: under a temporary name, then renamed into place."""
    with replacing(path) as stream:
        stream.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing under a temporary name, which gets the name `path` at the end of the block.

    Where the block does not end as usual nothing is left, and what is at `path` stays.
    """
    with _staged(path) as (temporary, stream):
        yield stream
        _finish(stream)
        temporary.replace(path)


def go_on_after(file: FileIO, size: int, content: bytes, *, sync: bool = False) -> None:
    """Let a file, opened for appending and unbuffered, hold a content after its first bytes: the whole one, or none.

    Parameters
    ----------
    size : int
        Bytes that stay; what comes after them is cut off.
    sync : bool
        Whether it is on disk when this returns.

    Raises
    ------
    OSError
        It could not be written. Of a buffered file, the rest might still come when it is closed.
    """
    file.truncate(size)
    left = memoryview(content)
    try:
        while left:
            left = left[file.write(left) :]
        if sync:
            os.fsync(file.fileno())
    except OSError:
        file.truncate(size)
        raise


def is_there(path: Path) -> bool:
    """Return whether there is a file at `path`; an `OSError` says that something else is in its place.

    That is a folder, a link that leads nowhere, or a file where its folder should be.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return True


def stage_bytes(path: Path, content: bytes) -> Path:
    """Write `content` next to `path`, under a temporary name that tells whose it is, and return that."""
    with _staged(path) as (temporary, stream):
        stream.write(content)
        _finish(stream)
    return temporary


@contextmanager
def _staged(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Open a file next to `path` under a temporary name; it is removed where the block raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_there(path)
    temporary = path.parent / f"{temporary_prefix(path.name)}{secrets.token_hex(4)}{PART}"
    # Not mkstemp, whose files only their owner can read: who may read a file is what the user's umask says.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield temporary, stream
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _finish(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def temporary_folder(parent: Path, name: str) -> Path:
    """Make a folder with a temporary name in `parent` and return it; the user's umask says who may enter it."""
    folder = parent / f"{temporary_prefix(name)}{secrets.token_hex(4)}"
    folder.mkdir()
    return folder


def temporary_prefix(name: str) -> str:
    """Return the start of the temporary names of a file or folder: hidden, and with the id of this process."""
    return f".{name}.{os.getpid()}-"


def write_json(path: Path, value: object) -> None:
    """Write `value` as canonical JSON (see `canonical_json`)."""
    write_bytes(path, canonical_json(value).encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or broken one raises `ScorerError` naming it."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ScorerError(f"{path} is missing") from error
    except ValueError as error:
        raise ScorerError(f"{path} is not valid JSON: {error}") from error


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write named arrays to one safetensors file."""
    from safetensors.numpy import save

    # safetensors writes the buffer as it lies in memory, whatever the strides.
    plain = {name: np.asarray(array, order="C") for name, array in sorted(arrays.items())}
    write_bytes(path, save(plain))


def read_arrays(path: Path) -> dict[str, Array]:
    """Read a safetensors file; a missing or broken one raises `ScorerError` naming it."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except FileNotFoundError as error:
        raise ScorerError(f"{path} is missing") from error
    except (SafetensorError, OSError, TypeError, AttributeError) as error:
        raise ScorerError(f"{path} is not a safetensors file: {error}") from error


def write_part(folder: Path, name: str, part: Part) -> None:
    """Write `part` as ``<name>.json`` and ``<name>.safetensors`` in `folder`."""
    write_arrays(folder / f"{name}.safetensors", part.arrays)
    write_json(folder / f"{name}.json", {"kind": part.kind, "config": part.config})


def read_part(folder: Path, name: str) -> Part:
    """Read a part that `write_part` wrote; raise `ScorerError` for a damaged one."""
    head = read_json(folder / f"{name}.json")
    if not isinstance(head, dict) or set(head) != {"kind", "config"}:
        raise ScorerError(f"{folder / name}.json is not the head of a part: it needs kind and config")
    return Part(head["kind"], head["config"], read_arrays(folder / f"{name}.safetensors"))
