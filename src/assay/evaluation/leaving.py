"""Whether the default is left for another candidate: only for one that is better beyond noise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from assay.arrays import Flags, Integers
from assay.evaluation.paired import RowScores, ScorerPair, coin_blocks, sequential_p_value, swaps_needed

LEAVE_LEVEL = 0.05  # chance that the default is left though no other candidate is better
_MOST_COMPARED = 2_000
Ranked = Mapping[float, RowScores]


def compare_with_default(
    default: Ranked, others: Mapping[int, Ranked], judging: Flags, units: Integers | None, *, level: float, seed: int
) -> dict[int, tuple[float, float]]:
    """Compare candidates with the default on the same rows, each by itself.

    Of each it is asked whether it sees the judging anomalies further out than the default, by swaps of the two
    scorers' ranks within rows (`assay.evaluation.paired.ScorerPair`), so that the noise of the normals counts as well
    as that of the anomalies. The difference is the mean over the anomalies of all levels of contamination at which both
    could be trained; a row is swapped at all levels or at none. Of many rows 2,000 of each kind count.

    Parameters
    ----------
    default : mapping of float to RowScores
        By contamination level: scores of m normals and up to a anomalies, the first ones of all.
    others : mapping of int to (mapping of float to RowScores)
        Of the same rows.
    judging : ndarray of bool, shape (a,)
        The anomalies that judge.
    units : ndarray of int, shape (m + a,), optional
        Rows of the same unit are swapped together; by default each row alone.
    level : float
        Level of each comparison.
    seed : int
        Of the swaps and the draws.

    Returns
    -------
    dict of int to (float, float)
        The difference in standard deviations, and the p-value of "it is not better". Without judging anomalies, empty.
    """
    rng, m = np.random.default_rng(seed), len(next(iter(default.values())).normals)
    normals, anomalies = (
        np.sort(rng.choice(of, _MOST_COMPARED, replace=False)) if len(of) > _MOST_COMPARED else of
        for of in (np.arange(m), np.flatnonzero(judging))
    )
    if not anomalies.size:
        return {}
    rows = np.concatenate([normals, m + anomalies])
    _, first, codes = np.unique(rows if units is None else units[rows], return_index=True, return_inverse=True)
    numbers = first.argsort().argsort()[codes]  # by first appearance: fewer anomalies have the first units
    compared = {}
    for index, other in others.items():
        pairs, weights = [], []
        for rho in sorted(default.keys() & other.keys()):
            judges = anomalies[anomalies < len(default[rho].anomalies)]
            if judges.size:
                both = [RowScores(each[rho].normals[normals], each[rho].anomalies[judges]) for each in (other, default)]
                pairs.append(ScorerPair(both[0], both[1], numbers[: len(normals) + len(judges)]))
                weights.append(len(judges))
        difference = float(np.average([pair.difference for pair in pairs], weights=weights))
        coins = coin_blocks(swaps_needed(level), len(first), seed=seed, n_rows=len(rows))
        swapped = (
            np.average([pair.after(block[:, : pair.n_units]) for pair in pairs], axis=0, weights=weights)
            for block in coins
        )
        is_tie = all(pair.is_tie for pair in pairs)
        compared[index] = difference, 1.0 if is_tie else sequential_p_value(swapped, difference)
    return compared
