"""Roles: stable, disjoint by content, in the stated shares, and true to groups and time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.data.dataset import RowSet
from assay.data.splitting import EXCLUDED, MIN_LABELLED, ROLES, evidence, split_rows, uniform_hashes
from assay.errors import DataError

COLUMNS = ("a", "b", "c")


def make(
    n: int,
    *,
    seed: int = 0,
    labels: int | Sequence[int] | None = None,
    groups: str | list[str] = "",
    times: str | list[str] = "",
    share: float = 0.2,
) -> RowSet:
    rng = np.random.default_rng(seed)
    drawn = (rng.random(n) < share).astype(np.int8)
    rows = pd.DataFrame({"row_id": [f"r{seed}-{i}" for i in range(n)]})
    rows = rows.assign(label=drawn if labels is None else np.broadcast_to(labels, n), group=groups, time=times)
    return RowSet(rng.normal(size=(n, 3)).astype(np.float32), rows.astype({"label": np.int8}))


def join(*parts: RowSet) -> RowSet:
    features = np.concatenate([part.features for part in parts])
    return RowSet(features, pd.concat([part.rows for part in parts], ignore_index=True))


def roles_of(parts: dict[str, RowSet]) -> dict[str, str]:
    return {row_id: role for role, part in parts.items() for row_id in part.rows["row_id"]}


def test_every_row_gets_one_role_and_its_fingerprint() -> None:
    data = make(500)
    parts = split_rows(data, COLUMNS, seed=1)
    assert tuple(parts) == (*ROLES, EXCLUDED)
    assert sorted(roles_of(parts)) == sorted(data.rows["row_id"])
    assert sum(len(part) for part in parts.values()) == len(data)
    for part in parts.values():
        numbers = part.rows["row_id"].str.removeprefix("r0-").astype(int)
        assert numbers.is_monotonic_increasing
        np.testing.assert_array_equal(part.features, data.features[numbers])
        assert part.rows["fingerprint"].str.len().isin([32]).all()
    assert set(parts["pool"].labels) == {1}
    for role in ("train", "adapt", "calibration"):
        assert 1 not in parts[role].labels


def test_roles_stay_when_rows_come_move_or_are_relabelled_and_columns_change_places() -> None:
    data = make(400)
    before = roles_of(split_rows(data, COLUMNS, seed=1))
    more = roles_of(split_rows(join(make(200, seed=5), data), COLUMNS, seed=1))
    assert {row: more[row] for row in before} == before
    mixed = data.take(np.random.default_rng(0).permutation(400))
    assert roles_of(split_rows(mixed, COLUMNS, seed=1)) == before
    moved = RowSet(data.features[:, [2, 0, 1]], data.rows)
    assert roles_of(split_rows(moved, ("c", "a", "b"), seed=1)) == before
    labels = data.labels.copy()
    labels[:200] = 1 - labels[:200]
    noisy = roles_of(split_rows(RowSet(data.features, data.rows.assign(label=labels)), COLUMNS, seed=1))
    untouched = data.rows["row_id"][200:]
    assert [noisy[row] for row in untouched] == [before[row] for row in untouched]


def test_another_seed_gives_other_roles() -> None:
    one, two = (roles_of(split_rows(make(400), COLUMNS, seed=seed)) for seed in (1, 2))
    assert np.mean([one[row] == two[row] for row in one]) < 0.5


def test_shares_are_the_stated_ones_over_many_redraws() -> None:
    normals = dict(zip(ROLES, (0.40, 0, 0.15, 0.15, 0.15, 0.15), strict=True))
    anomalies = dict(zip(ROLES, (0, 0.5, 0, 0, 0.25, 0.25), strict=True))
    redraws, n = 60, 300
    for share, labels in ((normals, 0), (normals, -1), (anomalies, 1)):
        counts = dict.fromkeys(ROLES, 0)
        for seed in range(redraws):
            parts = split_rows(make(n, seed=seed, labels=labels), COLUMNS, seed=seed)
            for role in ROLES:
                counts[role] += len(parts[role])
        for role, p in share.items():
            deviation = np.sqrt(p * (1 - p) / (redraws * n))
            assert abs(counts[role] / (redraws * n) - p) <= 4 * deviation, role


def test_duplicates_keep_together() -> None:
    data = make(100)
    twice = join(data, RowSet(data.features, data.rows.assign(row_id="copy-" + data.rows["row_id"])))
    roles = roles_of(split_rows(twice, COLUMNS, seed=1))
    assert all(roles[row] == roles[f"copy-{row}"] for row in data.rows["row_id"])


def test_groups_keep_together_and_anomalies_meet_their_normals() -> None:
    data = make(3000, groups=[f"g{i % 100}" for i in range(3000)])
    parts = split_rows(data, COLUMNS, seed=1)
    rows = data.rows.assign(role=data.rows["row_id"].map(roles_of(parts)))
    normals = rows[rows["label"] == 0].groupby("group")["role"].agg(set)
    anomalies = rows[rows["label"] == 1].groupby("group")["role"].agg(set)
    assert (normals.map(len) == 1).all()
    assert (anomalies.map(len) == 1).all()
    assert set(normals.map(min)) == set(ROLES) - {"pool"}
    for judged in ("selection", "test"):
        with_normals = normals[normals == {judged}].index
        assert (anomalies[with_normals] == {judged}).all()


def test_contradictory_content_stays_in_the_first_role_only() -> None:
    data = make(300, labels=0)
    other = RowSet(data.features, data.rows.assign(row_id="anomaly-" + data.rows["row_id"], label=np.int8(1)))
    parts = split_rows(join(data, other), COLUMNS, seed=1)
    roles = roles_of(parts)
    for row in data.rows["row_id"]:
        pair = {roles[row], roles[f"anomaly-{row}"]}
        assert pair in ({"selection"}, {"test"}) or len(pair - {EXCLUDED}) == 1 == len(pair & {EXCLUDED})
        assert roles[row] != EXCLUDED or roles[f"anomaly-{row}"] == "pool"
    assert len(parts[EXCLUDED]) > 100


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_roles_never_share_content(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 60))
    values = data.draw(st.lists(st.integers(0, 6), min_size=n, max_size=n))
    labels = data.draw(st.lists(st.sampled_from([0, 1, -1]), min_size=n, max_size=n))
    groups = data.draw(st.lists(st.sampled_from(["", "g", "h", "i"]), min_size=n, max_size=n))
    timed = data.draw(st.booleans())
    times = data.draw(st.lists(st.sampled_from("123456789"), min_size=n, max_size=n)) if timed else ""
    rows = make(n, labels=labels, groups=groups, times=times).rows
    features = np.repeat(np.array(values, dtype=np.float32)[:, None], 3, axis=1)
    parts = split_rows(RowSet(features, rows), COLUMNS, seed=data.draw(st.integers(0, 9)))
    contents = [set(parts[role].rows["fingerprint"]) for role in ROLES]
    assert sum(len(content) for content in contents) == len(set().union(*contents)) == len(set(values))
    assert sum(len(part) for part in parts.values()) == n


def test_time_is_kept_in_order_and_equal_times_together() -> None:
    rng = np.random.default_rng(3)
    data = make(2000, times=[f"{t:05d}" for t in rng.integers(0, 300, 2000)])
    parts = split_rows(data, COLUMNS, seed=1)
    for label, order, shares in (
        (0, ("train", "adapt", "calibration", "selection", "test"), (0.40, 0.15, 0.15, 0.15, 0.15)),
        (1, ("pool", "selection", "test"), (0.5, 0.25, 0.25)),
    ):
        times = [parts[role].rows.loc[parts[role].labels == label, "time"] for role in order]
        for early, late in pairwise(times):
            assert early.max() < late.min()
        total = sum(len(part) for part in times)
        np.testing.assert_allclose([len(part) / total for part in times], shares, atol=0.03)


def test_time_cuts_are_exact_and_one_moment_is_one_role() -> None:
    hours = [f"{i:02d}" for i in range(20)]
    parts = split_rows(make(20, labels=0, times=hours), COLUMNS, seed=1)
    assert [len(parts[role]) for role in ROLES] == [8, 0, 3, 3, 3, 3]
    assert parts["test"].rows["time"].tolist() == ["17", "18", "19"]
    assert len(split_rows(make(20, labels=0, times="noon"), COLUMNS, seed=1)["train"]) == 20


def test_all_rows_need_a_time_or_none() -> None:
    data = make(3, times=["1", "", "3"])
    with pytest.raises(DataError, match="'r0-1' has no time"):
        split_rows(data, COLUMNS, seed=1)


def test_no_rows_are_no_error() -> None:
    parts = split_rows(make(5).take(np.zeros(5, dtype=bool)), COLUMNS, seed=1)
    assert [len(part) for part in parts.values()] == [0] * 7


@pytest.mark.parametrize(
    ("selection", "test", "expected"),
    [
        (MIN_LABELLED, MIN_LABELLED, "labels"),
        (MIN_LABELLED - 1, 99, "probes"),
        (99, MIN_LABELLED - 1, "probes"),
    ],
)
def test_evidence_needs_enough_labelled_anomalies_on_both_sides(selection: int, test: int, expected: str) -> None:
    parts = {
        "selection": join(make(selection, labels=1), make(50, labels=0)),
        "test": join(make(test, labels=1), make(50, labels=-1)),
    }
    assert evidence(parts) == expected


def test_hashes_are_uniform_and_the_same_everywhere() -> None:
    found = uniform_hashes(map(str, range(5000)), "salt")
    assert found.min() >= 0
    assert found.max() < 1
    counts = np.histogram(found, bins=20, range=(0, 1))[0]
    assert ((counts - 250) ** 2 / 250).sum() < 43.8  # chi-squared with 19 degrees of freedom, 0.999
    assert abs(np.corrcoef(found, uniform_hashes(map(str, range(5000)), "other"))[0, 1]) < 0.05
    assert found[0] == pytest.approx(0.41253345167282485, abs=0)
