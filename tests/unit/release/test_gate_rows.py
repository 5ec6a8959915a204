"""Which gate rows belong together, how many are different, and which a comparison uses up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from assay.data.dataset import RowSet
from assay.project.comparisons import sample_of
from assay.release.champion import GateRows


def rows(marks: str, *, group: Sequence[str] | None = None, source: Sequence[str] | None = None) -> RowSet:
    """Rows whose contents are named by letters; their ids are letter and position."""
    table = pd.DataFrame(
        {
            "row_id": [f"{mark}{i}" for i, mark in enumerate(marks)],
            "label": np.int8(0),
            "group": group or [""] * len(marks),
            "copy": [marks[:i].count(mark) for i, mark in enumerate(marks)],
            "fingerprint": list(marks),
            "source_row": source or [""] * len(marks),
        }
    )
    return RowSet(np.zeros((len(marks), 1)), table)


def joined(gate: GateRows) -> list[int]:
    return [int(unit) for unit in gate.units]


def test_copies_of_an_anomaly_belong_together_and_those_of_a_normal_do_not() -> None:
    gate = GateRows(rows("aab"), rows("xyx"), "labels")
    assert joined(gate) == [0, 1, 2, 3, 4, 3]
    assert gate.n_anomalies == 2
    assert gate.used == sample_of(["x:0", "y:0", "x:1"])


def test_a_group_belongs_together() -> None:
    gate = GateRows(rows("abc", group=["g", "", "h"]), rows("xyz", group=["g", "g", ""]), "labels")
    assert joined(gate) == [0, 1, 2, 0, 0, 3]
    assert gate.n_anomalies == 2


def test_a_probe_belongs_to_the_normal_that_it_was_made_from_and_uses_up_normals() -> None:
    normals = rows("abc", group=["g", "", ""])
    gate = GateRows(normals, rows("wxyz", source=["a0", "b1", "", "b1"]), "probes")
    assert joined(gate) == [0, 1, 2, 0, 1, 3, 1]
    assert gate.used == sample_of(["a:0", "b:0", "c:0"])
