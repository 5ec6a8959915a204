"""The LSTM predictor."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from assay.detectors.methods.lstm_predictor import LSTMPredictor
from assay.detectors.training.loop import Compute, member_streams, train_network
from assay.detectors.training.updates import Schedule
from assay.errors import ConfigError, TrainingError
from assay.networks.mlp import initialise
from assay.networks.recurrent import RecurrentAutoencoder, RecurrentPredictor

Floats = NDArray[np.float32]


def sines(n: int, seed: int, *, length: int = 20, channels: int = 1) -> Floats:
    """Windows of noisy sine waves of one frequency, each channel with a phase of its own."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, size=(n, 1, channels))
    waves = np.sin(0.6 * np.arange(length)[:, None] + phase) + 0.05 * rng.normal(size=(n, length, channels))
    return waves.reshape(n, -1).astype(np.float32)


def quick(**given: Any) -> LSTMPredictor:
    sizes: dict[str, Any] = {"units": 8, "epochs": 3, "members": 2, "device": "cpu"}
    return LSTMPredictor(**(sizes | given))


def reference(network: Any, rows: Floats) -> NDArray[np.float64]:
    """Predict with torch's own LSTM and the weights of the first member, step by step."""
    (_, channels), own = network.series_shape, network.recurrent
    lstm: Any = torch.nn.LSTM(channels, own.units, batch_first=True).double()
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(own.weight_in[0].T)
        lstm.weight_hh_l0.copy_(own.weight_state[0].T)
        lstm.bias_ih_l0.copy_(own.bias[0, 0])
        lstm.bias_hh_l0.zero_()
        x = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), -1, channels)
        output, state = lstm(x[:, : network.context])
        predicted = []
        for _ in range(x.shape[1] - network.context):
            predicted.append(output[:, -1] @ network.head.weight[0] + network.head.bias[0])
            output, state = lstm(predicted[-1][:, None], state)
    found: NDArray[np.float64] = torch.stack(predicted, dim=1).flatten(1).numpy()
    return found


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_the_lstm_of_torch_fed_with_its_own_predictions(channels: int) -> None:
    rows = sines(40, 0, channels=channels)
    detector = quick(series_shape=(20, channels)).fit(rows)
    expected = reference(detector.network_, rows)
    found = detector.predict_steps(rows)
    assert found.shape == (2, 40, 8 * channels)
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    alone = LSTMPredictor.from_part(detector.to_part())
    np.testing.assert_array_equal(alone.predict_steps(rows), found)


def test_the_score_is_the_mean_squared_error_of_the_predicted_steps() -> None:
    rows = sines(40, 0, channels=2)
    detector = quick(series_shape=(20, 2), context=15).fit(rows)
    errors = np.square(detector.predict_steps(rows).astype(np.float64) - rows[:, 30:]).mean(axis=(0, 2))
    np.testing.assert_allclose(detector.decision_function(rows), errors, rtol=1e-4)


@pytest.mark.parametrize("network", [partial(RecurrentPredictor, context=12), RecurrentAutoencoder])
def test_stacked_members_equal_separate_ones(network: Callable[..., Any]) -> None:
    rows = sines(100, 0)
    compute, schedule = Compute(torch.device("cpu")), Schedule(4, 32, 1e-2, 1e-6)
    both = network(2, (20, 1), units=8)
    initialise(both, member_streams(3, 2))
    separate = []
    for member in range(2):
        one = network(1, (20, 1), units=8)
        stream = member_streams(3, 2)[member : member + 1]
        initialise(one, stream)
        train_network(one, one.errors, [rows], schedule, stream, compute=compute)
        separate.append(one)
    streams = member_streams(3, 2)
    initialise(both, streams)
    train_network(both, both.errors, [rows], schedule, streams, compute=compute)
    for name, value in both.state_dict().items():
        apart = torch.cat([one.state_dict()[name] for one in separate])
        torch.testing.assert_close(value, apart, atol=1e-5, rtol=1e-4)


def test_it_tells_series_that_change_their_frequency() -> None:
    usual, odd = sines(200, 1), sines(200, 2)
    faster = np.sin(1.2 * np.arange(8)).astype(np.float32)
    odd[:, 12:] = faster
    detector = quick(epochs=40, units=16).fit(sines(400, 0))
    scores = detector.decision_function(np.concatenate([usual, odd]))
    assert roc_auc_score(np.repeat([0, 1], 200), scores) > 0.97
    assert detector.decision_function(usual).mean() < 0.2  # half of the variance is 0.5


def test_channels_are_read_step_by_step() -> None:
    """Only the steps before the context are read, whatever comes after."""
    rows = sines(60, 0, channels=2)
    detector = quick(series_shape=(20, 2), context=5).fit(rows)
    changed = rows.copy()
    changed[:, 10:] = 7.0
    np.testing.assert_array_equal(detector.predict_steps(changed), detector.predict_steps(rows))
    changed[:, 9] += 1.0  # the second channel of the last step that is read
    assert (detector.predict_steps(changed) != detector.predict_steps(rows)).any(axis=(0, 2)).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"series_shape": (20, 2)}, "20 steps x 2 channels, but rows have 20 columns"),
        ({"series_shape": (20,)}, r"series_shape is \(20,\); it must be \[length, channels\], or null"),
        ({"context": 20}, "context of 20 steps leaves none to predict of windows of length 20; .* from 1 to 19"),
        ({"context": 0}, "context is 0; it must be an integer >= 1, or null"),
        ({"series_shape": (1, 20)}, "give longer windows"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises((ConfigError, TrainingError), match=words):
        quick(**given).fit(sines(20, 0))


def test_the_context_is_six_tenths_by_default() -> None:
    detector = quick(epochs=1).fit(sines(20, 0, length=10))
    assert detector.network_.context == 6
