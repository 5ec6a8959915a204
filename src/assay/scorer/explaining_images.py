"""Where in an image its score comes from."""

from __future__ import annotations

import numpy as np

from assay.arrays import Singles

_APART = 7  # places are at least a seventh of the smaller side apart


def hottest_places(heat_map: Singles, n_places: int) -> list[tuple[int, int]]:
    """Return row and column of the hottest places of a heat map (h, w), the hottest first.

    Rows and columns are counted from 0. Each place is the hottest pixel outside the squares around those before it.
    """
    left = np.array(heat_map, dtype=np.float64)
    reach = max(1, min(left.shape) // _APART)
    places: list[tuple[int, int]] = []
    for _ in range(n_places):
        row, column = map(int, np.unravel_index(int(left.argmax()), left.shape))
        if not np.isfinite(left[row, column]):
            break
        places.append((row, column))
        left[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = -np.inf
    return places
