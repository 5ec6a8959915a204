"""Data of any size: read, kept and written in pieces, they are what they are as a whole."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from assay.data import blocks, dataset, delimited, files, image_files, mapped, reference
from assay.data.batches import as_batch
from assay.data.card import Card
from assay.data.columns import Treatment
from assay.data.dataset import Dataset, RowSet, number_copies, numbered, read_dataset, write_dataset
from assay.data.expectations import learn_suite
from assay.data.files import read_table
from assay.data.fingerprints import digests, fingerprints
from assay.data.image_datasets import read_image_dataset
from assay.data.modalities.tabular import TABULAR
from assay.data.series_files import SeriesColumns, read_series
from assay.data.splitting import ROLES
from assay.data.validation import LevelRows, validate_dataset
from assay.errors import DataError
from assay.hashing import hash_tree
from assay.parts import canonical_json

SPECIAL: Any = {"id_column": "name", "label": "ill", "group": "who", "time": "when", "category": "site"}
OF_BEFORE = {
    "card.json": "715f7b16c977bf470e9911e71bd5e1c57f6585b78942902fa255a04ac6b9a3c3",
    "features.npy": "c25804c71bf7b3c899694808e15aacc768660133c9fda0b3e8fbda4274bdb2dd",
    "rows.csv": "758ce4c569f84e6e8d1c33482b888f750a135df9bc4fc9eb761f4e1a0fe06028",
    "suite.json": "ff5852d88706050529c10a2358ec46f4b07020d6c3a84e4c79450be027149e5a",
}


def resident() -> int:
    """How many bytes of this process are in memory."""
    return int(psutil.Process().memory_info().rss)


@contextmanager
def in_pieces(rows: int) -> Iterator[None]:
    """Blocks of about so many rows, each array in a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "VALUES_AT_ONCE", 12 * rows)
        patch.setattr(delimited, "_BLOCK", 40 * rows)
        patch.setattr(delimited, "_CHUNK", rows)
        patch.setattr(mapped, "MOST_IN_MEMORY", 0)
        patch.setattr(mapped, "BYTES_IN_BLOCK", 8 * rows)
        patch.setattr(dataset, "ROWS_IN_PIECE", rows)
        patch.setattr(files, "ROWS_IN_PIECE", rows)
        patch.setattr(reference, "BYTES_AT_ONCE", 8 * rows)
        yield


def table(seed: int, n: int) -> pd.DataFrame:
    """Rows with every kind of column, with gaps, repeated contents and one column without any value."""
    rng = np.random.default_rng(seed)
    some = rng.random((n, 4)) < 0.2
    rows = pd.DataFrame(
        {
            "name": [f"r-{i}" for i in rng.permutation(n)],
            "whole": rng.integers(-3, 4, n),
            "gaps": pd.array(np.where(some[:, 0], None, rng.integers(0, 3, n)), dtype="Int64"),
            "ill": pd.array(np.where(some[:, 1], None, rng.integers(0, 2, n)), dtype="Int64"),
            "x": np.where(some[:, 2], np.nan, rng.normal(size=n).round(2)),
            "who": rng.choice(["ann", "bob", "NA", ""], n),
            "on": rng.random(n) < 0.5,
            "colour": np.where(some[:, 3], "", rng.choice(["red", "green", "a,b"], n)),
            "seen": rng.choice(["2024-01-01", "2024-02-01T10:00", "2023-12-31"], n),
            "site": rng.choice([1.0, 2.0], n),
            "when": rng.choice(["1", "2.5", "-3"], n),
            "void": np.full(n, np.nan),
        }
    )
    return rows.assign(y=rows["whole"] / 2)


def ingested(path: Path, out: Path, **options: Any) -> dict[str, str]:
    """The hashes of everything that a file becomes."""
    read = as_batch(read_table(path, name="mine", **options))
    write_dataset(out, read)
    suite = learn_suite(numbered(read))
    (out / "suite.json").write_text(canonical_json(suite))
    return hash_tree(out)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 40), st.booleans(), st.booleans())
def test_a_file_in_pieces_becomes_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, kind: str, seed: int, n: int, rows: int, named: bool, quoted: bool
) -> None:
    folder = tmp_path_factory.mktemp("sizes")
    made, path = table(seed, n), folder / f"mine.{kind}"
    if not quoted:
        made = made.replace({"colour": "a,b"}, "blue")
    if kind == "csv":
        made.to_csv(path, index=False)
    else:
        made.to_parquet(path, index=False, row_group_size=max(1, n // 3))
    options: dict[str, Any] = {**SPECIAL} if named else {"treatment": Treatment(("name", "who", "when"), ("ill",))}
    if n < 3 and named:
        options["treatment"] = Treatment(leave_out=("colour", "seen"))
    whole = ingested(path, folder / "whole", **options)
    with in_pieces(rows):
        assert ingested(path, folder / "pieces", **options) == whole
        again = read_dataset(folder / "pieces")
    assert len(whole) == 4
    np.testing.assert_array_equal(again.data.features, read_dataset(folder / "whole").data.features)


def test_the_bytes_of_a_file_are_those_of_before(tmp_path: Path) -> None:
    """Roles, batches and scorers follow from them."""
    table(7, 50).to_csv(path := tmp_path / "mine.csv", index=False)
    with in_pieces(8):
        assert ingested(path, tmp_path / "out", **SPECIAL) == OF_BEFORE


def test_rows_are_picked_and_numbered_the_same_in_files() -> None:
    rows = RowSet(np.random.default_rng(0).integers(0, 2, (200, 4)), pd.DataFrame({"label": np.zeros(200, dtype="i1")}))
    picked = np.random.default_rng(1).permutation(200)[:90]
    prints = fingerprints(rows.features, tuple("abcd"))
    expected = pd.Series(prints).groupby(prints).cumcount()
    with in_pieces(7):
        np.testing.assert_array_equal(rows.take(picked).features, rows.features[picked])
        np.testing.assert_array_equal(number_copies(digests(rows.features, tuple("abcd"))), expected)
        np.testing.assert_array_equal(number_copies(fingerprints(rows.features, tuple("abcd"))), expected)


def test_an_array_in_a_file_leaves_memory_and_keeps_its_values() -> None:
    array = mapped.new_array((1 << 24,))
    array[:] = 1.5
    before = resident()
    mapped.release(array[5:])
    assert resident() < before - 100_000_000
    assert (array == 1.5).all()


def test_what_there_is_no_room_for_is_refused() -> None:
    with pytest.raises(DataError, match=r"no room for 1152921504.6 GB of temporary data .* set TMPDIR"):
        mapped.new_array((1 << 57,))


def test_the_table_of_rows_is_read_as_it_was_written(tmp_path: Path) -> None:
    texts = ["a,b", 'x"y', "two\nlines", " q ", "é😀", "NA", "", "null", "007", "1e5"]
    rows = pd.DataFrame({"row_id": texts, "label": np.array([0, 1, -1, 0, 0, 0, 1, -1, 0, 0], dtype=np.int8)})
    rows = rows.assign(group="", copy=np.arange(10), recipe="local", answered=np.arange(10) % 2).astype(
        {"group": "str"}
    )
    dataset.write_rows(tmp_path, RowSet(np.zeros((10, 1)), rows))
    pd.testing.assert_frame_equal(dataset.read_rows(tmp_path).rows, rows)
    some = dataset.read_row_table(tmp_path, ["copy", "row_id", "time"])
    pd.testing.assert_frame_equal(some, rows[["row_id", "copy"]])
    (tmp_path / "rows.csv").write_text("row_id,label\na,0\nb\n")
    with pytest.raises(DataError, match=r"rows.csv cannot be read: .*; restore it with `dvc checkout`"):
        dataset.read_row_table(tmp_path)
    (tmp_path / "rows.csv").write_text("row_id,label\na,4000\n")
    with pytest.raises(DataError, match=r"rows.csv cannot be read: .*4000"):
        dataset.read_row_table(tmp_path)


def test_validation_holds_one_role_or_level_at_a_time(tmp_path: Path) -> None:
    rng, alive, most = np.random.default_rng(0), list[Any](), list[int]()
    names = tuple("abc")

    def made(n: int, **columns: Any) -> RowSet:
        rows = pd.DataFrame({"row_id": [f"r{i}" for i in range(n)], "label": np.int8(-1), "group": "", "time": ""})
        data = RowSet(rng.normal(size=(n, 3)), rows.assign(copy=0, **columns))
        alive.append(weakref.ref(data.features))
        most.append(sum(each() is not None for each in alive))
        return data

    whole = dataset.Dataset(Card("many", TABULAR, names, "made here"), made(50))
    roles = dataset.RowSets({role: partial(made, 20) for role in ROLES})
    levels = (LevelRows(rho, made(20, injected=0), 0, 20) for rho in (0.0, 0.1, 0.2))
    summary = validate_dataset(learn_suite(whole), whole, roles, levels, docs=tmp_path)
    assert summary.success
    assert (len(most), max(most)) == (1 + 3 + len(ROLES), 3), "the source, one, and the one that takes its place"


def of_images(folder: Path) -> Dataset:
    rng = np.random.default_rng(0)
    for number in range(7):
        path = folder / "shots" / ("odd" if number == 3 else "good") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(rng.integers(0, 256, (5, 4), dtype=np.uint8)).save(path)
    (folder / "shots" / "good" / "bad.png").write_bytes(b"")
    return read_image_dataset(folder / "shots", name="shots", size=(20, 16), normal="good")


def of_texts(folder: Path) -> Dataset:
    lines = ["ship and port", "", "bank \u0431\u0430\u043d\u043a loan " * 3, "42", "port port port"]
    (folder / "texts.csv").write_text("\n".join(["body,odd", *(f"{line},0" for line in lines)]), encoding="utf-8")
    return read_table(folder / "texts.csv", name="texts", text="body", label="odd")


def of_series(folder: Path) -> Dataset:
    steps = pd.DataFrame({"when": np.arange(90) / 8, "pump": ["a"] * 50 + ["b"] * 40, "flow": np.sin(np.arange(90.0))})
    steps.loc[17, "flow"] = np.nan
    steps.assign(heat=steps["flow"] * 2).to_csv(folder / "steps.csv", index=False)
    return read_series(folder / "steps.csv", SeriesColumns("when", 4, "pump"), name="steps")


@pytest.mark.parametrize("read", [of_images, of_texts, of_series])
def test_images_texts_and_series_in_pieces_are_what_they_are_as_a_whole(
    read: Callable[[Path], Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(name: str) -> tuple[dict[str, str], str]:
        whole = as_batch(read(tmp_path))
        values = whole.data.features
        np.testing.assert_array_equal(mapped.flattened_rows(values, values[:2]), np.concatenate([values, values[:2]]))
        write_dataset(tmp_path / name, whole)
        return hash_tree(tmp_path / name), canonical_json(learn_suite(whole))

    monkeypatch.setattr(image_files, "RELEASED", 3)
    monkeypatch.setattr(image_files, "MOST_UNREADABLE", 0.2)
    as_whole = written("whole")
    with in_pieces(1):
        assert written("pieces") == as_whole
