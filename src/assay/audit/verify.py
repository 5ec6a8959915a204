"""Verifying a scorer: its folder, the records behind it, the files they name, and its deployment."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import assay
from assay.audit.chain import (
    DOWNSTREAM,
    UNKNOWN_STAGE,
    Chain,
    before_entries,
    event_of,
    packaged_files,
    read_chain,
    work_folder,
)
from assay.audit.commits import commit_with, without_git
from assay.audit.delivery import (
    bento_folder,
    check_bento,
    check_comparisons,
    check_deployment,
    check_kept,
    check_log,
    check_model,
)
from assay.audit.findings import INTACT, NOT_HERE, CheckResult, Finding, Findings, differ, run_check
from assay.errors import AssayError, TamperedError
from assay.hashing import RECORD, dvc_directory_md5, hash_bytes, hash_file, hash_json, hash_paths
from assay.ledger.rows import FIRST, TARGETS, rows_folder
from assay.parts import parse_json
from assay.project.freshness import differences, read_record
from assay.project.installed import described, hash_code, named, recorded_digest, recorded_files
from assay.project.layout import Project
from assay.project.modules import VERSIONS
from assay.project.scorers import changes_of, find_scorer
from assay.project.stages import STAGES
from assay.project.versioning import DATA, committed_version, locked_version, tracked_version
from assay.scorer.folder import ANSWERS, HEAD, RATIO, read_head
from assay.scorer.statement import read_statement, root_of, statement_ids


def verify_scorer(project: Project, tag: str) -> Findings:
    """Re-hash a scorer and a statement of it, the files that its records name, and its copies in BentoML's store.

    Neither is enough without the other: the scorer gives answers, the statement says of what and by what it was made.

    Files that a later logged run or ingest replaced are "superseded": the record is checked, and so are the bytes
    where DVC's cache still holds them. A suite or a file of code that was edited since is also superseded, if Git
    (or, for code, the Bento) holds the recorded one. Outputs and data that a clone has not pulled are "not here".
    Anything else that is not as recorded "differs".

    The event log's entries are chained, and every deployed Bento's label names the head of the chain when it was
    built: a change or a cut before the newest such label shows. A cut after it, a change of the last entry, and a
    chain forged as a whole do not show.

    Raises
    ------
    ScorerError
        There is no such scorer.
    """
    folder = find_scorer(tag, project.root).resolve()
    findings = [run_check("scorer folder", lambda: _scorer_files(folder))]
    try:
        chain = read_chain(project, tag)
    except (AssayError, ValueError, KeyError, TypeError, AttributeError) as error:
        findings.append(run_check("event log", lambda: check_log(project)))
        return Findings(tag, (*findings, Finding("statement", "differs", f"cannot be read: {error}")))
    findings += [
        run_check("statement", lambda: _statements(chain)),
        run_check("event log", lambda: check_log(project, chain.statement.tag)),
        run_check("parts against the records", lambda: _parts(chain)),
        run_check("lineage root", lambda: _root(chain)),
    ]
    order = [stage for stage in STAGES if stage in chain.statement.record_hashes]
    findings.append(run_check(f"data/{chain.name}", lambda: _data(chain)))
    elsewhere = findings[-1].state in ("superseded", NOT_HERE)
    moved = set(chain.settings) | ({f"data/{chain.name}/"} if elsewhere else set())
    moved |= _moved_cells(chain)
    findings.append(run_check(DATA, lambda: _tracked(chain)))
    findings += [run_check(path, partial(_setting, chain, path)) for path in chain.settings]
    findings.append(run_check("code", lambda: _code(chain)))
    for stage in (*order, *(stage for stage in DOWNSTREAM if stage != "package")):
        check = partial(_downstream_stage if stage in DOWNSTREAM else _stage, chain, stage, moved)
        findings.append(run_check(f"stage {stage}", check))
        if findings[-1].state == "superseded" or not chain.work(stage).is_dir():
            moved.add(f"{chain.work(stage).relative_to(project.root)}/")
    findings += [Finding(f"stage {stage}", "differs", UNKNOWN_STAGE) for stage in chain.unknown]
    findings.append(run_check("stage package", lambda: _package(chain)))
    findings.append(run_check("rows of the run", lambda: _rows(chain)))
    findings.append(run_check("kept copy", lambda: check_kept(chain)))
    findings.append(run_check("BentoML model", lambda: check_model(chain)))
    findings.append(run_check("Bento", lambda: check_bento(chain)))
    findings.append(run_check("deployment", lambda: check_deployment(chain)))
    findings.append(run_check("comparisons", lambda: check_comparisons(chain)))
    return Findings(chain.tag, tuple(findings), chain.statement.id)


def _scorer_files(folder: Path) -> CheckResult:
    changes, packaged = changes_of(folder), read_head(folder).get("answers", ANSWERS)
    if changes or packaged == ANSWERS:
        return differ(changes)
    return (
        "ok",
        f"its answers are those of number {packaged}; this Assay answers by {ANSWERS}, which may differ in bits",
    )


def _statements(chain: Chain) -> CheckResult:
    """Check the seal of every statement in the folder; that of the chain has been checked by reading it."""
    if chain.statement.is_embedded:
        return "ok", f"a part of {HEAD}, which has schema {chain.head['schema']}"
    messages, others = [], [each for each in statement_ids(chain.folder) if each != chain.statement.id]
    for statement in others:
        try:
            read_statement(chain.folder, statement)
        except AssayError as error:
            messages.append(str(error))
    beside = f"; beside it {', '.join(others)}" if others else ""
    return differ(messages) if messages else ("ok", f"{chain.statement.id}{beside}")


def _parts(chain: Chain) -> CheckResult:
    """Compare every part of a scorer, and how it compares rows, with the recorded outputs of its stages."""
    folder, head, statement, outputs = chain.folder, chain.head, chain.statement, {}
    for stage in ("train", "calibrate"):
        for name, digest in parse_json(statement.records[stage])["outputs"].items():
            outputs[f"{stage}/{name}"] = digest
    detector, adapter, level = chain.candidate
    adapter = f"{detector}+{adapter}"
    sources = {
        "scaler": f"train/{level}/scaler",
        "null_model": f"train/{level}/null_model",
        "detector": f"train/{level}/{detector}",
        "strata": f"calibrate/adapters/{level}/strata",
        "adapter": f"calibrate/adapters/{level}/{adapter}",
        "calibrator": f"calibrate/reference/{level}/{adapter}",
    }
    ratio, former = (f"calibrate/{folder}/{level}/{RATIO}" for folder in ("adapters", "reference"))
    ratio = former if f"{former}.json" in outputs else ratio
    if RATIO in head["parts"] or f"{ratio}.json" in outputs:
        sources[RATIO] = ratio
    messages = []
    calibration = statement.calibration
    if calibration and hash_json(calibration) != outputs.get("calibrate/calibration.json"):
        messages.append(f"calibration in {statement.path} is not the recorded calibrate/calibration.json")
    if not statement.is_embedded:
        messages += [
            f"{name} in {folder / HEAD} is not that of the recorded calibrate/calibration.json"
            for name in ("within", "ties", "promise")
            if head.get(name) != calibration.get(name)
        ]
    for part, source in sources.items():
        if hash_file(folder / f"{part}.safetensors") != outputs.get(f"{source}.safetensors"):
            messages.append(f"{folder / part}.safetensors is not the recorded {source}.safetensors")
        if hash_json(head["parts"][part]) != outputs.get(f"{source}.json"):
            messages.append(f"{part} in {folder / HEAD} is not the recorded {source}.json")
    return differ(messages)


def _root(chain: Chain) -> CheckResult:
    is_same = root_of(chain.statement.record_hashes) == chain.statement.root
    return INTACT if is_same else ("differs", f"is not the hash of the records that {chain.statement.path} names")


def _data(chain: Chain) -> CheckResult:
    data = chain.project.root / "data" / chain.name
    if not data.is_dir():
        return NOT_HERE, f"{data}; `assay restore` brings it back"
    version = dvc_directory_md5(data)
    if version == chain.data_version:
        return "ok", version
    message = f"now {version}, the scorer learned from {chain.data_version}"
    changed = _changed(chain, chain.data)
    if event_of(chain, "ingested", dataset=chain.name, data_version=version) is None:
        return "differs", f"{message}: {', '.join(changed) or 'a file was added'}"
    missing = [path for path in chain.data if chain.find_data(path) is None]
    kept = (
        f"{', '.join(missing)} is lost from DVC's cache" if missing else "DVC's cache holds the recorded bytes, intact"
    )
    return "superseded", f"{message}; {kept}"


def _tracked(chain: Chain) -> CheckResult:
    """Compare data.dvc with the log or Git, and with the data version if DVC's cache holds the folder it names."""
    tracked = tracked_version(chain.project.root)
    if tracked is None:
        return "differs", "is missing"
    logged = {event.get("tracked") for event in chain.events if event.get("event") in ("ingested", "restored")}
    if tracked not in logged and tracked != committed_version(chain.project.root):
        message = f"{DATA} names {tracked}, which was neither ingested here nor committed to Git"
        return "differs", message + without_git()
    if tracked not in chain.archive.folders:
        return "ok", f"names {tracked}"
    version = chain.archive.version_in(tracked, chain.name)
    if version == chain.data_version:
        return "ok", f"names {tracked}, and in it the recorded data version"
    return "superseded", f"names {tracked}, and in it {version} for data/{chain.name}"


def _setting(chain: Chain, path: str) -> CheckResult:
    """Check a file that users may edit, such as a suite: an edit that Git or the log knows is no tampering.

    Neither are entries in a file of labels or target rows that was empty.
    """
    current = chain.project.root / path
    if not _changed(chain, {path: chain.settings[path]}):
        return INTACT
    change = f"{path} was edited since" if current.is_file() else f"{path} is missing"
    commit = commit_with(chain.project.root, path, chain.settings[path])
    if commit is not None:
        return "superseded", f"{change}; commit {commit[:12]} holds the recorded one"
    if before_entries(path, chain.settings[path]) is not None:
        return "superseded", f"{change}; the recorded one had no entries"
    if current.is_file() and any(hash_file(current) in event.values() for event in chain.events):
        return "superseded", f"{change}, as was logged; no Git commit holds the recorded one"
    return "differs", f"{change}, and no Git commit holds the recorded one{without_git()}"


def _changed(chain: Chain, recorded: dict[str, str]) -> list[str]:
    """Return the files of the project, or of the installed Assay, that differ from the recorded ones."""
    root = chain.project.root
    hashes = hash_code(root, recorded)
    return [path for path, digest in sorted(recorded.items()) if hashes.get(path) != digest]


def _code(chain: Chain) -> CheckResult:
    """Check the code: a change is no tampering if the Bento or Git holds the recorded file.

    Neither is another installed version of Assay: the record says which one to install again.
    """
    changed = _changed(chain, chain.code)
    if chain.made_by:
        message = f"made by Assay {chain.made_by}, installed is {assay.__version__}"
        if not changed:
            return "ok", f"{message}: the same {described(chain.code)}"
        if chain.made_by != assay.__version__:
            return "superseded", f"{message}: other {named(changed)}"
    if not changed:
        return "ok", described(chain.code)
    missing = [path for path in changed if not _kept(chain, path)]
    if missing:
        message = f"{', '.join(missing)}: changed since, and neither the Bento nor Git holds the recorded one"
        return "differs", message + without_git()
    return "superseded", f"{', '.join(changed)}: changed since; the Bento or Git holds the recorded one"


def _kept(chain: Chain, path: str) -> bool:
    """Return whether a recorded file of code is kept; a recorded version can be installed again."""
    if path.startswith(VERSIONS):
        return True
    digest, bento = chain.code[path], bento_folder(chain.project, chain.statement.tag)
    held = recorded_files(path)
    kept = any(
        (bento / name).is_file() and recorded_digest(path, (bento / name).read_bytes()) == digest for name in held
    )
    return kept or any(commit_with(chain.project.root, name, digest, recorded=path) is not None for name in held)


def _stage(chain: Chain, stage: str, moved: set[str]) -> CheckResult:
    """Compare a stage that made the scorer with the record in the statement."""
    folder, digest = chain.work(stage), chain.named(stage)
    carried = chain.statement.records.get(stage)
    if carried is None or hash_bytes(carried) != digest:
        return "differs", f"{chain.folder / 'lineage' / stage}.json is not the record that the scorer names"
    if not (folder / RECORD).is_file():
        if _of_all_detectors(chain, stage) and event_of(chain, "stage", stage=stage, record=digest) is not None:
            return _superseded(chain, stage)
        return _absent(chain, stage)
    content = (folder / RECORD).read_bytes()
    if hash_bytes(content) == digest:
        return _files(chain, stage, moved)
    if not _known(chain, stage):
        return "differs", f"{folder / RECORD} is not a record that was logged here"
    if event_of(chain, "stage", stage=stage, record=digest) is None:
        return "differs", _made_elsewhere(chain, stage)
    return _superseded(chain, stage)


def _of_all_detectors(chain: Chain, stage: str) -> bool:
    """Return whether a record is of an earlier version of Assay, for which all detectors were one stage."""
    return STAGES[stage].cells and stage in chain.records and chain.records[stage].detector is None


def _moved_cells(chain: Chain) -> set[str]:
    """Return the folders of other detectors, among the inputs of select, whose outputs a later logged run replaced.

    Folders that are gone count as well: params.yaml no longer names their detectors.
    """
    moved = set()
    inputs = chain.records["select"].inputs if "select" in chain.records else {}
    for stage in (stage for stage, record in chain.records.items() if record.detector is not None):
        cells = chain.work(stage).parent.relative_to(chain.project.root)
        read = {path: digest for path, digest in inputs.items() if path.startswith(f"{cells}/")}
        for label in {path.removeprefix(f"{cells}/").partition("/")[0] for path in read} - {chain.candidate[0]}:
            start, folder = f"{cells}/{label}/", chain.project.root / cells / label
            try:
                record = read_record(folder)
            except TamperedError:
                continue
            if record is None:
                moved.add(start)
                continue
            made = hash_file(folder / RECORD)
            now = {f"{start}{name}": digest for name, digest in {**record.outputs, RECORD: made}.items()}
            replaced = any(now.get(path) != digest for path, digest in read.items() if path.startswith(start))
            if replaced and event_of(chain, "stage", stage=stage, record=made) is not None:
                moved.add(start)
    return moved


def _made_elsewhere(chain: Chain, stage: str) -> str:
    """Return the message for a stage whose outputs a later run replaced and whose record is not in the log."""
    return (
        f"the record of stage {stage} in {chain.statement.path} is not a record that was logged here, and "
        f"{chain.work(stage)} holds a later run's outputs: "
        f"a scorer that was made elsewhere can be verified only while work/ holds the outputs that came with it. "
        f"To bring them back, check out the commit that `assay audit show {chain.tag}` names, "
        f"{'`dvc checkout`' if chain.archive.remote is None else '`dvc pull`'}, and verify again; "
        f"if it was made here, the log was cut"
    )


def _downstream_stage(chain: Chain, stage: str, moved: set[str]) -> CheckResult:
    """Compare a downstream stage (the evaluation) with its record, and the record with the log or dvc.lock."""
    folder = chain.work(stage)
    if stage not in chain.records and not folder.is_dir():
        return "ok", "there is no record of it"
    if not (folder / RECORD).is_file():
        return _absent(chain, stage)
    if not _known(chain, stage):
        return "differs", f"{folder / RECORD} is not a record that was logged here"
    if (folder / RECORD).read_bytes() == chain.contents.get(stage):
        return _files(chain, stage, moved)
    return _superseded(chain, stage)


def _known(chain: Chain, stage: str) -> bool:
    """Return whether a stage's present record is in the log, or its folder in dvc.lock (pulled from elsewhere)."""
    folder = chain.work(stage)
    if event_of(chain, "stage", stage=stage, record=hash_file(folder / RECORD)) is not None:
        return True
    return locked_version(chain.project.root, str(folder.relative_to(chain.project.root))) == dvc_directory_md5(folder)


def _files(chain: Chain, stage: str, moved: set[str]) -> CheckResult:
    """Re-hash the outputs and the inputs of a stage."""
    folder, record, root = chain.work(stage), chain.records[stage], chain.project.root
    messages = differences(folder, record)
    hashes = hash_paths(root, [path for path in record.inputs if (root / path).is_file()])
    moved_on = [path for path, recorded in record.inputs.items() if hashes.get(path) != recorded]
    messages += [
        f"{p} was changed" if p in hashes else f"{p} is missing" for p in moved_on if not p.startswith(tuple(moved))
    ]
    if messages or not (moved_on := [path for path in moved_on if path not in chain.settings]):
        return differ(messages)
    changed = [path for path in moved_on if path in hashes]
    if not changed:
        return "ok", f"{folder} is intact; of its inputs, {moved_on[0]} is not here"
    return "superseded", f"{folder} is intact; of its inputs, {changed[0]} has changed since"


def _superseded(chain: Chain, stage: str) -> CheckResult:
    """Check a stage whose folder holds a later run's outputs: re-hash the recorded ones in DVC's cache."""
    folder = chain.work(stage)
    message = f"{folder} now holds a later run's outputs" if folder.is_dir() else f"{folder} is gone"
    changed, kept, _ = _in_cache(chain, stage)
    return differ(changed) if changed else ("superseded", f"{message}; {kept}")


def _absent(chain: Chain, stage: str) -> CheckResult:
    """Check a stage whose folder was not brought here: re-hash the recorded outputs in DVC's cache."""
    folder = chain.work(stage)
    if folder.is_dir() and any(folder.iterdir()):
        return "differs", f"{folder / RECORD} is missing, and {folder} holds other files"
    changed, kept, is_whole = _in_cache(chain, stage)
    if changed:
        return differ(changed)
    if is_whole:
        return "ok", f"{folder} is not checked out; {kept}"
    return NOT_HERE, f"{folder}; {kept}; `dvc pull` (or `dvc checkout`) brings it where dvc.lock names it"


def _in_cache(chain: Chain, stage: str) -> tuple[list[str], str, bool]:
    """Re-hash the recorded outputs of a stage in DVC's cache: what was changed, what it holds, whether it is all."""
    listing = chain.archived(stage)
    if listing is None:
        return [], "DVC's cache does not hold the recorded outputs, so only the record was checked", False
    changed, n_missing = [], 0
    for name, digest in chain.records[stage].outputs.items():
        path = chain.archive.object(listing[name]) if name in listing else None
        n_missing += path is None
        if path is not None and hash_file(path) != digest:
            changed.append(f"{path} ({stage}/{name}) was changed")
    kept = f"DVC's cache holds the recorded outputs, {f'but for {n_missing}' if n_missing else 'intact'}"
    return changed, kept, not n_missing


def _package(chain: Chain) -> CheckResult:
    folder = work_folder(chain.project, chain.name, "package")
    if not folder.is_dir():
        return "ok", f"{folder} is not checked out; this one is in {chain.folder}"
    if not (folder / packaged_files(chain)[-1]).is_file():
        return "superseded", f"{folder} now holds a later scorer or statement; this one is in {chain.folder}"
    if not _known(chain, "package"):
        return "differs", f"{folder / RECORD} is not a record that was logged here"
    record = read_record(folder)
    return differ([f"{folder / RECORD} is missing"] if record is None else differences(folder, record))


def _rows(chain: Chain) -> CheckResult:
    """Compare the rows that were kept for the ledger with their hash in the log."""
    key = {"dataset": chain.name, **{stage: chain.named(stage) for stage in FIRST}}
    target_key = {TARGETS: chain.settings.get(f"targets/{chain.name}.csv")}
    logged = event_of(chain, "rows", **key, **target_key) or event_of(chain, "rows", **key, **{TARGETS: None})
    if logged is None:
        return "ok", "none were kept here"
    path = rows_folder(chain.project.root) / f"{logged['rows']}.parquet"
    if not path.is_file():
        return "differs", f"{path} is missing"
    return INTACT if hash_file(path) == logged["rows"] else ("differs", f"{path} was changed")
