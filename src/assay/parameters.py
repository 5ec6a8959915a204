"""Values that people give, checked in one place."""

from __future__ import annotations

from numbers import Real
from typing import Any

from assay.errors import ConfigError


def check_share(value: Any, what: str) -> float:
    """Return a rate (eps, fdr, ...) as a float; raise `ConfigError` unless it is a number between 0 and 1."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0 < value < 1 or not 0 < float(value) < 1:
        raise ConfigError(
            f"{what} is {value!r}; it must be a number between 0 and 1, both excluded (for instance 0.05)"
        )
    return float(value)
