"""Benjamini-Hochberg and the bound for rows picked after looking, on conformal p-values that share a reference."""

from __future__ import annotations

import time
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from assay.calibration.batches import benjamini_hochberg, discovery_limits, false_discovery_bound
from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.errors import ConfigError, InputError

fractions = st.lists(st.integers(1, 12), min_size=1, max_size=8).map(lambda ks: [Fraction(k, 12) for k in ks])
levels = st.sampled_from([Fraction(1, 20), Fraction(1, 10), Fraction(1, 4), Fraction(1, 3), Fraction(1, 2)])


def as_floats(p):
    return np.array([value.numerator / value.denominator for value in p])


def draw(seed, *, m, normals, anomalies, shift, decimals=None):
    """P-values of a batch against one reference, and which rows are normal; rounded scores have many ties."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=m + normals + anomalies)
    scores[m + normals :] += shift
    scores = scores if decimals is None else scores.round(decimals)
    p = ConformalCalibrator().fit(scores[:m]).p_values(scores[m:])
    return p, np.arange(normals + anomalies) < normals


@settings(max_examples=300, deadline=None)
@given(fractions, levels)
def test_benjamini_hochberg_decides_as_exact_fractions_do(p, alpha):
    r = max((r for r in range(1, len(p) + 1) if sum(v <= alpha * r / len(p) for v in p) >= r), default=0)
    expected = [v <= alpha * r / len(p) for v in p] if r else [False] * len(p)
    assert benjamini_hochberg(as_floats(p), float(alpha)).tolist() == expected


def test_a_p_value_on_the_line_is_flagged_whatever_the_rounding():
    for n in range(1, 400):
        for alpha in (0.05, 0.1, 0.15, 0.3, 1 / 3, 0.7):
            assert benjamini_hochberg(np.full(n, alpha), alpha).all()
            assert not benjamini_hochberg(np.full(n, np.nextafter(alpha, 1)), alpha).any()


def test_equal_p_values_are_flagged_together_and_none_where_none_can():
    assert benjamini_hochberg(np.array([0.02, 0.02, 0.02, 0.9]), 0.05).tolist() == [True, True, True, False]
    assert not benjamini_hochberg(np.array([0.02, 0.5, 0.5, 0.9]), 0.05).any()
    assert benjamini_hochberg(np.array([]), 0.1).shape == (0,)
    assert not benjamini_hochberg(np.ones(3), 0.1).any()


@pytest.mark.parametrize("decimals", [None, 0])
@pytest.mark.parametrize(("m", "anomalies"), [(200, 0), (200, 20), (1000, 50)])
def test_the_false_discovery_rate_is_controlled_over_redraws(m, anomalies, decimals):
    alpha, normals, redraws = 0.2, 150, 500
    shares, found = [], []
    for seed in range(redraws):
        p, normal = draw(seed, m=m, normals=normals, anomalies=anomalies, shift=4, decimals=decimals)
        flags = benjamini_hochberg(p, alpha)
        shares.append((flags & normal).sum() / max(flags.sum(), 1))
        found.append((flags & ~normal).sum() / max(anomalies, 1))
    error = np.std(shares) / np.sqrt(redraws)
    exact = alpha * normals / (normals + anomalies)
    assert np.mean(shares) <= exact + 3 * error
    if decimals is None and m == 1000:
        assert np.mean(shares) > exact - 4 * error
    if anomalies:
        assert np.mean(found) > 0.8


def closed_testing(p, chosen, delta):
    """The most rows among the chosen that a closed test with Simes tests leaves: by trying all subsets."""
    n = len(p)

    def simes(rows):
        ordered = sorted(p[i] for i in rows)
        return any(value <= delta * r / len(rows) for r, value in enumerate(ordered, start=1))

    subsets = [frozenset(rows) for size in range(1, n + 1) for rows in combinations(range(n), size)]
    left = [rows for rows in subsets if not simes(rows)]
    return max((len(rows & chosen) for rows in left), default=0)


@settings(max_examples=150, deadline=None)
@given(fractions, levels, st.integers(0, 255))
@example([Fraction(k, 12) for k in (2, 2, 3, 11, 11)], Fraction(1, 2), 1)  # a p-value on the line decides
def test_the_bound_is_that_of_closed_testing_by_brute_force(p, delta, bits):
    chosen = [bool(bits >> i & 1) for i in range(len(p))]
    bound = false_discovery_bound(as_floats(p), np.array(chosen), float(delta))
    assert bound == closed_testing(p, frozenset(np.flatnonzero(chosen).tolist()), delta)


@pytest.mark.parametrize("decimals", [None, 0])
def test_the_bound_holds_for_all_choices_at_once(decimals):
    """Choices: every top k, all normal rows (the worst there is), the k normal rows with the smallest p-values."""
    delta, redraws, violated = 0.2, 250, []
    for seed in range(redraws):
        p, normal = draw(seed, m=200, normals=60, anomalies=20, shift=3, decimals=decimals)
        order = np.argsort(p, kind="stable")
        tops = [np.isin(np.arange(80), order[:k]) for k in range(1, 81, 3)]
        choices = [*tops, normal, *[top & normal for top in tops[:9]]]
        bounds = [false_discovery_bound(p, chosen, delta) for chosen in choices]
        violated.append(any(b < (chosen & normal).sum() for b, chosen in zip(bounds, choices, strict=True)))
    error = np.sqrt(delta * (1 - delta) / redraws)
    assert np.mean(violated) <= delta + 3 * error
    if decimals is None:
        assert np.mean(violated) > delta / 10


def test_the_bound_says_something():
    p, normal = draw(0, m=1000, normals=900, anomalies=100, shift=5)
    chosen = benjamini_hochberg(p, 0.1)
    bound = false_discovery_bound(p, chosen, 0.1)
    assert (chosen & normal).sum() <= bound < 0.4 * chosen.sum()
    assert false_discovery_bound(p, np.ones(1000, dtype=bool), 0.1) < 950
    assert false_discovery_bound(p, ~normal & (p < 0.01), 0.1) < 0.4 * (~normal & (p < 0.01)).sum()
    assert false_discovery_bound(np.zeros(5), np.ones(5, dtype=bool), 0.1) == 0


def test_the_smallest_batches():
    assert false_discovery_bound(np.array([]), np.array([], dtype=bool), 0.1) == 0
    assert false_discovery_bound(np.array([0.3]), np.array([False]), 0.1) == 0
    assert [false_discovery_bound(np.array([p]), np.array([True]), 0.1) for p in (0.1, 0.11)] == [0, 1]


def test_a_million_rows_take_seconds():
    p = np.random.default_rng(0).integers(1, 1002, size=10**6) / 1001
    p[:20_000] = 1 / 1001
    started = time.perf_counter()
    flags = benjamini_hochberg(p, 0.1)
    bound = false_discovery_bound(p, flags, 0.1)
    assert time.perf_counter() - started < 5
    assert 0 < bound < flags.sum()


@pytest.mark.parametrize("level", [0, 1, -0.1, np.nan, np.inf, True, "0.1", None])
def test_levels_that_make_no_sense_are_refused(level):
    with pytest.raises(ConfigError, match="alpha is"):
        benjamini_hochberg(np.array([0.5]), level)
    with pytest.raises(ConfigError, match="delta is"):
        false_discovery_bound(np.array([0.5]), np.array([True]), level)


@pytest.mark.parametrize("p", [np.array([np.nan]), np.array([1.1]), np.array([-0.1]), np.array([[0.5]])])
def test_p_values_that_are_none_are_refused(p):
    with pytest.raises(InputError, match="p-values have shape"):
        benjamini_hochberg(p, 0.1)
    with pytest.raises(InputError, match="p-values have shape"):
        false_discovery_bound(p, np.ones(p.shape, dtype=bool), 0.1)


@pytest.mark.parametrize("chosen", [np.array([0, 1]), np.array([True]), np.array([0.5, 0.5])])
def test_a_choice_is_a_mask_of_the_batch(chosen):
    with pytest.raises(InputError, match=r"give bool of shape \(2,\)"):
        false_discovery_bound(np.array([0.1, 0.2]), chosen, 0.1)


@pytest.mark.parametrize(("m", "n", "alpha"), [(19, 50, 0.1), (9, 10, 0.1), (9, 11, 0.1), (70, 81, 0.1), (99, 5, 0.01)])
def test_it_is_said_how_many_rows_it_takes_to_flag_any(m, n, alpha):
    """k rows at the smallest p-value there is: flagged from the number on that the sentence names, and not before."""
    told = discovery_limits(n, 1 / (m + 1), alpha)
    enough = [
        k for k in range(n + 1) if benjamini_hochberg(np.r_[np.full(k, 1 / (m + 1)), np.ones(n - k)], alpha).any()
    ]
    if not enough:
        assert f"no row of a batch of {n} can be flagged" in told
    elif enough[0] > 1:
        assert f"only if at least {enough[0]} of them" in told
    else:
        assert told == ""
