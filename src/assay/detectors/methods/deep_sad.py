"""Deep SAD: Deep SVDD that also learns from labelled rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from assay.detectors.methods.hypersphere import Hypersphere, HypersphereDetector
from assay.detectors.training.neural import Fitting
from assay.parameters import Positive

_EPS = 1e-6


@dataclass(kw_only=True, eq=False, repr=False)
class DeepSAD(HypersphereDetector):
    """Deep semi-supervised anomaly detection (Ruff 2021, eq 2.13).

    The loss of an unlabelled row is its squared distance to the centre, of a labelled normal row eta times that,
    and of a labelled anomaly eta / (squared distance + 1e-6). Batches are random, as in the thesis, so that a
    labelled row weighs eta times an unlabelled one, however few there are. Without labelled rows it is Deep SVDD,
    and a note reports it. The score is the squared distance to the centre (in the thesis its root),
    averaged over the members.

    Differs from the thesis: see `assay.detectors.methods.hypersphere.HypersphereDetector` and
    `assay.networks.encoders`.

    Parameters
    ----------
    eta : float
        Weight of a labelled row; an unlabelled one has weight 1.
    hidden, latent_dim, pretrain_epochs, epochs, batch_size, learning_rate, weight_decay, members, \
channels, image_shape, device, mixed_precision, compiled, seed
        See `assay.detectors.methods.hypersphere.HypersphereDetector`.
    """

    kind: ClassVar[str] = "deep_sad"
    squared_score: ClassVar[bool] = True
    uses_labels: ClassVar[bool] = True

    eta: Positive = 1.0

    def _concentrate(self, fitting: Fitting) -> None:
        network = cast(Hypersphere, fitting.network)
        if (fitting.labels == -1).all():
            fitting.notes.append("no row is labelled: this is Deep SVDD")

        def loss(batch: Tensor, labels: Tensor) -> Tensor:
            distances = network(batch)
            labelled = self.eta * torch.where(labels == 1, 1 / (distances + _EPS), distances)
            return torch.where(labels == -1, distances, labelled)

        fitting.run(loss, [fitting.rows, fitting.labels], self._schedule(), finished=self.pretrain_epochs)
