"""Parquet files that are small on disk and large in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from assay.data.decoded import available_bytes, decoded_bytes
from assay.data.files import read_frame
from assay.errors import DataError

ROWS = 200_000


def test_the_decoded_size_is_that_of_the_values(tmp_path: Path) -> None:
    """Also where repeated values take no room in the file, compressed or not."""
    same = {"a": np.ones(ROWS), "b": np.ones(ROWS, dtype=np.float32), "c": np.ones(ROWS, dtype=bool)}
    for name, columns, expected in (("same", same, ROWS * 13), ("texts", {"a": ["x" * 1000] * 2000}, 2000 * 16)):
        parquet.write_table(pa.table(columns), path := tmp_path / f"{name}.parquet")
        assert path.stat().st_size < 20_000
        assert decoded_bytes(parquet.read_metadata(path)) == expected
    drawn = pd.DataFrame({"a": np.random.default_rng(0).normal(size=ROWS)})
    drawn.to_parquet(path)
    assert ROWS * 8 <= decoded_bytes(parquet.read_metadata(path)) < ROWS * 10
    assert len(read_frame(path, ())) == ROWS


def test_a_file_that_does_not_fit_into_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """Its metadata say that one group of rows comes again and again; the data are not even there."""
    table = pa.table({name: np.ones(1_000_000) for name in "abcd"})
    parquet.write_table(table, part := tmp_path / "part.parquet")
    metadata = parquet.read_metadata(part)
    while metadata.num_rows * 32 < 2 * available_bytes():
        metadata.append_row_groups(metadata)
    metadata.write_metadata_file(path := tmp_path / "large.parquet")
    assert path.stat().st_size < 10_000_000
    with pytest.raises(DataError, match=r"^large.parquet holds [\d,]+ rows of 4 columns: .* take fewer rows"):
        read_frame(path, ())
