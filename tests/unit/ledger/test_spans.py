"""Steps and stretches of time stand for the windows that hold any of them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.data.batches import as_batch
from assay.data.dataset import write_dataset
from assay.data.series_files import SeriesColumns, read_series
from assay.data.windows import Windows
from assay.errors import DataError
from assay.ledger.ledger import Ledger
from assay.ledger.spans import spans_of, spans_over, stretch_columns

PLAN = Windows(time="t", entity="pump", channels=("x",), length=4, stride=2, step=2.0, roles_by="block")
PAIRS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40), st.integers(0, 9)), min_size=1, max_size=12)


@given(PAIRS, PAIRS, st.booleans())
def test_they_are_those_that_a_plain_loop_finds(stretches: list[tuple[str, int, int]], made: list[tuple[str, int, int]],
                                                is_open: bool) -> None:  # fmt: skip
    """An open window, whose end is not known, lasts as long as the steps of its length do."""
    frame = pd.DataFrame([(pump, first, first + more) for pump, first, more in stretches], columns=["pump", "u", "v"])
    spans = pd.DataFrame(
        {
            "row_id": [f"{number}" for number in range(len(made))],
            "entity": [pump for pump, *_ in made],
            "start": [str(first) for _, first, _ in made],
            "end": ["" if is_open else str(first + more) for _, first, more in made],
            "length": 4,
        }
    )
    ids, outside = spans_over(Path("f.csv"), frame, PLAN, spans, ("u", "v"))
    ends = [first + (6 if is_open else more) for _, first, more in made]
    meets = np.array(
        [
            [p == q and a <= end and b >= first for (q, first, _), end in zip(made, ends, strict=True)]
            for p, a, b in frame.itertuples(index=False)
        ]
    )
    assert ids.tolist() == np.flatnonzero(meets.any(axis=0)).astype(str).tolist()
    assert outside == int((~meets.any(axis=1)).sum())


def test_what_a_file_has_to_hold() -> None:
    assert stretch_columns(PLAN, ["t", "pump", "x"]) == ("t", "t")
    assert stretch_columns(PLAN, ["start", "end", "pump"]) == ("start", "end")
    assert stretch_columns(PLAN, ["t", "x"]) is None
    spans = pd.DataFrame({"row_id": ["0"], "entity": ["a"], "start": ["3"], "end": ["9"], "length": 4})
    for rows, message in (
        ([("a", "2024-01-01", "2024-01-02")], "has the time '2024-01-01', and the dataset '3'"),
        ([("a", "7", "5")], "row 0 of f.csv ends before it begins"),
        ([("a", "1", "2"), ("", "1", "2")], "row 1 of f.csv has nothing in column 'pump'"),
    ):
        frame = pd.DataFrame(rows, columns=["pump", "u", "v"])
        with pytest.raises(DataError, match=message):
            spans_over(Path("f.csv"), frame, PLAN, spans, ("u", "v"))


def test_windows_of_an_earlier_version_with_other_channels_have_their_own_length(tmp_path: Path) -> None:
    frame = pd.DataFrame({"t": range(40), "x": range(40), "y": range(40)})
    frame.to_csv(tmp_path / "now.csv", index=False)
    now = read_series(tmp_path / "now.csv", SeriesColumns("t", 4), name="rig")
    write_dataset(tmp_path / "data" / "rig", as_batch(now))
    pd.DataFrame({"row_id": ["at 100"]}).to_parquet(tmp_path / "former.parquet")
    former = Windows(time="t", entity=None, channels=("x",), length=12, stride=6, step=1.0, roles_by="block")
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE files (dataset VARCHAR, path VARCHAR, columns VARCHAR[])")
        connection.execute("INSERT INTO files VALUES ('rig', 'former.parquet', ?)", [list(former.columns)])
        ledger = SimpleNamespace(root=tmp_path, connect=lambda: nullcontext(connection))
        spans = spans_of(cast(Ledger, ledger), "rig")
    assert now.card.windows is not None
    ids, outside = spans_over(Path("f.csv"), pd.DataFrame({"t": [111]}), now.card.windows, spans, ("t", "t"))
    assert ids.tolist() == ["at 100"]
    assert outside == 0
