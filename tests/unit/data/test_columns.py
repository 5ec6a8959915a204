"""Feature columns: what each is taken for, and how its values come back."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assay.data.batches import as_batch, with_batch, with_vocabulary
from assay.data.blocks import read_frame
from assay.data.columns import Treatment, decoded, features_of, kind_of
from assay.data.dataset import Dataset, read_dataset, write_dataset
from assay.data.files import read_table
from assay.errors import DataError

MIXED = "x,kind,rate,empty\n1,red,,\n2,blue,0.5,\n,red,NA,\n4,,1,\n"


def read(folder: Path, text: str = MIXED, **options: object) -> Dataset:
    path = folder / "mine.csv"
    path.write_text(text)
    return read_table(path, name="mine", **options)  # type: ignore[arg-type]


def test_texts_are_categories_gaps_are_missing_and_empty_columns_are_left_out(tmp_path: Path) -> None:
    dataset = read(tmp_path)
    card = dataset.card
    assert (card.columns, card.left_out) == (("x", "kind", "rate"), ("empty",))
    assert card.vocabulary == {"kind": ("blue", "red")}
    assert card.imputed == ("x", "kind", "rate")
    np.testing.assert_array_equal(
        dataset.data.features, [[1, 1, np.nan], [2, 0, 0.5], [np.nan, 1, np.nan], [4, np.nan, 1]]
    )


def test_a_dataset_with_categories_comes_back_from_its_folder(tmp_path: Path) -> None:
    dataset = read(tmp_path)
    write_dataset(tmp_path / "data", dataset)
    again = read_dataset(tmp_path / "data")
    assert again.card == dataset.card
    np.testing.assert_array_equal(again.data.features, dataset.data.features)
    table = decoded(again.data.features, again.card.columns, again.card.vocabulary)
    assert table["kind"].tolist() == ["red", "blue", "red", None]


def test_numbers_may_be_codes_of_categories(tmp_path: Path) -> None:
    dataset = read(tmp_path, "x,zone\n1,007\n2,012\n3,007\n", treatment=Treatment(categorical=("zone",)))
    assert dataset.card.vocabulary == {"zone": ("007", "012")}
    assert dataset.data.features[:, 1].tolist() == [0, 1, 0]


def test_missing_values_are_refused_where_that_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column 'rate', row 0: missing"):
        read(tmp_path, treatment=Treatment(refuse=("rate",)))
    assert read(tmp_path, "x,y\n1,2\n", treatment=Treatment(impute=("y",))).card.imputed == ("y",)


@pytest.mark.parametrize(
    ("treatment", "message"),
    [
        (
            Treatment(categorical=("size",)),
            "--categorical size: 'size' is no feature column of mine.csv; these are x, kind",
        ),
        (Treatment(impute=("x",), refuse=("x",)), "column 'x' is named for two purposes"),
        (Treatment(leave_out=("x",), categorical=("x",)), "column 'x' is named for two purposes"),
    ],
)
def test_treatments_that_cannot_be_are_named(treatment: Treatment, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, treatment=treatment)


def test_columns_of_ids_and_free_text_are_no_categories_unless_asked(tmp_path: Path) -> None:
    text = "x,who\n" + "".join(f"{i},person {i}\n" for i in range(300))
    with pytest.raises(DataError, match="column 'who' has 300 different texts in 300 rows, such as 'person 0'"):
        read(tmp_path, text)
    assert read(tmp_path, text, treatment=Treatment(leave_out=("who",))).card.left_out == ("who",)
    assert len(read(tmp_path, text, treatment=Treatment(categorical=("who",))).card.vocabulary["who"]) == 300


def test_a_code_means_the_same_in_every_version_of_a_dataset(tmp_path: Path) -> None:
    first = as_batch(read(tmp_path))
    grown = with_batch(first, read(tmp_path, "x,kind,rate,empty\n9,amber,,\n8,red,1,\n", like=first.card))
    assert grown.card.vocabulary == {"kind": ("blue", "red", "amber")}
    np.testing.assert_array_equal(grown.data.features[:4], first.data.features)
    assert grown.data.features[4:, 1].tolist() == [2, 1]
    anew = with_vocabulary(read(tmp_path, "x,kind,rate\n9,amber,\n8,red,1\n"), grown.card.vocabulary)
    assert anew.data.features[:, 1].tolist() == [2, 1]
    assert sorted(anew.card.fingerprints(anew.data.features)) == sorted(
        grown.card.fingerprints(grown.data.features[4:])
    )


def test_a_batch_is_known_again_whatever_texts_came_in_between(tmp_path: Path) -> None:
    first = as_batch(read(tmp_path))
    text = "x,kind,rate,empty\n9,zinc,,\n8,red,1,\n"
    grown = with_batch(first, read(tmp_path, text, like=first.card))
    grown = with_batch(grown, read(tmp_path, "x,kind,rate,empty\n7,amber,1,\n", like=grown.card))
    with pytest.raises(DataError, match="is in dataset mine already"):
        with_batch(grown, read(tmp_path, text, like=grown.card))


def test_a_column_of_a_batch_may_be_all_missing(tmp_path: Path) -> None:
    first = as_batch(read(tmp_path))
    grown = with_batch(first, read(tmp_path, "x,kind,rate,empty\n9,,,\n8,,,\n", like=first.card))
    assert np.isnan(grown.data.features[4:, 1:]).all()


@pytest.mark.parametrize(
    "given", [["2026-05-01", "", "2026-05-02T12:30:00+02:00"], ["2026-05-01 00:00:00", "NA", "2026-05-02T10:30Z"]]
)
def test_dates_are_seconds_in_utc(given: list[str], tmp_path: Path) -> None:
    dataset = read(tmp_path, "x,day\n" + "".join(f"1,{text}\n" for text in given))
    assert dataset.card.dates == ("day",)
    np.testing.assert_array_equal(dataset.data.features[:, 1], [1777593600, np.nan, 1777717800])
    assert dataset.card.table(dataset.data.features)["day"].tolist() == [
        "2026-05-01T00:00:00.000000Z",
        None,
        "2026-05-02T10:30:00.000000Z",
    ]


def test_dates_of_a_parquet_file_and_what_is_no_date(tmp_path: Path) -> None:
    days = pd.to_datetime(["2026-05-01", None, "2026-05-02T10:30:00"], format="ISO8601")
    pd.DataFrame({"x": [1.0, 2.0, 3.0], "day": days}).to_parquet(tmp_path / "mine.parquet")
    dataset = read_table(tmp_path / "mine.parquet", name="mine")
    np.testing.assert_array_equal(dataset.data.features[:, 1], [1777593600, np.nan, 1777717800])
    frame = pd.DataFrame({"day": ["2026-05-01", "May 2"]})
    with pytest.raises(DataError, match="column 'day' holds dates, and row 1 has 'May 2'"):
        features_of(frame, ("day",), dates=("day",))


def test_new_texts_follow_the_known_ones() -> None:
    frame = pd.DataFrame({"kind": ["new", "red", None, "black"]})
    features = features_of(frame, ("kind",), {"kind": ("red", "blue")})
    assert features.vocabulary == {"kind": ("red", "blue", "black", "new")}
    np.testing.assert_array_equal(features.rows[:, 0], [3, 0, np.nan, 2])
    assert features.table()["kind"].tolist() == ["new", "red", None, "black"]


@pytest.mark.parametrize("spelling", [["true", "false"], ["True", "False"], [True, False]])
def test_true_and_false_are_the_same_categories_in_every_spelling(spelling: list[object]) -> None:
    features = features_of(pd.DataFrame({"ok": pd.Series(spelling, dtype=object)}), ("ok",), {"ok": ()})
    assert features.vocabulary == {"ok": ("false", "true")}


@pytest.mark.parametrize(
    "text", ["1,200.50", "1.200,50", "12,345", "1 200", "1\u00a0200", "1'200", "12 %", "$12.50", "3.20 €", "\u221212"]
)
def test_numbers_with_thousands_signs_are_no_categories(text: str) -> None:
    with pytest.raises(DataError, match="column 'x' holds numbers with thousands signs"):
        kind_of("x", pd.Series([text] * 3 + ["2,400.75"]))


@pytest.mark.parametrize("text", ["01/02/2026", "1.2.2026 10:30", "2026/02/01", "01-FEB-26"])
def test_dates_that_can_be_read_in_two_ways_are_no_categories(text: str) -> None:
    column = pd.Series([text] * 3)
    with pytest.raises(DataError, match=r"column 'x' holds dates such as .*; write them as 2026-05-01"):
        kind_of("x", column)
    assert kind_of("x", column, ("x",)) == "category"


def test_a_column_of_categories_without_any_is_empty() -> None:
    assert kind_of("x", pd.Series(["", "NA"]), ("x",)) == "empty"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([20000, None], pa.date32()), "date"),
        (pa.array([Decimal("1.50"), None], pa.decimal128(10, 2)), "number"),
        (pa.array(["1", "2"]).dictionary_encode(), "number"),
        (pa.array(["red", "blue"]).dictionary_encode(), "category"),
    ],
)
def test_ordinary_types_of_parquet_files_are_read(values: pa.Array, kind: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": values}), tmp_path / "mine.parquet")
    frame = read_frame(tmp_path / "mine.parquet", ())
    assert kind_of("x", frame["x"]) == kind
