"""Checks of what the stages behind a scorer wrote: in work/, or in DVC's cache once a later run has replaced it."""

from __future__ import annotations

from assay.audit.chain import (
    Chain,
    event_of,
    own_event_of,
    packaged_files,
    where_from,
    work_folder,
)
from assay.audit.findings import INTACT, NOT_HERE, UNCHECKED, CheckResult, differ
from assay.errors import TamperedError
from assay.hashing import RECORD, dvc_directory_md5, hash_bytes, hash_file, hash_paths
from assay.ledger.rows import FIRST, TARGETS, rows_folder
from assay.project.freshness import differences, read_record
from assay.project.stages import STAGES
from assay.project.versioning import locked_version


def check_stage(chain: Chain, stage: str, moved: set[str]) -> CheckResult:
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
        return UNCHECKED, _made_elsewhere(chain, stage)
    return _superseded(chain, stage)


def _of_all_detectors(chain: Chain, stage: str) -> bool:
    """Return whether a record is of an earlier version of Assay, for which all detectors were one stage."""
    return STAGES[stage].cells and stage in chain.records and chain.records[stage].detector is None


def moved_cells(chain: Chain) -> set[str]:
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


def check_downstream(chain: Chain, stage: str, moved: set[str]) -> CheckResult:
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
    changed, kept, is_whole = _in_cache(chain, stage)
    if changed or is_whole:
        return differ(changed) if changed else ("superseded", f"{message}; {kept}")
    return UNCHECKED, f"{message}; {kept}; {where_from(chain.archive)}"


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


def check_package(chain: Chain) -> CheckResult:
    folder = work_folder(chain.project, chain.name, "package")
    if not folder.is_dir():
        return "ok", f"{folder} is not checked out; this one is in {chain.folder}"
    if not (folder / packaged_files(chain)[-1]).is_file():
        return "superseded", f"{folder} now holds a later scorer or statement; this one is in {chain.folder}"
    if not _known(chain, "package"):
        return "differs", f"{folder / RECORD} is not a record that was logged here"
    record = read_record(folder)
    return differ([f"{folder / RECORD} is missing"] if record is None else differences(folder, record))


def check_kept_rows(chain: Chain) -> CheckResult:
    """Compare the rows that were kept for the ledger with their hash in the log."""
    key = {"dataset": chain.name, **{stage: chain.named(stage) for stage in FIRST}}
    target_key = {TARGETS: chain.settings.get(f"targets/{chain.name}.csv")}
    logged = event_of(chain, "rows", **key, **target_key) or event_of(chain, "rows", **key, **{TARGETS: None})
    if logged is None:
        return "ok", "none were kept here"
    path = rows_folder(chain.project.root) / f"{logged['rows']}.parquet"
    if not path.is_file():
        is_own = own_event_of(chain, "rows", rows=logged["rows"]) is not None
        return ("differs" if is_own else NOT_HERE), f"{path} is missing"
    return INTACT if hash_file(path) == logged["rows"] else ("differs", f"{path} was changed")
