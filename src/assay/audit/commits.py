"""The Git commit with the sources of a scorer, and the commands that restore that state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.audit.chain import Chain
from assay.errors import ConfigError
from assay.hashing import RECORD, Record, hash_bytes, hash_json
from assay.names import cell_name
from assay.parts import parse_yaml
from assay.project.installed import LOCK, SOURCE, read_lock, recorded_digest, recorded_files
from assay.project.modules import VERSIONS
from assay.project.versioning import commits_of, committed_files, git, has_git

_COMMIT = re.compile("[0-9a-f]{40}([0-9a-f]{24})?")


@dataclass(frozen=True, slots=True)
class Origin:
    """The state in Git and DVC from which a scorer was made.

    Attributes
    ----------
    commit : str or None
        The commit that holds the recorded data version, parameters, suite and code; where none does, the one
        that was checked out when the run began, if that was logged.
    logged : str or None
        The commit that was checked out when the run began, by the event log.
    differs : tuple of str
        Files of `commit` that are not the recorded ones.
    commands : tuple of str
        Commands that restore the state of `commit`.
    note : str
        The same in words.
    """

    commit: str | None
    logged: str | None
    differs: tuple[str, ...]
    commands: tuple[str, ...]
    note: str

    def to_json(self) -> dict[str, Any]:
        """Return the origin as plain JSON values."""
        return {
            "commit": self.commit,
            "logged": self.logged,
            "differs": list(self.differs),
            "commands": list(self.commands),
            "note": self.note,
        }


def find_origin(chain: Chain) -> Origin:
    """Find the commit that holds the data, parameters and code of a scorer.

    Commits are compared with the records by content: raw data by the version in data.dvc and dvc.lock, parameters by
    value, suite and code by hash. Commits whose dvc.lock also names the scorer's stage outputs come first, then the
    newest.
    """
    logged = logged_commit(chain)
    run_commit = [logged] if logged and git(chain.project.root, "cat-file", "-t", logged) else []
    commits = list(dict.fromkeys(run_commit + commits_of(chain.project.root, "dvc.lock", "data.dvc")))
    locks = committed_files(chain.project.root, [(commit, "dvc.lock") for commit in commits])
    has_outputs = [_names_outputs(chain, lock or b"") for lock in locks]
    names_outputs = dict(zip(commits, has_outputs, strict=True))
    differs: dict[str, tuple[str, ...]] = {}
    for commit in sorted(commits, key=lambda candidate: not names_outputs[candidate]):
        differs[commit] = differences_at(chain, commit)
        if not differs[commit]:
            return _origin(chain, commit, logged, (), names_outputs[commit])
    if logged in differs:
        return _origin(chain, logged, logged, differs[logged], names_outputs[logged])
    return Origin(None, logged, (), (), _no_commit(chain, logged))


def logged_commit(chain: Chain) -> str | None:
    """Return the commit that was checked out when the run that trained the scorer began, None if it was not logged."""
    for account in chain.accounts:
        commit = None
        for event in account:
            if event.get("event") == "run-started" and event.get("dataset") == chain.name:
                # Of another machine's history as well: it goes to Git as an argument, and into commands to copy.
                commit = event["commit"] if _COMMIT.fullmatch(str(event.get("commit"))) else None
            elif event.get("event") == "run-ended":
                commit = None
            elif event.get("event") == "stage" and event.get("record") == chain.named("train"):
                return commit
    return None


def differences_at(chain: Chain, commit: str) -> tuple[str, ...]:
    """Return the files of a commit that differ from those that a scorer was made from."""
    code = {} if chain.made_by else {n: d for n, d in chain.code.items() if not n.startswith(VERSIONS)}
    root, files = chain.project.root, {name: recorded_files(name) for name in code}
    paths = [
        "params.yaml",
        "data.dvc",
        "dvc.lock",
        LOCK,
        *chain.settings,
        *(path for held in files.values() for path in held),
    ]
    content = dict(zip(paths, committed_files(root, [(commit, path) for path in paths]), strict=True))
    differing = [path for path, digest in chain.settings.items() if hash_bytes(content[path] or b"") != digest]
    differing += [
        name
        for name, held in files.items()
        if not any(recorded_digest(name, content[path] or b"") == code[name] for path in held)
    ]
    if chain.made_by and not _same_installation(chain, content[LOCK]):
        differing.insert(0, LOCK)
    if not _same_params(chain, content["params.yaml"]):
        differing.insert(0, "params.yaml")
    if not _same_data(chain, content["data.dvc"], content["dvc.lock"]):
        differing.insert(0, "data.dvc")
    return tuple(differing)


def commit_with(root: Path, path: str, digest: str, *, recorded: str = "") -> str | None:
    """Return the newest commit in which the file `path` has that SHA-256, None where no commit has it.

    For code, `recorded` is its name in records, and the digest is compared as there.
    """
    commits = commits_of(root, path)
    contents = committed_files(root, [(commit, path) for commit in commits])
    matching = (
        commit
        for commit, content in zip(commits, contents, strict=True)
        if recorded_digest(recorded or path, content or b"") == digest
    )
    return next(matching, None)


def without_git() -> str:
    """Return the remark for findings that could not be compared with Git since it is not installed, else ""."""
    return (
        ""
        if has_git()
        else " (git is not installed here, so that commits are unknown: install it and repeat the command)"
    )


def content_at(root: Path, commit: str, path: str) -> bytes:
    """Return a file of a commit."""
    return committed_files(root, [(commit, path)])[0] or b""


def _origin(chain: Chain, commit: str, logged: str | None, differs: tuple[str, ...], outputs: bool) -> Origin:
    verb = "checkout" if chain.archive.remote is None else "pull"
    commands = (f"git checkout {commit}", f"dvc {verb}" if outputs else f"dvc {verb} data.dvc")
    parts = "data, parameters, code and every output" if outputs else "data, parameters and code"
    note = f"commit {commit[:12]} holds {parts} by content"
    if differs:
        shown = ", ".join(differs[:3]) + (f" and {len(differs) - 3} more" if len(differs) > 3 else "")
        note = f"the run began at commit {commit[:12]} with changes that were not committed: {shown}"
    elif logged is None:
        note += "; which commit was checked out when it ran has not been logged"
    elif logged != commit:
        note += f"; the run itself began at {logged[:12]}, with changes that were committed later"
    if chain.archive.remote is None:
        note += "; no DVC remote is configured, so the bytes come from this machine's DVC cache"
    if chain.made_by:
        note += f"; its code is that of Assay {chain.made_by}, to be installed"
    return Origin(commit, logged, differs, commands, note)


def _no_commit(chain: Chain, logged: str | None) -> str:
    if not has_git():
        began = "" if logged is None else f"; the run began at {logged[:12]}"
        return f"the commit that {chain.tag} was made from is unknown{without_git()}{began}"
    message = f"no commit in Git holds what {chain.tag} was made from"
    if logged is not None:
        return f"{message}; the run began at {logged[:12]}, which is not in this repository any more"
    return (
        f"{message}, and which one was checked out has not been logged: commit params.yaml, data.dvc, dvc.lock, "
        f"expectations/, quarantine/, answers/, labels/, targets/ and {LOCK if chain.made_by else SOURCE} after a run "
        "to have one"
    )


def _names_outputs(chain: Chain, lock: bytes) -> bool:
    """Return whether a dvc.lock is that of the scorer's run: the raw data, every stage's parameters and folder."""
    folders = {stage: chain.archive.folder_with(RECORD, chain.contents[stage]) for stage in chain.behind}
    marks = (chain.data_version, *folders.values())
    if not all(mark.encode() in lock for mark in marks if mark is not None):
        return False
    try:
        stages = _yaml(lock)["stages"]
        names = {stage: locked_name(stages, record) for stage, record in chain.behind.items()}
        params = {stage: stages[name].get("params", {}).get("params.yaml", {}) for stage, name in names.items()}
        outs = {stage: stages[name]["outs"][0]["md5"] for stage, name in names.items()}
    except (KeyError, TypeError, IndexError, AttributeError):
        return False
    return all(
        params[stage] == record.params and folders[stage] in (None, outs[stage])
        for stage, record in chain.behind.items()
    )


def locked_name(stages: Mapping[str, Any], record: Record) -> str:
    """Return the name of a record's stage in dvc.lock; in locks of earlier versions that of its verb."""
    cell = record.dataset if record.detector is None else cell_name(record.dataset, record.detector)
    return name if (name := f"{record.stage}@{cell}") in stages else record.stage


def _same_params(chain: Chain, text: bytes | None) -> bool:
    content = _yaml(text)
    if not isinstance(content, dict) or chain.name not in (content.get("dataset"), *(content.get("datasets") or ())):
        return False
    for name, recorded in chain.params.items():
        value: Any = content
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value != recorded:
            return False
    return True


def _same_installation(chain: Chain, lock: bytes | None) -> bool:
    """Compare assay.lock with the recorded code of every stage behind the scorer."""
    content = read_lock(lock or b"")
    if content["stages"]:
        return all(content["stages"].get(stage) == hash_json(record.code) for stage, record in chain.behind.items())
    return bool(chain.code.items() <= content["code"].items())


def _same_data(chain: Chain, tracked: bytes | None, lock: bytes | None) -> bool:
    """Compare data.dvc with the data version: by its listing in the cache, or else by dvc.lock."""
    try:
        folder = str(_yaml(tracked)["outs"][0]["md5"])
        if folder in chain.archive.folders:
            return chain.archive.version_in(folder, chain.name) == chain.data_version
        stages = _yaml(lock)["stages"]
        deps = stages[locked_name(stages, chain.records["split"])]["deps"]
        return any(dep["path"] == f"data/{chain.name}" and dep["md5"] == chain.data_version for dep in deps)
    except (KeyError, TypeError, IndexError):
        return False


def _yaml(text: bytes | None) -> Any:
    with suppress(ConfigError):
        return parse_yaml(text or b"", "a file of a commit")
    return None
