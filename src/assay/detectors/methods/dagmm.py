"""DAGMM: rows of low density under a mixture of Gaussians of code and reconstruction error are anomalous."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.detectors.methods.autoencoder import Autoencoder
from assay.detectors.training.batches import EVALUATION_ROWS
from assay.detectors.training.loop import pinned_threads
from assay.detectors.training.neural import Fitting
from assay.errors import TrainingError
from assay.networks.build import Coder, autoencoder
from assay.networks.mixture import COVARIANCE_RIDGE, TINY, Mixture, energy, moments
from assay.networks.mlp import stacked_mlp
from assay.parameters import NotNegative, Positive, Width

ESTIMATION_WIDTH = 10


class GaussianMixtureCoder(nn.Module):
    """Autoencoder (compression), estimation network and mixture of Zong et al. (2018), figure 2.

    Parameters
    ----------
    coder : MLPAutoencoder or LeNetAutoencoder
    members, latent_dim, n_components : int
    """

    floor: Tensor

    def __init__(self, coder: Coder, members: int, latent_dim: int, n_components: int) -> None:
        super().__init__()
        self.register_buffer("floor", torch.ones(members, 1, 1))
        self.coder = coder
        estimation = stacked_mlp(members, [latent_dim + 2, ESTIMATION_WIDTH, n_components])
        self.hidden, self.output = estimation[:2], estimation[2]
        self.mixture = Mixture(members, n_components, latent_dim + 2)

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes, of shape (S, n, latent_dim)."""
        return self.coder.encode(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of `x`, of its shape."""
        return cast(Tensor, self.coder(x))

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features for the mixture, of shape (S, n, latent_dim + 2), and the reconstructions.

        Features are the code, the relative Euclidean distance ``|x - x'| / |x|`` and the cosine similarity of row and
        reconstruction; norms in denominators are ``sqrt(|x|^2 + floor)``.
        """
        codes = self.encode(x)
        reconstruction = self.coder.decode(codes)
        error = _norm(x - reconstruction, TINY)
        row_norm, reconstruction_norm = _norm(x, self.floor), _norm(reconstruction, self.floor)
        cosine = (x * reconstruction).sum(dim=2, keepdim=True) / (row_norm * reconstruction_norm)
        return torch.cat([codes, error / row_norm, cosine], dim=2), reconstruction

    def shares(self, features: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return the estimated membership in the components, of shape (S, n, K); `keep` is the mask of dropout."""
        hidden = self.hidden(features)
        return functional.softmax(self.output(hidden if keep is None else hidden * keep), dim=2)


def _norm(x: Tensor, floor: Tensor | float) -> Tensor:
    return (x.square().sum(dim=2, keepdim=True) + floor).sqrt()


@dataclass(kw_only=True, eq=False, repr=False)
class DAGMM(Autoencoder):
    """Ensemble of deep autoencoding Gaussian mixture models (Zong et al. 2018).

    An autoencoder compresses a row to a code; an estimation network maps code, relative reconstruction error and
    cosine similarity (by a softmax) to the row's membership in each of K Gaussians. All are trained jointly on (eq 7)

    ``|x - x'|^2 + lambda_energy * E(z) + lambda_covariance * sum of the inverse variances of all components``,

    with the mixture's moments computed from each batch. After training the moments of all training rows are stored;
    the score is the energy E under those, so that a row's score depends only on that row.

    Differs from the paper: early stopping (on the loss of held-out rows under the moments of all training rows, taken
    after every epoch) and ridges on the covariances (see `assay.networks.mixture.moments`). The mean squared norm of
    the training rows is added under the root of the norms in the denominators of the two error features: on
    standardised rows the paper's ratios are largest and noisiest near the mean, for the most normal rows. The
    paper's penalty keeps variances away from 0, but not the determinant, which also falls as codes become collinear.

    Parameters
    ----------
    n_components : int
        K.
    lambda_energy, lambda_covariance : float
        Weights of the energy and of the penalty; the paper's values.
    hidden : sequence of int
        Widths of the encoder's dense hidden layers, outermost first; mirrored in the decoder.
    latent_dim : int
        Width of the code; small, as the mixture has ``K * (latent_dim + 2) ** 2`` covariances.
    epochs, batch_size, learning_rate, weight_decay, members, channels, image_shape, \
max_steps, device, mixed_precision, compiled, seed
        See `assay.detectors.methods.autoencoder.Autoencoder`.
    """

    kind: ClassVar[str] = "dagmm"

    n_components: Width = 4
    lambda_energy: Positive = 0.1
    lambda_covariance: NotNegative = 0.005
    latent_dim: Width = 2

    def _build(self, n_features: int) -> GaussianMixtureCoder:  # type: ignore[override]
        coder = autoencoder(self.members, n_features, self.hidden, self.latent_dim, self.image_shape, self.channels)
        return GaussianMixtureCoder(coder, self.members, self.latent_dim, self.n_components)

    def _train(self, fitting: Fitting) -> None:
        network = cast(GaussianMixtureCoder, fitting.network)
        rows = torch.tensor(fitting.rows)
        network.floor.fill_(float(rows.square().sum(dim=1).mean()))

        def loss(batch: Tensor, noise: Tensor) -> Tensor:
            features, reconstruction = network.features(batch)
            with torch.autocast(batch.device.type, enabled=False):
                shares = network.shares(features.float(), 2.0 * (noise > 0))
                return self._loss(batch, reconstruction, features.float(), moments(features.float(), shares))

        def held_out_loss(batch: Tensor, _: Tensor) -> Tensor:
            features, reconstruction = network.features(batch)
            mixture = network.mixture
            with torch.autocast(batch.device.type, enabled=False):
                stored = (mixture.weights, mixture.means, mixture.covariances)
                return self._loss(batch, reconstruction, features.float(), stored)

        def settle(_: int = 0) -> None:
            self._settle_mixture(network, rows)

        schedule = self._schedule()
        fitting.run(
            loss, [fitting.rows], schedule, noise=ESTIMATION_WIDTH, held_out_loss=held_out_loss, after_epoch=settle
        )
        with torch.no_grad(), pinned_threads():
            self._require_spread(self._settle_mixture(network, rows))

    def _loss(
        self, batch: Tensor, reconstruction: Tensor, features: Tensor, mixture: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """Return equation 7 of every row, of shape (S, n); the penalty is the same for all rows of a member."""
        error = (batch - reconstruction).square().sum(dim=2)
        penalty = (1.0 / mixture[2].diagonal(dim1=2, dim2=3)).sum(dim=(1, 2))
        penalties = self.lambda_energy * energy(features, *mixture) + self.lambda_covariance * penalty.unsqueeze(1)
        return error + penalties

    def _settle_mixture(self, network: GaussianMixtureCoder, rows: Tensor) -> Tensor:
        """Store the moments of all rows, without dropout; return the features of the rows."""
        device = network.mixture.means.device
        parts = rows.split(EVALUATION_ROWS)  # type: ignore[no-untyped-call]
        chunks = (part.to(device).expand(self.members, -1, -1) for part in parts)
        features = torch.cat([network.features(chunk)[0] for chunk in chunks], dim=1)
        network.mixture.settle(features, network.shares(features))
        return features

    def _require_spread(self, features: Tensor) -> None:
        """Raise `TrainingError` if all rows have the same code: then the energy fell only because the code shrank."""
        variances: Any = features[..., : self.latent_dim].var(dim=1).amax(dim=1)
        for member in range(self.members):
            if variances[member] < COVARIANCE_RIDGE:
                raise TrainingError(
                    f"the code of member {member} collapsed (largest variance {variances[member]:.2g}): all rows are "
                    f"at one point, of low energy; raise lambda_covariance (now {self.lambda_covariance:g}), lower "
                    f"lambda_energy (now {self.lambda_energy:g}), and check that the training rows differ"
                )

    def _member_scores(self, x: Tensor) -> Tensor:
        features, _ = self.network_.features(x)
        return cast(Tensor, self.network_.mixture(features))
