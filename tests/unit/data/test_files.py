"""A user's own file: what becomes of it, and the message for everything that cannot be used."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.data.dataset import numbered, read_dataset, write_dataset
from assay.data.dialects import Dialect
from assay.data.files import read_table
from assay.data.times import sortable_times
from assay.errors import ConfigError, DataError


def csv(folder: Path, text: str) -> Path:
    path = folder / "mine.csv"
    path.write_text(text, encoding="utf-8")
    return path


def assert_refused(folder: Path, text: str, message: str, **options: Any) -> None:
    with pytest.raises(DataError, match=message):
        read_table(csv(folder, text), **{"name": "mine", **options})


def test_a_csv_becomes_a_dataset(tmp_path: Path) -> None:
    path = csv(tmp_path, "id,x,ill,y,who\n007,1.5,0,2,a\n008,,1,inf,\n009,-1,,True,NA\n".replace("True", "3"))
    found = read_table(path, name="mine", label="ill", id_column="id", group="who")
    assert found.card.columns == ("x", "y")
    assert (found.card.modality.name, found.card.source) == ("tabular", "mine.csv")
    assert found.data.rows["row_id"].tolist() == ["007", "008", "009"]
    assert found.data.labels.tolist() == [0, 1, -1]
    assert found.data.rows["group"].tolist() == ["a", "", ""]
    np.testing.assert_array_equal(found.data.features, np.array([[1.5, 2], [np.nan, np.inf], [-1, 3]]))


def test_what_is_read_can_be_written_and_read_again(tmp_path: Path) -> None:
    path = csv(tmp_path, "id,x,who,when\n1,1,01,-2\n2,2,1,10\n3,3,,9.5\n")
    found = read_table(path, name="mine", id_column="id", group="who", time="when")
    write_dataset(tmp_path / "data", found)
    again = read_dataset(tmp_path / "data")
    pd.testing.assert_frame_equal(again.data.rows, numbered(found).data.rows)
    np.testing.assert_array_equal(again.data.features, found.data.features)
    assert again.card == found.card


def test_columns_of_a_parquet_file_may_be_called_by_numbers(tmp_path: Path) -> None:
    pd.DataFrame({0: [1.0, 2.0], 7: [0, 1], 9: [3.0, 4.0]}).to_parquet(tmp_path / "mine.parquet")
    found = read_table(tmp_path / "mine.parquet", name="mine", label="7")
    assert found.card.columns == ("0", "9")
    np.testing.assert_array_equal(found.data.features, [[1, 3], [2, 4]])
    assert found.data.labels.tolist() == [0, 1]


def test_parquet_and_csv_give_the_same_rows(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "key": [11, 12, 13],
            "x": [0.1, 1 / 3, 1e-30],
            "flag": [True, False, True],
            "ill": [0.0, np.nan, 1.0],
            "who": [1.0, np.nan, 2.0],
            "when": pd.to_datetime(["2024-01-02", "2024-01-01", "2024-01-03"]),
        }
    )
    frame.to_parquet(tmp_path / "mine.parquet")
    frame.set_index("key").to_parquet(tmp_path / "keyed.parquet")
    frame.assign(flag=frame["flag"].astype(int), who=["1", "", "2"]).to_csv(tmp_path / "mine.csv", index=False)
    options = {"name": "m", "label": "ill", "id_column": "key", "group": "who", "time": "when"}
    one, *others = [read_table(tmp_path / f, **options) for f in ("mine.csv", "mine.parquet", "keyed.parquet")]
    for other in others:
        pd.testing.assert_frame_equal(other.data.rows, one.data.rows)
        np.testing.assert_array_equal(other.data.features, one.data.features)


def test_decimals_become_the_nearest_float64(tmp_path: Path) -> None:
    draw = np.random.default_rng(0).integers(2**63, size=2000, dtype=np.uint64).view(np.float64)
    numbers = draw[np.abs(draw) < 1e300]
    texts = [text for x in numbers.tolist() for text in (repr(x), f"{x:.30e}")]
    found = read_table(csv(tmp_path, "x\n" + "\n".join(texts) + "\n"), name="mine")
    assert found.data.features[:, 0].tolist() == [float(text) for text in texts]


def test_rows_without_ids_get_stable_ones(tmp_path: Path) -> None:
    short, long = (read_table(csv(tmp_path, "x\n" + "1\n" * n), name="mine") for n in (3, 1200))
    assert short.data.rows["row_id"].tolist() == ["mine-0000000", "mine-0000001", "mine-0000002"]
    assert long.data.rows["row_id"][:3].tolist() == short.data.rows["row_id"].tolist()
    assert set(short.data.labels) == {-1}


@pytest.mark.parametrize("word", ["NA", "nan", "null", ""])
def test_missing_features_are_kept_as_nan(word: str, tmp_path: Path) -> None:
    found = read_table(csv(tmp_path, f"x,y\n1,1\n{word},1\n"), name="mine")
    assert np.isnan(found.data.features).tolist() == [[False, False], [True, False]]


@pytest.mark.parametrize("labels", [("0", "1", "-1"), ("false", "True", ""), ("0.0", "1.0", "NaN")])
def test_labels_may_be_written_in_several_ways(labels: tuple[str, ...], tmp_path: Path) -> None:
    path = csv(tmp_path, "x,y\n" + "".join(f"1,{label}\n" for label in labels))
    assert read_table(path, name="mine", label="y").data.labels.tolist() == [0, 1, -1]


@pytest.mark.parametrize("label", ["2", "yes", "0.5", "-2", "unknown", "normal"])
def test_any_other_label_is_named_with_its_row(label: str, tmp_path: Path) -> None:
    assert_refused(tmp_path, f"x,y\n1,0\n1,{label}\n", f"row 1 has the label '{label}'", label="y")


@pytest.mark.parametrize(
    ("text", "message", "options"),
    [
        ("x,c\n1,2\n3,red\n", "column 'c' holds numbers and text: row 1 has 'red'", {}),
        ("x,x\n1,2\n", "more than one column named 'x'", {}),
        (",x\n5,2\n", "column 0 of mine.csv has no name", {}),
        ("x,y\n", "has no rows", {}),
        ("", "is empty", {}),
        ("x\n1\n", "no feature column", {"label": "x"}),
        ("x\n1\n", "no column 'y'; its columns are x", {"group": "y"}),
        ("x,y\n1,1\n", "two purposes", {"group": "y", "time": "y"}),
        ("x\n1\n-1e301\n", "column 'x', row 1: -1e\\+301 is beyond 1e\\+300", {}),
        ("x\n1_0\n1\n", "column 'x' holds numbers and text: row 0 has '1_0'", {}),
        ("x,y\n0,1,2\n1,3,4\n", "mine.csv, line 2 has 3 fields where the header has 2", {}),
        ("x,y\n1,2\n1,2,3\n", "line 3 has 3 fields", {}),
        ("x,id\n1,a\n2,a\n", "row 1 has the row id 'a' of an earlier row", {"id_column": "id"}),
        ("x,id\n1,a\n2,\n", "row 1 has no row id", {"id_column": "id"}),
        ('x,id\n1,"a\rb"\n', "control characters", {"id_column": "id"}),
        ("x,t\n1,1\n2,\n", "row 1 has the time ''", {"time": "t"}),
        ("x,t\n1,1\n2,soon\n", "row 1 has the time 'soon'; all must be numbers", {"time": "t"}),
        ("x,t\n1,2024-01-01\n2,5 May\n", "row 1 has the time '5 May'; all must be ISO", {"time": "t"}),
        ("x,t\n1,1\n2,1e20\n", "row 1 has the time '1e20'", {"time": "t"}),
        ("x,t\n1,1500-01-01\n", "outside the years", {"time": "t"}),
    ],
)
def test_what_cannot_be_used_is_named(text: str, message: str, options: dict[str, str], tmp_path: Path) -> None:
    assert_refused(tmp_path, text, message, **options)


@pytest.mark.parametrize("name", ["Mine", "", "-a", "a-", "a b", "a/b", "../a", "a\n", "a" * 61, "package", "scorers"])
def test_names_that_make_no_folder_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("x\n1\n")
    with pytest.raises(ConfigError, match="the dataset's name is"):
        read_table(tmp_path / "mine.csv", name=name)


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.xlsx").write_text("x\n1\n")
    with pytest.raises(DataError, match="neither"):
        read_table(tmp_path / "mine.xlsx", name="mine")
    with pytest.raises(DataError, match="no file"):
        read_table(tmp_path / "mine.csv", name="mine")
    (tmp_path / "mine.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path / "mine.parquet", name="mine")
    (tmp_path / "mine.csv").write_bytes(b"x\n\xff\n")
    with pytest.raises(DataError, match=r"not in the encoding utf-8.*--encoding latin-1"):
        read_table(tmp_path / "mine.csv", name="mine")


def test_a_parquet_file_may_not_name_a_column_twice(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table([[1.0], [2.0]], names=["x", "x"]), tmp_path / "mine.parquet")
    with pytest.raises(DataError, match="more than one column named 'x'"):
        read_table(tmp_path / "mine.parquet", name="mine")


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    assert read_table(csv(tmp_path, "\ufeffx,y\n1,2\n"), name="mine").card.columns == ("x", "y")


NUMBERS = st.one_of(
    st.integers(-(10**19), 10**19),
    st.floats(-1e19, 1e19).filter(lambda value: value == 0 or abs(value) > 1e-40),
)


@given(st.lists(NUMBERS, min_size=1))
def test_numbers_sort_as_text_by_their_value(values: list[int | float]) -> None:
    keys = sortable_times(np.array([repr(value) for value in values], dtype=object))
    for a, key_a in zip(values, keys, strict=True):
        for b, key_b in zip(values, keys, strict=True):
            assert (a < b, a == b) == (key_a < key_b, key_a == key_b)


ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(1700, 1, 1), datetime(2250, 1, 1), timezones=ZONES)


@given(st.lists(MOMENTS, min_size=1, max_size=20))
def test_timestamps_sort_as_text_by_their_moment(moments: list[datetime]) -> None:
    keys = sortable_times(np.array([moment.isoformat() for moment in moments], dtype=object))
    by_text = sorted(range(len(moments)), key=lambda i: keys[i])
    ordered = [moments[i].astimezone(UTC) for i in by_text]
    assert ordered == sorted(ordered)
    assert {len(key) for key in keys} == {30}


def test_times_are_written_as_documented() -> None:
    stamps = [
        "2024-01-01T01:00:00+02:00",
        "2024-01-01",
        "2024-01-01T00:00:00.123456789Z",
        "1999-12-31 23:59:59.5",
    ]
    assert sortable_times(np.array(stamps, dtype=object)).tolist() == [
        "2023-12-31T23:00:00.000000000Z",
        "2024-01-01T00:00:00.000000000Z",
        "2024-01-01T00:00:00.123456789Z",
        "1999-12-31T23:59:59.500000000Z",
    ]
    numbers = np.array(["5", "5.0", "1e3", "-1.25", "0.5"], dtype=object)
    assert sortable_times(numbers).tolist() == [
        "00000000000000000005",
        "00000000000000000005",
        "00000000000000001000",
        "-99999999999999999998.75",
        "00000000000000000000.5",
    ]


def test_nanoseconds_since_1970_keep_every_digit(tmp_path: Path) -> None:
    ticks = [1700000000000000002, 1700000000000000001]
    pd.DataFrame({"x": [1.0, 2.0], "t": ticks}).to_parquet(tmp_path / "mine.parquet")
    found = read_table(tmp_path / "mine.parquet", name="mine", time="t")
    assert found.data.rows["time"].tolist() == [f"{tick:020d}" for tick in ticks]


@pytest.mark.parametrize(
    ("labels", "options", "values"),
    [
        (["1", "-1", "1", ""], {"normal": "1"}, [0, 1, 0, -1]),
        (["1", "-1", "1", "NA"], {"anomaly": "1.0"}, [1, 0, 1, -1]),
        (["ok", "scrap", "Ok ", "rework"], {"normal": "OK"}, [0, 1, 0, 1]),
        (["ok", "scrap", "nan", "rework"], {"anomaly": "scrap"}, [0, 1, -1, 0]),
        (["ok", "scrap", "", "rework"], {"normal": "ok", "anomaly": "scrap"}, [0, 1, -1, -1]),
        (["0", "1", "-1", "NA"], {}, [0, 1, -1, -1]),
        (["-1", "-1", "", "-1"], {}, [-1, -1, -1, -1]),
    ],
)
def test_labels_mean_what_the_user_says(
    labels: list[str], options: dict[str, str], values: list[int], tmp_path: Path
) -> None:
    path = csv(tmp_path, "x,y\n" + "".join(f"1,{label}\n" for label in labels))
    dataset = read_table(path, name="mine", label="y", **options)
    assert dataset.data.labels.tolist() == values
    assert (dataset.card.normal_label, dataset.card.anomaly_label) == (options.get("normal"), options.get("anomaly"))
    write_dataset(tmp_path / "data", dataset)
    assert read_dataset(tmp_path / "data").card == dataset.card


@pytest.mark.parametrize("labels", [("1", "-1"), ("1.0", "-1.0", ""), ("-1", "1", "NaN")])
def test_labels_of_1_and_minus_1_alone_need_a_word(labels: tuple[str, ...], tmp_path: Path) -> None:
    text = "x,y\n" + "".join(f"1,{label}\n" for label in labels)
    assert_refused(tmp_path, text, "just 1 and -1, and either may stand for normal rows; give --normal", label="y")


def test_a_label_of_normal_rows_needs_a_column_of_labels(tmp_path: Path) -> None:
    assert_refused(tmp_path, "x,y\n1,2\n", "no column of labels", normal="1")


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("x,site\n1,NA\n2,b\n3,NA\n4,c\n", {"group": "site"}, "the group of 2 rows is missing, written as NA"),
        ("x,site\n1,a\n2,b\n3,a\n4,a\n", {"group": "site"}, "the group 'a' has 3 of 4 rows, more than half"),
        ("x,site\n1,a\n2,b\n3,a\n4,a\n", {"category": "site"}, "the category 'a' has 3 of 4 rows, more than half"),
        ("x,site\n1,a\n2,b\n3,a\n4,b\n", {"category": "site"}, ""),
        ("x,y\n1,null\n2,0\n", {"label": "y"}, "the label of 1 row is missing, written as null"),
        ("x\n1e18\n" + "".join(f"{i}\n" for i in range(9)), {}, "column 'x' loses most of its values in float32"),
        ("x\n" + "".join(f"{10**18 + i}\n" for i in range(9)), {}, "such as 1000000000000000001 in row 1"),
        ("x\n" + "".join(f"{2**53 + 2 * i}\n" for i in range(9)), {}, ""),
        ("x,i\n" + "".join(f"{i},{10**18 + i}\n" for i in range(9)), {"id_column": "i"}, ""),
    ],
)
def test_what_looks_like_a_mistake_is_said(
    text: str, options: dict[str, str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read_table(csv(tmp_path, text), name="mine", **options)
    shown = capsys.readouterr().err
    assert words in shown
    assert bool(words) == bool(shown)


@pytest.mark.parametrize(
    ("role", "message"), [("id_column", "no row id"), ("time", "has the time ''"), ("category", "no category")]
)
def test_a_word_for_missing_is_no_id_time_or_category(role: str, message: str, tmp_path: Path) -> None:
    assert_refused(tmp_path, "x,c\n1,5\n2,NA\n", f"row 1 .*{message}|row 1 {message}", **{role: "c"})


def test_a_batch_of_anomalies_and_unknown_rows_is_no_question(tmp_path: Path) -> None:
    first = read_table(csv(tmp_path, "x,y\n1,0\n2,1\n3,-1\n"), name="mine", label="y")
    batch = csv(tmp_path, "x,y\n1,1\n2,-1\n")
    with pytest.raises(DataError, match=r"or both where other rows are unknown \(--normal 0 --anomaly 1\)"):
        read_table(batch, name="mine", label="y")
    assert read_table(batch, name="mine", label="y", like=first.card).data.labels.tolist() == [1, -1]
    given = read_table(batch, name="mine", label="y", normal="0", anomaly="1")
    assert given.data.labels.tolist() == [1, -1]


def test_one_label_cannot_be_both(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--normal a and --anomaly A are the same label"):
        read_table(csv(tmp_path, "x,y\n1,a\n2,b\n"), name="mine", label="y", normal="a", anomaly="A")


def test_points_that_may_separate_thousands_are_no_decimal_signs_beside_commas(tmp_path: Path) -> None:
    path = csv(tmp_path, "x;y\n1,5;1.200\n2,5;2.201\n")
    with pytest.raises(DataError, match=r"column 'y' has values such as '1\.200', with a point"):
        read_table(path, name="mine", dialect=Dialect(decimal=","))
