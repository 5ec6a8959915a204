"""Code on record: files of a project's ``src/``, or the installed Assay, which ``assay.lock`` names for Git and DVC."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import assay
from assay import console
from assay.errors import ConfigError, StageError
from assay.hashing import hash_json, hash_paths
from assay.parts import canonical_json, parse_json, write_bytes
from assay.project.templates import template_stages

if TYPE_CHECKING:
    from assay.project.layout import Project

LOCK = "assay.lock"
PACKAGE = Path(assay.__file__).resolve().parent
SOURCE, CONSTRAINTS = "src/", "constraints.txt"
FILES, VERSIONS = "assay/", "distributions/"
# Those that decide results; pyod is an extra.
DISTRIBUTIONS = ("great-expectations", "numpy", "pandas", "pyod", "safetensors", "scikit-learn", "scipy", "torch")


def is_own(path: str) -> bool:
    """Tell whether a dependency in dvc.yaml is code that the project holds itself."""
    return path.startswith(SOURCE) or path == CONSTRAINTS


def is_installed(name: str) -> bool:
    """Tell whether a name of code on record means the installed Assay, or the version of a distribution."""
    return name.startswith((FILES, VERSIONS))


def stage_code(stage: str) -> tuple[str, ...]:
    """Return what of the installation is the code of a stage: files and folders of Assay, and all `DISTRIBUTIONS`."""
    paths = [path for path in template_stages()[stage]["deps"] if path.startswith(SOURCE)]
    return (*(path.removeprefix(SOURCE) for path in paths), VERSIONS)


def hash_code(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the state of code as records name it.

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
        SHA-256 of every file, version of every distribution. What is missing is left out.
    """
    names = list(names)
    own = hash_paths(root, [name for name in names if not is_installed(name)])
    files = hash_paths(PACKAGE.parent, [name for name in names if name.startswith(FILES)])
    versions = {f"{VERSIONS}{name}": found for name, found in distributions().items()}
    return {**own, **files, **{name: found for name, found in versions.items() if VERSIONS in names or name in names}}


def distributions() -> dict[str, str]:
    """Return the installed versions of `DISTRIBUTIONS`, without the local part that names a machine (``+cpu``)."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
    return found


def described(code: Iterable[str]) -> str:
    """Say how many files and versions these names of code are."""
    names = list(code)
    versions = sum(name.startswith(VERSIONS) for name in names)
    return " and ".join(f"{n} {what}" for n, what in ((len(names) - versions, "files"), (versions, "versions")) if n)


def named(code: Iterable[str], most: int = 3) -> str:
    """The same with the first names."""
    names = sorted(code)
    shown = [name.removeprefix(VERSIONS) for name in names[:most]] + ["..."] * (len(names) > most)
    return f"{described(names)} ({', '.join(shown)})"


def made_by(code: Iterable[str]) -> str | None:
    """Return the version of the Assay that runs, where code on record is that of an installed one."""
    return assay.__version__ if any(map(is_installed, code)) else None


def lock_content(project: Project) -> dict[str, Any] | None:
    """Return what assay.lock has to say now; None for a project whose code is its own.

    Of each stage it has the hash of what `hash_code` says, which is what the record has as ``code``.
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
    """Bring assay.lock up to what is installed, so that DVC sees what our records see, and say so in one line.

    Returns
    -------
    tuple of str
        The stages whose code is another one than the file said.
    """
    now, path = lock_content(project), project.root / LOCK
    if now is None or (path.is_file() and path.read_bytes() == canonical_json(now).encode()):
        return ()
    then = read_lock(path.read_bytes() if path.is_file() else b"")
    write_bytes(path, canonical_json(now).encode())
    changed = tuple(name for name, digest in now["stages"].items() if then["stages"].get(name) != digest)
    told = "stages whose code changed run again" if changed else "no stage's code changed"
    console.say(f"{LOCK}: {_moves(then, now)}: {told}")
    return changed


def read_lock(content: bytes) -> dict[str, Any]:
    """Return what an assay.lock says; one that cannot be read says nothing of anything."""
    try:
        found = parse_json(content)
        return {"assay": str(found["assay"]), **{name: dict(found[name]) for name in ("distributions", "stages")}}
    except (ValueError, KeyError, TypeError):
        return {"assay": "unknown", "distributions": {}, "stages": {}}


def require_locked(project: Project, stage: str) -> None:
    """Bring assay.lock up to date for one stage.

    Raises
    ------
    StageError
        A stage before it has other code than assay.lock said, so that DVC has passed over what has to run first.
    """
    changed, order = refresh_lock(project), list(project.stages)
    if before := [name for name in order[: order.index(stage)] if name in changed]:
        raise StageError(
            f"the code of stage {before[0]} is another one than {LOCK} said, and stage {stage} comes after it; nothing "
            f"was run. {LOCK} is up to date now: `dvc repro` (or `assay run`) begins at {before[0]}"
        )


def _moves(then: dict[str, Any], now: dict[str, Any]) -> str:
    """Say in words which versions changed."""
    words = [f"Assay {then['assay']} -> {now['assay']}"] if then["assay"] != now["assay"] else []
    names = sorted({*then["distributions"], *now["distributions"]}) if then["distributions"] else []
    for name in names:
        old, new = (lock["distributions"].get(name, "none") for lock in (then, now))
        words += [f"{name} {old} -> {new}"] if old != new else []
    return ", ".join(words) or f"the installed files of Assay {now['assay']} are others"


def check_params(stage: str, params: Iterable[Any]) -> bool:
    """Tell whether a stage of dvc.yaml has its code in assay.lock; raise `ConfigError` if it names another file."""
    files = [name for entry in params if isinstance(entry, dict) for name in entry]
    if other := [name for name in files if name != LOCK]:
        raise ConfigError(f"dvc.yaml: stage {stage} has parameters in {other[0]}; Assay reads params.yaml and {LOCK}")
    return bool(files)
