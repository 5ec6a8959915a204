"""Recurrent networks of series, several members at once: one predicts the steps after those read, one repeats them."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from assay.networks.mlp import StackedLinear

State = tuple[Tensor, Tensor]


class StackedLSTM(nn.Module):
    """S LSTM layers side by side, with the equations of `torch.nn.LSTM` and one bias.

    The gates are in the order input, forget, cell, output. As tanh(x) = 2 sigmoid(2x) - 1, one sigmoid computes
    all four.

    Parameters
    ----------
    members : int
        S, the number of layers side by side.
    n_in : int
        Width of one step.
    units : int
        Width of the state.
    """

    def __init__(self, members: int, n_in: int, units: int) -> None:
        super().__init__()
        self.fan_in, self.units = units, units
        self.weight_in = nn.Parameter(torch.zeros(members, n_in, 4 * units))
        self.weight_state = nn.Parameter(torch.zeros(members, units, 4 * units))
        self.bias = nn.Parameter(torch.zeros(members, 1, 4 * units))

    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the weights and the bias, doubled for the cell gate, which is a tanh."""
        scale = self.bias.new_ones(4, self.units)
        scale[2] = 2.0
        scale = scale.flatten()
        return self.weight_in * scale, self.weight_state * scale, self.bias * scale

    def read(self, steps: Tensor) -> State:
        """Return the state after steps, of shape (S, n, steps, n_in)."""
        weight_in, weight_state, bias = self.weights()
        state = self.start(steps.shape[1])
        for each in steps.unbind(dim=2):
            state = step(torch.baddbmm(bias, each, weight_in), weight_state, state)
        return state

    def go_on(self, state: State, head: StackedLinear, count: int) -> Tensor:
        """Return `count` steps (S, n, count, n_in) that follow a state, each from the one before as its input.

        A step is an affine map of the state before it, so that its way back in and that of the state are one product.
        """
        weight_in, weight_state, bias = self.weights()
        weight_both = torch.baddbmm(weight_state, head.weight, weight_in)
        bias_both = bias if head.bias is None else torch.baddbmm(bias, head.bias, weight_in)
        states = [state[0]]
        while len(states) < count:
            state = step(bias_both, weight_both, state)
            states.append(state[0])
        members, n, units = state[0].shape
        made = head(torch.stack(states, dim=2).reshape(members, n * count, units))
        return cast(Tensor, made.reshape(members, n, count, -1))

    def start(self, n: int) -> State:
        """Return the state before the first step: zeros, of shape (S, n, units)."""
        zeros = self.bias.new_zeros(len(self.bias), n, self.units)
        return zeros, zeros


def step(projected: Tensor, weight_state: Tensor, state: State) -> State:
    """Take one step; `projected` is the contribution of the input to the gates, of shape (S, n or 1, 4 * units)."""
    hidden, cell = state
    enter, forget, new, leave = torch.baddbmm(projected, hidden, weight_state).sigmoid_().chunk(4, dim=2)
    cell = forget * cell + enter * (new + new).sub_(1)
    squashed = (cell + cell).sigmoid_()
    return leave * (squashed + squashed).sub_(1), cell


class RecurrentPredictor(nn.Module):
    """An LSTM that reads `context` steps and predicts the rest, each step from its previous prediction.

    Parameters
    ----------
    members : int
        S, the number of networks side by side.
    series_shape : (int, int)
        Length and channels of the series, each of which is one flattened row.
    context : int
        Number of steps that are read; at least one and less than the length.
    units : int
        Width of the LSTM's state.
    """

    def __init__(self, members: int, series_shape: tuple[int, int], context: int, units: int) -> None:
        super().__init__()
        self.series_shape, self.context = series_shape, context
        self.recurrent = StackedLSTM(members, series_shape[1], units)
        self.head = StackedLinear(members, units, series_shape[1])

    def targets(self, x: Tensor) -> Tensor:
        """Return the steps of rows (S, n, length * channels) to predict, flattened."""
        return x[..., self.context * self.series_shape[1] :]

    def forward(self, x: Tensor) -> Tensor:
        """Return the prediction of ``targets(x)``, of the same shape; only the context is read."""
        length, channels = self.series_shape
        read = x[..., : self.context * channels].reshape(*x.shape[:2], self.context, channels)
        state = self.recurrent.read(read)
        return self.recurrent.go_on(state, self.head, length - self.context).flatten(2)

    def errors(self, x: Tensor) -> Tensor:
        """Return the mean squared prediction errors, of shape (S, n)."""
        return cast(Tensor, (self(x) - self.targets(x)).square().mean(dim=2))


class RecurrentAutoencoder(nn.Module):
    """An LSTM that reads a whole window, and one that repeats it from the state of the former, the last step first.

    Its arguments are those of `RecurrentPredictor`; `units` is the width of both states.
    """

    def __init__(self, members: int, series_shape: tuple[int, int], units: int) -> None:
        super().__init__()
        self.series_shape = series_shape
        self.encoder = StackedLSTM(members, series_shape[1], units)
        self.decoder = StackedLSTM(members, series_shape[1], units)
        self.head = StackedLinear(members, units, series_shape[1])

    def encode(self, x: Tensor) -> Tensor:
        """Return the states (S, n, units) after all steps of rows (S, n, length * channels)."""
        return self.encoder.read(x.reshape(*x.shape[:2], *self.series_shape))[0]

    def forward(self, x: Tensor) -> Tensor:
        """Return the windows as they are repeated, of the shape of `x`."""
        state = self.encoder.read(x.reshape(*x.shape[:2], *self.series_shape))
        return self.decoder.go_on(state, self.head, self.series_shape[0]).flip(2).flatten(2)

    def errors(self, x: Tensor) -> Tensor:
        """Return the mean squared errors, of shape (S, n)."""
        return cast(Tensor, (self(x) - x).square().mean(dim=2))
