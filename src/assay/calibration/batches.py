"""Decisions about a batch of rows: false discovery rate, and a bound for rows picked after inspection.

The former, and the bound in small batches, need p-values that satisfy the Simes inequality. Split conformal p-values
do, although the rows of a batch share one reference (Bates, Candes, Lei, Romano, Sesia 2023, theorem 2: positive
dependence on a subset, PRDS). If a normal row trades places with a higher calibration score, its p-value falls and no
other p-value rises; and all places are equally likely. The argument also covers cases outside the theorem: ties
(counted, or randomised by one number per row), and one reference per stratum. It does not cover weighted p-values
(weights differ between rows), those of cross-calibration, or randomised p-values that share a number.

Normal rows must be exchangeable with the calibration rows. All guarantees are averages or probabilities over both the
calibration rows and the batch. With one fixed reference the errors of several batches go in the same direction.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from assay.arrays import Doubles, Flags, Floats, Integers
from assay.calibration.envelopes import Envelopes, envelopes
from assay.errors import InputError
from assay.parameters import check_share

LARGEST_DENOMINATOR = 10**6
SIMES_BELOW, SIMES_RATIO = 40, 5
SMALLEST_DELTA = 0.01
MOST_REFERENCES = 20


def benjamini_hochberg(p_values: Floats, alpha: float) -> Flags:
    """Flag rows of a batch so that the false discovery rate is at most ``alpha * n_normal / n``.

    The rows with the r smallest p-values are flagged, for the largest r whose r-th smallest is
    ``<= alpha * r / n`` (Benjamini and Hochberg 1995; for conformal p-values Bates et al. 2023). The false discovery
    rate is the share of normal rows among the flagged ones (0 if none is flagged), averaged over batches and
    calibration sets. With m calibration rows no p-value is below 1 / (m + 1): nothing is flagged unless at least
    ``n / ((m + 1) alpha)`` rows have this p-value.

    The comparison needs no tolerance. alpha is read as the simple fraction that rounds to it (0.1 as 1/10), and
    alpha * r / n is rounded once, like a p-value k / (m + 1), so that equal fractions are equal numbers. (If alpha is
    not such a fraction, with a denominator up to 10^6, it is rounded twice.)

    Parameters
    ----------
    p_values : ndarray of float, shape (n,)
        p-values of all rows of the batch; leave none out.
    alpha : float
        Between 0 and 1, both excluded.

    Returns
    -------
    ndarray of bool, shape (n,)
        Rows with equal p-values are flagged together.

    Raises
    ------
    ConfigError
        `alpha` is out of range.
    InputError
        A p-value is NaN or not between 0 and 1.
    """
    p = _check(p_values)
    threshold = discovery_threshold(*np.unique(p, return_counts=True), alpha)
    return np.zeros(p.size, dtype=np.bool_) if threshold is None else p <= threshold


def discovery_threshold(values: Doubles, counts: Integers, alpha: float) -> float | None:
    """Return the largest p-value that `benjamini_hochberg` flags in a batch, None where it flags none.

    Parameters
    ----------
    values : ndarray of float64, shape (k,)
        The different p-values of the batch, in ascending order.
    counts : ndarray of int, shape (k,)
        How many rows have each.
    alpha : float
    """
    ranks = np.cumsum(counts)
    n = int(ranks[-1]) if ranks.size else 0
    below = np.flatnonzero(values <= _at_ranks(check_share(alpha, "alpha"), ranks, n))
    return float(values[below[-1]]) if below.size else None


def discovery_limits(n: int, smallest: float, alpha: float) -> str:
    """Return a sentence on how many rows must stand out for `benjamini_hochberg` to flag any, or "" if one is enough.

    Parameters
    ----------
    n : int
        Number of rows of the batch.
    smallest : float
        The smallest p-value that a row can have (`assay.calibration.calibrators.registry.Calibrator.smallest_eps`).
    alpha : float
    """
    fewest = 1 + int(np.searchsorted(_levels(check_share(alpha, "alpha"), n, n), smallest))
    if fewest == 1 or n == 0:
        return ""
    reason = f"as no p-value is below {smallest:.3g}; smaller batches or more calibration rows take fewer"
    if fewest > n:
        return f"At a false discovery rate of {alpha:g} no row of a batch of {n} can be flagged, {reason}."
    return (
        f"At a false discovery rate of {alpha:g} rows of a batch of {n} are flagged only if at least {fewest} of them "
        f"stand out, {reason}."
    )


def false_discovery_bound(
    p_values: Floats,
    chosen: Flags,
    delta: float,
    *,
    sizes: Sequence[int],
    of_row: Integers | None = None,
    counts: Integers | None = None,
) -> int:
    """Return an upper bound on the number of normal rows among the chosen rows, however they were chosen.

    With probability at least ``1 - delta``, over draws of calibration rows and batch, the bound holds for all subsets
    of the batch at once. It therefore holds for any number of subsets picked after inspecting p-values, scores and
    features.

    At most ``limits(t)`` normal rows have p-values up to t, for all thresholds t at once, by the joint law of the ranks
    of normal rows (see `assay.calibration.envelopes.Envelopes`). Thus at most
    ``min over t of limits(t) + #{chosen with p > t}`` of the chosen are normal: closed testing with the envelope as
    local test (Goeman, Meijer, Krebs, Solari 2019; Blanchard, Neuvial, Roquain 2020). The number of normal rows is
    unknown: limits are first those for the whole batch. Where they leave at most .9 of the rows of each reference as
    normal, limits for that many follow, and so on. Which steps there are is fixed by the sizes, so that each is the
    local test of sets of its size, and limits never rise: no confidence is spent on steps.

    Whole numbers are a coarse limit where there are few rows, and simulation one where delta is small; with many
    references it takes long. In batches of fewer than `SIMES_BELOW` rows with `SIMES_RATIO` times as many calibration
    rows, of more than `MOST_REFERENCES` references, and for a delta below `SMALLEST_DELTA`, the local tests are those
    of Simes instead, which need only that p-values depend positively (Goeman et al., theorem 1 with lemma 2). Which
    ones is decided by the sizes and delta alone, never by p-values.

    Takes O(n log n), and some tenths of a second for each step of the first batch of its sizes.

    Parameters
    ----------
    p_values : ndarray of float, shape (n,)
        p-values of all rows of the batch, not only of the chosen ones: ``(1 + #{calibration scores >= score}) / (m +
        1)``. Where they are larger than that, the bound still holds.
    chosen : ndarray of bool, shape (n,)
    delta : float
        Between 0 and 1, both excluded.
    sizes : sequence of int
        Number m of calibration scores in each reference: one for split conformal p-values, one per key for Mondrian.
    of_row : ndarray of int, shape (n,), optional
        Reference of each row, as an index of `sizes`; by default all have the first.
    counts : ndarray of int, shape (n,), optional
        How many equal rows each of these stands for; by default one.

    Raises
    ------
    ConfigError
        `delta` is out of range.
    InputError
        A p-value is NaN or not between 0 and 1, or `chosen` is not a mask of the batch.
    """
    p, chosen = _check(p_values), np.asarray(chosen)
    if chosen.dtype != np.bool_ or chosen.shape != p.shape:
        raise InputError(f"chosen is of {chosen.dtype} and shape {chosen.shape}; give bool of shape {p.shape}")
    delta = check_share(delta, "delta")
    if not chosen.any():
        return 0
    weights = np.ones(p.size, dtype=np.int64) if counts is None else counts
    keys, indices = np.unique(np.zeros(p.size, np.int64) if of_row is None else of_row, return_inverse=True)
    rows = np.zeros(keys.size, dtype=np.int64)
    np.add.at(rows, indices, weights)
    n_rows = int(rows.sum())
    few = n_rows < SIMES_BELOW and min(sizes[key] for key in keys) >= SIMES_RATIO * n_rows
    if few or rows.size > MOST_REFERENCES or delta < SMALLEST_DELTA:
        picked = np.repeat(p[chosen], weights[chosen])
        return picked.size - _discoveries(picked, _largest_unrejected(np.sort(np.repeat(p, weights)), delta), delta)
    envelope = envelopes(tuple(int(sizes[key]) for key in keys), tuple(rows.tolist()), delta)
    limits = _limits(envelope, rows - _counts(p, indices, envelope.thresholds, weights))
    at_most = _counts(p[chosen], np.zeros(int(chosen.sum()), np.int64), envelope.thresholds, weights[chosen])[:, 0]
    n_chosen = int(weights[chosen].sum())
    return min(n_chosen, int((n_chosen - at_most + limits).min()))


def _limits(envelope: Envelopes, higher: Integers) -> Integers:
    """Return the limits of the last step that a batch reaches, shape (t,).

    `higher` are the numbers of rows with p > t for each threshold and reference, shape (t, k).
    """
    step = 0
    while envelope.rows(step).any():
        most = (higher + envelope.limits(step)[:, None]).min(axis=0)
        if (most > envelope.rows(step + 1)).any():
            break
        step += 1
    return envelope.limits(step)


def _counts(p: Doubles, indices: Integers, thresholds: Doubles, weights: Integers) -> Integers:
    """Return the number of rows with ``p <= t``, for each threshold t and each reference, shape (t, k)."""
    first = np.searchsorted(thresholds, p, side="left")
    counts = np.zeros((thresholds.size + 1, int(indices.max()) + 1), dtype=np.int64)
    np.add.at(counts, (first, indices), weights)
    return np.cumsum(counts, axis=0)[:-1]


def _largest_unrejected(ordered: Floats, delta: float) -> int:
    """Return the largest h for which the Simes test accepts that the h largest p-values are all of normal rows."""

    def rejects(size: int) -> bool:
        return bool((ordered[ordered.size - size :] <= _levels(delta, size, size)).any())

    # Bisection is allowed: if the test rejects for h, it rejects for h + 1, since one smaller p-value is added and
    # j/h <= (j + 1)/(h + 1).
    return bisect_left(range(1, ordered.size + 1), True, key=rejects)


def _discoveries(picked: Floats, among: int, delta: float) -> int:
    """Return a lower bound on the anomalies among the picked rows: max over u of 1 - u + #{p <= u delta / among}."""
    if among == 0 or picked.size == 0:
        return picked.size
    first = np.searchsorted(_levels(delta, picked.size, among), picked, side="left")
    counts = np.cumsum(np.bincount(first, minlength=picked.size)[: picked.size])
    return max(0, int((counts - np.arange(picked.size)).max()))


def _levels(level: float, count: int, among: int) -> Doubles:
    """Return ``level * r / among`` for r = 1 .. count; see `_at_ranks`."""
    return _at_ranks(level, np.arange(1, count + 1), among)


def _at_ranks(level: float, ranks: Integers, among: int) -> Doubles:
    """Return ``level * r / among`` for some r, each rounded once if the level is a simple fraction."""
    nearest = Fraction(level).limit_denominator(LARGEST_DENOMINATOR)
    numerator, denominator = nearest.as_integer_ratio() if float(nearest) == level else (level, 1)
    levels: Doubles = ranks * numerator / (among * denominator)
    return levels


def _check(p_values: Floats) -> Doubles:
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise InputError(f"p-values have shape {p.shape} or are not all between 0 and 1; give shape (n,), none NaN")
    return p
