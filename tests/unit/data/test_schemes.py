"""Fingerprints of two schemes: roles follow from one, lists of rows may name rows by either."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from assay.data.card import Card
from assay.data.dataset import Dataset, RowSet, read_rows, write_dataset
from assay.data.fingerprints import fingerprints
from assay.data.modalities.tabular import TABULAR
from assay.data.quarantine import read_quarantine, write_quarantine
from assay.parts import write_arrays
from assay.pipeline.learned import is_learned, packed_rows, read_learned
from assay.pipeline.preparing import split

COLUMNS = ("a", "b")


@pytest.fixture(params=[1, 2])
def dataset(request: pytest.FixtureRequest) -> Dataset:
    features = np.random.default_rng(0).normal(size=(400, 2))
    rows = pd.DataFrame(
        {
            "row_id": [f"r{i}" for i in range(400)],
            "label": np.zeros(400, np.int8),
            "group": "",
            "time": "",
            "batch": "x",
        }
    )
    return Dataset(Card("small", TABULAR, COLUMNS, "made here", scheme=request.param), RowSet(features, rows))


def split_into(folder: Path, dataset: Dataset, listed: pd.DataFrame | None = None) -> dict[str, RowSet]:
    write_dataset(folder / "data", dataset)
    if listed is not None:
        write_quarantine(folder / "q.csv", listed)
    split(
        folder / "split",
        data=folder / "data",
        quarantine=folder / "q.csv",
        answers=folder / "none.csv",
        seed=0,
        source="auto",
    )
    return {path.name: read_rows(path) for path in (folder / "split").iterdir() if path.is_dir()}


def test_roles_follow_from_the_scheme_of_the_card_and_both_fingerprints_are_stored(
    dataset: Dataset, tmp_path: Path
) -> None:
    parts = split_into(tmp_path, dataset)
    for part in parts.values():
        for column, scheme in (("fingerprint", dataset.card.scheme), ("other_fingerprint", 3 - dataset.card.scheme)):
            expected = fingerprints(part.features, COLUMNS, scheme=scheme)
            assert part.rows[column].tolist() == expected.tolist()


@pytest.mark.parametrize("scheme", [1, 2])
@pytest.mark.parametrize("copy", ["", "0"])
def test_a_quarantine_lists_rows_by_either(dataset: Dataset, scheme: int, copy: str, tmp_path: Path) -> None:
    bad = np.arange(0, 400, 10)
    prints = fingerprints(dataset.data.features[bad], COLUMNS, scheme=scheme)
    listed = pd.DataFrame({"fingerprint": prints, "copy": copy, "row_id": "", "why": "broken", "when": "today"})
    parts = split_into(tmp_path, dataset, listed)
    assert len(read_quarantine(tmp_path / "q.csv")) == 40
    assert set(parts["excluded"].rows["row_id"]) == {f"r{i}" for i in bad}


def test_a_row_is_unseen_by_neither_scheme(dataset: Dataset, tmp_path: Path) -> None:
    part = split_into(tmp_path, dataset)["selection"]
    other = Card("small", TABULAR, COLUMNS, "made here", scheme=3 - dataset.card.scheme)
    half = part.take(np.arange(len(part) // 2))
    write_arrays(tmp_path / "rows.safetensors", packed_rows("train", half, other))
    seen = is_learned(read_learned(tmp_path / "rows.safetensors"), part.rows)
    assert seen.tolist() == [i < len(half) for i in range(len(part))]
