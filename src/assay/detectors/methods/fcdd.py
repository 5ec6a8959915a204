"""FCDD: a fully convolutional one-class classifier of images, whose output is a heat map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from assay.arrays import Singles
from assay.detectors.base import require_fitted
from assay.detectors.methods.hypersphere import anomaly_loss, pseudo_huber
from assay.detectors.training.confetti import DRAWS, confetti
from assay.detectors.training.neural import Fitting, NeuralDetector
from assay.errors import ConfigError, TrainingError
from assay.networks.fcn import FullyConvolutional, upsampled
from assay.parameters import Count, ImageShape, Members, Positive, PositiveRates, Widths

_VALUES_AT_ONCE = 2**23
NO_ANOMALIES = (
    "neither labelled anomalies nor confetti: nothing keeps the network from mapping all images to the same, and heat "
    "maps can be wrong; give labelled anomalies, or confetti > 0"
)


@dataclass(kw_only=True, eq=False, repr=False)
class FCDD(NeuralDetector):
    """Fully convolutional data description of grey images (Ruff 2021, section 3.1, eq 3.1).

    The network maps an image to a smaller map phi, each pixel of which sees a part of the image (its receptive field).
    With A = sqrt(phi^2 + 1) - 1 for each pixel and a = mean(A), the loss is a for normal images and -log(1 - exp(-a))
    for anomalies; the score is a, averaged over the members. `heat_maps` upsamples A to the size of the image.

    Half of each batch are anomalies: confetti (`assay.detectors.training.confetti`), made of the training rows, and
    rows with label 1, which may be auxiliary ones from another dataset (outlier exposure), in shares that `confetti`
    sets.

    Differs from the thesis:

    - Half of each batch are made anomalies, and not each row with probability 1/2: so that this half is the same
      number in every batch.
    - Adam with a rate that falls along half a cosine, in place of SGD with Nesterov momentum and 400 epochs (the
      training loop has one optimiser and one schedule for all detectors); no crops and no flips.
    - Two blocks of 8 and 16 channels by default, in place of 128, for a CPU; `assay.networks.fcn` says how larger
      images are treated. `channels: [128, 128]` gives the network of appendix B.2.
    - a is clamped to at least 1e-6 in the anomalies' loss, in place of 1e-31 added inside the logarithm.
    - No contrast normalisation of each image: it hides anomalies that are darker or brighter as a whole. The scaler's
      range, of all training images, is all there is.

    Parameters
    ----------
    channels : sequence of int
        Channels of the blocks, the first ones first; the last number is for all further blocks of larger images.
    confetti : float or "auto"
        Share of confetti among the anomalies of a batch, if there are labelled anomalies too; without these all are
        confetti, unless it is 0. "auto": none where there are labelled anomalies, as in the thesis; measured, half of
        them confetti cost 6 points on Fashion-MNIST with exposure (docs/benchmarks/fcdd.md).
    std : float, optional
        Standard deviation of the Gaussians of heat maps, in pixels; by default half of the distance of two outputs
        (2 at 28 x 28, 8 at 224 x 224). The thesis has 1.2 at 28, which leaves dark gaps between the outputs.
    image_shape : (int, int), optional
        Height and width of the flattened images; None: every row is an image one pixel high.
    batch_size : int
        Rows per step and member, anomalies included; at least 2.
    epochs, learning_rate, weight_decay, members, device, mixed_precision, compiled, seed
        See `assay.detectors.training.neural.NeuralDetector`; there is no early stopping.
    """

    kind: ClassVar[str] = "fcdd"
    uses_labels: ClassVar[bool] = True

    channels: Widths = (8, 16)
    confetti: Literal["auto"] | Annotated[float, Ge(0), Le(1)] = "auto"
    std: Positive | None = None
    image_shape: ImageShape | None = None
    epochs: Count = 200
    batch_size: Annotated[int, Ge(2)] = 128
    learning_rate: PositiveRates = 3e-3
    members: Members = 3

    def heat_maps(self, X: Singles) -> Singles:
        """Return heat maps of images (n, h * w): the mean over the members of A at the size of the image, (n, h, w).

        Higher = more anomalous. They are of the scale of A, and near the border, where fewer Gaussians overlap, lower.
        """
        require_fitted(self, "network_")
        network = self.network_
        height, width = network.image_shape
        std = self.std or network.field.jump / 2

        def mapped(x: Tensor) -> Tensor:
            mean = pseudo_huber(network(x).square()).mean(dim=0)
            return upsampled(mean, network.field, (height, width), std)[None]

        return np.ascontiguousarray(self._mapped(mapped, X)[0])

    def _build(self, n_features: int) -> FullyConvolutional:
        height, width = self.image_shape or (1, n_features)
        if not self.channels:
            raise ConfigError(f"detector {self.kind!r}: channels is empty; give one number at least, such as [8, 16]")
        if height * width != n_features:
            raise ConfigError(
                f"detector {self.kind!r}: image_shape is {height} x {width}, but rows have {n_features} columns; give "
                "the height and width of the flattened images"
            )
        return FullyConvolutional(self.members, (int(height), int(width)), self.channels)

    def _schedule(self, **changes: Any) -> Any:
        """Return a schedule of fixed length: the synthetic anomalies of held-out rows are not those that matter."""
        return super()._schedule(patience=None, **changes)

    def _train(self, fitting: Fitting) -> None:
        network = cast(FullyConvolutional, fitting.network)
        marked = fitting.labels == 1
        ordinary = fitting.rows[~marked]
        if len(ordinary) < 2:
            raise TrainingError(
                f"{len(ordinary)} training rows that are not labelled anomalies; at least 2 are needed: give more rows"
            )
        half = self.batch_size // 2
        share_made = float(not marked.any()) if self.confetti == "auto" else self.confetti
        synthetic = share_made if marked.any() else float(share_made > 0)
        labelled = round((1 - synthetic) * half) if marked.any() else 0
        if not labelled and not synthetic:
            fitting.notes.append(NO_ANOMALIES)
        share = (half - labelled) / (self.batch_size - labelled) if synthetic else 0.0
        low, high = float(ordinary.min()), float(ordinary.max())
        shape = network.image_shape

        def loss(batch: Tensor, labels: Tensor, draws: Tensor) -> Tensor:
            n_made = round(share * (batch.shape[1] - labelled))
            with torch.no_grad():
                images = batch[:, :n_made].reshape(len(batch), n_made, *shape)
                made = confetti(images, draws[:, :n_made], images.new_tensor(low), images.new_tensor(high))
            maps = network(torch.cat([made.flatten(2), batch[:, n_made:]], dim=1))
            anomalous = (labels == 1) | (torch.arange(batch.shape[1], device=batch.device) < n_made)
            return map_loss(maps, anomalous)

        companions = (marked, labelled) if labelled else None
        rows, labels = (fitting.rows, fitting.labels) if labelled else (ordinary, fitting.labels[~marked])
        schedule = self._schedule(batch_size=self.batch_size - labelled)
        fitting.run(loss, [rows, labels], schedule, noise=DRAWS, companions=companions)

    def _member_scores(self, x: Tensor) -> Tensor:
        return _mean_of(self.network_(x))

    @property
    def _chunk(self) -> int:
        values = self.members * self.channels[0] * self.n_features_in_
        return max(1, min(super()._chunk, _VALUES_AT_ONCE // values))


def map_loss(maps: Tensor, anomalous: Tensor) -> Tensor:
    """Return the losses (S, n) of maps phi (S, n, u, v): a for normal images, -log(1 - exp(-a)) for anomalous ones."""
    a = _mean_of(maps)
    return torch.where(anomalous, anomaly_loss(a), a)


def _mean_of(maps: Tensor) -> Tensor:
    """Return a = mean(A), with A = sqrt(phi^2 + 1) - 1, of shape (S, n)."""
    return pseudo_huber(maps.square()).mean(dim=(2, 3))
