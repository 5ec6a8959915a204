"""Verifying a scorer: its folder, and every stage record behind it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from assay.errors import AssayError
from assay.lineage.freshness import differences
from assay.lineage.records import RECORD, dvc_directory_md5, hash_bytes, hash_file, hash_json, hash_paths, lineage_root
from assay.project import STAGES, Project
from assay.serving.scorer import HEAD, check_files, find_scorer
from assay.versioning import locked_version


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what it is, "ok", "differs" or "superseded", and the details."""

    what: str
    state: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Findings:
    """All findings on one scorer."""

    tag: str
    found: tuple[Finding, ...]

    @property
    def intact(self) -> bool:
        """True if nothing differs."""
        return all(finding.state != "differs" for finding in self.found)

    def lines(self) -> list[str]:
        """One line for each finding and one that sums them up."""
        words = [f"{f.state:<11}{f.what}" + (f": {f.detail}" if f.detail else "") for f in self.found]
        wrong = sum(f.state == "differs" for f in self.found)
        return [*words, f"{self.tag}: {'intact' if self.intact else f'{wrong} differ'}"]

    def to_json(self) -> dict[str, Any]:
        """Return the findings as plain JSON values."""
        found = [{"what": f.what, "state": f.state, "detail": f.detail} for f in self.found]
        return {"scorer": self.tag, "intact": self.intact, "findings": found}


def verify_scorer(project: Project, tag: str) -> Findings:
    """Re-hash a scorer's folder, the records that it carries, and the stage outputs and inputs they name.

    What a later run or ingest took over, and the event log knows, is "superseded": the record is checked, the
    bytes are no longer there to be hashed. Anything else that is not as recorded "differs".

    Raises
    ------
    ScorerError
        There is no such scorer.
    """
    folder = find_scorer(tag, project.root).resolve()
    version = hash_file(folder / HEAD)[:12]
    found = [
        _look("scorer folder", lambda: _scorer_files(folder, version)),
        _look("event log", lambda: _events(project)),
        _look("parts against the records", lambda: _parts(folder)),
    ]
    try:
        head = json.loads((folder / HEAD).read_bytes())
        name, lineage, records = head["name"], head["lineage"], head["lineage"]["records"]
        order = [stage for stage in STAGES if stage in records]
    except (ValueError, KeyError, TypeError) as error:
        return Findings(tag, (*found, Finding(str(folder / HEAD), "differs", f"cannot be read: {error!r}")))
    found.append(_look("lineage root", lambda: _root(lineage)))
    found.append(_look(f"data/{name}", lambda: _data(project, name, lineage["data_version"])))
    moved = {"expectations/"} | ({f"data/{name}/"} if found[-1].state == "superseded" else set())
    for stage in order:
        found.append(_look(f"stage {stage}", partial(_stage, project, folder, name, stage, records[stage], moved)))
        if found[-1].state == "superseded":
            moved.add(f"work/{name}/{stage}/")
    found.append(_look("stage package", lambda: _package(project, name, version)))
    found.append(_look("Bento", lambda: _bento(project, f"{name}:{version}")))
    return Findings(f"{name}:{version}", tuple(found))


Outcome = tuple[str, str]
INTACT: Outcome = ("ok", "")


def _look(what: str, check: Callable[[], Outcome]) -> Finding:
    """Make a finding of a check; what cannot even be read differs, and hides no other finding."""
    try:
        state, detail = check()
    except (AssayError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        state, detail = (
            "differs",
            str(error) if isinstance(error, AssayError | OSError) else f"cannot be read: {error!r}",
        )
    return Finding(what, state, detail)


def _differs(words: list[str]) -> Outcome:
    return ("differs", "; ".join(words)) if words else INTACT


def _scorer_files(folder: Path, version: str) -> Outcome:
    changed = len(folder.name) == len(version) and folder.name != version
    return _differs([f"{folder / HEAD} was changed"] if changed else check_files(folder))


def _events(project: Project) -> Outcome:
    project.events.check()
    return INTACT


def _parts(folder: Path) -> Outcome:
    """Hold every part of a scorer to the outputs that the stage records behind it list."""
    head, outputs = json.loads((folder / HEAD).read_bytes()), {}
    for stage in ("train", "calibrate"):
        for name, digest in json.loads((folder / "lineage" / f"{stage}.json").read_bytes())["outputs"].items():
            outputs[f"{stage}/{name}"] = digest
    level, detector = head["candidate"]["level"], head["candidate"]["detector"]
    adapter = f"{detector}+{head['candidate']['adapter']}"
    sources = {
        "scaler": f"train/{level}/scaler",
        "null_model": f"train/{level}/null_model",
        "detector": f"train/{level}/{detector}",
        "strata": f"calibrate/adapters/{level}/strata",
        "adapter": f"calibrate/adapters/{level}/{adapter}",
        "calibrator": f"calibrate/reference/{level}/{adapter}",
    }
    words = []
    for part, source in sources.items():
        if hash_file(folder / f"{part}.safetensors") != outputs.get(f"{source}.safetensors"):
            words.append(f"{folder / part}.safetensors is not the recorded {source}.safetensors")
        if hash_json(head["parts"][part]) != outputs.get(f"{source}.json"):
            words.append(f"{part} in {folder / HEAD} is not the recorded {source}.json")
    return _differs(words)


def _root(lineage: dict[str, Any]) -> Outcome:
    behind = {stage: digest for stage, digest in lineage["records"].items() if stage != "select"}
    same = lineage_root(behind) == lineage["root"]
    return INTACT if same else ("differs", "is not the hash of the records that scorer.json names")


def _data(project: Project, name: str, learned: str) -> Outcome:
    data = project.root / "data" / name
    version = dvc_directory_md5(data) if data.is_dir() else "missing"
    if version == learned:
        return "ok", version
    known = project.events.last("ingested", dataset=name, data_version=version) is not None
    return "superseded" if known else "differs", f"now {version}, the scorer learned from {learned}"


def _stage(project: Project, folder: Path, name: str, stage: str, digest: str, moved: set[str]) -> Outcome:
    carried, here = folder / "lineage" / f"{stage}.json", project.root / "work" / name / stage
    if not carried.is_file() or hash_file(carried) != digest:
        return "differs", f"{carried} is not the record that the scorer names"
    if not (here / RECORD).is_file():
        return "differs", f"{here / RECORD} is missing; `dvc checkout` brings it back if the run was the last one"
    content = (here / RECORD).read_bytes()
    if hash_bytes(content) != digest:
        for record_hash, whose in ((hash_bytes(content), here / RECORD), (digest, carried)):
            if project.events.last("stage", stage=stage, record=record_hash) is None:
                return "differs", f"{whose} is not a record that was logged here"
        return "superseded", f"{here} now holds a later run's outputs; the record itself is intact"
    record = json.loads(content)
    words = differences(here, record)
    now = hash_paths(project.root, [path for path in record["inputs"] if (project.root / path).is_file()])
    gone = [path for path, then in record["inputs"].items() if now.get(path) != then]
    words += [f"{p} was changed" if p in now else f"{p} is missing" for p in gone if not p.startswith(tuple(moved))]
    if gone and not words:
        return "superseded", f"{here} is intact; of what it was made from, {gone[0]} has moved on"
    return _differs(words)


def _package(project: Project, name: str, version: str) -> Outcome:
    here = project.root / "work" / "scorers" / name
    if not (here / version).is_dir():
        return "superseded", f"{here} now holds a later scorer; this one lies in BentoML's store"
    known = project.events.last("stage", stage="package", record=hash_file(here / RECORD)) is not None
    if not known and locked_version(project.root, f"work/scorers/{name}") != dvc_directory_md5(here):
        return "differs", f"{here / RECORD} is not a record that was logged here"
    return _differs(differences(here, json.loads((here / RECORD).read_bytes())))


def _bento(project: Project, tag: str) -> Outcome:
    """Hold the scorer's Bento, where there is one, to what was logged when it was built."""
    from assay.serving.packaging import published_hash

    logged = project.events.last("published", scorer=tag)
    if logged is None:
        return "ok", "none was published here"
    now = published_hash(project.root, tag)
    if now is None:
        return "superseded", f"{logged['bento']} is gone from BentoML's store; `assay serve` builds it again"
    return INTACT if now == logged["bento_hash"] else ("differs", f"{logged['bento']} is not the one that was built")
