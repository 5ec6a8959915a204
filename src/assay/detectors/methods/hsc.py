"""The hypersphere classifier: normal rows inside, labelled or auxiliary anomalies outside."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self, cast

import torch
from torch import Tensor

from assay.detectors.methods.hypersphere import Hypersphere, HypersphereDetector, anomaly_loss, pseudo_huber
from assay.detectors.training.balancing import balanced
from assay.detectors.training.neural import Fitting
from assay.parts import Part

_SMALLEST = 1e-12


@dataclass(kw_only=True, eq=False, repr=False)
class HSC(HypersphereDetector):
    """Hypersphere classifier (Ruff 2021, eq 2.20), by default with the pseudo-Huber distance h = sqrt(|z|^2 + 1) - 1.

    Cross-entropy with the probability exp(-h) of being normal: the loss is h for rows not labelled as anomalies
    and -log(1 - exp(-h)) for labelled anomalies. It needs rows with label 1; they may be auxiliary ones from another
    dataset (outlier exposure). The score is h, averaged over the members; with one member it ranks as |z|^2, the
    score of the thesis.

    Differs from the thesis: every batch has as many anomalies as other rows, instead of the weight eta; labelled
    normal rows count as unlabelled ones; z is the code minus a centre placed as in Deep SVDD (in the thesis the
    bias of the output layer). For the schedule and the networks see
    `assay.detectors.methods.hypersphere.HypersphereDetector` and `assay.networks.encoders`.

    Parameters
    ----------
    distance : {"pseudo_huber", "l1", "l2", "squared"}
        h: as above, or |z|_1, |z|_2 or |z|^2, which the thesis compares it with.
    hidden, latent_dim, pretrain_epochs, epochs, batch_size, learning_rate, weight_decay, members, \
channels, image_shape, device, mixed_precision, compiled, seed
        See `assay.detectors.methods.hypersphere.HypersphereDetector`; half of a batch are labelled anomalies.
    """

    kind: ClassVar[str] = "hsc"
    uses_labels: ClassVar[bool] = True

    distance: Literal["pseudo_huber", "l1", "l2", "squared"] = "pseudo_huber"

    def to_part(self) -> Part:
        """Return the part; the usual distance is not named, as in those of an earlier Assay, which knew no other."""
        part = super().to_part()
        params = {**part.config["params"]}
        if params["distance"] == type(self).distance:
            del params["distance"]
        return replace(part, config={**part.config, "params": params})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Rebuild the detector from its part; see `to_part`."""
        params = part.config.get("params")
        if isinstance(params, dict) and "distance" not in params:
            part = replace(part, config={**part.config, "params": {**params, "distance": cls.distance}})
        return super().from_part(part)

    def _train(self, fitting: Fitting) -> None:
        balanced(self.kind, fitting.labels, self.batch_size)  # raises before the pre-training if labels are missing
        super()._train(fitting)

    def _concentrate(self, fitting: Fitting) -> None:
        network = cast(Hypersphere, fitting.network)
        half, companions = balanced(self.kind, fitting.labels, self.batch_size)

        def loss(batch: Tensor, labels: Tensor) -> Tensor:
            h = self._h(network, batch)
            return torch.where(labels == 1, anomaly_loss(h), h)

        schedule = self._schedule(batch_size=half)
        finished = self.pretrain_epochs
        fitting.run(loss, [fitting.rows, fitting.labels], schedule, finished=finished, companions=companions)

    def _member_scores(self, x: Tensor) -> Tensor:
        return self._h(self.network_, x)

    def _h(self, network: Hypersphere, x: Tensor) -> Tensor:
        """Return h of rows (S, n, d), of shape (S, n); the root is taken of at least 1e-12, where it has a gradient."""
        if self.distance == "l1":
            return cast(Tensor, (network.encode(x) - network.center).abs().sum(dim=2))
        squared = cast(Tensor, network(x))
        if self.distance == "l2":
            return squared.clamp(min=_SMALLEST).sqrt()
        return squared if self.distance == "squared" else pseudo_huber(squared)
