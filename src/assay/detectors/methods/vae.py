"""The variational autoencoder: rows that its decoder reconstructs badly from their mean code are anomalous."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from assay.detectors.methods.autoencoder import Autoencoder
from assay.detectors.training.neural import NETWORK_ROWS, Fitting
from assay.networks.build import Coder, autoencoder
from assay.networks.mlp import StackedLinear
from assay.parameters import NotNegative

IN_USE = 0.01


class VariationalCoder(nn.Module):
    """Encoder of a row to a Gaussian over codes, and the decoder of a code.

    Parameters
    ----------
    coder : MLPAutoencoder or LeNetAutoencoder
        Its codes have twice the width `latent_dim`: means, then log variances. Its decoder's first layer is
        replaced by one for codes of width `latent_dim`.
    members, latent_dim : int
    """

    def __init__(self, coder: Coder, members: int, latent_dim: int) -> None:
        super().__init__()
        wide = cast(StackedLinear, coder.decoder[0])
        coder.decoder[0] = StackedLinear(members, latent_dim, wide.weight.shape[2])
        self.coder = coder

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the codes of rows (S, n, d), each of shape (S, n, latent_dim)."""
        mean, log_variance = self.coder.encode(x).chunk(2, dim=2)
        return mean, log_variance

    def encode(self, x: Tensor) -> Tensor:
        """Return the mean codes, of shape (S, n, latent_dim)."""
        return self.posterior(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Return rows of shape (S, n, d) for codes of shape (S, n, latent_dim)."""
        return self.coder.decode(z)

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of rows from their mean codes."""
        return self.decode(self.encode(x))


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_variance)) || N(0, 1)) of every latent dimension, in nats, of the inputs' shape."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)


def negative_elbo(network: VariationalCoder, x: Tensor, noise: Tensor, beta: float) -> Tensor:
    """Return ``|x - decode(z)|^2 / 2 + beta * KL`` of rows, z drawn by the noise; sums over columns and codes.

    It is the negative evidence lower bound of a decoder N(decode(z), I) without the constant
    ``d / 2 * log(2 pi)`` (Ruff 2021, eq 4.12, with one draw for each row and epoch). Shapes: x (S, n, d), noise
    (S, n, latent_dim), result (S, n).
    """
    mean, log_variance = network.posterior(x)
    z = mean + (0.5 * log_variance).exp() * noise
    distortion = 0.5 * (network.decode(z) - x).square().sum(dim=2)
    return distortion + beta * divergence(mean, log_variance).sum(dim=2)


@dataclass(kw_only=True, eq=False, repr=False)
class VariationalAutoencoder(Autoencoder):
    """Ensemble of variational autoencoders with Gaussian encoder, Gaussian decoder and standard normal prior.

    Trained on the negative ELBO (`negative_elbo`). The score is only the reconstruction term, as in Ruff (2021)
    and CADET, from the mean code instead of a draw, so that it is deterministic: the mean squared error of
    ``decode(mean)`` over the columns, averaged over the members.

    The variance of the decoder is that of a column: 1 for standardised columns, and for images, whose pixels lie
    between 0 and 1, the mean variance of the pixels of the training rows. Codes encode only directions of correlated
    columns with at least `beta` times that variance. Without such a direction (independent columns) the best ELBO
    has codes that do not depend on the row (posterior collapse), and the score is the squared distance from the mean
    of the training rows. That is the optimum and a usable score, so that it is not an error, but a note reports it.
    A smaller `beta` is equivalent to a decoder of proportionally smaller variance.

    Differs from the thesis: for images the decoder's variance is that of the pixels instead of 1, which would make
    all posteriors collapse for small images.

    Codes (`embed`) are the means; with a collapsed posterior they are the same for all rows.

    Parameters
    ----------
    beta : float
        Weight of the divergence from the prior; 1 is the ELBO.
    hidden, latent_dim, epochs, batch_size, learning_rate, weight_decay, members, channels, image_shape, \
max_steps, device, mixed_precision, compiled, seed
        See `assay.detectors.methods.autoencoder.Autoencoder`.
    """

    kind: ClassVar[str] = "vae"

    beta: NotNegative = 1.0

    def _build(self, n_features: int) -> VariationalCoder:  # type: ignore[override]
        coder = autoencoder(self.members, n_features, self.hidden, 2 * self.latent_dim, self.image_shape, self.channels)
        return VariationalCoder(coder, self.members, self.latent_dim)

    def _train(self, fitting: Fitting) -> None:
        network = cast(VariationalCoder, fitting.network)

        beta = self.beta * (1.0 if self.image_shape is None else float(fitting.rows.var(axis=0).mean()))

        def loss(batch: Tensor, noise: Tensor) -> Tensor:
            return negative_elbo(network, batch, noise, beta)

        fitting.run(loss, [fitting.rows], self._schedule(), noise=self.latent_dim)
        idle = self._idle(fitting, network)
        if idle:
            fitting.notes.append(
                f"posterior collapse in members {idle} of {self.members}: their codes do not depend on the row, and "
                f"their score is the squared distance from the mean of the training rows; "
                f"lower beta (now {self.beta:g})"
            )

    @torch.no_grad()
    def _idle(self, fitting: Fitting, network: VariationalCoder) -> list[int]:
        """Return the members none of whose latent dimensions carries `IN_USE` nats on average."""
        total: Any = 0.0
        for chunk in torch.tensor(fitting.rows).split(NETWORK_ROWS):  # type: ignore[no-untyped-call]
            total = total + divergence(*network.posterior(chunk.expand(self.members, -1, -1))).sum(dim=1)
        unused = (total / len(fitting.rows) < IN_USE).all(dim=1)
        return [member for member in range(self.members) if unused[member]]
