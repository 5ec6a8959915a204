"""Tables in files: what users have is read as it is meant, saying what was taken, or refused in a sentence."""

from __future__ import annotations

import csv
import gzip
import os
import tarfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assay.data.blocks import open_blocks, read_frame
from assay.data.dialects import MISSING, Dialect
from assay.errors import ConfigError, DataError

PLAIN = pd.DataFrame({"x": [1.5, -2.0, np.nan], "y": [10.0, 20.0, 30.0]})


def written(folder: Path, content: str | bytes, name: str = "mine.csv") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as refused:
        read_frame(path, (), **options)
    return str(refused.value)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("x,y\n0,1,2\n1,3,4\n", 2),
        ("x,y\n1,2\n\n3,4,5\n", 4),
        ("x,y\n1,2\n3,4,\n", 3),
        ("x,y\n1,2\n3\n", 3),
        ('x,y\n1,"2\n3,4\n5,6\n', 2),
        ('x,y\n1,"2\n3,4"\n5,6\n', 2),
        ('x,y\n1,2\n"3"3,4\n', 3),
        ('x\n1\n"2\n3"\n4\n', 3),
        ("x,y\r\n1,2\n3,4\r5,6,7\n", 4),
        ("x,y\n1,2\nx,y\n3,4\n", 3),
        ('sep=,\nx,y\n"a\nb",2\n3\n', 5),
    ],
)
def test_a_line_that_does_not_fit_is_named(content: str, line: int, tmp_path: Path) -> None:
    assert f"mine.csv, line {line}" in refusal(written(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("x,y\n1.5,10\n-2,20\n,30\n", "mine.csv", ""),
        ("x,y\r\n1.5,10\n-2,20\r,30", "mine.csv", ""),
        ("x,y\n1.5,10\n\n-2,20\nNA,30\n\n", "mine.csv", "2 blank lines are left out"),
        ("x;y\n1.5;10\n-2;20\n;30\n", "mine.csv", "separator semicolon"),
        ("x;y\n1,5;10\n-2,0;20\n;30\n", "MINE.CSV", "the comma is the decimal sign"),
        ('x,y\n"1,5",10\n-2,20\n,30\n', "mine.csv", "the comma is the decimal sign"),
        ("x\ty\n1.5\t10\n-2\t20\n \t30\n", "mine.tsv", "separator tab"),
        ("x|y\n1.5|10\n-2|20\nnull|30\n", "mine.txt", "separator bar"),
        ("sep=;\r\nx;y\r\n1.5;10\r\n-2;20\r\n;30\r\n", "mine.csv", "separator semicolon"),
        ('"x","y"\n"1.5","10"\n"-2","20"\n"","30"\n', "mine.csv", ""),
        (",x,y\n0,1.5,10\n1,-2,20\n2,,30\n", "mine.csv", "the first column has no name"),
        ("x,y,\n1.5,10,\n-2,20,\n,30,\n", "mine.csv", "the empty last column"),
        ("x,y\n1.5,10\n-2,20\n,30\n".encode("utf-16"), "mine.csv", "encoding utf-16"),
        ("\ufeffx,y\n1.5,10\n-2,20\n,30\n", "mine.csv", ""),
        ("x,y\n1.5,10\n-2,20\n,30\n".encode("utf-32"), "mine.csv", "encoding utf-32"),
        ("x,y\n1.5,010\n-2,020\n,30\n", "mine.csv", "such as 010; they are read as numbers: if they are codes"),
        (gzip.compress(b"x,y\n1.5,10\n-2,20\n,30\n", mtime=0), "mine.csv.gz", ""),
    ],
)
def test_a_table_is_read_in_whatever_form(
    content: str | bytes, name: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pd.testing.assert_frame_equal(read_frame(written(tmp_path, content, name), ()), PLAIN)
    shown = capsys.readouterr().err
    assert words in shown
    assert bool(words) == bool(shown)


@pytest.mark.parametrize(
    ("content", "words", "settled"),
    [
        ("a;b,c\n1;2,3\n", "--sep", Dialect(";")),
        ("a b\n1 2\n3 4\n", "--sep space", Dialect("space")),
        ("a~b\n1~2\n3~4\n", "--sep '~'", Dialect("~")),
        ("x;y\n1,234;5\n2,345;6\n", "--decimal", Dialect(decimal=".")),
        ("x;y\n1,5;5.5\n2,5;6\n", "--decimal", Dialect(decimal=",")),
        ("1,2\n3,4\n", "--no-header", Dialect(header=False)),
        ("1,M14860,M,298.1\n2,L47181,L,298.2\n", "--no-header", Dialect(header=False)),
        ("M,L\nL,M\nM,M\nL,L\n", "--header", Dialect(header=False)),
        ("2019,2020\n3,4\n", "--header", Dialect(header=True)),
        ("x,name\n1,é\n".encode("latin-1"), "--encoding", Dialect(encoding="latin-1")),
        ("x,y\n1,2\n".encode("utf-16-le"), "--encoding", Dialect(encoding="utf-16-le")),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_until_an_option_settles_it(
    content: str | bytes, words: str, settled: Dialect, tmp_path: Path
) -> None:
    path = written(tmp_path, content)
    assert words in refusal(path)
    assert len(read_frame(path, (), dialect=settled)) in (1, 2, 4)


def test_what_an_option_says_is_what_is_read(tmp_path: Path) -> None:
    spaced = written(tmp_path, "1  2.5 \n 3 4\n")
    read = read_frame(spaced, ("1",), dialect=Dialect("space", header=False))
    assert read.to_dict("list") == {"0": [1.0, 3.0], "1": ["2.5", "4"]}
    german = written(tmp_path, "Größe;z\n1,234;5.5\n".encode("cp1252"), "german.csv")
    read = read_frame(german, (), dialect=Dialect(decimal=",", encoding="cp1252"))
    assert read.to_dict("list") == {"Größe": [1.234], "z": ["5.5"]}


@pytest.mark.parametrize("separator", ["\t", " "])
def test_quotes_are_signs_as_any_other_where_that_is_said(tmp_path: Path, separator: str) -> None:
    path = written(tmp_path, 'a b\n"x"y 1\nz" 2\n"z" 3\n'.replace(" ", separator))
    assert "--no-quotes" in refusal(path, dialect=Dialect("tab" if separator == "\t" else "space"))
    for settled in (Dialect(separator, quotes=False), Dialect(separator, quotes=False, encoding="cp1252")):
        read = read_frame(path, (), dialect=settled)
        assert read.to_dict("list") == {"a": ['"x"y', 'z"', '"z"'], "b": [1.0, 2.0, 3.0]}
    blocks = open_blocks(path, (), numbers=["b"], dialect=Dialect(separator, quotes=False))
    assert [frame["a"].tolist() for frame in blocks.frames(9)] == [['"x"y', 'z"', '"z"']]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"separator": "ab"}, "separator is 'ab'"),
        ({"decimal": ";"}, "decimal sign is ';'"),
        ({"separator": ",", "decimal": ","}, "both the separator and the decimal sign"),
        ({"encoding": "klingon"}, "no encoding 'klingon'"),
    ],
)
def test_options_are_checked(options: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Dialect(**options)


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (b"PK\x03\x04rest", "mine.csv", "is an Excel or zip file"),
        (b"PAR1rest", "mine.csv", "is a Parquet file"),
        (gzip.compress(b"x\n" + b"1\n" * 9999, mtime=0)[:-9], "mine.csv.gz", "cannot be read"),
        (b"x,z\n1,a\x00b\n" + b"1,c\n" * 2000, "mine.csv", "zero byte"),
        (b"x\n1e400\n", "mine.csv", "row 0: 1e400 is beyond"),
        (b"sep=;\n", "mine.csv", "is empty"),
        (b"\n\n", "mine.csv", "is empty"),
        (b"x,y\n\n\n", "mine.csv", "has no rows"),
        (b"x,,y\n1,2,3\n", "mine.csv", "column 1 of mine.csv has no name"),
        (b"x, ,y\n1,2,3\n", "mine.csv", "column 1 of mine.csv has no name"),
        (b"\xef\xbb\xbf\xef\xbb\xbfx,y\n1,2\n", "mine.csv", "column 0 of mine.csv is named '\\ufeffx'"),
        (b'"x\ty",z\n1,2\n', "mine.csv", "control characters"),
        (b"x\n1\n", "mine.zip", "neither"),
        (b"x\n1\n", "csv", "neither"),
    ],
)
def test_what_is_no_table_is_refused(content: bytes, name: str, words: str, tmp_path: Path) -> None:
    assert words in refusal(written(tmp_path, content, name))


def test_blank_lines_of_one_column_are_missing_values(tmp_path: Path) -> None:
    read = read_frame(written(tmp_path, "x\n1\n\n3\n \n"), ())["x"].tolist()
    assert read[::2] == [1.0, 3.0]
    assert np.isnan(read[1::2]).all()
    assert len(read) == 4


@pytest.mark.parametrize("word", ["NA", " nan ", "N/A", "#N/A", "NULL", "None", "<NA>", ""])
def test_words_for_missing_count_in_every_kind_of_column(word: str, tmp_path: Path) -> None:
    content = f"n,b,t,kept\n1,True,red,{word}\n{word},{word},{word},x\n2,false,NAN,y\n"
    read = read_frame(written(tmp_path, content), ("kept",))
    assert read[["n", "b", "t"]].isna().to_numpy().tolist() == [[False] * 3, [True] * 3, [False] * 3]
    assert read["b"].tolist()[::2] == [True, False]
    assert read["t"].tolist()[::2] == ["red", "NAN"]
    assert read["kept"].tolist() == [word, "x", "y"]


def test_only_the_named_numbers_are_numbers(tmp_path: Path) -> None:
    read = read_frame(written(tmp_path, "a,b,c\n007,1,NA\n"), (), numbers=("b",))
    assert read.to_dict("list") == {"a": ["007"], "b": [1.0], "c": ["NA"]}


def test_text_of_several_lines_is_kept_unless_it_looks_like_rows(tmp_path: Path) -> None:
    read = read_frame(written(tmp_path, 'x,note\n1,"so,\nand so, and so"\n2,"a\r\nb"\n'), ())
    assert read["note"].tolist() == ["so,\nand so, and so", "a\r\nb"]


def parquet_parts(folder: Path) -> None:
    PLAIN[:2].to_parquet(folder / "part-00000-1.snappy.parquet")
    PLAIN[2:].to_parquet(folder / "part-00001-2.snappy.parquet")


def csv_parts(folder: Path) -> None:
    PLAIN[:2].to_csv(folder / "part-00000.csv", index=False)
    (folder / "part-00001.csv").write_bytes(b"")
    (folder / "part-00002.csv.gz").write_bytes(gzip.compress(PLAIN[2:].to_csv(index=False).encode()))


@pytest.mark.parametrize("write", [parquet_parts, csv_parts])
def test_a_folder_of_parts_is_one_table(
    write: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    write(folder)
    (folder / "_SUCCESS").write_bytes(b"")
    (folder / ".part-00000.csv.crc").write_bytes(b"crc")
    pd.testing.assert_frame_equal(read_frame(folder, ()), PLAIN, check_index_type=False)
    assert "part files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "one kind"),
        ({"a.csv": "x\n1\n", "b.parquet": ""}, "one kind"),
        ({"a.csv": "x\n1\n", "day/b.csv": "x\n1\n"}, "no folders"),
        ({"a.csv": "x,y\n1,2\n", "b.csv": "y,x\n1,2\n"}, "b.csv has other columns"),
        ({"a.csv": "x,y\n1,2\n", "b.csv": "3,4\n5,6\n"}, "b.csv has other columns"),
    ],
)
def test_folders_that_are_no_table_are_refused(files: dict[str, str], words: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, content in files.items():
        written((folder / name).parent, content, Path(name).name)
    assert words in refusal(folder)


def test_parquet_columns_with_missing_values_keep_their_kind_and_digits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    big = 2**53 + 1
    columns = {
        "flag": pa.array([True, None, False]),
        "key": pa.array([big, None, 7]),
        "count": pa.array([3, None, 1], pa.uint8()),
        "text": pa.array(["1.5", " NA ", "-2"]),
        "yes": pa.array(["True", None, "false"]),
        "raw": pa.array([b"4", b"5", None]),
        "void": pa.nulls(3),
        "id": pa.array(["NA", "2", None]),
    }
    pq.write_table(pa.table(columns), tmp_path / "mine.parquet")
    read = read_frame(tmp_path / "mine.parquet", ("id",))
    assert read["flag"].tolist() == [True, pd.NA, False]
    assert read["key"].tolist() == [big, pd.NA, 7]
    assert read["count"].tolist() == [3, pd.NA, 1]
    assert read["text"].tolist()[::2] == [1.5, -2.0]
    assert read["yes"].tolist() == [True, pd.NA, False]
    assert read["raw"].tolist()[:2] == [4.0, 5.0]
    assert read[["text", "void"]].isna().to_numpy().tolist() == [[False, True], [True, True], [False, True]]
    assert read["id"].tolist()[:2] == ["NA", "2"]
    assert f"column 'key' has whole numbers that float64 rounds, such as {big} in row 0" in capsys.readouterr().err


@pytest.mark.parametrize("big", [2**53 + 1, 2**63 + 1, 10**30 + 1])
def test_whole_numbers_that_float64_rounds_are_named(
    big: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = [pa.decimal128(38, 0), *([pa.uint64()] if big < 2**64 else [])]
    pq.write_table(
        pa.table({f"x{i}": pa.array([5, None, big], kind) for i, kind in enumerate(kinds)}), tmp_path / "t.parquet"
    )
    read_frame(tmp_path / "t.parquet", ())
    assert capsys.readouterr().err.count(f"such as {big} in row 2") == len(kinds)
    read_frame(written(tmp_path, f"x,y\n5,1\n{big},2\n"), ())
    assert f"such as {big} in row 1" in capsys.readouterr().err


def test_decimals_of_parquet_are_the_numbers_that_csv_would_give(tmp_path: Path) -> None:
    texts = [f"{i // 100}.{i % 100:02d}" for i in range(1000)]
    pq.write_table(pa.table({"x": pa.array([Decimal(text) for text in texts])}), tmp_path / "mine.parquet")
    assert read_frame(tmp_path / "mine.parquet", ())["x"].tolist() == [float(text) for text in texts]


@pytest.mark.parametrize(
    ("index", "names", "is_named"),
    [
        (pd.RangeIndex(3), ["x", "y"], True),
        (pd.Index(["a", "b", "c"]), ["x", "y"], False),
        (pd.Index([11, 12, 13], name="key"), ["key", "x", "y"], True),
        (pd.Index(["a", "b", "c"], name="key"), ["key", "x", "y"], True),
        (pd.MultiIndex.from_arrays([[1, 2, 3], list("abc")], names=[None, "key"]), ["key", "x", "y"], False),
    ],
)
def test_index_levels_are_columns_if_they_have_a_name(
    index: pd.Index[Any], names: list[str], is_named: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PLAIN.set_axis(index).to_parquet(tmp_path / "mine.parquet")
    assert read_frame(tmp_path / "mine.parquet", ()).columns.tolist() == names
    assert ("an index without a name is left out" in capsys.readouterr().err) is not is_named


MIRROR = Path(os.environ.get("ASSAY_DATA_MIRROR", "none")) / "wider"


def cells(stream: Any, separator: str) -> list[list[str]]:
    """The cells of a file as Python's own reader has them, line by line."""
    names, *rows = csv.reader(stream, delimiter=separator)
    return [names, *(row for row in rows if row)]


def agree(value: Any, text: str) -> bool:
    return text.strip() in MISSING if pd.isna(value) else str(value) == text or float(value) == float(text)


@pytest.mark.skipif(not MIRROR.is_dir(), reason=f"there is no {MIRROR}; ASSAY_DATA_MIRROR names the folder above it")
@pytest.mark.parametrize(
    ("name", "separator", "n_numbers"),
    [
        ("beers.dirty.csv", ",", 4),
        ("flights.dirty.csv", ",", 1),
        ("rayyan.dirty.csv", ",", 3),
        ("ai4i2020.csv", ",", 12),
        ("elec2.csv.gz", ",", 7),
        ("skab_all.csv.gz", ";", 10),
    ],
)
def test_real_tables_hold_what_is_written(name: str, separator: str, n_numbers: int, tmp_path: Path) -> None:
    path = MIRROR / name
    if not path.is_file():
        with tarfile.open(MIRROR / "dirty.tar.gz") as archive:
            path = written(tmp_path, archive.extractfile(f"dirty/{name}").read(), name)  # type: ignore[union-attr]
    with (gzip.open if name.endswith(".gz") else open)(path, "rt", encoding="utf-8", newline="") as stream:  # type: ignore[operator]
        names, *rows = cells(stream, separator)
    frame = read_frame(path, ())
    assert (list(frame.columns), len(frame)) == (names, len(rows))
    assert sum(pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes) == n_numbers
    some = np.linspace(0, len(rows) - 1, 500).astype(int)
    read = frame.iloc[some].astype(object).to_numpy()
    assert all(
        agree(value, text) for i, row in zip(some, read, strict=True) for value, text in zip(row, rows[i], strict=True)
    )


@pytest.mark.parametrize(("quote", "separator"), [("", "\t"), ("", ","), ('"', ",")])
def test_a_field_may_be_as_long_as_a_document_is(tmp_path: Path, quote: str, separator: str) -> None:
    long = "bank" + " bank" * 1_000_000  # more than a block of the reader of plain files
    ends = f"{quote}{long}{quote}\n"
    for content in (f"text\n{ends}short\n", f"text{separator}a\nshort{separator}1\nb{separator}{ends}"):
        path = written(tmp_path, content)
        frame = read_frame(path, ("text", "a") if separator in content else ("text",))
        assert long in frame.to_numpy()
        blocks = open_blocks(path, tuple(frame.columns), numbers=()).frames(1000)
        pd.testing.assert_frame_equal(pd.concat(blocks, ignore_index=True), frame)
