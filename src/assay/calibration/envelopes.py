"""How many normal rows of a batch may have small p-values: an envelope over all thresholds at once, by simulation.

The ranks of n normal rows among m calibration scores have a known joint law, whatever the scores are distributed like:
the row counts between neighbouring calibration scores are those of a Polya urn (Gazin, Blanchard, Roquain 2024,
"Transductive conformal inference with adaptive scores", proposition 2.1). Thus the envelope is computed once from n, m
and delta, never from data. With one reference per stratum or category, the ranks of each follow their own urn, and the
urns are independent: exchanging rows within one key leaves the others as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Integers

_TEMPLATE_DRAWS, _DRAWS = 2000, 8000
_FEWEST_DRAWS = 1000
_RATIO = 1.15  # of neighbouring thresholds
_ERRORS = 3.0  # standard errors of the simulated level that are given away


class Envelopes:
    """Upper bounds on how many of the normal rows have p-values up to each of some thresholds.

    Step j bounds the counts of any batch with at most ``rows[j]`` normal rows: with probability at least ``1 - delta``,
    over calibration rows and batch, none of its counts exceeds ``limits(j)``. Steps have fewer and fewer rows,
    and limits never rise from one step to the next.

    Every limit is the k-th largest of simulated counts at its threshold (the template), with the same k at all
    thresholds. k is the largest one at which a share of other simulated batches, delta less three standard errors,
    exceeds the limits anywhere (Blanchard, Neuvial, Roquain 2020, "Post hoc confidence bounds on false positives using
    reference families": a template calibrated to the joint error rate). The seed is fixed: the same sizes have the same
    limits.

    Parameters
    ----------
    sizes, rows : sequence of int, shape (k,)
        Calibration rows of each reference, and rows of the batch that are compared with it.
    delta : float

    Attributes
    ----------
    thresholds : ndarray of float64, shape (t,)
        Increasing; of the form ``l / (m + 1)`` for the largest reference m.
    """

    def __init__(self, sizes: Sequence[int], rows: Sequence[int], delta: float) -> None:
        self._sizes = np.array(sizes, dtype=np.int64)
        self._rows: list[Integers] = [np.array(rows, dtype=np.int64)]
        self._delta = delta
        most = int(self._sizes.max())
        levels = _spaced(most)
        self.thresholds: Doubles = levels / (most + 1)
        # The rank of each reference up to which its p-values k / (m + 1) are within the threshold.
        self._ranks = levels[:, None] * (self._sizes + 1) // (most + 1)
        self._limits: list[Integers] = []

    def rows(self, step: int) -> Integers:
        """Return the numbers of normal rows, one for each reference, that a step allows for, shape (k,).

        Each is .9 of the one before, rounded down, so that they end with 0.
        """
        while len(self._rows) <= step:
            self._rows.append(self._rows[-1] * 9 // 10)
        return self._rows[step]

    def limits(self, step: int) -> Integers:
        """Return the limits of a step, shape (t,)."""
        while len(self._limits) <= step:
            self._limits.append(self._simulate(len(self._limits)))
        return self._limits[step]

    def _simulate(self, step: int) -> Integers:
        share = min(1.0, 4 / self._sizes.size)
        n_template = max(_FEWEST_DRAWS, int(_TEMPLATE_DRAWS * share))
        n_draws = max(_FEWEST_DRAWS, int(_DRAWS * share))
        # The limits of the step before hold for fewer rows as well; the smaller of both is what is calibrated.
        cap = self._limits[-1] if step else np.full(self.thresholds.size, self._rows[0].sum())
        counts = self._draw(self.rows(step), n_template + n_draws, np.random.default_rng(step))
        template = -np.sort(-counts[:, :n_template], axis=1)
        # The first k at which a simulated batch exceeds a limit; beyond the cap that is every k.
        first = np.full(n_draws, n_template)
        for drawn, ordered, highest in zip(counts[:, n_template:], template, cap, strict=True):
            exceeded = np.searchsorted(-ordered, -drawn, side="right")
            np.minimum(first, np.where(drawn > highest, 0, exceeded), out=first)
        level = self._delta - _ERRORS * math.sqrt(self._delta * (1 - self._delta) / n_draws)
        k = int(np.sort(first)[int(level * n_draws)]) - 1 if level >= 0 else -1
        return np.minimum(cap, template[:, k]) if k >= 0 else cap

    def _draw(self, rows: Integers, draws: int, rng: np.random.Generator) -> Integers:
        """Return simulated numbers of normal rows, of all references, up to each threshold, shape (t, draws)."""
        counts = np.zeros((rows.size, draws), dtype=np.int64)
        simulated = np.empty((self.thresholds.size, draws), dtype=np.int64)
        reached = np.zeros_like(rows)
        for number, ranks in enumerate(self._ranks):
            more = np.flatnonzero(ranks > reached)
            # Of what is left of the distribution, the calibration scores in between cut off this share.
            steps, left = (ranks - reached)[more, None], (self._sizes + 1 - ranks)[more, None]
            shares = rng.beta(steps, left, size=(more.size, draws))
            counts[more] += rng.binomial(rows[more, None] - counts[more], shares)
            simulated[number] = counts.sum(axis=0)
            reached = ranks
        return simulated


@lru_cache(maxsize=32)
def envelopes(sizes: tuple[int, ...], rows: tuple[int, ...], delta: float) -> Envelopes:
    """Return the envelopes of a batch, kept for the next batch of the same sizes; see `Envelopes`."""
    return Envelopes(sizes, rows, delta)


def _spaced(m: int) -> NDArray[np.int64]:
    """Return ranks from 1 to m: all small ones, then with a constant ratio."""
    ranks = [1]
    while ranks[-1] < m:
        ranks.append(min(m, max(ranks[-1] + 1, int(ranks[-1] * _RATIO))))
    return np.array(ranks)
