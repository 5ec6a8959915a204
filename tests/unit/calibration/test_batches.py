"""Benjamini-Hochberg and the bound for rows picked after looking, on conformal p-values that share a reference."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from assay.calibration.batches import benjamini_hochberg, discovery_limits, false_discovery_bound
from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.envelopes import Envelopes, envelopes
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
def test_the_bound_of_a_small_batch_is_that_of_closed_testing_by_brute_force(p, delta, bits):
    chosen = [bool(bits >> i & 1) for i in range(len(p))]
    bound = false_discovery_bound(as_floats(p), np.array(chosen), float(delta), sizes=[40])
    assert bound == closed_testing(p, frozenset(np.flatnonzero(chosen).tolist()), delta)


def violated(p, normal, delta, **references):
    """Whether the bound fails for a choice: several top k, all normal rows (the worst there is), normals of top k."""
    order = np.argsort(p, kind="stable")
    tops = [np.isin(np.arange(p.size), order[:k]) for k in range(1, p.size + 1, max(1, p.size // 10))]
    choices = [*tops, normal, *[top & normal for top in tops[:4]]]
    bounds = [false_discovery_bound(p, chosen, delta, **references) for chosen in choices]
    return any(bound < (chosen & normal).sum() for bound, chosen in zip(bounds, choices, strict=True))


@pytest.mark.parametrize("decimals", [None, 0])
@pytest.mark.parametrize(("m", "normals", "anomalies"), [(200, 60, 20), (30, 60, 40), (40, 300, 10), (200, 15, 5)])
def test_the_bound_holds_for_all_choices_at_once(m, normals, anomalies, decimals):
    delta, redraws, found = 0.2, 200, []
    for seed in range(redraws):
        p, normal = draw(seed, m=m, normals=normals, anomalies=anomalies, shift=3, decimals=decimals)
        found.append(violated(p, normal, delta, sizes=[m]))
    error = np.sqrt(delta * (1 - delta) / redraws)
    assert np.mean(found) <= delta + 3 * error
    if decimals is None:
        assert np.mean(found) > delta / 10


@pytest.mark.parametrize("decimals", [None, 0])
def test_the_bound_holds_with_one_reference_per_key(decimals):
    delta, redraws, sizes, found = 0.2, 200, (20, 150, 40), []
    for seed in range(redraws):
        parts = [
            draw([seed, key], m=m, normals=n, anomalies=k, shift=3, decimals=decimals)
            for key, (m, n, k) in enumerate(zip(sizes, (40, 30, 20), (4, 10, 0), strict=True))
        ]
        p, normal = (np.concatenate(both) for both in zip(*parts, strict=True))
        of_row = np.repeat(np.arange(3), [part[0].size for part in parts])
        found.append(violated(p, normal, delta, sizes=sizes, of_row=of_row))
    error = np.sqrt(delta * (1 - delta) / redraws)
    assert np.mean(found) <= delta + 3 * error
    if decimals is None:
        assert np.mean(found) > delta / 10


def test_many_references_are_decided_soon_and_soundly():
    rng = np.random.default_rng(0)
    of_row = np.arange(3000) % 1000
    p = rng.integers(1, 31, size=3000) / 30
    bound = false_discovery_bound(p, p <= 0.1, 0.1, sizes=[29] * 1000, of_row=of_row)
    assert bound == (p <= 0.1).sum()


def test_the_bound_is_sharp():
    """Where closed testing with Simes tests leaves 27 of some 40 flagged rows."""
    bounds, flagged, missed = [], [], 0
    for seed in range(300):
        p, normal = draw(seed, m=1000, normals=160, anomalies=40, shift=2.5)
        chosen = p <= 0.05
        bounds.append(false_discovery_bound(p, chosen, 0.1, sizes=[1000]))
        flagged.append(chosen.sum())
        missed += bounds[-1] < (chosen & normal).sum()
    assert 39 < np.mean(flagged) < 41
    assert np.mean(bounds) < 16.5
    assert missed / 300 <= 0.1


def exceeds(limits, ranks, m, n):
    """The exact probability that n ranks exceed the limits somewhere, by counting orders of n rows and m scores."""
    inside = np.zeros(n + 1)
    inside[0] = 1.0
    at = dict(zip(ranks.tolist(), limits.tolist(), strict=True))
    for rank in range(1, m + 1):
        # Given k rows so far, the next of the remaining scores and rows is a row or the score of this rank.
        for k in range(n):
            row = inside[k] * (n - k) / (n - k + m + 1 - rank)
            inside[k + 1] += row
            inside[k] -= row
        if rank in at:
            inside[at[rank] + 1 :] = 0
    return 1 - inside.sum()


@pytest.mark.parametrize(("m", "n"), [(50, 40), (20, 80), (150, 60)])
def test_limits_are_exceeded_as_seldom_as_promised_by_exact_counting_and_never_rise(m, n):
    delta = 0.1
    envelope = Envelopes([m], [n], delta)
    ranks = np.round(envelope.thresholds * (m + 1)).astype(int)
    for step in range(5):
        limits = envelope.limits(step)
        assert delta / 2 < exceeds(limits, ranks, m, int(envelope.rows(step)[0])) <= delta
        assert (limits >= envelope.limits(step + 1)).all()
        assert (np.diff(limits) >= 0).all()


def test_the_same_sizes_have_the_same_limits():
    first, second = (Envelopes([30, 9], [20, 50], 0.1) for _ in range(2))
    assert first.limits(2).tolist() == second.limits(2).tolist()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 13), min_size=8, max_size=8), st.integers(0, 255))
@example([1] * 7 + [12], 255)  # takes several steps
def test_the_bound_is_that_of_closed_testing_with_limits_by_brute_force(ranks, bits):
    """A set of rows is left if its counts are within the limits of the last step with at least as many rows."""
    m, n, delta = 12, 8, 0.3
    p, chosen = np.array(ranks) / (m + 1), {i for i in range(n) if bits >> i & 1}
    envelope = envelopes((m,), (n,), delta)

    def left(rows):
        step = max(j for j in range(30) if envelope.rows(j)[0] >= len(rows))
        counts = (p[list(rows), None] <= envelope.thresholds).sum(axis=0)
        return (counts <= envelope.limits(step)).all()

    subsets = [frozenset(rows) for size in range(1, n + 1) for rows in combinations(range(n), size)]
    exact = max((len(rows & chosen) for rows in subsets if left(rows)), default=0)
    bound = false_discovery_bound(p, np.isin(np.arange(n), list(chosen)), delta, sizes=[m])
    assert bound == exact


def test_the_bound_says_something():
    p, normal = draw(0, m=1000, normals=900, anomalies=100, shift=5)
    chosen = benjamini_hochberg(p, 0.1)
    bound = false_discovery_bound(p, chosen, 0.1, sizes=[1000])
    assert (chosen & normal).sum() <= bound < 0.4 * chosen.sum()
    assert false_discovery_bound(p, np.ones(1000, dtype=bool), 0.1, sizes=[1000]) < 950
    assert false_discovery_bound(p, ~normal & (p < 0.01), 0.1, sizes=[1000]) < 0.4 * (~normal & (p < 0.01)).sum()
    assert false_discovery_bound(np.full(5, 0.001), np.ones(5, dtype=bool), 0.1, sizes=[999]) == 0
    assert false_discovery_bound(p, chosen, 1e-6, sizes=[1000]) <= chosen.sum()


def test_the_smallest_batches():
    assert false_discovery_bound(np.array([]), np.array([], dtype=bool), 0.1, sizes=[99]) == 0
    assert false_discovery_bound(np.array([0.3]), np.array([False]), 0.1, sizes=[99]) == 0
    for p, bound in ((0.1, 0), (0.11, 1)):
        assert false_discovery_bound(np.array([p]), np.array([True]), 0.1, sizes=[99]) == bound
    assert false_discovery_bound(np.array([0.5, 0.5]), np.array([True, True]), 0.1, sizes=[1]) == 2


def test_a_million_rows_can_be_decided():
    p = np.random.default_rng(0).integers(1, 1002, size=10**6) / 1001
    p[:20_000] = 1 / 1001
    flags = benjamini_hochberg(p, 0.1)
    assert 0 < false_discovery_bound(p, flags, 0.1, sizes=[1000]) < flags.sum()


@pytest.mark.parametrize("level", [0, 1, -0.1, np.nan, np.inf, True, "0.1", None])
def test_levels_that_make_no_sense_are_refused(level):
    with pytest.raises(ConfigError, match="alpha is"):
        benjamini_hochberg(np.array([0.5]), level)
    with pytest.raises(ConfigError, match="delta is"):
        false_discovery_bound(np.array([0.5]), np.array([True]), level, sizes=[9])


@pytest.mark.parametrize("p", [np.array([np.nan]), np.array([1.1]), np.array([-0.1]), np.array([[0.5]])])
def test_p_values_that_are_none_are_refused(p):
    with pytest.raises(InputError, match="p-values have shape"):
        benjamini_hochberg(p, 0.1)
    with pytest.raises(InputError, match="p-values have shape"):
        false_discovery_bound(p, np.ones(p.shape, dtype=bool), 0.1, sizes=[9])


@pytest.mark.parametrize("chosen", [np.array([0, 1]), np.array([True]), np.array([0.5, 0.5])])
def test_a_choice_is_a_mask_of_the_batch(chosen):
    with pytest.raises(InputError, match=r"give bool of shape \(2,\)"):
        false_discovery_bound(np.array([0.1, 0.2]), chosen, 0.1, sizes=[9])


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
