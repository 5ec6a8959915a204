"""The base of the hypersphere detectors: they map normal rows close to a fixed centre, anomalies far from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from assay.arrays import Singles
from assay.detectors.base import require_fitted
from assay.detectors.training.loop import pinned_threads
from assay.detectors.training.neural import Fitting, NeuralDetector
from assay.detectors.training.updates import Schedule
from assay.errors import TrainingError
from assay.networks.encoders import decoder, encoder
from assay.networks.mlp import initialise
from assay.parameters import Count, ImageShape, PositiveRates, Whole, Width, Widths

_LEAST_CENTER = 0.1
_LEAST_SPREAD = 1e-8
_SMALLEST_HUBER = 1e-6
_PASS_ROWS = 4096


class Hypersphere(nn.Module):
    """S encoders with a fixed centre each: rows (S, n, d) -> squared distances (S, n).

    Attributes
    ----------
    center : Tensor, shape (S, 1, latent_dim)
    radius : Tensor, shape (S, 1)
        R^2; 0 unless the objective has a radius.
    """

    center: Tensor
    radius: Tensor

    def __init__(self, encode: nn.Module, members: int, latent_dim: int) -> None:
        super().__init__()
        self.encode = encode
        self.register_buffer("center", torch.zeros(members, 1, latent_dim))
        self.register_buffer("radius", torch.zeros(members, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the squared distances of the codes to the centre."""
        distances: Tensor = (self.encode(x) - self.center).square().sum(dim=2)
        return distances


class _Pair(nn.Module):
    """The autoencoder that pre-trains the encoder."""

    def __init__(self, encode: nn.Module, decode: nn.Module) -> None:
        super().__init__()
        self.encode, self.decode = encode, decode

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, (self.decode(self.encode(x)) - x).square().mean(dim=2))


@dataclass(kw_only=True, eq=False, repr=False)
class HypersphereDetector(NeuralDetector):
    """Base of the detectors that map normal rows close to a centre; their score is the squared distance to it.

    The encoder has no bias terms and no bounded activations (Ruff 2021, propositions 2 and 3). It is pre-trained
    in an autoencoder for `pretrain_epochs`. Then the centre is fixed at the mean code of the rows that are not
    labelled anomalies, with components below .1 set to +-.1 (proposition 1), and a subclass trains the encoder in
    `_concentrate`. A collapsed hypersphere raises `TrainingError`.

    Differs from the thesis: Adam's rate falls along half a cosine in every phase, in place of one step from 1e-4
    to 1e-5 (the training loop has one schedule for all detectors).

    Parameters
    ----------
    hidden : sequence of int
        Widths of the encoder's dense hidden layers, outermost first.
    latent_dim : int
        Width of the code.
    pretrain_epochs : int
        Epochs of pre-training of the encoder in an autoencoder, on all rows; 0 = none.
    channels : sequence of int
        Of images: channels of 5x5 convolutions, each with a 2x2 maximum behind it, as in the LeNet-type networks
        of Ruff (2021), appendix B.1: [8, 4] for MNIST, [16, 32] for Fashion-MNIST. Empty: two smaller ones with
        strides (see `assay.networks.lenet.contracting`).
    image_shape : (int, int), optional
        Height and width of flattened images; makes the outer layers convolutional.
    epochs, batch_size, learning_rate, weight_decay, members, device, mixed_precision, compiled, seed
        See `assay.detectors.training.neural.NeuralDetector`.
    """

    added: ClassVar[tuple[str, ...]] = ("channels",)

    hidden: Widths = (32, 16)
    latent_dim: Width = 8
    pretrain_epochs: Whole = 50
    channels: Widths = ()
    image_shape: ImageShape | None = None
    epochs: Count = 50
    learning_rate: PositiveRates = 1e-3

    def embed(self, X: Singles) -> Singles:
        """Return every member's codes of rows (n, d), of shape (S, n, latent_dim)."""
        require_fitted(self, "network_")
        return self._mapped(self.network_.encode, X)

    def _build(self, n_features: int) -> Hypersphere:
        encode = encoder(self.members, n_features, self.hidden, self.latent_dim, self.image_shape, self.channels)
        return Hypersphere(encode, self.members, self.latent_dim)

    def _total_epochs(self) -> int:
        return self.pretrain_epochs + self.epochs

    def _schedule(self, **changes: object) -> Schedule:
        """Return a schedule of fixed length: as the hypersphere shrinks, any held-out loss falls."""
        return super()._schedule(patience=None, **changes)

    def _train(self, fitting: Fitting) -> None:
        network = cast(Hypersphere, fitting.network)
        ordinary = fitting.rows[fitting.labels != 1]
        if len(ordinary) < 2:
            raise TrainingError(
                f"{len(ordinary)} training rows that are not labelled anomalies; at least 2 are needed: give more rows"
            )
        self._pretrain(fitting)
        initial_spread = self._place_center(network, ordinary)
        self._concentrate(fitting)
        require_spread(self.kind, initial_spread, spread(_codes(network.eval(), ordinary)))

    def _concentrate(self, fitting: Fitting) -> None:
        """Train the encoder around the centre."""
        raise NotImplementedError

    def _pretrain(self, fitting: Fitting) -> None:
        """Pre-train the encoder in an autoencoder, on all rows; the decoder is discarded."""
        if not self.pretrain_epochs:
            return
        n_features = fitting.rows.shape[1]
        decode = decoder(self.members, n_features, self.hidden, self.latent_dim, self.image_shape, self.channels)
        initialise(decode, fitting.streams)
        pair = _Pair(cast(Hypersphere, fitting.network).encode, decode)
        fitting.run(pair.forward, [fitting.rows], self._schedule(epochs=self.pretrain_epochs), network=pair)

    def _place_center(self, network: Hypersphere, rows: Singles) -> Tensor:
        """Set the centre to the mean code of a first forward pass; return the spread of the codes."""
        codes = _codes(network.train(), rows)
        center = codes.mean(dim=1, keepdim=True)
        pushed = torch.where(center < 0, -_LEAST_CENTER, _LEAST_CENTER)
        network.center.copy_(torch.where(center.abs() < _LEAST_CENTER, pushed, center))
        return spread(codes)

    def _member_scores(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.network_(x))


def passes(rows: Singles, members: int) -> Iterator[Tensor]:
    """Yield rows (n, d) in float32 for every member, in about equal chunks of shape (S, some, d)."""
    chunks = -(-len(rows) // _PASS_ROWS)
    for chunk in np.array_split(rows, chunks):
        yield torch.tensor(chunk).expand(members, -1, -1)


def _codes(network: Hypersphere, rows: Singles) -> Tensor:
    with torch.no_grad(), pinned_threads():
        parts = [network.encode(x) for x in passes(rows, len(network.center))]
        return torch.cat(parts, dim=1)


def spread(codes: Tensor) -> Tensor:
    """Return the variance of codes (S, n, k), summed over their dimensions, of shape (S,)."""
    return codes.double().var(dim=1, correction=0).sum(dim=1)


def require_spread(kind: str, initial: Tensor, final: Tensor) -> None:
    """Reject a collapsed hypersphere: a member that maps all training rows to (nearly) one point.

    Well-trained members also lose most of their initial spread (1e-2 to 1e-4 remains), so that only a complete
    collapse is detected.

    Raises
    ------
    TrainingError
        The spread of a member's codes is 0 at the start, or 1e-8 of that or less in the end.
    """
    constant = torch.nonzero(initial <= 0)
    if len(constant):
        raise TrainingError(
            f"detector {kind!r}: member {int(constant[0])} maps all training rows to one point before training; "
            "check that the training rows are not all alike"
        )
    collapsed = torch.nonzero(~(final > _LEAST_SPREAD * initial))
    if len(collapsed):
        member = int(collapsed[0])
        raise TrainingError(
            f"detector {kind!r}: the hypersphere of member {member} has collapsed: the variance of its codes fell "
            f"from {float(initial[member]):.3g} to {float(final[member]):.3g}, so that all rows look alike; "
            "train for fewer epochs, lower learning_rate, or pre-train the encoder (pretrain_epochs)"
        )


def pseudo_huber(squared: Tensor) -> Tensor:
    """Return h(z) = sqrt(|z|^2 + 1) - 1 for squared norms, exact near 0 (Ruff 2021, section 2.3.5)."""
    return squared / ((squared + 1).sqrt() + 1)


def anomaly_loss(h: Tensor) -> Tensor:
    """Return -log(1 - exp(-h)) for h >= 0, finite with finite gradients; h is clamped to at least 1e-6."""
    h = h.clamp(min=_SMALLEST_HUBER)
    # Each form is exact where the other one cancels; they meet at log 2 (Maechler 2012, log1mexp).
    near, far = torch.log(-torch.expm1(-h)), torch.log1p(-torch.exp(-h))
    return -torch.where(h < 0.693, near, far)
