"""Roles: stable, given copy by copy, in the stated shares, and true to groups and time."""

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
    normals = dict(zip(ROLES, (0.38, 0, 0.13, 0.14, 0.13, 0.10, 0.12), strict=True))
    anomalies = dict(zip(ROLES, (0, 0.5, 0, 0, 0.18, 0.14, 0.18), strict=True))
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


@pytest.mark.parametrize("label", [0, -1])
def test_copies_of_normals_have_roles_independent_of_each_other(label: int) -> None:
    """One state 4,000 times is divided like 4,000 states; pairs of copies agree as often as chance lets them."""
    data, n = make(1, labels=label), 4000
    rows = data.rows.loc[[0] * n].assign(row_id=[f"r-{i}" for i in range(n)]).reset_index(drop=True)
    off = RowSet(np.repeat(data.features, n, axis=0), rows)
    shares = np.array([0.38, 0, 0.13, 0.14, 0.13, 0.10, 0.12])
    parts = split_rows(off, COLUMNS, seed=3)
    found = np.array([len(parts[role]) / n for role in ROLES])
    assert (np.abs(found - shares) <= 4 * np.sqrt(shares * (1 - shares) / n)).all()
    pairs = make(2000, labels=label)
    twice = join(pairs, RowSet(pairs.features, pairs.rows.assign(row_id="copy-" + pairs.rows["row_id"])))
    roles = roles_of(split_rows(twice, COLUMNS, seed=1))
    agree = np.mean([roles[row] == roles[f"copy-{row}"] for row in pairs.rows["row_id"]])
    chance = (shares**2).sum()
    assert abs(agree - chance) < 4 * np.sqrt(chance * (1 - chance) / 2000)


def test_a_row_keeps_its_role_when_copies_of_it_come() -> None:
    data = make(300)
    before = roles_of(split_rows(data, COLUMNS, seed=1))
    copies = RowSet(data.features, data.rows.assign(row_id="copy-" + data.rows["row_id"]))
    after = roles_of(split_rows(join(data, copies, copies.take(np.arange(9))), COLUMNS, seed=1))
    assert {row: after[row] for row in before} == before


def test_stored_numbers_of_copies_count_whatever_came_in_between() -> None:
    """A batch was dropped: the numbers of its copies are missing, and the later rows keep theirs."""
    data = make(200, labels=0)
    numbered = join(*(RowSet(data.features, data.rows.assign(row_id=f"{k}-" + data.rows["row_id"])) for k in range(3)))
    numbered = RowSet(numbered.features, numbered.rows.assign(copy=np.repeat([0, 1, 2], 200)))
    before = roles_of(split_rows(numbered, COLUMNS, seed=1))
    after = roles_of(split_rows(numbered.take((numbered.rows["copy"] != 1).to_numpy()), COLUMNS, seed=1))
    assert {row: before[row] for row in after} == after


def test_all_copies_of_an_anomaly_have_one_role() -> None:
    data = make(400, labels=1)
    for where in ({}, {"group": [f"g{i % 90}" for i in range(800)]}, {"time": [f"{i:04d}" for i in range(800)]}):
        twice = join(data, RowSet(data.features, data.rows.assign(row_id="copy-" + data.rows["row_id"])))
        parts = split_rows(RowSet(twice.features, twice.rows.assign(**where)), COLUMNS, seed=1)
        roles = roles_of(parts)
        assert all(roles[row] == roles[f"copy-{row}"] for row in data.rows["row_id"]), where
        assert not len(parts[EXCLUDED])


def test_groups_keep_together_and_anomalies_meet_their_normals() -> None:
    data = make(3000, groups=[f"g{i % 100}" for i in range(3000)])
    parts = split_rows(data, COLUMNS, seed=1)
    rows = data.rows.assign(role=data.rows["row_id"].map(roles_of(parts)))
    normals = rows[rows["label"] == 0].groupby("group")["role"].agg(set)
    anomalies = rows[rows["label"] == 1].groupby("group")["role"].agg(set)
    assert (normals.map(len) == 1).all()
    assert (anomalies.map(len) == 1).all()
    assert set(normals.map(min)) == set(ROLES) - {"pool"}
    for judged in ("selection", "gate", "test"):
        with_normals = normals[normals == {judged}].index
        assert (anomalies[with_normals] == {judged}).all()


def test_normals_whose_content_is_labelled_anomalous_too_keep_their_roles_and_are_marked() -> None:
    data = make(600, labels=0)
    before = roles_of(split_rows(data, COLUMNS, seed=1))
    other = data.take(np.arange(300))
    other = RowSet(other.features, other.rows.assign(row_id="anomaly-" + other.rows["row_id"], label=np.int8(1)))
    parts = split_rows(join(data, other), COLUMNS, seed=1)
    after = roles_of(parts)
    assert {row: after[row] for row in before} == before
    assert not len(parts[EXCLUDED])
    for role in ("pool", "selection", "gate", "test"):
        rows = parts[role].rows
        number = rows["row_id"].str.rpartition("-")[2].astype(int)
        assert (rows["contradicted"] == (number < 300)).all()
    assert (parts["pool"].rows["contradicted"] == 1).all()
    assert len(parts["pool"]) > 100


def test_judged_rows_say_whether_training_has_their_content() -> None:
    data = make(300, labels=0)
    twice = join(data, RowSet(data.features, data.rows.assign(row_id="copy-" + data.rows["row_id"])))
    parts = split_rows(twice, COLUMNS, seed=1)
    learned = {*parts["train"].rows["fingerprint"], *parts["adapt"].rows["fingerprint"]}
    for role in ("selection", "gate", "test"):
        rows = parts[role].rows
        assert (rows["seen"] == rows["fingerprint"].isin(learned)).all()
        assert 0 < rows["seen"].mean() < 1
    assert "seen" not in parts["calibration"].rows


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_row_has_one_role_and_is_told_by_content_and_copy(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 60))
    values = data.draw(st.lists(st.integers(0, 6), min_size=n, max_size=n))
    labels = data.draw(st.lists(st.sampled_from([0, 1, -1]), min_size=n, max_size=n))
    groups = data.draw(st.lists(st.sampled_from(["", "g", "h", "i"]), min_size=n, max_size=n))
    timed = data.draw(st.booleans())
    times = data.draw(st.lists(st.sampled_from("123456789"), min_size=n, max_size=n)) if timed else ""
    rows = make(n, labels=labels, groups=groups, times=times).rows
    features = np.repeat(np.array(values, dtype=np.float32)[:, None], 3, axis=1)
    parts = split_rows(RowSet(features, rows), COLUMNS, seed=data.draw(st.integers(0, 9)))
    keys = pd.concat([parts[role].rows for role in ROLES])[["fingerprint", "copy"]]
    assert len(keys) == len(keys.drop_duplicates()) == n
    assert not len(parts[EXCLUDED])
    anomalies = {role: set(parts[role].rows["fingerprint"][parts[role].labels == 1]) for role in ROLES}
    assert sum(map(len, anomalies.values())) == len(set().union(*anomalies.values()))


def test_time_is_kept_in_order_and_equal_times_together() -> None:
    rng = np.random.default_rng(3)
    data = make(2000, times=[f"{t:05d}" for t in rng.integers(0, 300, 2000)])
    parts = split_rows(data, COLUMNS, seed=1)
    for label, order, shares in (
        (
            0,
            ("train", "adapt", "calibration", "selection", "gate", "test"),
            (0.38, 0.13, 0.14, 0.13, 0.10, 0.12),
        ),
        (1, ("pool", "selection", "gate", "test"), (0.5, 0.18, 0.14, 0.18)),
    ):
        times = [parts[role].rows.loc[parts[role].labels == label, "time"] for role in order]
        for early, late in pairwise(times):
            assert early.max() < late.min()
        total = sum(len(part) for part in times)
        np.testing.assert_allclose([len(part) / total for part in times], shares, atol=0.03)


def test_time_cuts_are_exact_and_one_moment_is_one_role() -> None:
    hours = [f"{i:02d}" for i in range(50)]
    parts = split_rows(make(50, labels=0, times=hours), COLUMNS, seed=1)
    assert [len(parts[role]) for role in ROLES] == [19, 0, 7, 7, 6, 5, 6]
    assert parts["test"].rows["time"].tolist() == ["44", "45", "46", "47", "48", "49"]
    assert len(split_rows(make(20, labels=0, times="noon"), COLUMNS, seed=1)["train"]) == 20


def test_all_rows_need_a_time_or_none() -> None:
    data = make(3, times=["1", "", "3"])
    with pytest.raises(DataError, match="'r0-1' has no time"):
        split_rows(data, COLUMNS, seed=1)


def test_no_rows_are_no_error() -> None:
    parts = split_rows(make(5).take(np.zeros(5, dtype=bool)), COLUMNS, seed=1)
    assert [len(part) for part in parts.values()] == [0] * 8


@pytest.mark.parametrize(
    ("selection", "test", "expected"),
    [
        (MIN_LABELLED, MIN_LABELLED, "labels"),
        (MIN_LABELLED - 1, 99, "probes"),
        (99, MIN_LABELLED - 1, "probes"),
    ],
)
def test_evidence_needs_enough_labelled_anomalies_on_both_sides(selection: int, test: int, expected: str) -> None:
    assert evidence({"pool": 0, "selection": selection, "test": test}) == expected


def test_hashes_are_uniform_and_the_same_everywhere() -> None:
    found = uniform_hashes(map(str, range(5000)), "salt")
    assert found.min() >= 0
    assert found.max() < 1
    counts = np.histogram(found, bins=20, range=(0, 1))[0]
    assert ((counts - 250) ** 2 / 250).sum() < 43.8  # chi-squared with 19 degrees of freedom, 0.999
    assert abs(np.corrcoef(found, uniform_hashes(map(str, range(5000)), "other"))[0, 1]) < 0.05
    assert found[0] == pytest.approx(0.41253345167282485, abs=0)


def test_anomalies_alone_have_the_roles_of_two_hashes_of_their_content() -> None:
    parts = split_rows(make(3000, labels=1), COLUMNS, seed=4)
    for role in ROLES:
        if not len(parts[role]):
            continue
        prints = "anomaly:" + parts[role].rows["fingerprint"]
        position, coin = uniform_hashes(prints, "role:4"), uniform_hashes(prints, "coin:4")
        bounds = {"selection": (0.65, 0.78, 0, 5 / 15), "gate": (0.78, 0.88, 5 / 15, 9 / 15), "test": (0.88, 1, 0.6, 1)}
        if role == "pool":
            assert (position < 0.5).all()
            continue
        low, high, first, last = bounds[role]
        of_normals = (position >= low) & (position < high)
        apart = (position >= 0.5) & (position < 0.65) & (coin >= first) & (coin < last)
        assert (of_normals | apart).all(), role


def test_where_rows_overlap_an_anomaly_has_a_role_that_goes_with_its_group_or_is_excluded() -> None:
    groups = [f"g{i % 60}" for i in range(1200)]
    parts = split_rows(make(1200, groups=groups), COLUMNS, seed=2, overlap=True)
    position = uniform_hashes([f"group:g{i}" for i in range(60)], "role:2")
    cuts = np.searchsorted([0.38, 0.51, 0.65, 0.78, 0.88], position, side="right")
    own = dict(zip((f"g{i}" for i in range(60)), np.array(ROLES)[[0, 2, 3, 4, 5, 6]][cuts], strict=True))
    for role in ROLES:
        anomalies = parts[role].rows.loc[parts[role].labels == 1, "group"].map(own)
        assert set(anomalies) <= ({"train", "adapt"} if role == "pool" else {role})
    assert {"calibration"} <= set(parts[EXCLUDED].rows["group"].map(own))
    assert set(parts[EXCLUDED].labels) == {1}
