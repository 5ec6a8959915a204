"""Deep SVDD: the smallest hypersphere around the codes of the training rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from assay.detectors.methods.hypersphere import Hypersphere, HypersphereDetector, passes
from assay.detectors.training.neural import Fitting
from assay.parameters import Share

_WARM_UP = 10


@dataclass(kw_only=True, eq=False, repr=False)
class DeepSVDD(HypersphereDetector):
    """Deep support vector data description (Ruff 2021, section 2.2).

    The one-class objective is the mean squared distance to the centre (eq 2.11). The soft-boundary objective
    (eq 2.10) is R^2 + mean(max(0, squared distance - R^2)) / nu: at most a share nu of the training rows lies
    outside the radius R, and at least nu lies outside or on it (proposition 4). After a warm-up of ten epochs (or
    all but the last) with R = 0, R^2 is solved after every epoch, as an order statistic of the distances of all
    training rows. The score is the squared distance to the centre, minus R^2 with a soft boundary, averaged over
    the members; the property of nu holds for each member.

    Differs from the thesis: R^2 is solved after every epoch, not on every batch as in its appendix B (section
    2.2.1 proposes epochs); scores are squared distances; for the schedule and the networks see
    `assay.detectors.methods.hypersphere.HypersphereDetector` and `assay.networks.encoders`.

    Parameters
    ----------
    objective : {"one-class", "soft-boundary"}
    nu : float
        Between 0 and 1; used by the soft boundary only.
    hidden, latent_dim, pretrain_epochs, epochs, batch_size, learning_rate, weight_decay, members, \
channels, image_shape, device, mixed_precision, compiled, seed
        See `assay.detectors.methods.hypersphere.HypersphereDetector`.
    """

    kind: ClassVar[str] = "deep_svdd"

    objective: Literal["one-class", "soft-boundary"] = "one-class"
    nu: Share = 0.1

    @property
    def squared_score(self) -> bool:
        """Whether the score is a squared distance: with a soft boundary it is the difference of two."""
        return self.objective == "one-class"

    def _concentrate(self, fitting: Fitting) -> None:
        network = cast(Hypersphere, fitting.network)
        finished = self.pretrain_epochs
        if self.objective == "one-class":
            fitting.run(network.forward, [fitting.rows], self._schedule(), finished=finished)
            return
        chunks = [x.to(fitting.compute.device) for x in passes(fitting.rows, self.members)]

        def loss(batch: Tensor) -> Tensor:
            return network.radius + torch.relu(network(batch) - network.radius) / self.nu

        def solve(epoch: int) -> None:
            if epoch + 1 >= min(_WARM_UP, self.epochs):
                network.eval()
                network.radius.copy_(solve_radius(torch.cat([network(x) for x in chunks], dim=1), self.nu))

        fitting.run(loss, [fitting.rows], self._schedule(), finished=finished, after_epoch=solve)

    def _member_scores(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.network_(x) - self.network_.radius)


def solve_radius(distances: Tensor, nu: float) -> Tensor:
    """Return the R^2, of shape (S, 1), that minimises eq 2.10 for squared distances (S, n) (proposition 4)."""
    n_rows = distances.shape[1]
    return distances.kthvalue(n_rows - math.floor(nu * n_rows), dim=1, keepdim=True).values
