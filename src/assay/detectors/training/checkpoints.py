"""The state of a training on disk, so that an interrupted training can be resumed with the same result."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from assay.detectors.training.batches import Batches
from assay.detectors.training.updates import Update
from assay.parts import parse_json

SECONDS_BETWEEN = 20.0
LAYOUT = "2"  # version of the file format; files of other versions are ignored


def fingerprint(arrays: Iterable[NDArray[Any]], texts: Iterable[str]) -> str:
    """Return a hash of everything that a training starts from."""
    digest = hashlib.sha256("\n".join([LAYOUT, *texts]).encode())
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class Resumable(Protocol):
    """The state of a training that is saved, and restored when it is resumed."""

    batches: Batches
    updates: list[Update]
    state: dict[str, Tensor]
    best: dict[str, Tensor]
    best_loss: NDArray[Any]
    best_epoch: NDArray[Any]
    active: NDArray[Any]
    first_step: bool


class Checkpoint:
    """A file that holds the latest saved state of one training; the state of another training is ignored.

    Parameters
    ----------
    path : Path
        Written under a temporary name, then renamed.
    key : str
        `fingerprint` of what the training starts from.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self.saved = time.monotonic()

    def save(self, run: Resumable, epochs: int, *, last: bool) -> None:
        """Save the state after `epochs` epochs: always after the last one, otherwise every twenty seconds."""
        if not last and time.monotonic() - self.saved < SECONDS_BETWEEN:
            return
        record = {
            "key": self.key,
            "epochs": epochs,
            "streams": [stream.bit_generator.state for stream in run.batches.streams],
            "best_loss": run.best_loss.tolist(),
            "best_epoch": run.best_epoch.tolist(),
            "active": run.active.tolist(),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(self.path.name + ".tmp")
        save_file(_tensors(run), temporary, metadata={"state": json.dumps(record)})
        temporary.replace(self.path)
        self.saved = time.monotonic()

    def load(self, run: Resumable) -> int:
        """Restore the saved state of this training; return its number of finished epochs, 0 if there is none."""
        try:
            with safe_open(self.path, framework="pt") as file:
                record = parse_json(file.metadata()["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return 0
        if record.get("key") != self.key:
            return 0
        _restore(run, tensors)
        for stream, state in zip(run.batches.streams, record["streams"], strict=True):
            stream.bit_generator.state = state
        run.best_loss = np.array(record["best_loss"])
        run.best_epoch = np.array(record["best_epoch"])
        run.active = np.array(record["active"])
        run.first_step = False
        return int(record["epochs"])


def _tensors(run: Resumable) -> dict[str, Tensor]:
    tensors = {f"state.{name}": value.detach() for name, value in run.state.items()}
    tensors |= {f"best.{name}": value for name, value in run.best.items()} | _moments(run)
    return {name: value.cpu().contiguous().clone() for name, value in tensors.items()}


def _moments(run: Resumable) -> dict[str, Tensor]:
    return {
        f"moment.{number}.{name}.{index}": value
        for number, update in enumerate(run.updates)
        for name, values in update.moments.items()
        for index, value in enumerate(values)
    }


def _restore(run: Resumable, tensors: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in run.state.items():
            value.copy_(tensors[f"state.{name}"])
            run.best[name].copy_(tensors[f"best.{name}"])
        for name, value in _moments(run).items():
            value.copy_(tensors[name])
