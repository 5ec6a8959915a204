"""Checks of the histories behind a scorer: against labels, against Git's commits, and against each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

from assay.audit.chain import Chain, event_of, own_event_of, parse_record
from assay.audit.commits import commit_with, locked_name, without_git
from assay.audit.findings import NOT_HERE, UNCHECKED, CheckResult, differ
from assay.errors import ScorerError
from assay.hashing import RECORD, Record, dvc_directory_md5, hash_bytes, hash_file
from assay.ledger.sharing import require_as_shared
from assay.parts import canonical_json, is_there, parse_json, parse_yaml
from assay.project.accounts import BEGAN, accounts_of, missing_words
from assay.project.anchors import bento_folder, label_heads, unknown_heads
from assay.project.deployment import deployment_path, read_deployment
from assay.project.layout import Project
from assay.project.versioning import LOCKED, commits_of, committed_files, head_commit

_SHOWN = 3


def check_log(project: Project, tag: str = "") -> CheckResult:
    """Check the hash chain of the log, and that it holds the head in the label of this and every deployed Bento."""
    log, labels = project.events, label_heads(project.root, tag)
    log.check()
    require_as_shared(project.root)
    heads = log.heads
    own, others = unknown_heads(project.root, labels)
    messages = [f"{log.path} has no entry for the chain head in {where}; the log was cut" for where in own]
    published = log.last("published", bento=f"assay-{tag}")
    own_label = labels.get(f"the label of {bento_folder(project.root, tag)}")
    if published and own_label and heads.get(own_label.head, 0) > heads.get(published["previous"], 0):
        messages.append(f"{log.path}: the Bento of {tag} was logged before the entry that its label speaks of")
    if messages:
        return differ(messages)
    if others:
        return NOT_HERE, f"the history of the machine that {others[0]} speaks of (`assay sync`)"
    if not heads:
        return "ok", "there are no entries: nothing was run or ingested here"
    newest = max((heads.get(its.head, 0) for its in labels.values()), default=0)
    held = f"held by a deployed label up to entry {newest}" if newest else "none held by a deployed label"
    return "ok", f"{len(heads)} entries, {held}"


def check_history(chain: Chain) -> CheckResult:
    """Check the other machines' chains, and say whose word is missing.

    That is the word on what a chain saw when it began, on the stages behind the scorer, and on promotions in commits.
    """
    others = [account for account in accounts_of(chain.project.root) if not account.is_own]
    for account in others:
        account.log.check()
    lacking = [*missing_words(accounts_of(chain.project.root)), *_unlogged(chain)]
    if lacking:
        more = f"; and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
        return NOT_HERE, f"{'; '.join(lacking[:_SHOWN])}{more}; `assay sync` brings what others shared"
    counted = ", ".join(f"{len(account.log.heads)} entries of {account.name}" for account in others)
    return "ok", f"beside this machine's, {counted}" if counted else "this machine's alone"


def _unlogged(chain: Chain) -> Iterator[str]:
    records = {event.get("record") for event in chain.events}
    if stages := [stage for stage, digest in chain.statement.record_hashes.items() if digest not in records]:
        yield f"no history here has the runs that made {', '.join(stages)}: made on a machine whose word is missing"
    promoted = [event for event in chain.events if event["event"] == "promoted" and event["name"] == chain.name]
    for commit, content in _committed_deployments(chain):
        version, since = content.get("version"), content.get("since")
        if not any(event["version"] == version and event.get("since", since) == since for event in promoted):
            yield f"no history here has the promotion of {content.get('tag')} at {since} (commit {commit[:12]})"


def _committed_deployments(chain: Chain) -> list[tuple[str, dict[str, Any]]]:
    """Return the dataset's deployment in every commit that changed it, newest first, with the commit."""
    short = f"deployments/{chain.name}.json"
    commits = commits_of(chain.project.root, short)
    contents = committed_files(chain.project.root, [(commit, short) for commit in commits])
    parsed = []
    for commit, content in zip(commits, contents, strict=True):
        try:
            deployment = parse_json(content or b"")
        except ValueError:
            continue
        if isinstance(deployment, dict):
            parsed.append((commit, deployment))
    return parsed


def check_locked(chain: Chain) -> CheckResult:
    """Compare the records with dvc.lock, in the project, in the present commit and in the one that deployed the scorer.

    Other outputs of the same inputs, parameters and code are no later run: the bytes were changed, or another machine
    computed them.
    """
    root, path = chain.project.root, chain.project.root / LOCKED
    locks = {LOCKED: path.read_bytes() if is_there(path) else None}
    its_own = {"version": chain.version, "statement": chain.statement.id}
    deployed = [c for c, each in _committed_deployments(chain) if its_own.items() <= each.items()][-1:]
    commits = list(dict.fromkeys(filter(None, (*deployed, head_commit(root)))))
    for commit, content in zip(commits, committed_files(root, [(each, LOCKED) for each in commits]), strict=True):
        does = ", which deployed it" if commit in deployed else ""
        locks[f"{LOCKED} of commit {commit[:12]}{does}"] = content
    differing, unknown, holding = [], [], []
    for where, content in locks.items():
        stages = {} if content is None else parse_yaml(content, where).get("stages", {})
        states = {stage: _locked_state(chain, stages, stage) for stage in chain.behind}
        if set(states.values()) == {"held"}:
            holding.append(where)
        for stage, state in states.items():
            message = f"{where} names other outputs of stage {stage} for the same inputs, parameters and code"
            differing += [f"{message}: they were changed"] if state == "changed" else []
            unknown += [f"{message}, which no history here knows"] if state == "elsewhere" else []
            unknown += [f"{where}: what it names for stage {stage} is not in DVC's cache"] if state == "lost" else []
    if differing:
        elsewhere = "or made on a machine whose history is not here (`assay sync` brings what it shared)"
        return "differs", f"{'; '.join(differing)}, {elsewhere}"
    if unknown:
        return UNCHECKED, "; ".join(unknown)
    return "ok", f"as in {', '.join(holding)}" if holding else "names outputs of other runs"


def _locked_state(chain: Chain, stages: dict[str, Any], stage: str) -> str:
    """Return how a dvc.lock has the outputs of a stage: held, other, lost, changed or elsewhere."""
    record = chain.records[stage]
    try:
        entry = stages[locked_name(stages, record)]
        named, params = str(entry["outs"][0]["md5"]), entry.get("params", {}).get("params.yaml", {})
    except (KeyError, IndexError, TypeError):
        return "other"
    folder = chain.work(stage)
    is_here = (folder / RECORD).is_file() and (folder / RECORD).read_bytes() == chain.contents[stage]
    if is_here and dvc_directory_md5(folder) == named:
        return "held"
    locked = _record_in(chain, named)
    if locked is None:
        return "lost" if is_here and params == record.params else "other"
    if locked[0].key != record.key:
        return "other"
    digest = hash_bytes(locked[1])
    if digest == chain.named(stage):
        return "held"
    if any(event.get("record") == digest for account in chain.accounts[1:] for event in account):
        return "other"  # another machine made it, and says so
    own = chain.accounts[0]
    is_whole = bool(own) and own[0]["event"] != BEGAN and len(chain.accounts) == 1
    return "changed" if is_whole or own_event_of(chain, "stage", record=digest) else "elsewhere"


def _record_in(chain: Chain, folder: str) -> tuple[Record, bytes] | None:
    """Return the record in a folder that DVC's cache holds, with its bytes; None where it does not."""
    md5 = chain.archive.folders.get(folder, {}).get(RECORD)
    path = None if md5 is None else chain.archive.object(md5)
    if path is None or (record := parse_record(content := path.read_bytes())) is None:
        return None
    return record, content


def check_deployment(chain: Chain) -> CheckResult:
    """Compare the deployment record of the dataset with the newest promotion of all histories, or with Git."""
    path, logged = deployment_path(chain.project.root, chain.name), event_of(chain, "promoted", name=chain.name)
    short = f"deployments/{path.name}"
    if not is_there(path):
        return ("differs", f"{short} is missing") if logged else ("ok", "never deployed")
    deployed = read_deployment(chain.project.root, chain.name)
    if deployed is None:
        raise ScorerError(f"{short} is missing")
    champion = f"the champion is {deployed.tag}"
    if deployed.version == chain.version:
        is_its_own = (deployed.statement or deployed.version) == chain.statement.id
        champion = "the champion" if is_its_own else f"the champion, deployed by its statement {deployed.statement}"
    commit = commit_with(chain.project.root, short, hash_file(path))
    if logged is None:
        if commit is not None:
            return "ok", f"{champion}, by commit {commit[:12]}"
        return "differs", f"{short} names a champion that neither the log nor a Git commit knows{without_git()}"
    expected = replace(
        deployed,
        version=logged["version"],
        tag=f"{chain.name}:{logged['version']}",
        name=chain.name,
        bento=logged["bento"],
        reason=logged["reason"],
        previous=logged["replaces"],
        statement=logged.get("statement"),
        since=logged.get("since", deployed.since),
    )
    since = logged.get("since", logged["time"])
    # In logs of before, whose events do not hold `since`, the two times were taken one after the other.
    delay = (datetime.fromisoformat(deployed.since) - datetime.fromisoformat(since)).total_seconds()
    if abs(delay) <= 2 and canonical_json(expected.to_json()).encode() == path.read_bytes():
        return "ok", champion
    if commit is None:
        return "differs", f"{short} is not what was logged when {logged['version']} was promoted"
    if delay > 0:
        return "ok", f"{champion}, by commit {commit[:12]}"
    return "differs", (
        f"{short} is that of commit {commit[:12]}: {deployed.tag} was promoted at {deployed.since}, and the newest "
        f"promotion on record is that of {chain.name}:{logged['version']} at {since}; to go back on record: "
        f"`assay promote {deployed.tag} --why WHY`"
    )
