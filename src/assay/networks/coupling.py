"""Affine coupling flows of several members at once: invertible networks with an exact density."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from assay.networks.mlp import StackedLinear, Tanh, stacked_mlp

Halves = tuple[Tensor, Tensor]


class Bound(nn.Module):
    """A learnt bound on the log scale of each column of a coupling: the log scale is the bound times a tanh."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.fan_in = 1
        self.most = nn.Parameter(torch.zeros(members, 1, width))
        self.tanh = Tanh()

    def forward(self, raw: Tensor) -> Tensor:
        """Return log scales between -most and most."""
        return cast(Tensor, self.most * self.tanh(raw))


class Coupling(nn.Module):
    """Scale and shift one half of the columns by amounts computed from the other half (Dinh et al. 2017, eq 4-8).

    Parameters
    ----------
    members : int
    inputs, changed : int
        Number of columns in the halves.
    hidden : sequence of int
        Widths of the hidden layers of the network that computes them.
    """

    def __init__(self, members: int, inputs: int, changed: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.net = stacked_mlp(members, [inputs, *hidden, 2 * changed])
        self.bound = Bound(members, changed)

    def amounts(self, inputs: Tensor) -> Halves:
        """Return log scales and shifts, each of shape (S, n, changed)."""
        raw, shift = self.net(inputs).chunk(2, dim=2)
        return self.bound(raw), shift

    @torch.no_grad()
    def to_identity(self) -> None:
        """Make the coupling the identity: its last layer returns zeros; with the bound at 1 gradients are not zero."""
        for parameter in cast(StackedLinear, self.net[-1]).parameters():
            parameter.zero_()
        self.bound.most.fill_(1.0)


class CouplingFlow(nn.Module):
    """Couplings that alternate between odd and even columns; the base density is standard normal.

    Parameters
    ----------
    members : int
        S, the number of flows side by side.
    n_features : int
        At least 2: one half is computed from the other.
    n_couplings : int
    hidden : sequence of int
        Widths of the hidden layers in each coupling.
    """

    def __init__(self, members: int, n_features: int, n_couplings: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        sizes = (n_features - n_features // 2, n_features // 2)
        self.couplings = nn.ModuleList(
            Coupling(members, sizes[layer % 2], sizes[1 - layer % 2], hidden) for layer in range(n_couplings)
        )

    def to_identity(self) -> None:
        """Make the flow the identity."""
        for coupling in self.couplings:
            cast(Coupling, coupling).to_identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latent rows, of the shape of `x` (S, n, d), and the log determinants, of shape (S, n)."""
        inputs, changed = x[..., 0::2], x[..., 1::2]
        total = x.new_zeros(x.shape[:2])
        for coupling in self.couplings:
            log_scale, shift = cast(Coupling, coupling).amounts(inputs)
            inputs, changed = changed * log_scale.exp() + shift, inputs
            total = total + log_scale.sum(dim=2)
        return self._merged(inputs, changed), total

    def _merged(self, inputs: Tensor, changed: Tensor) -> Tensor:
        """Restore the order of the columns: after an odd number of couplings the halves are swapped."""
        return _interleaved(inputs, changed) if len(self.couplings) % 2 == 0 else _interleaved(changed, inputs)

    def negative_log_likelihood(self, x: Tensor) -> Tensor:
        """Return -log p(x), in nats, of shape (S, n)."""
        z, log_determinant = self(x)
        normal = 0.5 * (z.square().sum(dim=2) + x.shape[2] * math.log(2 * math.pi))
        return cast(Tensor, normal - log_determinant)


def _interleaved(even: Tensor, odd: Tensor) -> Tensor:
    rows = even.new_empty(*even.shape[:2], even.shape[2] + odd.shape[2])
    rows[..., 0::2], rows[..., 1::2] = even, odd
    return rows
