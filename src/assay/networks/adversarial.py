"""Discriminators and the autoencoder trained against them, several members at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.networks.build import Coder
from assay.networks.lenet import contracted, contracting, n_colours, padded
from assay.networks.mlp import StackedLinear, stacked_mlp

HIDDEN = (64, 32)
_LEAKINESS = 0.2
FLATTEST = 0.01


def _leaky() -> nn.Module:
    return nn.LeakyReLU(_LEAKINESS)


def dense_critic(members: int, width: int) -> nn.Module:
    """Return S discriminators of rows with `width` columns: (S, n, width) -> logits of "real", (S, n, 1)."""
    return stacked_mlp(members, [width, *HIDDEN, 1], _leaky)


class ImageCritic(nn.Module):
    """S discriminators of flattened images: (S, n, d) -> logits of "real", (S, n, 1)."""

    def __init__(self, members: int, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.down = contracting(members, n_colours(image_shape), (), biased=True, leakiness=_LEAKINESS)
        self.verdict = StackedLinear(members, prod(contracted(image_shape, ())), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return cast(Tensor, self.verdict(self.down(padded(x, self.image_shape, ())).flatten(2)))


class CalibrationGame(nn.Module):
    """An autoencoder, the discriminators of its codes and samples, and running statistics of its codes.

    Parameters
    ----------
    coder : MLPAutoencoder or LeNetAutoencoder
    members, n_features, latent_dim : int
    image_shape : tuple of int, or None
    n_rows : int
        Number of training rows.
    sigma : float
        Variance of the codes around their mean that normal samples are made from.

    Attributes
    ----------
    mean : Tensor of shape (S, 1, latent_dim)
        Running mean of the codes (Yu et al. 2023, eq 5).
    tau : Tensor of float64, shape (S,)
        Share of a batch that is treated as contaminated.
    total : Tensor of shape (S, n_rows)
        Sum over the epochs of each training row's contamination score.
    """

    mean: Tensor
    tau: Tensor
    total: Tensor

    def __init__(
        self,
        coder: Coder,
        members: int,
        n_features: int,
        latent_dim: int,
        image_shape: Sequence[int] | None,
        n_rows: int,
        sigma: float,
    ) -> None:
        super().__init__()
        self.coder = coder
        self.latent_critic = dense_critic(members, latent_dim)
        self.sample_critic = (
            dense_critic(members, n_features) if image_shape is None else ImageCritic(members, image_shape)
        )
        self.register_buffer("mean", torch.zeros(members, 1, latent_dim))
        self.register_buffer("tau", torch.zeros(members, dtype=torch.float64))
        self.register_buffer("total", torch.zeros(members, n_rows))
        self.deviation = math.sqrt(sigma)

    def samples(self, noise: Tensor) -> Tensor:
        """Return samples g(w) for w ~ N(mean, sigma I), made of standard normals (S, m, latent_dim)."""
        return self.coder.decode(self.mean + self.deviation * noise)

    def similarity(self, codes: Tensor, samples: Tensor) -> Tensor:
        """Return the mean cosine of each code with the codes of the samples (eq 7), of shape (S, n).

        It is the contamination score, low where a row is unlike normal samples.
        """
        dictionary = functional.normalize(self.coder.encode(samples), dim=2).mean(dim=1, keepdim=True)
        return (functional.normalize(codes, dim=2) * dictionary).sum(dim=2)


@torch.no_grad()
def place_codes(coder: Coder, codes: Tensor, centre: float) -> None:
    """Move the codes of a trained autoencoder to mean (centre, ..., centre) and covariance I.

    The last layer of the encoder and the first one of the decoder take the linear map and its inverse, so that
    reconstructions do not change. Directions with less than 1 % of the largest variance are scaled as if
    they had 1 %.

    Parameters
    ----------
    coder : MLPAutoencoder or LeNetAutoencoder
    codes : Tensor of shape (S, n, latent_dim)
        Codes of the training rows.
    centre : float
    """
    last, first = cast(StackedLinear, coder.encoder[-1]), cast(StackedLinear, coder.decoder[0])
    # In float64: the map and its inverse must cancel in the float32 weights.
    mean = codes.double().mean(dim=1, keepdim=True)
    centred = codes.double() - mean
    variances, axes = torch.linalg.eigh(centred.mT @ centred / codes.shape[1])
    most = variances[:, -1:].clamp(min=torch.finfo(torch.float32).tiny)
    deviations = variances.clamp(min=0).maximum(FLATTEST * most).sqrt()
    whiten, colour = (axes @ torch.diag_embed(d) @ axes.mT for d in (1 / deviations, deviations))
    assert last.bias is not None
    assert first.bias is not None
    last.bias.copy_((last.bias - mean) @ whiten + centre)
    last.weight.copy_(last.weight.double() @ whiten)
    first.bias.add_((mean - torch.full_like(mean, centre) @ colour) @ first.weight.double())
    first.weight.copy_(colour @ first.weight.double())
