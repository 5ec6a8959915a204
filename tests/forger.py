"""Somebody who may write to a project changes what a scorer is calibrated with, and rehashes all that speaks of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from assay.eventlog import START, EventLog
from assay.hashing import hash_bytes, hash_file, hash_tree
from assay.parts import canonical_json, read_arrays, read_json, write_arrays, write_bytes, write_json
from assay.project import versioning
from assay.project.layout import Project
from assay.scorer.statement import read_statement
from tests.sealing import reseal

NAME, DETECTOR = "breast_cancer", "isolation_forest"
CELL, PART = f"calibrate/{DETECTOR}", f"reference/level-0/{DETECTOR}+none.safetensors"


def forge(root: Path) -> str:
    """Halve the reference scores of the champion, so that it flags more, and return its new version."""
    work, project = root / "work" / NAME, Project(root)
    moved: dict[str, str] = {}
    reference = work / CELL / PART
    before, arrays = hash_file(reference), read_arrays(reference)
    reference.unlink()
    write_arrays(reference, {name: (array * np.float32(0.5)).astype(array.dtype) for name, array in arrays.items()})
    moved[before] = hash_file(reference)
    for folder in (CELL, "select", "evaluate"):
        _rewrite(work / folder / "record.json", moved)
    (folder,) = (path for path in (root / "work/package" / NAME).iterdir() if path.is_dir())
    head, old = hash_file(folder / "scorer.json"), read_statement(folder)
    (folder / "calibrator.safetensors").unlink()
    shutil.copyfile(reference, folder / "calibrator.safetensors")
    forged = reseal(
        folder, records=lambda records: records.update(json.loads(_replaced(json.dumps(records).encode(), moved)))
    )
    new = read_statement(forged)
    moved |= {head: hash_file(forged / "scorer.json"), old.hash: new.hash}
    moved |= {old.version: new.version, old.id: new.id}
    record = read_json(forged.parent / "record.json")
    _write(forged.parent / "record.json", {**record, "outputs": hash_tree(forged.parent)}, moved)
    kept = root / "scorers" / NAME
    shutil.rmtree(kept)
    shutil.copytree(forged, kept / forged.name)
    versioning.track(root, f"scorers/{NAME}/{forged.name}")
    _rewrite(root / f"deployments/{NAME}.json", moved)
    shutil.rmtree(root / ".bentoml/bentos", ignore_errors=True)
    shutil.rmtree(root / ".bentoml/models", ignore_errors=True)
    rechain(project.events, [json.loads(_replaced(json.dumps(event).encode(), moved)) for event in project.events])
    versioning.commit(root, [stage for stage in project.stages if not stage.startswith(("split", "contaminate"))])
    return forged.name


def rechain(log: EventLog, events: list[dict[str, object]]) -> None:
    """Write a log anew, with its mark."""
    previous, lines = START, []
    for event in events:
        lines.append(json.dumps({**event, "previous": previous}, sort_keys=True, ensure_ascii=False).encode())
        previous = hash_bytes(lines[-1])
    write_bytes(log.path, b"".join(line + b"\n" for line in lines))
    write_json(log.mark, {"entries": len(lines), "head": previous})


def _replaced(content: bytes, moved: dict[str, str]) -> bytes:
    for old, new in moved.items():
        content = content.replace(old.encode(), new.encode())
    return content


def _rewrite(path: Path, moved: dict[str, str]) -> None:
    _write(path, read_json(path), moved)


def _write(path: Path, value: object, moved: dict[str, str]) -> None:
    before = hash_file(path)
    path.unlink()
    write_bytes(path, _replaced(canonical_json(value).encode(), moved))
    moved[before] = hash_file(path)
