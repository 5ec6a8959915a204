"""Encoders for one-class learning, several members at once: no bias terms, unbounded activations.

A network that can map every row to one point has a trivial one-class solution. Bias terms and bounded
activations make that possible (Ruff 2021, propositions 2 and 3), so these networks have neither. The decoders
mirror the encoders and are used in pre-training.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.networks.lenet import CHANNELS, as_images, as_maps, check_image_shape, n_colours
from assay.networks.mlp import StackedLinear

_LEAKINESS = 0.1
MOMENTUM = 0.1
_EPS = 1e-4


class StackedNorm(nn.Module):
    """S batch normalisations without scale and shift: (S, n, c, ...) -> the same shape.

    Training uses the mean and variance of each member's batch; evaluation uses each member's running averages, so
    that a row's score does not depend on its batch. Without normalisation one-class training on tables is far
    weaker: a network without bias terms maps 0 to 0, wherever the rows lie.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(members, 1, width))
        self.register_buffer("variance", torch.ones(members, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return x with mean 0 and variance 1 in every channel; a single row is normalised by the running averages."""
        members, n_rows = x.shape[:2]
        channels = x.transpose(0, 1).flatten(1, 2)  # members side by side: one call normalises all of them
        training = self.training and n_rows > 1
        running = self.mean.view(-1), self.variance.view(-1)
        normal = functional.batch_norm(channels, *running, training=training, momentum=MOMENTUM, eps=_EPS)
        return normal.reshape(n_rows, members, *x.shape[2:]).transpose(0, 1)


class UnbiasedConv(nn.Module):
    """S convolutions with 3x3 kernels and no bias: (S, n, c_in, h, w) -> (S, n, c_out, h/stride, w/stride)."""

    def __init__(self, members: int, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.fan_in = c_in * 9
        self.stride = stride
        self.weight = nn.Parameter(torch.zeros(members, c_out, c_in, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve all members at once: each is a group of channels."""
        members, c_out = self.weight.shape[:2]
        images = x.transpose(0, 1).flatten(1, 2)
        maps = functional.conv2d(images, self.weight.flatten(0, 1), stride=self.stride, padding=1, groups=members)
        return maps.reshape(len(maps), members, c_out, *maps.shape[2:]).transpose(0, 1)


class ConvEncoder(nn.Module):
    """LeNet-type encoder of flattened images (S, n, d) -> (S, n, latent_dim).

    Differs from the networks of Ruff (2021), appendix B: strided 3x3 convolutions in place of 5x5 ones with
    pooling.
    """

    def __init__(self, members: int, image_shape: Sequence[int], hidden: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        first, second = CHANNELS
        height, width = (-(-side // 4) for side in image_shape[:2])
        self.down = nn.Sequential(
            *(
                UnbiasedConv(members, n_colours(image_shape), first, stride=2),
                StackedNorm(members, first),
                nn.LeakyReLU(_LEAKINESS),
            ),
            *(UnbiasedConv(members, first, second, stride=2), StackedNorm(members, second), nn.LeakyReLU(_LEAKINESS)),
        )
        self.dense = dense(members, [second * height * width, *hidden, latent_dim])

    def forward(self, x: Tensor) -> Tensor:
        """Return the codes."""
        height, width = self.image_shape[:2]
        images = functional.pad(as_maps(x, self.image_shape), (0, -width % 4, 0, -height % 4))
        return cast(Tensor, self.dense(self.down(images).flatten(2)))


class ConvDecoder(nn.Module):
    """The mirror of `ConvEncoder`: (S, n, latent_dim) -> (S, n, d)."""

    def __init__(self, members: int, image_shape: Sequence[int], hidden: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        first, second = CHANNELS
        self.small = (second, *(-(-side // 4) for side in image_shape[:2]))
        self.dense = dense(members, [latent_dim, *reversed(hidden), second * self.small[1] * self.small[2]])
        self.up = nn.Sequential(
            *(nn.LeakyReLU(_LEAKINESS), UnbiasedConv(members, second, first * 4, stride=1), nn.PixelShuffle(2)),
            *(StackedNorm(members, first), nn.LeakyReLU(_LEAKINESS)),
            *(UnbiasedConv(members, first, 4 * n_colours(image_shape), stride=1), nn.PixelShuffle(2)),
        )

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
    members: int, n_features: int, hidden: Sequence[int], latent_dim: int, image_shape: Sequence[int] | None
) -> nn.Module:
    """Return S encoders (S, n, n_features) -> (S, n, latent_dim): dense ones, or convolutional ones for images.

    Raises
    ------
    ConfigError
        The image shape does not fit the width.
    """
    if image_shape is None:
        return dense(members, [n_features, *hidden, latent_dim])
    check_image_shape(image_shape, n_features)
    return ConvEncoder(members, image_shape, hidden, latent_dim)


def decoder(
    members: int, n_features: int, hidden: Sequence[int], latent_dim: int, image_shape: Sequence[int] | None
) -> nn.Module:
    """Return the mirror of `encoder`, called with the same arguments."""
    if image_shape is None:
        return dense(members, [latent_dim, *reversed(hidden), n_features])
    return ConvDecoder(members, image_shape, hidden, latent_dim)
