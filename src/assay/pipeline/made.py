"""What a verb hands back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Made(Generic[T_co]):
    """What a verb made in its folder.

    Attributes
    ----------
    result : object
        What it came to; each verb says of what type. The files hold it, too.
    details : dict
        What the event log is told of it and no file may hold: seconds, for instance.
    """

    result: T_co
    details: dict[str, Any] = field(default_factory=dict)
