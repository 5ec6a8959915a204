"""`assay ingest --check`: what each column is taken for, and what looks wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from assay.cli.main import main
from assay.data.checking import ColumnCheck, check_columns

N = 200
LABELS = np.arange(N) % 10 == 0
RANDOM = np.random.default_rng(0).normal(size=N)


def checked(values: Any, labels: Any = LABELS) -> ColumnCheck:
    frame = pd.DataFrame({"x": values, "y": np.asarray(labels).astype(int).astype(str)})
    return check_columns(Path("mine.csv"), frame, {"label": "y"})[0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full(N, 3.0), "constant"),
        (np.full(N, np.nan), "no row has a value"),
        (np.where(np.arange(N) == 7, np.inf, RANDOM), "1 infinite values"),
        (np.append(RANDOM[1:], 1e18), "the same in float32"),
        (np.arange(N) * 2.0, "id-like: whole numbers"),
        ([f"M{i}" for i in range(N)], "it looks like ids or free text"),
        ([f"{1 + i % 28}.2.24" for i in range(N)], "date-like"),
        ([20_240_101.0 + i % 28 for i in range(N)], "date-like: dates as year"),
        ([1.7e9 + 60 * i for i in range(N)], "date-like: seconds since 1970"),
        (["1.5"] * 150 + ["12 oz"] + ["2.5"] * 49, "holds numbers and text: row 150 has '12 oz'"),
        (RANDOM + 100 * LABELS, r"leaks the label\? It tells anomalies"),
        (RANDOM - 100 * LABELS, r"leaks the label\? It tells anomalies"),
        (np.where(np.arange(N) % 20 == 0, "stop", "go"), r"All 10 rows with the value stop are anomalies"),
        (np.where(np.arange(N) % 20 == 0, np.nan, RANDOM > 0), r"All 10 rows without a value are anomalies"),
    ],
)
def test_what_looks_wrong_is_said(values: Any, words: str) -> None:
    remarks = checked(values).remarks
    assert len(remarks) == 1
    assert pd.Series(remarks).str.contains(words).all()


@pytest.mark.parametrize(
    "values",
    [
        RANDOM,
        np.round(RANDOM * 3),
        np.where(np.arange(N) % 3 == 0, np.nan, RANDOM),
        RANDOM > 0,
        [f"2024-01-{1 + i % 28:02d} 10:00" for i in range(N)],
        np.where(RANDOM > 0, "red", "blue"),
        RANDOM + 2 * LABELS,
        [f"12:{i % 60:02d}" for i in range(N)],
    ],
)
def test_healthy_columns_are_left_alone(values: Any) -> None:
    assert checked(values).remarks == ()


def test_without_enough_labels_nothing_leaks() -> None:
    few = np.arange(N) < 4
    assert checked(few * 1.0, few).remarks == ()


def test_a_column_is_described() -> None:
    number = checked(np.where(np.arange(N) % 4 == 0, np.nan, np.arange(N) % 7 - 2.5))
    assert (number.kind, number.fate, number.missing) == ("number", "feature, may be missing", 0.25)
    assert (number.span, number.examples) == ("-2.5 to 3.5", ("-1.5", "-0.5", "0.5", "2.5", "3.5"))
    text = checked(np.where(np.arange(N) % 4 == 0, "a", "b"))
    assert (text.kind, text.fate, text.span) == ("category", "feature, of categories", "2 different")
    assert checked(pd.to_datetime(["2024-01-01"] * N)).kind == "date"
    assert checked([None] * N).fate == "left out, empty"


def run(folder: Path, text: str, *options: str) -> tuple[int, str]:
    path = folder / "mine.csv"
    path.write_text(text)
    result = CliRunner().invoke(main, ["ingest", str(path), "--check", *options])
    assert sorted(folder.iterdir()) == [path]
    return result.exit_code, result.output


def test_check_changes_nothing_and_ends_as_ingest_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = run(tmp_path, "key;x;ok\n1;1,5;yes\n2;2,5;no\n", "--id", "key", "--label", "ok", "--normal", "yes")
    assert code == 0
    lines = [line.split() for line in output.splitlines()]
    assert ["key", "text", "row", "ids", "2", "different", "1,", "2"] in lines
    assert ["x", "number", "feature", "1.5", "to", "2.5", "1.5,", "2.5"] in lines
    assert "can take it" in output
    code, output = run(tmp_path, "x,c\n1,red\n2,7\n")
    assert (code, "column 'c' holds numbers and text" in output, "red, 7" in output) == (2, True, True)
    code, output = run(tmp_path, "x,c\n1,2,3\n")
    assert (code, output) == (
        2,
        "assay: mine.csv, line 2 has 3 fields where the header has 2; correct it, or name the separator: --sep\n",
    )


def test_check_of_texts_says_what_is_left_out_and_reads_the_vectors(tmp_path: Path) -> None:
    (tmp_path / "table").mkdir()
    table = "body,note,key\nthe ship,x,1\na port,x,2\n"
    options = ("--text", "body", "--id", "key")
    code, output = run(tmp_path / "table", table, *options)
    assert code == 0
    fates = [" ".join(line.split()[:4]) for line in output.splitlines()]
    assert "note category left out" in "\n".join(fates)
    assert "looks wrong" not in output
    vectors = tmp_path / "v.txt"
    code, output = run(tmp_path / "table", table, *options, "--vectors", str(vectors))
    assert (code, "there is no file" in output, "can take it" in output) == (2, True, False)
    vectors.write_text("ship 1 2\nport 1\n")
    code, output = run(tmp_path / "table", table, *options, "--vectors", str(vectors))
    assert (code, "line 2 has 1 numbers" in output, "can take it" in output) == (2, True, False)
    vectors.write_text("ship 1 2\n")
    code, output = run(tmp_path / "table", table, *options, "--vectors", str(vectors))
    assert (code, "vectors of 1 of 3 words" in output, "can take it" in output) == (0, True, True)
    code, output = run(tmp_path / "table", table, "--vectors", str(vectors))
    assert (code, "name the column of texts with --text" in output) == (2, True)


def test_windows_and_telemetry_are_not_taken_for_images_or_tables(tmp_path: Path) -> None:
    np.savez(tmp_path / "beats.npz", windows=np.zeros((3, 4, 1)))
    (tmp_path / "craft").mkdir()
    (tmp_path / "craft" / "labeled_anomalies.csv").write_text("chan_id,anomaly_sequences\n")
    for name in ("beats.npz", "craft"):
        done = CliRunner().invoke(main, ["ingest", "--check", str(tmp_path / name)])
        assert done.exit_code == 2
        assert f"--check is for tables and images; `assay ingest` says itself how it takes {name}" in done.output
