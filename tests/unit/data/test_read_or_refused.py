"""Whatever is done to a file: it is read as it was written, or refused in a sentence."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.data.blocks import read_frame
from assay.data.dialects import MISSING, OBSERVED, SEPARATORS, Dialect
from assay.errors import DataError

Table = dict[str, list[Any]]
NAMES = st.text("abcxyz_ .", min_size=1, max_size=4).filter(lambda name: name.strip() == name)
WORDS = st.text("ab,;\t|'\" \n.-é0", max_size=6).filter(lambda text: text.strip() not in MISSING)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**6), 10**6).map(float)
KINDS = {"number": NUMBERS, "flag": st.booleans(), "word": WORDS}


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Columns of numbers, booleans and words, with missing values."""
    n = draw(st.integers(1, 5))
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    kinds = [draw(st.sampled_from(sorted(KINDS))) for _ in names]
    return {
        name: draw(st.lists(st.none() | KINDS[kind], min_size=n, max_size=n))
        for name, kind in zip(names, kinds, strict=True)
    }


def as_csv(table: Table, separator: str, decimal: str, end: str, quoting: Any, missing: str) -> str:
    """The table as Python's own writer writes it."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerow(table)
    writer.writerows([[shown(value, decimal, missing) for value in row] for row in zip(*table.values(), strict=True)])
    return text.getvalue()


def shown(value: Any, decimal: str, missing: str) -> str:
    return missing if value is None else str(value).replace(".", decimal) if isinstance(value, float) else str(value)


def plain(value: Any) -> Any:
    return None if pd.isna(value) else bool(value) if isinstance(value, bool | np.bool_) else value


def same(outcome: pd.DataFrame, table: Table) -> bool:
    """Whether a frame holds a table; words that are all numbers, or true and false, may be read as such."""
    if list(outcome.columns) != list(table) or len(outcome) != len(next(iter(table.values()))):
        return False
    for name, values in table.items():
        read = [plain(value) for value in outcome[name]]
        texts = isinstance(outcome[name].dtype, pd.StringDtype)
        for value, again in zip(values, read, strict=True):
            if isinstance(value, str) and not texts and again is not None:
                again, value = float(again), float({"true": 1, "false": 0}.get(value.strip().lower(), value.strip()))
            if again != value and not (texts and str(value) == again):
                return False
    return True


def read_or_refusal(path: Path, dialect: Dialect = OBSERVED) -> pd.DataFrame | str:
    """The frame that is read, or the one sentence that refuses it; nothing else may happen."""
    try:
        return read_frame(path, (), dialect=dialect)
    except DataError as error:
        return str(error)


@given(
    table=tables(),
    separator=st.sampled_from(sorted(SEPARATORS)),
    decimal=st.sampled_from(".,"),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    missing=st.sampled_from(["", "NA", " nan", "<NA>"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]),
    is_stated=st.booleans(),
)
def test_a_csv_file_is_read_as_it_was_written_or_refused(
    table: Table,
    separator: str,
    decimal: str,
    end: str,
    quoting: int,
    missing: str,
    encoding: str,
    is_stated: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / "generated.csv"
    text = as_csv(table, separator, decimal, end, quoting, missing)
    path.write_bytes(text.encode(encoding))
    stated = Dialect(separator, decimal, encoding, header=True) if is_stated and separator != decimal else Dialect()
    outcome = read_or_refusal(path, stated)
    assert isinstance(outcome, str) or same(outcome, table), (text, outcome)


@given(table=tables())
def test_a_parquet_file_is_read_as_it_was_written(table: Table, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "generated.parquet"
    pq.write_table(pa.table(table), path)
    assert same(read_frame(path, ()), table)


ROWS, WIDTH = 30, 4


def original() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    columns: dict[str, Any] = {f"x{i}": rng.normal(size=ROWS).round(4) for i in range(WIDTH - 1)}
    return pd.DataFrame({**columns, "site": [f"s{i % 7}" for i in range(ROWS)]})


def spoilt(text: str, rng: np.random.Generator) -> bytes:
    """A CSV file with one fault that editors, exports and transfers are known to make."""
    place, lines = int(rng.integers(len(text))), text.split("\n")
    line = int(rng.integers(1, len(lines) - 1))
    fields = lines[line].split(",")
    kind = rng.integers(14)
    if kind < 5:
        return (text[:place] + '",\n\r\0'[kind] + text[place:]).encode()
    if kind == 5:
        return (text[:place] + text[place + 1 :]).encode()
    if kind == 6:
        return text[:place].encode()
    if kind == 7:
        return text[:place].encode() + bytes([int(rng.integers(128, 256))]) + text[place:].encode()
    changed: list[str] = {
        8: [*lines[:line], ",".join(fields[:-1]), *lines[line + 1 :]],
        9: [*lines[:line], lines[line] + ",", *lines[line + 1 :]],
        10: [*lines[:line], lines[0], *lines[line:]],
        11: [*lines[:line], "", *lines[line:]],
        12: [lines[0], *(f"{i},{row}" for i, row in enumerate(lines[1:-1])), ""],
        13: [*lines[:line], lines[line].replace(".", ","), *lines[line + 1 :]],
    }[int(kind)]
    return "\n".join(changed).encode()


def differences(outcome: pd.DataFrame, expected: pd.DataFrame) -> int:
    """The number of names and cells that are not as they were, in the rows that are left."""
    frames = (outcome, expected[: len(outcome)])
    names, values = zip(*((list(f.columns), f.astype("str").to_numpy().ravel().tolist()) for f in frames), strict=True)
    return sum(a != b for a, b in [*zip(*names, strict=True), *zip(*values, strict=True)])


@pytest.mark.parametrize("n", [40, pytest.param(500, marks=pytest.mark.long)])
def test_a_fault_in_a_csv_file_changes_nothing_but_its_own_cell(n: int, tmp_path: Path) -> None:
    expected, path = original(), tmp_path / "mine.csv"
    text = expected.to_csv(index=False, lineterminator="\n")
    refused = 0
    for seed in range(n):
        content = spoilt(text, np.random.default_rng(seed))
        path.write_bytes(content)
        outcome = read_or_refusal(path)
        if isinstance(outcome, str):
            refused += 1
            continue
        is_cut = text.encode().startswith(content)
        assert outcome.shape == (ROWS, WIDTH) or (is_cut and len(outcome) < ROWS), (seed, content)
        assert differences(outcome, expected) <= 1, (seed, content)
    assert n / 3 < refused < n


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """A file with a bit turned, bytes overwritten, removed or added, or cut short."""
    place, size = int(rng.integers(len(content))), int(rng.integers(1, 40))
    noise = rng.bytes(size)
    return [
        content[:place] + bytes([content[place] ^ (1 << int(rng.integers(8)))]) + content[place + 1 :],
        content[:place] + noise + content[place + size :],
        content[:place] + content[place + size :],
        content[:place] + noise + content[place:],
        content[:place],
    ][int(rng.integers(5))]


@pytest.mark.parametrize("n", [60, pytest.param(500, marks=pytest.mark.long)])
def test_a_damaged_parquet_file_is_refused_or_reads_as_before(n: int, tmp_path: Path) -> None:
    expected, path = original(), tmp_path / "mine.parquet"
    pq.write_table(pa.Table.from_pandas(expected), path, write_page_checksum=True)
    content = path.read_bytes()
    refused = 0
    for seed in range(n):
        path.write_bytes(damaged(content, np.random.default_rng(seed)))
        outcome = read_or_refusal(path)
        refused += isinstance(outcome, str)
        assert isinstance(outcome, str) or outcome.equals(expected), seed
    assert n / 3 < refused < n
