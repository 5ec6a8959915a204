"""What was made of a scorer: its copy in BentoML's store, its Bento, its deployment, and the log of it all."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from assay.audit.chain import Chain, event_of
from assay.audit.commits import commit_with, without_git
from assay.audit.findings import INTACT, CheckResult, differ
from assay.errors import ScorerError
from assay.eventlog import START
from assay.hashing import hash_bytes, hash_file, hash_tree
from assay.parts import canonical_json, read_json
from assay.project.deployment import deployment_path, read_deployment
from assay.project.layout import Project
from assay.project.scorers import MANIFEST, find_scorer
from assay.scorer.scorer import HEAD, check_files


def check_log(project: Project, tag: str) -> CheckResult:
    """Walk the chain of the log, and look in it for the head that every deployed Bento's label names."""
    log = project.events
    log.check()
    lines = log.path.read_bytes().splitlines() if log.path.is_file() else []
    heads = {START: 0, **{hash_bytes(line): number for number, line in enumerate(lines, start=1)}}
    newest, words = 0, []
    for label in sorted({*_deployed_labels(project), *_labels(project, tag)}):
        head = bento_labels(label).get("chain_head")
        if head in heads:
            newest = max(newest, heads[head])
        else:
            words.append(f"{log.path} has no entry for the chain head in the label of {label}; the log was cut")
    return differ(words) if words else ("ok", f"{len(lines)} entries, held by a deployed label up to entry {newest}")


def bento_folder(project: Project, name: str, version: str) -> Path:
    """Return where BentoML's store keeps the Bento of a scorer."""
    return _store(project) / "bentos" / f"assay-{name}" / version


def bento_labels(folder: Path) -> dict[str, str]:
    """Return the labels of a Bento."""
    import yaml

    try:
        labels = yaml.safe_load((folder / "bento.yaml").read_text(encoding="utf-8"))["labels"]
        return {str(key): str(value) for key, value in labels.items()}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ScorerError(f"{folder / 'bento.yaml'} cannot be read: {error!r}") from error


def _store(project: Project) -> Path:
    return Path(os.environ.get("BENTOML_HOME", project.root / ".bentoml")).resolve()


def _labels(project: Project, tag: str) -> list[Path]:
    folder = find_scorer(tag, project.root).resolve()
    bento = bento_folder(project, folder.parent.name, folder.name)
    return [bento] if bento.is_dir() else []


def _deployed_labels(project: Project) -> list[Path]:
    found = []
    for path in (project.root / "deployments").glob("*.json"):
        try:
            deployed = read_deployment(project.root, path.stem)
        except ScorerError:
            continue
        if deployed is not None and (bento := bento_folder(project, deployed.name, deployed.version)).is_dir():
            found.append(bento)
    return found


def _listed(folder: Path) -> list[str]:
    """Name what is not as it was in BentoML's store when a model or Bento was published."""
    then, now = read_json(folder / MANIFEST), hash_tree(folder)
    words = [f"{folder / name} was changed" for name in then if name in now and now[name] != then[name]]
    words += [f"{folder / name} is missing" for name in then if name not in now]
    return words + [f"{folder / name} was added" for name in now if name not in then and name != MANIFEST]


def check_model(chain: Chain) -> CheckResult:
    """Hold the copy in BentoML's model store, which is what gets served, to the scorer."""
    folder = _store(chain.project) / "models" / chain.name / chain.version
    if not folder.is_dir():
        return "ok", "none was published here"
    changed = hash_file(folder / HEAD)[:12] != chain.version
    return differ([f"{folder / HEAD} was changed"] if changed else check_files(folder) or _listed(folder))


def check_bento(chain: Chain) -> CheckResult:
    """Hold the scorer's Bento, where there is one, to what was logged when it was built."""
    folder = bento_folder(chain.project, chain.name, chain.version)
    logged = event_of(chain, "published", scorer=chain.tag)
    if logged is None:
        told = f"{folder} is there, but the log does not know that it was published: the log was cut, or it was built"
        return ("differs", f"{told} by hand") if folder.is_dir() else ("ok", "none was published here")
    if not folder.is_dir():
        return "superseded", f"{logged['bento']} is gone from BentoML's store; `assay serve` builds it again"
    if words := _listed(folder):
        return differ(words)
    same = hash_file(folder / MANIFEST) == logged["bento_hash"]
    return INTACT if same else ("differs", f"{logged['bento']} is not the one that was built: {folder / MANIFEST}")


def check_deployment(chain: Chain) -> CheckResult:
    """Hold the deployment record of the dataset to the newest promotion in the log, or to Git."""
    path, logged = deployment_path(chain.project.root, chain.name), event_of(chain, "promoted", name=chain.name)
    short = f"deployments/{path.name}"
    if not path.is_file():
        return ("differs", f"{short} is missing") if logged else ("ok", "never deployed")
    deployed = read_deployment(chain.project.root, chain.name)
    assert deployed is not None
    champion = "the champion" if deployed.version == chain.version else f"the champion is {deployed.tag}"
    if commit_with(chain.project.root, short, hash_file(path)) is not None:
        return "ok", champion
    if logged is None:
        return "differs", f"{short} names a champion that neither the log nor a Git commit knows{without_git()}"
    then = replace(
        deployed,
        version=logged["version"],
        tag=f"{chain.name}:{logged['version']}",
        name=chain.name,
        bento=logged["bento"],
        reason=logged["reason"],
        previous=logged["replaces"],
    )
    late = abs((datetime.fromisoformat(deployed.since) - datetime.fromisoformat(logged["time"])).total_seconds())
    written = {name: getattr(then, name) for name in then.__slots__}
    if late > 2 or canonical_json(written).encode() != path.read_bytes():
        return "differs", f"{short} is not what was logged when {logged['version']} was promoted"
    return "ok", champion
