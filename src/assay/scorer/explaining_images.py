"""Where in an image its score comes from."""

from __future__ import annotations

import numpy as np

from assay.arrays import Singles

_APART = 7  # places are at least a seventh of the smaller side apart


def hottest_places(heat_map: Singles, n_places: int) -> list[tuple[int, int]]:
    """Return row and column of the hottest places of a heat map (h, w), the hottest first.

    Rows and columns are counted from 0. Each place is the hottest pixel of the square around it, and outside of the
    squares around those before it: the slope of a hot place is no other place. There may be fewer than asked for.
    """
    from scipy.ndimage import maximum_filter

    reach = max(1, min(heat_map.shape) // _APART)
    peaks = heat_map == maximum_filter(heat_map, size=2 * reach + 1, mode="nearest")
    left = np.where(peaks, heat_map.astype(np.float64), -np.inf)
    places: list[tuple[int, int]] = []
    for _ in range(n_places):
        row, column = map(int, np.unravel_index(int(left.argmax()), left.shape))
        if not np.isfinite(left[row, column]):
            break
        places.append((row, column))
        left[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = -np.inf
    return places
