"""What p <= eps promises: on average over calibration rows, or for one scorer with confidence."""

from __future__ import annotations

import numpy as np
import pytest

from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.calibrators.promise import AVERAGE, COVERAGE, Promise, fpr_band, largest_count
from assay.calibration.calibrators.registry import load_calibrator
from assay.errors import ConfigError, ScorerError
from assay.parts import Part

NINE, ALL = Promise(0.9), Promise(0.9, all_eps=True)
REDRAWS = 4000


def rates(promise: Promise, m: int, eps: float, *, steps: int = 0, redraws: int = REDRAWS) -> np.ndarray:
    """False-positive rates of scorers with m uniform calibration scores each, rounded up to `steps` values if given."""
    rng = np.random.default_rng(m)
    found = []
    for _ in range(redraws):
        scores = rng.uniform(size=m)
        if steps:
            scores = np.ceil(scores * steps) / steps
        threshold = ConformalCalibrator(promise).fit(scores).threshold(eps)
        found.append(max(0.0, 1 - threshold) if np.isfinite(threshold) else 0.0)
    return np.array(found)


def share(hits: np.ndarray) -> tuple[float, float]:
    """Return a share with four of its standard errors."""
    return float(hits.mean()), 4 * float(np.sqrt(0.25 / hits.size))


@pytest.mark.parametrize(("m", "eps"), [(45, 0.05), (150, 0.05), (22, 0.1), (230, 0.01)])
def test_with_a_confidence_the_rate_of_one_scorer_is_at_most_eps_that_often(m: int, eps: float) -> None:
    within, error = share(rates(NINE, m, eps) <= eps)
    assert within >= 0.9 - error
    on_average, _ = share(rates(AVERAGE, m, eps) <= eps)
    assert on_average < 0.75, "the average promises much less"


def test_it_is_not_cautious_beyond_the_confidence_where_ranks_are_fine() -> None:
    within, error = share(rates(NINE, 2000, 0.1, redraws=1000) <= 0.1)
    assert within == pytest.approx(0.9, abs=error + 0.03)


def test_ties_only_lower_the_rate() -> None:
    within, error = share(rates(NINE, 150, 0.05, steps=20) <= 0.05)
    assert within >= 0.9 - error


@pytest.mark.parametrize("m", [60, 400])
def test_for_all_eps_at_once_the_worst_eps_may_be_chosen_afterwards(m: int) -> None:
    rng = np.random.default_rng(m)
    # The rate just below each p-value is that of its rank's calibration score.
    order = np.sort(rng.uniform(size=(REDRAWS, m)), axis=1)
    holds, error = share((order <= ALL.p_values(m)[:-1]).all(axis=1))
    assert holds >= 0.9 - error
    one_by_one, _ = share((order <= NINE.p_values(m)[:-1]).all(axis=1))
    assert one_by_one < 0.6, "bounds for one eps do not hold together"


@pytest.mark.parametrize(("eps", "m"), [(0.1, 22), (0.05, 45), (0.01, 230)])
def test_the_rows_that_it_takes(eps: float, m: int) -> None:
    assert NINE.rows_needed(eps) == m
    assert (1 - eps) ** m <= 0.1 < (1 - eps) ** (m - 1)
    few = ConformalCalibrator(NINE).fit(np.arange(float(m - 1)))
    assert f"with confidence 0.9 no row can be flagged: it takes {m} calibration rows, there are {m - 1}" in few.limits(
        eps
    )
    assert few.threshold(eps) == np.inf
    enough = ConformalCalibrator(NINE).fit(np.arange(float(m)))
    assert not enough.limits(eps)
    assert enough.predict(np.array([1e9]), eps).all()
    assert not enough.predict(np.array([m - 1.5]), eps).any()


def test_for_all_eps_at_once_it_takes_more_rows() -> None:
    m = ALL.rows_needed(0.1)
    assert m > NINE.rows_needed(0.1)
    assert ALL.p_values(m)[0] <= 0.1 < ALL.p_values(m - 1)[0]


@pytest.mark.parametrize("promise", [AVERAGE, NINE, ALL, Promise(0.5)])
@pytest.mark.parametrize("m", [1, 2, 150, 1000])
def test_p_values_increase_to_one_and_are_never_below_the_average(promise: Promise, m: int) -> None:
    p_values = promise.p_values(m)
    assert p_values.shape == (m + 1,)
    assert (np.diff(p_values) >= 0).all()
    assert p_values[-1] == 1
    assert (p_values >= AVERAGE.p_values(m)).all()
    for eps in (0.01, 0.05, 0.2):
        assert promise.largest_rank(m, eps) == int((p_values <= eps).sum())


@pytest.mark.parametrize("promise", [AVERAGE, NINE])
def test_the_band_has_the_rate_of_one_scorer_as_often_as_it_says(promise: Promise) -> None:
    low, high = fpr_band(promise.largest_rank(150, 0.05), 150)
    if promise.is_average:
        assert (low, high) == (pytest.approx(0.019, abs=5e-4), pytest.approx(0.085, abs=5e-4))
    found = rates(promise, 150, 0.05)
    covered, error = share((low <= found) & (found <= high))
    assert covered == pytest.approx(COVERAGE, abs=error)
    assert ConformalCalibrator(promise).fit(np.random.default_rng(0).uniform(size=150)).fpr_bands(0.05) == {
        "all": (low, high)
    }


def test_bands_by_key_have_the_size_of_each_key() -> None:
    keys = np.repeat(np.array(["a", "b"], dtype=object), [30, 150])
    bands = MondrianCalibrator("category").fit(np.arange(180.0), keys).fpr_bands(0.05)
    assert bands == {"a": fpr_band(1, 30), "b": fpr_band(7, 150)}
    assert fpr_band(0, 10) == (0, 0)


@pytest.mark.parametrize("promise", [NINE, ALL])
@pytest.mark.parametrize("by_key", [False, True])
def test_a_part_holds_the_promise_and_its_p_values(promise: Promise, by_key: bool) -> None:
    rng = np.random.default_rng(0)
    scores, new, keys = rng.normal(size=120), rng.normal(size=50), np.arange(120) % 2
    side = np.arange(50) % 2 if by_key else None
    made = (
        MondrianCalibrator("stratum", promise).fit(scores, keys) if by_key else ConformalCalibrator(promise).fit(scores)
    )
    again = load_calibrator(made.to_part())
    assert np.array_equal(again.p_values(new, side), made.p_values(new, side))
    assert again.guarantee == made.guarantee
    assert "With confidence 0.9" in again.guarantee
    part = made.to_part()
    for spoiled in (part.arrays["p_values"] * 0.5, part.arrays["p_values"][:-1], part.arrays["p_values"][::-1].copy()):
        with pytest.raises(ScorerError, match="p-values"):
            load_calibrator(Part(part.kind, part.config, {**part.arrays, "p_values": spoiled}))


def test_a_confidence_goes_with_counted_ties_alone() -> None:
    calibrator = ConformalCalibrator(NINE).fit(np.arange(100.0))
    with pytest.raises(ConfigError, match="counted ties"):
        calibrator.p_values(np.array([1.0]), tie_breaks=np.array([0.5]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("always", "average, or"),
        ({"confidence": 0.3}, "from 0.5 on"),
        ({"confidence": 1}, "between 0 and 1"),
        ({"confidence": "high"}, "between 0 and 1"),
        ({"all_eps": True}, "average, or"),
        ({"confidence": 0.9, "all_eps": 1}, "true or false"),
        ({"confidence": 0.9, "at": 1}, "average, or"),
    ],
)
def test_a_setting_that_is_not_allowed_is_refused(setting: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Promise.parse(setting)


def test_settings_come_back() -> None:
    for promise in (AVERAGE, NINE, ALL):
        assert Promise.parse(promise.setting()) == promise
    with pytest.raises(ConfigError, match="without a confidence"):
        Promise(all_eps=True)


def test_the_draws_behind_all_eps_are_the_same_everywhere() -> None:
    pinned = [0.4822287137640958, 0.7163442745949571, 0.881194668912866, 0.9815267073700954, 1.0]
    assert Promise(0.8, all_eps=True).p_values(4) == pytest.approx(pinned, rel=1e-9)


@pytest.mark.parametrize("m", [3, 40, 200])
def test_so_many_rows_are_needed_that_the_smallest_p_value_is_eps(m: int) -> None:
    eps = float(NINE.p_values(m)[0])
    assert NINE.rows_needed(eps) == m
    assert NINE.rows_needed(np.nextafter(eps, 0)) == m + 1


def test_all_calibration_rows_are_the_most_that_can_be_counted() -> None:
    p_values = np.array([0.25, 0.5, 0.75, 0.9])
    assert [largest_count(p_values, eps) for eps in (0.2, 0.25, 0.5, 0.8, 0.95)] == [0, 1, 2, 3, 3]
