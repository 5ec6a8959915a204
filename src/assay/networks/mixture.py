"""Gaussian mixtures of several members at once, differentiable."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

COVARIANCE_RIDGE = 1e-3
TINY = 1e-10  # keeps divisions by and logarithms of empty components finite


class Mixture(nn.Module):
    """S mixtures of K Gaussians in q dimensions, held as buffers.

    Attributes
    ----------
    weights : Tensor of shape (S, K)
    means : Tensor of shape (S, K, q)
    covariances : Tensor of shape (S, K, q, q)
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def __init__(self, members: int, n_components: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.full((members, n_components), 1.0 / n_components))
        self.register_buffer("means", torch.zeros(members, n_components, width))
        self.register_buffer("covariances", torch.eye(width).repeat(members, n_components, 1, 1))

    def settle(self, features: Tensor, shares: Tensor) -> None:
        """Store the `moments` of features."""
        for name, value in zip(("weights", "means", "covariances"), moments(features, shares), strict=True):
            getattr(self, name).copy_(value)

    def forward(self, features: Tensor) -> Tensor:
        """Return the `energy` of features under the mixtures."""
        return energy(features, self.weights, self.means, self.covariances)


def moments(features: Tensor, shares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights, means and covariances of the components (Zong et al. 2018, eq 5).

    A ridge of ``COVARIANCE_RIDGE * (1 + variance)`` is added to the diagonals of the covariances: none is singular in
    float32, and the energy has a lower bound.

    Parameters
    ----------
    features : Tensor of shape (S, n, q)
    shares : Tensor of shape (S, n, K)
        Membership of each row in each component; sums to 1 over K.
    """
    counts = shares.sum(dim=1)
    weighted = shares.transpose(1, 2) / (counts + TINY).unsqueeze(2)
    means = weighted @ features
    moved = features.unsqueeze(1) - means.unsqueeze(2)
    covariances = (moved * weighted.unsqueeze(3)).transpose(2, 3) @ moved
    ridge = COVARIANCE_RIDGE * (1.0 + covariances.diagonal(dim1=2, dim2=3))
    return counts / shares.shape[1], means, covariances + torch.diag_embed(ridge)


def energy(features: Tensor, weights: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """Return -log of the mixture's density, of shape (S, n), of features (S, n, q) (Zong et al. 2018, eq 6).

    If a covariance is not finite, because training failed, the member's energies are NaN.
    """
    # cholesky_ex reports a failure per matrix; cholesky would raise for all members.
    lower, failed = torch.linalg.cholesky_ex(covariances)
    lower = torch.where(failed[..., None, None] == 0, lower, torch.nan)
    moved = (features.unsqueeze(1) - means.unsqueeze(2)).transpose(2, 3)
    distances = torch.linalg.solve_triangular(lower, moved, upper=False).square().sum(dim=2)
    log_determinants = 2.0 * lower.diagonal(dim1=2, dim2=3).log().sum(dim=2, keepdim=True)
    constant = features.shape[2] * math.log(2 * math.pi)
    log_weights = (weights + TINY).log().unsqueeze(2)
    return -torch.logsumexp(log_weights - 0.5 * (distances + log_determinants + constant), dim=1)
