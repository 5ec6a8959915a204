"""Score adapters, which change a detector's scores before calibration: protocol and registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

import numpy as np

from assay.arrays import Doubles
from assay.calibration.adapters.outputs import Outputs
from assay.errors import ConfigError
from assay.families import Family, check_part
from assay.parts import Part


class ScoreAdapter(Protocol):
    """Maps a detector's outputs for rows to adapted scores; higher = more anomalous."""

    def fit(self, outputs: Outputs) -> Self:
        """Fit on the outputs for the adapt rows."""
        ...

    def transform(self, outputs: Outputs) -> Doubles:
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

    def transform(self, outputs: Outputs) -> Doubles:
        """Return the scores in float64, shape (n,)."""
        return np.array(outputs.scores, dtype=np.float64)

    def to_part(self) -> Part:
        """Return a part without settings or arrays."""
        return Part("none")

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return an identity adapter."""
        check_part(part, {}, {})
        return cls()


FORMER_AUTO = "auto"
ADAPTERS: dict[str, str] = {
    "none": "assay.calibration.adapters.registry:Identity",
    "cadet": "assay.calibration.adapters.cadet:Cadet",
    "ares": "assay.calibration.adapters.ares:Ares",
}
_FAMILY = Family[ScoreAdapter]("adapter", ADAPTERS)


def make_adapter(name: str, params: Mapping[str, Any]) -> ScoreAdapter:
    """Return an unfitted adapter.

    Raises
    ------
    ConfigError
        The name or a parameter is unknown, or a value is not allowed.
    """
    if name == FORMER_AUTO:
        raise ConfigError(
            f"adapter {name!r} is no more: it took 'none' nearly always; write 'none' in its place in params.yaml "
            "(`assay migrate` does so), or name the adapters to compare: " + ", ".join(sorted(ADAPTERS))
        )
    return _FAMILY.make(name, params)


def load_adapter(part: Part) -> ScoreAdapter:
    """Return the adapter that a part describes.

    Raises
    ------
    ScorerError
        The part is of an unknown kind, or damaged.
    """
    return _FAMILY.load(part)
