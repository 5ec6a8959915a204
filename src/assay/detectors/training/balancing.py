"""Balanced batches: half presumed normal rows, half labelled anomalies."""

from __future__ import annotations

import math

from assay.arrays import Flags, Labels
from assay.errors import TrainingError


def balanced(kind: str, labels: Labels, batch_size: int) -> tuple[int, tuple[Flags, int]]:
    """Return the number of ordinary rows in a batch, and the `companions` that add as many labelled anomalies.

    Parameters
    ----------
    kind : str
        Name of the detector.
    labels : ndarray of int8, shape (n,)
        0, 1 and -1.
    batch_size : int
        Ordinary rows and anomalies together.

    Raises
    ------
    TrainingError
        No row has label 1.
    """
    anomalous = labels == 1
    if not anomalous.any():
        raise TrainingError(
            f"detector {kind!r} learns from labelled anomalies, and none of the {len(labels)} training rows has label "
            "1: label some (or add auxiliary anomalies), or use a detector that needs none, for instance deep_svdd"
        )
    half, n_ordinary = max(1, batch_size // 2), int((~anomalous).sum())
    n_batches = math.ceil(n_ordinary / half)  # of about equal size, as in the training loop
    return half, (anomalous, math.ceil(n_ordinary / n_batches))
