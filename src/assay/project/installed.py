"""The code in records: the modules that a stage's verb imports, of a project's ``src/`` or of the installed Assay.

A project of `assay init` keeps the digests of the installed code in ``assay.lock``, for DVC and for Git. For DVC the
stage ``code`` writes the hash of each stage's code to a file of its own in ``work/code``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import assay
from assay import console
from assay.detectors.registry import DETECTORS, detector_class, is_wrapper
from assay.errors import StageError
from assay.hashing import hash_bytes, hash_json, hash_paths, hash_tree
from assay.names import Choice
from assay.parameters import parameters_of
from assay.parts import canonical_json, parse_json, write_bytes
from assay.project.layout import CODE, Project, Stage
from assay.project.modules import VERSIONS, code_digest, code_of, digest_in, versions_of
from assay.project.stages import STAGES

LOCK, INNER, SEVERAL = "assay.lock", "detector", "of"
PACKAGE = Path(assay.__file__).resolve().parent
SOURCE, CONSTRAINTS = "src/", "constraints.txt"
FILES = "assay/"


def holds_code(root: Path) -> bool:
    """Return whether a project holds its own code, as Assay's repository does."""
    return (root / SOURCE / "assay").is_dir()


def source_of(root: Path) -> Path:
    """Return the folder with the package whose code is that of a project: its own, or the installed one."""
    return root / SOURCE if holds_code(root) else PACKAGE.parent


def stage_code(project: Project, stage: Stage) -> dict[str, str]:
    """Return the code of a stage, as records hold it; see `assay.project.modules.code_of`."""
    own = [choice for choice in project.config.detectors if stage.detector in (None, choice.label)]
    names = {name for choice in (*own, *project.config.adapters) for name in names_in(choice)}
    given = {INNER} if all(_names_inner({choice.name: choice.params}) for choice in own) else set[str]()
    return code_of(source_of(project.root), _roots(stage.verb), names | _modality(project), given=given)


def _roots(verb: str) -> tuple[str, str]:
    """Return the module of a verb, and the function that names its arguments."""
    entry = STAGES[verb]
    function = entry.arguments
    name = function.__name__ if function.__name__ != "<lambda>" else str(function.__code__.co_firstlineno)
    return entry.verb.__module__, f"{function.__module__}:{name}"


def names_in(choice: Choice) -> Iterator[str]:
    """Yield every text in a choice that may be the name of a registered part."""
    waiting: list[Any] = [choice.name, dict(choice.params)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value


def _names_inner(named: Any) -> bool:
    """Return whether a detector, and all that it wraps, name those that they wrap, so that no default is used."""
    name, params = next(iter(named.items())) if isinstance(named, Mapping) and named else (named, {})
    if not isinstance(name, str):
        return False
    params = params if isinstance(params, Mapping) else {}
    inner = params.get(SEVERAL, [params.get(INNER)]) if is_wrapper(name) else []
    return isinstance(inner, list) and all(map(_names_inner, inner))


def _modality(project: Project) -> set[str]:
    card = project.data / "card.json"
    try:
        return {str(parse_json(card.read_bytes())["modality"])}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def hash_code(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the present hashes and versions of recorded code; what is missing now is left out.

    Parameters
    ----------
    root : Path
        Project folder.
    names : iterable of str
        As `assay.project.modules.code_of` names code; or, in records of earlier versions, files of the project
        (``src/...``, ``constraints.txt``) or of the installed package (``assay/...``), which are hashed whole.
    """
    names = list(names)
    distributions = versions_of(name.removeprefix(VERSIONS) for name in names if name.startswith(VERSIONS))
    files = [name for name in names if not is_module(name) and not name.startswith(VERSIONS)]
    digests = {name: code_digest(source_of(root), name) for name in names if is_module(name)}
    return {
        **hash_paths(root, [name for name in files if not name.startswith(FILES)]),
        **hash_paths(PACKAGE.parent, [name for name in files if name.startswith(FILES)]),
        **{name: digest for name, digest in digests.items() if digest},
        **distributions,
    }


def is_module(name: str) -> bool:
    """Return whether recorded code is a module, or a part of one; in records of earlier versions it is a file."""
    return "/" not in name and name != CONSTRAINTS


def recorded_files(name: str) -> list[str]:
    """Return where a repository of Assay may hold recorded code: paths of one module, or the recorded path itself."""
    if name.startswith(FILES):
        return [f"{SOURCE}{name}"]
    if not is_module(name):
        return [name]
    path = f"{SOURCE}{name.partition(':')[0].replace('.', '/')}"
    return [f"{path}.py", f"{path}/__init__.py"]


def recorded_digest(name: str, content: bytes) -> str:
    """Return the digest that a record has under `name` for a file of that content."""
    return digest_in(content, name.partition(":")[2]) if is_module(name) else hash_bytes(content)


def described(code: Iterable[str]) -> str:
    """Return the number of files and of versions among names of code, as text."""
    names = list(code)
    n_versions = sum(name.startswith(VERSIONS) for name in names)
    n_modules = sum(is_module(name) for name in names)
    counts = ((len(names) - n_versions - n_modules, "files"), (n_modules, "modules"), (n_versions, "versions"))
    return " and ".join(f"{count} {noun}" for count, noun in counts if count)


def named(code: Iterable[str], most: int = 3) -> str:
    """Return the same text with the first `most` names."""
    names = sorted(code)
    shown = [name.removeprefix(VERSIONS) for name in names[:most]] + ["..."] * (len(names) > most)
    return f"{described(names)} ({', '.join(shown)})"


def made_by(root: Path) -> str | None:
    """Return the version of the running Assay for a project whose code is the installed one, else None."""
    return None if holds_code(root) else assay.__version__


def refresh_code(project: Project) -> bool:
    """Write the hash of the code of every stage to ``work/code``, for DVC; return whether one changed.

    The files of datasets and detectors that params.yaml no longer names go.
    """
    contents: dict[Path, bytes] = {}
    for dataset in project.config.datasets:
        view = project.on(dataset)
        contents |= {_code_path(view, stage): _code_content(view, stage) for stage in view.stages.values()}
    changed = False
    for path, content in contents.items():
        if not path.is_file() or path.read_bytes() != content:
            write_bytes(path, content)
            changed = True
    for path in (project.root / CODE).glob("*/*"):
        if path not in contents:
            path.unlink()
            changed = True
    return changed


def _code_path(project: Project, stage: Stage) -> Path:
    return project.root / CODE / stage.verb / stage.name.partition("@")[2]


def _code_content(project: Project, stage: Stage) -> bytes:
    return f"{hash_json(stage_code(project, stage))}\n".encode()


def require_code(project: Project, stage: Stage) -> None:
    """Bring assay.lock and ``work/code`` up to date for a stage that DVC runs.

    Raises
    ------
    StageError
        The code of the stage has changed since DVC ran the stage ``code``.
    """
    refresh_lock(project)
    path = _code_path(project, stage)
    if path.is_file() and path.read_bytes() != _code_content(project, stage):
        refresh_code(project)
        raise StageError(
            f"the code of stage {stage.name} has changed since the stage code wrote its hash; nothing was run. "
            f"{CODE} is up to date now: `dvc repro` (or `assay run`) begins at the first stage whose code changed"
        )


def lock_content(project: Project) -> dict[str, Any] | None:
    """Return the current content of assay.lock; None for a project that holds its own code."""
    if holds_code(project.root):
        return None
    roots = [root for verb in STAGES for root in _roots(verb)]
    return {"assay": assay.__version__, "code": code_of(PACKAGE.parent, roots, None)}


def refresh_lock(project: Project) -> None:
    """Update assay.lock to the installed code, so that DVC compares what the records compare; print one line."""
    content, path = lock_content(project), project.root / LOCK
    if content is None or (path.is_file() and path.read_bytes() == canonical_json(content).encode()):
        return
    previous = read_lock(path.read_bytes() if path.is_file() else b"")
    write_bytes(path, canonical_json(content).encode())
    console.say(f"{LOCK}: {_moves(previous, content)}: stages whose code changed run again")


def read_lock(content: bytes) -> dict[str, Any]:
    """Return the content of an assay.lock, or of one of an earlier version, which has a hash for each stage instead."""
    try:
        lock = parse_json(content)
        return {"assay": str(lock["assay"]), **{name: dict(lock.get(name, {})) for name in ("code", "stages")}}
    except (ValueError, KeyError, TypeError):
        return {"assay": "unknown", "code": {}, "stages": {}}


def _moves(previous: dict[str, Any], current: dict[str, Any]) -> str:
    """Return as text which versions changed."""
    changes = [f"Assay {previous['assay']} -> {current['assay']}"] if previous["assay"] != current["assay"] else []
    old, new = previous["code"], current["code"]
    for name in sorted(name for name in {*old, *new} if old and name.startswith(VERSIONS)):
        if old.get(name) != new.get(name):
            changes.append(f"{name.removeprefix(VERSIONS)} {old.get(name, 'none')} -> {new.get(name, 'none')}")
    return ", ".join(changes) or f"the installed files of Assay {current['assay']} changed"


def require_own_code(project: Project) -> None:
    """Raise `StageError` if the running code is not the code in ``src/``, whose hash is recorded."""
    running, recorded = PACKAGE, project.root / "src" / "assay"
    if recorded.is_dir() and running != recorded.resolve() and hash_tree(running) != hash_tree(recorded):
        raise StageError(
            f"the running assay, {running}, differs from {recorded}, whose hashes would be recorded; "
            f"use the environment of this project (`make run`), or install it: pip install -e {project.root}"
        )


def on_device(project: Project, detector: str | None) -> bool:
    """Return whether a detector, by its label, is a network, which is not trained on the CPU in any case."""
    return project.config.sections["train"]["device"] != "cpu" and is_network(project, detector)


def is_network(project: Project, detector: str | None) -> bool:
    """Return whether a detector, by its label, is a network, or has one inside."""
    (choice,) = (choice for choice in project.config.detectors if choice.label == detector)
    kinds = [name for name in names_in(choice) if name in DETECTORS and not is_wrapper(name)]
    return any("device" in parameters_of(detector_class(name)) for name in kinds)
