"""What score adapters read: a detector's outputs for some rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assay.errors import DataError

if TYPE_CHECKING:
    from assay.data.null_models import NullModel
    from assay.detectors.base import Detector

Floats = NDArray[np.floating[Any]]


def _no_latents() -> Floats:
    raise DataError("these outputs hold no latent codes; use an adapter that reads scores and hardness alone")


@dataclass(frozen=True, slots=True)
class Outputs:
    """Outputs of a detector for n rows.

    Attributes
    ----------
    scores : ndarray of float, shape (n,)
        Higher = more anomalous.
    hardness : ndarray of float64, shape (n,)
        See `assay.calibration.hardness`.
    latents : callable
        Returns the latent codes, of shape (S, n, k) for S members; it costs time, so that it is called by the
        adapters alone that need it.
    """

    scores: Floats
    hardness: Floats
    latents: Callable[[], Floats] = _no_latents

    def __len__(self) -> int:
        return len(self.scores)


def observe(detector: Detector, null_model: NullModel, scaled: Floats) -> Outputs:
    """Return what a detector says of scaled rows of shape (n, d).

    Where a detector has no latent space, the scaled rows themselves stand in for it, as one member.
    """
    from assay.detectors.base import latent_codes

    return Outputs(
        detector.decision_function(scaled), null_model.hardness(scaled), partial(latent_codes, detector, scaled)
    )
