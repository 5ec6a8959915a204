"""Checks of a scorer's delivery: its copies in scorers/ and in BentoML's store, its Bento, and the comparisons."""

from __future__ import annotations

from pathlib import Path

from assay.audit.chain import Chain, event_of, own_event_of
from assay.audit.commits import without_git
from assay.audit.findings import INTACT, NOT_HERE, CheckResult, differ
from assay.environment import bentoml_home
from assay.hashing import hash_file, hash_tree
from assay.parts import read_json
from assay.project.accounts import machine_id
from assay.project.anchors import bento_folder, bento_labels
from assay.project.comparisons import comparisons_path, parse_comparisons, read_logged, recorded_comparisons
from assay.project.deployed import is_tracked
from assay.project.deployment import read_deployment
from assay.project.scorers import MANIFEST, kept_folder, not_here, pointer_of
from assay.project.versioning import commits_of, committed_files
from assay.scorer.folder import HEAD, check_files


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
    """Compare the scorer's Bento, if any, with the log of its build: this machine's, or of who shares the store."""
    folder, tag = bento_folder(chain.project.root, chain.statement.tag), f"assay-{chain.statement.tag}"
    logged = own_event_of(chain, "published", bento=tag)
    if not folder.is_dir():
        gone = f"{tag} is gone from BentoML's store; `assay serve` builds it again"
        return ("superseded", gone) if logged else ("ok", "none was published here")
    digest = hash_file(folder / MANIFEST)
    if logged is None and bento_labels(folder).get("machine", "") not in ("", machine_id(chain.project.root)):
        logged = event_of(chain, "published", bento=tag, bento_hash=digest)
        if logged is None:
            return NOT_HERE, f"the history of the machine that built {folder} (`assay sync`)"
    if logged is None:
        message = f"{folder} is there, but the log does not know that it was published"
        return "differs", f"{message}: the log was cut, or it was built by hand"
    if problems := _listed(folder):
        return differ(problems)
    is_same = digest == logged["bento_hash"]
    return INTACT if is_same else ("differs", f"{tag} is not the one that was built: {folder / MANIFEST}")


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
