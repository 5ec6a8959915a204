"""Which groups and single rows people are asked about."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from assay.arrays import Flags, Singles
from assay.detectors.baselines import groups
from assay.detectors.baselines.groups import Item, worth_a_look

N, NEAR, FAR = 300, 12, 10


def rows(seed: int = 0) -> Singles:
    """A bulk, then 12 rows of a kind apart from it, then 10 of another kind farther away."""
    rng = np.random.default_rng(seed)
    bulk = rng.standard_normal((N, 3))
    near, far = (rng.standard_normal((n, 3)) * 0.1 + at for n, at in ((NEAR, 6.0), (FAR, -9.0)))
    return np.concatenate([bulk, near, far]).astype(np.float32)


def flags(*places: slice) -> Flags:
    marked = np.zeros(N + NEAR + FAR, dtype=np.bool_)
    for place in places:
        marked[place] = True
    return marked


CLOSE, DISTANT = slice(N, N + NEAR), slice(N + NEAR, None)


def asked(**changes: Any) -> tuple[list[Item], list[Item]]:
    options: dict[str, Any] = {"answered": flags(), "bad": flags(), "budget": 10, "seed": 0, **changes}
    return worth_a_look(rows(), **options)


def members(items: list[Item]) -> list[list[int]]:
    return [sorted(item.rows.tolist()) for item in items]


def test_groups_come_in_the_order_of_their_distance_to_the_bulk_and_single_rows_after_them() -> None:
    found, singles = asked()
    assert members(found)[:2] == [list(range(N + NEAR, N + NEAR + FAR)), list(range(N, N + NEAR))]
    assert found[0].distance > found[1].distance > 3 * found[1].usual
    assert len(found) <= 5
    assert len(found) + len(singles) == 10
    assert all(len(item.rows) == 1 and item.rows[0] < N for item in singles)
    middle = np.median(rows()[CLOSE], axis=0)
    distances = np.linalg.norm(rows()[found[1].rows] - middle, axis=1)
    assert distances[0] < np.median(distances) < distances[-1]


def test_what_was_answered_is_not_asked_again_and_bad_rows_are_left_out() -> None:
    for changes in ({"answered": flags(DISTANT)}, {"answered": flags(DISTANT), "bad": flags(DISTANT)}):
        found, singles = asked(**changes)
        assert members(found)[0] == list(range(N, N + NEAR))
        assert not set(range(N + NEAR, N + NEAR + FAR)) & {
            row for item in found + singles for row in item.rows.tolist()
        }
    few = flags(slice(N, N + 4))
    found, _ = asked(answered=few)
    assert list(range(N + 4, N + NEAR)) in members(found)


def test_single_rows_near_bad_ones_come_first() -> None:
    bad = flags(slice(N, N + NEAR - 1))
    _, singles = asked(answered=bad, bad=bad)
    assert singles[0].rows.tolist() == [N + NEAR - 1]
    assert singles[0].near_bad
    assert not singles[-1].near_bad


def test_rows_beyond_the_sample_join_the_group_that_they_lie_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MOST_GROUPED", 250)
    found, singles = asked()
    assert members(found)[:2] == [list(range(N + NEAR, N + NEAR + FAR)), list(range(N, N + NEAR))]
    assert len(singles) >= 5


def test_a_few_rows_or_equal_ones_are_no_groups() -> None:
    nobody = np.zeros(4, dtype=np.bool_)
    assert worth_a_look(rows()[:4], answered=nobody, bad=nobody, budget=3, seed=0) == ([], [])
    equal, nobody = np.zeros((40, 2), dtype=np.float32), np.zeros(40, dtype=np.bool_)
    found, singles = worth_a_look(equal, answered=nobody, bad=nobody, budget=3, seed=0)
    assert (found, len(singles)) == ([], 3)
