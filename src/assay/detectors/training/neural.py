"""The base of the neural detectors: fits all members as one network, scores in float64, stores all members."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from assay.arrays import FLOAT32_MAX, Doubles, Labels, Singles
from assay.detectors.base import (
    EpochProgress,
    Parametrised,
    check_labels,
    check_rows,
    require_fitted,
    require_varied,
    score_in_chunks,
)
from assay.detectors.training.loop import Compute, member_streams, pick_device, train_network
from assay.detectors.training.updates import Loss, Schedule, Step
from assay.errors import ConfigError
from assay.families import check_arrays, check_part, stored_parameters
from assay.networks.mlp import initialise
from assay.parameters import (
    Count,
    Device,
    Members,
    NotNegativeRates,
    PositiveRates,
    Seed,
    check_parameters,
    plain_parameters,
)
from assay.parts import Part

NETWORK_ROWS, MEMBER_ROWS = 512, 6400  # rows at once, and members times rows: more do not fit the processor's cache
_NOT_NEGATIVE = ("variance", "floor")
DEVICE_ARGUMENTS = ("device", "mixed_precision", "compiled")


@dataclass(frozen=True, slots=True)
class Fitting:
    """One call of `fit`: the data shared by its training phases.

    Attributes
    ----------
    rows : ndarray of float32, shape (n, d)
    labels : ndarray of int8, shape (n,)
        0, 1 and -1.
    network : Module
        The stacked members, initialised.
    streams : list of Generator
        One for each member.
    compute : Compute
    total : int
        Epochs of all phases, for the progress.
    settings : str
        The detector and its arguments; the saved state of other ones is not resumed.
    notes : list of str
        Fallbacks that were taken, for the record of the run.
    """

    rows: Singles
    labels: Labels
    network: nn.Module
    streams: list[np.random.Generator]
    compute: Compute
    total: int
    progress: EpochProgress | None = None
    checkpoint: Path | None = None
    settings: str = ""
    notes: list[str] = field(default_factory=list)

    def run(
        self,
        loss: Loss | Sequence[Step],
        data: Sequence[NDArray[Any]],
        schedule: Schedule,
        *,
        network: nn.Module | None = None,
        finished: int = 0,
        **options: Any,
    ) -> None:
        """Train one phase; see `assay.detectors.training.loop.train_network` for the arguments.

        Parameters
        ----------
        network : Module, optional
            The part of the network that the phase trains, if not all of it.
        finished : int
            Epochs of the previous phases.
        """
        if schedule.batch_size > len(data[0]):
            note = f"batch_size {schedule.batch_size} > {len(data[0])} training rows: every step takes all of them"
            if note not in self.notes:
                self.notes.append(note)

        def report(epoch: int, epochs: int, loss: float) -> None:
            if self.progress is not None:
                self.progress(finished + epoch, self.total - schedule.epochs + epochs, loss)

        checkpoint = self.checkpoint and self.checkpoint.with_name(f"{self.checkpoint.name}.{finished}.safetensors")
        trained = self.network if network is None else network
        made, most = train_network(
            trained,
            loss,
            data,
            schedule,
            self.streams,
            compute=self.compute,
            progress=report,
            checkpoint=checkpoint,
            settings=self.settings,
            **options,
        )
        if made == most < schedule.epochs:
            self.notes.append(f"max_steps {schedule.max_steps}: {most} epochs, not {schedule.epochs}")


@dataclass(kw_only=True, eq=False, repr=False)
class NeuralDetector(Parametrised):
    """Base of the detectors that are S stacked networks; their score is the mean of the members' scores.

    A subclass declares its parameters like those below (and may change their defaults), and defines `kind`,
    `_build`, `_train` and `_member_scores`. Scores are computed on the CPU in float64, also for members trained on
    a GPU, and rounded once.

    Parameters
    ----------
    epochs, batch_size, learning_rate, weight_decay
        See `assay.detectors.training.loop.Schedule`.
    members : int
        S, the number of networks, which differ by their random streams.
    device : {"auto", "cpu", "cuda"}
        Where to train; "auto" uses a GPU if there is one.
    mixed_precision, compiled : bool
        See `assay.detectors.training.loop.Compute`; used only on a GPU.
    seed : int
        Member s draws from a stream derived from (seed, s).

    Attributes
    ----------
    n_features_in_ : int
        Width of the rows.
    network_ : Module
        The stacked members, in float64, in evaluation mode.
    notes_ : tuple of str
        Fallbacks taken in training.
    """

    kind: ClassVar[str]
    uses_labels: ClassVar[bool] = False
    resumes: ClassVar[bool] = True
    added: ClassVar[tuple[str, ...]] = ()  # parameters that came later: parts leave them out at their defaults

    epochs: Count = 150
    batch_size: Count = 128
    learning_rate: PositiveRates = 3e-3
    weight_decay: NotNegativeRates = 1e-6
    members: Members = 5
    device: Device = "auto"
    mixed_precision: bool = False
    compiled: bool = False
    seed: Seed = 0

    def fit(
        self,
        X: Singles,
        y: NDArray[Any] | None = None,
        *,
        progress: EpochProgress | None = None,
        checkpoint: Path | None = None,
    ) -> Self:
        """Train on rows of shape (n, d) with labels of shape (n,): 0 normal, 1 anomaly, -1 unknown.

        `checkpoint` is the prefix of the files that keep the state during training; a call with the same rows and
        arguments resumes from them, with the same result.

        Raises
        ------
        ConfigError
            A constructor argument is not allowed, or does not fit the rows.
        InputError
            The rows are not a finite array of shape (n, d), or the labels do not fit (see
            `assay.detectors.base.check_labels`).
        TrainingError
            See `assay.detectors.training.loop.train_network`; also if all training rows get the same score.
        """
        self.check()
        rows = check_rows(X)
        labels = check_labels(self.kind, y, len(rows), uses_labels=self.uses_labels)
        network = self._build(rows.shape[1])
        streams = member_streams(self.seed, self.members)
        initialise(network, streams)
        compute = Compute(pick_device(self.device), self.mixed_precision, self.compiled)
        settings = f"{self.kind} {plain_parameters(self.get_params(deep=False))} {compute}"
        fitting = Fitting(rows, labels, network, streams, compute, self._total_epochs(), progress, checkpoint, settings)
        self._train(fitting)
        self._settle(network, rows.shape[1], tuple(fitting.notes))
        require_varied(self.kind, self.decision_function(rows))
        return self

    def check(self) -> Self:
        """Check the constructor arguments; raise `ConfigError`."""
        params = self.get_params(deep=False)
        check_parameters(f"detector {self.kind!r}", type(self), params)
        require_one_each(self.kind, self.members, params)
        return self

    def decision_function(self, X: Singles) -> Singles:
        """Return scores of shape (n,) of rows (n, d); higher = more anomalous.

        A score beyond float32 becomes its largest value, never infinity.
        """
        require_fitted(self, "network_")
        return score_in_chunks(self._mean_scores, check_rows(X, self.n_features_in_), chunk=self._chunk)

    def to_part(self) -> Part:
        """Return the parameters of all members, without the arguments about the device."""
        require_fitted(self, "network_")
        params = plain_parameters(self.get_params(deep=False))
        defaults = plain_parameters({name: getattr(type(self), name) for name in self.added})
        for name in (*DEVICE_ARGUMENTS, *(name for name, value in defaults.items() if params[name] == value)):
            del params[name]
        config = {"params": params, "n_features": self.n_features_in_, "notes": list(self.notes_)}
        state = self.network_.state_dict()
        return Part(self.kind, config, {name: value.float().numpy() for name, value in state.items()})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Rebuild the detector from its part."""
        params = stored_parameters(cls, without=DEVICE_ARGUMENTS)
        for name in cls.added:
            params[f"{name}?"] = params.pop(name)
        config = {"params": params, "n_features": Count, "notes?": tuple[str, ...]}
        check_part(part, config, {"*": "float32 ..."})
        detector = cls(**part.config["params"])
        with torch.device("meta"):  # shapes alone: a damaged part may name a network of any size
            state = detector._build(part.config["n_features"]).state_dict()
        check_arrays(part, {name: _described(name, value) for name, value in state.items()})
        network = detector._build(part.config["n_features"])
        network.load_state_dict({name: torch.tensor(array) for name, array in part.arrays.items()})
        detector._settle(network, part.config["n_features"], tuple(part.config.get("notes", ())))
        return detector

    def _build(self, n_features: int) -> nn.Module:
        """Return the stacked network, not yet initialised: parameters and buffers have shape (S, ...)."""
        raise NotImplementedError

    def _train(self, fitting: Fitting) -> None:
        """Train `fitting.network` in one or several phases, by `Fitting.run`."""
        raise NotImplementedError

    def _member_scores(self, x: Tensor) -> Tensor:
        """Return each member's scores, of shape (S, n), of stacked rows x, of shape (S, n, d), in float64."""
        raise NotImplementedError

    def _total_epochs(self) -> int:
        return self.epochs

    def _schedule(self, **changes: Any) -> Schedule:
        """Return the schedule of the constructor arguments, with some changes."""
        settings = {name: getattr(self, name) for name in ("epochs", "batch_size")}
        settings |= {name: per_member(getattr(self, name)) for name in ("learning_rate", "weight_decay")}
        return Schedule(**(settings | changes))

    def _settle(self, network: nn.Module, n_features: int, notes: tuple[str, ...]) -> None:
        """Store a trained network, ready to score."""
        self.network_: Any = network.double().eval()
        self.n_features_in_ = n_features
        self.notes_ = notes

    @property
    def _chunk(self) -> int:
        return max(1, min(NETWORK_ROWS, MEMBER_ROWS // self.members))

    def _stacked(self, rows: Singles) -> Tensor:
        """Return rows (n, d) in float64 for every member, of shape (S, n, d)."""
        return torch.tensor(rows, dtype=torch.float64).expand(self.members, -1, -1)

    def _mean_scores(self, rows: Singles) -> Doubles:
        with torch.inference_mode():
            scores: Doubles = self._member_scores(self._stacked(rows)).mean(dim=0).numpy()
        return np.clip(scores, -FLOAT32_MAX, FLOAT32_MAX)

    def _mapped(self, function: Callable[[Tensor], Tensor], X: Singles) -> Singles:
        """Apply a function of stacked rows to checked rows, in chunks; return finite float32 of shape (S, n, ...)."""
        rows = check_rows(X, self.n_features_in_)
        starts = range(0, max(1, len(rows)), self._chunk)
        with torch.inference_mode():
            parts = (function(self._stacked(rows[i : i + self._chunk])) for i in starts)
            finite = [part.clamp(-FLOAT32_MAX, FLOAT32_MAX).float().numpy() for part in parts]
        return np.concatenate(finite, axis=1)


def per_member(value: float | Sequence[float]) -> float | tuple[float, ...]:
    """Return one number for all members as float, or one for each member as a tuple."""
    return tuple(value) if isinstance(value, list | tuple) else float(value)  # type: ignore[arg-type]


def require_one_each(kind: str, members: int, params: dict[str, Any]) -> None:
    """Raise `ConfigError` if a list of rates does not have one number for each member."""
    for name in ("learning_rate", "weight_decay"):
        value = params[name]
        if isinstance(value, list | tuple) and len(value) != members:
            raise ConfigError(
                f"detector {kind!r}: {name} lists {len(value)} numbers for {members} members; "
                "give one number, or one for each member"
            )


def _described(name: str, value: Tensor) -> str:
    """Return what `check_arrays` checks of an array of the network."""
    interval = " in [0,)" if name.rpartition(".")[2] in _NOT_NEGATIVE else ""
    return " ".join(map(str, ("float32", *value.shape))) + interval
