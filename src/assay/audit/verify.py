"""Verifying a scorer: its folder, the records behind it, the files they name, and its deployment."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from assay.audit.anchoring import check_deployment, check_history, check_locked, check_log
from assay.audit.chain import (
    DOWNSTREAM,
    UNKNOWN_STAGE,
    Chain,
    read_chain,
)
from assay.audit.delivery import (
    check_bento,
    check_comparisons,
    check_kept,
    check_model,
)
from assay.audit.findings import (
    INTACT,
    LIMITS,
    NOT_HERE,
    SEALED_LIMIT,
    UNCHECKED,
    CheckResult,
    Finding,
    Findings,
    differ,
    run_check,
)
from assay.audit.outputs import check_downstream, check_kept_rows, check_package, check_stage, moved_cells
from assay.audit.sealing import JudgedSeals, judge_seals
from assay.audit.sources import check_code, check_data, check_setting, check_tracked
from assay.errors import AssayError, ConfigError
from assay.hashing import hash_file, hash_json
from assay.parts import parse_json
from assay.project.layout import Project
from assay.project.scorers import changes_of, find_scorer
from assay.project.stages import STAGES
from assay.project.versioning import DATA
from assay.scorer.folder import ANSWERS, HEAD, RATIO, read_head
from assay.scorer.statement import read_statement, root_of, statement_ids


def verify_scorer(project: Project, tag: str, *, signers: Path | None = None) -> Findings:
    """Re-hash a scorer and a statement of it, the files that its records name, and its copies in BentoML's store.

    Neither is enough without the other: the scorer gives answers, the statement says of what and by what it was made.

    Files that a later logged run or ingest replaced are "superseded": the record is checked, and so are the bytes
    where DVC's cache still holds them. A suite or a file of code that was edited since is also superseded, if Git
    (or, for code, the Bento) holds the recorded one. Outputs and data that a clone has not pulled are "not here".
    What can be compared with nothing, since the recorded bytes are kept nowhere, is "unchecked". Anything else that is
    not as recorded "differs".

    The event log's entries are chained, and every deployed Bento's label names the head of the chain when it was
    built: a change or a cut before the newest such label shows. A cut after it, a change of the last entry, and a
    chain forged as a whole show by what the forger could not reach: a Git commit of before, a seal, a shared history.

    Parameters
    ----------
    signers : Path, optional
        The keys whose seals count, in place of those in the project.

    Raises
    ------
    ScorerError
        There is no such scorer.
    ConfigError
        There is no file `signers`.
    """
    if signers is not None and not signers.is_file():
        raise ConfigError(f"there is no file {signers}; give the keys that may sign, in OpenSSH's form")
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
    findings.append(run_check(f"data/{chain.name}", lambda: check_data(chain)))
    elsewhere = findings[-1].state in ("superseded", NOT_HERE, UNCHECKED)
    moved = set(chain.settings) | ({f"data/{chain.name}/"} if elsewhere else set())
    moved |= moved_cells(chain)
    findings.append(run_check(DATA, lambda: check_tracked(chain)))
    findings += [run_check(path, partial(check_setting, chain, path)) for path in chain.settings]
    findings.append(run_check("code", lambda: check_code(chain)))
    for stage in (*order, *(stage for stage in DOWNSTREAM if stage != "package")):
        check = partial(check_downstream if stage in DOWNSTREAM else check_stage, chain, stage, moved)
        findings.append(run_check(f"stage {stage}", check))
        if findings[-1].state in ("superseded", UNCHECKED) or not chain.work(stage).is_dir():
            moved.add(f"{chain.work(stage).relative_to(project.root)}/")
    findings += [Finding(f"stage {stage}", "differs", UNKNOWN_STAGE) for stage in chain.unknown]
    findings.append(run_check("stage package", lambda: check_package(chain)))
    findings.append(run_check("rows of the run", lambda: check_kept_rows(chain)))
    findings.append(run_check("kept copy", lambda: check_kept(chain)))
    findings.append(run_check("BentoML model", lambda: check_model(chain)))
    findings.append(run_check("Bento", lambda: check_bento(chain)))
    findings.append(run_check("dvc.lock", lambda: check_locked(chain)))
    findings.append(run_check("history", lambda: check_history(chain)))
    findings.append(run_check("deployment", lambda: check_deployment(chain)))
    findings.append(run_check("comparisons", lambda: check_comparisons(chain)))
    judged = JudgedSeals()
    findings.append(run_check("seals", lambda: judge_seals(chain, judged, signers)))
    limits: tuple[str, ...] = LIMITS
    if judged.covers:
        limits = (SEALED_LIMIT.format(covers=judged.covers, signers=signers or "seals/allowed_signers"),)
    return Findings(chain.tag, tuple(findings), chain.statement.id, limits)


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
