"""Scoring of a folder of Parquet files by the processes of a runner, on this machine or on a cluster."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pyarrow.parquet import read_metadata

from assay.calibration.batches import discovery_threshold
from assay.console import counted_progress, say
from assay.data.blocks import Unchanged
from assay.data.tables import PARQUET, kind_of_file, parts_of, readable
from assay.errors import DataError, InputError
from assay.hashing import hash_json
from assay.parts import PART
from assay.pipeline.progress import StageProgress
from assay.project.layout import Project
from assay.project.runners import open_runner
from assay.project.work import Work, WorkRunner
from assay.scorer.batch import DELTA, ScoredFile
from assay.scorer.folder import ANSWERS
from assay.scorer.loading import load_scorer
from assay.scorer.part_batch import RESULT, PartScoring

UNITS_PER_SLOT = 4
ROWS_PER_UNIT = 200_000  # at least, where there are more units than slots: a process takes seconds to start


def score_folder(
    project: Project,
    packaged: tuple[Path, str],
    folder: Path,
    out: Path,
    *,
    eps: float | None = None,
    fdr: float | None = None,
    id_column: str | None = None,
    explain: int = 0,
    runner: str | None = None,
    address: str | None = None,
) -> ScoredFile:
    """Score every Parquet file of a folder to a file of its name in the folder `out`, which is there once it is whole.

    Bit for bit the rows are those that `assay.scorer.batch.score_file` writes for the folder. `fdr` is decided over all
    of them: first every file is compared, then the threshold follows, then every file is written. What is finished
    stays in a hidden folder beside `out`, and the same call goes on from there.

    Parameters
    ----------
    project : Project
    packaged : (Path, str)
        Folder of the scorer, and the id of its statement.
    folder, out : Path
        Folders that every worker sees at the same path.
    eps, fdr, id_column, explain
        See `assay.scorer.batch.score_file`.
    runner, address : str, optional
        See `assay.project.runners.open_runner`.

    Raises
    ------
    DataError, InputError, ConfigError
        As for `score_file` and `open_runner`; `out` exists; the folder holds other than Parquet files.
    """
    scorer = load_scorer(*packaged)
    rule = scorer.rule(eps=eps, fdr=fdr)
    if scorer.windows is not None:
        raise InputError("this scorer takes a file of series, whose windows may lie in two files; give a result file")
    parts, folder, out = parts_of(folder), folder.resolve(), out.resolve()
    if any(kind_of_file(part) != PARQUET for part in parts):
        raise DataError(f"{folder.name} must hold Parquet files where the result is a folder; or give --out FILE")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists already; remove it, or give another place for the result")
    with readable(folder):
        n_rows = {part.name: read_metadata(part).num_rows for part in parts}
    unchanged = Unchanged(folder)
    key = hash_json([scorer.tag, ANSWERS, id_column, explain, rule.eps, rule.fdr, str(folder), unchanged.states])
    kept = out.with_name(f".{out.name}.scoring")
    # Of the key's own: what a worker of a cut off command still writes is never taken for part of another result.
    scoring = PartScoring(scorer, folder, kept / key, key, id_column, explain)
    names, threshold = list(n_rows), rule.eps
    arguments: dict[str, Any] = {"scorer": str(packaged[0].resolve()), "statement": packaged[1], "folder": str(folder)}
    arguments |= {"state": str(scoring.state), "key": scoring.key, "id_column": id_column, "explain": explain}
    with _alone(kept):
        _begin(scoring.state, out.name)
        with (
            unchanged,
            open_runner(project, runner, address) as opened,
            counted_progress(folder.name, (1 if rule.fdr is None else 2) * sum(n_rows.values())) as count,
        ):
            do_all = partial(_do_all, opened, scoring, arguments, n_rows, count)
            if rule.fdr is not None:
                do_all("compare", None)
                values, counts, row_ids = scoring.compared(names)
                scorer.check_batch_ids(rule, row_ids or None)
                threshold = discovery_threshold(values, counts, rule.fdr)
            do_all("write", threshold)
        tally = scoring.tally(names)
        if out.is_dir():
            out.rmdir()
        for left in (scoring.state / RESULT).glob(f".*{PART}"):  # by a call that was killed; all files are whole now
            left.unlink()
        (scoring.state / RESULT).rename(out)
        shutil.rmtree(kept)
    note = rule.note(tally.n_rows, tally.n_chosen, scorer.calibrator)
    return ScoredFile(tally.n_rows, tally.n_chosen, rule, tally.bound(DELTA), note)


@contextmanager
def _alone(kept: Path) -> Iterator[None]:
    """Hold the folder of what is finished, which others with the same `out` would remove."""
    kept.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(kept / "lock", timeout=0):
            yield
    except Timeout as error:
        raise DataError(f"another command is writing {kept.name[1:].removesuffix('.scoring')}; wait for it") from error


def _begin(state: Path, name: str) -> None:
    """Make the folder of what is finished, as a call with that key left it, or empty; those of other keys go."""
    for other in state.parent.iterdir():
        if other.is_dir() and other != state:
            shutil.rmtree(other, ignore_errors=True)
    (state / RESULT).mkdir(parents=True, exist_ok=True)
    if n_done := len(list((state / RESULT).glob("[!.]*"))):
        say(f"{name}: {n_done} files were scored before; a command like this one was cut off")


def _do_all(
    runner: WorkRunner,
    scoring: PartScoring,
    arguments: dict[str, Any],
    n_rows: dict[str, int],
    count: Callable[[int], None],
    step: str,
    threshold: float | None,
) -> None:
    """Do a step of `PartScoring` for all files, in units of some files each, so that few processes load the scorer."""
    is_done = scoring.is_compared if step == "compare" else scoring.is_written
    names, counting = [name for name in n_rows if not is_done(name)], threading.Lock()
    left = sum(n_rows[name] for name in names)
    count(sum(n_rows.values()) - left)
    n_units = max(runner.slots, min(UNITS_PER_SLOT * runner.slots, left // ROWS_PER_UNIT))
    scorer = Path(arguments["scorer"])
    inputs = (scorer.relative_to(runner.root).as_posix(),) if scorer.is_relative_to(runner.root) else ()

    def counter(unit: list[str]) -> StageProgress:
        counted = 0

        def move(_task: str, share: float) -> None:
            nonlocal counted
            with counting:
                done = sum(n_rows[name] for name in unit[: round(share * len(unit))])
                count(max(0, done - counted))
                counted = max(done, counted)

        return move

    with tempfile.TemporaryDirectory() as nothing:
        futures = {}
        for unit in filter(None, (names[start::n_units] for start in range(n_units))):
            asked = {**arguments, "scorer": inputs[0] if inputs else str(scorer), "step": step, "names": unit}
            work = Work(
                name=f"{scoring.folder.name}: {unit[0]} and {len(unit) - 1} more files",
                function="assay.runs.partitions:score_parts",
                arguments={**asked, "threshold": threshold},
                inputs=inputs,
                out=Path(nothing),
            )
            progress = counter(unit)
            futures[runner.submit(work, progress)] = progress
        for future in as_completed(futures):
            future.result()
            futures[future]("", 1.0)


def score_parts(
    root: Path,
    out: Path,
    progress: StageProgress,
    *,
    scorer: str,
    statement: str,
    folder: str,
    state: str,
    names: list[str],
    step: str,
    threshold: float | None,
    **others: Any,
) -> dict[str, Any]:
    """Do a step of `PartScoring` for some files, as a unit of work; the scorer is checked while it is loaded.

    Raises
    ------
    DataError
        This worker does not see the folders.
    """
    for path in (folder, state):
        if not Path(path).is_dir():
            raise DataError(f"a worker does not see {path}; rows and results must be in folders that all workers see")
    scoring = PartScoring(load_scorer(root / scorer, statement), Path(folder), Path(state), **others)
    for number, name in enumerate(names, 1):
        if step == "compare":
            scoring.compare(name)
        else:
            scoring.write(name, threshold)
        progress(name, number / len(names))
    return {}
