"""Probes: synthetic anomalies made from normal rows, for choosing an adapter without labels."""

from __future__ import annotations

import numpy as np

from assay.arrays import Doubles, Floats
from assay.data.modalities.base import Modality

PROBES_PER_KIND = 125
FEWEST_ROWS = 2


def make_probes_by_kind(rows: Floats, modality: Modality, *, seed: int) -> dict[str, Doubles]:
    """Make probes of every kind of the modality from presumed normal rows, 125 of each.

    Images and series have special kinds, some harder than normal rows, some easier, some equally hard. The recipes for
    other rows treat columns as unordered: applied to images or series they make noise, which hardness alone detects.

    Parameters
    ----------
    rows : ndarray of float, shape (n, d)
        Raw or scaled.
    modality : Modality
        Kind of data in the rows.
    seed : int

    Returns
    -------
    dict of str to ndarray of float64, shape (125, d)
        By kind; empty if there are fewer than two rows.
    """
    if len(rows) < FEWEST_ROWS:
        return {}
    items = rows if modality.shape is None else rows.reshape(-1, *modality.shape)
    probes = {}
    for number, (name, kind) in enumerate(modality.probe_kinds.items()):
        rng = np.random.default_rng((seed, number))
        probes[name] = kind(items, PROBES_PER_KIND, rng).reshape(PROBES_PER_KIND, -1).astype(np.float64)
    return probes
