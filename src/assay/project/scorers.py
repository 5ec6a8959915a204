"""The packaged scorers of a project and their statements: finding one by its tag, and listing all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.data.answers import barred_rows
from assay.data.quarantine import is_listed
from assay.environment import bentoml_home
from assay.errors import AssayError, NotHereError, ScorerError, TamperedError
from assay.eventlog import EventLog
from assay.hashing import hash_file
from assay.names import NAME
from assay.parts import read_json
from assay.pipeline.learned import learned_by
from assay.project.archive import Archive
from assay.project.deployment import Deployment, read_deployment, read_deployments
from assay.project.versioning import ADD_REMOTE, named_md5
from assay.scorer.folder import FOLDER_NAME, HEAD, check_files
from assay.scorer.statement import Statement, read_statement, statement_ids

if TYPE_CHECKING:
    from assay.project.layout import Project

MANIFEST = "files.json"
HERE, CACHED, TRACKED, LOST = "here", "in DVC's cache", "tracked", "lost"
_VERSION = re.compile(r"([0-9a-f]{1,12})(?:-([0-9a-f]{1,12}))?")


@dataclass(frozen=True, slots=True)
class Packaged:
    """A scorer folder, and one of the statements in it."""

    folder: Path
    statement: Statement


def kept_folder(root: Path, name: str, version: str) -> Path:
    """Return where a project keeps a scorer that is or was deployed."""
    return root / "scorers" / name / version


def pointer_of(kept: Path) -> Path:
    """Return the .dvc file of a folder in ``scorers/``."""
    return kept.with_name(f"{kept.name}.dvc")


def find_scorer(tag: str | Path, root: Path | None = None) -> Path:
    """Return the folder of a scorer.

    Parameters
    ----------
    tag : str or Path
        A scorer folder; ``name:version`` (or a prefix of the version), with ``-statement`` after it or not; or ``name``
        alone for the champion of that dataset.
    root : Path, optional
        Project folder; by default the one around the current folder. ``BENTOML_HOME`` is respected.

    Raises
    ------
    ScorerError
        There is no such scorer, or several versions begin with the prefix.
    """
    _require_tag(tag)
    if (folder := Path(tag)).is_dir() and (folder / HEAD).is_file():
        return folder
    copies, _ = _copies_of(str(tag), root or _project_root())
    return copies[0]


def find_packaged(tag: str | Path, root: Path | None = None) -> Packaged:
    """Return a scorer folder with a statement.

    Where the tag does not name one of several statements, it is the deployed one if the scorer is the champion, else
    the one that was packaged here last, else the first by id.

    Raises
    ------
    ScorerError
        There is no such scorer or statement, or several begin with the prefix.
    TamperedError
        The statement was changed.
    """
    _require_tag(tag)
    root = root or _project_root()
    if (folder := Path(tag)).is_dir() and (folder / HEAD).is_file():
        copies, prefix, name = [folder], "", folder.resolve().parent.name
    else:
        copies, prefix = _copies_of(str(tag), root)
        name = copies[0].parent.name
    places = _places(copies)
    if not places:
        raise ScorerError(f"{copies[0]} has no statement of where the scorer comes from; copy the folder again, whole")
    fitting = {statement: folder for statement, folder in places.items() if statement.startswith(prefix)}
    if not fitting or (prefix and len(fitting) > 1):
        problem = "there is no statement" if not fitting else f"{len(fitting)} statements are called"
        raise ScorerError(f"{problem} {prefix} of the scorer {str(tag)!r}; there are {', '.join(places)}")
    chosen = next(iter(fitting)) if len(fitting) == 1 else _preferred(root, name, fitting)
    return Packaged(fitting[chosen], read_statement(fitting[chosen], chosen))


def _require_tag(tag: object) -> None:
    if not isinstance(tag, str | Path):
        raise ScorerError(f"a scorer is named by its tag or its folder, for instance 'digits'; got {tag!r}")


def statements_of(root: Path, name: str, version: str) -> list[Statement]:
    """Return all intact statements of a scorer, by id, wherever the project keeps copies of it."""
    found = []
    for statement, folder in _places(copies_of(root, name, version).get(version, [])).items():
        try:
            found.append(read_statement(folder, statement))
        except AssayError:
            continue
    return found


def copies_of(root: Path, name: str, prefix: str = "") -> dict[str, list[Path]]:
    """Return the folders of each scorer of a dataset whose version begins with `prefix`, the best copy first."""
    copies: dict[str, list[Path]] = {}
    for store in _stores(root):
        for path in sorted((store / name).glob(f"{prefix}*")):
            if FOLDER_NAME.fullmatch(path.name) and (path / HEAD).is_file():
                copies.setdefault(path.name[:12], []).append(path)
    return copies


def _stores(root: Path) -> tuple[Path, ...]:
    """Return the folders of scorers by dataset and version; of equal ones the first counts."""
    return root / "scorers", root / "work" / "package", bentoml_home(root) / "models"


def _copies_of(tag: str, root: Path) -> tuple[list[Path], str]:
    """Return the folders of the one scorer that a tag names, and the beginning of a statement's id in it, or ""."""
    name, _, version = tag.partition(":")
    if not version:
        deployment = read_deployment(root, name) if NAME.fullmatch(name) else None
        if deployment is None:
            raise ScorerError(
                f"{tag!r} is no scorer folder, and there is no champion of that name in {root}; see `assay scorers`"
            )
        version = deployment.version
    matched = _VERSION.fullmatch(version)
    if matched is None or not NAME.fullmatch(name):
        raise ScorerError(
            f"{tag!r} is neither a scorer folder nor name:version (12 hex digits, or their beginning), with "
            "-statement after it or not"
        )
    copies = copies_of(root, name, matched[1])
    tracked = {path.stem: path.with_suffix("") for path in (root / "scorers" / name).glob(f"{matched[1]}*.dvc")}
    versions = {*copies, *tracked}
    if len(versions) != 1:
        problem = "there is no scorer" if not versions else f"{len(versions)} scorers are called"
        raise ScorerError(f"{problem} {tag!r} in {root}; `assay scorers` lists them")
    if not copies:
        raise NotHereError(not_here(root, *tracked.values()))
    return next(iter(copies.values())), matched[2] or ""


def not_here(root: Path, kept: Path) -> str:
    """Return as text how a scorer that DVC tracks comes back."""
    pointer, remote = pointer_of(kept).relative_to(root), Archive(root).remote
    advice = ADD_REMOTE if remote is None else f"fetch it from the remote {remote}:"
    tag = f"{kept.parent.name}:{kept.name}"
    return f"{tag} is tracked by {pointer}, but its folder is not here; {advice} `dvc pull {pointer}`"


def _places(copies: list[Path]) -> dict[str, Path]:
    """Return the first folder that holds each statement, by its id; further copies that cannot be read do not count."""
    places: dict[str, Path] = {}
    for folder in copies:
        try:
            ids = statement_ids(folder)
        except ScorerError:
            if folder == copies[0]:
                raise
            continue
        for statement in ids:
            places.setdefault(statement, folder)
    return dict(sorted(places.items()))


def _preferred(root: Path, name: str, places: Mapping[str, Path]) -> str:
    """Return the deployed one of several statements of a scorer, else the one packaged here last, else the first."""
    version = hash_file(next(iter(places.values())) / HEAD)[:12]
    deployment = read_deployment(root, name) if NAME.fullmatch(name) else None
    if deployment is not None and deployment.version == version and deployment.statement in places:
        return str(deployment.statement)
    made = [e["details"] for e in EventLog(root / ".assay" / "events.jsonl") if e.get("stage") == "package"]
    packaged = [each.get("statement") for each in reversed(made) if each.get("scorer") == f"{name}:{version}"]
    return next((statement for statement in packaged if statement in places), next(iter(places)))


def _project_root() -> Path:
    current = Path.cwd()
    return next((folder for folder in (current, *current.parents) if (folder / "dvc.yaml").is_file()), current)


def list_scorers(root: Path) -> list[dict[str, Any]]:
    """Describe every packaged scorer of a project, broken ones too.

    Returns
    -------
    list of dict
        ``name``, ``version``, ``tag``, ``champion``, ``where`` ("here"; elsewhere "in DVC's cache", "tracked", which
        may be in a remote, or "lost"), ``folder``, ``broken`` (the reason, or None) and ``statements``. Each of these
        has its id (``statement``), ``tag``, ``deployed``, ``folder``, ``bento`` (None where there is no intact one),
        ``quarantined`` (number of now quarantined rows that the scorer learned from, by use), ``broken`` and, where it
        is intact, ``detector``, ``adapter``, ``data_version`` and ``lineage_root``. Intact scorers have ``eps``, and
        what is said of the deployed statement, or of the best one: intact, without quarantined rows.
    """
    names = {path.name for store in _stores(root) for path in store.glob("*") if path.is_dir()}
    found = {(path.parent.name, path.stem): [path.with_suffix("")] for path in (root / "scorers").glob("*/*.dvc")}
    found |= {(name, version): folders for name in names for version, folders in copies_of(root, name).items()}
    champions, unreadable = read_deployments(root)
    for champion in champions.values():
        missing = kept_folder(root, champion.name, champion.version)
        found.setdefault((champion.name, champion.version), [missing])
    rows = []
    for (name, version), folders in sorted(found.items()):
        row = _describe(root, name, version, folders, champions.get(name))
        if name in unreadable:
            row["broken"] = "; ".join(filter(None, (row["broken"], unreadable[name])))
        rows.append(row)
    return rows


def _describe(root: Path, name: str, version: str, folders: list[Path], champion: Deployment | None) -> dict[str, Any]:
    if champion is not None and champion.version != version:
        champion = None
    folder = folders[0]
    row: dict[str, Any] = {"name": name, "version": version, "tag": f"{name}:{version}"}
    row |= {"champion": champion is not None, "where": _where(root, folder), "folder": str(folder)}
    row |= {"statement": None, "bento": None, "quarantined": {}, "broken": None, "statements": []}
    if not folder.is_dir():
        return row | {"broken": _absent(root, folder)}
    try:
        check_scorer(folder)
        row["eps"] = read_json(folder / HEAD)["eps"]
        statements = [_describe_statement(root, name, *place) for place in _places(folders).items()]
    except (AssayError, OSError) as error:
        return row | {"broken": str(error)}
    except (KeyError, TypeError, AttributeError) as error:
        return row | {"broken": f"{folder / HEAD} is not the head of a scorer: {error!r}"}
    if not statements:
        return row | {"broken": f"{folder} has no statement of where the scorer comes from"}
    for each in statements:
        each["deployed"] = champion is not None and each["statement"] == (champion.statement or version)
    best = min(
        statements, key=lambda each: (not each["deployed"], each["broken"] is not None, bool(each["quarantined"]))
    )
    shared = {key: value for key, value in best.items() if key not in ("tag", "folder", "deployed")}
    return {**row, **shared, "statements": statements}


def _describe_statement(root: Path, name: str, statement: str, folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"statement": statement, "folder": str(folder), "bento": None, "quarantined": {}}
    try:
        sealed = read_statement(folder, statement)
    except AssayError as error:
        return {**row, "tag": f"{name}:{hash_file(folder / HEAD)[:12]}-{statement}", "broken": str(error)}
    bento = bentoml_home(root) / "bentos" / f"assay-{sealed.tag}".replace(":", "/")
    return {
        **row,
        "tag": sealed.tag,
        "bento": f"assay-{sealed.tag}" if is_intact(bento) else None,
        "quarantined": _quarantined(root, name, sealed),
        "broken": None,
        "detector": sealed.candidate["detector"],
        "adapter": sealed.candidate["adapter"],
        "data_version": sealed.data_version,
        "lineage_root": sealed.root,
    }


def changes_of(folder: Path) -> list[str]:
    """Return a message for every file of a scorer, but for its statements, that is not the one that was packaged."""
    changes = check_files(folder)
    named = FOLDER_NAME.fullmatch(folder.name)
    return [f"{folder / HEAD} was changed"] if named and named[1] != hash_file(folder / HEAD)[:12] else changes


def check_scorer(folder: Path) -> None:
    """Raise `TamperedError` unless every file of a scorer, and its name, are those that were packaged."""
    if problems := changes_of(folder):
        raise TamperedError(f"{problems[0]}; the scorer is not the one that was packaged")


def is_intact(item: Path) -> bool:
    """Return whether a model or Bento in BentoML's store still has every file as it was published."""
    try:
        manifest: dict[str, str] = read_json(item / MANIFEST)
        return all(hash_file(item / name) == digest for name, digest in manifest.items())
    except (AssayError, OSError):
        return False


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


def _quarantined(root: Path, name: str, statement: Statement) -> dict[str, int]:
    """Return by use how many rows that a scorer learned from, by a statement, are in quarantine or answered bad now."""
    quarantined = barred_rows(root, name)
    if quarantined.empty or statement.rows is None:
        return {}
    try:
        learned = learned_by(statement)
    except (ScorerError, ValueError):
        return {}
    counts = learned.loc[is_listed(quarantined, learned), "use"].value_counts()
    return {str(use): int(count) for use, count in sorted(counts.items())}


def scorer_folders(project: Project) -> list[Path]:
    """Return the folder of the scorer that the newest run packaged; an empty list where there is none."""
    return [path for path in project.folder("package").glob("*") if path.is_dir()]
