"""How parameters are updated: for how long, how fast, by which loss, and each member at its own rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

PATIENCE = 20
_BETAS, _EPS = (0.9, 0.999), 1e-8

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
    """One step with the moments of Adam; members may have their own learning rate and weight decay.

    It does what `torch.optim.Adam` does, to the bit, by calling its fused kernel directly: what the optimiser does
    around that takes as long as a small network's forward pass, in every step, and a second before the first one.
    Steps are counted for all parameters together, so that gradients should reach a parameter always or never.

    Adam's step is proportional to the learning rate, so that a member with a share of the highest rate goes
    that share of the way.

    Attributes
    ----------
    parameters : list of Parameter
    highest : float
        The learning rate of the first epoch, of the member with the highest one.
    rate : float
        What it is now; to be set.
    moments : dict of str to list of Tensor
        The running "mean" and "square" of the gradients of each parameter, and the "count" of the steps.
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
        """Take the step by the parameters' gradients; a parameter without one (None) stays as it is."""
        reached = [index for index, gradient in enumerate(gradients) if gradient is not None]
        parameters: list[Tensor] = [self.parameters[index] for index in reached]
        clean = [gradient.contiguous() for gradient in gradients if gradient is not None]
        if self.decays is not None:
            decayed = zip(clean, parameters, strict=True)
            clean = [gradient + _spread(self.decays, parameter) * parameter for gradient, parameter in decayed]
        if self.shares is None:
            self._adam(reached, parameters, clean)
            return
        previous = [parameter.clone() for parameter in parameters]
        self._adam(reached, parameters, clean)
        for parameter, old in zip(parameters, previous, strict=True):
            parameter.copy_(old + _spread(self.shares, parameter) * (parameter - old))

    def _adam(self, reached: list[int], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        """Step those parameters; the kernel takes for granted that all tensors lie in order in memory."""
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
    """Give values of shape (S,) the number of dimensions and the type of a parameter."""
    return values.to(parameter.dtype).reshape(-1, *[1] * (parameter.dim() - 1))
