"""Checks of a scorer's delivery: its copy in BentoML's store, its Bento, its deployment, and the event log."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

from assay.audit.chain import Chain, event_of
from assay.audit.commits import commit_with, without_git
from assay.audit.findings import INTACT, NOT_HERE, CheckResult, differ
from assay.environment import bentoml_home
from assay.errors import ScorerError
from assay.eventlog import START
from assay.hashing import hash_bytes, hash_file, hash_tree
from assay.parts import canonical_json, is_there, read_json
from assay.project.comparisons import comparisons_path, parse_comparisons, read_logged, recorded_comparisons
from assay.project.deployed import is_tracked
from assay.project.deployment import deployment_path, read_deployment
from assay.project.layout import Project
from assay.project.scorers import MANIFEST, kept_folder, not_here, pointer_of
from assay.project.versioning import commits_of, committed_files
from assay.scorer.folder import HEAD, check_files


def check_log(project: Project, tag: str = "") -> CheckResult:
    """Check the hash chain of the log, and that it holds the head in the label of this and every deployed Bento."""
    log = project.events
    log.check()
    lines = log.path.read_bytes().splitlines() if log.path.is_file() else []
    heads = {START: 0, **{hash_bytes(line): number for number, line in enumerate(lines, start=1)}}
    newest, problems = 0, []
    for label in sorted(label for label in {*_deployed_labels(project), bento_folder(project, tag)} if label.is_dir()):
        head = bento_labels(label).get("chain_head")
        if head in heads:
            newest = max(newest, heads[head])
        else:
            problems.append(f"{log.path} has no entry for the chain head in the label of {label}; the log was cut")
    if problems:
        return differ(problems)
    if not lines:
        return "ok", "there are no entries: nothing was run or ingested here"
    held = f"held by a deployed label up to entry {newest}" if newest else "none held by a deployed label"
    return "ok", f"{len(lines)} entries, {held}"


def bento_folder(project: Project, tag: str) -> Path:
    """Return where BentoML's store keeps the Bento of the statement of that tag."""
    name, _, version = tag.partition(":")
    return bentoml_home(project.root) / "bentos" / f"assay-{name}" / version


def bento_labels(folder: Path) -> dict[str, str]:
    """Return the labels of a Bento."""
    import yaml

    try:
        labels = yaml.safe_load((folder / "bento.yaml").read_text(encoding="utf-8"))["labels"]
        return {str(key): str(value) for key, value in labels.items()}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ScorerError(f"{folder / 'bento.yaml'} cannot be read: {error!r}") from error


def _deployed_labels(project: Project) -> list[Path]:
    bentos = []
    for path in (project.root / "deployments").glob("*.json"):
        try:
            deployed = read_deployment(project.root, path.stem)
        except ScorerError:
            continue
        if deployed is not None and deployed.bento.startswith("assay-"):
            bentos.append(bento_folder(project, deployed.bento.removeprefix("assay-")))
    return bentos


def _listed(folder: Path) -> list[str]:
    """Return the changes to a model or Bento in BentoML's store since it was published."""
    recorded, hashes = read_json(folder / MANIFEST), hash_tree(folder)
    problems = [
        f"{folder / name} was changed" for name in recorded if name in hashes and hashes[name] != recorded[name]
    ]
    problems += [f"{folder / name} is missing" for name in recorded if name not in hashes]
    return problems + [f"{folder / name} was added" for name in hashes if name not in recorded and name != MANIFEST]


def check_kept(chain: Chain) -> CheckResult:
    """Check that DVC tracks the copy in ``scorers/`` as it is, and that there is one of the champion."""
    kept = kept_folder(chain.project.root, chain.name, chain.version)
    pointer = pointer_of(kept)
    if not kept.is_dir() and not pointer.is_file():
        deployed = read_deployment(chain.project.root, chain.name)
        if deployed is not None and deployed.version == chain.version:
            command = f"assay promote {chain.statement.tag} --why WHY"
            return "differs", f"{kept} is missing; `{command}` copies the champion there"
        return "ok", "never deployed, so not kept"
    if not kept.is_dir():
        return NOT_HERE, not_here(chain.project.root, kept)
    if not pointer.is_file():
        return "differs", f"{pointer} is missing; restore it from Git, or `dvc add {kept}`"
    return INTACT if is_tracked(kept) else ("differs", f"{kept} is not what {pointer.name} names")


def check_model(chain: Chain) -> CheckResult:
    """Compare the copy in BentoML's model store, which is served, with the scorer."""
    folder = bentoml_home(chain.project.root) / "models" / chain.statement.tag.replace(":", "/")
    if not folder.is_dir():
        return "ok", "none was published here"
    changed = hash_file(folder / HEAD) != chain.statement.scorer
    return differ([f"{folder / HEAD} was changed"] if changed else check_files(folder) or _listed(folder))


def check_bento(chain: Chain) -> CheckResult:
    """Compare the scorer's Bento, if any, with the log of its build."""
    folder = bento_folder(chain.project, chain.statement.tag)
    logged = event_of(chain, "published", bento=f"assay-{chain.statement.tag}")
    if logged is None:
        message = (
            f"{folder} is there, but the log does not know that it was published: the log was cut, or it was built"
        )
        return ("differs", f"{message} by hand") if folder.is_dir() else ("ok", "none was published here")
    if not folder.is_dir():
        return "superseded", f"{logged['bento']} is gone from BentoML's store; `assay serve` builds it again"
    if problems := _listed(folder):
        return differ(problems)
    is_same = hash_file(folder / MANIFEST) == logged["bento_hash"]
    return INTACT if is_same else ("differs", f"{logged['bento']} is not the one that was built: {folder / MANIFEST}")


def check_deployment(chain: Chain) -> CheckResult:
    """Compare the deployment record of the dataset with the newest promotion in the log, or with Git."""
    path, logged = deployment_path(chain.project.root, chain.name), event_of(chain, "promoted", name=chain.name)
    short = f"deployments/{path.name}"
    if not is_there(path):
        return ("differs", f"{short} is missing") if logged else ("ok", "never deployed")
    deployed = read_deployment(chain.project.root, chain.name)
    assert deployed is not None
    champion = f"the champion is {deployed.tag}"
    if deployed.version == chain.version:
        is_its_own = (deployed.statement or deployed.version) == chain.statement.id
        champion = "the champion" if is_its_own else f"the champion, deployed by its statement {deployed.statement}"
    if commit_with(chain.project.root, short, hash_file(path)) is not None:
        return "ok", champion
    if logged is None:
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
    delay = abs((datetime.fromisoformat(deployed.since) - datetime.fromisoformat(logged["time"])).total_seconds())
    # In logs of before, whose events do not hold `since`, the two times were taken one after the other.
    if ("since" not in logged and delay > 2) or canonical_json(expected.to_json()).encode() != path.read_bytes():
        return "differs", f"{short} is not what was logged when {logged['version']} was promoted"
    return "ok", champion


def check_comparisons(chain: Chain) -> CheckResult:
    """Check that every comparison in the dataset's file was logged here, or stands in a Git commit."""
    root, path = chain.project.root, comparisons_path(chain.project.root, chain.name)
    lines, short = recorded_comparisons(root, chain.name), path.relative_to(root).as_posix()
    logged = set(read_logged(chain.name, chain.events))
    missing = len(logged.difference(lines))
    if unknown := set(lines) - logged:
        versions = committed_files(root, [(commit, short) for commit in commits_of(root, short)])
        for content in versions:
            unknown.difference_update(parse_comparisons(content or b"", path))
    if unknown:
        return "differs", f"{short}: neither the log nor a Git commit knows {len(unknown)} of its lines{without_git()}"
    if not lines and not missing:
        return "ok", "no scorer was compared with a champion yet"
    held = f"; the log has {missing} more, which count, and which the next comparison writes there" if missing else ""
    return "ok", f"{len(lines)} in {short}{held}"
