"""RaPP: rows that differ from their reconstruction, in the input or in hidden layers of the encoder, are anomalous."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from assay.arrays import Doubles, Singles
from assay.detectors.methods.autoencoder import Autoencoder
from assay.detectors.training.loop import pinned_threads
from assay.detectors.training.neural import NETWORK_ROWS, Fitting
from assay.errors import TrainingError
from assay.networks.build import Coder, autoencoder
from assay.networks.lenet import LeNetAutoencoder, padded
from assay.networks.mlp import StackedLinear

_LEAST_ROWS = 10
_MOST_ROWS = 5000
_DIRECTIONS = 256
RIDGES = 10.0 ** np.arange(-6, 1)
_LEAST_VARIANCE = 1e-12


def pathway(coder: Coder, x: Tensor) -> Tensor:
    """Return rows and their hidden activations in every layer of the encoder, concatenated.

    Parameters
    ----------
    x : Tensor of shape (S, n, d)

    Returns
    -------
    Tensor of shape (S, n, p)
        The row, each hidden layer after its activation function (feature maps flattened), and the code.
    """
    activations, value = [x], x
    if isinstance(coder, LeNetAutoencoder):
        maps = padded(x, coder.image_shape, coder.channels)
        for layer in coder.down:
            maps = layer(maps)
            if isinstance(layer, nn.LeakyReLU):
                activations.append(maps.flatten(2))
        value = activations[-1]
    for layer in coder.encoder:
        value = layer(value)
        if not isinstance(layer, StackedLinear):
            activations.append(value)
    return torch.cat([*activations, value], dim=2)


class Whitening(nn.Module):
    """A Gaussian of each member's differences: leading directions, and one variance for all other directions.

    All buffers are zero before `settle`.

    Parameters
    ----------
    members : int
    width : int
        p, the number of differences.
    """

    centre: Tensor
    directions: Tensor
    weights: Tensor
    rest: Tensor

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        rank = min(width, _DIRECTIONS)
        self.register_buffer("centre", torch.zeros(members, 1, width))
        self.register_buffer("directions", torch.zeros(members, width, rank))
        self.register_buffer("weights", torch.zeros(members, 1, rank))
        self.register_buffer("rest", torch.zeros(members, 1))

    def settle(self, member: int, centre: Doubles, directions: Doubles, variances: Doubles, residual: float) -> None:
        """Store the Gaussian of one member; `residual` is the variance of the other directions."""
        rank = directions.shape[1]
        self.centre[member, 0] = torch.from_numpy(centre)
        self.directions[member, :, :rank] = torch.from_numpy(directions)
        self.weights[member, 0, :rank] = torch.from_numpy(1.0 / variances)
        self.rest[member] = 1.0 / residual if rank < len(centre) else 0.0

    def forward(self, differences: Tensor) -> Tensor:
        """Return squared Mahalanobis distances divided by p, of shape (S, n), of differences (S, n, p)."""
        moved = differences - self.centre
        squares = torch.bmm(moved, self.directions).square()
        beyond = (moved.square().sum(dim=2) - squares.sum(dim=2)).clamp_min(0.0)
        return ((squares * self.weights).sum(dim=2) + beyond * self.rest) / differences.shape[2]


class PathwayCoder(nn.Module):
    """An autoencoder, optionally with the whitening of its differences along the pathway."""

    def __init__(self, coder: Coder, members: int, n_features: int, *, whitened: bool) -> None:
        super().__init__()
        self.coder = coder
        width = pathway(coder, torch.zeros(members, 1, n_features)).shape[2]
        self.whitening = Whitening(members, width) if whitened else None

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes, of shape (S, n, latent_dim)."""
        return self.coder.encode(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of `x`, of its shape."""
        return cast(Tensor, self.coder(x))

    def differences(self, x: Tensor) -> Tensor:
        """Return the pathway of the reconstruction minus that of the row, of shape (S, n, p)."""
        return pathway(self.coder, self.coder(x)) - pathway(self.coder, x)


@dataclass(kw_only=True, eq=False, repr=False)
class RaPP(Autoencoder):
    """Ensemble of autoencoders whose score compares a row with its reconstruction in all layers of the encoder.

    With d(x) = the hidden activations of the reconstruction minus those of the row, the row itself included
    (Kim et al. 2020, "RaPP: Novelty detection with reconstruction along projection pathway"), the score is

    - "sap": ``|d(x)|^2``, the sum over all layers;
    - "nap": ``|d(x) - mean|^2`` after whitening d by its covariance over training rows, divided by its length.

    Both are averaged over the members. Training is that of `Autoencoder`.

    Differs from the paper: "nap" adds a ridge to the variances, the power of ten between 1e-6 and 1 times the mean
    variance with the highest Gaussian likelihood of the held-out half of the rows. The paper divides by the singular
    values without a ridge: with at most as many rows as activations every training row then gets the same score, and
    near-zero singular values (bounded activations, constant columns) amplify rounding errors. The ridge also makes
    float32 precise enough for the stored arrays. With more than 256 activations (images)
    the directions beyond the 256 leading ones share one variance. At most 5,000 rows are used.

    Parameters
    ----------
    score : {"nap", "sap"}
    hidden, latent_dim, epochs, batch_size, learning_rate, weight_decay, members, channels, image_shape, \
max_steps, device, mixed_precision, compiled, seed
        See `assay.detectors.methods.autoencoder.Autoencoder`.
    """

    kind: ClassVar[str] = "rapp"

    score: Literal["nap", "sap"] = "nap"

    def _build(self, n_features: int) -> PathwayCoder:  # type: ignore[override]
        coder = autoencoder(self.members, n_features, self.hidden, self.latent_dim, self.image_shape, self.channels)
        return PathwayCoder(coder, self.members, n_features, whitened=self.score == "nap")

    def _train(self, fitting: Fitting) -> None:
        super()._train(fitting)
        network = cast(PathwayCoder, fitting.network)
        if network.whitening is not None:
            for member, differences in enumerate(self._differences(fitting, network)):
                network.whitening.settle(member, *whitening_of(differences.astype(np.float64)))

    def _differences(self, fitting: Fitting, network: PathwayCoder) -> Singles:
        """Return the differences of each member's sample of training rows, in random order, of shape (S, m, p)."""
        if len(fitting.rows) < _LEAST_ROWS:
            raise TrainingError(
                f"{len(fitting.rows)} training rows; whitening needs at least {_LEAST_ROWS}: "
                "give more rows, or use score: sap"
            )
        picks = np.stack([stream.permutation(len(fitting.rows))[:_MOST_ROWS] for stream in fitting.streams])
        with torch.inference_mode(), pinned_threads():
            parts = [network.differences(torch.from_numpy(fitting.rows[rows])) for rows in _chunks(picks)]
        differences: Singles = torch.cat(parts, dim=1).numpy()
        return differences

    def _member_scores(self, x: Tensor) -> Tensor:
        differences: Tensor = self.network_.differences(x)
        if self.network_.whitening is None:
            return differences.square().sum(dim=2)
        return cast(Tensor, self.network_.whitening(differences))


def _chunks(picks: NDArray[Any]) -> list[NDArray[Any]]:
    return np.array_split(picks, -(-picks.shape[1] // NETWORK_ROWS), axis=1)


def whitening_of(differences: Doubles) -> tuple[Doubles, Doubles, Doubles, float]:
    """Return mean, leading directions and their variances, and the variance of each other direction.

    Parameters
    ----------
    differences : ndarray of shape (m, p)
        In random order: the ridge fitted on the first half is chosen by the likelihood of the second.

    Returns
    -------
    tuple of ndarray of shape (p,), ndarray of shape (p, r), ndarray of shape (r,), float

    Raises
    ------
    TrainingError
        The differences do not vary.
    """
    half = len(differences) // 2
    centre, directions, variances, residual, mean_variance = _spectrum(differences[:half])
    moved = differences[half:] - centre
    squares = np.square(moved @ directions)
    beyond = (np.square(moved).sum(axis=1) - squares.sum(axis=1)).mean().clip(min=0.0)
    n_beyond = len(centre) - len(variances)

    def misfit(ridge: float) -> float:
        ridged, last = variances + ridge * mean_variance, residual + ridge * mean_variance
        fitted = (np.log(ridged) + squares.mean(axis=0) / ridged).sum()
        return float(fitted + n_beyond * np.log(last) + beyond / last)

    ridge = min(RIDGES, key=misfit)
    centre, directions, variances, residual, mean_variance = _spectrum(differences)
    return centre, directions, variances + ridge * mean_variance, residual + ridge * mean_variance


def _spectrum(differences: Doubles) -> tuple[Doubles, Doubles, Doubles, float, float]:
    """Return mean, directions, their variances, that of each other direction, and the mean variance."""
    centre = differences.mean(axis=0)
    moved = differences - centre
    total, p = float(np.square(moved).sum()) / len(moved), len(centre)
    if total / p < _LEAST_VARIANCE:
        raise TrainingError(
            "detector 'rapp': all training rows differ from their reconstructions in the same way, so there is "
            "nothing to whiten by; check that the training rows differ, scale the features, or use score: sap"
        )
    with threadpool_limits(limits=1):  # the number of threads changes the rounding
        if p <= _DIRECTIONS:
            _, singular, rows = np.linalg.svd(moved, full_matrices=False)
        else:
            _, singular, rows = randomized_svd(moved, min(_DIRECTIONS, *moved.shape), random_state=0)
    variances = np.square(singular) / len(moved)
    residual = max(total - float(variances.sum()), 0.0) / max(p - len(variances), 1)
    return centre, rows.T, variances, residual, total / p
