"""Test martingales: what they are, their state, and p-values at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.calibration.streams.martingale import (
    MARTINGALES,
    LargePValues,
    Power,
    SimpleJumper,
    load_martingale,
    reserve,
)
from assay.errors import ConfigError, InputError, ScorerError
from assay.parts import Part, read_part, write_part

EVERY = pytest.mark.parametrize("kind", list(MARTINGALES))
BOTH = pytest.mark.parametrize("kind", ["simple_jumper", "power"])


def released(n):
    """What begins to bet with row 1, ..., n: half at once, later what leaves the reserve."""
    return [1 - reserve(1), *(reserve(i - 1) - reserve(i) for i in range(2, n + 1))]


def published_jumper(p_values, jump):
    """Algorithm 1 of Vovk et al. (2021), word by word."""
    capital, total = dict.fromkeys((-1, 0, 1), 1 / 3), 1.0
    for p in p_values:
        for e in capital:
            capital[e] = ((1 - jump) * capital[e] + jump / 3 * total) * (1 + e * (p - 0.5))
        total = sum(capital.values())
    return total


def power_mixture(p_values):
    return np.mean([np.prod(e * p_values ** (e - 1)) for e in np.arange(1, 20) / 20])


@pytest.mark.parametrize(
    ("martingale", "started"),
    [
        (SimpleJumper(), lambda p: published_jumper(p, 0.01)),
        (SimpleJumper(jump=0.3), lambda p: published_jumper(p, 0.3)),
        (Power(), power_mixture),
    ],
)
def test_capital_is_that_of_martingales_started_at_every_row_and_the_reserve(martingale, started):
    p_values = np.random.default_rng(0).beta(0.5, 1, size=40)
    path = martingale.update(p_values)
    for n in (1, 2, 7, 40):
        parts = [share * started(p_values[i:n]) for i, share in enumerate(released(n))]
        assert 10 ** path[n - 1] == pytest.approx(sum(parts) + reserve(n), rel=1e-12)
    assert martingale.log10_value == path[-1]


def test_capital_of_the_jumper_has_mean_one():
    middles = (np.arange(200) + 0.5) / 200
    capital = [10 ** SimpleJumper(jump=0.2).update(np.array([p, q]))[1] for p in middles for q in middles]
    assert np.mean(capital) == pytest.approx(1, abs=1e-9)


@EVERY
def test_one_by_one_in_batches_and_restored_are_the_same_to_the_last_bit(kind, tmp_path):
    p_values = np.random.default_rng(1).beta(0.8, 1, size=1003)
    whole, single, stored = (MARTINGALES[kind]() for _ in range(3))
    path = whole.update(p_values)
    np.testing.assert_array_equal(np.concatenate([single.update(p_values[i : i + 1]) for i in range(1003)]), path)
    first = stored.update(p_values[:501])
    write_part(tmp_path, kind, stored.to_part())
    again = load_martingale(read_part(tmp_path, kind))
    assert again.log10_value == first[-1]
    np.testing.assert_array_equal(again.update(p_values[501:]), path[501:])
    assert again.fresh().log10_value == 0
    assert whole.update(np.empty(0)).shape == (0,)


def test_only_p_values_above_the_share_are_bet_on_and_they_fill_the_unit_interval():
    p_values = np.random.default_rng(4).random(500)
    large = p_values > 0.3
    path = LargePValues(Power(), share=0.3).update(p_values)
    assert np.unique(path).size == large.sum() + (not large[0])
    np.testing.assert_array_equal(path[large], Power().update((p_values[large] - 0.3) / 0.7))
    for share in (0, 1, float("nan")):
        with pytest.raises(ConfigError, match="share is"):
            LargePValues(share=share)


@BOTH
@pytest.mark.parametrize("p", [0.0, 5e-324, 0.5, 1.0])
def test_no_p_value_overflows_or_empties_the_capital(kind, p):
    martingale = MARTINGALES[kind]()
    path = martingale.update(np.full(20_000, p))
    assert np.isfinite(path).all()
    assert (path >= math.log10(reserve(20_000)) - 1e-9).all()
    if p < 0.1:
        assert path[-1] > 1000
        assert np.isfinite(martingale.update(np.full(20_000, 0.9))).all()


def test_the_jumper_bets_both_ways_and_power_on_small_p_values():
    small, large = (np.random.default_rng(2).beta(*shape, size=300) for shape in ((0.5, 1), (1, 0.5)))
    assert SimpleJumper().update(small)[-1] > 2
    assert SimpleJumper().update(large)[-1] > 2
    assert Power().update(small)[-1] > 2
    assert Power().update(large).max() < 0.5


@BOTH
def test_a_long_quiet_time_is_made_up_for_soon(kind):
    rng = np.random.default_rng(3)
    p_values = np.concatenate([rng.random(20_000), rng.beta(0.5, 1, size=300)])
    assert MARTINGALES[kind]().update(p_values)[-1] > 2
    assert published_jumper(p_values.tolist(), 0.01) < 1e-20


@EVERY
def test_numbers_that_are_no_p_values_are_refused(kind):
    for bad in ([0.5, np.nan], [-0.1], [1.1], [[0.5]]):
        with pytest.raises(InputError, match="between 0 and 1"):
            MARTINGALES[kind]().update(np.array(bad))


def test_bad_jumps_and_unknown_parts_are_refused():
    for jump in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            SimpleJumper(jump)
    with pytest.raises(ScorerError, match=r"unknown.*power"):
        load_martingale(Part("plugin"))
