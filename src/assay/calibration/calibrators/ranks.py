"""Ranks among m calibration scores: the p-values r / (m + 1), and how many of them are at most eps."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from assay.parameters import check_share


def check_eps(eps: float) -> float:
    """Return `eps` as a float; raise `ConfigError` unless it is a number between 0 and 1, both excluded."""
    return check_share(eps, "eps")


def largest_rank(m: int, eps: float) -> int:
    """Return ``l = floor((m+1) eps)``: among m calibration scores, p-values up to ``l / (m+1)`` are flagged.

    This is the largest l with a float quotient <= eps: eps = 0.29 with m = 99 gives 29, although the float product
    0.29 * 100 is below 29.
    """
    nearest = round(check_eps(eps) * (m + 1))
    return nearest if nearest / (m + 1) <= eps else nearest - 1


def rows_needed(eps: float) -> int:
    """Return the smallest number m of calibration rows with which a row can be flagged: 1/(m+1) <= eps."""
    nearest = max(round(1 / Fraction(check_eps(eps))), 2)
    return nearest - 1 if 1 / nearest <= eps else nearest


def row_count(rows: int) -> str:
    """Return a number of rows as text, rounded if it has more than 15 digits."""
    return str(rows) if rows < 10**15 else f"{Decimal(rows):.3g}"
