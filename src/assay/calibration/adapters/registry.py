"""Score adapters: what is done to a detector's score before it is calibrated."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from assay.calibration.adapters.ares import Ares
from assay.calibration.adapters.cadet import Cadet
from assay.calibration.adapters.outputs import Outputs
from assay.errors import ConfigError, ScorerError
from assay.parts import Part


class ScoreAdapter(Protocol):
    """Maps a detector's outputs for a row to an adapted score; higher = more anomalous."""

    def fit(self, outputs: Outputs) -> Self:
        """Fit on the outputs for the adapt rows."""
        ...

    def transform(self, outputs: Outputs) -> NDArray[np.float64]:
        """Return adapted scores, shape (n,)."""
        ...

    def to_part(self) -> Part:
        """Return the fitted adapter as a part."""
        ...

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the adapter that `to_part` described."""
        ...


class Identity:
    """Leaves scores as they are."""

    def fit(self, outputs: Outputs) -> Self:
        """Learn nothing."""
        return self

    def transform(self, outputs: Outputs) -> NDArray[np.float64]:
        """Return the scores in float64, shape (n,)."""
        return np.array(outputs.scores, dtype=np.float64)

    def to_part(self) -> Part:
        """Return a part without settings and arrays."""
        return Part("none")

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return an identity adapter."""
        return cls()


ADAPTERS: dict[str, type[Identity] | type[Cadet] | type[Ares]] = {"none": Identity, "cadet": Cadet, "ares": Ares}
AUTO = "auto"


def auto_candidates() -> dict[str, ScoreAdapter]:
    """Return the unfitted adapters that "auto" chooses from, "none" first."""
    no_prior = Cadet(prior_weight=0)
    return {"none": Identity(), "cadet": Cadet(), "cadet-no-prior": no_prior, "ares": Ares()}


def check_adapter(name: str, params: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where params.yaml may not name an adapter like that."""
    if name == AUTO:
        if params:
            raise ConfigError(f"adapter 'auto' takes no parameters; drop {sorted(params)[0]!r}")
        return
    make_adapter(name, params)


def make_adapter(name: str, params: Mapping[str, Any]) -> ScoreAdapter:
    """Return an unfitted adapter.

    Raises
    ------
    ConfigError
        The name or a parameter is unknown, or a parameter is out of range.
    """
    if name not in ADAPTERS:
        raise ConfigError(f"adapter {name!r} is unknown; choose one of {sorted([AUTO, *ADAPTERS])}")
    allowed = list(inspect.signature(ADAPTERS[name]).parameters)
    unknown = sorted(set(params) - set(allowed))
    if unknown:
        raise ConfigError(f"adapter {name!r} has no parameter {unknown[0]!r}; it takes {allowed or 'none'}")
    return ADAPTERS[name](**params)


def load_adapter(part: Part) -> ScoreAdapter:
    """Return the adapter that a part describes; an unknown kind raises `ScorerError`."""
    if part.kind not in ADAPTERS:
        raise ScorerError(f"adapter {part.kind!r} is unknown; this version loads {sorted(ADAPTERS)}")
    return ADAPTERS[part.kind].from_part(part)
