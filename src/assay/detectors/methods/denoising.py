"""The denoising autoencoder: trained to remove noise, so that it cannot just copy its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from assay.detectors.methods.autoencoder import Autoencoder
from assay.detectors.training.neural import Fitting
from assay.parameters import Positive


@dataclass(kw_only=True, eq=False, repr=False)
class DenoisingAutoencoder(Autoencoder):
    """Ensemble of autoencoders trained to reconstruct rows from noisy copies of them.

    In training the input is ``x + noise_scale * e``, e ~ N(0, I), drawn anew in every epoch, and the target is x
    (Vincent et al. 2010; Ruff 2021, section 4.2.3). The score is that of `Autoencoder`, on the row without noise:
    the mean squared reconstruction error over the columns, averaged over the members. The held-out rows of early
    stopping get noise too, the same in every epoch.

    Parameters
    ----------
    noise_scale : float
        Standard deviation of the noise, in units of the rows: of standardised columns, or of pixels.
    hidden, latent_dim, epochs, batch_size, learning_rate, weight_decay, members, channels, image_shape, \
max_steps, device, mixed_precision, compiled, seed
        See `assay.detectors.methods.autoencoder.Autoencoder`.
    """

    kind: ClassVar[str] = "denoising_autoencoder"

    noise_scale: Positive = 0.2

    def _train(self, fitting: Fitting) -> None:
        network: Any = fitting.network

        def loss(batch: Tensor, noise: Tensor) -> Tensor:
            errors: Tensor = (network(batch + self.noise_scale * noise) - batch).square()
            return errors.mean(dim=2)

        fitting.run(loss, [fitting.rows], self._schedule(), noise=fitting.rows.shape[1])
