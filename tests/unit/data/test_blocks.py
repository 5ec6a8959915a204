"""Tables read in blocks are those that are read whole."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assay.data import delimited
from assay.data.blocks import counted_from, open_blocks, read_frame
from assay.data.columns import features_of
from assay.data.dialects import OBSERVED, Dialect
from assay.errors import ConfigError, DataError

N = 40
RNG = np.random.default_rng(0)
ROWS = pd.DataFrame(
    {
        "name": [f"r{i:03d}" for i in range(N)],
        "x": RNG.normal(size=N).round(3),
        "y": np.arange(N) * 1.0,
        "flag": RNG.random(N) < 0.5,
        "note": ["", "NA", "a,b", "7"] * (N // 4),
    }
)
NUMBERS = ("x", "y", "flag")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "_BLOCK", 256)
    monkeypatch.setattr(delimited, "_CHUNK", 7)


def written(path: Path, frame: pd.DataFrame, **options: Any) -> Path:
    frame.to_csv(path, index=False, **options)
    return path


def with_cells(column: str, cells: dict[int, Any]) -> pd.DataFrame:
    frame = ROWS.assign(**{column: ROWS[column].astype(object)})
    for row, value in cells.items():
        frame.loc[row, column] = value
    return frame


def parts(path: Path) -> Path:
    folder = path.with_suffix("")
    folder.mkdir()
    written(folder / "a.csv", ROWS.iloc[:15].drop(columns="note"))
    written(folder / "b.csv", ROWS.iloc[15:].drop(columns="note"), quoting=csv.QUOTE_ALL)
    return folder


CSV_FILES: dict[str, Callable[[Path], Path]] = {
    "plain": lambda path: written(path, ROWS.drop(columns="note")),
    "quoted": lambda path: written(path, ROWS),
    "blank lines": lambda path: written(path, ROWS, lineterminator="\n\n"),
    "decimal commas": lambda path: written(path, ROWS, sep=";", decimal=","),
    "late text": lambda path: written(path, with_cells("x", {N - 2: "1_0"}).drop(columns="note")),
    "late missing": lambda path: written(path, with_cells("x", {N - 2: "nan", N - 1: ""})),
    "late booleans": lambda path: written(path, with_cells("flag", dict.fromkeys(range(N - 4), "nan"))),
    "large numbers": lambda path: written(path, with_cells("y", {N - 1: 2**53 + 1})),
    "numbered": lambda path: written(path, ROWS.reset_index(names="")),
    "trailing": lambda path: written(path, ROWS.assign(**{" ": ""}).rename(columns={" ": ""})),
    "no header": lambda path: written(path, ROWS[["x", "y"]], header=False),
    "parts": parts,
}


@pytest.mark.parametrize("name", CSV_FILES)
def test_csv_files_in_blocks_are_as_whole(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dialect = Dialect(header=False) if name == "no header" else OBSERVED
    numbers = ("0", "1") if name == "no header" else NUMBERS
    path = CSV_FILES[name](tmp_path / "rows.csv")
    whole = read_frame(path, (), numbers=numbers, dialect=dialect)
    said = capsys.readouterr().err
    blocks = open_blocks(path, (), numbers=numbers, dialect=dialect)
    frames = list(blocks.frames(7))
    assert len(frames) > 1
    assert blocks.n_rows == len(whole)
    assert capsys.readouterr().err == said
    kept = [column for column in whole if column not in numbers]
    pd.testing.assert_frame_equal(pd.concat(frames, ignore_index=True)[kept], whole[kept])
    if name != "late text":
        features = np.concatenate([features_of(frame, numbers).rows for frame in frames])
        np.testing.assert_array_equal(features, features_of(whole, numbers).rows)
    again = pd.concat(list(blocks.frames(7)), ignore_index=True)
    pd.testing.assert_frame_equal(again, pd.concat(frames, ignore_index=True))


@pytest.mark.parametrize(
    ("columns", "decimal", "words"),
    [
        ({"x": ["9"] * (N - 1) + ["5,678"], "y": ["7"] * N}, None, "say whether the comma"),
        ({"x": ["0,5"] * N, "y": ["7"] * (N - 1) + ["1.234"]}, ",", "'y' has values such as '7', with a point"),
        ({"x": ["1"] * (N - 3) + ["1e999", "2", "3"], "y": ["7"] * N}, None, rf"row {N - 3}: 1e999 is beyond"),
    ],
)
def test_what_is_refused_whole_is_refused_in_blocks(
    columns: dict[str, Any], decimal: str | None, words: str, tmp_path: Path
) -> None:
    dialect = Dialect(decimal=decimal)
    path = written(tmp_path / "rows.csv", ROWS[["name"]].assign(**columns))
    with pytest.raises(DataError, match=words):
        read_frame(path, (), numbers=("x", "y"), dialect=dialect)
    with pytest.raises(DataError, match=words):
        list(open_blocks(path, (), numbers=("x", "y"), dialect=dialect).frames(7))


def test_a_column_that_mixes_booleans_and_numbers_is_refused_in_whatever_blocks_they_are(tmp_path: Path) -> None:
    frame = ROWS[["x", "flag"]].astype(object)
    frame.loc[N - 9 :, "flag"] = 1
    path = written(tmp_path / "rows.csv", frame)
    frames = open_blocks(path, (), numbers=("x", "flag")).frames(7)
    with pytest.raises(DataError, match="'flag' is not numeric"):
        [features_of(block, ("x", "flag")) for block in frames]


def test_parquet_files_in_blocks_are_as_whole(tmp_path: Path) -> None:
    columns = {
        "code": pa.array([None, *range(1, N)], pa.int32()),
        "on": pa.array([None, *[True, False] * (N // 2)][:N], pa.bool_()),
        "kind": pa.array([None, *[1, 2] * (N // 2)][:N], pa.int64()).dictionary_encode(),
        "raw": pa.array([b"a", None] * (N // 2)),
        "void": pa.nulls(N),
        "x": pa.array([str(i) for i in range(N - 1)] + ["+7"]),
        "y": pa.array(np.arange(N) + 2**53),
    }
    frame = pa.table(columns).to_pandas(types_mapper={pa.int32(): pd.Int32Dtype()}.get)
    table = pa.Table.from_pandas(frame.rename_axis("index").set_index(pd.RangeIndex(5, N + 5, name="step")))
    pq.write_table(table.select(range(len(columns))), path := tmp_path / "rows.parquet", row_group_size=9)
    for numbers in (("x", "y", "on"), ("code", "kind")):
        whole = read_frame(path, ("raw",), numbers=numbers)
        blocks = open_blocks(path, ("raw",), numbers=numbers)
        frames = list(blocks.frames(7))
        assert len(frames) > 5
        assert list(whole) == list(frames[0]) == list(blocks.types)
        pd.testing.assert_frame_equal(pd.concat(frames, ignore_index=True), whole)
        features = np.concatenate([features_of(each, numbers).rows for each in frames])
        np.testing.assert_array_equal(features, features_of(whole, numbers).rows)


def test_a_parquet_folder_has_the_types_that_fit_all_parts(tmp_path: Path) -> None:
    for number, values in enumerate(([1, 2], [0.5])):
        pq.write_table(pa.table({"x": values, "n": values}), tmp_path / f"part-{number}.parquet")
    whole = read_frame(tmp_path, (), numbers=("x",))
    frames = list(open_blocks(tmp_path, (), numbers=("x",)).frames(1))
    pd.testing.assert_frame_equal(pd.concat(frames, ignore_index=True), whole)
    assert frames[0]["n"].dtype == "float64"


def test_errors_of_a_block_name_the_row_of_the_table() -> None:
    for start, words in ((0, "column 'row 2', row 3: \"row 4\""), (100, "column 'row 2', row 103: \"row 4\"")):
        with pytest.raises(ConfigError) as raised, counted_from(start):
            raise ConfigError("column 'row 2', row 3: \"row 4\"")
        assert str(raised.value) == words
