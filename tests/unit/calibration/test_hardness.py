"""Strata of hardness."""

from __future__ import annotations

import numpy as np
import pytest

from assay.calibration.hardness import Strata, load_strata
from assay.errors import DataError, ScorerError
from assay.parts import Part, read_part, write_part


def test_strata_are_quartiles_of_the_fitted_rows():
    hardness = np.random.default_rng(1).gamma(2, size=1000)
    strata = Strata.fit(hardness)
    assert strata.n_strata == 4
    assert np.bincount(strata.assign(hardness)).tolist() == [250] * 4
    order = np.argsort(hardness)
    assert (np.diff(strata.assign(hardness)[order]) >= 0).all()
    assert strata.assign(np.array([-1.0, 1e9])).tolist() == [0, 3]


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
    assert sorted(set(strata.assign(hardness))) == list(range(n_strata))


def test_strata_come_back_from_disk_the_same(tmp_path):
    hardness = np.random.default_rng(2).gamma(2, size=101)
    for values in (hardness, np.ones(5)):
        strata = Strata.fit(values)
        write_part(tmp_path, "strata", strata.to_part())
        again = load_strata(read_part(tmp_path, "strata"))
        np.testing.assert_array_equal(again.assign(hardness), strata.assign(hardness))
    with pytest.raises(ScorerError, match="'mean'"):
        load_strata(Part("mean"))


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf]])
def test_strata_need_finite_rows(values):
    with pytest.raises(DataError, match="at least one"):
        Strata.fit(np.array(values))
