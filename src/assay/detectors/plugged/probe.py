"""The probe of detectors fitted by third-party code: only reproducible scores can be calibrated."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from assay.arrays import Doubles, Singles
from assay.errors import TrainingError

PROBE_ROWS = 32
PROBE_TOLERANCE = 1e-5
MOST_COMPARED_ROWS = 1_000


class ScoringForm(Protocol):
    """An object that scores checked rows in float64."""

    def score(self, rows: Singles) -> Doubles:
        """Return scores of shape (n,); higher = more anomalous."""
        ...


def probe_rows(rows: Singles) -> Singles:
    """Return a few evenly spaced training rows to probe a detector with."""
    return rows[:: max(1, len(rows) // PROBE_ROWS)]


def rows_to_compare(rows: Singles) -> Singles:
    """Return some training rows and midpoints between them, which unlike training rows are not their own neighbours."""
    some = rows[:: max(1, len(rows) // MOST_COMPARED_ROWS)]
    return np.concatenate([some, some / 2 + np.roll(some, 1, axis=0) / 2])


def require_steady(kind: str, form: ScoringForm, rows: Singles) -> None:
    """Require equal scores of rows scored in a batch, again in a batch, and one by one.

    Scores of a row alone and in a batch may differ by 1e-5 of their size and range, the rounding of a float32
    network.

    Raises
    ------
    TrainingError
        The scores are not finite, not reproducible, or depend on the batch.
    """
    batch, repeated = form.score(rows), form.score(rows)
    if not np.isfinite(batch).all():
        raise TrainingError(f"detector {kind!r} gives scores that are not finite; scale the features")
    if not np.array_equal(batch, repeated):
        raise TrainingError(
            f"detector {kind!r} gives the same rows other scores the second time: it draws random numbers "
            "while scoring, so its scores cannot be calibrated; use another detector"
        )
    alone = np.concatenate([form.score(rows[i : i + 1]) for i in range(len(rows))])
    if not np.allclose(alone, batch, rtol=PROBE_TOLERANCE, atol=PROBE_TOLERANCE * float(np.ptp(batch))):
        raise TrainingError(
            f"detector {kind!r} scores a row differently alone and in a batch; "
            "its scores cannot be calibrated: use another detector"
        )
