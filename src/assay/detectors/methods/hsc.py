"""The hypersphere classifier: normal rows inside, labelled or auxiliary anomalies outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from assay.detectors.methods.hypersphere import Hypersphere, HypersphereDetector, anomaly_loss, pseudo_huber
from assay.detectors.training.balancing import balanced
from assay.detectors.training.neural import Fitting


@dataclass(kw_only=True, eq=False, repr=False)
class HSC(HypersphereDetector):
    """Hypersphere classifier (Ruff 2021, eq 2.20, with the pseudo-Huber distance h = sqrt(|z|^2 + 1) - 1).

    Cross-entropy with the probability exp(-h) of being normal: rows not labelled as anomalies lose h, labelled
    anomalies -log(1 - exp(-h)). It needs rows with label 1; they may be auxiliary ones from another dataset
    (outlier exposure). The score is h, averaged over the members; for one member it ranks as the thesis's |z|^2.

    Differs from the thesis: every batch holds as many anomalies as other rows, which stands in place of eta;
    labelled normal rows count as unlabelled ones; z is the code minus a centre that is placed as in Deep SVDD (the
    thesis makes it the bias of the output layer). For the schedule and the networks see
    `assay.detectors.methods.hypersphere.HypersphereDetector` and `assay.networks.encoders`.

    Parameters
    ----------
    hidden : sequence of int
        Widths of the encoder's dense hidden layers, outermost first.
    latent_dim : int
        Width of the code.
    pretrain_epochs : int
        Of the encoder, as half of an autoencoder, on all rows; 0 = none.
    image_shape : (int, int), optional
        Height and width of flattened images; makes the outer layers convolutions.
    epochs, batch_size, learning_rate, weight_decay, members, device, mixed_precision, compiled, seed
        See `assay.detectors.training.neural.NeuralDetector`; half of a batch are labelled anomalies.
    """

    kind: ClassVar[str] = "hsc"
    uses_labels: ClassVar[bool] = True

    def _train(self, fitting: Fitting) -> None:
        balanced(self.kind, fitting.labels, self.batch_size)
        super()._train(fitting)

    def _concentrate(self, fitting: Fitting) -> None:
        network = cast(Hypersphere, fitting.network)
        half, companions = balanced(self.kind, fitting.labels, self.batch_size)

        def loss(batch: Tensor, labels: Tensor) -> Tensor:
            h = pseudo_huber(network(batch))
            return torch.where(labels == 1, anomaly_loss(h), h)

        schedule = self._schedule(batch_size=half)
        finished = self.pretrain_epochs
        fitting.run(loss, [fitting.rows, fitting.labels], schedule, finished=finished, companions=companions)

    def _member_scores(self, x: Tensor) -> Tensor:
        return pseudo_huber(self.network_(x))
