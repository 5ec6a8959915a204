"""Encoders for one-class learning, several members at once: no bias terms, unbounded activations.

A network that can map every row to one point has a trivial one-class solution. Bias terms and bounded
activations make that possible (Ruff 2021, propositions 2 and 3), so these networks have neither. The decoders
mirror the encoders and are used in pre-training.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import cast

from torch import Tensor, nn

from assay.networks.lenet import (
    StackedNorm,
    as_images,
    check_channels,
    check_image_shape,
    contracted,
    contracting,
    expanding,
    n_colours,
    padded,
)
from assay.networks.mlp import StackedLinear

_LEAKINESS = 0.1


class ConvEncoder(nn.Module):
    """LeNet-type encoder of flattened images (S, n, d) -> (S, n, latent_dim).

    With `channels` those of Ruff (2021), appendix B; without, smaller ones: see `assay.networks.lenet.contracting`.
    """

    def __init__(
        self, members: int, image_shape: Sequence[int], hidden: Sequence[int], latent_dim: int, channels: Sequence[int]
    ) -> None:
        super().__init__()
        self.image_shape, self.channels = image_shape, channels
        self.down = contracting(members, n_colours(image_shape), channels, biased=False, leakiness=_LEAKINESS)
        self.dense = dense(members, [prod(contracted(image_shape, channels)), *hidden, latent_dim])

    def forward(self, x: Tensor) -> Tensor:
        """Return the codes."""
        return cast(Tensor, self.dense(self.down(padded(x, self.image_shape, self.channels)).flatten(2)))


class ConvDecoder(nn.Module):
    """The mirror of `ConvEncoder`: (S, n, latent_dim) -> (S, n, d)."""

    def __init__(
        self, members: int, image_shape: Sequence[int], hidden: Sequence[int], latent_dim: int, channels: Sequence[int]
    ) -> None:
        super().__init__()
        self.image_shape, self.small = image_shape, contracted(image_shape, channels)
        self.dense = dense(members, [latent_dim, *reversed(hidden), prod(self.small)])
        self.up = expanding(members, n_colours(image_shape), channels, biased=False, leakiness=_LEAKINESS)

    def forward(self, z: Tensor) -> Tensor:
        """Return the images of the codes."""
        height, width = self.image_shape[:2]
        maps = self.up(self.dense(z).reshape(*z.shape[:2], *self.small))
        return as_images(maps[..., :height, :width])


def dense(members: int, widths: Sequence[int]) -> nn.Sequential:
    """Return linear maps from each width to the next, with normalisation and leaky ReLU between them."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        linear = StackedLinear(members, n_in, n_out, bias=False)
        layers += [linear, StackedNorm(members, n_out), nn.LeakyReLU(_LEAKINESS)]
    return nn.Sequential(*layers[:-2])


def encoder(
    members: int,
    n_features: int,
    hidden: Sequence[int],
    latent_dim: int,
    image_shape: Sequence[int] | None,
    channels: Sequence[int] = (),
) -> nn.Module:
    """Return S encoders (S, n, n_features) -> (S, n, latent_dim): dense ones, or convolutional ones for images.

    Raises
    ------
    ConfigError
        The image shape does not fit the width, or the channels do not fit the images.
    """
    check_channels(channels, image_shape)
    if image_shape is None:
        return dense(members, [n_features, *hidden, latent_dim])
    check_image_shape(image_shape, n_features)
    return ConvEncoder(members, image_shape, hidden, latent_dim, channels)


def decoder(
    members: int,
    n_features: int,
    hidden: Sequence[int],
    latent_dim: int,
    image_shape: Sequence[int] | None,
    channels: Sequence[int] = (),
) -> nn.Module:
    """Return the mirror of `encoder`, called with the same arguments."""
    if image_shape is None:
        return dense(members, [latent_dim, *reversed(hidden), n_features])
    return ConvDecoder(members, image_shape, hidden, latent_dim, channels)
