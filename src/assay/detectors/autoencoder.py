"""The autoencoder: rows that it reconstructs badly are anomalous."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from torch import Tensor

from assay.detectors.base import (
    Allowed,
    Doubles,
    Floats,
    Progress,
    check_parameters,
    check_rows,
    image_shape,
    one_of,
    plain_parameters,
    real,
    require_fitted,
    require_varied,
    score_rows,
    whole,
    wholes,
)
from assay.detectors.training import Schedule, member_streams, pick_device, train
from assay.errors import ConfigError
from assay.networks.lenet import LeNetAutoencoder
from assay.networks.mlp import MLPAutoencoder, initialise
from assay.parts import Part

CHUNK = 512


class Autoencoder(BaseEstimator):  # type: ignore[misc]
    """Ensemble of autoencoders trained to reconstruct the training rows.

    The score is the mean squared reconstruction error over the columns (Ruff 2021, eq 4.11, divided by the
    number of columns), averaged over the members. It is computed on the CPU in float64, wherever the
    members were trained.

    Parameters
    ----------
    hidden : sequence of int
        Widths of the encoder's dense hidden layers, outermost first; mirrored in the decoder.
    latent_dim : int
        Width of the code. With no more columns than that the code is no bottleneck; what limits the network
        then is its bounded hidden layers, which cannot follow a row far outside the training rows.
    epochs, batch_size, learning_rate, weight_decay
        See `assay.detectors.training.Schedule`.
    members : int
        S, the number of autoencoders, which differ by their random streams.
    image_shape : (int, int), optional
        Height and width of flattened images; makes the outer layers convolutions.
    device : {"auto", "cpu", "cuda"}
        Where to train; "auto" takes a GPU if there is one.
    seed : int
        Member s draws from a stream derived from (seed, s).

    Attributes
    ----------
    n_features_in_ : int
        Width of the rows.
    network_ : Module
        The stacked members, in float64.
    """

    kind: ClassVar[str] = "autoencoder"
    allowed: ClassVar[dict[str, Allowed]] = {
        "hidden": wholes(1),
        "latent_dim": whole(1),
        "epochs": whole(1),
        "batch_size": whole(1),
        "learning_rate": real(0.0, above=True),
        "weight_decay": real(0.0),
        "members": whole(1),
        "image_shape": image_shape(),
        "device": one_of("auto", "cpu", "cuda"),
        "seed": whole(0),
    }

    def __init__(
        self,
        hidden: Sequence[int] = (64, 32),
        latent_dim: int = 8,
        epochs: int = 150,
        batch_size: int = 128,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-6,
        members: int = 5,
        image_shape: tuple[int, int] | None = None,
        device: str = "auto",
        *,
        seed: int = 0,
    ) -> None:
        self.hidden = hidden
        self.latent_dim = latent_dim
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.members = members
        self.image_shape = image_shape
        self.device = device
        self.seed = seed

    def fit(self, X: Floats, y: NDArray[Any] | None = None, *, progress: Progress | None = None) -> Self:
        """Train on rows of shape (n, d); labels are not used.

        Raises
        ------
        ConfigError
            A constructor argument is not allowed, or does not fit the rows.
        InputError
            The rows are not a finite array of shape (n, d).
        TrainingError
            See `assay.detectors.training.train`; also when all training rows get the same score.
        """
        check_parameters(self.kind, self.get_params(deep=False), self.allowed)
        rows = check_rows(X)
        network = self._network(rows.shape[1])
        streams = member_streams(self.seed, self.members)
        initialise(network, streams)

        def loss(batch: Tensor) -> Tensor:
            errors: Tensor = (network(batch) - batch).square()
            return errors.mean(dim=2)

        schedule = Schedule(self.epochs, self.batch_size, self.learning_rate, self.weight_decay)
        train(network, loss, [rows], schedule, streams, device=pick_device(self.device), progress=progress)
        self._settle(network, rows.shape[1])
        require_varied(self.kind, self.decision_function(rows))
        return self

    def decision_function(self, X: Floats) -> Floats:
        """Return the mean squared reconstruction errors of rows (n, d), of shape (n,)."""
        require_fitted(self, "network_")
        return score_rows(self._errors, check_rows(X, self.n_features_in_), chunk=CHUNK)

    def reconstruct(self, X: Floats) -> Floats:
        """Return every member's reconstruction of rows (n, d), of shape (S, n, d)."""
        require_fitted(self, "network_")
        return self._mapped(self.network_.forward, X)

    def embed(self, X: Floats) -> Floats:
        """Return every member's codes of rows (n, d), of shape (S, n, latent_dim)."""
        require_fitted(self, "network_")
        return self._mapped(self.network_.encode, X)

    def to_part(self) -> Part:
        """Return the parameters of all members; where they were trained is left out."""
        require_fitted(self, "network_")
        params = plain_parameters(self.get_params(deep=False))
        del params["device"]
        config = {"params": params, "n_features": self.n_features_in_}
        state = self.network_.state_dict()
        return Part(self.kind, config, {name: value.float().numpy() for name, value in state.items()})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Rebuild what `to_part` was called on."""
        detector = cls(**part.config["params"])
        network = detector._network(part.config["n_features"])
        network.load_state_dict({name: torch.tensor(array) for name, array in part.arrays.items()})
        detector._settle(network, part.config["n_features"])
        return detector

    def _network(self, n_features: int) -> MLPAutoencoder | LeNetAutoencoder:
        if self.image_shape is None:
            return MLPAutoencoder(self.members, n_features, self.hidden, self.latent_dim)
        height, width = self.image_shape
        if height * width != n_features:
            raise ConfigError(
                f"image_shape is {height} x {width}, but rows have {n_features} columns; "
                "give the height and width of the flattened images, or none for plain rows"
            )
        return LeNetAutoencoder(self.members, (height, width), self.hidden, self.latent_dim)

    def _settle(self, network: MLPAutoencoder | LeNetAutoencoder, n_features: int) -> None:
        """Keep a trained network, ready to score."""
        self.network_ = network.double().eval()
        self.n_features_in_ = n_features

    def _stacked(self, rows: Floats) -> Tensor:
        """Return rows (n, d) in float64 for every member, of shape (S, n, d)."""
        return torch.tensor(rows, dtype=torch.float64).expand(self.members, -1, -1)

    def _errors(self, rows: Floats) -> Doubles:
        with torch.inference_mode():
            x = self._stacked(rows)
            errors: Doubles = (self.network_(x) - x).square().mean(dim=(0, 2)).numpy()
        return errors

    def _mapped(self, function: Callable[[Tensor], Tensor], X: Floats) -> Floats:
        """Apply a function of stacked rows to checked rows, in chunks."""
        rows = check_rows(X, self.n_features_in_)
        starts = range(0, max(1, len(rows)), CHUNK)
        with torch.inference_mode():
            parts = [function(self._stacked(rows[i : i + CHUNK])).float().numpy() for i in starts]
        return np.concatenate(parts, axis=1)
