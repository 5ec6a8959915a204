"""Batches: named by their content, added after the rows that are there, dropped without a trace being reused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from assay.data.batches import as_batch, content_id, with_batch, without_batch
from assay.data.dataset import Dataset, broken_seals, read_dataset, write_dataset
from assay.data.files import read_table
from assay.errors import DataError


def table(folder: Path, n: int, *, first: int = 0, name: str = "rows.csv", **options: str) -> Dataset:
    """Read n rows with the columns a, b and, if they are asked for, ids."""
    numbers = np.arange(first, first + n)
    frame = pd.DataFrame({"a": numbers / 7, "b": 2.4e9 + numbers, "key": [f"k{i}" for i in numbers]})
    frame = frame if "id_column" in options else frame[["b", "a"]]
    frame.to_csv(folder / name, index=False)
    return read_table(folder / name, name="small", **options)


def test_a_batch_is_named_by_its_content(tmp_path: Path) -> None:
    one, again, other = (table(tmp_path, 5, name=name) for name in ("a.csv", "b.csv", "c.csv"))
    assert content_id(one) == content_id(again)
    other.data.features[3, 1] += 1e-6
    assert content_id(one) != content_id(other)
    assert content_id(table(tmp_path, 5)) == content_id(one)
    assert content_id(table(tmp_path, 4)) != content_id(one)
    assert len(content_id(one)) == 12
    assert set(as_batch(one).data.rows["batch"]) == {content_id(one)}
    assert set(as_batch(one, "monday").data.rows["batch"]) == {"monday"}
    with pytest.raises(DataError, match="id is 'a b'"):
        as_batch(one, "a b")


def test_rows_arrive_after_those_that_are_there(tmp_path: Path) -> None:
    start = as_batch(table(tmp_path, 5))
    moved = table(tmp_path, 3, first=5)
    moved = Dataset(replace(moved.card, columns=("a", "b")), replace(moved.data, features=moved.data.features[:, ::-1]))
    grown = with_batch(start, moved, "tuesday")
    assert len(grown.data) == 8
    assert grown.card.columns == start.card.columns
    np.testing.assert_array_equal(grown.data.features, table(tmp_path, 8).data.features)
    pd.testing.assert_frame_equal(grown.data.rows[:5].drop(columns="copy"), start.data.rows)
    assert grown.data.rows["row_id"].tolist()[5:] == [f"tuesday-000000{i}" for i in range(3)]
    assert [(a.batch, a.rows, a.dropped) for a in grown.card.batches[1:]] == [("tuesday", 3, False)]
    write_dataset(tmp_path / "data", grown)
    again = read_dataset(tmp_path / "data")
    assert again.card == grown.card
    pd.testing.assert_frame_equal(again.data.rows, grown.data.rows)


def test_a_batch_seen_before_is_refused(tmp_path: Path) -> None:
    start, more = as_batch(table(tmp_path, 5)), table(tmp_path, 3, first=5)
    grown = with_batch(start, more)
    for dataset, arriving in (
        (start, table(tmp_path, 5)),
        (grown, more),
        (without_batch(grown, content_id(more)), more),
    ):
        with pytest.raises(DataError, match=f"batch {content_id(arriving)} .* already; nothing was changed"):
            with_batch(dataset, arriving)
    with pytest.raises(DataError, match=r"batch monday .* is in dataset small already"):
        with_batch(with_batch(start, more, "monday"), table(tmp_path, 2), "monday")
    assert len(with_batch(grown, more, "again").data) == 11


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    start = as_batch(table(tmp_path, 5, id_column="key"))
    with pytest.raises(DataError, match="row 0 has the row id 'k4' of an earlier row of dataset small"):
        with_batch(start, table(tmp_path, 3, first=4, id_column="key"))
    with pytest.raises(DataError, match="do not both have a column of row ids"):
        with_batch(start, table(tmp_path, 3, first=5))
    (tmp_path / "odd.csv").write_text("a,c,key\n1,2,x\n")
    with pytest.raises(DataError, match="'c' is only in one of them"):
        with_batch(start, read_table(tmp_path / "odd.csv", name="small", id_column="key"))
    (tmp_path / "sites.csv").write_text("a,b,key,site\n1,2,x,n\n")
    with pytest.raises(DataError, match="do not both have categories"):
        with_batch(start, read_table(tmp_path / "sites.csv", name="small", id_column="key", category="site"))


def test_a_dropped_batch_leaves_its_ids_behind(tmp_path: Path) -> None:
    start = as_batch(table(tmp_path, 5, id_column="key"), "first")
    grown = with_batch(
        with_batch(start, table(tmp_path, 3, first=5, id_column="key"), "second"),
        table(tmp_path, 2, first=8, id_column="key"),
        "third",
    )
    rest = without_batch(grown, "second")
    assert rest.data.rows["row_id"].tolist() == ["k0", "k1", "k2", "k3", "k4", "k8", "k9"]
    assert [(a.batch, a.dropped) for a in rest.card.batches] == [("first", False), ("second", True), ("third", False)]
    assert rest.dropped is not None
    assert rest.dropped["row_id"].tolist() == ["k5", "k6", "k7"]
    assert rest.dropped["copy"].tolist() == [0, 0, 0]
    assert rest.dropped["fingerprint"].tolist() == grown.card.fingerprints(grown.data.features)[5:8].tolist()
    with pytest.raises(DataError, match="'k6' of an earlier row"):
        with_batch(rest, table(tmp_path, 1, first=6, id_column="key"), "fourth")
    for batch in ("second", "fifth"):
        with pytest.raises(DataError, match=f"has no batch '{batch}'; it has first, third"):
            without_batch(rest, batch)
    with pytest.raises(DataError, match="is all that dataset small has"):
        without_batch(without_batch(rest, "first"), "third")
    write_dataset(tmp_path / "data", rest)
    again = read_dataset(tmp_path / "data")
    assert again.dropped is not None
    pd.testing.assert_frame_equal(again.dropped, rest.dropped)
    (tmp_path / "data" / "dropped.csv").unlink()
    assert [path.name for path in broken_seals(tmp_path / "data")] == ["dropped.csv"]


def test_copies_are_numbered_on_and_never_again(tmp_path: Path) -> None:
    def states(n: int, batch: str) -> Dataset:
        (tmp_path / f"{batch}.csv").write_text("a\n" + "1\n" * n + f"{len(batch)}\n")
        return read_table(tmp_path / f"{batch}.csv", name="small")

    dataset = as_batch(states(2, "first"), "first")
    for batch, n in (("second", 3), ("thirds", 2)):
        dataset = with_batch(dataset, states(n, batch), batch)
    assert dataset.data.rows["copy"].tolist() == [0, 1, 0, 2, 3, 4, 0, 5, 6, 1]
    rest = without_batch(without_batch(dataset, "thirds"), "second")
    assert rest.data.rows["copy"].tolist() == [0, 1, 0]
    again = with_batch(rest, states(2, "fourth"), "fourth")
    assert again.data.rows["copy"].tolist() == [0, 1, 0, 7, 8, 2]
    write_dataset(tmp_path / "data", again)
    assert read_dataset(tmp_path / "data").data.rows["copy"].tolist() == [0, 1, 0, 7, 8, 2]


def test_data_of_format_1_grow_too(tmp_path: Path) -> None:
    start = table(tmp_path, 5)
    old = Dataset(replace(start.card, scheme=1), start.data)
    grown = with_batch(old, table(tmp_path, 3, first=5), "more")
    assert [a.batch for a in grown.card.batches] == [content_id(old), "more"]
    assert grown.data.rows["batch"].tolist() == [content_id(old)] * 5 + ["more"] * 3
    assert grown.card.scheme == 1
