"""Row sets, datasets and fingerprints: files that give back what was written, content by its hash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from assay.data.dataset import (
    Card,
    Dataset,
    RowSet,
    fingerprints,
    read_card,
    read_dataset,
    read_rows,
    write_dataset,
    write_rows,
)
from assay.data.modalities.image import Image
from assay.data.modalities.tabular import TABULAR
from assay.errors import DataError
from assay.hashing import hash_file
from assay.parts import read_json, write_json

COLUMNS = ("b", "a", "c")


def dataset() -> Dataset:
    rows = pd.DataFrame(
        {
            "row_id": ["007", "NA", 'quote " and, comma', "ü"],
            "label": np.array([0, 1, -1, 0], dtype=np.int8),
            "group": ["", "1", "01", "null"],
            "time": ["", "", "", ""],
        }
    )
    features = np.array([[1, 2, 3], [0.1, -0.0, 1e-45], [np.nan, np.inf, -np.inf], [3e38, 5, 6]], np.float32)
    return Dataset(Card("small", TABULAR, COLUMNS, "made here"), RowSet(features, rows))


def test_a_dataset_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_dataset(tmp_path, dataset())
    again = read_dataset(tmp_path)
    assert again.card == dataset().card
    np.testing.assert_array_equal(again.data.features, dataset().data.features)
    pd.testing.assert_frame_equal(again.data.rows, dataset().data.rows.assign(copy=0))


def test_copies_are_numbered_in_order_of_arrival_and_stored(tmp_path: Path) -> None:
    few = dataset().data.take(np.array([0, 1, 0, 0, 2, 2, 1]))
    write_dataset(tmp_path, Dataset(dataset().card, few))
    assert read_rows(tmp_path).rows["copy"].tolist() == [0, 0, 1, 2, 0, 1, 1]
    dropped = read_dataset(tmp_path).data.take(np.array([0, 3, 6]))
    write_dataset(tmp_path, Dataset(dataset().card, dropped))
    assert read_dataset(tmp_path).data.rows["copy"].tolist() == [0, 2, 1]


def test_a_dataset_of_before_is_numbered_when_it_is_read(tmp_path: Path) -> None:
    few = dataset().data.take(np.array([0, 1, 0, 0]))
    write_dataset(tmp_path, Dataset(dataset().card, few))
    numbered = read_dataset(tmp_path)
    write_rows(tmp_path, few)
    assert "copy" not in (tmp_path / "rows.csv").read_text()
    card = read_json(tmp_path / "card.json")
    card["sha256"]["rows.csv"] = hash_file(tmp_path / "rows.csv")
    write_json(tmp_path / "card.json", card)
    pd.testing.assert_frame_equal(read_dataset(tmp_path).data.rows, numbered.data.rows)


def test_writing_twice_gives_the_same_bytes_and_nothing_else(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_dataset(tmp_path / folder, dataset())
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["card.json", "features.npy", "rows.csv"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert b"\r" not in (tmp_path / "one" / "rows.csv").read_bytes()


def test_an_image_shape_survives(tmp_path: Path) -> None:
    card = Card("tiny", Image((1, 2)), ("p", "q"), "made here")
    write_dataset(tmp_path, Dataset(card, RowSet(np.zeros((4, 2), np.float32), dataset().data.rows)))
    assert read_card(tmp_path) == card


def test_missing_and_torn_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no dataset"):
        read_dataset(tmp_path)
    write_dataset(tmp_path, dataset())
    (tmp_path / "rows.csv").write_text("row_id,label,group,time\na,0,,\n")
    with pytest.raises(DataError, match="1 rows"):
        read_rows(tmp_path)
    (tmp_path / "features.npy").unlink()
    with pytest.raises(DataError, match=r"features\.npy is missing"):
        read_rows(tmp_path)


def test_taking_rows_keeps_features_and_records_together() -> None:
    data = dataset().data
    by_mask, by_index = data.take(data.labels == 0), data.take(np.array([3, 0]))
    assert by_mask.rows["row_id"].tolist() == ["007", "ü"]
    assert by_index.rows["row_id"].tolist() == ["ü", "007"]
    np.testing.assert_array_equal(by_index.features, data.features[[3, 0]])


@given(arrays(np.float32, (4, 3)), st.permutations(range(3)))
def test_a_fingerprint_does_not_depend_on_the_order_of_columns(X: np.ndarray, order: list[int]) -> None:
    moved = fingerprints(X[:, order], tuple(COLUMNS[i] for i in order))
    assert (fingerprints(X, COLUMNS) == moved).all()


def test_a_fingerprint_knows_content_only() -> None:
    quiet, negative = np.float32(np.nan), -np.float32(np.nan)
    X = np.array([[0.0, quiet, 1], [-0.0, negative, 1], [0.0, quiet, 1.0000001], [1, quiet, 0]], np.float32)
    found = fingerprints(X, COLUMNS)
    assert found[0] == found[1]
    assert len(set(found)) == 3
    assert fingerprints(X, ("b", "a", "d"))[0] != found[0]
    assert {len(text) for text in found} == {32}


def test_a_fingerprint_is_the_same_everywhere() -> None:
    X = np.array([[1.5, -2.0, 0.0]], dtype=np.float32)
    assert fingerprints(X, COLUMNS)[0] == "b135e438fda09f5781a42f79049e5b83"
