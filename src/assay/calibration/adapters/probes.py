"""Probes: synthetic anomalies made from rows at hand, by which a choice without labels is judged."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.data.modalities.base import Modality

EACH = 125
TOO_FEW = 2


def make_probes(rows: NDArray[np.floating[Any]], modality: Modality, *, seed: int) -> dict[str, NDArray[np.float32]]:
    """Make probes of every kind of the modality from presumed normal rows, 125 of each.

    Images and series have kinds of their own that are harder than normal rows, easier, and as hard: the recipes, by
    which other rows' probes are made, treat columns as unordered and make noise of them, which hardness alone tells.

    Parameters
    ----------
    rows : ndarray of float, shape (n, d)
        Raw or scaled.
    modality : Modality
        What the rows hold.
    seed : int

    Returns
    -------
    dict of str to ndarray of float32, shape (125, d)
        By kind; empty where there are fewer than two rows.
    """
    if len(rows) < TOO_FEW:
        return {}
    items = rows if modality.shape is None else rows.reshape(-1, *modality.shape)
    made = {}
    for number, (name, kind) in enumerate(modality.probe_kinds.items()):
        rng = np.random.default_rng((seed, number))
        made[name] = kind(items, EACH, rng).reshape(EACH, -1).astype(np.float32)
    return made
