"""The packaged scorers of a project: finding one by its tag, and listing all."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.data.quarantine import is_listed, quarantine_path, read_quarantine
from assay.errors import AssayError, ScorerError, TamperedError
from assay.hashing import hash_file
from assay.names import NAME
from assay.parts import read_json
from assay.pipeline.learned import LEARNED_ROWS, read_learned
from assay.project.deployment import read_deployment
from assay.scorer.scorer import HEAD, check_files

if TYPE_CHECKING:
    from assay.project.layout import Project

MANIFEST = "files.json"
VERSION = "[0-9a-f]" * 12


def find_scorer(tag: str | Path, root: Path | None = None) -> Path:
    """Return the folder of a scorer.

    Parameters
    ----------
    tag : str or Path
        A scorer folder, ``name:version`` (or a prefix of the version), or ``name`` alone for the champion of that
        dataset.
    root : Path, optional
        Project folder; by default the one around the current folder. ``BENTOML_HOME`` is respected.

    Raises
    ------
    ScorerError
        There is no such scorer, or several versions begin with the prefix.
    """
    if (folder := Path(tag)).is_dir() and (folder / HEAD).is_file():
        return folder
    root = root or _project_root()
    name, _, version = str(tag).partition(":")
    if not version:
        deployment = read_deployment(root, name) if NAME.fullmatch(name) else None
        if deployment is None:
            raise ScorerError(
                f"{tag!r} is no scorer folder, and there is no champion of that name in {root}; see `assay scorers`"
            )
        version = deployment.version
    if not NAME.fullmatch(name) or not re.fullmatch(r"[0-9a-f]{1,12}", version):
        raise ScorerError(
            f"{str(tag)!r} is neither a scorer folder nor name:version (12 hex digits, or their beginning)"
        )
    stores = (
        root / "work" / "scorers" / name,
        Path(os.environ.get("BENTOML_HOME", root / ".bentoml")) / "models" / name,
    )
    # work/ comes last, so that it wins over BentoML's copy of the same version.
    folders = {p.name: p for store in reversed(stores) for p in store.glob(f"{version}*") if (p / HEAD).is_file()}
    if len(folders) != 1:
        problem = "there is no scorer" if not folders else f"{len(folders)} scorers are called"
        raise ScorerError(f"{problem} {tag!r} in {root}; `assay scorers` lists them")
    return next(iter(folders.values()))


def _project_root() -> Path:
    current = Path.cwd()
    return next((folder for folder in (current, *current.parents) if (folder / "dvc.yaml").is_file()), current)


def list_scorers(root: Path) -> list[dict[str, Any]]:
    """Describe every packaged scorer of a project, broken ones too.

    Returns
    -------
    list of dict
        ``name``, ``version``, ``tag``, ``champion``, ``folder``, ``bento`` (None where there is no intact
        one), ``quarantined`` (number of now quarantined rows that it learned from, by use) and ``broken`` (the
        reason, or None); intact scorers also have ``detector``, ``adapter``, ``eps``, ``data_version`` and
        ``lineage_root``.
    """
    home = bentoml_home(root)
    stores = (home / "models", root / "work" / "scorers")
    folders = {(path.parent.name, path.name): path for store in stores for path in store.glob(f"*/{VERSION}")}
    champions = {}
    for record in (root / "deployments").glob("*.json"):
        if (deployment := read_deployment(root, record.stem)) is not None:
            champions[deployment.name] = deployment.version
            folders.setdefault((deployment.name, deployment.version), stores[1] / deployment.name / deployment.version)
    return [
        {
            "name": name,
            "version": version,
            "tag": f"{name}:{version}",
            "champion": champions.get(name) == version,
            "folder": str(folder),
            "bento": f"assay-{name}:{version}" if is_intact(home / "bentos" / f"assay-{name}" / version) else None,
            "quarantined": _quarantined(root, name, folder),
            **_describe(folder),
        }
        for (name, version), folder in sorted(folders.items())
    ]


def identify(folder: Path) -> tuple[str, str]:
    """Check every file of a scorer folder and return its name and version."""
    problems = check_files(folder)
    head = read_json(folder / HEAD)
    if outside := [name for name in head["files"] if ".." in Path(name).parts or Path(name).is_absolute()]:
        raise ScorerError(f"{folder / HEAD} lists {outside[0]!r}, which is not in its folder; do not use this scorer")
    version = hash_file(folder / HEAD)[:12]
    if re.fullmatch(VERSION, folder.name) and folder.name != version:
        problems = [f"{folder / HEAD} was changed"]
    if problems:
        raise TamperedError(f"{problems[0]}; the scorer is not the one that was packaged")
    return str(head["name"]), version


def is_intact(item: Path) -> bool:
    """Return whether a model or Bento in BentoML's store still has every file as it was published."""
    try:
        manifest: dict[str, str] = read_json(item / MANIFEST)
        return all(hash_file(item / name) == digest for name, digest in manifest.items())
    except (AssayError, OSError):
        return False


def bentoml_home(root: Path) -> Path:
    return Path(os.environ.get("BENTOML_HOME", root / ".bentoml")).resolve()


def _quarantined(root: Path, name: str, folder: Path) -> dict[str, int]:
    quarantined = read_quarantine(quarantine_path(root, name))
    if quarantined.empty or not (folder / LEARNED_ROWS).is_file():
        return {}
    try:
        learned = read_learned(folder / LEARNED_ROWS)
    except (ScorerError, ValueError):
        return {}
    counts = learned.loc[is_listed(quarantined, learned), "use"].value_counts()
    return {str(use): int(count) for use, count in sorted(counts.items())}


def _describe(folder: Path) -> dict[str, Any]:
    try:
        identify(folder)
        head = read_json(folder / HEAD)
        return {
            "broken": None,
            "detector": head["candidate"]["detector"],
            "adapter": head["candidate"]["adapter"],
            "eps": head["eps"],
            "data_version": head["lineage"]["data_version"],
            "lineage_root": head["lineage"]["root"],
        }
    except AssayError as error:
        return {"broken": str(error)}
    except (KeyError, TypeError, AttributeError) as error:
        return {"broken": f"{folder / HEAD} is not the head of a scorer: {error!r}"}


def scorer_folders(project: Project) -> list[Path]:
    """Return the folder of the scorer that the newest run packaged; an empty list where there is none."""
    return [path for path in project.folder("package").glob("*") if path.is_dir()]
