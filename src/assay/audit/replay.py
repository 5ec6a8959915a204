"""Replaying a scorer: its recorded inputs through the same stages once more, in a folder of its own."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import assay
from assay import console
from assay.audit.chain import DOWNSTREAM, Chain, before_entries, event_of, read_chain, require_records, where_from
from assay.audit.commits import commit_with, content_at, find_origin
from assay.errors import AssayError, ScorerError, StageError
from assay.hashing import hash_file
from assay.parts import parse_json, read_arrays, read_json, write_bytes
from assay.project import stages
from assay.project.freshness import require_record
from assay.project.installed import VERSIONS, hash_code, is_installed, named
from assay.project.layout import Project
from assay.project.stages import STAGES
from assay.scorer.scorer import HEAD

RTOL, ATOL = 1e-3, 1e-5
SAME, CLOSE, DIFFERS = "same bytes", "within tolerance", "differs"
ROW_ID = "row_id"
TEXTS = dict.fromkeys((ROW_ID, "fingerprint", "source_row", "recipe", "group", "time", "category"), str)
TOLERANCE = f"|new - recorded| <= {ATOL:g} + {RTOL:g} |recorded| for every number"


@dataclass(frozen=True, slots=True)
class Compared:
    """What became of a stage's outputs: "same bytes", "within tolerance" or "differs", and the details."""

    what: str
    state: str
    detail: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """A replay of a scorer.

    Attributes
    ----------
    tag : str
    compared : tuple of Compared
    here : bool
        Whether the log says that the scorer was trained on this machine; only then have bytes to be equal.
    """

    tag: str
    compared: tuple[Compared, ...]
    here: bool

    @property
    def same(self) -> bool:
        """True if all bytes are equal or, for a scorer of another machine, all numbers within the tolerance."""
        return {found.state for found in self.compared} <= ({SAME} if self.here else {SAME, CLOSE})

    def lines(self) -> list[str]:
        """One line for each stage and one that sums them up."""
        words = [f"{found.state:<18}{found.what}: {found.detail}" for found in self.compared]
        where = "trained on this machine" if self.here else "trained on another machine, or nobody logged on which"
        told = "the replay is the same" if self.same else "the replay differs"
        return [*words, f"tolerance across machines: {TOLERANCE}", f"{self.tag}: {told} ({where})"]

    def to_json(self) -> dict[str, Any]:
        """Return the replay as plain JSON values."""
        found = [{"what": f.what, "state": f.state, "detail": f.detail} for f in self.compared]
        about = {"scorer": self.tag, "same": self.same, "trained_here": self.here, "rtol": RTOL, "atol": ATOL}
        return {**about, "compared": found}


def replay_scorer(project: Project, tag: str) -> Replayed:
    """Rebuild a scorer from its recorded data, parameters, suite and code, and compare every recorded output.

    All happens in a temporary folder; the project is only read. On the machine that trained the scorer every byte
    has to be the recorded one. On another one arrays and numbers may differ within `RTOL` and `ATOL`.

    Raises
    ------
    ScorerError
        There is no such scorer, a record is broken or of a stage that is not known, or a recorded input is no
        longer at hand.
    StageError
        Today's code is not the recorded one, or a stage fails.
    """
    chain = read_chain(project, tag)
    require_records(chain)
    _require_code(chain)
    with tempfile.TemporaryDirectory(prefix="assay-replay-") as folder:
        replica = _prepare(chain, Path(folder) / "project")
        stages = [stage for stage in STAGES if stage in chain.behind or stage == "package" or _compares(chain, stage)]
        for stage in stages:
            _run(replica, stage)
        compared = [_compare(chain, replica, stage) for stage in stages if stage != "package"]
        compared.append(_compare_scorers(chain, replica))
    event = event_of(chain, "stage", stage="train", record=chain.named("train"))
    return Replayed(chain.tag, tuple(compared), event is not None and event["machine"] == platform.node())


def _require_code(chain: Chain) -> None:
    """Raise `StageError` unless the code that runs is the code on record."""
    project = chain.project
    now = hash_code(project.root, {path for stage in chain.behind for path in project.stages[stage].code})
    if differing := sorted(path for path in {*now, *chain.code} if now.get(path) != chain.code.get(path)):
        if chain.made_by:
            raise StageError(_another_assay(chain, differing, now))
        origin = find_origin(chain)
        fitting = origin.commands if origin.commit is not None and not origin.differs else ()
        advice = f"bring it back with `{' && '.join(fitting)}`" if fitting else origin.note
        raise StageError(
            f"replay needs the code that {chain.tag} was made with; {len(differing)} files differ from it: "
            f"{', '.join(differing)}; {advice}"
        )
    stages.require_own_code(project)


def _another_assay(chain: Chain, differing: list[str], now: dict[str, str]) -> str:
    """Say which Assay a scorer needs, and what differs of the installed one."""
    told = f"replay needs what {chain.tag} was made with: Assay {chain.made_by}; installed is {assay.__version__}"
    moved = [path for path in differing if path.startswith(VERSIONS)]
    versions = [f"{p.removeprefix(VERSIONS)} {chain.code.get(p, 'none')} -> {now.get(p, 'none')}" for p in moved]
    files = [path for path in differing if path not in moved]
    words = [*([f"other {named(files)}"] if files else []), *versions]
    return f"{told}, with {', '.join(words)}; install the recorded versions into an environment, and replay from there"


def _compares(chain: Chain, stage: str) -> bool:
    """Tell whether a stage that no scorer depends on is on record by today's code, and so are those that it reads."""
    if stage not in DOWNSTREAM or stage not in chain.records:
        return False
    project, work = chain.project, f"work/{chain.name}/"
    now = hash_code(project.root, project.stages[stage].code)
    read = {path.removeprefix(work).partition("/")[0] for path in chain.records[stage].inputs if path.startswith(work)}
    return now == chain.records[stage].code and all(_compares(chain, name) for name in read & {*DOWNSTREAM})


def _prepare(chain: Chain, root: Path) -> Project:
    """Lay out a project with the recorded inputs and parameters, and today's code, which is the recorded one."""
    import yaml

    project = chain.project
    params = {name: value for name, value in chain.params.items() if "." not in name}
    text = yaml.safe_dump({**project.raw_params, **params, "dataset": chain.name}, sort_keys=False)
    write_bytes(root / "params.yaml", text.encode())
    shutil.copyfile(project.root / "dvc.yaml", root / "dvc.yaml")
    for path in chain.code:
        if not is_installed(path):
            _copy(project.root / path, root / path)
    for path in chain.data:
        found = chain.find_data(path)
        if found is None:
            raise ScorerError(
                f"{path} of the recorded data version {chain.data_version} is neither in data/ nor in DVC's cache; "
                f"{where_from(chain.archive)}"
            )
        _copy(found, root / path)
    for path, digest in chain.settings.items():
        write_bytes(root / path, _setting(chain, path, digest))
    return Project(root)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _setting(chain: Chain, path: str, digest: str) -> bytes:
    """Return the recorded bytes of a suite or the like, from the project or from Git; or as nobody had filled it in."""
    here = chain.project.root / path
    if here.is_file() and hash_file(here) == digest:
        return here.read_bytes()
    if (content := before_entries(path, digest)) is not None:
        return content
    commit = commit_with(chain.project.root, path, digest)
    if commit is None:
        raise ScorerError(
            f"{path} was edited since {chain.tag} was made, and no Git commit holds the recorded one; nothing was run"
        )
    return content_at(chain.project.root, commit, path)


def _run(replica: Project, stage: str) -> None:
    try:
        with console.stage_progress(stage) as progress:
            stages.run_verb(replica, stage, progress)
    except AssayError as error:
        raise StageError(f"the replay stopped at stage {stage}: {error}") from error


def _compare(chain: Chain, replica: Project, stage: str) -> Compared:
    """Compare the outputs of a stage with the recorded ones."""
    here = replica.folder(stage)
    then, now = chain.records[stage].outputs, require_record(here).outputs
    return compare_files(f"stage {stage}", then, now, lambda name: chain.find(stage, name), here)


def _compare_scorers(chain: Chain, replica: Project) -> Compared:
    """Compare the scorer folders; scorer.json and the records hold hashes of the rest, so that they follow it."""
    (folder,) = stages.scorer_folders(replica)
    if folder.name == chain.version:
        return Compared("scorer", SAME, f"{chain.tag}, {len(chain.head['files']) + 1} files")
    files = {"then": chain.head["files"], "now": read_json(folder / HEAD)["files"]}
    then, now = ({n: d for n, d in part.items() if not n.startswith("lineage/")} for part in files.values())
    found = compare_files("scorer", then, now, lambda name: chain.folder / name, folder)
    state = CLOSE if found.state == SAME else found.state
    return Compared(found.what, state, f"{chain.name}:{folder.name}, the records differ; {found.detail}")


def compare_files(
    what: str, then: dict[str, str], now: dict[str, str], recorded: Callable[[str], Path | None], here: Path
) -> Compared:
    """Compare files by hash, and those that differ by content, as far as a recorded copy is left.

    Parameters
    ----------
    what : str
        Name of the comparison.
    then, now : dict of str to str
        SHA-256 by file name.
    recorded : callable
        Gives an intact recorded copy of a file, or None.
    here : Path
        Folder of the new files.
    """
    words = [f"{name} is missing" for name in then if name not in now]
    words += [f"{name} is new" for name in now if name not in then]
    changed = [name for name in then if name in now and now[name] != then[name]]
    far = []
    for name in changed:
        copy = recorded(name)
        if copy is None or hash_file(copy) != then[name]:
            far.append(f"{name} (no intact copy of the recorded one is left to compare with)")
        elif not _close(copy, here / name):
            far.append(name)
    if words or far:
        return Compared(what, DIFFERS, "; ".join([*words, *far]))
    if changed:
        return Compared(
            what, CLOSE, f"{', '.join(changed)}; the other {len(then) - len(changed)} files have the same bytes"
        )
    return Compared(what, SAME, f"{len(then)} files")


def _close(then: Path, now: Path) -> bool:
    """Tell whether two files hold the same but for numbers within the tolerance."""
    if now.suffix == ".safetensors":
        old, new = read_arrays(then), read_arrays(now)
        return old.keys() == new.keys() and all(_arrays_close(old[name], new[name]) for name in old)
    if now.suffix == ".npy":
        return _arrays_close(np.load(then, allow_pickle=False), np.load(now, allow_pickle=False))
    if now.suffix == ".csv":
        return _tables_close(then, now)
    return now.suffix == ".json" and _values_close(parse_json(then.read_bytes()), parse_json(now.read_bytes()))


def _tables_close(then: Path, now: Path) -> bool:
    """Compare tables with the same columns and row ids, in whatever order: where numbers differ, so may it."""
    import pandas as pd

    old, new = (pd.read_csv(path, dtype=TEXTS, keep_default_na=False) for path in (then, now))
    if list(old.columns) != list(new.columns) or ROW_ID not in old.columns:
        return False
    old, new = old.sort_values(ROW_ID, kind="stable"), new.sort_values(ROW_ID, kind="stable")
    return all(_arrays_close(old[name].to_numpy(), new[name].to_numpy()) for name in old.columns)


def _arrays_close(then: Any, now: Any) -> bool:
    if then.shape != now.shape or then.dtype != now.dtype:
        return False
    if then.dtype.kind != "f":
        return bool(np.array_equal(then, now))
    return bool(np.allclose(now, then, rtol=RTOL, atol=ATOL, equal_nan=True))


def _values_close(then: Any, now: Any) -> bool:
    if isinstance(then, dict) and isinstance(now, dict):
        return then.keys() == now.keys() and all(_values_close(then[key], now[key]) for key in then)
    if isinstance(then, list) and isinstance(now, list):
        return len(then) == len(now) and all(map(_values_close, then, now))
    if isinstance(then, float) and isinstance(now, float):
        return abs(now - then) <= ATOL + RTOL * abs(then)
    return type(then) is type(now) and bool(then == now)
