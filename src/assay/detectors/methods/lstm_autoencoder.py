"""The LSTM autoencoder: series that it repeats badly are anomalous."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from assay.arrays import Singles
from assay.detectors.base import require_fitted
from assay.detectors.methods.lstm_predictor import RecurrentDetector, shape_of
from assay.networks.recurrent import RecurrentAutoencoder


@dataclass(kw_only=True, eq=False, repr=False)
class LSTMAutoencoder(RecurrentDetector):
    """Ensemble of LSTMs that read a window of a series, and of LSTMs that repeat it from the last state.

    The decoder starts from the state of the encoder and repeats the window from its last step to its first (Malhotra et
    al. 2016, "LSTM-based encoder-decoder for multi-sensor anomaly detection", section 2.1). The score is the mean
    squared error over all values of the window, averaged over the members.

    Differs from the paper: it takes the Mahalanobis distance of the errors to those of held-out normal windows, which
    takes windows that are known to be normal; and it trains the decoder on the true steps, which it does not have when
    it scores. Here the decoder gets its own steps in both.

    Parameters
    ----------
    units : int
        Width of the states: all that the decoder knows of the window.
    epochs, batch_size, learning_rate, weight_decay
        See `assay.detectors.training.loop.Schedule`.
    members : int
        S, the number of pairs of LSTMs, which differ by their random streams.
    series_shape, device, mixed_precision, compiled, seed
        See `assay.detectors.methods.lstm_predictor.LSTMPredictor`.
    """

    kind: ClassVar[str] = "lstm_autoencoder"

    def reconstruct(self, X: Singles) -> Singles:
        """Return every member's repetition of windows (n, d), of shape (S, n, d)."""
        require_fitted(self, "network_")
        return self._mapped(self.network_.forward, X)

    def step_errors(self, X: Singles) -> Singles:
        """Return the squared error of each value of windows (n, d), mean over the members."""
        return np.asarray(np.square(self.reconstruct(X) - X).mean(axis=0), dtype=np.float32)

    def embed(self, X: Singles) -> Singles:
        """Return every member's state after windows (n, d), of shape (S, n, units)."""
        require_fitted(self, "network_")
        return self._mapped(self.network_.encode, X)

    def _build(self, n_features: int) -> RecurrentAutoencoder:
        shape = shape_of(self.kind, n_features, self.series_shape)
        return RecurrentAutoencoder(self.members, shape, self.units)
