"""Deviation network: labelled anomalies score many standard deviations above the other rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from assay.arrays import Singles
from assay.detectors.base import require_fitted
from assay.detectors.training.balancing import balanced
from assay.detectors.training.neural import Fitting, NeuralDetector
from assay.detectors.training.updates import Schedule
from assay.networks.mlp import stacked_mlp
from assay.parameters import Count, NotNegativeRates, Widths

_MARGIN = 5.0


@dataclass(kw_only=True, eq=False, repr=False)
class DevNet(NeuralDetector):
    """Deviation network (Pang, Shen, van den Hengel 2019, eq 4-6).

    The network's output is the score, which equals its deviation dev from reference scores of a standard normal
    prior. The loss is |dev| for rows not labelled as anomalies and max(0, 5 - dev) for labelled anomalies, in
    batches with as many anomalies as other rows. It needs rows with label 1. The score is averaged over the members.

    Differs from the paper: mean 0 and standard deviation 1 of the reference scores are exact instead of
    estimated from 5,000 draws (which only adds an error of .014); Adam with a falling rate, in place of
    RMSprop, and 100 passes over the rows, in place of 50 times 20 batches; images are flat rows.

    Parameters
    ----------
    hidden : sequence of int
        Widths of the hidden layers, outermost first.
    epochs, batch_size, learning_rate, weight_decay, members, device, mixed_precision, compiled, seed
        See `assay.detectors.training.neural.NeuralDetector`; half of a batch are labelled anomalies.
    """

    kind: ClassVar[str] = "devnet"
    uses_labels: ClassVar[bool] = True

    hidden: Widths = (20,)
    epochs: Count = 100
    weight_decay: NotNegativeRates = 1e-2

    def embed(self, X: Singles) -> Singles:
        """Return every member's last hidden layer of rows (n, d), of shape (S, n, k); the score is linear in it."""
        require_fitted(self, "network_")
        return self._mapped(self.network_[:-1], X)

    def _build(self, n_features: int) -> nn.Sequential:
        return stacked_mlp(self.members, [n_features, *self.hidden, 1], nn.ReLU)

    def _schedule(self, **changes: object) -> Schedule:
        """Return a schedule of fixed length, because labelled anomalies are never held out for early stopping."""
        return super()._schedule(patience=None, **changes)

    def _train(self, fitting: Fitting) -> None:
        half, companions = balanced(self.kind, fitting.labels, self.batch_size)

        def loss(batch: Tensor, labels: Tensor) -> Tensor:
            deviation = fitting.network(batch).squeeze(2)
            return torch.where(labels == 1, torch.relu(_MARGIN - deviation), deviation.abs())

        fitting.run(loss, [fitting.rows, fitting.labels], self._schedule(batch_size=half), companions=companions)

    def _member_scores(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.network_(x).squeeze(2))
