"""The autoencoder for the rows: dense for plain rows, convolutional for flattened images."""

from __future__ import annotations

from collections.abc import Sequence

from assay.networks.lenet import LeNetAutoencoder, check_channels, check_image_shape
from assay.networks.mlp import MLPAutoencoder

Coder = MLPAutoencoder | LeNetAutoencoder


def autoencoder(
    members: int,
    n_features: int,
    hidden: Sequence[int],
    latent_dim: int,
    image_shape: Sequence[int] | None,
    channels: Sequence[int] = (),
) -> Coder:
    """Return S autoencoders for rows of `n_features` columns: dense ones, or convolutional ones for images.

    Raises
    ------
    ConfigError
        The image shape does not fit the width, or the channels do not fit the images.
    """
    check_channels(channels, image_shape)
    if image_shape is None:
        return MLPAutoencoder(members, n_features, hidden, latent_dim)
    check_image_shape(image_shape, n_features)
    return LeNetAutoencoder(members, image_shape, hidden, latent_dim, channels)
