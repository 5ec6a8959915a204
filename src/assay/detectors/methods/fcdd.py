"""FCDD: a fully convolutional one-class classifier of images, whose output is a heat map."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from annotated_types import Ge, Le
from numpy.typing import NDArray
from torch import Tensor

from assay.arrays import Flags, Integers, Singles
from assay.detectors.base import EpochProgress, require_fitted
from assay.detectors.methods.hypersphere import anomaly_loss, pseudo_huber
from assay.detectors.training.confetti import COLOUR_DRAWS, DRAWS, confetti
from assay.detectors.training.neural import Fitting, NeuralDetector
from assay.detectors.training.updates import Loss
from assay.errors import ConfigError, InputError, TrainingError
from assay.networks.fcn import Field, FullyConvolutional, upsampled
from assay.networks.lenet import as_images, as_maps, check_image_shape, n_colours
from assay.parameters import Count, ImageShape, Members, Positive, PositiveRates, Widths

_VALUES_AT_ONCE = 2**20  # 8 MiB of the first maps, which stay in the cache: twice as fast as eight times as many
_CHANGED = 0.05  # of the range of pixels, by which a pixel of confetti differs from the image
NO_ANOMALIES = (
    "neither labelled anomalies nor confetti: nothing keeps the network from mapping all images to the same, and heat "
    "maps can be wrong; give labelled anomalies, or confetti > 0"
)


@dataclass(kw_only=True, eq=False, repr=False)
class FCDD(NeuralDetector):
    """Fully convolutional data description of images (Ruff 2021, section 3.1, eq 3.1).

    The network maps an image to a smaller map phi, each pixel of which sees a part of the image (its receptive field).
    With A = sqrt(phi^2 + 1) - 1 for each pixel and a = mean(A), the loss is a for normal images and -log(1 - exp(-a))
    for anomalies; the score is a, averaged over the members. `heat_maps` upsamples A to the size of the image.

    Half of each batch are anomalies: confetti (`assay.detectors.training.confetti`), made of the training rows, and
    rows with label 1, which may be auxiliary ones from another dataset (outlier exposure), in shares that `confetti`
    sets. Where some of these come with masks of their defects, maps are trained pixel by pixel (`masked_loss`), also by
    the squares of confetti.

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
    image_shape : tuple of int, optional
        Height and width of the flattened images, and 3 for colour; None: every row is an image one pixel high.
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

    def fit(
        self,
        X: Singles,
        y: NDArray[Any] | None = None,
        *,
        progress: EpochProgress | None = None,
        checkpoint: Path | None = None,
        masks: Flags | None = None,
    ) -> Self:
        """Train; see `assay.detectors.training.neural.NeuralDetector.fit`.

        `masks` are the defective pixels of the rows with label 1, bool of shape (n, h, w): False all over for one whose
        pixels are not known; those of other rows are not read. Raises `InputError` for masks of another shape.
        """
        if masks is not None:
            shape = (len(X), *(self.image_shape or (1, X.shape[-1]))[:2])
            if masks.shape != shape or masks.dtype != np.bool_:
                raise InputError(f"masks are of {masks.dtype} and shape {masks.shape}; bool of shape {shape} is needed")
        self._masks: Flags | None = masks
        return super().fit(X, y, progress=progress, checkpoint=checkpoint)

    def heat_maps(self, X: Singles) -> Singles:
        """Return heat maps of images (n, d): the mean over the members of A at the size of the image, (n, h, w).

        Higher = more anomalous. They are of the scale of A, and near the border, where fewer Gaussians overlap, lower.
        """
        require_fitted(self, "network_")
        network = self.network_
        shape, std = network.image_shape[:2], self._std_of(network)

        def mapped(x: Tensor) -> Tensor:
            mean = pseudo_huber(network(x).square()).mean(dim=0)
            return upsampled(mean, network.field, shape, std)[None]

        return np.ascontiguousarray(self._mapped(mapped, X)[0])

    def _build(self, n_features: int) -> FullyConvolutional:
        shape = tuple(map(int, self.image_shape or (1, n_features)))
        if not self.channels:
            raise ConfigError(f"detector {self.kind!r}: channels is empty; give one number at least, such as [8, 16]")
        check_image_shape(shape, n_features)
        return FullyConvolutional(self.members, shape, self.channels)

    def _std_of(self, network: FullyConvolutional) -> float:
        return float(self.std or network.field.jump / 2)

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
        companions = (marked, labelled) if labelled else None
        rows, labels = (fitting.rows, fitting.labels) if labelled else (ordinary, fitting.labels[~marked])
        schedule = self._schedule(batch_size=self.batch_size - labelled)
        numbers, stored = _numbered(self._masks, marked) if labelled else (None, None)
        if stored is not None:
            digest = hashlib.sha256(np.packbits(stored).tobytes()).hexdigest()
            fitting = replace(fitting, settings=f"{fitting.settings} masks {digest}")
        draws = COLOUR_DRAWS if n_colours(network.image_shape) > 1 else DRAWS
        loss = self._loss(network, share, labelled, (float(ordinary.min()), float(ordinary.max())), stored)
        data = [rows, labels] if numbers is None else [rows, labels, numbers]
        fitting.run(loss, data, schedule, noise=draws, companions=companions)

    def _loss(
        self,
        network: FullyConvolutional,
        share: float,
        labelled: int,
        span: tuple[float, float],
        stored: Flags | None,
    ) -> Loss:
        """Return the loss of batches of rows, labels, numbers of masks (where `stored` has any) and draws."""
        shape = network.image_shape

        def loss(batch: Tensor, labels: Tensor, *more: Tensor) -> Tensor:
            n_made, draws = round(share * (batch.shape[1] - labelled)), more[-1]
            low, high = map(batch.new_tensor, span)
            with torch.no_grad():
                images = as_maps(batch[:, :n_made], shape)
                made = confetti(images, draws[:, :n_made], low, high)
            maps = network(torch.cat([as_images(made), batch[:, n_made:]], dim=1))
            anomalous = (labels == 1) | (torch.arange(batch.shape[1], device=batch.device) < n_made)
            if stored is None:
                return map_loss(maps, anomalous)
            masks = torch.as_tensor(stored, device=batch.device)[more[0]]
            masks[:, :n_made] = ((made - images).abs() > _CHANGED * (high - low)).any(dim=2)
            return masked_loss(maps, anomalous, masks, network.field, self._std_of(network))

        return loss

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


def masked_loss(maps: Tensor, anomalous: Tensor, masks: Tensor, field: Field, std: float) -> Tensor:
    """Return the losses (S, n) of maps phi (S, n, u, v) of images, some with masks M (S, n, h, w) of their defects.

    With A' the maps A at the size of the images: mean(A' (1 - M)), and where M is not empty -log(1 - exp(-mean(A' M)))
    as well (Ruff 2021, section 3.1.3). Anomalous images without a mask have the loss of `map_loss`. A' is the squared
    distance of two outputs times what heat maps have, so that its mean is about that of A.
    """
    members, n = maps.shape[:2]
    full = upsampled(pseudo_huber(maps.square()).flatten(0, 1), field, masks.shape[2:], std) * field.jump**2
    full = full.reshape(members, n, *masks.shape[2:])
    defective = (full * masks).mean(dim=(2, 3))
    has_mask = masks.flatten(2).any(dim=2)
    by_pixels = (full * ~masks).mean(dim=(2, 3)) + torch.where(has_mask, anomaly_loss(defective), 0.0)
    return torch.where(anomalous & ~has_mask, map_loss(maps, anomalous), by_pixels)


def _numbered(masks: Flags | None, marked: Flags) -> tuple[Integers | None, Flags | None]:
    """Return the number of each row's mask, int64 of shape (n,), and the masks of the marked rows, the first empty."""
    if masks is None or not masks[marked].any():
        return None, None
    numbers = np.cumsum(marked, dtype=np.int64) * marked
    return numbers, np.concatenate([np.zeros((1, *masks.shape[1:]), dtype=np.bool_), masks[marked]])


def _mean_of(maps: Tensor) -> Tensor:
    """Return a = mean(A), with A = sqrt(phi^2 + 1) - 1, of shape (S, n)."""
    return pseudo_huber(maps.square()).mean(dim=(2, 3))
