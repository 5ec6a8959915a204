"""The probe that every detector fitted by foreign code has to pass: calibrated decisions mean nothing otherwise."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from assay.arrays import Doubles, Singles
from assay.errors import TrainingError

PROBE_ROWS = 32
PROBE_TOLERANCE = 1e-5
MOST_COMPARED_ROWS = 1_000


class Scores(Protocol):
    """Anything that scores checked rows in float64."""

    def score(self, rows: Singles) -> Doubles:
        """Return scores of shape (n,); higher = more anomalous."""
        ...


def probe_rows(rows: Singles) -> Singles:
    """Return the few training rows, evenly spaced, that a detector is probed with."""
    return rows[:: max(1, len(rows) // PROBE_ROWS)]


def rows_to_compare(rows: Singles) -> Singles:
    """Return some training rows, and rows between them: a row is its own neighbour, those are not."""
    some = rows[:: max(1, len(rows) // MOST_COMPARED_ROWS)]
    return np.concatenate([some, some / 2 + np.roll(some, 1, axis=0) / 2])


def require_steady(kind: str, form: Scores, rows: Singles) -> None:
    """Score some rows in a batch, again, and one by one, and compare.

    Alone and in a batch, scores may differ by a hundred-thousandth of their size and range: the rounding of a
    network in float32.

    Raises
    ------
    TrainingError
        The scores are not finite, not the same twice, or depend on the batch.
    """
    batch, again = form.score(rows), form.score(rows)
    if not np.isfinite(batch).all():
        raise TrainingError(f"detector {kind!r} gives scores that are not finite; scale the features")
    if not np.array_equal(batch, again):
        raise TrainingError(
            f"detector {kind!r} gives the same rows other scores when asked again: it draws random numbers "
            "while scoring, so its scores cannot be calibrated; use another detector"
        )
    alone = np.concatenate([form.score(rows[i : i + 1]) for i in range(len(rows))])
    if not np.allclose(alone, batch, rtol=PROBE_TOLERANCE, atol=PROBE_TOLERANCE * float(np.ptp(batch))):
        raise TrainingError(
            f"detector {kind!r} scores a row differently alone and in a batch; "
            "its scores cannot be calibrated: use another detector"
        )
