"""Verifying a scorer: its folder, and every stage record behind it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.errors import TamperedError
from assay.lineage.freshness import differences
from assay.lineage.records import RECORD, dvc_directory_md5, hash_bytes, hash_file, hash_json, hash_paths, lineage_root
from assay.project import STAGES, Project
from assay.serving.scorer import HEAD, check_files, find_scorer


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

    A stage whose folder in ``work/`` was taken over by a later run that the event log knows is
    "superseded": its record is checked, its outputs are no longer there to be hashed. Anything else that
    is not as recorded "differs".

    Raises
    ------
    ScorerError
        There is no such scorer.
    """
    folder = find_scorer(tag, project.root)
    head_hash = hash_file(folder / HEAD)
    found = [_scorer_files(folder, head_hash)]
    try:
        project.events.check()
        found.append(Finding("event log", "ok"))
    except TamperedError as error:
        found.append(Finding("event log", "differs", str(error)))
    try:
        head = json.loads((folder / HEAD).read_bytes())
        lineage, name = head["lineage"], head["name"]
        found += [_parts(folder, head), *_lineage(project, folder, lineage, name)]
    except (ValueError, KeyError, TypeError) as error:
        found.append(Finding(str(folder / HEAD), "differs", f"cannot be read: {error!r}"))
        name = folder.parent.name
    tag = f"{name}:{head_hash[:12]}"
    return Findings(tag, (*found, _bento(project, tag)))


def _scorer_files(folder: Path, head_hash: str) -> Finding:
    words = [] if folder.name in (head_hash[:12], "") or len(folder.name) != 12 else [f"{folder / HEAD} was changed"]
    words = words or check_files(folder)
    return Finding("scorer folder", "differs" if words else "ok", "; ".join(words))


def _parts(folder: Path, head: dict[str, Any]) -> Finding:
    """Hold every part of a scorer to the outputs that the stage records behind it list."""
    outputs = {}
    for stage in ("train", "calibrate"):
        for name, digest in json.loads((folder / "lineage" / f"{stage}.json").read_bytes())["outputs"].items():
            outputs[f"{stage}/{name}"] = digest
    candidate, words = head["candidate"], []
    level, detector = candidate["level"], candidate["detector"]
    adapter = f"{detector}+{candidate['adapter']}"
    sources = {
        "scaler": f"train/{level}/scaler",
        "null_model": f"train/{level}/null_model",
        "detector": f"train/{level}/{detector}",
        "strata": f"calibrate/adapters/{level}/strata",
        "adapter": f"calibrate/adapters/{level}/{adapter}",
        "calibrator": f"calibrate/reference/{level}/{adapter}",
    }
    for part, source in sources.items():
        if hash_file(folder / f"{part}.safetensors") != outputs.get(f"{source}.safetensors"):
            words.append(f"{folder / part}.safetensors is not the recorded {source}.safetensors")
        if hash_json(head["parts"][part]) != outputs.get(f"{source}.json"):
            words.append(f"{part} in {folder / HEAD} is not the recorded {source}.json")
    return Finding("parts against the records", "differs" if words else "ok", "; ".join(words))


def _bento(project: Project, tag: str) -> Finding:
    """Hold the scorer's Bento, where there is one, to what was logged when it was built."""
    from assay.serving.packaging import published_hash

    logged = project.events.last("published", scorer=tag)
    if logged is None:
        return Finding("Bento", "ok", "none was published here")
    now = published_hash(project.root, tag)
    if now is None:
        return Finding("Bento", "superseded", f"{logged['bento']} is gone from BentoML's store, or incomplete")
    same = now == logged["bento_hash"]
    return Finding(
        "Bento", "ok" if same else "differs", "" if same else f"{logged['bento']} is not the one that was built"
    )


def _lineage(project: Project, folder: Path, lineage: dict[str, Any], name: str) -> list[Finding]:
    behind = {stage: digest for stage, digest in lineage["records"].items() if stage != "select"}
    same = lineage_root(behind) == lineage["root"]
    found = [
        Finding(
            "lineage root",
            "ok" if same else "differs",
            "" if same else "is not the hash of the records it names",
        )
    ]
    data = project.root / "data" / name
    version = dvc_directory_md5(data) if data.is_dir() else "missing"
    if version == lineage["data_version"]:
        found.append(Finding(f"data/{name}", "ok", version))
    else:
        event = project.events.last("ingested", dataset=name)
        state = "superseded" if event is not None and event["data_version"] == version else "differs"
        found.append(
            Finding(f"data/{name}", state, f"now {version}, the scorer learned from {lineage['data_version']}")
        )
    order = [stage for stage in STAGES if stage in lineage["records"]]
    return found + [_stage(project, folder, name, stage, lineage["records"][stage]) for stage in order]


def _stage(project: Project, folder: Path, name: str, stage: str, digest: str) -> Finding:
    what = f"stage {stage}"
    carried = folder / "lineage" / f"{stage}.json"
    if not carried.is_file() or hash_file(carried) != digest:
        return Finding(what, "differs", f"{carried} is not the record that the scorer names")
    here = project.root / "work" / name / stage
    if not (here / RECORD).is_file():
        return Finding(
            what,
            "differs",
            f"{here / RECORD} is missing; `dvc checkout` brings it back if the run was the last one",
        )
    content = (here / RECORD).read_bytes()
    if hash_bytes(content) != digest:
        for record_hash, whose in ((hash_bytes(content), str(here / RECORD)), (digest, str(carried))):
            if project.events.last("stage", stage=stage, record=record_hash) is None:
                return Finding(what, "differs", f"{whose} is not a record that was logged here")
        return Finding(what, "superseded", f"{here} now holds a later run's outputs; the record itself is intact")
    record = json.loads(content)
    words = differences(here, record)
    now = hash_paths(project.root, [p for p in record["inputs"] if (project.root / p).is_file()])
    words += [
        f"{p} was changed" if p in now else f"{p} is missing" for p, h in record["inputs"].items() if now.get(p) != h
    ]
    return Finding(what, "differs" if words else "ok", "; ".join(words))
