"""The autoencoder: rows that it cannot reconstruct are anomalous."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from torch import Tensor

from assay.detectors.base import (
    Allowed, Doubles, Floats, Progress, check_parameters, check_rows, one_of, real, require_fitted,
    require_varied, score_rows, whole, wholes,
)
from assay.detectors.training import Schedule, member_streams, pick_device, train
from assay.errors import ConfigError
from assay.networks.lenet import LeNetAutoencoder
from assay.networks.mlp import MLPAutoencoder, initialise
from assay.parts import Part

CHUNK = 512


class Autoencoder(BaseEstimator):  # type: ignore[misc]
    kind: ClassVar[str] = "autoencoder"

    def __init__(self, hidden=(64, 32), latent_dim=8, epochs=100, batch_size=64, learning_rate=1e-3,
        weight_decay=1e-6, members=5, image_shape=None, device="auto", *, seed=0):
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

    def fit(self, X, y=None, *, progress=None):
        rows = check_rows(X)
        streams = member_streams(self.seed, self.members)
        network = self._network(rows.shape[1])
        initialise(network, streams)

        def loss(batch: Tensor) -> Tensor:
            return (network(batch) - batch).square().mean(dim=2)

        schedule = Schedule(self.epochs, self.batch_size, self.learning_rate, self.weight_decay)
        train(network, loss, [rows], schedule, streams, device=pick_device(self.device), progress=progress)
        self.n_features_in_ = rows.shape[1]
        self.network_ = network.double().eval()
        require_varied(self.kind, self.decision_function(rows))
        return self

    def _network(self, d):
        if self.image_shape is None:
            return MLPAutoencoder(self.members, d, self.hidden, self.latent_dim)
        return LeNetAutoencoder(self.members, self.image_shape, self.hidden, self.latent_dim)

    def decision_function(self, X):
        rows = check_rows(X, self.n_features_in_)
        return score_rows(self._score, rows, chunk=CHUNK)

    def _score(self, rows):
        with torch.inference_mode():
            x = torch.from_numpy(rows).double().expand(self.members, -1, -1)
            return (self.network_(x) - x).square().mean(dim=2).mean(dim=0).numpy()
