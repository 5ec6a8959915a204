"""A detector's outputs for rows, which score adapters read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from assay.arrays import Floats
from assay.errors import DataError

if TYPE_CHECKING:
    from assay.data.null_models import NullModel
    from assay.detectors.base import Detector


LARGEST = float(np.finfo(np.float32).max)  # adapted scores are stored and compared in float32


def _no_latents() -> Floats:
    raise DataError("these outputs hold no latent codes; use an adapter that reads only scores and hardness")


@dataclass(frozen=True)
class Outputs:
    """Outputs of a detector for n rows.

    Attributes
    ----------
    scores : ndarray of float, shape (n,)
        Higher = more anomalous.
    measured : ndarray of float64, shape (n,), or callable
        The hardness of the rows, or what computes it.
    latents : callable
        Returns the latent codes, shape (S, n, k) for S members. Computing them takes time, so only adapters that need
        them call it.
    squared : bool
        Whether the scores are squares (`assay.detectors.base.score_is_squared`).
    unlabelled : float
        Share of the rows that nobody has labelled normal, so that they may be anomalies.
    """

    scores: Floats
    measured: Floats | Callable[[], Floats]
    latents: Callable[[], Floats] = _no_latents
    squared: bool = False
    unlabelled: float = 1.0

    def __len__(self) -> int:
        return len(self.scores)

    @cached_property
    def hardness(self) -> Floats:
        """The hardness, shape (n,), see `assay.calibration.hardness`; computed once, where something reads it."""
        return self.measured() if callable(self.measured) else self.measured


def observe(detector: Detector, null_model: NullModel, scaled: Floats) -> Outputs:
    """Return a detector's outputs for scaled rows of shape (n, d).

    If a detector has no latent space, the scaled rows themselves serve as the latent codes of one member.
    """
    from assay.detectors.base import latent_codes, score_is_squared

    return Outputs(
        detector.decision_function(scaled),
        partial(null_model.hardness, scaled),
        partial(latent_codes, detector, scaled),
        score_is_squared(detector),
    )
