"""The one training loop of the neural detectors.

S members train as one stacked network (see `assay.networks.mlp`): each has its own stream of random numbers
for its initial parameters, held-out rows, batches and noise, its own early stopping and its own best
parameters. So each member equals one trained alone, up to rounding. All data are on the device; batches are
selected by index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from assay.arrays import Flags, Singles
from assay.detectors.base import EpochProgress
from assay.detectors.training.batches import Batches
from assay.detectors.training.checkpoints import Checkpoint, fingerprint
from assay.detectors.training.updates import Loss, Schedule, Step, Update
from assay.errors import ConfigError, TrainingError


@dataclass(frozen=True, slots=True)
class Compute:
    """Device and precision of a training.

    Attributes
    ----------
    device : torch.device
    mixed_precision : bool
        Compute losses in bfloat16 where that is safe; only on a GPU.
    compiled : bool
        Compile the losses; only on a GPU.
    """

    device: torch.device
    mixed_precision: bool = False
    compiled: bool = False


@contextmanager
def pinned_threads() -> Iterator[None]:
    """Use one torch thread inside the block, so that sums are always added in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
        raise ConfigError("device is 'cuda', but there is no GPU on this machine; use 'auto' or 'cpu'")
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu"))


def train_network(
    network: nn.Module,
    loss: Loss | Sequence[Step],
    data: Sequence[NDArray[Any]],
    schedule: Schedule,
    streams: Sequence[np.random.Generator],
    *,
    compute: Compute,
    held_out_loss: Loss | None = None,
    noise: int = 0,
    companions: tuple[Flags, int] | None = None,
    after_epoch: Callable[[int], None] | None = None,
    progress: EpochProgress | None = None,
    checkpoint: Path | None = None,
    settings: str = "",
) -> tuple[int, int]:
    """Train a stacked network in place; it ends on the CPU with every member's best parameters.

    A seeded tenth of the rows is held out for each member. After every epoch the parameters of the members whose
    held-out loss improved are kept; `Schedule.patience` epochs without improvement stop a member, and the loop
    ends with the last member.

    Parameters
    ----------
    network : Module
        Parameters (and buffers, which training may change) of shape (S, ...), initialised.
    loss : callable, or sequence of Step
        Gets a batch of each array of `data`, of shape (S, batch, ...), and the noise if there is any;
        returns losses of shape (S, batch), of which a member's loss is the mean. Several steps are taken
        in order on each batch.
    data : sequence of ndarray
        Arrays of n rows each, aligned with each other.
    schedule : Schedule
    streams : sequence of Generator
        One for each of the S members.
    compute : Compute
    held_out_loss : callable, optional
        The loss for early stopping; by default the loss of the last step.
    noise : int
        Width of standard normal noise that comes with every batch as its last array, (S, batch, noise).
        The noise of the held-out rows is the same in every epoch.
    companions : (ndarray of bool of shape (n,), int), optional
        Marks rows, for instance labelled anomalies, that are not part of the passes; the given number of them is
        appended to every batch, in a separate random order. They are never held out.
    after_epoch : callable, optional
        Called without gradients as ``after_epoch(epoch)``, counted from 0, before the held-out loss.
    progress : callable, optional
        Called as ``progress(epoch, epochs, loss)`` after every epoch, counted from 1, with the mean
        training loss of the members still in training.
    checkpoint : Path, optional
        File that keeps the state during training. If it holds a state of this training (same data, schedule, initial
        state and `settings`), training resumes from it, with the same result.
    settings : str
        Everything else that the result depends on, such as the constants of the loss.

    Returns
    -------
    made, most : int
        Epochs that were made, those before a resumption too, and the most that the schedule allows for so many rows.

    Raises
    ------
    TrainingError
        There are fewer than 2 rows without the companions; a member's loss is not finite; or a member gets no
        gradient.
    """
    _require_rows(len(data[0]), companions)
    with pinned_threads():
        network.to(compute.device)
        steps = [Step(loss, list(network.parameters()))] if callable(loss) else list(loss)
        batches = Batches(data, schedule, streams, noise, companions, compute.device)
        run = _Run(network, steps, held_out_loss or steps[-1].loss, batches, schedule.within(batches.n_steps), compute)
        made = run.epochs(after_epoch, progress, _checkpoint(checkpoint, network, data, schedule, streams, settings))
        network.to("cpu")
    return made, run.schedule.epochs


def _require_rows(n_rows: int, companions: tuple[Flags, int] | None) -> None:
    n_ordinary = n_rows if companions is None else int((~companions[0]).sum())
    if n_ordinary < 2:
        excluded = "" if n_ordinary == n_rows else f" that are not labelled anomalies ({n_rows - n_ordinary} are)"
        raise TrainingError(f"{n_ordinary} training rows{excluded}; at least 2 are needed: give more rows")


def _checkpoint(
    path: Path | None,
    network: nn.Module,
    data: Sequence[NDArray[Any]],
    schedule: Schedule,
    streams: Sequence[np.random.Generator],
    settings: str,
) -> Checkpoint | None:
    if path is None:
        return None
    state = [value.detach().cpu().numpy() for value in network.state_dict().values()]
    return Checkpoint(path, fingerprint([*data, *state], [settings, str(schedule), *map(_stream_state, streams)]))


def _stream_state(stream: np.random.Generator) -> str:
    return str(stream.bit_generator.state)


class _Run:
    """The state of one call of `train_network`."""

    def __init__(
        self,
        network: nn.Module,
        steps: Sequence[Step],
        held_out_loss: Loss,
        batches: Batches,
        schedule: Schedule,
        compute: Compute,
    ) -> None:
        self.network, self.batches, self.schedule, self.compute = network, batches, schedule, compute
        self.on_gpu = compute.device.type == "cuda"
        losses = [*(step.loss for step in steps), held_out_loss]
        if compute.compiled and self.on_gpu:
            losses = [torch.compile(loss) for loss in losses]
        self.losses, self.held_out_loss = losses[:-1], losses[-1]
        members = len(batches.streams)
        self.updates = [Update(step, schedule, members, compute.device) for step in steps]
        self.state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        self.best = {name: value.detach().clone() for name, value in self.state.items()}
        self.best_loss = np.full(members, np.inf)
        self.best_epoch = np.zeros(members, dtype=int)
        self.active = np.ones(members, dtype=bool)
        self.first_step = True

    def epochs(
        self, after_epoch: Callable[[int], None] | None, progress: EpochProgress | None, checkpoint: Checkpoint | None
    ) -> int:
        """Train until the last epoch or all members have stopped, restore the best parameters, return the epochs."""
        done = checkpoint.load(self) if checkpoint is not None else 0
        for epoch in range(done, self.schedule.epochs):
            if not self.active.any():
                break
            for update in self.updates:
                update.rate = update.highest * self.schedule.share(epoch)
            fitted = self._epoch()
            done = epoch + 1
            if after_epoch is not None:
                with torch.no_grad():
                    after_epoch(epoch)
            held = fitted if self.schedule.patience is None else self._held_out()
            self._require_finite(fitted + held, epoch)
            if self.schedule.patience is not None:
                self._keep_best(held, epoch, self.schedule.patience)
            if progress is not None:
                progress(done, self.schedule.epochs, float(fitted[self.active].mean()) if self.active.any() else 0)
            if checkpoint is not None:
                checkpoint.save(self, done, last=done == self.schedule.epochs or not self.active.any())
        if self.schedule.patience is not None:
            self.restore_best()
        return done

    @torch.no_grad()
    def restore_best(self) -> None:
        """Restore every member's best parameters."""
        for name, value in self.state.items():
            value.copy_(self.best[name])

    def _losses(self, loss: Loss, batch: list[Tensor]) -> Tensor:
        """Return the losses, of shape (S, batch)."""
        if not (self.compute.mixed_precision and self.on_gpu):
            return loss(*batch)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return loss(*batch).float()

    def _epoch(self) -> Singles:
        """Make one pass over each member's rows; return the mean losses of the last step, of shape (S,)."""
        total = torch.zeros(len(self.active), device=self.compute.device)
        self.network.train()
        for batch in self.batches.epoch():
            for loss, update in zip(self.losses, self.updates, strict=True):
                losses = self._losses(loss, batch).mean(dim=1)
                # The gradient of a sum over members is each member's own: no parameter belongs to two.
                gradients = torch.autograd.grad(losses.sum(), update.parameters, allow_unused=True)
                if self.first_step:
                    self._require_gradient(gradients)
                update.apply(gradients)
            self.first_step = False
            total += losses.detach()
        mean: Singles = (total / self.batches.n_steps).cpu().numpy()
        return mean

    def _held_out(self) -> Singles:
        """Return the mean loss of each member on its held-out rows, of shape (S,)."""
        self.network.eval()
        with torch.no_grad():
            parts = [self._losses(self.held_out_loss, batch).sum(dim=1) for batch in self.batches.held_out()]
        mean: Singles = (torch.stack(parts).sum(dim=0) / self.batches.held.shape[1]).cpu().numpy()
        return mean

    @torch.no_grad()
    def _keep_best(self, held: Singles, epoch: int, patience: int) -> None:
        better = self.active & (held < self.best_loss)
        self.best_loss[better], self.best_epoch[better] = held[better], epoch
        for name, value in self.state.items():
            if better.all():
                self.best[name].copy_(value)
            else:
                for member in np.flatnonzero(better):
                    self.best[name][member] = value[member]
        self.active &= epoch - self.best_epoch < patience

    def _require_finite(self, losses: Singles, epoch: int) -> None:
        bad = np.flatnonzero(self.active & ~np.isfinite(losses))
        if bad.size:
            raise TrainingError(
                f"epoch {epoch + 1}: the loss of member {bad[0]} is {losses[bad[0]]}; it must be finite: "
                f"lower learning_rate (now {self.schedule.learning_rate}) or scale the features"
            )

    def _require_gradient(self, gradients: Sequence[Tensor | None]) -> None:
        reached = [gradient for gradient in gradients if gradient is not None]
        silent = [s for s in range(len(self.active)) if not any(bool(gradient[s].any()) for gradient in reached)]
        if silent:
            raise TrainingError(
                f"no gradient reaches member {silent[0]}, so it cannot learn; "
                "check that the training rows are not all alike and that the loss depends on the network"
            )
