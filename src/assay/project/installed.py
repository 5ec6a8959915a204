"""The code in records: files of a project's ``src/``, or the installed Assay as ``assay.lock`` names it."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import assay
from assay import console
from assay.errors import ConfigError, StageError
from assay.hashing import hash_json, hash_paths, hash_tree
from assay.parts import canonical_json, parse_json, write_bytes
from assay.project.templates import template_stages

if TYPE_CHECKING:
    from assay.project.layout import Project

LOCK = "assay.lock"
PACKAGE = Path(assay.__file__).resolve().parent
SOURCE, CONSTRAINTS = "src/", "constraints.txt"
FILES, VERSIONS = "assay/", "distributions/"
# The distributions that determine results; pyod is optional.
DISTRIBUTIONS = ("great-expectations", "numpy", "pandas", "pyod", "safetensors", "scikit-learn", "scipy", "torch")


def is_own(path: str) -> bool:
    """Return whether a dependency in dvc.yaml is code inside the project."""
    return path.startswith(SOURCE) or path == CONSTRAINTS


def is_installed(name: str) -> bool:
    """Return whether a recorded name is a file of the installed Assay or the version of a distribution."""
    return name.startswith((FILES, VERSIONS))


def stage_code(stage: str) -> tuple[str, ...]:
    """Return the installed code of a stage: files and folders of Assay, and all `DISTRIBUTIONS`."""
    paths = [path for path in template_stages()[stage]["deps"] if path.startswith(SOURCE)]
    return (*(path.removeprefix(SOURCE) for path in paths), VERSIONS)


def hash_code(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the hashes and versions of code, as records hold them.

    Parameters
    ----------
    root : Path
        Project folder.
    names : iterable of str
        Files and folders of the project (``src/...``, ``constraints.txt``) or of the installed package
        (``assay/...``); ``distributions/``, or one in it (``distributions/numpy``).

    Returns
    -------
    dict of str to str
        SHA-256 of every file, version of every distribution. Missing files and distributions are left out.
    """
    names = list(names)
    project_files = hash_paths(root, [name for name in names if not is_installed(name)])
    package_files = hash_paths(PACKAGE.parent, [name for name in names if name.startswith(FILES)])
    versions = {f"{VERSIONS}{name}": installed for name, installed in distributions().items()}
    return {
        **project_files,
        **package_files,
        **{name: installed for name, installed in versions.items() if VERSIONS in names or name in names},
    }


def distributions() -> dict[str, str]:
    """Return the installed versions of `DISTRIBUTIONS`, without the local part that names a machine (``+cpu``)."""
    versions = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
    return versions


def described(code: Iterable[str]) -> str:
    """Return the number of files and of versions among names of code, as text."""
    names = list(code)
    versions = sum(name.startswith(VERSIONS) for name in names)
    return " and ".join(
        f"{count} {noun}" for count, noun in ((len(names) - versions, "files"), (versions, "versions")) if count
    )


def named(code: Iterable[str], most: int = 3) -> str:
    """Return the same text with the first `most` names."""
    names = sorted(code)
    shown = [name.removeprefix(VERSIONS) for name in names[:most]] + ["..."] * (len(names) > most)
    return f"{described(names)} ({', '.join(shown)})"


def made_by(code: Iterable[str]) -> str | None:
    """Return the version of the running Assay where recorded code is installed code, else None."""
    return assay.__version__ if any(map(is_installed, code)) else None


def lock_content(project: Project) -> dict[str, Any] | None:
    """Return the current content of assay.lock; None for a project that holds its own code.

    The hash of a stage is that of `hash_code`, whose result is the ``code`` of the stage's record.
    """
    stages = {name: stage.code for name, stage in project.stages.items() if any(map(is_installed, stage.code))}
    if not stages:
        return None
    return {
        "assay": assay.__version__,
        "distributions": distributions(),
        "stages": {name: hash_json(hash_code(project.root, code)) for name, code in stages.items()},
    }


def refresh_lock(project: Project) -> tuple[str, ...]:
    """Update assay.lock to the installed code, so that DVC compares what the records compare; print one line.

    Returns
    -------
    tuple of str
        The stages whose code has changed since the file was written.
    """
    content, path = lock_content(project), project.root / LOCK
    if content is None or (path.is_file() and path.read_bytes() == canonical_json(content).encode()):
        return ()
    previous = read_lock(path.read_bytes() if path.is_file() else b"")
    write_bytes(path, canonical_json(content).encode())
    changed = tuple(name for name, digest in content["stages"].items() if previous["stages"].get(name) != digest)
    consequence = "stages whose code changed run again" if changed else "no stage's code changed"
    console.say(f"{LOCK}: {_moves(previous, content)}: {consequence}")
    return changed


def read_lock(content: bytes) -> dict[str, Any]:
    """Return the content of an assay.lock; empty entries where it cannot be read."""
    try:
        lock = parse_json(content)
        return {"assay": str(lock["assay"]), **{name: dict(lock[name]) for name in ("distributions", "stages")}}
    except (ValueError, KeyError, TypeError):
        return {"assay": "unknown", "distributions": {}, "stages": {}}


def require_locked(project: Project, stage: str) -> None:
    """Bring assay.lock up to date for one stage.

    Raises
    ------
    StageError
        The code of an earlier stage has changed since assay.lock was written, so DVC skipped a stage that has to run.
    """
    changed, order = refresh_lock(project), list(project.stages)
    if earlier_stages := [name for name in order[: order.index(stage)] if name in changed]:
        raise StageError(
            f"the code of stage {earlier_stages[0]} has changed since {LOCK} was written, and stage {stage} comes "
            f"after it; nothing was run. {LOCK} is up to date now: `dvc repro` (or `assay run`) begins at "
            f"{earlier_stages[0]}"
        )


def _moves(previous: dict[str, Any], current: dict[str, Any]) -> str:
    """Return as text which versions changed."""
    changes = [f"Assay {previous['assay']} -> {current['assay']}"] if previous["assay"] != current["assay"] else []
    names = sorted({*previous["distributions"], *current["distributions"]}) if previous["distributions"] else []
    for name in names:
        old_version, new_version = (lock["distributions"].get(name, "none") for lock in (previous, current))
        changes += [f"{name} {old_version} -> {new_version}"] if old_version != new_version else []
    return ", ".join(changes) or f"the installed files of Assay {current['assay']} changed"


def check_params(stage: str, params: Iterable[Any]) -> bool:
    """Return whether a stage of dvc.yaml has its code in assay.lock; raise `ConfigError` if it names another file."""
    files = [name for entry in params if isinstance(entry, dict) for name in entry]
    if other_files := [name for name in files if name != LOCK]:
        raise ConfigError(
            f"dvc.yaml: stage {stage} has parameters in {other_files[0]}; Assay reads params.yaml and {LOCK}"
        )
    return bool(files)


def require_own_code(project: Project) -> None:
    """Raise `StageError` if the running code is not the code in ``src/``, whose hash is recorded."""
    running, recorded = PACKAGE, project.root / "src" / "assay"
    if recorded.is_dir() and running != recorded.resolve() and hash_tree(running) != hash_tree(recorded):
        raise StageError(
            f"the running assay, {running}, differs from {recorded}, whose hashes would be recorded; "
            f"use the environment of this project (`make run`), or install it: pip install -e {project.root}"
        )
