"""A small convolutional autoencoder for images, several members at once."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.errors import ConfigError
from assay.networks.mlp import stacked_mlp

CHANNELS = (8, 16)


def n_colours(image_shape: Sequence[int]) -> int:
    """Return 3 for the shape of images in colour, (height, width, 3), and 1 for that of grey ones, (height, width)."""
    return image_shape[2] if len(image_shape) > 2 else 1


def check_image_shape(image_shape: Sequence[int], n_features: int) -> None:
    """Raise `ConfigError` unless images of a shape are rows of so many columns."""
    if prod(image_shape) != n_features:
        raise ConfigError(
            f"image_shape is {' x '.join(map(str, image_shape))}, but rows have {n_features} columns; give the height "
            "and width of the flattened images (and 3 for colour), or none for plain rows"
        )


def as_maps(x: Tensor, image_shape: Sequence[int]) -> Tensor:
    """Return flattened images (..., d), the colours of each pixel together, as maps (..., colours, height, width)."""
    return x.reshape(*x.shape[:-1], *image_shape[:2], n_colours(image_shape)).movedim(-1, -3)


def as_images(maps: Tensor) -> Tensor:
    """Return maps (..., colours, height, width) as flattened images; the inverse of `as_maps`."""
    return maps.movedim(-3, -1).flatten(-3)


class StackedConv(nn.Module):
    """S convolutions with 3x3 kernels side by side: (S, n, c_in, h, w) -> (S, n, c_out, h/stride, w/stride)."""

    def __init__(self, members: int, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.fan_in = c_in * 9
        self.stride = stride
        self.weight = nn.Parameter(torch.zeros(members, c_out, c_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(members, c_out))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve all members at once: each is a group of channels."""
        members, c_out = self.weight.shape[:2]
        maps = functional.conv2d(
            x.transpose(0, 1).flatten(1, 2),
            self.weight.flatten(0, 1),
            self.bias.flatten(),
            stride=self.stride,
            padding=1,
            groups=members,
        )
        return maps.reshape(len(maps), members, c_out, *maps.shape[2:]).transpose(0, 1)


class LeNetAutoencoder(nn.Module):
    """LeNet-type autoencoder of flattened images: two convolutions, dense code, and the mirrored decoder.

    Differs from the networks of Ruff (2021), appendix B: strided 3x3 convolutions in place of 5x5 ones with
    pooling, and no batch normalisation; smaller, so that it trains on a CPU.

    Parameters
    ----------
    members : int
        S, the number of networks side by side.
    image_shape : tuple of int
        Height and width, and 3 for colour; padded with zeros to multiples of 4 inside the network.
    hidden : sequence of int
        Widths of dense layers between the convolutions and the code; may be empty.
    latent_dim : int
        Width of the code.
    """

    def __init__(self, members: int, image_shape: Sequence[int], hidden: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        first, second = CHANNELS
        self.small = (second, -(-image_shape[0] // 4), -(-image_shape[1] // 4))
        widths = [second * self.small[1] * self.small[2], *hidden, latent_dim]
        self.down = nn.Sequential(
            StackedConv(members, n_colours(image_shape), first, stride=2),
            nn.LeakyReLU(),
            StackedConv(members, first, second, stride=2),
            nn.LeakyReLU(),
        )
        self.encoder = stacked_mlp(members, widths)
        self.decoder = stacked_mlp(members, widths[::-1])
        self.up = nn.Sequential(
            nn.LeakyReLU(),
            StackedConv(members, second, first * 4, stride=1),
            nn.PixelShuffle(2),
            nn.LeakyReLU(),
            StackedConv(members, first, 4 * n_colours(image_shape), stride=1),
            nn.PixelShuffle(2),
        )

    def encode(self, x: Tensor) -> Tensor:
        """Return codes of shape (S, n, latent_dim) for rows of shape (S, n, height * width)."""
        height, width = self.image_shape[:2]
        images = functional.pad(as_maps(x, self.image_shape), (0, -width % 4, 0, -height % 4))
        return cast(Tensor, self.encoder(self.down(images).flatten(2)))

    def decode(self, z: Tensor) -> Tensor:
        """Return rows of shape (S, n, height * width) for codes of shape (S, n, latent_dim)."""
        maps = self.decoder(z).reshape(*z.shape[:2], *self.small)
        height, width = self.image_shape[:2]
        return as_images(self.up(maps)[..., :height, :width])

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of `x`, of its shape."""
        return self.decode(self.encode(x))
