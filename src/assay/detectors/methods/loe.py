"""Latent outlier exposure: training on rows with an unknown subset of anomalies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, cast

import numpy as np
import torch
from annotated_types import Gt, Lt
from torch import Tensor

from assay.arrays import Flags, Singles
from assay.detectors.methods.hypersphere import Hypersphere, HypersphereDetector, anomaly_loss, passes, pseudo_huber
from assay.detectors.training.loop import pinned_threads
from assay.detectors.training.neural import Fitting

_WARM_UP = 2


@dataclass(kw_only=True, eq=False, repr=False)
class LatentOutlierExposure(HypersphereDetector):
    """Latent outlier exposure on a hypersphere (Qiu, Li, Kloft, Rudolph, Mandt 2022).

    Block coordinate descent: in every batch the share `contamination` of the rows with the highest L_n - L_a (at
    least one row, at most half of them) is treated as anomalous, then the network is updated with these labels. The
    loss is L_a ("hard") or (L_n + L_a) / 2 ("soft") for these rows and L_n for all others. L_n = h and
    L_a = -log(1 - exp(-h)) are the losses of the hypersphere classifier (Ruff 2021, eq 2.20; h = sqrt(d^2 + 1) - 1
    for the distance d to the centre): both are bounded below, while Deep SVDD's squared distance and its inverse have
    different scales. The first two epochs use only L_n. Rows labelled normal are never treated as anomalous. The score
    is h, averaged over the members.

    Differs from the paper: the base is a hypersphere instead of neural transformation learning on tables; the
    centre is placed as in Deep SVDD, by all rows. See also `assay.detectors.methods.hypersphere.HypersphereDetector`.

    If the training rows are cleaner than assumed, normal rows are treated as anomalous, which degrades the ranking:
    set `contamination` low then. If the anomalies are a dense cluster, a single member may pick the wrong rows; the
    mean over several rarely does.

    Parameters
    ----------
    variant : {"hard", "soft"}
    contamination : float
        Assumed share of anomalies among the training rows, between 0 and 0.5.
    hidden, latent_dim, pretrain_epochs, epochs, batch_size, learning_rate, weight_decay, members, \
channels, image_shape, device, mixed_precision, compiled, seed
        See `assay.detectors.methods.hypersphere.HypersphereDetector`.

    Attributes
    ----------
    suspicion_ : ndarray of float32, shape (n,)
        L_n - L_a of the training rows, averaged over the members; not stored.
    suspects_ : ndarray of bool, shape (n,)
        The share `contamination` of them with the highest suspicion; not stored.
    """

    kind: ClassVar[str] = "loe"

    variant: Literal["hard", "soft"] = "soft"
    contamination: Annotated[float, Gt(0), Lt(0.5)] = 0.1

    def _total_epochs(self) -> int:
        return self.pretrain_epochs + _WARM_UP + self.epochs

    def _concentrate(self, fitting: Fitting) -> None:
        network = cast(Hypersphere, fitting.network)
        weight = 1.0 if self.variant == "hard" else 0.5

        def normal_loss(batch: Tensor) -> Tensor:
            return pseudo_huber(network(batch))

        def loss(batch: Tensor, unverified: Tensor | None = None) -> Tensor:
            h = normal_loss(batch)
            anomalous = anomaly_loss(h)
            suspicion = h - anomalous if unverified is None else (h - anomalous).where(unverified, -torch.inf)
            top = suspicion.topk(self._n_suspects(h.shape[1]), dim=1).indices
            share = torch.zeros_like(h).scatter(1, top, weight)
            share = share if unverified is None else share * unverified
            return (1 - share) * h + share * anomalous

        finished = self.pretrain_epochs
        fitting.run(normal_loss, [fitting.rows], self._schedule(epochs=_WARM_UP), finished=finished)
        unverified: Flags = fitting.labels != 0
        marks = [] if unverified.all() else [unverified]
        fitting.run(loss, [fitting.rows, *marks], self._schedule(), finished=finished + _WARM_UP)
        self.suspicion_ = self._suspicion(network.eval(), fitting.rows)
        self.suspects_: Flags = np.zeros(len(fitting.rows), dtype=np.bool_)
        self.suspects_[np.argsort(-self.suspicion_, kind="stable")[: self._n_suspects(len(fitting.rows))]] = True
        self.suspects_ &= unverified

    def _n_suspects(self, n_rows: int) -> int:
        return min(max(1, round(self.contamination * n_rows)), n_rows // 2)

    def _suspicion(self, network: Hypersphere, rows: Singles) -> Singles:
        with torch.no_grad(), pinned_threads():
            h = pseudo_huber(torch.cat([network(x) for x in passes(rows, self.members)], dim=1))
            suspicion: Singles = (h - anomaly_loss(h)).mean(dim=0).numpy()
        return suspicion

    def _member_scores(self, x: Tensor) -> Tensor:
        return pseudo_huber(self.network_(x))
