"""Row sets, datasets and fingerprints: files that give back what was written, content by its hash."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from assay.data.card import Card, read_card
from assay.data.dataset import Dataset, RowSet, read_dataset, read_rows, write_dataset, write_rows
from assay.data.fingerprints import fingerprints
from assay.data.modalities.image import Image
from assay.data.modalities.tabular import TABULAR
from assay.data.npy import npy_pieces
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
            "batch": ["first", "first", "0", "0"],
        }
    )
    features = np.array([[1, 2, 3], [0.1, -0.0, 1e-300], [np.nan, np.inf, -np.inf], [1e300, 5, 2.4e9 + 1e-6]])
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


def test_the_bytes_of_features_depend_on_nothing_else() -> None:
    def npy_bytes(values: np.ndarray) -> bytes:
        return b"".join(npy_pieces(values))

    values = np.array([[1.5, -np.nan, 2.4e9 + 1e-6], [0.1, -0.0, np.inf]])
    written = npy_bytes(values)
    assert hashlib.sha256(written).hexdigest() == "e6a9e2109e84c8e6528523a8f111b285efc62d79fc97908348da60bac478e8b4"
    assert npy_bytes(np.asfortranarray(values)) == npy_bytes(values.astype(">f8")) == written
    assert len(written) == 128 + values.nbytes
    assert written[128 + 8 : 128 + 16] == np.array(np.nan, "<f8").tobytes()
    np.testing.assert_array_equal(np.load(io.BytesIO(written)), values)
    np.testing.assert_array_equal(np.load(io.BytesIO(npy_bytes(np.empty((0, 3))))), np.empty((0, 3)))


def as_format_1(folder: Path, data: RowSet) -> None:
    """Write a dataset as Assay did before format 2."""
    np.save(folder / "features.npy", data.features.astype("<f4"))
    data.rows.drop(columns="batch").to_csv(folder / "rows.csv", index=False, lineterminator="\n")
    seal = {name: hash_file(folder / name) for name in ("features.npy", "rows.csv")}
    fields = {"name": "small", "columns": list(COLUMNS), "source": "made here", "modality": "tabular"}
    write_json(folder / "card.json", {**fields, "image_shape": None, "sha256": seal})


def test_format_1_is_read_for_ever(tmp_path: Path) -> None:
    data = dataset().data.take(np.array([0, 1]))
    as_format_1(tmp_path, data)
    found = read_dataset(tmp_path)
    assert found.data.features.dtype == np.float64
    np.testing.assert_array_equal(found.data.features, data.features.astype(np.float32))
    assert found.card.scheme == 1
    assert (found.card.fingerprints(found.data.features) == fingerprints(data.features, COLUMNS, scheme=1)).all()
    assert found.data.rows["row_id"].tolist() == ["007", "NA"]


def test_a_format_to_come_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path, dataset())
    write_json(tmp_path / "card.json", read_json(tmp_path / "card.json") | {"format": 3})
    with pytest.raises(DataError, match="has format 3; this Assay reads 1 and 2"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("values", [np.array([["a"]]), np.array([[1]]), np.array([[1.0]], np.float16)])
def test_features_of_another_type_are_refused(values: np.ndarray, tmp_path: Path) -> None:
    write_dataset(tmp_path, dataset())
    np.save(tmp_path / "features.npy", values)
    with pytest.raises(DataError, match="must hold float64"):
        read_rows(tmp_path)


def coded(codes: list[float], texts: tuple[str, ...]) -> Dataset:
    features = np.stack([np.arange(4.0), codes, np.ones(4)], axis=1)
    card = Card("small", TABULAR, COLUMNS, "made here", vocabulary={"a": texts})
    return Dataset(card, RowSet(features, dataset().data.rows))


def test_a_column_of_categories_is_codes_and_a_vocabulary(tmp_path: Path) -> None:
    given = coded([0, 1, np.nan, 1], ("red", "grün"))
    write_dataset(tmp_path, given)
    again = read_dataset(tmp_path)
    assert again.card == given.card
    np.testing.assert_array_equal(again.data.features, given.data.features)
    for codes, texts in (([0, 2, 0, 0], ("red", "grün")), ([0, 0.5, 0, 0], ("red", "grün")), ([0, -1, 0, 0], ("red",))):
        with pytest.raises(DataError, match=r"column 'a', row 1: .* is no category"):
            write_dataset(tmp_path, coded(codes, texts))
    with pytest.raises(DataError, match="names a text twice"):
        write_dataset(tmp_path, coded([0, 0, 0, 0], ("red", "red")))


def test_a_fingerprint_is_of_the_text_not_of_its_code() -> None:
    one, other = coded([0, 1, np.nan, 1], ("red", "blue")), coded([2, 0, np.nan, 0], ("blue", "green", "red"))
    prints = one.card.fingerprints(one.data.features)
    assert (prints == other.card.fingerprints(other.data.features)).all()
    assert len(set(prints)) == 4
    swapped = coded([0, 1, np.nan, 1], ("blue", "red"))
    assert (prints == swapped.card.fingerprints(swapped.data.features)).tolist() == [False, False, True, False]
    numbers = coded([0, 1, np.nan, 1], ("red", "blue"))
    assert not (prints == fingerprints(numbers.data.features, COLUMNS)).any()


@given(arrays(np.float64, (4, 3)), st.permutations(range(3)), st.sampled_from([1, 2]))
def test_a_fingerprint_does_not_depend_on_the_order_of_columns(X: np.ndarray, order: list[int], scheme: int) -> None:
    moved = fingerprints(X[:, order], tuple(COLUMNS[i] for i in order), scheme=scheme)
    assert (fingerprints(X, COLUMNS, scheme=scheme) == moved).all()


@pytest.mark.parametrize(("scheme", "near"), [(1, 1.0000001), (2, 1 + 2**-52)])
def test_a_fingerprint_knows_content_only(scheme: int, near: float) -> None:
    quiet, negative = np.nan, -np.nan
    X = np.array([[0.0, quiet, 1], [-0.0, negative, 1], [0.0, quiet, near], [1, quiet, 0]])
    found = fingerprints(X, COLUMNS, scheme=scheme)
    assert found[0] == found[1]
    assert len(set(found)) == 3
    assert fingerprints(X, ("b", "a", "d"), scheme=scheme)[0] != found[0]
    assert {len(text) for text in found} == {32}


def test_only_scheme_1_takes_values_that_float32_merges_for_the_same() -> None:
    X = np.array([[2.4e9, 0, 0], [2.4e9 + 5, 1e-50, 0]])
    first, second = (fingerprints(X, COLUMNS, scheme=scheme) for scheme in (1, 2))
    assert first[0] == first[1]
    assert len({*first, *second}) == 3


@pytest.mark.parametrize("scheme", [1, 2])
def test_a_fingerprint_is_the_same_everywhere(scheme: int) -> None:
    X = np.array([[1.5, -2.0, 0.0]])
    expected = {1: "b135e438fda09f5781a42f79049e5b83", 2: "73a017a577ddd4d9a18ed9a88185ea54"}
    assert fingerprints(X, COLUMNS, scheme=scheme)[0] == expected[scheme]
    assert fingerprints(X.astype(np.float32), COLUMNS, scheme=scheme)[0] == expected[scheme]


@pytest.mark.parametrize("n", [0, 2])
def test_columns_beside_those_of_a_dataset_come_back(n: int, tmp_path: Path) -> None:
    rows = pd.DataFrame({"row_id": ["a", "b"], "answered": [0, 1], "flag": [True, False], "note": ["x", ""]})[:n]
    write_rows(tmp_path, RowSet(np.zeros((n, 1)), rows))
    back = read_rows(tmp_path).rows
    assert back.to_dict("list") == rows.to_dict("list")
