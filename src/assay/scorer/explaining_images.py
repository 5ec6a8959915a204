"""Where in an image its score comes from."""

from __future__ import annotations

import numpy as np

from assay.arrays import Singles

_APART = 7  # places are at least a seventh of the smaller side apart


def hottest_places(heat_map: Singles, n_places: int) -> str:
    """Return the hottest places of a heat map (h, w) as text, the hottest first: "row 12, column 7; row 3, column 20".

    Rows and columns are counted from 0. Each place is the hottest pixel outside the squares around those before it.
    """
    left = np.array(heat_map, dtype=np.float64)
    reach = max(1, min(left.shape) // _APART)
    places = []
    for _ in range(n_places):
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        if not np.isfinite(left[row, column]):
            break
        places.append(f"row {row}, column {column}")
        left[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = -np.inf
    return "; ".join(places)
