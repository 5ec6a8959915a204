"""Fully connected networks of several members at once.

The members of an ensemble are one *stacked* network: every parameter has a leading member dimension S,
inputs and outputs have shape (S, n, width), and one batched matrix product computes all members. Members do not
influence each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn


class StackedLinear(nn.Module):
    """S affine (without bias: linear) maps side by side: (S, n, n_in) -> (S, n, n_out)."""

    def __init__(self, members: int, n_in: int, n_out: int, *, bias: bool = True) -> None:
        super().__init__()
        self.fan_in = n_in
        self.weight = nn.Parameter(torch.zeros(members, n_in, n_out))
        self.bias = nn.Parameter(torch.zeros(members, 1, n_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x @ weight + bias`` of every member."""
        return torch.bmm(x, self.weight) if self.bias is None else torch.baddbmm(self.bias, x, self.weight)


class Tanh(nn.Module):
    """tanh(x) as 2 sigmoid(2x) - 1, several times as fast on a CPU as torch's tanh.

    Doubling is written as a sum, which is faster than a product with a number, and operations are in place.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return ``tanh(x)``."""
        sigmoid = (x + x).sigmoid_()
        return (sigmoid + sigmoid).sub_(1)


def stacked_mlp(
    members: int, widths: Sequence[int], activation: Callable[[], nn.Module] = Tanh, *, bias: bool = True
) -> nn.Sequential:
    """Return linear maps from each width to the next, with activations between them and none at the end.

    The bounded tanh is the default because a network of ReLUs extrapolates linearly outside the training rows and
    reconstructs many outliers well.
    """
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [StackedLinear(members, n_in, n_out, bias=bias), activation()]
    return nn.Sequential(*layers[:-1])


class MLPAutoencoder(nn.Module):
    """Encoder n_features -> hidden -> latent_dim and the mirrored decoder.

    Parameters
    ----------
    members : int
        S, the number of networks side by side.
    n_features : int
        Width of the rows.
    hidden : sequence of int
        Widths of the encoder's hidden layers, outermost first; may be empty.
    latent_dim : int
        Width of the code.
    """

    def __init__(self, members: int, n_features: int, hidden: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        widths = [n_features, *hidden, latent_dim]
        self.encoder = stacked_mlp(members, widths)
        self.decoder = stacked_mlp(members, widths[::-1])

    def encode(self, x: Tensor) -> Tensor:
        """Return codes of shape (S, n, latent_dim) for rows of shape (S, n, n_features)."""
        return cast(Tensor, self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        """Return rows of shape (S, n, n_features) for codes of shape (S, n, latent_dim)."""
        return cast(Tensor, self.decoder(z))

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of `x`, of its shape."""
        return self.decode(self.encode(x))


def initialise(network: nn.Module, streams: Sequence[np.random.Generator]) -> None:
    """Draw the parameters of every member from that member's own stream.

    Each parameter of a layer is uniform on (-1/sqrt(fan_in), 1/sqrt(fan_in)). NumPy makes the draws, so that they
    are the same for a CPU and a GPU, and those of member s do not depend on the other members.

    Parameters
    ----------
    network : Module
        Its layers with parameters have a ``fan_in`` and a leading member dimension.
    streams : sequence of Generator
        One for each member; advanced by the draws.
    """
    for layer in network.modules():
        for parameter in layer.parameters(recurse=False):
            bound = 1.0 / np.sqrt(float(cast(int, layer.fan_in)))
            draws = [stream.uniform(-bound, bound, tuple(parameter.shape[1:])) for stream in streams]
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(np.stack(draws)))
