"""Bringing a project of the previous format up to date: `assay migrate`.

There the newest scorer alone was kept, in ``work/scorers/NAME``; a champion stays in ``scorers/NAME/VERSION`` now (see
`assay.project.deployed`).
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from assay.environment import bentoml_home
from assay.errors import ScorerError, TamperedError
from assay.parts import write_bytes
from assay.project.archive import Archive
from assay.project.deployed import is_tracked, keep_scorer
from assay.project.deployment import read_deployments
from assay.project.formats import FORMER, PRESENT
from assay.project.former_settings import migrate_settings
from assay.project.layout import Project
from assay.project.scorers import kept_folder, pointer_of
from assay.project.templates import read_template
from assay.scorer.folder import HEAD

_ADDED = (".dvc/plots/candidates.json",)
_LINES = (
    (".gitignore", "/scorers/*/?*/"),
    (".gitattributes", "*.dvc merge=dvc"),
    (".gitattributes", "deployments/*.jsonl merge=union"),
    (".gitattributes", "labels/*.feedback.csv merge=union"),
    (".gitattributes", "seals/* -text"),
)


def migrate(project: Project) -> list[str]:
    """Bring a project up to date; call it under the project's lock.

    Nothing is removed before a checked copy of it is in its new place, and a second call finds nothing to do.

    Returns
    -------
    list of str
        What was changed, a sentence each.

    Raises
    ------
    ToolError
        DVC could not track a scorer. What was done until then stays; run it again.
    """
    sentences = list(_steps(project.root))
    if sentences:
        project.events.append("migrated", changes=sentences)
    return sentences


def _steps(root: Path) -> Iterator[str]:
    yield from migrate_settings(root)
    yield from _files(root)
    yield from _service(root)
    yield from _pipeline(root)
    yield from _adopt(root)
    yield from _move(root)
    yield from _lock(root)


def _files(root: Path) -> Iterator[str]:
    """Add the files, and the lines of files, that a project of today has besides."""
    for name in _ADDED:
        if not (root / name).is_file():
            write_bytes(root / name, read_template(name))
            yield f"{name} was added, for `dvc plots`."
    for name, line in _LINES:
        before = (root / name).read_bytes() if (root / name).is_file() else b""
        if line.encode() not in before.splitlines():
            write_bytes(root / name, b"\n".join([*before.splitlines(), line.encode(), b""]))
            yield f"{name} has the line {line} now."


def _service(root: Path) -> Iterator[str]:
    """Let bentofile.yaml name the service where it is now; the other lines may be the user's own."""
    path, begin = root / "bentofile.yaml", "service: assay."
    (named,) = (line for line in read_template(path.name).decode().splitlines() if line.startswith(begin))
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    changed = [named if line.startswith(begin) else line for line in lines]
    if changed != lines:
        write_bytes(path, "\n".join([*changed, ""]).encode())
        yield f"bentofile.yaml names the {named}."
    if named in changed:
        yield from _packages(path)


def _packages(path: Path) -> Iterator[str]:
    """Let bentofile.yaml list every package that the service needs; versions and comments that are there stay."""
    for package in yaml.safe_load(read_template(path.name))["python"]["packages"]:
        text, name = path.read_text(encoding="utf-8"), package.partition("==")[0]
        try:
            listed = yaml.safe_load(text)["python"]["packages"]
            names = [re.split(r"[^-.\w]", str(each), maxsplit=1)[0].lower().replace("_", "-") for each in listed]
            if name not in names:
                added = _with_package(text, package)
                if yaml.safe_load(added)["python"]["packages"] == [package, *listed]:
                    write_bytes(path, added.encode())
                    yield f"bentofile.yaml lists the package {package}, which the service needs."
        except (yaml.YAMLError, KeyError, TypeError):
            return  # packages come in another way, which is the user's own


def _with_package(text: str, package: str) -> str:
    """Return the text of a bentofile with one more package, the first of the list."""
    head, key, rest = text.partition("packages:")
    line, end, others = rest.partition("\n")
    if "[" in line:
        return f"{head}{key}{line.replace('[', f'[{package}, ', 1)}{end}{others}"
    before, dash, after = others.partition("- ")
    indent = before.rpartition("\n")[2]
    return f"{head}{key}{line}{end}{before}- {package}\n{indent}{dash}{after}"


def _pipeline(root: Path) -> Iterator[str]:
    path = root / "dvc.yaml"
    text = path.read_text(encoding="utf-8")
    if f"{FORMER}/" in text:
        text = text.replace(f"{FORMER}/", f"{PRESENT}/")
        yield f"dvc.yaml: the stage package writes {PRESENT} instead of {FORMER}."
    if not any(line.startswith(("metrics:", "plots:")) for line in text.splitlines()):
        added = read_template("dvc.yaml").decode()
        text = f"{text.rstrip()}\n{added[added.index('metrics:') :]}"
        yield "dvc.yaml names metrics and plots, for `dvc metrics show`, `dvc plots show` and `dvc exp show`."
    if text != path.read_text(encoding="utf-8"):
        write_bytes(path, text.encode())


def _adopt(root: Path) -> Iterator[str]:
    """Copy every scorer in the old folder, and whatever a deployment names, to ``scorers/``."""
    folders = {(path.parent.parent.name, path.parent.name): path.parent for path in (root / FORMER).glob(f"*/*/{HEAD}")}
    deployed, unreadable = read_deployments(root)
    if unreadable:
        raise ScorerError(next(iter(unreadable.values())))
    named = {
        (record.name, version): record.version == version
        for record in deployed.values()
        for version in (record.version, record.previous)
        if version is not None
    }
    for name, version in sorted({*folders, *named}):
        kept, tag = kept_folder(root, name, version), f"{name}:{version}"
        if is_tracked(kept) or (pointer_of(kept).is_file() and not kept.is_dir()):
            continue
        with tempfile.TemporaryDirectory(prefix="assay-migrate-") as scratch:
            source = folders.get((name, version)) or _elsewhere(root, name, version, Path(scratch))
            if source is None:
                who = "the champion" if named[name, version] else "the champion before this one"
                yield f"{tag}, {who}, is neither here nor in DVC's cache; run `assay migrate` where it is, too."
                continue
            try:
                keep_scorer(root, source)
            except (ScorerError, TamperedError) as error:
                yield f"{tag} was not copied to scorers/ and stays where it is: {error}."
                continue
        yield f"{tag} is kept in {kept.relative_to(root)} now, tracked by {kept.name}.dvc beside it."


def _elsewhere(root: Path, name: str, version: str, scratch: Path) -> Path | None:
    """Return a folder of a scorer that the old folder has no more: BentoML's copy, or one made from DVC's cache."""
    published = bentoml_home(root) / "models" / name / version
    if (published / HEAD).is_file():
        return published
    archive = Archive(root)
    for listing in archive.folders_with(f"{version}/{HEAD}"):
        objects = {path: archive.object(md5) for path, md5 in listing.items() if path.startswith(f"{version}/")}
        for path, source in objects.items():
            if source is not None:
                (scratch / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, scratch / path)
        return scratch / version
    return None


def _move(root: Path) -> Iterator[str]:
    """Move the newest run's output to its new place; where that has one already, out of the way."""
    for old in sorted((root / FORMER).glob("*")):
        new = root / PRESENT / old.name
        if new.exists():
            new = root / ".assay" / "before-migration" / old.name
        new.parent.mkdir(parents=True, exist_ok=True)
        old.rename(new)
        yield f"{old.relative_to(root)} was moved to {new.relative_to(root)}."
    if (root / FORMER).is_dir():
        (root / FORMER).rmdir()


def _lock(root: Path) -> Iterator[str]:
    path = root / "dvc.lock"
    if path.is_file() and f"{FORMER}/".encode() in (content := path.read_bytes()):
        write_bytes(path, content.replace(f"{FORMER}/".encode(), f"{PRESENT}/".encode()))
        yield f"dvc.lock names {PRESENT} instead of {FORMER}."
