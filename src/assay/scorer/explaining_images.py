"""Where in an image its score comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from assay.arrays import Doubles, Integers, Singles

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


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile of an image: its first and last row and column, from 0, and its share of what raises the score."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    share: float

    def __str__(self) -> str:
        """Return it as text: "rows 4 to 7, columns 0 to 3 34%"."""
        sides = (("row", self.rows), ("column", self.columns))
        words = [f"{name} {a}" if a == b else f"{name}s {a} to {b}" for name, (a, b) in sides]
        return f"{', '.join(words)} {self.share:.0%}"


def first_tiles(shares: Doubles, pieces: Integers, image_shape: Sequence[int], n_tiles: int) -> list[Tile]:
    """Return the tiles that raise a score most, by the shares of columns, (d,), and the tile of each (`pieces_of`)."""
    colours = prod(image_shape[2:])
    totals, tiles = np.bincount(pieces, shares), []
    for piece in np.argsort(-totals, kind="stable")[:n_tiles]:
        rows, columns = np.divmod(np.flatnonzero(pieces == piece) // colours, image_shape[1])
        if totals[piece] > 0:
            tiles.append(Tile(_ends(rows), _ends(columns), float(totals[piece])))
    return tiles


def _ends(places: Integers) -> tuple[int, int]:
    return int(places.min()), int(places.max())
