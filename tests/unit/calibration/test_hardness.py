"""Strata of hardness."""

from __future__ import annotations

import numpy as np
import pytest

from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.hardness import HoldingStrata, NeighbourhoodStrata, Strata, fit_strata, load_strata
from assay.errors import DataError, ScorerError
from assay.parts import Part, read_part, write_part


def test_strata_are_quartiles_of_the_fitted_rows():
    hardness = np.random.default_rng(1).gamma(2, size=1000)
    strata = Strata.fit(hardness)
    assert strata.n_strata == 4
    assert np.bincount(strata.assign(hardness, hardness)).tolist() == [250] * 4
    order = np.argsort(hardness)
    assert (np.diff(strata.assign(hardness, hardness)[order]) >= 0).all()
    assert strata.assign(np.zeros((2, 1)), np.array([-1.0, 1e9])).tolist() == [0, 3]


@pytest.mark.parametrize(
    ("hardness", "n_strata"),
    [
        ([2.0] * 30, 1),
        ([5.0], 1),
        ([0.0] * 29 + [1.0], 2),
        ([0.0] * 10 + [1.0] * 10, 2),
        ([0, 0, 1, 1, 2, 2], 3),
    ],
)
def test_ties_give_fewer_strata_and_none_is_empty(hardness, n_strata):
    hardness = np.array(hardness, dtype=np.float64)
    strata = Strata.fit(hardness)
    assert strata.to_part().config["n_strata"] == strata.n_strata == n_strata
    assert sorted(set(strata.assign(hardness, hardness))) == list(range(n_strata))


def test_strata_come_back_from_disk_the_same(tmp_path):
    hardness = np.random.default_rng(2).gamma(2, size=101)
    for values in (hardness, np.ones(5)):
        strata = Strata.fit(values)
        write_part(tmp_path, "strata", strata.to_part())
        again = load_strata(read_part(tmp_path, "strata"))
        np.testing.assert_array_equal(again.assign(hardness, hardness), strata.assign(hardness, hardness))
    with pytest.raises(ScorerError, match="'mean'"):
        load_strata(Part("mean"))


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf]])
def test_strata_need_finite_rows(values):
    with pytest.raises(DataError, match="at least one"):
        Strata.fit(np.array(values))


SPREADS = np.array([0.2, 1.0, 5.0, 25.0])


def regions(rng, n, *, out=1.0):
    """Rows of four regions of different spread, drawn `out` times as far from their centres, and their regions."""
    region = rng.integers(4, size=n)
    return (300 * np.eye(4)[region] + out * SPREADS[region, None] * rng.normal(size=(n, 4))).astype(np.float32), region


def test_neighbourhood_hardness_tells_the_regions_also_for_rows_that_stand_apart():
    rng = np.random.default_rng(3)
    strata = NeighbourhoodStrata.fit_rows(regions(rng, 800)[0], seed=0)
    for out in (1.0, 3.0):
        rows, region = regions(rng, 400, out=out)
        hardness = strata.hardness(rows)
        assert all(hardness[region == r].max() < hardness[region == r + 1].min() for r in range(3))


def test_neighbourhood_strata_do_not_depend_on_the_batch_and_come_back_from_disk(tmp_path):
    rng = np.random.default_rng(4)
    strata = NeighbourhoodStrata.fit_rows(regions(rng, 1500)[0], seed=0)
    assert len(strata.sparsity) == 1000
    rows, unused = regions(rng, 50)[0], np.zeros(50)
    together = strata.assign(rows, unused)
    assert [strata.assign(rows[[i]], unused[:1])[0] for i in range(50)] == together.tolist()
    write_part(tmp_path, "strata", strata.to_part())
    again = load_strata(read_part(tmp_path, "strata"))
    np.testing.assert_array_equal(again.assign(rows, unused), together)


@pytest.mark.parametrize("repeated", [0.0, 0.6])
def test_neighbourhood_strata_of_few_or_equal_rows(repeated):
    rng = np.random.default_rng(5)
    rows = regions(rng, 60)[0]
    rows[rng.random(60) < repeated] = 1.0
    strata = fit_strata(rows, np.ones(60), by_neighbourhood=True, seed=0)
    of_copies = strata.assign(rows[(rows == 1.0).all(axis=1)], np.ones(60))
    assert len(set(of_copies)) == (1 if repeated else 0)
    assert strata.n_strata == (2 if repeated else 4)
    few = fit_strata(rows[:19], np.arange(19.0), by_neighbourhood=True, seed=0)
    assert (
        few.assign(rows[:19], np.arange(19.0)).tolist()
        == Strata.fit(np.arange(19.0)).assign(rows, np.arange(19.0)).tolist()
    )


def test_rates_hold_in_regions_and_more_anomalies_are_flagged_than_by_distance_to_the_mean():
    """Mean rates over 200 redraws; each row's score is its distance from the centre of its region."""
    flagged = {"neighbourhood": [], "mean": []}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        drawn = {role: regions(rng, n) for role, n in (("adapt", 200), ("calibration", 300), ("normal", 200))}
        drawn["anomaly"] = regions(rng, 100, out=2.0)
        scores = {
            role: np.linalg.norm(rows - 300 * np.eye(4)[region], axis=1) for role, (rows, region) in drawn.items()
        }
        rows = {role: rows for role, (rows, _) in drawn.items()}
        hardness = {role: np.linalg.norm(x - rows["adapt"].mean(axis=0), axis=1) for role, x in rows.items()}
        for kind in flagged:
            strata = fit_strata(rows["adapt"], hardness["adapt"], by_neighbourhood=kind == "neighbourhood", seed=0)
            keys = {role: strata.assign(rows[role], hardness[role]) for role in rows}
            calibrator = MondrianCalibrator("stratum").fit(scores["calibration"], keys["calibration"])
            normal, anomaly = (calibrator.p_values(scores[r], keys[r]) <= 0.1 for r in ("normal", "anomaly"))
            flagged[kind].append([*(normal[drawn["normal"][1] == r].mean() for r in range(4)), anomaly.mean()])
    means = {kind: np.nanmean(rates, axis=0) for kind, rates in flagged.items()}
    assert means["neighbourhood"][:4].max() < 0.12
    assert means["mean"][:4].max() > 0.15
    assert means["neighbourhood"][4] > means["mean"][4] + 0.1


def test_twenty_rows_are_enough_for_strata_of_neighbourhoods_and_a_thousand_are_kept_each_once():
    scaled = np.random.default_rng(7).normal(size=(1010, 2))
    for n, cls in ((19, HoldingStrata), (20, NeighbourhoodStrata)):
        assert type(fit_strata(scaled[:n], np.arange(n, dtype=float), by_neighbourhood=True, seed=0)) is cls
    kept = NeighbourhoodStrata.fit_rows(scaled, seed=0)
    assert len(kept.sparsity) == 1000
    assert (kept.sparsity > 0).all()
    assert len(np.unique(next(a for a in kept.to_part().arrays.values() if a.shape == (1000, 2)), axis=0)) == 1000
