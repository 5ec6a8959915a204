"""The packaged scorers of a project: finding one by its tag, and listing all."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.data.quarantine import quarantine_path, read_quarantine
from assay.errors import AssayError, ScorerError, TamperedError
from assay.hashing import hash_file
from assay.names import NAME
from assay.parts import read_arrays, read_json
from assay.project.archive import Archive
from assay.project.deployment import read_deployment
from assay.project.versioning import named_md5
from assay.scorer.scorer import HEAD, check_files

if TYPE_CHECKING:
    from assay.project.layout import Project

MANIFEST = "files.json"
VERSION = "[0-9a-f]" * 12
STATEMENTS = "statements"
HERE, CACHED, TRACKED, LOST = "here", "in DVC's cache", "tracked", "lost"


def kept_folder(root: Path, name: str, version: str) -> Path:
    """Return where a project keeps a scorer that is or was deployed."""
    return root / "scorers" / name / version


def pointer_of(kept: Path) -> Path:
    """Return the .dvc file of a folder in ``scorers/``."""
    return kept.with_name(f"{kept.name}.dvc")


def _stores(root: Path) -> tuple[Path, ...]:
    """Return the folders of scorers by dataset and version; of equal ones the first counts."""
    return root / "scorers", root / "work" / "package", bentoml_home(root) / "models"


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
    stores = [store / name for store in reversed(_stores(root))]
    folders = {p.name: p for store in stores for p in store.glob(f"{version}*") if (p / HEAD).is_file()}
    tracked = {p.stem: p.with_suffix("") for p in (root / "scorers" / name).glob(f"{version}*.dvc")}
    found = {**tracked, **folders}
    if len(found) != 1:
        problem = "there is no scorer" if not found else f"{len(found)} scorers are called"
        raise ScorerError(f"{problem} {tag!r} in {root}; `assay scorers` lists them")
    if not folders:
        raise ScorerError(not_here(root, *tracked.values()))
    return next(iter(found.values()))


def not_here(root: Path, kept: Path) -> str:
    """Return as text how a scorer that DVC tracks comes back."""
    pointer, remote = pointer_of(kept).relative_to(root), Archive(root).remote
    advice = (
        "add the DVC remote that holds it (`dvc remote add -d NAME ADDRESS`), then"
        if remote is None
        else f"fetch it from the remote {remote}:"
    )
    tag = f"{kept.parent.name}:{kept.name}"
    return f"{tag} is tracked by {pointer}, but its folder is not here; {advice} `dvc pull {pointer}`"


def _project_root() -> Path:
    current = Path.cwd()
    return next((folder for folder in (current, *current.parents) if (folder / "dvc.yaml").is_file()), current)


def list_scorers(root: Path) -> list[dict[str, Any]]:
    """Describe every packaged scorer of a project, broken ones too.

    Returns
    -------
    list of dict
        ``name``, ``version``, ``tag``, ``champion``, ``where`` ("here"; elsewhere "in DVC's cache", "tracked", which
        may be in a remote, or "lost"), ``folder``, ``bento`` (None where there is no intact one), ``quarantined``
        (number of now quarantined rows that it learned from, by use) and ``broken`` (the reason, or None); intact
        scorers also have ``detector``, ``adapter``, ``eps``, ``data_version`` and
        ``lineage_root``.
    """
    home = bentoml_home(root)
    stores = _stores(root)
    folders = {(p.parent.name, p.stem): p.with_suffix("") for p in stores[0].glob(f"*/{VERSION}.dvc")}
    folders |= {(p.parent.name, p.name): p for store in reversed(stores) for p in store.glob(f"*/{VERSION}")}
    champions = {}
    for record in (root / "deployments").glob("*.json"):
        if (deployment := read_deployment(root, record.stem)) is not None:
            champions[deployment.name] = deployment.version
            named = kept_folder(root, deployment.name, deployment.version)
            folders.setdefault((deployment.name, deployment.version), named)
    return [
        {
            "name": name,
            "version": version,
            "tag": f"{name}:{version}",
            "champion": champions.get(name) == version,
            "where": _where(root, folder),
            "folder": str(folder),
            "bento": f"assay-{name}:{version}" if is_intact(home / "bentos" / f"assay-{name}" / version) else None,
            "quarantined": _quarantined(root, name, folder),
            **(_describe(folder) if folder.is_dir() else {"broken": _absent(root, folder)}),
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


def _absent(root: Path, folder: Path) -> str:
    if pointer_of(folder).is_file():
        return not_here(root, folder)
    return f"{folder} is lost: neither it nor its .dvc file is here; a commit or another machine may have them"


def _where(root: Path, folder: Path) -> str:
    if folder.is_dir():
        return HERE
    if not (pointer := pointer_of(folder)).is_file():
        return LOST
    archive = Archive(root)
    listed = archive.object(named_md5(pointer))
    listing = [] if listed is None else read_json(listed)
    whole = listed is not None and all(archive.object(entry["md5"]) for entry in listing)
    return CACHED if whole else TRACKED


def _quarantined(root: Path, name: str, folder: Path) -> dict[str, int]:
    quarantined = read_quarantine(quarantine_path(root, name))["fingerprint"]
    if quarantined.empty or not (folder / "rows.safetensors").is_file():
        return {}
    marks = np.frombuffer(bytes.fromhex("".join(quarantined)), dtype="S16")
    try:
        arrays = read_arrays(folder / "rows.safetensors")
        counts = {use: int(np.isin(packed.view("S16"), marks).sum()) for use, packed in arrays.items()}
    except (ScorerError, ValueError):
        return {}
    return {use: count for use, count in counts.items() if count}


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
