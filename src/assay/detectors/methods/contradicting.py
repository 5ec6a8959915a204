"""Contradicting training: learn the training rows, but unlearn the labelled anomalies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from assay.arrays import Singles
from assay.detectors.base import require_fitted
from assay.detectors.methods.lstm_predictor import predictor
from assay.detectors.training.loop import pinned_threads
from assay.detectors.training.neural import Fitting, NeuralDetector
from assay.errors import TrainingError
from assay.networks.build import Coder, autoencoder
from assay.networks.mlp import stacked_mlp
from assay.networks.recurrent import RecurrentPredictor
from assay.parameters import Count, ImageShape, Members, Positive, SeriesShape, Width, Widths

CEILING = 3.0  # of the clipped loss, in multiples of the untrained one
CENTRE_GAP = 0.1
COMPANIONS = 16
WATCHED = 512
RUINED = 10.0


class Reconstruction(nn.Module):
    """The loss of autoencoders: mean squared reconstruction error."""

    def __init__(self, coder: Coder) -> None:
        super().__init__()
        self.coder = coder

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes, of shape (S, n, latent_dim)."""
        return self.coder.encode(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return the losses, of shape (S, n), of rows (S, n, d)."""
        return cast(Tensor, (self.coder(x) - x).square().mean(dim=2))


class Prediction(nn.Module):
    """The loss of LSTM predictors: mean squared prediction error."""

    def __init__(self, recurrent: RecurrentPredictor) -> None:
        super().__init__()
        self.recurrent = recurrent

    def encode(self, x: Tensor) -> Tensor:
        """Return the rows themselves, as one member, of shape (1, n, d): there is no code of a whole window."""
        return x[:1]

    def forward(self, x: Tensor) -> Tensor:
        """Return the losses, of shape (S, n), of rows (S, n, d)."""
        return self.recurrent.errors(x)


class Distance(nn.Module):
    """The loss of Deep SVDD (Ruff 2021, eq 2.11): squared distance of the code to a fixed centre.

    No bias terms and no bounded activations, so that the network cannot map everything to the centre.
    """

    centre: Tensor

    def __init__(self, members: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.encoder = stacked_mlp(members, widths, nn.LeakyReLU, bias=False)
        self.register_buffer("centre", torch.zeros(members, 1, widths[-1]))

    @torch.no_grad()
    def settle(self, x: Tensor) -> None:
        """Fix the centre: the mean code of rows (S, n, d), its coordinates pushed away from zero."""
        mean = self.encode(x).mean(dim=1, keepdim=True)
        pushed = torch.where(mean < 0, -CENTRE_GAP, CENTRE_GAP)
        self.centre.copy_(torch.where(mean.abs() < CENTRE_GAP, pushed, mean))

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes, of shape (S, n, latent_dim)."""
        return cast(Tensor, self.encoder(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return the losses, of shape (S, n), of rows (S, n, d)."""
        return (self.encode(x) - self.centre).square().mean(dim=2)


@dataclass(frozen=True, slots=True)
class Contradiction:
    """The objective L_noisy - share * bounded(L_labelled), of means over the rows of each kind.

    Attributes
    ----------
    network : Module
        Returns losses of shape (S, n).
    bound : {"log", "clip", "none"}
    untrained : Tensor
        The mean loss before training, of shape (S, 1): the scale of the bounds.
    share : float
        weight * m / n, for m labelled anomalies and n other rows, because eq 5 has sums instead of means.
    n_companions : int
        Labelled anomalies in each batch.
    labelled : Tensor
        Labelled anomalies for the held-out criterion, of shape (S, m, d).
    """

    network: nn.Module
    bound: str
    untrained: Tensor
    share: float
    n_companions: int
    labelled: Tensor

    def loss(self, batch: Tensor, labels: Tensor) -> Tensor:
        """Return the contribution of each row of a batch to the objective, of shape (S, B)."""
        losses = self.network(batch)
        size, k = losses.shape[1], self.n_companions
        unlearning = self._bounded(losses) * (-self.share * size / k)
        return torch.where(labels == 1, unlearning, losses * (size / (size - k)))

    def held_out(self, batch: Tensor, labels: Tensor) -> Tensor:
        """Return the contribution of each held-out row to the criterion of early stopping, of shape (S, B).

        It is the objective with the noisy loss of held-out rows, all losses clipped at the untrained one.
        """
        unlearned = torch.minimum(self.network(self.labelled), self.untrained).mean(dim=1, keepdim=True)
        return torch.minimum(self.network(batch), self.untrained) - self.share * unlearned

    def _bounded(self, losses: Tensor) -> Tensor:
        if self.bound == "log":
            return self.untrained * torch.log1p(losses / self.untrained)
        return torch.minimum(losses, CEILING * self.untrained) if self.bound == "clip" else losses


@dataclass(kw_only=True, eq=False, repr=False)
class Contradicting(NeuralDetector):
    """Contradicting training: a base detector whose loss on labelled anomalies is maximised (IJCAI 2022, eq 5).

    The objective is L_noisy - weight * L_labelled: sums of the base's loss over the rows without label 1, which
    may hold unknown anomalies, and over those with label 1. So one labelled anomaly counts as much as `weight` hidden
    ones, and the hidden ones dominate if they are more than weight times the labelled ones. The score is the
    loss of the base, averaged over the members.

    Differs from the paper:

    - ``-weight * L_labelled`` has no lower bound: the loss on labelled rows could grow until normal rows are no
      longer learned. By default that term is
      ``-weight * s log(1 + L / s)``, s the mean loss of the untrained network: about as steep as the paper's while
      an anomaly is learned (L below s), and ever flatter beyond. "clip" stops at 3 s, which is bounded in the strict
      sense and finds fewer of the labelled kinds; "none" is eq 5.
    - Early stopping, which the paper does not have. The noisy loss of held-out rows alone is a bad guide: anomalies
      hidden among them raise it when the contradiction works, so that it is lowest after the first epochs. So the
      criterion is the objective with the noisy loss of held-out rows, every loss clipped at s: all rows that were
      not learned count the same.
    - A fixed number of labelled rows, at most 16, joins every batch, weighted to the expectation of algorithm 1.
    - Rows labelled normal count as unlabelled ones. Remark 1 of the paper allows a term for them, and says that it
      cannot raise the loss of anomalies.
    - The paper's ramp loss (weight 1) is ``weight=1, bound="none"``.

    With bound="none" it finds mostly anomalies of the labelled kinds: training ends after a few epochs, before the
    normal rows are learned, or continues and unlearns them.

    Parameters
    ----------
    base : {"autoencoder", "lstm_predictor", "deep_svdd"}
        The loss: mean squared reconstruction error, mean squared prediction error, or squared distance to
        a fixed centre by a network without biases (without the pre-training of `assay.detectors.methods.deep_svdd`).
    weight : float
        Lambda, how many unlabelled rows one labelled anomaly counts for. 20 in the paper.
    bound : {"log", "clip", "none"}
        How the loss of the labelled anomalies is bounded.
    hidden, latent_dim
        Of the encoders: see `assay.detectors.methods.autoencoder.Autoencoder`.
    units, context
        Of the LSTM: see `assay.detectors.methods.lstm_predictor.LSTMPredictor`.
    epochs, batch_size, learning_rate, weight_decay
        See `assay.detectors.training.loop.Schedule`.
    members : int
        S, the number of networks, which differ by their random streams.
    channels : sequence of int
        See `assay.detectors.methods.autoencoder.Autoencoder`.
    image_shape : (int, int), optional
        Height and width of flattened images; makes the outer layers of the autoencoder convolutional.
    series_shape : (int, int), optional
        Length and channels of flattened windows, for the LSTM.
    device, mixed_precision, compiled, seed
        See `assay.detectors.methods.autoencoder.Autoencoder`.
    """

    kind: ClassVar[str] = "contradicting"
    squared_score: ClassVar[bool] = True
    added: ClassVar[tuple[str, ...]] = ("channels",)
    uses_labels: ClassVar[bool] = True

    base: Literal["autoencoder", "lstm_predictor", "deep_svdd"] = "autoencoder"
    weight: Positive = 20.0
    bound: Literal["log", "clip", "none"] = "log"
    hidden: Widths = (64, 32)
    latent_dim: Width = 8
    units: Width = 32
    context: Count | None = None
    epochs: Count = 100
    members: Members = 3
    channels: Widths = ()
    image_shape: ImageShape | None = None
    series_shape: SeriesShape | None = None

    def embed(self, X: Singles) -> Singles:
        """Return every member's codes of rows (n, d), of shape (S, n, latent_dim).

        With base "lstm_predictor", which has no codes, they are the rows themselves, as one member.
        """
        require_fitted(self, "network_")
        return self._mapped(self.network_.encode, X)

    def _build(self, n_features: int) -> nn.Module:
        if self.base == "lstm_predictor":
            shape = self.series_shape
            return Prediction(predictor(self.kind, self.members, n_features, shape, self.context, self.units))
        if self.base == "deep_svdd":
            return Distance(self.members, [n_features, *self.hidden, self.latent_dim])
        return Reconstruction(
            autoencoder(self.members, n_features, self.hidden, self.latent_dim, self.image_shape, self.channels)
        )

    def _train(self, fitting: Fitting) -> None:
        anomalous = fitting.labels == 1
        if not anomalous.any():
            raise TrainingError(
                f"detector {self.kind!r} learns from labelled anomalies, and no row has label 1: "
                f"label some, or use the detector {self.base!r}, which needs none"
            )
        network = fitting.network.to(fitting.compute.device)
        ordinary, labelled = (
            self._watched(rows, fitting) for rows in (fitting.rows[~anomalous], fitting.rows[anomalous])
        )
        if isinstance(network, Distance):
            network.settle(ordinary)
        untrained = losses_of(network, ordinary)
        n_labelled = int(anomalous.sum())
        share = self.weight * n_labelled / (len(anomalous) - n_labelled)
        k = min(n_labelled, COMPANIONS)
        terms = Contradiction(network, self.bound, untrained.mean(dim=1, keepdim=True), share, k, labelled)
        data: list[NDArray[Any]] = [fitting.rows, fitting.labels]
        fitting.run(terms.loss, data, self._schedule(), companions=(anomalous, k), held_out_loss=terms.held_out)
        self._check(fitting, untrained.cpu(), losses_of(network, ordinary.cpu()), losses_of(network, labelled.cpu()))

    def _watched(self, rows: Singles, fitting: Fitting) -> Tensor:
        """Return the first rows for every member, on the device of the training."""
        return torch.tensor(rows[:WATCHED], device=fitting.compute.device).expand(self.members, -1, -1)

    def _check(self, fitting: Fitting, untrained: Tensor, noisy: Tensor, labelled: Tensor) -> None:
        """Raise if members have unlearned the ordinary rows; add a note if training had no effect on rows or anomalies.

        The untrained loss of Deep SVDD is not a reference: its scale is arbitrary.
        """
        medians = (losses.median(dim=1).values for losses in (untrained, noisy, labelled))
        untrained_loss, ordinary_loss, labelled_loss = medians
        growth = float((ordinary_loss / untrained_loss).max()) if self.base != "deep_svdd" else 0.0
        advice = f"lower weight ({self.weight:g}), bound the loss (bound is {self.bound!r}), or check the labels"
        if growth > RUINED:
            raise TrainingError(
                f"the median loss on rows without label 1 grew to {growth:.3g} times the untrained network's: "
                f"contradicting the labelled anomalies destroyed the rest; {advice}"
            )
        if growth >= 1:
            fitting.notes.append(f"rows without label 1 were not learned, only to tell labelled anomalies; {advice}")
        if bool((labelled_loss <= ordinary_loss).any()):
            fitting.notes.append(
                "labelled anomalies score no higher than half of the other rows: they are too alike, or too few for "
                f"the weight {self.weight:g}"
            )

    def _member_scores(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.network_(x))


@torch.no_grad()
def losses_of(network: nn.Module, x: Tensor) -> Tensor:
    """Return the losses of rows (S, n, d), of shape (S, n), by one thread."""
    with pinned_threads():
        return cast(Tensor, network(x))
