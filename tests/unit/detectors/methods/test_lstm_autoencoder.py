"""The LSTM autoencoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from tests.unit.detectors.methods.test_predictor import Floats, sines

from assay.detectors.base import PredictsSteps
from assay.detectors.methods.lstm_autoencoder import LSTMAutoencoder
from assay.errors import ConfigError
from assay.parts import Part

FROZEN = {
    "encoder.weight_in": (2, 3, 32),
    "encoder.weight_state": (2, 8, 32),
    "encoder.bias": (2, 1, 32),
    "decoder.weight_in": (2, 3, 32),
    "decoder.weight_state": (2, 8, 32),
    "decoder.bias": (2, 1, 32),
    "head.weight": (2, 8, 3),
    "head.bias": (2, 1, 3),
}


def quick(**given: Any) -> LSTMAutoencoder:
    sizes: dict[str, Any] = {"units": 8, "epochs": 3, "members": 2, "device": "cpu"}
    return LSTMAutoencoder(**(sizes | given))


def of_torch(own: Any) -> Any:
    """Return torch's own LSTM with the weights of the first member of a stacked one."""
    lstm: Any = torch.nn.LSTM(own.weight_in.shape[1], own.units, batch_first=True).double()
    lstm.weight_ih_l0.copy_(own.weight_in[0].T)
    lstm.weight_hh_l0.copy_(own.weight_state[0].T)
    lstm.bias_ih_l0.copy_(own.bias[0, 0])
    lstm.bias_hh_l0.zero_()
    return lstm


@torch.no_grad()
def reference(network: Any, rows: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the code and the repetition by torch's LSTMs, step by step."""
    length, channels = network.series_shape
    encoder, decoder = of_torch(network.encoder), of_torch(network.decoder)
    output, state = encoder(torch.tensor(rows, dtype=torch.float64).reshape(len(rows), length, channels))
    code = output[:, -1]
    made = [code @ network.head.weight[0] + network.head.bias[0]]
    while len(made) < length:
        output, state = decoder(made[-1][:, None], state)
        made.append(output[:, -1] @ network.head.weight[0] + network.head.bias[0])
    return code.numpy(), torch.stack(made[::-1], dim=1).flatten(1).numpy()


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_two_lstms_of_torch_and_the_score_is_its_mean_squared_error(channels: int) -> None:
    rows = sines(40, 0, channels=channels)
    detector = quick(series_shape=(20, channels)).fit(rows)
    code, expected = reference(detector.network_, rows)
    np.testing.assert_allclose(detector.embed(rows)[0], code, atol=1e-6)
    np.testing.assert_allclose(detector.reconstruct(rows)[0], expected, atol=1e-6)
    errors = np.square(detector.reconstruct(rows).astype(np.float64) - rows)
    np.testing.assert_allclose(detector.decision_function(rows), errors.mean(axis=(0, 2)), rtol=1e-4)
    assert isinstance(detector, PredictsSteps)
    np.testing.assert_allclose(detector.step_errors(rows), errors.mean(axis=0), rtol=1e-3, atol=1e-6)


def test_crafted_weights_give_the_numbers_of_a_calculation_by_hand() -> None:
    """One unit, all weights 0 but the head's bias: every step is repeated as 0.5, whatever was read."""
    arrays = {name: np.zeros((1, *shape), dtype=np.float32) for name, shape in {
        "encoder.weight_in": (1, 4), "encoder.weight_state": (1, 4), "encoder.bias": (1, 4),
        "decoder.weight_in": (1, 4), "decoder.weight_state": (1, 4), "decoder.bias": (1, 4),
        "head.weight": (1, 1), "head.bias": (1, 1),
    }.items()}  # fmt: skip
    arrays["head.bias"][:] = 0.5
    part = quick(units=1, members=1, series_shape=(4, 1)).fit(sines(40, 0, length=4)).to_part()
    detector = LSTMAutoencoder.from_part(Part(part.kind, part.config, arrays))
    windows = np.float32([[0.5, 0.5, 0.5, 0.5], [1.5, 0.5, 0.5, 0.5], [2.5, -1.5, 0.5, 0.5]])
    assert detector.decision_function(windows).tolist() == [0.0, 0.25, 2.0]
    arrays["encoder.bias"][0, 0] = [0, 0, 20, 0]  # cell = sigmoid(0) tanh(20) = .5 more with each step, half forgotten
    arrays["head.weight"][:], arrays["head.bias"][:] = 1.0, 0.0
    detector = LSTMAutoencoder.from_part(Part(part.kind, part.config, arrays))
    state = 0.5 * np.tanh(0.9375)  # after four steps
    assert detector.embed(windows)[0, :, 0] == pytest.approx(state, rel=1e-6)
    assert detector.reconstruct(windows)[0, :, 3] == pytest.approx(state, rel=1e-6)
    later = 0.5 * np.tanh(0.46875)  # the decoder reads nothing and forgets half
    assert detector.reconstruct(windows)[0, :, 2] == pytest.approx(later, rel=1e-6)


def test_what_is_stored_keeps_its_names_and_shapes() -> None:
    """Scorers that exist hold these arrays: other names or shapes would not be read any more."""
    rows = sines(40, 0, length=6, channels=3)
    detector = quick(series_shape=(6, 3)).fit(rows)
    part = detector.to_part()
    assert part.kind == "lstm_autoencoder"
    assert {name: array.shape for name, array in part.arrays.items()} == FROZEN
    assert {*part.config["params"]} == {
        "units", "epochs", "batch_size", "learning_rate", "weight_decay", "members", "series_shape", "seed"
    }  # fmt: skip
    again = LSTMAutoencoder.from_part(part)
    np.testing.assert_array_equal(again.decision_function(rows), detector.decision_function(rows))


def test_it_tells_series_that_change_their_frequency_wherever_they_do() -> None:
    usual, late, early = sines(100, 1), sines(100, 2), sines(100, 3)
    faster = np.sin(1.8 * np.arange(8)).astype(np.float32)
    late[:, 12:], early[:, :8] = faster, faster
    detector = quick(epochs=60, units=16).fit(sines(400, 0))
    for odd in (late, early):
        scores = detector.decision_function(np.concatenate([usual, odd]))
        assert roc_auc_score(np.repeat([0, 1], 100), scores) > 0.95


def test_a_shape_that_does_not_fit_is_named() -> None:
    with pytest.raises(ConfigError, match="'lstm_autoencoder': series_shape is 20 steps x 2 channels, but rows have"):
        quick(series_shape=(20, 2)).fit(sines(20, 0))
