"""The autoencoder for the rows: dense for plain rows, convolutional for flattened images."""

from __future__ import annotations

from collections.abc import Sequence

from assay.errors import ConfigError
from assay.networks.lenet import LeNetAutoencoder
from assay.networks.mlp import MLPAutoencoder

Coder = MLPAutoencoder | LeNetAutoencoder


def autoencoder(
    members: int, n_features: int, hidden: Sequence[int], latent_dim: int, image_shape: tuple[int, int] | None
) -> Coder:
    """Return S autoencoders for rows of `n_features` columns: dense ones, or convolutional ones for images.

    Raises
    ------
    ConfigError
        The image shape does not fit the width.
    """
    if image_shape is None:
        return MLPAutoencoder(members, n_features, hidden, latent_dim)
    height, width = image_shape
    if height * width != n_features:
        raise ConfigError(
            f"image_shape is {height} x {width}, but rows have {n_features} columns; "
            "give the height and width of the flattened images, or none for plain rows"
        )
    return LeNetAutoencoder(members, (height, width), hidden, latent_dim)
