"""How well heat maps of images show the pixels that masks mark."""

from __future__ import annotations

import numpy as np

from assay.data.dataset import MASK
from assay.data.masks import masks_of
from assay.pipeline.candidates import LevelScores
from assay.pipeline.rows import held_to

MOST_IMAGES = 500  # of each kind


def pixel_auroc(scored: LevelScores) -> float | None:
    """Return the AUROC of heat maps over the pixels of evidence rows, by their masks; None where there are none.

    Those of anomalies with a mask, and of normals, none of whose pixels is defective; of more than 500 of either a
    sample (`assay.pipeline.rows.held_to`).
    """
    from assay.detectors.base import Localises
    from assay.evaluation.metrics import auroc

    detector, (normals, anomalies) = scored.detector, scored.raw
    if not isinstance(detector, Localises) or MASK not in anomalies.rows:
        return None
    masked = anomalies.take((anomalies.rows[MASK] != "").to_numpy(dtype=bool))
    if not len(masked):
        return None
    parts = [held_to(part, MOST_IMAGES, seed=0) for part in (normals, masked)]
    maps = [detector.heat_maps(scored.scaler.transform(part.features)) for part in parts]
    truth = [np.zeros(maps[0].shape, dtype=np.bool_), masks_of(parts[1].rows[MASK], maps[1].shape[1:])]
    return auroc(*(np.concatenate([part.ravel() for part in both]) for both in (truth, maps)))
