"""Decisions about many rows at once: the false discovery rate, and a bound for rows picked after looking.

Both need p-values that satisfy the Simes inequality. Split conformal p-values do, although the rows of a batch share
one reference (Bates, Candes, Lei, Romano, Sesia 2023, theorem 2: positive dependence on a subset, PRDS): when a normal
row changes places with a higher calibration score, its own p-value falls and no other one rises, and it is as likely in
any place. That also holds with ties, counted or randomised by a number for each row, which the theorem leaves out, and
with one reference for each stratum. It does not for weighted p-values (weights differ from row to row), nor for those
of cross-calibration, nor for randomised ones that share a number.

Normal rows must be exchangeable with the calibration rows. All guarantees are averages or probabilities over both the
calibration rows and the batch: with one given reference, one batch after another errs in the same direction.
"""

from __future__ import annotations

from bisect import bisect_left
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.errors import InputError
from assay.parameters import check_share

PValues = NDArray[np.floating[Any]]
LARGEST_DENOMINATOR = 10**6


def benjamini_hochberg(p_values: PValues, alpha: float) -> NDArray[np.bool_]:
    """Flag rows of a batch so that the false discovery rate is at most ``alpha * n_normal / n``.

    The rows with the r smallest p-values are flagged, for the largest r whose r-th smallest is
    ``<= alpha * r / n`` (Benjamini and Hochberg 1995; for conformal p-values Bates et al. 2023). The false discovery
    rate is the mean, over batches and calibration sets, of the share of normal rows among those flagged, 0 where none
    is flagged. With m calibration rows no p-value is below 1 / (m + 1): unless at least ``n / ((m + 1) alpha)`` rows
    reach it, it flags nothing.

    The comparison needs no tolerance: alpha stands for the fraction it is the nearest number to (0.1 for 1/10), and
    alpha * r / n is rounded once, as a p-value k / (m + 1) is, so that equal fractions are equal numbers. (Where
    alpha is no fraction with a denominator up to 10^6, it is rounded twice.)

    Parameters
    ----------
    p_values : ndarray of float, shape (n,)
        Of all rows of the batch, also of those that nobody wants flagged.
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
    ordered = np.sort(p)
    below = np.flatnonzero(ordered <= _levels(check_share(alpha, "alpha"), p.size, p.size))
    return p <= ordered[below[-1]] if below.size else np.zeros(p.size, dtype=np.bool_)


def discovery_limits(n: int, smallest: float, alpha: float) -> str:
    """Return "", or a sentence that says how many rows of a batch it takes for `benjamini_hochberg` to flag any.

    Parameters
    ----------
    n : int
        Rows of the batch.
    smallest : float
        The smallest p-value that a row can have (`assay.calibration.calibrators.registry.Calibrator.smallest_eps`).
    alpha : float
    """
    fewest = 1 + int(np.searchsorted(_levels(check_share(alpha, "alpha"), n, n), smallest))
    if fewest == 1 or n == 0:
        return ""
    told = f"as no p-value is below {smallest:.3g}; smaller batches or more calibration rows take fewer"
    if fewest > n:
        return f"At a false discovery rate of {alpha:g} no row of a batch of {n} can be flagged, {told}."
    return (
        f"At a false discovery rate of {alpha:g} rows of a batch of {n} are flagged only if at least {fewest} of them "
        f"stand out, {told}."
    )


def false_discovery_bound(p_values: PValues, chosen: NDArray[np.bool_], delta: float) -> int:
    """Return how many of the chosen rows are normal at most, however they were chosen.

    With probability at least ``1 - delta`` the bound holds for all subsets of the batch at once, so also for one
    picked after looking at p-values, scores and features, and for as many as anybody likes to try: closed testing
    with Simes tests (Goeman, Meijer, Krebs, Solari 2019, theorem 1 with lemma 2). It takes O(n log n).

    Parameters
    ----------
    p_values : ndarray of float, shape (n,)
        Of all rows of the batch, not of the chosen ones alone.
    chosen : ndarray of bool, shape (n,)
    delta : float
        Between 0 and 1, both excluded.

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
    among = _largest_unrejected(np.sort(p), check_share(delta, "delta"))
    picked = p[chosen]
    return picked.size - _discoveries(picked, among, delta)


def _largest_unrejected(ordered: PValues, delta: float) -> int:
    """Return the largest h such that the Simes test does not reject that all h largest p-values are of normal rows.

    A test that rejects for h rejects for h + 1: a smaller p-value came in and j/h <= (j + 1)/(h + 1).
    """

    def rejects(size: int) -> bool:
        return bool((ordered[ordered.size - size :] <= _levels(delta, size, size)).any())

    return bisect_left(range(1, ordered.size + 1), True, key=rejects)


def _discoveries(picked: PValues, among: int, delta: float) -> int:
    """Return how many of the picked rows are anomalies at least: max over u of 1 - u + #{p <= u delta / among}."""
    if among == 0 or picked.size == 0:
        return picked.size
    first = np.searchsorted(_levels(delta, picked.size, among), picked, side="left")
    counts = np.cumsum(np.bincount(first, minlength=picked.size)[: picked.size])
    return max(0, int((counts - np.arange(picked.size)).max()))


def _levels(level: float, count: int, among: int) -> NDArray[np.float64]:
    """Return ``level * r / among`` for r = 1 .. count, each rounded once if the level is a fraction."""
    nearest = Fraction(level).limit_denominator(LARGEST_DENOMINATOR)
    over, under = nearest.as_integer_ratio() if float(nearest) == level else (level, 1)
    levels: NDArray[np.float64] = np.arange(1, count + 1) * over / (among * under)
    return levels


def _check(p_values: PValues) -> NDArray[np.float64]:
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise InputError(f"p-values have shape {p.shape} or are not all between 0 and 1; give shape (n,), none NaN")
    return p
