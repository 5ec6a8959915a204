"""Convolutional layers for images, several members at once, and the autoencoder made of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.errors import ConfigError
from assay.networks.mlp import stacked_mlp

CHANNELS = (8, 16)
MOMENTUM = 0.1
_EPS = 1e-4
_LENET_KERNEL = 5


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


def check_channels(channels: Sequence[int], image_shape: Sequence[int] | None) -> None:
    """Raise `ConfigError` if there are channels, but no images, or images that cannot be halved so often."""
    if channels and image_shape is None:
        raise ConfigError(f"channels is {list(channels)}, but the rows are no images; leave it out")
    if channels and 2 ** len(channels) > min((image_shape or ())[:2]):
        raise ConfigError(
            f"channels has {len(channels)} numbers, each of which halves the sides of the images, which are "
            f"{' x '.join(map(str, (image_shape or ())[:2]))}; give fewer"
        )


def padded(x: Tensor, image_shape: Sequence[int], channels: Sequence[int]) -> Tensor:
    """Return flattened images (S, n, d) as maps whose sides can be halved as often as `contracting` does."""
    height, width = image_shape[:2]
    step = 2 ** len(channels or CHANNELS)
    return functional.pad(as_maps(x, image_shape), (0, -width % step, 0, -height % step))


def contracted(image_shape: Sequence[int], channels: Sequence[int]) -> tuple[int, int, int]:
    """Return the shape of the maps that `contracting` makes of an image: channels, height, width."""
    widths = channels or CHANNELS
    height, width = (-(-side // 2 ** len(widths)) for side in image_shape[:2])
    return widths[-1], height, width


def as_maps(x: Tensor, image_shape: Sequence[int]) -> Tensor:
    """Return flattened images (..., d), the colours of each pixel together, as maps (..., colours, height, width)."""
    return x.reshape(*x.shape[:-1], *image_shape[:2], n_colours(image_shape)).movedim(-1, -3)


def as_images(maps: Tensor) -> Tensor:
    """Return maps (..., colours, height, width) as flattened images; the inverse of `as_maps`."""
    return maps.movedim(-3, -1).flatten(-3)


class StackedConv(nn.Module):
    """S convolutions side by side: (S, n, c_in, h, w) -> (S, n, c_out, h/stride, w/stride)."""

    def __init__(
        self, members: int, c_in: int, c_out: int, *, kernel: int = 3, stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.fan_in = c_in * kernel**2
        self.stride = stride
        self.weight = nn.Parameter(torch.zeros(members, c_out, c_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(members, c_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Convolve all members at once: each is a group of channels."""
        members, c_out, *_, kernel = self.weight.shape
        maps = functional.conv2d(
            x.transpose(0, 1).flatten(1, 2),
            self.weight.flatten(0, 1),
            None if self.bias is None else self.bias.flatten(),
            stride=self.stride,
            padding=kernel // 2,
            groups=members,
        )
        return maps.reshape(len(maps), members, c_out, *maps.shape[2:]).transpose(0, 1)


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


class OnMaps(nn.Module):
    """A layer of torch for maps, applied to those of all members: (S, n, c, h, w) -> (S, n, c, h', w')."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps after the layer."""
        maps: Tensor = self.layer(x.flatten(0, 1))
        return maps.reshape(*x.shape[:2], *maps.shape[1:])


def contracting(members: int, n_in: int, channels: Sequence[int], *, biased: bool, leakiness: float) -> nn.Sequential:
    """Return layers that halve the sides of maps with `n_in` channels, once for each number of channels.

    With channels each is a module of a LeNet-type network (Ruff 2021, appendix B.1): a 5x5 convolution, a 2x2 maximum
    and leaky ReLU, in that order, which is the same as the maximum at the end, since leaky ReLU rises. Without any,
    two strided 3x3 convolutions of 8 and 16 channels, which take a CPU a fraction of the time.

    Parameters
    ----------
    members, n_in : int
    channels : sequence of int
    biased : bool
        With bias terms and without batch normalisation; or without bias terms and with it.
    leakiness : float
    """
    layers: list[nn.Module] = []
    for c_in, c_out in pairwise([n_in, *(channels or CHANNELS)]):
        sides = {"kernel": _LENET_KERNEL} if channels else {"stride": 2}
        layers.append(StackedConv(members, c_in, c_out, **sides, bias=biased))
        layers += [] if biased else [StackedNorm(members, c_out)]
        layers += [OnMaps(nn.MaxPool2d(2))] if channels else []
        layers.append(nn.LeakyReLU(leakiness))
    return nn.Sequential(*layers)


def expanding(members: int, n_out: int, channels: Sequence[int], *, biased: bool, leakiness: float) -> nn.Sequential:
    """Return the mirror of `contracting`, called with the same arguments: layers that double the sides of maps.

    With channels by repeating each pixel before a 5x5 convolution, which at stride 1 is what the thesis calls a
    deconvolution; without by a 3x3 convolution to four times the channels, which become pixels.
    """
    layers: list[nn.Module] = []
    widths = [n_out, *(channels or CHANNELS)][::-1]
    for c_in, c_out in pairwise(widths):
        layers += [] if biased or not layers else [StackedNorm(members, c_in)]
        layers.append(nn.LeakyReLU(leakiness))
        if channels:
            layers.append(OnMaps(nn.Upsample(scale_factor=2)))
            layers.append(StackedConv(members, c_in, c_out, kernel=_LENET_KERNEL, bias=biased))
        else:
            layers += [StackedConv(members, c_in, 4 * c_out, bias=biased), nn.PixelShuffle(2)]
    return nn.Sequential(*layers)


class LeNetAutoencoder(nn.Module):
    """LeNet-type autoencoder of flattened images: convolutions, dense code, and the mirrored decoder.

    Differs from the networks of Ruff (2021), appendix B.1: without `channels` in its layers (see `contracting`), for
    a CPU; with them by bias terms in place of batch normalisation, and by bounded dense hidden layers.

    Parameters
    ----------
    members : int
        S, the number of networks side by side.
    image_shape : tuple of int
        Height and width, and 3 for colour; padded with zeros inside the network, to sides that can be halved.
    hidden : sequence of int
        Widths of dense layers between the convolutions and the code; may be empty.
    latent_dim : int
        Width of the code.
    channels : sequence of int
        See `contracting`.
    """

    def __init__(
        self,
        members: int,
        image_shape: Sequence[int],
        hidden: Sequence[int],
        latent_dim: int,
        channels: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.image_shape, self.channels = image_shape, channels
        self.small = contracted(image_shape, channels)
        widths = [prod(self.small), *hidden, latent_dim]
        leakiness = 0.1 if channels else 0.01
        colours = n_colours(image_shape)
        self.down = contracting(members, colours, channels, biased=True, leakiness=leakiness)
        self.encoder = stacked_mlp(members, widths)
        self.decoder = stacked_mlp(members, widths[::-1])
        self.up = expanding(members, colours, channels, biased=True, leakiness=leakiness)

    def encode(self, x: Tensor) -> Tensor:
        """Return codes of shape (S, n, latent_dim) for rows of shape (S, n, height * width)."""
        maps = self.down(padded(x, self.image_shape, self.channels))
        return cast(Tensor, self.encoder(maps.flatten(2)))

    def decode(self, z: Tensor) -> Tensor:
        """Return rows of shape (S, n, height * width) for codes of shape (S, n, latent_dim)."""
        maps = self.decoder(z).reshape(*z.shape[:2], *self.small)
        height, width = self.image_shape[:2]
        return as_images(self.up(maps)[..., :height, :width])

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of `x`, of its shape."""
        return self.decode(self.encode(x))
