"""The LSTM predictor: series that do not go on as predicted are anomalous."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from assay.detectors.base import Allowed, Floats, require_fitted, series_shape, whole
from assay.detectors.training.neural import COMMON, Fitting, NeuralDetector
from assay.errors import ConfigError, TrainingError
from assay.networks.recurrent import RecurrentPredictor

CONTEXT = 0.6


def context() -> Allowed:
    """Allow None and a number of steps."""
    steps = whole(1)
    return Allowed(f"null or {steps.text}", lambda value: value is None or steps.accepts(value))


class LSTMPredictor(NeuralDetector):
    """Ensemble of LSTMs that read the first part of a window of a series and predict the rest.

    After the context the network goes on from its own predictions (autoregressive). The score is the mean squared
    error of the predicted steps, averaged over the members (Contradicting Training, IJCAI 2022, section 6.1, where
    the sizes of the network are left to an appendix). The steps of the context are read, not scored: an anomaly
    that shows in nothing that follows has no high score.

    Parameters
    ----------
    units : int
        Width of the LSTM's state.
    context : int, optional
        Steps that are read before the first prediction; None: 60 % of the window, as the six of ten steps
        of the paper's synthetic series.
    epochs, batch_size, learning_rate, weight_decay
        See `assay.detectors.training.loop.Schedule`.
    members : int
        S, the number of LSTMs, which differ by their random streams.
    series_shape : (int, int), optional
        Length and channels of the windows that the rows hold, flattened step by step; None: every column is a step.
        Declaring several steps as one of more channels, (35, 4) for (140, 1), trains faster by that factor.
    device, mixed_precision, compiled, seed
        See `assay.detectors.methods.autoencoder.Autoencoder`.
    """

    kind: ClassVar[str] = "lstm_predictor"
    allowed: ClassVar[dict[str, Allowed]] = {
        **COMMON,
        "units": whole(1),
        "context": context(),
        "series_shape": series_shape(),
    }

    def __init__(
        self,
        units: int = 32,
        context: int | None = None,
        epochs: int = 60,
        batch_size: int = 128,
        learning_rate: float | Sequence[float] = 1e-2,
        weight_decay: float | Sequence[float] = 1e-6,
        members: int = 3,
        series_shape: tuple[int, int] | None = None,
        device: str = "auto",
        mixed_precision: bool = False,
        compiled: bool = False,
        *,
        seed: int = 0,
    ) -> None:
        self.units = units
        self.context = context
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.members = members
        self.series_shape = series_shape
        self.device = device
        self.mixed_precision = mixed_precision
        self.compiled = compiled
        self.seed = seed

    def predict_steps(self, X: Floats) -> Floats:
        """Return every member's prediction of the steps after the context, of shape (S, n, steps * channels)."""
        require_fitted(self, "network_")
        return self._mapped(self.network_.forward, X)

    def _build(self, n_features: int) -> RecurrentPredictor:
        return predictor(self.kind, self.members, n_features, self.series_shape, self.context, self.units)

    def _train(self, fitting: Fitting) -> None:
        network: Any = fitting.network
        fitting.run(lambda batch: network.errors(batch), [fitting.rows], self._schedule())

    def _member_scores(self, x: Tensor) -> Tensor:
        errors: Tensor = self.network_.errors(x)
        return errors


def predictor(
    kind: str, members: int, n_features: int, series_shape: Sequence[int] | None, context: int | None, units: int
) -> RecurrentPredictor:
    """Return S LSTMs for rows of a width.

    Raises
    ------
    ConfigError
        The shape of the series does not fit the width.
    TrainingError
        The context leaves nothing to predict.
    """
    length, channels = series_shape or (n_features, 1)
    if length * channels != n_features:
        raise ConfigError(
            f"detector {kind!r}: series_shape is {length} steps x {channels} channels, but rows have {n_features} "
            "columns; give the length and the channels of the windows, or none if every column is a step"
        )
    steps = max(1, round(CONTEXT * length)) if context is None else context
    if steps >= length:
        raise TrainingError(
            f"detector {kind!r}: a context of {steps} steps leaves none to predict of windows of length {length}; "
            f"{'give longer windows' if length < 2 else f'give a context from 1 to {length - 1}'}"
        )
    return RecurrentPredictor(members, (length, channels), steps, units)
