"""Fully convolutional networks for images, several members at once, and what their outputs see of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.networks.lenet import StackedNorm, as_maps, n_colours

_KERNEL = 5
_LEAKINESS = 0.01
_DEEPER_FROM = (16, 56, 168)  # smaller sides of images from which there is one more block


@dataclass(frozen=True, slots=True)
class Field:
    """What one output pixel sees of the image, along either side, in pixels.

    Attributes
    ----------
    size : int
        Side of the receptive field.
    jump : int
        Distance of the centres of two neighbouring outputs.
    start : float
        Centre of the first output, where 0 is the centre of the first pixel.
    """

    size: int
    jump: int
    start: float


def blocks_for(image_shape: Sequence[int]) -> int:
    """Return the number of blocks for images of a size: 1, 2 from a smaller side of 16 on, 3 from 56, 4 from 168."""
    return 1 + sum(min(image_shape[:2]) >= side for side in _DEEPER_FROM)


def field_of(blocks: int) -> Field:
    """Return what an output sees after blocks of a 5x5 convolution with padding and a 2x2 maximum.

    A layer with kernel k and stride s adds (k - 1) jump to the field and multiplies the jump by s. For 1, 2, 3 and 4
    blocks: fields of 6, 16, 36 and 76 pixels, jumps of 2, 4, 8 and 16.
    """
    size, jump, start = 1, 1, 0.0
    for _ in range(blocks):
        size += (_KERNEL - 1) * jump  # the padding keeps the centre where it is
        size, start, jump = size + jump, start + jump / 2, 2 * jump
    return Field(size, jump, start)


class GroupedConv(nn.Module):
    """S convolutions with padding, a group of channels each: (n, S * c_in, h, w) -> (n, S * c_out, h, w).

    With `normal`, batch normalisation comes between the weights and the bias, which it would otherwise cancel: what is
    left of its gradient is rounding, of which Adam makes whole steps.
    """

    def __init__(self, members: int, c_in: int, c_out: int, kernel: int, *, normal: bool = False) -> None:
        super().__init__()
        self.fan_in = c_in * kernel**2
        self.weight = nn.Parameter(torch.zeros(members, c_out, c_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(members, c_out))
        self.norm = StackedNorm(members, c_out) if normal else None

    def forward(self, x: Tensor) -> Tensor:
        """Convolve all members at once."""
        members, c_out, _, kernel, _ = self.weight.shape
        maps = functional.conv2d(x, self.weight.flatten(0, 1), padding=kernel // 2, groups=members)
        if self.norm is not None:
            stacked = maps.reshape(len(maps), members, c_out, *maps.shape[2:]).transpose(0, 1)
            maps = self.norm(stacked).transpose(0, 1).flatten(1, 2)
        return maps + self.bias.flatten()[:, None, None]


class FullyConvolutional(nn.Module):
    """S fully convolutional networks: flattened images (S, n, d) -> maps (S, n, u, v).

    Blocks of a 5x5 convolution, batch normalisation, leaky ReLU and a 2x2 maximum, of which the last has neither
    normalisation nor ReLU, then a 1x1 convolution to one channel; all with bias. With two blocks of 128 channels this
    is the network for Fashion-MNIST of Ruff (2021), appendix B.2. `blocks_for` says how many there are, `field_of` what
    an output sees. Images are padded by repeating their last line and column to multiples of the jump, so that
    u = ceil(h / jump) and v = ceil(w / jump).

    Differs from the thesis: batch normalisation has no scale, which the next convolution has, and its shift
    is the bias of the convolution before it; larger
    images get more of the same blocks, in place of the first layers of a VGG net with weights from ImageNet.

    Parameters
    ----------
    members : int
        S, the number of networks side by side.
    image_shape : tuple of int
        Height and width, and 3 for colour.
    channels : sequence of int
        Channels of the blocks, the first ones first; the last number is for all further blocks.

    Attributes
    ----------
    field : Field
        The receptive field of an output.
    """

    def __init__(self, members: int, image_shape: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        self.members, self.image_shape = members, image_shape
        blocks = blocks_for(image_shape)
        self.field = field_of(blocks)
        widths = [n_colours(image_shape), *(channels[min(block, len(channels) - 1)] for block in range(blocks))]
        layers: list[nn.Module] = []
        for block, (c_in, c_out) in enumerate(pairwise(widths), start=1):
            layers.append(GroupedConv(members, c_in, c_out, _KERNEL, normal=block < blocks))
            layers += [nn.LeakyReLU(_LEAKINESS)] if block < blocks else []
            layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers, GroupedConv(members, widths[-1], 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps, which have any sign."""
        (height, width), jump = self.image_shape[:2], self.field.jump
        images = as_maps(x.transpose(0, 1), self.image_shape).flatten(1, 2)
        padded = functional.pad(images, (0, -width % jump, 0, -height % jump), mode="replicate")
        return cast(Tensor, self.layers(padded)).transpose(0, 1)


def upsampled(maps: Tensor, field: Field, image_shape: Sequence[int], std: float) -> Tensor:
    """Return maps (n, u, v) at the size of the image, (n, h, w), by Gaussians in the receptive fields.

    A transposed convolution with a fixed Gaussian kernel, of the size of the receptive field, in steps of the jump,
    cropped to the image (Ruff 2021, algorithm 1).

    Parameters
    ----------
    maps : Tensor
    field : Field
    image_shape : (int, int)
    std : float
        Standard deviation of the Gaussian, in pixels.
    """
    offsets = torch.arange(field.size, dtype=maps.dtype, device=maps.device) - (field.size - 1) / 2
    line = torch.exp(-(offsets**2) / (2 * std**2))
    kernel = line[:, None] * line / (2 * torch.pi * std**2)
    spread = functional.conv_transpose2d(maps[:, None], kernel[None, None], stride=field.jump)[:, 0]
    first = round((field.size - 1) / 2 - field.start)
    height, width = image_shape
    return spread[:, first : first + height, first : first + width]
