"""The one training loop of the neural detectors.

S members train as one stacked network (see `assay.networks.mlp`): each has its own stream of random numbers
for its initial parameters, its held-out rows and its batches, its own early stopping and its own best
parameters. So each equals the member that would have been trained alone, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from assay.detectors.base import Progress
from assay.errors import ConfigError, TrainingError

HELD_OUT = 0.1
PATIENCE = 20
EVALUATION_ROWS = 1024

Loss = Callable[..., Tensor]
Losses = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to train.

    Attributes
    ----------
    epochs : int
        At most so many passes over the training rows; early stopping may end sooner.
    batch_size : int
        Rows of one step, for each member; a larger one than there are rows means all of them.
    learning_rate : float
        Of Adam at the first epoch; it falls to zero along half a cosine.
    weight_decay : float
        Coefficient of Adam's L2 penalty.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * epoch / self.epochs))


@contextmanager
def pinned_threads() -> Iterator[None]:
    """Let torch use one thread inside the block, so that sums are always added in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def member_streams(seed: int, members: int) -> list[np.random.Generator]:
    """Return one independent stream for each member; stream s depends on `seed` and s alone."""
    return [np.random.default_rng([seed, member]) for member in range(members)]


def pick_device(name: str) -> torch.device:
    """Return the device called "cpu", "cuda", or "auto" (a GPU if there is one).

    Raises
    ------
    ConfigError
        "cuda" where there is no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: 'cuda' asked for, but there is no GPU here; use 'auto' or 'cpu'")
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu"))


def train(
    network: nn.Module,
    loss: Loss,
    data: Sequence[NDArray[Any]],
    schedule: Schedule,
    streams: Sequence[np.random.Generator],
    *,
    device: torch.device,
    progress: Progress | None = None,
) -> None:
    """Train a stacked network in place; it ends on the CPU with every member's best parameters.

    A seeded tenth of the rows is held out for each member. After every epoch its loss there decides whether
    the member's parameters are kept; 20 epochs without a better one stop the member, and the
    loop ends with the last member.

    Parameters
    ----------
    network : Module
        Parameters of shape (S, ...), initialised.
    loss : callable
        Gets a batch of each array of `data`, of shape (S, batch, ...); returns losses of shape (S, batch).
    data : sequence of ndarray
        Arrays of n rows each, aligned with each other.
    schedule : Schedule
    streams : sequence of Generator
        One for each of the S members.
    device : torch.device
    progress : callable, optional
        Called as ``progress(epoch, epochs, loss)`` after every epoch, counted from 1, with the mean
        training loss of the members that still train.

    Raises
    ------
    TrainingError
        There are fewer than 2 rows; a member's loss is not finite; or no gradient reaches a member.
    """
    n_rows = len(data[0])
    if n_rows < 2:
        raise TrainingError(f"{n_rows} training rows; at least 2 are needed: give more rows")
    with pinned_threads():
        network.to(device)
        _Run(network, loss, data, schedule, streams, device).epochs(progress)
        network.to("cpu")


class _Run:
    """The state of one call of `train`."""

    def __init__(
        self,
        network: nn.Module,
        loss: Loss,
        data: Sequence[NDArray[Any]],
        schedule: Schedule,
        streams: Sequence[np.random.Generator],
        device: torch.device,
    ) -> None:
        self.network, self.loss, self.schedule, self.streams = network, loss, schedule, streams
        self.device = device
        self.data = [torch.tensor(array, device=device) for array in data]
        self.parameters = dict(network.named_parameters())
        self.optimiser = torch.optim.Adam(
            self.parameters.values(),
            lr=schedule.learning_rate,
            weight_decay=schedule.weight_decay,
            fused=True,
        )
        n_rows = len(data[0])
        n_held = max(1, int(HELD_OUT * n_rows))
        orders = np.stack([stream.permutation(n_rows) for stream in streams])
        self.held, self.kept = torch.from_numpy(orders[:, :n_held]).to(device), orders[:, n_held:]
        self.best = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.best_loss = np.full(len(streams), np.inf)
        self.best_epoch = np.zeros(len(streams), dtype=int)
        self.active = np.ones(len(streams), dtype=bool)

    def epochs(self, progress: Progress | None) -> None:
        """Train until the last epoch or until every member has stopped, then restore the best parameters."""
        for epoch in range(self.schedule.epochs):
            self.optimiser.param_groups[0]["lr"] = self.schedule.rate(epoch)
            fitted = self._epoch(epoch)
            held = self._held_out_loss()
            self._require_finite(fitted + held, epoch)
            self._keep_best(held, epoch)
            if progress is not None:
                progress(epoch + 1, self.schedule.epochs, float(fitted[self.active].mean()))
            self.active &= epoch - self.best_epoch < PATIENCE
            if not self.active.any():
                break
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(self.best[name])

    def _losses(self, index: Tensor) -> Tensor:
        """Return the losses, of shape (S, batch), of the rows that an index of that shape picks."""
        return self.loss(*(array[index] for array in self.data))

    def _epoch(self, epoch: int) -> Losses:
        """Take one pass over each member's rows; return the mean losses, of shape (S,)."""
        orders = np.stack([stream.permutation(rows) for stream, rows in zip(self.streams, self.kept, strict=True)])
        n_steps = math.ceil(orders.shape[1] / self.schedule.batch_size)
        total = torch.zeros(len(self.streams), device=self.device)
        self.network.train()
        for step, index in enumerate(torch.from_numpy(orders).to(self.device).tensor_split(n_steps, dim=1)):
            losses = self._losses(index).mean(dim=1)
            self.optimiser.zero_grad(set_to_none=True)
            losses.sum().backward()  # type: ignore[no-untyped-call]
            if epoch == step == 0:
                self._require_gradient()
            self.optimiser.step()
            total += losses.detach()
        mean: Losses = (total / n_steps).cpu().numpy()
        return mean

    def _held_out_loss(self) -> Losses:
        """Return the mean loss of each member on its held-out rows, of shape (S,)."""
        n_chunks = math.ceil(self.held.shape[1] / EVALUATION_ROWS)
        self.network.eval()
        with torch.no_grad():
            parts = [self._losses(index).sum(dim=1) for index in self.held.tensor_split(n_chunks, dim=1)]
        mean: Losses = (torch.stack(parts).sum(dim=0) / self.held.shape[1]).cpu().numpy()
        return mean

    def _keep_best(self, held: Losses, epoch: int) -> None:
        better = self.active & (held < self.best_loss)
        self.best_loss[better], self.best_epoch[better] = held[better], epoch
        for member in np.flatnonzero(better):
            for name, value in self.parameters.items():
                self.best[name][member] = value.detach()[member]

    def _require_finite(self, losses: Losses, epoch: int) -> None:
        bad = np.flatnonzero(self.active & ~np.isfinite(losses))
        if bad.size:
            raise TrainingError(
                f"epoch {epoch + 1}: the loss of member {bad[0]} is {losses[bad[0]]}; it must be finite: "
                f"lower learning_rate (now {self.schedule.learning_rate}) or scale the features"
            )

    def _require_gradient(self) -> None:
        gradients = [value.grad.flatten(1) for value in self.parameters.values() if value.grad is not None]
        silent = [s for s in range(len(self.streams)) if not any(bool(grad[s].any()) for grad in gradients)]
        if silent:
            raise TrainingError(
                f"no gradient reaches member {silent[0]}, so it cannot learn; "
                "check that the training rows are not all alike and that the loss depends on the network"
            )
