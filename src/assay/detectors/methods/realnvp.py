"""RealNVP: rows of low density under a normalising flow are anomalous."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, cast

from annotated_types import Ge, Le
from torch import Tensor

from assay.arrays import Singles
from assay.detectors.base import require_fitted
from assay.detectors.training.neural import Fitting, NeuralDetector
from assay.errors import TrainingError
from assay.networks.coupling import CouplingFlow
from assay.parameters import NotNegative, Widths

MOST_HELD_OUT = 10.0


@dataclass(kw_only=True, eq=False, repr=False)
class RealNVP(NeuralDetector):
    """Ensemble of affine coupling flows trained by maximum likelihood.

    The score is the negative log-likelihood divided by the number of columns, in nats, averaged over the members
    (Dinh, Sohl-Dickstein and Bengio 2017, eq 2-8). Early stopping uses it on held-out rows, clipped at 10 nats per
    column: otherwise a few outliers would end training after a few epochs. The flow starts as the identity, and a
    log scale is a tanh times a learnt bound.

    Differs from the paper: no batch normalisation (it makes the rows of a batch depend on each other) and no
    multi-scale architecture: odd and even columns alternate, images are plain rows. Training rows get Gaussian
    noise: discrete or constant columns and duplicate rows have no density, and without noise their likelihood is
    unbounded. So the likelihood is that of rows with noise of `noise_scale`.

    Parameters
    ----------
    n_couplings : int
        Number of couplings in sequence; two change every column once.
    hidden : sequence of int
        Widths of the dense hidden layers inside each coupling.
    noise_scale : float
        Standard deviation of the noise on training rows (in training only), in units of standardised columns.
    epochs, batch_size, learning_rate, weight_decay, members, device, mixed_precision, compiled, seed
        See `assay.detectors.training.neural.NeuralDetector`.
    """

    kind: ClassVar[str] = "realnvp"

    n_couplings: Annotated[int, Ge(2), Le(100)] = 6
    hidden: Widths = (64,)
    noise_scale: NotNegative = 0.05

    def embed(self, X: Singles) -> Singles:
        """Return every member's latent rows z of rows (n, d), of shape (S, n, d)."""
        require_fitted(self, "network_")
        return self._mapped(lambda x: self.network_(x)[0], X)

    def _build(self, n_features: int) -> CouplingFlow:
        if n_features < 2:
            raise TrainingError(
                "detector 'realnvp' computes one half of the columns from the other, but the rows have 1 column; "
                "give at least 2, or use kde"
            )
        return CouplingFlow(self.members, n_features, self.n_couplings, tuple(self.hidden))

    def _train(self, fitting: Fitting) -> None:
        network = cast(CouplingFlow, fitting.network)
        network.to_identity()
        width = fitting.rows.shape[1]

        def loss(batch: Tensor, noise: Tensor) -> Tensor:
            losses: Tensor = network.negative_log_likelihood(batch + self.noise_scale * noise) / width
            return losses

        def held_out_loss(batch: Tensor, noise: Tensor) -> Tensor:
            return loss(batch, noise).clamp_max(MOST_HELD_OUT)

        fitting.run(loss, [fitting.rows], self._schedule(), noise=width, held_out_loss=held_out_loss)

    def _member_scores(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network_.negative_log_likelihood(x) / x.shape[2]
        return scores
