"""Whether the values of a column survive float32, in which scorers work."""

from __future__ import annotations

import numpy as np

from assay.arrays import Doubles
from assay.data.scaling import centre_and_spread

MOST_LOOKED_AT = 200_000


def loses_values(column: Doubles) -> bool:
    """Return whether fewer than half of the different values of a column stay different in float32.

    They are counted after centring and scaling, over at most some 200,000 rows, evenly spaced. Missing and infinite
    values do not count.

    Parameters
    ----------
    column : ndarray of float64, shape (n,)
    """
    values = np.sort(column[:: max(1, len(column) // MOST_LOOKED_AT)])
    values = values[np.isfinite(values)]
    if not len(values):
        return False
    centre, spread = centre_and_spread(values[:, None])
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = ((values - centre) / np.where(spread == 0, 1.0, spread)).astype(np.float32)
    return _steps(scaled) < _steps(values) / 2


def _steps(ordered: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> int:
    """Return the number of different values of an array in increasing order."""
    return 1 + int((ordered[1:] != ordered[:-1]).sum())
