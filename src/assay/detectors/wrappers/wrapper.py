"""The base of wrappers: detectors that make, check, store and load inner detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from annotated_types import Len
from numpy.typing import NDArray

from assay.arrays import Labels, Singles
from assay.data.modalities.registry import modality_of_network
from assay.detectors.base import (
    Detector,
    EpochProgress,
    Parametrised,
    check_labels,
    check_rows,
    require_fitted,
    score_is_squared,
)
from assay.errors import ConfigError
from assay.families import Heads, check_part, inner_part, stored_parameters
from assay.parameters import Count, Device, ImageShape, Says, Seed, SeriesShape, check_parameters, plain_parameters
from assay.parts import Array, Part

Inner = Annotated[
    str | Annotated[Mapping[str, Mapping[str, Any] | None], Len(1, 1)],
    Says("the name of a detector, or {name: {parameter: value}}"),
]


@dataclass(kw_only=True, eq=False, repr=False)
class WrapperOfSome(Parametrised):
    """Base of the detectors that wrap other detectors, which `_named` names.

    A subclass fits one or more inner detectors in `_fit`, returns them in `_inner`, and takes loaded ones in
    `_restore`. If it `passes_labels`, the inner detectors get the labels and may be ones that learn from them.
    """

    kind: ClassVar[str]
    passes_labels: ClassVar[bool] = False
    stored: ClassVar[Mapping[str, str]] = {}  # dtype and dimensions of its own arrays, see `assay.families.check_part`
    uses_labels = False  # as the inner detector; set by `check`

    image_shape: ImageShape | None = None
    series_shape: SeriesShape | None = None
    device: Device = "auto"
    seed: Seed = 0

    def fit(self, X: Singles, y: NDArray[Any] | None = None, *, progress: EpochProgress | None = None) -> Self:
        """Fit on rows of shape (n, d).

        Raises
        ------
        ConfigError
            A constructor argument is not allowed, the inner detector or one of its parameters is unknown, or it
            learns from labels, which the wrapper does not pass on.
        InputError
            The rows are not a finite array of shape (n, d), or the labels do not fit (see
            `assay.detectors.base.check_labels`).
        TrainingError
            The inner detector cannot be fitted.
        """
        self.check()
        rows = check_rows(X)
        labels = check_labels(self.kind, y, len(rows), uses_labels=self.uses_labels)
        self._fit(rows, labels, progress)
        self.n_features_in_ = rows.shape[1]
        return self

    def check(self) -> Self:
        """Check the constructor arguments and those of the inner detector; raise `ConfigError`."""
        check_parameters(f"detector {self.kind!r}", type(self), self.get_params(deep=False))
        inner = [self._made(named, self.seed) for named in self._named()]
        self.uses_labels = any(detector.uses_labels for detector in inner)
        return self

    def to_part(self) -> Part:
        """Return one part with those of the inner detectors; array names are prefixed with the detector's number."""
        require_fitted(self, "n_features_in_")
        params = plain_parameters(self.get_params(deep=False))
        del params["device"]
        config: dict[str, Any] = {"params": params, "n_features": self.n_features_in_, "inner": []}
        arrays = self._own_arrays()
        for i, detector in enumerate(self._inner()):
            part = detector.to_part()
            config["inner"].append({"kind": part.kind, "config": part.config})
            arrays |= {f"{i}.{name}": array for name, array in part.arrays.items()}
        return Part(self.kind, config, arrays)

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Rebuild the wrapper from its part, without its attributes about the training rows."""
        from assay.detectors.registry import load_detector

        heads = part.config.get("inner")
        prefixes = [f"{i}." for i in range(len(heads) if isinstance(heads, list) else 0)]
        wrapper_arrays = {name: array for name, array in part.arrays.items() if not name.startswith(tuple(prefixes))}
        config = {"params": stored_parameters(cls, without=("device",)), "n_features": Count, "inner": Heads}
        check_part(Part(part.kind, part.config, wrapper_arrays), config, cls.stored)
        wrapper = cls(**part.config["params"])
        loaded = [
            load_detector(inner_part(part, prefix, head))
            for prefix, head in zip(prefixes, part.config["inner"], strict=True)
        ]
        if {detector.n_features_in_ for detector in loaded} != {part.config["n_features"]}:
            raise ValueError("its inner detectors have another width, or there are none")
        wrapper.n_features_in_ = part.config["n_features"]
        wrapper._restore(loaded, wrapper_arrays)
        wrapper.uses_labels = any(detector.uses_labels for detector in loaded)
        return wrapper

    @property
    def n_left_out_(self) -> int:
        """The most rows that an inner detector was given and did not use."""
        return max(getattr(detector, "n_left_out_", 0) for detector in self._inner())

    @property
    def squared_score(self) -> bool:
        """Whether the scores of the inner detectors, and so their mean, are squares."""
        return all(score_is_squared(detector) for detector in self._inner())

    def _made(self, named: Inner, seed: int) -> Detector:
        """Return an unfitted inner detector by its name and parameters."""
        from assay.detectors.registry import make_detector

        if isinstance(named, str):
            name, params = named, None
        else:
            ((name, params),) = named.items()
        inner = make_detector(
            name,
            params or {},
            seed=seed,
            modality=modality_of_network(self.image_shape, self.series_shape),
            device=self.device,
        )
        if inner.uses_labels and not self.passes_labels:
            raise ConfigError(
                f"detector {self.kind!r} does not pass labels on, and {name!r} learns from them: "
                f"use {name!r} without the wrapper, or wrap another detector"
            )
        return inner

    def _named(self) -> Sequence[Inner]:
        raise NotImplementedError

    def _own_arrays(self) -> dict[str, Array]:
        """Return the arrays that the wrapper stores in addition to its inner detectors."""
        return {}

    def _fit(self, rows: Singles, labels: Labels, progress: EpochProgress | None) -> None:
        raise NotImplementedError

    def _inner(self) -> list[Detector]:
        raise NotImplementedError

    def _restore(self, loaded: list[Detector], arrays: Mapping[str, NDArray[np.generic]]) -> None:
        raise NotImplementedError


@dataclass(kw_only=True, eq=False, repr=False)
class Wrapper(WrapperOfSome):
    """Base of the detectors that wrap one other detector, fitted once or several times."""

    detector: Inner = "knn"

    def _new(self, seed: int) -> Detector:
        """Return an unfitted inner detector."""
        return self._made(self.detector, seed)

    def _named(self) -> Sequence[Inner]:
        return [self.detector]
