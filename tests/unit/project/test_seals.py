"""Seals in the order of the chain that they seal."""

from __future__ import annotations

from pathlib import Path

import pytest

from assay.parts import write_json
from assay.project.seals import SEAL_SCHEMA, read_seals

EARLY, LATE = "2026-11-28T10:00:00+00:00", "2026-11-28T11:00:00+00:00"


@pytest.mark.parametrize(
    ("second", "order"),
    [
        pytest.param(EARLY, ["a3", "a9", "b5"], id="of one second"),
        pytest.param("2026-11-28T09:00:00+00:00", ["a3", "a9", "b5"], id="the clock was set back"),
        pytest.param("2026-11-28T12:00:00+00:00", ["a3", "b5", "a9"], id="after that of another machine"),
    ],
)
def test_seals_have_the_order_of_their_chain(tmp_path: Path, second: str, order: list[str]) -> None:
    times = {"a3": EARLY, "a9": second, "b5": LATE}
    for number, (name, time) in enumerate(times.items()):
        content = {"schema": SEAL_SCHEMA, "machine": name[0], "name": "m", "entries": int(name[1]), "head": name}
        write_json(tmp_path / "seals" / f"{9 - number}.json", {**content, "scorers": {}, "time": time})
    assert [seal.head for seal in read_seals(tmp_path)] == order
