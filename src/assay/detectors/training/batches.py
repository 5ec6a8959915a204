"""Batches for training: each member's rows in its own order, on the device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from assay.arrays import Flags, Integers
from assay.detectors.training.updates import Schedule

_HELD_OUT_SHARE = 0.1
EVALUATION_ROWS = 1024


class Batches:
    """The held-out rows of each member, and the batches of each epoch, on the device."""

    def __init__(
        self,
        data: Sequence[NDArray[Any]],
        schedule: Schedule,
        streams: Sequence[np.random.Generator],
        noise: int,
        companions: tuple[Flags, int] | None,
        device: torch.device,
    ) -> None:
        self.data = [_on_device(array, device) for array in data]
        self.streams, self.device, self.noise = list(streams), device, noise
        marked, self.n_companions = companions or (np.zeros(len(data[0]), dtype=np.bool_), 0)
        ordinary, self.companions = np.flatnonzero(~marked), np.flatnonzero(marked)
        n_held = 0 if schedule.patience is None else max(1, int(_HELD_OUT_SHARE * len(ordinary)))
        orders = np.stack([stream.permutation(ordinary) for stream in streams])
        self.held, self.kept = torch.from_numpy(orders[:, :n_held]).to(device), orders[:, n_held:]
        self.held_noise = self._draw_noise(n_held)
        self.n_steps = math.ceil(self.kept.shape[1] / schedule.batch_size)

    def _draw_noise(self, n_rows: int) -> Tensor:
        drawn = [stream.standard_normal((n_rows, self.noise), dtype=np.float32) for stream in self.streams]
        return torch.from_numpy(np.stack(drawn)).to(self.device)

    def _draw_companions(self) -> Integers:
        """Return the companions of all batches of an epoch, of shape (S, batches * companions per batch)."""
        n_needed = self.n_steps * self.n_companions
        rounds = math.ceil(n_needed / len(self.companions))
        drawn = [
            np.concatenate([stream.permutation(self.companions) for _ in range(rounds)])[:n_needed]
            for stream in self.streams
        ]
        return np.stack(drawn)

    def epoch(self) -> Iterator[list[Tensor]]:
        """Yield the batches of one pass over each member's rows."""
        orders = np.stack([stream.permutation(rows) for stream, rows in zip(self.streams, self.kept, strict=True)])
        index = torch.from_numpy(orders).to(self.device).tensor_split(self.n_steps, dim=1)
        if self.n_companions:
            joined = torch.from_numpy(self._draw_companions()).to(self.device).tensor_split(self.n_steps, dim=1)
            index = tuple(torch.cat(pair, dim=1) for pair in zip(index, joined, strict=True))
        for rows in index:
            yield self._pick(rows, self._draw_noise(rows.shape[1]) if self.noise else None)

    def held_out(self) -> Iterator[list[Tensor]]:
        """Yield the held-out rows in chunks."""
        n_chunks = math.ceil(self.held.shape[1] / EVALUATION_ROWS)
        chunks = self.held_noise.tensor_split(n_chunks, dim=1)
        for rows, drawn in zip(self.held.tensor_split(n_chunks, dim=1), chunks, strict=True):
            yield self._pick(rows, drawn if self.noise else None)

    def _pick(self, rows: Tensor, noise: Tensor | None) -> list[Tensor]:
        picked = [array[rows] for array in self.data]
        return picked if noise is None else [*picked, noise]


def _on_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Return an array as a tensor: on the CPU the array itself, of which a mapped file never has to be in memory.

    Nothing changes it: batches are copies of rows.
    """
    in_place = device.type == "cpu" and array.flags.writeable and array.flags.c_contiguous
    return torch.from_numpy(array) if in_place else torch.tensor(array, device=device)
