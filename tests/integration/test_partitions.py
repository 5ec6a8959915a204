"""A folder of Parquet files is scored file by file, on this machine or on a cluster, as it is at once."""

from __future__ import annotations

import re
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from filelock import FileLock
from tests.integration.test_failed_levels import PARAMS
from tests.unit.scorer.test_batch import FROZEN, by_category, plain, rows

from assay.errors import ConfigError, DataError, InputError
from assay.project.layout import Project
from assay.runs import partitions
from assay.runs.partitions import score_folder
from assay.scorer.batch import score_file
from assay.scorer.part_batch import PartScoring

N_PARTS = 5


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "project"
    root.mkdir()
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS | {"run": {**PARAMS["run"], "cells_at_once": 2}}))
    return Project(root)


def packaged(name: str) -> tuple[Path, str]:
    (head,) = FROZEN.glob(f"{name}/*/scorer.json")
    return head.parent, (plain() if name == "scorer-1" else by_category()).statement.id


def make_parts(folder: Path, frame: pd.DataFrame) -> Path:
    """Write rows as files: one without rows, one in which a column has whole numbers alone."""
    folder.mkdir()
    frame = frame.assign(run=np.where(np.arange(len(frame)) < 60, 1.0, 1.5))
    edges = [0, 40, 40, 60, 110, len(frame)]
    for number, (start, end) in enumerate(pairwise(edges)):
        part = frame.iloc[start:end].reset_index(drop=True)
        part = part.astype({"run": np.int64}) if start < 60 else part
        part.to_parquet(folder / f"part-{number}.parquet")
    return folder


def read(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path)


@pytest.mark.parametrize(
    ("name", "runner", "options"),
    [
        ("scorer-1", "dask", {"fdr": 0.3, "id_column": "id"}),
        ("scorer-3", "local", {"eps": 0.1}),
    ],
)
def test_the_rows_are_those_of_one_process(
    name: str, runner: str, options: dict[str, object], project: Project, tmp_path: Path
) -> None:
    place = packaged(name)
    scorer = plain() if name == "scorer-1" else by_category()
    folder = make_parts(tmp_path / "rows", rows(scorer))
    whole = score_file(scorer, folder, tmp_path / "whole.parquet", **options)  # type: ignore[arg-type]
    parted = score_folder(project, place, folder, tmp_path / "out", runner=runner, **options)  # type: ignore[arg-type]
    assert parted == whole
    assert 0 < parted.n_flagged < parted.n_rows
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"part-{n}.parquet" for n in range(N_PARTS)]
    pd.testing.assert_frame_equal(read(tmp_path / "out"), read(tmp_path / "whole.parquet"), check_exact=True)
    assert not list(tmp_path.glob(".out*"))
    assert not list((project.state / "cluster").glob("*"))


def test_what_was_cut_off_goes_on_with_the_files_that_are_missing(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, scorer, out, kept = packaged("scorer-1"), plain(), tmp_path / "out", tmp_path / ".out.scoring"
    folder = make_parts(tmp_path / "rows", rows(scorer))
    with pytest.raises(ConfigError, match="is that of a Dask scheduler"):
        score_folder(project, place, folder, out, runner="local", address="tcp://127.0.0.1:1")
    (state,) = (path for path in kept.iterdir() if path.is_dir())
    in_its_place = state / "result" / "part-3.parquet"
    in_its_place.mkdir()
    with pytest.raises(IsADirectoryError):
        score_folder(project, place, folder, out)
    in_its_place.rmdir()
    assert not out.exists()
    done = {path.name: path.stat().st_mtime_ns for path in (state / "result").glob("[!.]*")}
    assert len(done) >= 2  # of two at a time, the fourth begins after two
    assert "part-3.parquet" not in done
    (state / "result" / ".part-2.parquet.99999999-0123abcd.part").write_text("of a call that was killed")
    capsys.readouterr()
    score_folder(project, place, folder, out)
    assert re.search(r"out: [2-4] files were scored before", " ".join(capsys.readouterr().err.split()))
    assert {name: (out / name).stat().st_mtime_ns for name in done} == done
    assert not list(out.glob(".*"))
    score_file(scorer, folder, tmp_path / "whole.parquet")
    pd.testing.assert_frame_equal(read(out), read(tmp_path / "whole.parquet"), check_exact=True)


def test_what_a_worker_of_another_command_still_writes_is_no_part_of_the_result(
    project: Project, tmp_path: Path
) -> None:
    place, scorer, out = packaged("scorer-1"), plain(), tmp_path / "out"
    folder = make_parts(tmp_path / "rows", rows(scorer))
    with pytest.raises(ConfigError):
        score_folder(project, place, folder, out, eps=0.5, runner="local", address="tcp://127.0.0.1:1")
    (state,) = (path for path in (tmp_path / ".out.scoring").iterdir() if path.is_dir())
    former = PartScoring(scorer, folder, state, state.name)
    begin = partitions.open_runner

    def late(*arguments: Any) -> Any:
        with suppress(FileNotFoundError):
            former.write("part-3.parquet", 0.5)
        return begin(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitions, "open_runner", late)
        score_folder(project, place, folder, out, eps=0.1)
    score_file(scorer, folder, tmp_path / "whole.parquet", eps=0.1)
    pd.testing.assert_frame_equal(read(out), read(tmp_path / "whole.parquet"), check_exact=True)
    assert not list(tmp_path.glob(".out*"))


def test_one_command_at_a_time_writes_a_folder(project: Project, tmp_path: Path) -> None:
    folder = make_parts(tmp_path / "rows", rows(plain()))
    (tmp_path / ".out.scoring").mkdir()
    with (
        FileLock(tmp_path / ".out.scoring" / "lock"),
        pytest.raises(DataError, match=r"another command is writing out; wait"),
    ):
        score_folder(project, packaged("scorer-1"), folder, tmp_path / "out")


def test_an_error_names_the_row_of_the_whole(project: Project, tmp_path: Path) -> None:
    scorer = plain()
    folder = make_parts(tmp_path / "rows", rows(scorer))
    frame = pd.read_parquet(folder / "part-3.parquet")
    frame.iloc[7, frame.columns.get_loc(scorer.columns[2])] = np.nan
    frame.to_parquet(folder / "part-3.parquet")
    with pytest.raises(InputError, match=rf"row 67, column '{scorer.columns[2]}': missing or infinite"):
        score_folder(project, packaged("scorer-1"), folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_scored_so_is_refused(project: Project, tmp_path: Path) -> None:
    place, scorer = packaged("scorer-1"), plain()
    folder = make_parts(tmp_path / "rows", rows(scorer))
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").touch()
    with pytest.raises(DataError, match="there exists already"):
        score_folder(project, place, folder, tmp_path / "there")
    (tmp_path / "csv").mkdir()
    rows(scorer).to_csv(tmp_path / "csv" / "a.csv", index=False)
    with pytest.raises(DataError, match="must hold Parquet files"):
        score_folder(project, place, tmp_path / "csv", tmp_path / "out")
