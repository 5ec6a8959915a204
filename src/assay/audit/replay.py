"""Replaying a scorer: running the same stages on its recorded inputs again, in a temporary folder."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import assay
from assay import console
from assay.audit.chain import DOWNSTREAM, Chain, before_entries, event_of, read_chain, require_records, where_from
from assay.audit.commits import commit_with, content_at, find_origin
from assay.data.dataset import TEXTS
from assay.errors import AssayError, ScorerError, StageError
from assay.hashing import hash_file
from assay.parts import parse_json, read_arrays, write_bytes
from assay.project.freshness import require_record, run_verb
from assay.project.installed import SOURCE, described, hash_code, named, require_own_code
from assay.project.layout import Project
from assay.project.modules import VERSIONS
from assay.project.scorers import scorer_folders
from assay.project.stages import STAGES
from assay.scorer.folder import read_head
from assay.scorer.statement import read_statement, sealed_tag

RTOL, ATOL = 1e-3, 1e-5
SAME, CLOSE, DIFFERS = "same bytes", "within tolerance", "differs"
BY_OTHER_CODE, NOT_COMPARED = "same bytes by other code", "not compared"
ROW_ID = "row_id"
TEXT_TYPES = dict.fromkeys(TEXTS, str)
TOLERANCE = f"|new - recorded| <= {ATOL:g} + {RTOL:g} |recorded| for every number"


@dataclass(frozen=True, slots=True)
class StageReplay:
    """Comparison of outputs: "same bytes" (by other code or not), "within tolerance", "differs" or "not compared"."""

    what: str
    state: str
    detail: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """A replay of a scorer.

    Attributes
    ----------
    tag, statement : str
        The scorer, and the id of its statement.
    compared : tuple of StageReplay
    trained_here : bool
        Whether the log says that the scorer was trained on this machine; only then must bytes be equal.
    other_code : str
        How the present code differs from the recorded, and how to get that; "" where it is the same.
    """

    tag: str
    statement: str
    compared: tuple[StageReplay, ...]
    trained_here: bool
    other_code: str = ""

    @property
    def same(self) -> bool:
        """Whether all bytes are equal or, for a scorer of another machine, all numbers are within the tolerance.

        Outputs that were not compared decide nothing: the scorer, which comes from them, always is.
        """
        allowed = {SAME, BY_OTHER_CODE, NOT_COMPARED} | (set() if self.trained_here else {CLOSE})
        return {part.state for part in self.compared} <= allowed

    def lines(self) -> list[str]:
        """Return one line for each stage, and a summary."""
        width = max(18, *(len(part.state) + 2 for part in self.compared)) if self.compared else 18
        text = [f"{part.state:<{width}}{part.what}: {part.detail}" for part in self.compared]
        machine = (
            "trained on this machine"
            if self.trained_here
            else "trained on another machine, or on one that was not logged"
        )
        verdict = "the replay is the same" if self.same else "the replay differs"
        code = [f"code: {self.other_code}"] if self.other_code else []
        return [
            *text,
            *code,
            f"tolerance across machines: {TOLERANCE}",
            f"{sealed_tag(self.tag, self.statement)}: {verdict} ({machine})",
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the replay as plain JSON values."""
        parts = [{"what": part.what, "state": part.state, "detail": part.detail} for part in self.compared]
        summary: dict[str, Any] = {
            "scorer": self.tag,
            "statement": self.statement,
            "same": self.same,
            "trained_here": self.trained_here,
        }
        summary |= {"other_code": self.other_code or None, "rtol": RTOL, "atol": ATOL}
        return {**summary, "compared": parts}


def replay_scorer(project: Project, tag: str) -> Replayed:
    """Rebuild a scorer from its recorded data, parameters and suite, by the present code, and compare every output.

    This happens in a temporary folder; the project is only read. On the machine that trained the scorer every byte
    has to be equal. On another one arrays and numbers may differ within `RTOL` and `ATOL`. Where the code is not the
    recorded one, the result says so: bytes that are equal nevertheless are the "same bytes by other code".

    Raises
    ------
    ScorerError
        There is no such scorer, a record is broken or of an unknown stage, or a recorded input is no longer
        available.
    StageError
        The running code is not that of the project, or a stage fails.
    """
    chain = read_chain(project, tag)
    require_records(chain)
    require_own_code(project)
    other_code = _other_code(chain, hash_code(project.root, chain.code))
    if other_code:
        console.say(other_code)
    with tempfile.TemporaryDirectory(prefix="assay-replay-") as folder:
        replica = _prepare(chain, Path(folder) / "project")
        stages = [stage for stage in STAGES if stage in chain.behind or stage == "package" or _compares(chain, stage)]
        for stage in stages:
            for each in replica.stages_of(stage):
                _run(replica, each.name)
        compared = [_compare(chain, replica, stage) for stage in stages if stage != "package"]
        compared.append(_compare_scorers(chain, replica, bool(other_code)))
    event = event_of(chain, "stage", stage="train", record=chain.named("train"))
    trained_here = event is not None and event["machine"] == platform.node()
    return Replayed(chain.tag, chain.statement.id, tuple(compared), trained_here, other_code)


def _other_code(chain: Chain, current: dict[str, str]) -> str:
    """Return how the present code differs from the recorded, and how to get that; "" where it is the same."""
    differing = sorted(path for path in {*current, *chain.code} if current.get(path) != chain.code.get(path))
    if not differing:
        return ""
    if chain.made_by:
        return _another_assay(chain, differing, current)
    origin = find_origin(chain)
    fitting = origin.commands if origin.commit is not None and not origin.differs else ()
    advice = f"to replay by the recorded code: `{' && '.join(fitting)}`" if fitting else origin.note
    return f"{described(differing)} differ from those that {chain.tag} was made with: {', '.join(differing)}; {advice}"


def _another_assay(chain: Chain, differing: list[str], current: dict[str, str]) -> str:
    """Return the message on the Assay version that a scorer needs, and how the installed one differs."""
    versions_of_assay = f"{chain.tag} was made with Assay {chain.made_by}; installed is {assay.__version__}"
    moved = [path for path in differing if path.startswith(VERSIONS)]
    versions = [f"{p.removeprefix(VERSIONS)} {chain.code.get(p, 'none')} -> {current.get(p, 'none')}" for p in moved]
    files = [path for path in differing if path not in moved]
    differences = [*([f"other {named(files)}"] if files else []), *versions]
    return (
        f"{versions_of_assay}, with {', '.join(differences)}; to replay by the recorded code, install the recorded "
        "versions into an environment, and replay from there"
    )


def _compares(chain: Chain, stage: str) -> bool:
    """Return whether a downstream stage, and those it reads, were recorded with the present code."""
    if stage not in DOWNSTREAM or stage not in chain.records:
        return False
    work, code = f"work/{chain.name}/", chain.records[stage].code
    read = {path.removeprefix(work).partition("/")[0] for path in chain.records[stage].inputs if path.startswith(work)}
    return hash_code(chain.project.root, code) == code and all(_compares(chain, name) for name in read & {*DOWNSTREAM})


def _prepare(chain: Chain, root: Path) -> Project:
    """Lay out a project with the recorded inputs and parameters, and the present code."""
    import yaml

    project = chain.project
    params = {name: value for name, value in chain.params.items() if "." not in name}
    names = {"dataset": chain.name, "datasets": [chain.name]}
    text = yaml.safe_dump({**project.raw_params, **params, **names}, sort_keys=False)
    write_bytes(root / "params.yaml", text.encode())
    shutil.copyfile(project.root / "dvc.yaml", root / "dvc.yaml")
    if not chain.made_by:
        (root / SOURCE).mkdir()  # its records name the code of the project, as the recorded ones do
        (root / SOURCE / "assay").symlink_to(project.root / SOURCE / "assay")
    for path in chain.data:
        source = chain.find_data(path)
        if source is None:
            raise ScorerError(
                f"{path} of the recorded data version {chain.data_version} is neither in data/ nor in DVC's cache; "
                f"{where_from(chain.archive)}"
            )
        _copy(source, root / path)
    for path, digest in chain.settings.items():
        write_bytes(root / path, _setting(chain, path, digest))
    return Project(root)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _setting(chain: Chain, path: str, digest: str) -> bytes:
    """Return the recorded bytes of a suite or similar file, from the project or Git, or of its empty version."""
    current = chain.project.root / path
    if current.is_file() and hash_file(current) == digest:
        return current.read_bytes()
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
            run_verb(replica, stage, progress)
    except AssayError as error:
        raise StageError(f"the replay stopped at stage {stage}: {error}") from error


def _compare(chain: Chain, replica: Project, stage: str) -> StageReplay:
    """Compare the outputs of a stage with the recorded ones."""
    recorded = chain.records[stage]
    if STAGES[stage].cells and recorded.detector is None:
        return StageReplay(f"stage {stage}", NOT_COMPARED, "all detectors were one stage when it was made")
    folder = replica.folder(stage, recorded.detector)
    now = require_record(folder)
    compared = compare_files(
        f"stage {stage}", recorded.outputs, now.outputs, lambda name: chain.find(stage, name), folder
    )
    return replace(compared, state=BY_OTHER_CODE) if compared.state == SAME and recorded.code != now.code else compared


def _compare_scorers(chain: Chain, replica: Project, other_code: bool) -> StageReplay:
    """Compare the scorers; heads and records follow from what has been compared before."""
    (folder,) = scorer_folders(replica)
    head, statement = read_head(folder), read_statement(folder)
    same = BY_OTHER_CODE if other_code else SAME
    if statement.version == chain.version:
        named = "the same statement" if statement.id == chain.statement.id else "its records differ"
        return StageReplay("scorer", same, f"{chain.tag}, {len(chain.head['files']) + 1} files; {named}")
    recorded = {name: digest for name, digest in chain.head["files"].items() if Path(name).stem in chain.head["parts"]}
    comparison = compare_files("scorer", recorded, head["files"], lambda name: chain.folder / name, folder)
    if comparison.state == SAME:
        # An older Assay wrote the records into the head, which says the same of the parts.
        is_same = chain.statement.is_embedded and head["parts"] == chain.head["parts"]
        comparison = replace(comparison, state=same if is_same else CLOSE)
    return replace(comparison, detail=f"{chain.name}:{folder.name}, the heads differ; {comparison.detail}")


def compare_files(
    subject: str,
    recorded: dict[str, str],
    replayed: dict[str, str],
    recorded_copy: Callable[[str], Path | None],
    folder: Path,
) -> StageReplay:
    """Compare files by hash, and those with other hashes by content, as far as a recorded copy is left.

    Parameters
    ----------
    subject : str
        Name of the comparison.
    recorded, replayed : dict of str to str
        SHA-256 by file name.
    recorded_copy : callable
        Returns the path of an intact recorded copy of a file, or None.
    folder : Path
        Folder of the replayed files.
    """
    messages = [f"{name} is missing" for name in recorded if name not in replayed]
    messages += [f"{name} is new" for name in replayed if name not in recorded]
    changed = [name for name in recorded if name in replayed and replayed[name] != recorded[name]]
    differing = []
    for name in changed:
        copy = recorded_copy(name)
        if copy is None or hash_file(copy) != recorded[name]:
            differing.append(f"{name} (no intact copy of the recorded one is left to compare with)")
        elif not _close(copy, folder / name):
            differing.append(name)
    if messages or differing:
        return StageReplay(subject, DIFFERS, "; ".join([*messages, *differing]))
    if changed:
        return StageReplay(
            subject, CLOSE, f"{', '.join(changed)}; the other {len(recorded) - len(changed)} files have the same bytes"
        )
    return StageReplay(subject, SAME, f"{len(recorded)} files")


def _close(recorded: Path, replayed: Path) -> bool:
    """Return whether two files are equal, with numbers within the tolerance."""
    if replayed.suffix == ".safetensors":
        recorded_arrays, replayed_arrays = read_arrays(recorded), read_arrays(replayed)
        return recorded_arrays.keys() == replayed_arrays.keys() and all(
            _arrays_close(recorded_arrays[name], replayed_arrays[name]) for name in recorded_arrays
        )
    if replayed.suffix == ".npy":
        return _arrays_close(np.load(recorded, allow_pickle=False), np.load(replayed, allow_pickle=False))
    if replayed.suffix == ".csv":
        return _tables_close(recorded, replayed)
    return replayed.suffix == ".json" and _values_close(
        parse_json(recorded.read_bytes()), parse_json(replayed.read_bytes())
    )


def _tables_close(recorded: Path, replayed: Path) -> bool:
    """Compare tables by row id, whatever the order of rows: where numbers differ, the order may, too."""
    import pandas as pd

    recorded_table, replayed_table = (
        pd.read_csv(path, dtype=TEXT_TYPES, keep_default_na=False) for path in (recorded, replayed)
    )
    if list(recorded_table.columns) != list(replayed_table.columns) or ROW_ID not in recorded_table.columns:
        return False
    recorded_table, replayed_table = (
        recorded_table.sort_values(ROW_ID, kind="stable"),
        replayed_table.sort_values(ROW_ID, kind="stable"),
    )
    return all(
        _arrays_close(recorded_table[name].to_numpy(), replayed_table[name].to_numpy())
        for name in recorded_table.columns
    )


def _arrays_close(recorded: Any, replayed: Any) -> bool:
    if recorded.shape != replayed.shape or recorded.dtype != replayed.dtype:
        return False
    if recorded.dtype.kind != "f":
        return bool(np.array_equal(recorded, replayed))
    return bool(np.allclose(replayed, recorded, rtol=RTOL, atol=ATOL, equal_nan=True))


def _values_close(recorded: Any, replayed: Any) -> bool:
    if isinstance(recorded, dict) and isinstance(replayed, dict):
        return recorded.keys() == replayed.keys() and all(
            _values_close(recorded[key], replayed[key]) for key in recorded
        )
    if isinstance(recorded, list) and isinstance(replayed, list):
        return len(recorded) == len(replayed) and all(map(_values_close, recorded, replayed))
    if isinstance(recorded, float) and isinstance(replayed, float):
        return abs(replayed - recorded) <= ATOL + RTOL * abs(recorded)
    return type(recorded) is type(replayed) and bool(recorded == replayed)
