"""How parameters are updated: for how long, how fast, by which loss, and each member at its own rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

PATIENCE = 20

Loss = Callable[..., Tensor]
Rate = float | Sequence[float]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to train.

    Attributes
    ----------
    epochs : int
        At most so many passes over the training rows; early stopping may end sooner.
    batch_size : int
        Rows of one step, for each member; a larger one than there are rows means all of them.
    learning_rate : float, or one for each member
        Of Adam at the first epoch; it falls to zero along half a cosine.
    weight_decay : float, or one for each member
        Coefficient of Adam's L2 penalty.
    patience : int or None
        Epochs without a better held-out loss after which a member stops. None: no rows are held out, and
        the parameters of the last epoch are kept.
    """

    epochs: int
    batch_size: int
    learning_rate: Rate
    weight_decay: Rate
    patience: int | None = PATIENCE

    def share(self, epoch: int) -> float:
        """Return the share of the learning rate that is left in an epoch, counted from 0."""
        return 0.5 * (1.0 + math.cos(math.pi * epoch / self.epochs))


@dataclass(frozen=True, slots=True)
class Step:
    """One update within each batch: some parameters, by their loss.

    Attributes
    ----------
    loss : callable
        As for `train`.
    parameters : sequence of Parameter
        Those of the network that this loss updates, with moments of their own.
    """

    loss: Loss
    parameters: Sequence[nn.Parameter]


class Update:
    """One step with its optimiser; members may have their own learning rate and weight decay.

    Adam's step is proportional to the learning rate, so that a member with a share of the highest rate goes
    that share of the way.
    """

    def __init__(self, step: Step, schedule: Schedule, members: int, device: torch.device) -> None:
        self.parameters = list(step.parameters)
        rates = np.broadcast_to(np.asarray(schedule.learning_rate, dtype=np.float64), (members,))
        decays = np.broadcast_to(np.asarray(schedule.weight_decay, dtype=np.float64), (members,))
        self.highest = float(rates.max())
        self.shares = None if (rates == rates[0]).all() else torch.tensor(rates / self.highest).to(device)
        self.decays = None if (decays == decays[0]).all() else torch.tensor(decays).to(device)
        common = float(decays[0]) if self.decays is None else 0.0
        self.optimiser = torch.optim.Adam(self.parameters, lr=self.highest, weight_decay=common, fused=True)

    @torch.no_grad()
    def apply(self) -> None:
        """Take the step by the gradients at hand."""
        for parameter in self.parameters if self.decays is not None else ():
            if parameter.grad is not None:
                parameter.grad += _spread(self.decays, parameter) * parameter
        if self.shares is None:
            self.optimiser.step()
            return
        before = [parameter.clone() for parameter in self.parameters]
        self.optimiser.step()
        for parameter, old in zip(self.parameters, before, strict=True):
            parameter.copy_(old + _spread(self.shares, parameter) * (parameter - old))


def _spread(values: Tensor | None, parameter: Tensor) -> Tensor:
    """Give values of shape (S,) the number of dimensions and the type of a parameter."""
    assert values is not None
    return values.to(parameter.dtype).reshape(-1, *[1] * (parameter.dim() - 1))
