"""The LSTM predictor: series that do not continue as predicted are anomalous."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from assay.arrays import Singles
from assay.detectors.base import require_fitted
from assay.detectors.training.neural import Fitting, NeuralDetector
from assay.errors import ConfigError, TrainingError
from assay.networks.recurrent import RecurrentPredictor
from assay.parameters import Count, Members, PositiveRates, SeriesShape, Width

CONTEXT = 0.6
_CACHED = 24_576  # rows times members times units at once: the gates of more do not fit the processor's cache


@dataclass(kw_only=True, eq=False, repr=False)
class RecurrentDetector(NeuralDetector):
    """LSTMs over windows of series, trained and judged by the mean squared error of what their network returns."""

    squared_score: ClassVar[bool] = True

    units: Width = 32
    epochs: Count = 60
    learning_rate: PositiveRates = 1e-2
    members: Members = 3
    series_shape: SeriesShape | None = None

    def _train(self, fitting: Fitting) -> None:
        network: Any = fitting.network
        fitting.run(lambda batch: network.errors(batch), [fitting.rows], self._schedule())

    def _member_scores(self, x: Tensor) -> Tensor:
        errors: Tensor = self.network_.errors(x)
        return errors

    @property
    def _chunk(self) -> int:
        return max(1, min(super()._chunk, _CACHED // (self.members * self.units)))


@dataclass(kw_only=True, eq=False, repr=False)
class LSTMPredictor(RecurrentDetector):
    """Ensemble of LSTMs that read the first part of a window of a series and predict the rest.

    After the context the network continues from its own predictions (autoregressive). The score is the mean squared
    error of the predicted steps, averaged over the members (Contradicting Training, IJCAI 2022, section 6.1, where
    the sizes of the network are left to an appendix). The steps of the context are read, not scored: an anomaly
    in the context that does not affect later steps gets no high score.

    Parameters
    ----------
    units : int
        Width of the LSTM's state.
    context : int, optional
        Steps that are read before the first prediction; by default 60 % of the window, as in the paper's synthetic
        series (six of ten steps).
    epochs, batch_size, learning_rate, weight_decay
        See `assay.detectors.training.loop.Schedule`.
    members : int
        S, the number of LSTMs, which differ by their random streams.
    series_shape : (int, int), optional
        Length and channels of the windows that the rows hold, flattened step by step; None: every column is a step.
        Declaring several steps as one step of more channels, (35, 4) for (140, 1), speeds training up by that factor.
    device, mixed_precision, compiled, seed
        See `assay.detectors.methods.autoencoder.Autoencoder`.
    """

    kind: ClassVar[str] = "lstm_predictor"

    context: Count | None = None

    def predict_steps(self, X: Singles) -> Singles:
        """Return every member's prediction of the steps after the context, of shape (S, n, steps * channels)."""
        require_fitted(self, "network_")
        return self._mapped(self.network_.forward, X)

    def step_errors(self, X: Singles) -> Singles:
        """Return the squared error of each value of windows (n, d), mean over the members; 0 in the context."""
        predicted = self.predict_steps(X)
        errors = np.zeros(X.shape, dtype=np.float32)
        errors[:, -predicted.shape[2] :] = np.square(predicted - X[:, -predicted.shape[2] :]).mean(axis=0)
        return errors

    def _build(self, n_features: int) -> RecurrentPredictor:
        return predictor(self.kind, self.members, n_features, self.series_shape, self.context, self.units)


def predictor(
    kind: str, members: int, n_features: int, series_shape: Sequence[int] | None, context: int | None, units: int
) -> RecurrentPredictor:
    """Return S LSTMs for rows of `n_features` columns.

    Raises
    ------
    ConfigError
        The shape of the series does not fit the width.
    TrainingError
        The context leaves no step to predict.
    """
    length, channels = shape_of(kind, n_features, series_shape)
    steps = max(1, round(CONTEXT * length)) if context is None else context
    if steps >= length:
        raise TrainingError(
            f"detector {kind!r}: a context of {steps} steps leaves none to predict of windows of length {length}; "
            f"{'give longer windows' if length < 2 else f'give a context from 1 to {length - 1}'}"
        )
    return RecurrentPredictor(members, (length, channels), steps, units)


def shape_of(kind: str, n_features: int, series_shape: Sequence[int] | None) -> tuple[int, int]:
    """Return length and channels of the windows in rows of `n_features` columns; raise `ConfigError` for others."""
    length, channels = series_shape or (n_features, 1)
    if length * channels != n_features:
        raise ConfigError(
            f"detector {kind!r}: series_shape is {length} steps x {channels} channels, but rows have {n_features} "
            "columns; give the length and the channels of the windows, or none if every column is a step"
        )
    return length, channels
