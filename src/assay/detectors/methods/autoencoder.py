"""The autoencoder: rows that it reconstructs badly are anomalous."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from assay.arrays import Singles
from assay.detectors.base import require_fitted
from assay.detectors.training.neural import Fitting, NeuralDetector
from assay.detectors.training.updates import Schedule
from assay.networks.build import Coder, autoencoder
from assay.parameters import Count, ImageShape, Width, Widths


@dataclass(kw_only=True, eq=False, repr=False)
class Autoencoder(NeuralDetector):
    """Ensemble of autoencoders trained to reconstruct the training rows.

    The score is the mean squared reconstruction error over the columns (Ruff 2021, eq 4.11, divided by the
    number of columns), averaged over the members.

    Parameters
    ----------
    hidden : sequence of int
        Widths of the encoder's dense hidden layers, outermost first; mirrored in the decoder.
    latent_dim : int
        Width of the code. With at most that many columns the code is not a bottleneck; then the bounded hidden
        layers limit the network: they cannot reconstruct rows far outside the training rows.
    channels : sequence of int
        Of images: channels of 5x5 convolutions, each with a 2x2 maximum behind it, as in the LeNet-type networks
        of Ruff (2021), appendix B.1: [8, 4] for MNIST, [16, 32] for Fashion-MNIST. Empty: two smaller ones with
        strides (see `assay.networks.lenet.contracting`).
    image_shape : (int, int), optional
        Height and width of flattened images; makes the outer layers convolutional.
    max_steps : int, optional
        So many steps are the most, whatever `epochs` says: passes over many rows are long, and training needs fewer of
        them. None: 6,000, and 3,000 for images, whose steps take a CPU ten times as long.
    epochs, batch_size, learning_rate, weight_decay, members, device, mixed_precision, compiled, seed
        See `assay.detectors.training.neural.NeuralDetector`.
    """

    kind: ClassVar[str] = "autoencoder"
    squared_score: ClassVar[bool] = True
    added: ClassVar[tuple[str, ...]] = ("channels", "max_steps")

    usual_steps: ClassVar[tuple[int | None, int | None]] = (6_000, 3_000)  # at most, by default: of rows, of images

    hidden: Widths = (64, 32)
    latent_dim: Width = 8
    channels: Widths = ()
    image_shape: ImageShape | None = None
    max_steps: Count | None = None

    def reconstruct(self, X: Singles) -> Singles:
        """Return every member's reconstruction of rows (n, d), of shape (S, n, d)."""
        require_fitted(self, "network_")
        return self._mapped(self.network_.forward, X)

    def embed(self, X: Singles) -> Singles:
        """Return every member's codes of rows (n, d), of shape (S, n, latent_dim)."""
        require_fitted(self, "network_")
        return self._mapped(self.network_.encode, X)

    def _build(self, n_features: int) -> Coder:
        return autoencoder(self.members, n_features, self.hidden, self.latent_dim, self.image_shape, self.channels)

    def _schedule(self, **changes: Any) -> Schedule:
        most = self.max_steps or self.usual_steps[self.image_shape is not None]
        return super()._schedule(**{"max_steps": most, **changes})

    def _train(self, fitting: Fitting) -> None:
        network: Any = fitting.network

        def loss(batch: Tensor) -> Tensor:
            errors: Tensor = (network(batch) - batch).square()
            return errors.mean(dim=2)

        fitting.run(loss, [fitting.rows], self._schedule())

    def _member_scores(self, x: Tensor) -> Tensor:
        errors: Tensor = (self.network_(x) - x).square()
        return errors.mean(dim=2)
