"""Parameter updates: schedule, loss and Adam steps with a learning rate for each member."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

PATIENCE = 20
_BETAS, _EPS = (0.9, 0.999), 1e-8

Loss = Callable[..., Tensor]
Rate = float | Sequence[float]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Length and speed of a training.

    Attributes
    ----------
    epochs : int
        Maximum number of passes over the training rows; early stopping may end sooner.
    batch_size : int
        Rows per step and member; more than there are rows means all of them.
    learning_rate : float, or one for each member
        Adam's learning rate in the first epoch; it falls to zero along half a cosine.
    weight_decay : float, or one for each member
        Coefficient of Adam's L2 penalty.
    patience : int or None
        Epochs without a better held-out loss after which a member stops. None: no rows are held out, and
        the parameters of the last epoch are kept.
    max_steps : int or None
        So many steps of each member, rounded up to a whole epoch, are the most; None: as many as the epochs have.
    """

    epochs: int
    batch_size: int
    learning_rate: Rate
    weight_decay: Rate
    patience: int | None = PATIENCE
    max_steps: int | None = None

    def within(self, n_steps: int) -> Schedule:
        """Return the schedule for epochs of so many steps, with no more of these than `max_steps` allows."""
        return self if self.max_steps is None else replace(self, epochs=min(self.epochs, -(-self.max_steps // n_steps)))

    def share(self, epoch: int) -> float:
        """Return the remaining share of the learning rate in an epoch, counted from 0."""
        return 0.5 * (1.0 + math.cos(math.pi * epoch / self.epochs))


@dataclass(frozen=True, slots=True)
class Step:
    """One update within each batch: a loss and the parameters that it updates.

    Attributes
    ----------
    loss : callable
        As for `train`.
    parameters : sequence of Parameter
        Parameters of the network that this loss updates; each step has its own moments.
    """

    loss: Loss
    parameters: Sequence[nn.Parameter]


class Update:
    """Adam with a learning rate and weight decay for each member.

    It is bitwise equal to `torch.optim.Adam` but calls the fused kernel directly: the optimiser's overhead takes as
    long as a small network's forward pass in every step, and a second before the first one. All parameters share
    one step count, so that gradients must reach a parameter always or never.

    Adam's step is proportional to the learning rate, so that a member with a share of the highest rate takes
    that share of the step.

    Attributes
    ----------
    parameters : list of Parameter
    highest : float
        The highest learning rate of all members in the first epoch.
    rate : float
        The current highest learning rate; set by the training loop.
    moments : dict of str to list of Tensor
        The running "mean" and "square" of the gradients of each parameter, and the "count" of steps.
    """

    def __init__(self, step: Step, schedule: Schedule, members: int, device: torch.device) -> None:
        self.parameters = list(step.parameters)
        rates = np.broadcast_to(np.asarray(schedule.learning_rate, dtype=np.float64), (members,))
        decays = np.broadcast_to(np.asarray(schedule.weight_decay, dtype=np.float64), (members,))
        self.highest = self.rate = float(rates.max())
        self.shares = None if (rates == rates[0]).all() else torch.tensor(rates / self.highest).to(device)
        self.decays = None if (decays == decays[0]).all() else torch.tensor(decays).to(device)
        self.decay = float(decays[0]) if self.decays is None else 0.0
        self.moments = {
            "mean": [torch.zeros_like(parameter) for parameter in self.parameters],
            "square": [torch.zeros_like(parameter) for parameter in self.parameters],
            "count": [torch.zeros((), device=device)],
        }

    @torch.no_grad()
    def apply(self, gradients: Sequence[Tensor | None]) -> None:
        """Take one step with the parameters' gradients; parameters without gradient (None) do not change."""
        reached = [index for index, gradient in enumerate(gradients) if gradient is not None]
        parameters: list[Tensor] = [self.parameters[index] for index in reached]
        usable = [gradient.contiguous() for gradient in gradients if gradient is not None]
        if self.decays is not None:
            decayed = zip(usable, parameters, strict=True)
            usable = [gradient + _spread(self.decays, parameter) * parameter for gradient, parameter in decayed]
        if self.shares is None:
            self._adam(reached, parameters, usable)
            return
        previous = [parameter.clone() for parameter in parameters]
        self._adam(reached, parameters, usable)
        for parameter, old in zip(parameters, previous, strict=True):
            parameter.copy_(old + _spread(self.shares, parameter) * (parameter - old))

    def _adam(self, reached: list[int], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        """Step the parameters; the kernel requires contiguous tensors."""
        (count,) = self.moments["count"]
        count += 1
        torch._fused_adam_(
            parameters,
            gradients,
            [self.moments["mean"][index] for index in reached],
            [self.moments["square"][index] for index in reached],
            [],
            [count] * len(reached),
            lr=self.rate,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            weight_decay=self.decay,
            eps=_EPS,
            amsgrad=False,
            maximize=False,
        )


def _spread(values: Tensor, parameter: Tensor) -> Tensor:
    """Return values of shape (S,) reshaped and cast to broadcast over a parameter."""
    return values.to(parameter.dtype).reshape(-1, *[1] * (parameter.dim() - 1))
