"""Verifying a scorer: its folder, the records behind it, what they name, and what was made of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import assay
from assay.audit.chain import DOWNSTREAM, UNKNOWN, Chain, before_entries, event_of, read_chain, work_folder
from assay.audit.commits import commit_with, without_git
from assay.audit.delivery import bento_folder, check_bento, check_deployment, check_log, check_model
from assay.audit.findings import INTACT, CheckResult, Finding, Findings, differ, look
from assay.errors import AssayError
from assay.hashing import RECORD, dvc_directory_md5, hash_bytes, hash_file, hash_json, hash_paths, lineage_root
from assay.ledger.rows import FIRST, TARGETS, rows_folder
from assay.parts import parse_json
from assay.project.freshness import differences, read_record
from assay.project.installed import SOURCE, VERSIONS, described, hash_code, is_installed, named
from assay.project.layout import Project
from assay.project.scorers import find_scorer
from assay.project.stages import STAGES
from assay.project.versioning import DATA, committed_version, locked_version, tracked_version
from assay.scorer.scorer import HEAD, RATIO, check_files


def verify_scorer(project: Project, tag: str) -> Findings:
    """Re-hash a scorer's folder, the records that it carries, the files they name, and what was made of it.

    What a later run or ingest took over, and the event log knows, is "superseded": the record is checked, and so
    are the bytes where DVC's cache still holds them. So is a suite or a file of code that was edited since, while
    Git (or, for code, the Bento) holds the recorded one. Anything else that is not as recorded "differs".

    The event log's entries are chained, and every deployed Bento's label names the head of the chain when it was
    built: a change or a cut before the newest such label shows. A cut after it, a change of the last entry, and a
    chain forged as a whole do not.

    Raises
    ------
    ScorerError
        There is no such scorer.
    """
    folder = find_scorer(tag, project.root).resolve()
    version = hash_file(folder / HEAD)[:12]
    found = [
        look("scorer folder", lambda: _scorer_files(folder, version)),
        look("event log", lambda: check_log(project, tag)),
        look("parts against the records", lambda: _parts(folder)),
    ]
    try:
        chain = read_chain(project, str(folder))
        found.append(look("lineage root", lambda: _root(chain)))
        order = [stage for stage in STAGES if stage in chain.head["lineage"]["records"]]
    except (AssayError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Findings(tag, (*found, Finding(str(folder / HEAD), "differs", f"cannot be read: {error}")))
    found.append(look(f"data/{chain.name}", lambda: _data(chain)))
    moved = set(chain.settings) | ({f"data/{chain.name}/"} if found[-1].state == "superseded" else set())
    found.append(look(DATA, lambda: _tracked(chain)))
    found += [look(path, partial(_setting, chain, path)) for path in chain.settings]
    found.append(look("code", lambda: _code(chain)))
    for stage in (*order, *(stage for stage in DOWNSTREAM if stage != "package")):
        check = partial(_beside if stage in DOWNSTREAM else _stage, chain, stage, moved)
        found.append(look(f"stage {stage}", check))
        if found[-1].state == "superseded":
            moved.add(f"work/{chain.name}/{stage}/")
    found += [Finding(f"stage {stage}", "differs", UNKNOWN) for stage in chain.unknown]
    found.append(look("stage package", lambda: _package(chain)))
    found.append(look("rows of the run", lambda: _rows(chain)))
    found.append(look("BentoML model", lambda: check_model(chain)))
    found.append(look("Bento", lambda: check_bento(chain)))
    found.append(look("deployment", lambda: check_deployment(chain)))
    return Findings(chain.tag, tuple(found))


def _scorer_files(folder: Path, version: str) -> CheckResult:
    changed = len(folder.name) == len(version) and folder.name != version
    return differ([f"{folder / HEAD} was changed"] if changed else check_files(folder))


def _parts(folder: Path) -> CheckResult:
    """Hold every part of a scorer, and what it says of its calibration, to the outputs on record of its stages."""
    head, outputs = parse_json((folder / HEAD).read_bytes()), {}
    for stage in ("train", "calibrate"):
        for name, digest in parse_json((folder / "lineage" / f"{stage}.json").read_bytes())["outputs"].items():
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
    ratio = f"calibrate/reference/{level}/{RATIO}"
    if RATIO in head["parts"] or f"{ratio}.json" in outputs:
        sources[RATIO] = ratio
    words = []
    if "calibration" in head and hash_json(head["calibration"]) != outputs.get("calibrate/calibration.json"):
        words.append(f"calibration in {folder / HEAD} is not the recorded calibrate/calibration.json")
    for part, source in sources.items():
        if hash_file(folder / f"{part}.safetensors") != outputs.get(f"{source}.safetensors"):
            words.append(f"{folder / part}.safetensors is not the recorded {source}.safetensors")
        if hash_json(head["parts"][part]) != outputs.get(f"{source}.json"):
            words.append(f"{part} in {folder / HEAD} is not the recorded {source}.json")
    return differ(words)


def _root(chain: Chain) -> CheckResult:
    lineage = chain.head["lineage"]
    behind = {stage: digest for stage, digest in lineage["records"].items() if stage != "select"}
    same = lineage_root(behind) == lineage["root"]
    return INTACT if same else ("differs", "is not the hash of the records that scorer.json names")


def _data(chain: Chain) -> CheckResult:
    data = chain.project.root / "data" / chain.name
    version = dvc_directory_md5(data) if data.is_dir() else "missing"
    if version == chain.data_version:
        return "ok", version
    told = f"now {version}, the scorer learned from {chain.data_version}"
    changed = _changed(chain, chain.data)
    if event_of(chain, "ingested", dataset=chain.name, data_version=version) is None:
        return "differs", f"{told}: {', '.join(changed) or 'a file was added'}"
    lost = [path for path in chain.data if chain.find_data(path) is None]
    kept = f"{', '.join(lost)} is lost from DVC's cache" if lost else "DVC's cache holds the recorded bytes, intact"
    return "superseded", f"{told}; {kept}"


def _tracked(chain: Chain) -> CheckResult:
    """Hold data.dvc to the log or Git, and to the data version if DVC's cache has what it names."""
    tracked = tracked_version(chain.project.root)
    if tracked is None:
        return "differs", "is missing"
    logged = {event.get("tracked") for event in chain.events if event.get("event") in ("ingested", "restored")}
    if tracked not in logged and tracked != committed_version(chain.project.root):
        told = f"{DATA} names {tracked}, which was neither ingested here nor committed to Git"
        return "differs", told + without_git()
    if tracked not in chain.archive.folders:
        return "ok", f"names {tracked}"
    version = chain.archive.version_in(tracked, chain.name)
    if version == chain.data_version:
        return "ok", f"names {tracked}, and in it the recorded data version"
    return "superseded", f"names {tracked}, and in it {version} for data/{chain.name}"


def _setting(chain: Chain, path: str) -> CheckResult:
    """A suite and the like are the user's to edit; while Git or the log knows the edit, it is no tampering.

    Nor is it that labels or target rows were filled in, where there were none.
    """
    here = chain.project.root / path
    if not _changed(chain, {path: chain.settings[path]}):
        return INTACT
    what = f"{path} was edited since" if here.is_file() else f"{path} is missing"
    commit = commit_with(chain.project.root, path, chain.settings[path])
    if commit is not None:
        return "superseded", f"{what}; commit {commit[:12]} holds the recorded one"
    if before_entries(path, chain.settings[path]) is not None:
        return "superseded", f"{what}; the recorded one had no entries"
    if here.is_file() and any(hash_file(here) in event.values() for event in chain.events):
        return "superseded", f"{what}, as was logged; no Git commit holds the recorded one"
    return "differs", f"{what}, and no Git commit holds the recorded one{without_git()}"


def _changed(chain: Chain, recorded: dict[str, str]) -> list[str]:
    """Name the files of the project, or of the installed Assay, that are not the recorded ones now."""
    root = chain.project.root
    now = hash_code(root, recorded)
    return [path for path, digest in sorted(recorded.items()) if now.get(path) != digest]


def _code(chain: Chain) -> CheckResult:
    """Code goes on being written; while the Bento or Git holds the recorded file, a change is no tampering.

    Nor is it that another version of Assay is installed: the record says which one to install again.
    """
    changed = _changed(chain, chain.code)
    if chain.made_by:
        told = f"made by Assay {chain.made_by}, installed is {assay.__version__}"
        if not changed:
            return "ok", f"{told}: the same {described(chain.code)}"
        if chain.made_by != assay.__version__:
            return "superseded", f"{told}: other {named(changed)}"
    if not changed:
        return "ok", f"{len(chain.code)} files, constraints.txt among them"
    lost = [path for path in changed if not _kept(chain, path)]
    if lost:
        told = f"{', '.join(lost)}: changed since, and neither the Bento nor Git holds the recorded one"
        return "differs", told + without_git()
    return "superseded", f"{', '.join(changed)}: changed since; the Bento or Git holds the recorded one"


def _kept(chain: Chain, path: str) -> bool:
    """Tell whether a recorded file of code is kept; a version on record can be installed again."""
    if path.startswith(VERSIONS):
        return True
    held = f"{SOURCE}{path}" if is_installed(path) else path
    copy, digest = bento_folder(chain.project, chain.name, chain.version) / held, chain.code[path]
    return (copy.is_file() and hash_file(copy) == digest) or commit_with(chain.project.root, path, digest) is not None


def _stage(chain: Chain, stage: str, moved: set[str]) -> CheckResult:
    """Hold a stage that is behind the scorer to the record that the scorer names."""
    carried, here, digest = chain.folder / "lineage" / f"{stage}.json", chain.work(stage), chain.named(stage)
    if not carried.is_file() or hash_file(carried) != digest:
        return "differs", f"{carried} is not the record that the scorer names"
    if not (here / RECORD).is_file():
        return "differs", f"{here / RECORD} is missing; `dvc checkout` brings it back if the run was the last one"
    content = (here / RECORD).read_bytes()
    if hash_bytes(content) == digest:
        return _files(chain, stage, moved)
    if not _known(chain, stage):
        return "differs", f"{here / RECORD} is not a record that was logged here"
    if event_of(chain, "stage", stage=stage, record=digest) is None:
        return "differs", _made_elsewhere(chain, carried)
    return _superseded(chain, stage)


def _made_elsewhere(chain: Chain, carried: Path) -> str:
    """Say what is missing of a stage whose outputs a later run took over, while the log does not know the record."""
    return (
        f"{carried} is not a record that was logged here, and {chain.work(carried.stem)} holds a later run's outputs: "
        f"a scorer that was made elsewhere can be verified only while work/ holds the outputs that came with it. "
        f"To bring them back, check out the commit that `assay audit show {chain.tag}` names, "
        f"{'`dvc checkout`' if chain.archive.remote is None else '`dvc pull`'}, and verify again; "
        f"if it was made here, the log was cut"
    )


def _beside(chain: Chain, stage: str, moved: set[str]) -> CheckResult:
    """Hold a stage that no scorer depends on, as the evaluation, to its record, and that to the log or dvc.lock."""
    here = chain.work(stage)
    if not here.is_dir():
        return _superseded(chain, stage) if stage in chain.records else ("ok", "none is on record")
    if not (here / RECORD).is_file():
        return "differs", f"{here / RECORD} is missing"
    if not _known(chain, stage):
        return "differs", f"{here / RECORD} is not a record that was logged here"
    if (here / RECORD).read_bytes() == chain.contents.get(stage):
        return _files(chain, stage, moved)
    return _superseded(chain, stage)


def _known(chain: Chain, stage: str) -> bool:
    """Tell whether the log has a stage's present record, or dvc.lock its folder (pulled from elsewhere)."""
    here = chain.work(stage)
    if event_of(chain, "stage", stage=stage, record=hash_file(here / RECORD)) is not None:
        return True
    return locked_version(chain.project.root, str(here.relative_to(chain.project.root))) == dvc_directory_md5(here)


def _files(chain: Chain, stage: str, moved: set[str]) -> CheckResult:
    """Re-hash the outputs of a stage and what it was made from."""
    here, record, root = chain.work(stage), chain.records[stage], chain.project.root
    words = differences(here, record)
    now = hash_paths(root, [path for path in record.inputs if (root / path).is_file()])
    gone = [path for path, then in record.inputs.items() if now.get(path) != then]
    words += [f"{p} was changed" if p in now else f"{p} is missing" for p in gone if not p.startswith(tuple(moved))]
    if words or not (gone := [path for path in gone if path not in chain.settings]):
        return differ(words)
    return "superseded", f"{here} is intact; of what it was made from, {gone[0]} has moved on"


def _superseded(chain: Chain, stage: str) -> CheckResult:
    """A later run holds the folder; what DVC's cache kept of the recorded outputs is re-hashed."""
    here, listing = chain.work(stage), chain.archived(stage)
    told = f"{here} now holds a later run's outputs" if here.is_dir() else f"{here} is gone"
    if listing is None:
        return "superseded", f"{told}; DVC's cache has not got the recorded ones, so that only the record was checked"
    wrong, lost = [], 0
    for name, digest in chain.records[stage].outputs.items():
        path = chain.archive.object(listing[name]) if name in listing else None
        lost += path is None
        if path is not None and hash_file(path) != digest:
            wrong.append(f"{path} ({stage}/{name}) was changed")
    if wrong:
        return differ(wrong)
    return "superseded", f"{told}; DVC's cache holds the recorded ones, " + (f"but for {lost}" if lost else "intact")


def _package(chain: Chain) -> CheckResult:
    here = work_folder(chain.project, chain.name, "package")
    if not (here / chain.version).is_dir():
        return "superseded", f"{here} now holds a later scorer; this one lies in BentoML's store"
    if not _known(chain, "package"):
        return "differs", f"{here / RECORD} is not a record that was logged here"
    record = read_record(here)
    return differ([f"{here / RECORD} is missing"] if record is None else differences(here, record))


def _rows(chain: Chain) -> CheckResult:
    """Hold what was kept of the roles of the run's rows, for the ledger, to the name that the log has for it."""
    key = {"dataset": chain.name, **{stage: chain.named(stage) for stage in FIRST}}
    towards = {TARGETS: chain.settings.get(f"targets/{chain.name}.csv")}
    logged = event_of(chain, "rows", **key, **towards) or event_of(chain, "rows", **key, **{TARGETS: None})
    if logged is None:
        return "ok", "none were kept here"
    path = rows_folder(chain.project.root) / f"{logged['rows']}.parquet"
    if not path.is_file():
        return "differs", f"{path} is missing"
    return INTACT if hash_file(path) == logged["rows"] else ("differs", f"{path} was changed")
