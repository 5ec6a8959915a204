"""Parquet files that are small on disk and large in memory."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from assay.data.blocks import read_frame
from assay.data.decoded import available_bytes, decoded_bytes
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


@pytest.mark.parametrize(("values", "place"), [(1.0, "temporary files"), ("a", "memory")])
def test_a_file_that_there_is_no_room_for_is_refused_before_it_is_read(
    values: object, place: str, tmp_path: Path
) -> None:
    """Its metadata say that one group of rows comes again and again; the data are not even there."""
    table = pa.table({name: [values] * 1_000_000 for name in "abcd"})
    parquet.write_table(table, part := tmp_path / "part.parquet")
    metadata = parquet.read_metadata(part)
    room = max(available_bytes(), shutil.disk_usage(tempfile.gettempdir()).free)
    while metadata.num_rows * 32 < 2 * room:
        metadata.append_row_groups(metadata)
    metadata.write_metadata_file(path := tmp_path / "large.parquet")
    assert path.stat().st_size < 100_000_000
    with pytest.raises(DataError, match=rf"^large.parquet holds [\d,]+ rows of 4 columns: .* GB of {place}"):
        read_frame(path, ())
